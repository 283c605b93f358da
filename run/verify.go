package run

import (
	"context"
	"encoding/json"
	"fmt"

	"matrix"
)

// Written is a shard of a run as it is found.
type Written struct {
	Ledger  matrix.Ledger
	Outputs map[matrix.Status]Output // of each end; one that is missing holds nothing
	Tail    TailFunc                 // nil leaves unchecked what stands after the checkpoints of the outputs
}

// Output reads an output back: f gets each line with its place, in order.
type Output func(f func(place matrix.Place, line []byte) error) error

// Audit is what a Verify found.
type Audit struct {
	Tasks    int64    `json:"tasks"` // rows times trials
	Done     int64    `json:"done"`
	Dropped  int64    `json:"dropped"`
	Expanded int64    `json:"expanded"`
	Failed   int64    `json:"failed"`
	Children int64    `json:"children,omitempty"` // of all these, tasks that others became
	Pending  int64    `json:"owed"`
	Unused   int64    `json:"unused"` // never fed: there was enough (Until)
	Tail     int64    `json:"tail"`   // lines that a crash left past the ledger's end: the next run cuts them off
	OK       bool     `json:"ok"`
	Culprits []string `json:"culprits"` // the first 100
	Faults   int64    `json:"faults"`   // all of them

	// Changed says that the dataset is not the one that was fed, which is a fault of
	// its own, and Grew that rows were appended to it, and no more. Unproven says
	// that the run went on over other rows (Config.AcceptChanges): ledger and
	// outputs alone were compared.
	Changed  bool `json:"changed,omitempty"`
	Grew     bool `json:"grew,omitempty"`
	Unproven bool `json:"unproven,omitempty"`

	// Grows says that rows may still come (matrix.Grower): the run has not ended,
	// and this speaks of those that there are.
	Grows bool `json:"grows,omitempty"`

	retrying bool  // failed tasks are being tried again
	met      bool  // there was enough (Until)
	skipped  int64 // tasks of rows before the feeder's position that were not fed
	kin      kinship
}

func (a *Audit) report(format string, args ...any) {
	a.Faults++
	if len(a.Culprits) < 100 {
		a.Culprits = append(a.Culprits, fmt.Sprintf(format, args...))
	}
}

// Verify reads the dataset, the ledgers and the outputs of a run's shards, and
// proves that each task of each row is exactly one of done, dropped, expanded, failed and
// pending, and that each that has ended stands in its output exactly once, where the ledger
// says, unless that says that it stands nowhere. What it needs in memory does not grow with the run. Nothing may write
// meanwhile.
//
// A run that went on over another dataset (Config.AcceptChanges) has tasks
// whose rows may be gone: of it, only ledgers and outputs are compared.
func Verify(ctx context.Context, source matrix.Source, trials int, shards []Written) (*Audit, error) {
	a := &Audit{Culprits: []string{}}
	all := make([]matrix.Ledger, len(shards))
	for k, s := range shards {
		all[k] = s.Ledger
	}
	ledger := Ledgers(trials, all...)
	var fed feedCheckpoint
	if err := readCheckpoint(ctx, ledger, checkpointFeed, &fed); err != nil {
		return nil, err
	}
	var roots int64
	for _, s := range shards {
		var t Totals
		if err := readCheckpoint(ctx, s.Ledger, checkpointTotals, &t); err != nil {
			return nil, err
		}
		roots += t.Settled() - t.Children
	}
	live, _, err := liveTasks(ctx, ledger, roots+int64(ledger.Counts().Live) > fed.Tasks)
	if err != nil {
		return nil, err
	}
	fed.reach(roots + live)
	var until untilCheckpoint
	if err := readCheckpoint(ctx, ledger, checkpointUntil, &until); err != nil {
		return nil, err
	}
	a.met = until.Met
	a.Unproven = fed.Changed
	if err := a.dataset(ctx, source, ledger, &fed); err != nil {
		return nil, err
	}
	var entries int64
	written := make([]map[matrix.Status]int64, len(shards)) // tasks that stand in the outputs of each
	for k, s := range shards {
		written[k] = map[matrix.Status]int64{}
		n, err := a.ledger(ctx, s.Ledger, fed, written[k], func(id string) bool { return ShardOf(id, trials, len(shards)) == k })
		if err != nil {
			return nil, err
		}
		entries += n
	}
	a.Tasks = entries
	a.Children = a.kin.children
	entries -= a.Children
	found, err := a.rows(ctx, source, trials, ledger, fed)
	if err != nil {
		return nil, err
	}
	if !fed.Changed && found != entries {
		a.report("the ledger has %d tasks, and %d of them belong to rows of the dataset", entries, found)
	}
	if a.skipped != fed.Unused && !fed.Changed {
		a.report("the feeder left out %d tasks of rows of which there was enough, and the ledger does not know %d", fed.Unused, a.skipped)
	}
	if entries != fed.Tasks {
		a.report("the feeder counted %d tasks, and the ledger has %d", fed.Tasks, entries)
	}
	if err := a.unwritten(ctx, shards); err != nil {
		return nil, err
	}
	for k, s := range shards {
		if err := a.outputs(ctx, ledger, s, written[k]); err != nil {
			return nil, err
		}
	}
	a.kinsmen()
	if _, ok := source.(matrix.Grower); ok && !fed.AllFed {
		n, err := source.Count(ctx)
		if err != nil {
			return nil, err
		}
		a.Grows = n < 0
	}
	a.OK = a.Faults == 0
	return a, nil
}

// outputs checks those of a shard, which are to hold as many tasks as want says.
func (a *Audit) outputs(ctx context.Context, ledger matrix.Ledger, s Written, want map[matrix.Status]int64) (err error) {
	if _, a.retrying, err = RetryOf(ctx, s.Ledger); err != nil {
		return err
	}
	for _, status := range matrix.Ends() {
		read := s.Outputs[status]
		if read == nil {
			read = func(func(matrix.Place, []byte) error) error { return nil }
		}
		if err := a.output(ctx, ledger, s.Ledger, read, status, want[status]); err != nil {
			return err
		}
		if s.Tail == nil {
			continue
		}
		checkpoint, err := s.Ledger.Checkpoint(ctx, sinkCheckpoint(status))
		if err != nil {
			return err
		}
		if err := s.Tail(status, checkpoint, func([]byte) error { return nil }); err != nil {
			a.report("%v", err)
		}
	}
	return nil
}

// dataset compares the dataset with the one that was fed.
func (a *Audit) dataset(ctx context.Context, source matrix.Source, ledger matrix.Ledger, fed *feedCheckpoint) error {
	now, err := source.Fingerprint()
	if err != nil {
		return err
	}
	was, err := ledger.Checkpoint(ctx, checkpointDataset)
	if err == nil && was != nil && string(was) != now && !grown(source, was, fed) {
		var why error
		a.Changed = true
		a.Grew, why = extends(source, string(was))
		a.report("the dataset is not the one that was fed; then: %s; now: %s", was, now)
		if why != nil {
			a.report("%v", why)
		}
	}
	return err
}

// ledger counts the tasks that the ledger of a shard has, under their fates, and those
// that are to stand in an output in written, too.
func (a *Audit) ledger(ctx context.Context, ledger matrix.Ledger, fed feedCheckpoint, written map[matrix.Status]int64, own func(id string) bool) (entries int64, err error) {
	var pending int64
	err = ledger.Walk(ctx, func(id string, f matrix.Fate) error {
		entries++
		if isChild(id) {
			a.kin.children++
		}
		if nowhere(f) {
			a.kin.nowhere = true
		}
		if !nowhere(f) {
			written[f.Status]++
		}
		switch f.Status {
		case matrix.Done:
			a.Done++
		case matrix.Dropped:
			a.Dropped++
		case matrix.Expanded:
			a.Expanded++
		case matrix.Failed:
			a.Failed++
		default:
			pending++
			if t, err := readable(ctx, ledger, id); err != nil {
				a.report("%v", err)
			} else if err := a.pending(ctx, ledger, t); err != nil {
				return err
			}
		}
		if !own(id) {
			a.report("%s: the ledger of another shard has it", NameOf(id))
		}
		if !fed.Repaired && fed.Pass == 0 && (f.Row > fed.Next.Row || f.Row == fed.Next.Row && fed.Trial == 0) {
			a.report("%s: the ledger has it at row %d, which was never fed", NameOf(id), f.Row)
		}
		return nil
	})
	if live := int64(ledger.Counts().Live); err == nil && live != pending {
		a.report("the ledger has %d tasks that are pending, and %d wait in a queue", pending, live)
	}
	a.Pending += pending
	return entries, err
}

// readable reads the log of a task that is pending.
func readable(ctx context.Context, ledger matrix.Ledger, key string) (*matrix.Task, error) {
	m, ok, err := ledger.Peek(ctx, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s: the ledger has it as pending, and it waits for nobody", NameOf(key))
	}
	log, err := m.Log(ctx, 0)
	if err != nil {
		return nil, err
	}
	return Decode(key, log)
}

// rows looks up every task of the dataset: what was fed must be in the ledger,
// and what was not is pending too.
func (a *Audit) rows(ctx context.Context, source matrix.Source, trials int, ledger matrix.Ledger, fed feedCheckpoint) (known int64, err error) {
	var some []matrix.Row // looked up together
	tasks := idLookup{ledger: ledger, trials: trials}
	check := func() error {
		if err := tasks.ask(ctx, some); err != nil {
			return err
		}
		for _, row := range some {
			if err := a.row(ctx, row, &tasks, fed, &known); err != nil {
				return err
			}
		}
		some = some[:0]
		return nil
	}
	err = source.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		if _, look := fed.tasksOf(row, trials); look == 0 {
			return a.row(ctx, row, &tasks, fed, &known)
		}
		row.Item = matrix.Value{}
		if some = append(some, row); len(some) < feedBatch {
			return nil
		}
		return check()
	})
	if err == nil {
		err = check()
	}
	return known, err
}

// tasksOf says how many tasks of a row were fed, and how many the ledger may know.
func (c *feedCheckpoint) tasksOf(row matrix.Row, trials int) (fed, look int) {
	switch {
	case row.Number < c.Next.Row && c.Again:
		fed = c.Pass + 1
	case c.Again:
		fed = c.Pass
	case row.Number < c.Next.Row:
		fed = trials
	case row.Number == c.Next.Row:
		fed = c.Trial
	}
	switch {
	case c.Repaired:
		return fed, trials
	case c.Changed:
		return fed, 0
	}
	return fed, fed
}

// toCome is how many tasks of a row are still to be fed, of which so many were. Of rows
// that may come again only the first is sure to come.
func (c *feedCheckpoint) toCome(fed, trials int) int64 {
	if c.Again {
		return int64(max(0, 1-fed))
	}
	return int64(trials - fed)
}

// unfed counts tasks that were not fed.
func (a *Audit) unfed(n int64) {
	a.Tasks += n
	if a.met {
		a.Unused += n
	} else {
		a.Pending += n
	}
}

// row looks up the tasks of a row.
func (a *Audit) row(ctx context.Context, row matrix.Row, tasks *idLookup, fed feedCheckpoint, known *int64) error {
	fedTrials, look := fed.tasksOf(row, tasks.trials)
	if !fed.Repaired {
		a.unfed(fed.toCome(fedTrials, tasks.trials))
	}
	if look == 0 {
		return nil
	}
	id, err := tasks.name(ctx, row)
	if err != nil {
		return err
	}
	for trial := range look {
		task := matrix.TaskID(id, trial)
		switch f, err := tasks.of(ctx, task); {
		case err != nil:
			return err
		case f.Status != "" && f.Row == row.Number:
			*known++
		case trial >= fedTrials:
			a.unfed(min(1, fed.toCome(trial, tasks.trials)))
		case a.skipped < fed.Unused:
			a.skipped++
			a.Unused++
			a.Tasks++
		case !fed.Changed:
			a.report("%s (%s): was fed, and the ledger does not know it: lost", task, row.Address)
			a.Tasks++
		}
	}
	return nil
}

// output checks that each line of an output is where the ledger says, and that
// there are as many as the ledger says. A task that stood there twice would be
// at a second place, which the ledger does not name.
//
// After the last settled line there may be a tail that a crash left between
// output and ledger: its tasks are pending, and the next run cuts it off.
func (a *Audit) output(ctx context.Context, ledger, own matrix.Ledger, read Output, status matrix.Status, want int64) error {
	name := folderOf(status)
	var settled int64
	var moved moves // told last: what is lost explains them
	tail := func() bool { return settled == want && (a.Pending > 0 || a.retrying) }
	err := read(func(p matrix.Place, line []byte) error {
		at := fmt.Sprintf("%s part %d line %d", name, p.Part, p.Line+1)
		var t written
		if err := json.Unmarshal(line, &t); err != nil {
			if tail() {
				a.Tail++
			} else {
				a.report("%s: not a task: %v", at, err)
			}
			return nil
		}
		key := t.key()
		f, err := fate(ctx, ledger, key)
		switch {
		case err != nil:
			return err
		case f.Status == "":
			a.report("%s: %s is not in the ledger", at, t.ID)
		case f.Status == matrix.Pending && tail():
			role, err := roleOf(ctx, ledger, key)
			if err != nil {
				return err
			}
			if role == sinkRole {
				a.Tail++
			} else {
				a.report("%s: %s is finished there, and the ledger, which must be older, has it as pending", at, t.ID)
			}
		case f.Status == status && a.retrying && tail():
			a.Tail++ // it stays where it is, and was being written again
		case f.Status != status:
			a.report("%s: the ledger says that %s is %s", at, t.ID, f.Status)
		case f.Part != p.Part || f.Line != p.Line:
			moved.add(name, t.ID, p, matrix.Place{Part: f.Part, Line: f.Line})
		default:
			settled++
			return a.became(ctx, ledger, &t)
		}
		return nil
	})
	if err != nil {
		if tail() {
			a.Tail++
		} else {
			a.report("%s: %v", name, err)
		}
	}
	if settled != want {
		a.report("%s: %d tasks stand where the ledger says, of %d that are %s", name, settled, want, status)
		if err := a.missing(ctx, own, name, read, status); err != nil {
			return err
		}
	}
	moved.end()
	for _, c := range moved.culprits {
		a.report("%s", c)
	}
	a.Faults += moved.n - int64(len(moved.culprits))
	return nil
}

// nowhere reports whether a task has ended of which no output holds anything, as was
// asked for.
func nowhere(f matrix.Fate) bool {
	return f.Part < 0 && (f.Status == matrix.Dropped || f.Status == matrix.Expanded)
}

// folderOf is what people call the output of a status.
func folderOf(s matrix.Status) string {
	if s == matrix.Done {
		return "data"
	}
	return string(s)
}

// moves are lines that stand elsewhere than the ledger says: those that follow each
// other, and are as many lines off, are one.
type moves struct {
	n        int64
	culprits []string // the first 100

	output, id string
	at, want   matrix.Place // of the first line of those that are being gathered
	lines      int          // of these; 0: none are
}

func (m *moves) add(output, id string, at, want matrix.Place) {
	if m.lines > 0 && at.Part == m.at.Part && at.Line == m.at.Line+m.lines && want.Part == m.want.Part && want.Line == m.want.Line+m.lines {
		m.lines++
		return
	}
	m.end()
	m.output, m.id, m.at, m.want, m.lines = output, id, at, want, 1
}

// end notes what was gathered.
func (m *moves) end() {
	if m.lines > 0 {
		if m.n++; m.n <= 100 {
			m.culprits = append(m.culprits, m.String())
		}
	}
	m.lines = 0
}

func (m *moves) String() string {
	at := fmt.Sprintf("%s part %d line %d", m.output, m.at.Part, m.at.Line+1)
	if m.lines == 1 {
		return fmt.Sprintf("%s: by the ledger %s stands at part %d line %d: moved or doubled", at, m.id, m.want.Part, m.want.Line+1)
	}
	where := fmt.Sprintf("by the ledger from part %d line %d on", m.want.Part, m.want.Line+1)
	if off := max(m.at.Line-m.want.Line, m.want.Line-m.at.Line); m.at.Part == m.want.Part && off == 1 {
		where = "one line off"
	} else if m.at.Part == m.want.Part {
		where = fmt.Sprintf("%d lines off", off)
	}
	return fmt.Sprintf("%s: %d lines, the first of them %s, stand %s: moved or doubled", at, m.lines, m.id, where)
}

// missing names the tasks that should stand in an output and do not, or that
// stand there more than once. It is for outputs that are known to be at fault,
// and remembers all ids.
func (a *Audit) missing(ctx context.Context, ledger matrix.Ledger, name string, read Output, status matrix.Status) error {
	times := map[string]int{}
	_ = read(func(_ matrix.Place, line []byte) error { // what cannot be read has been told
		times[lineKey(line)]++
		return nil
	})
	return ledger.Walk(ctx, func(id string, f matrix.Fate) error {
		if n := times[id]; f.Status == status && !nowhere(f) && n != 1 {
			if n == 0 {
				a.report("%s: %s is %s by the ledger and does not stand there: lost", name, NameOf(id), status)
			} else {
				a.report("%s: %s stands there %d times: doubled", name, NameOf(id), n)
			}
		}
		return nil
	})
}
