package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"matrix"
)

// feedCheckpoint says how far the dataset has been fed. It is committed with what it
// counts.
type feedCheckpoint struct {
	Next   matrix.Position `json:"next"`  // where reading goes on
	Trial  int             `json:"trial"` // trials of the row at Next that have been fed
	Tasks  int64           `json:"tasks"` // tasks fed
	AllFed bool            `json:"ended"` // there is no row at Next

	Version int  `json:"version,omitempty"` // of the rules that the run was begun under: see version
	Trials  int  `json:"trials"`            // of each row
	Shards  int  `json:"shards,omitempty"`  // of the run; 0 for 1
	Changed bool `json:"changed,omitempty"` // the dataset was changed meanwhile, and that was accepted
	Grows   bool `json:"grows,omitempty"`   // the dataset was a matrix.Grower in the last session

	Again  bool  `json:"again,omitempty"`  // rows come again: see Until.Again
	Pass   int   `json:"pass,omitempty"`   // then: the trial of the row at Next that is fed next
	Unused int64 `json:"unused,omitempty"` // tasks of rows before Next that were not fed: of their kind there was enough

	// Repaired says that the ledger may know tasks of rows from Next on: it was made
	// anew (Repair), or is ahead of the checkpoint. Those that it does not know are fed.
	Repaired bool `json:"repaired,omitempty"`
}

// reach makes the checkpoint tell of all tasks that the ledgers know. A crash may have
// left some without it: checkpoints are never ahead of tasks, but may be behind. The
// tasks of a batch go to their shards, and then the checkpoint to the first.
func (c *feedCheckpoint) reach(known int64) {
	if known > c.Tasks && !c.AllFed {
		c.Repaired, c.Tasks = true, known
	}
}

// version is that of new runs. In runs of version 0 no default limits a task's
// rounds, and in those before versionDrops a task that stop ends is done.
const (
	version      = 2
	versionDrops = 2
)

// A commit of the feeder ends at so many tasks, or bytes of their records.
const (
	feedBatch = 256
	feedBytes = 8 << 20
)

// Feed turns rows into tasks of all shards while there is credit, until there are
// no more rows, ctx ends or the run is stopped. One process of a run does so.
func (r *Run) Feed(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.quitting, cancel)()
	if err := r.begin(ctx); err != nil {
		return err
	}
	select {
	case <-r.retriedAll: // what has failed goes first
	case <-ctx.Done():
		return nil
	}
	if r.fed.AllFed {
		return nil
	}
	if r.met.Load() {
		return nil
	}
	f := &feeder{r: r, checkpoint: r.fed, known: idLookup{ledger: r.ledger(), trials: r.cfg.Trials}, fed: int(r.fed.Next.Row)}
	err := f.all(ctx)
	var broken *TooManyFailed
	switch {
	case errors.Is(err, errNoCredit):
		return nil // ctx ended: what is in the batch is read again
	case ctx.Err() != nil:
		return nil
	case errors.As(err, &broken):
		r.Halt(broken)
		return nil
	case err != nil:
		return fmt.Errorf("dataset: %w", err)
	}
	if err := r.sameDataset(ctx); err != nil { // what was read may be the end of another
		return err
	}
	f.checkpoint.AllFed = true
	if err := f.flush(ctx); err != nil {
		return err
	}
	r.total.Store(f.checkpoint.Tasks + f.checkpoint.Unused)
	r.unused.Store(f.checkpoint.Unused)
	r.allFed.Store(true)
	if r.goal != nil && r.goal.enough(r.Totals().Done, nil, true) {
		r.reached()
	}
	r.moved()
	return nil
}

// all feeds all rows; of a source that grows also those that come until it is closed.
func (f *feeder) all(ctx context.Context) error {
	for {
		err := f.r.cfg.Source.Rows(ctx, f.checkpoint.Next, func(row matrix.Row) error { return f.add(ctx, row) })
		if err == nil {
			err = f.feed(ctx)
		}
		if err == nil && f.again() {
			continue
		}
		g, grows := f.r.cfg.Source.(matrix.Grower)
		if err != nil || !grows {
			return err
		}
		if f.checkpoint != f.r.fed { // what was read does not wait for what may come
			if err := f.flush(ctx); err != nil {
				return err
			}
		}
		f.r.waiting.Store(true)
		more, err := g.More(ctx, f.checkpoint.Next)
		if err != nil {
			return err
		}
		if f.r.waiting.Store(false); !more {
			return nil
		}
	}
}

// again begins the next pass over the rows, where they are to come again.
func (f *feeder) again() bool {
	c := &f.checkpoint
	if !c.Again || c.Pass+1 >= f.r.cfg.Trials || f.fed == 0 {
		return false
	}
	c.Pass, c.Next, f.fed = c.Pass+1, matrix.Position{}, 0
	f.r.pass.Store(int64(c.Pass))
	return true
}

type feeder struct {
	r          *Run
	rows       []matrix.Row   // read and not yet fed
	items      int            // bytes of these
	known      idLookup       // of their tasks
	checkpoint feedCheckpoint // after the batch
	batch      []matrix.Seed
	bytes      int // of its records
	fed        int // tasks of this pass over the rows; of earlier sessions as many as there could be
}

var errNoCredit = errors.New("stopped while waiting for credit")

// add feeds a row, together with those after it that there is room for: what the
// ledger knows of them is asked for once.
func (f *feeder) add(ctx context.Context, row matrix.Row) error {
	f.rows = append(f.rows, row)
	f.items += len(row.Item.Raw())
	if n := len(f.rows) * f.r.cfg.Trials; n < min(f.free(), feedBatch)-len(f.batch) && f.bytes+f.items < feedBytes {
		return nil
	}
	return f.feed(ctx)
}

// feed feeds the rows that were read.
func (f *feeder) feed(ctx context.Context) error {
	if err := f.known.ask(ctx, f.rows); err != nil {
		return err
	}
	for _, s := range f.batch {
		f.known.add(s)
	}
	for _, row := range f.rows {
		if err := f.row(ctx, row); err != nil {
			return err
		}
	}
	clear(f.rows)
	f.rows, f.items = f.rows[:0], 0
	return nil
}

// row feeds the trials of a row that have not been fed.
func (f *feeder) row(ctx context.Context, row matrix.Row) error {
	if err := row.Priority.Check(); err != nil {
		row.Err, row.Priority = cmp.Or(row.Err, err), matrix.Normal
	}
	id, cause, err := f.identify(ctx, row)
	if err != nil {
		return err
	}
	kind := ""
	if cause == "" {
		if kind, err = f.r.goal.kind(row.Item); err != nil {
			cause = "until.per: " + err.Error()
		}
	}
	if f.checkpoint.Again {
		err = f.trial(ctx, row, id, f.checkpoint.Pass, kind, cause)
	} else {
		for ; f.checkpoint.Trial < f.r.cfg.Trials && err == nil; f.checkpoint.Trial++ {
			err = f.trial(ctx, row, id, f.checkpoint.Trial, kind, cause)
		}
	}
	if err != nil {
		return err
	}
	f.checkpoint.Next, f.checkpoint.Trial = row.Next, 0
	return nil
}

// trial feeds a trial of a row, unless there is enough of its kind.
func (f *feeder) trial(ctx context.Context, row matrix.Row, id string, trial int, kind, cause string) error {
	if f.checkpoint.Repaired {
		if known, err := f.known.of(ctx, matrix.TaskID(id, trial)); err != nil || known.Status != "" {
			f.fed++
			return err
		}
	}
	if f.checkpoint.Pass > 0 && cause != "" { // it has failed once
		f.checkpoint.Unused++
		return nil
	}
	if room, err := f.room(ctx, kind, cause != ""); err != nil {
		return err
	} else if !room {
		f.checkpoint.Unused++
		return nil
	}
	seed, err := f.r.seed(row, id, trial, cause)
	if err == nil && cause == "" {
		err = f.r.goal.begin(kind)
	}
	if err != nil {
		if fault := f.flush(ctx); fault != nil {
			return fault
		}
		return err
	}
	f.batch = append(f.batch, seed)
	last := f.batch[len(f.batch)-1]
	f.known.add(last)
	f.bytes += len(last.Record)
	f.checkpoint.Tasks++
	f.fed++
	return nil
}

// identify names the row's task: by its id, or by its address where it has none
// or another row's task has that name already; then cause says why it fails.
func (f *feeder) identify(ctx context.Context, row matrix.Row) (id, cause string, err error) {
	if row.Err != nil {
		cause = row.Err.Error()
	}
	id, err = f.known.name(ctx, row)
	if row.ID != "" && id != rowName(row.ID) {
		cause = fmt.Sprintf("the id %q is already that of an earlier row", row.ID)
		if f.r.cfg.Trials > 1 {
			cause = fmt.Sprintf("the id %q, or %q of one of its trials, is already that of an earlier row or trial", row.ID, matrix.TaskID(row.ID, 1))
		}
	}
	return id, cause, err
}

// idLookup is what a ledger knows of the tasks of some rows.
type idLookup struct {
	ledger interface {
		Lookup(ctx context.Context, ids ...string) ([]matrix.Fate, error)
	}
	trials int
	fates  map[string]matrix.Fate // that were asked for; of an unknown task, too
}

// ask forgets what was known and looks rows up, under their first names.
func (o *idLookup) ask(ctx context.Context, rows []matrix.Row) error {
	o.fates = make(map[string]matrix.Fate, len(rows)*o.trials)
	ids := make([]string, 0, len(rows)*o.trials)
	for _, row := range rows {
		for id := range names(row) {
			for trial := range o.trials {
				ids = append(ids, matrix.TaskID(id, trial))
			}
			break
		}
	}
	if len(ids) == 0 {
		return nil
	}
	fates, err := o.ledger.Lookup(ctx, ids...)
	for i := range fates {
		o.fates[ids[i]] = fates[i]
	}
	return err
}

// of is the fate of a task.
func (o *idLookup) of(ctx context.Context, task string) (matrix.Fate, error) {
	if f, ok := o.fates[task]; ok {
		return f, nil
	}
	f, err := fate(ctx, o.ledger, task)
	if err == nil {
		o.fates[task] = f
	}
	return f, err
}

// add notes a task that is about to be seeded.
func (o *idLookup) add(s matrix.Seed) {
	o.fates[s.Task] = matrix.Fate{Status: matrix.Pending, Row: s.Row, Part: -1}
}

// name names a row: see name.
func (o *idLookup) name(ctx context.Context, row matrix.Row) (string, error) {
	return name(row, o.trials, func(task string) (int64, bool, error) {
		f, err := o.of(ctx, task)
		return f.Row, f.Status != "", err
	})
}

// name finds the first name of a row of which no trial's task belongs to
// another row. owner says whose row a task is, if there is such a task. It
// finds the same name while the row is fed and ever after.
func name(row matrix.Row, trials int, owner func(task string) (row int64, ok bool, err error)) (string, error) {
	for id := range names(row) {
		free := true
		for trial := 0; trial < trials && free; trial++ {
			other, ok, err := owner(matrix.TaskID(id, trial))
			if err != nil {
				return "", err
			}
			free = !ok || other >= row.Number
		}
		if free {
			return id, nil
		}
	}
	panic("names has no end")
}

// names gives the names that a row's task may have, the best first, without
// end: somebody may have used our address as an id.
func names(row matrix.Row) iter.Seq[string] {
	return func(yield func(string) bool) {
		if row.ID != "" && !yield(rowName(row.ID)) {
			return
		}
		for id := rowName(row.Address); yield(id); id += "'" {
		}
	}
}

// free is how many rows' tasks there is room for: as many are open at most as may be
// under way, and none is fed while children are to begin.
func (f *feeder) free() int {
	if f.r.expanding.Load() > 0 {
		return 0
	}
	return min(f.r.free(), f.r.cfg.Live-f.r.open())
}

// room waits until one more task of a kind may be live, and commits the batch when it is
// full or nothing more may join it. It is false where there is enough of the kind.
// fails says that the task is to fail at once.
func (f *feeder) room(ctx context.Context, kind string, fails bool) (bool, error) {
	for {
		if !fails && f.r.full(kind) {
			return false, nil
		}
		free := f.free() - len(f.batch)
		if !fails {
			free = min(free, f.r.wanted(kind, len(f.batch)))
		}
		if free > 0 && len(f.batch) < feedBatch && f.bytes < feedBytes {
			return true, nil
		}
		if len(f.batch) > 0 {
			if err := f.flush(ctx); err != nil {
				return false, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return false, errNoCredit
		case <-f.r.credit:
		}
	}
}

func (f *feeder) flush(ctx context.Context) error {
	checkpoint, err := json.Marshal(f.checkpoint)
	if err != nil {
		return err
	}
	checkpoints := map[string][]byte{checkpointFeed: checkpoint}
	if len(f.r.shards) == 1 {
		err = f.seed(ctx, f.r.shards[0], f.batch, checkpoints)
	} else if err = f.spread(ctx); err == nil {
		_, err = f.r.leader().Seed(ctx, nil, checkpoints)
	}
	if err != nil {
		return err
	}
	f.r.notifyFed(f.batch)
	clear(f.batch)
	f.batch, f.bytes = f.batch[:0], 0
	f.r.fed = f.checkpoint
	return nil
}

// spread seeds each shard with its part of the batch, all at once.
func (f *feeder) spread(ctx context.Context) error {
	shards := f.r.shards
	parts := make([][]matrix.Seed, len(shards))
	for _, s := range f.batch {
		k := ShardOf(s.Task, f.r.cfg.Trials, len(shards))
		parts[k] = append(parts[k], s)
	}
	errs := make([]error, len(shards))
	var all sync.WaitGroup
	for k, part := range parts {
		if len(part) > 0 {
			all.Go(func() { errs[k] = f.seed(ctx, shards[k], part, nil) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// seed seeds a shard. Tasks that it knew are those of the same rows: a crash came
// between them and their checkpoint, or the answer of an earlier try was lost.
func (f *feeder) seed(ctx context.Context, s *shard, seeds []matrix.Seed, checkpoints map[string][]byte) error {
	n, err := s.Store.Seed(ctx, seeds, checkpoints)
	if err != nil {
		return err
	}
	f.r.fedSum.Add(int64(n))
	if n == len(seeds) {
		return nil
	}
	ids := make([]string, len(seeds))
	for i := range seeds {
		ids[i] = seeds[i].Task
	}
	fates, err := s.Store.Lookup(ctx, ids...)
	if err != nil {
		return err
	}
	for i, x := range fates {
		if seed := &seeds[i]; x.Status == "" || x.Row != seed.Row {
			return fmt.Errorf("task %q of row %d was not seeded: the ledger has it at row %d: %w", seed.Task, seed.Row, x.Row, ErrDamaged)
		}
	}
	return nil
}

// rowName is what may name a row.
func rowName(s string) string {
	if isChild(s) {
		return "\uFFFD" + s[len(childPrefix):]
	}
	return s
}

// seed makes the task of a row and asks the router who begins. A task that
// cannot begin goes straight to the sink, failed.
//
// An error is a *TooManyFailed: the row is not to be fed.
func (r *Run) seed(row matrix.Row, id string, trial int, cause string) (matrix.Seed, error) {
	t := &matrix.Task{
		ID: matrix.TaskID(id, trial), Row: id, Trial: trial,
		Seed: taskSeed(r.cfg.Seed, id, trial), Item: row.Item, Priority: row.Priority, Fed: time.Now(),
	}
	d := matrix.FailBy(matrix.FaultRow, cause)
	switch b := row.Begun; {
	case cause != "":
	case b == nil:
		d = r.worker.start(t)
	default:
		if matrix.TaskID(b.Row, b.Trial) == id { // not a child, which is a row's own now
			t.Row, t.Trial = b.Row, b.Trial+trial
			t.Seed = taskSeed(r.cfg.Seed, t.Row, t.Trial)
		}
		t.Turns = slices.Clone(b.Turns)
		d = r.worker.ask(func(*matrix.Task) matrix.Decision { return matrix.To(row.Role) }, t)
	}
	if _, broken := r.begins.add("", d.Outcome); broken != nil {
		return matrix.Seed{}, broken
	}
	s := r.seedOf(t, d)
	s.Row = row.Number
	return s, nil
}

// seedOf is t as a queue is to have it, as d says.
func (r *Run) seedOf(t *matrix.Task, d matrix.Decision) matrix.Seed {
	s := matrix.Seed{Task: KeyOf(t)}
	s.Role, s.Priority = r.worker.lead(t, d)
	s.Record = encodeSeed(t)
	s.Sum = matrix.Sum(s.Record)
	r.worker.keep(&kept{key: s.Task, t: t, size: size(0, s.Record), sum: s.Sum}, s.Role)
	return s
}

// count finds out how many tasks there will be, for displays.
func (r *Run) count(ctx context.Context) {
	if n, err := r.cfg.Source.Count(ctx); err == nil && n >= 0 && !r.allFed.Load() {
		if r.goal != nil && r.goal.Again {
			r.total.Store(n)
			return
		}
		r.total.Store(n * int64(r.cfg.Trials))
	}
}

// checkDataset compares the dataset with the one the run began with. Rows may
// have joined one that has changed and was accepted: it is read on.
func (r *Run) checkDataset(ctx context.Context) error {
	now, err := r.cfg.Source.Fingerprint()
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	was, err := r.leader().Checkpoint(ctx, checkpointDataset)
	if err != nil {
		return err
	}
	changed := was != nil && string(was) != now
	if changed && !grown(r.cfg.Source, was, &r.fed) {
		grew, why := extends(r.cfg.Source, string(was))
		stuck := r.readsOn(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		why = cmp.Or(why, stuck)
		if !r.cfg.AcceptChanges || stuck != nil {
			return &DatasetChanged{Then: string(was), Now: now, Grew: grew && why == nil, Why: why, Stuck: stuck != nil}
		}
		r.fed.Changed = r.fed.Changed || !grew
	}
	if r.cfg.OtherRows && r.fed.Tasks > 0 && !r.fed.Changed {
		r.fed.Changed, changed = true, true
	}
	if r.fed.AllFed && r.cfg.AcceptChanges { // a larger limit makes more rows, too
		r.fed.AllFed = false
		if r.fed.Again { // from the first trials on, for rows that are new
			r.fed.Pass, r.fed.Next, r.fed.Unused, r.fed.Repaired = 0, matrix.Position{}, 0, true
			r.pass.Store(0)
			r.unused.Store(0)
		}
		r.allFed.Store(false)
		r.total.Store(-1)
		changed = true
	}
	if _, grows := r.cfg.Source.(matrix.Grower); r.fed.Grows != grows && !r.fed.AllFed {
		r.fed.Grows, changed = grows, true
	}
	if changed || was == nil {
		r.dataset = now
	}
	return nil
}

// readsOn makes sure that the dataset can be read where reading is to go on.
func (r *Run) readsOn(ctx context.Context) error {
	enough := errors.New("enough")
	err := r.cfg.Source.Rows(ctx, r.fed.Next, func(matrix.Row) error { return enough })
	if errors.Is(err, enough) {
		return nil
	}
	return err
}

// extends reports whether a dataset is the one that had the fingerprint was,
// with rows appended.
func extends(s matrix.Source, was string) (bool, error) {
	x, ok := s.(matrix.Extender)
	if !ok {
		return false, nil
	}
	return x.Extends(was)
}

// grown reports whether a source that grows, or did in the last session, is the one
// that had the fingerprint was, and has not been fed to its end.
func grown(s matrix.Source, was []byte, fed *feedCheckpoint) bool {
	if _, grows := s.(matrix.Grower); !grows && !fed.Grows || fed.AllFed {
		return false
	}
	grew, err := extends(s, string(was))
	return grew && err == nil
}

// sameDataset makes sure that the dataset is still the one that this session
// began with. Of one that has grown it notes what it has become.
func (r *Run) sameDataset(ctx context.Context) error {
	now, err := r.cfg.Source.Fingerprint()
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	was, err := r.leader().Checkpoint(ctx, checkpointDataset)
	switch {
	case err != nil || was == nil || string(was) == now:
	case grown(r.cfg.Source, was, &r.fed):
		_, err = r.leader().Seed(ctx, nil, map[string][]byte{checkpointDataset: []byte(now)})
	default:
		err = &DatasetChanged{Then: string(was), Now: now, Read: true}
	}
	return err
}

// begin notes which dataset is fed, and that there may be more of it.
func (r *Run) begin(ctx context.Context) error {
	if r.dataset == "" {
		return nil
	}
	fed, err := json.Marshal(r.fed)
	if err != nil {
		return err
	}
	_, err = r.leader().Seed(ctx, nil, map[string][]byte{checkpointDataset: []byte(r.dataset), checkpointFeed: fed})
	return err
}
