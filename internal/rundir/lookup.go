package rundir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/internal/near"
	"matrix/internal/printable"
	"matrix/local"
	"matrix/run"
	"matrix/spec"
)

// Record is a task as it was found.
type Record struct {
	Task  *matrix.Task
	Where string          // data/part-00000.jsonl:18, lines from 1; empty for a task under way
	Live  *matrix.Message // set for a task under way
}

// OpenOutput opens a run's folder to read tasks. It asks for no more than part
// files: a folder that has lost its config or its state can still be read, and a
// run that is under way as far as it is finished. A folder that is not one is a
// spec.UsageError. The caller closes it.
func OpenOutput(ctx context.Context, dir string) (*Dir, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, spec.Usagef("%s: no such folder; give the folder of a run, such as %s", dir, runOf(dir))
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, spec.Usagef("%s is a file; give the folder of a run, such as %s", dir, runOf(dir))
	}
	d := &Dir{Path: dir}
	if _, is, err := Elsewhere(dir); err != nil || is {
		return d, errors.Join(err, d.inspect(ctx))
	}
	if _, err := os.Stat(filepath.Join(dir, StateDir)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, DataDir)); err != nil {
			return nil, spec.Usagef("%s is not the folder of a run: it has neither %s nor %s%s", dir, StateDir, DataDir, runsIn(dir))
		}
		return d, nil
	}
	return d, d.inspect(ctx)
}

// inspect opens the ledger where there is one that can be read now. Without it tasks
// are looked for in the part files alone.
func (d *Dir) inspect(ctx context.Context) error {
	if d.looked {
		return nil
	}
	d.looked = true
	_, elsewhere, err := Elsewhere(d.Path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.path(StateDir)); errors.Is(err, fs.ErrNotExist) && !elsewhere {
		return nil
	}
	err = d.open(ctx)
	switch {
	case errors.Is(err, local.ErrLocked):
		d.busy = true
	case errors.As(err, new(*local.DamagedError)): // what is finished can be read
	case err != nil:
		return err
	}
	return nil
}

// Busy reports whether a process is using the state: tasks that are under way
// cannot be read.
func (d *Dir) Busy() bool { return d.busy }

// runsIn points at runs in the folders of dir.
func runsIn(dir string) string {
	found, _ := filepath.Glob(filepath.Join(dir, "*", DataDir))
	if len(found) == 0 || len(found) > 10 {
		return ""
	}
	for i := range found {
		found[i] = filepath.Dir(found[i])
	}
	return "; did you mean " + strings.Join(found, " or ") + "?"
}

// runOf is the folder of the run that a config, or a name in the place of a folder, may stand for.
func runOf(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if c, err := spec.Load(path, nil); err == nil {
		name = c.Run.Name
	}
	dir := filepath.Join("runs", name)
	if own, err := hasConfig(dir); err != nil || !own {
		return "runs/NAME"
	}
	return dir
}

// UnknownTask is the error for an id that the run does not have.
type UnknownTask struct {
	dir, id string
	busy    bool // only finished tasks are known
	unfed   bool // not all rows have been fed
	near    []string
}

func (e *UnknownTask) Error() string {
	msg := fmt.Sprintf("%s has no task %q", e.dir, e.id)
	if e.busy {
		msg = fmt.Sprintf("%s has no finished task %q, and a running process holds its state: a task that is still under way can be seen once the run has stopped", e.dir, e.id)
	} else if e.unfed {
		msg += "; not all rows have been fed yet"
	}
	if len(e.near) > 0 {
		near := make([]string, len(e.near))
		for i, id := range e.near {
			near[i] = printable.Line(id)
		}
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return msg
}

// Find looks a task up wherever it is. The error is an UnknownTask where the run
// does not have it.
func (d *Dir) Find(ctx context.Context, id string) (*Record, error) {
	if err := d.inspect(ctx); err != nil {
		return nil, err
	}
	near := &neighbours{id: id}
	if d.ledger == nil {
		return d.scan(ctx, id, near)
	}
	for key := range run.KeysOf(id) {
		fates, err := d.ledger.Lookup(ctx, key)
		switch {
		case err != nil:
			return nil, err
		case fates[0].Status == "":
		case fates[0].Status == matrix.Pending:
			return d.underWay(ctx, key)
		default:
			return d.at(ctx, fates[0], id)
		}
	}
	err := d.ledger.Walk(ctx, func(key string, _ matrix.Fate) error { return near.add(run.NameOf(key)) })
	if err != nil && !errors.Is(err, errFound) {
		return nil, err
	}
	return nil, &UnknownTask{dir: d.Path, id: id, unfed: d.unfed(ctx), near: near.found()}
}

// UnwrittenTask is the error for a task that has ended and of which nothing was
// written, as the config of the run says.
type UnwrittenTask struct {
	dir, id string
	status  matrix.Status
}

func (e *UnwrittenTask) Error() string {
	return fmt.Sprintf("task %q of %s is %s, and nothing was kept of it: the run has output.%s=none", e.id, e.dir, e.status, e.status)
}

// unfed reports whether rows of the dataset have not become tasks yet.
func (d *Dir) unfed(ctx context.Context) bool {
	begun, all, err := run.Fed(ctx, d.ledger)
	return err == nil && begun && !all
}

// at reads the line of a finished task, and no other.
func (d *Dir) at(ctx context.Context, fate matrix.Fate, id string) (*Record, error) {
	if fate.Part < 0 {
		return nil, &UnwrittenTask{dir: d.Path, id: id, status: fate.Status}
	}
	folder := OutputDir(fate.Status)
	all, err := d.parts(ctx, fate.Status)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(p partFile) bool { return p.n == fate.Part })
	if i < 0 {
		return nil, d.mismatch("the ledger says that task %q stands in part %d of %s, which is missing", id, fate.Part, folder)
	}
	var found *Record
	all[i].from = fate.Line
	err = d.readParts(ctx, all[i:i+1], func(l line) error {
		var err error
		if found, err = d.record(l); err == nil {
			err = errFound
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case found == nil || found.Task.ID != id:
		return nil, d.mismatch("the ledger says that task %q stands at line %d of %s, and it does not", id, fate.Line+1, all[i].path)
	}
	return found, nil
}

// mismatch is the error for a task that is not where it should be.
func (d *Dir) mismatch(format string, args ...any) error {
	return &DamagedError{Dir: d.Path, Part: true, Err: fmt.Errorf("%s: %w", d.Path, fmt.Errorf(format, args...))}
}

// underWay reads a task from the queue.
func (d *Dir) underWay(ctx context.Context, key string) (*Record, error) {
	m, ok, err := d.ledger.Peek(ctx, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, d.mismatch("the ledger has task %q as pending, and the queue does not hold it", run.NameOf(key))
	}
	log, err := m.Log(ctx, 0)
	if err != nil {
		return nil, err
	}
	t, err := run.Decode(key, log)
	if err != nil {
		return nil, err
	}
	return &Record{Task: t, Live: m}, nil
}

// Children are those of a task with an index below n, in order. One that has not
// begun, of which nothing was written, or that cannot be read now, is left out.
func (d *Dir) Children(ctx context.Context, t *matrix.Task, n int) (found []*Record, err error) {
	if err := d.inspect(ctx); err != nil {
		return nil, err
	}
	if d.ledger == nil {
		return d.scanChildren(ctx, t, n)
	}
	path := matrix.PathOf(t.ID, t.Row, t.Trial)
	for i := range min(n, t.Expanded) {
		key := run.ChildID(t.Row, t.Trial, append(path[:len(path):len(path)], i)...)
		fates, err := d.ledger.Lookup(ctx, key)
		if err != nil {
			return nil, err
		}
		var r *Record
		switch f := fates[0]; {
		case f.Status == "":
			continue
		case f.Status == matrix.Pending:
			r, err = d.underWay(ctx, key)
		default:
			r, err = d.at(ctx, f, run.NameOf(key))
		}
		if errors.As(err, new(*UnwrittenTask)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	return found, nil
}

// scanChildren reads the parts for the children of a task.
func (d *Dir) scanChildren(ctx context.Context, t *matrix.Task, n int) (found []*Record, err error) {
	index := func(r *Record) int {
		path := matrix.PathOf(r.Task.ID, r.Task.Row, r.Task.Trial)
		return path[len(path)-1]
	}
	for _, status := range matrix.Ends() {
		err := d.each(ctx, status, func(l line) error {
			if rest, ok := strings.CutPrefix(l.id(), t.ID+"/"); !ok || strings.Contains(rest, "/") {
				return nil
			}
			r, err := d.record(l)
			if err == nil && r.Task.Parent == t.ID && index(r) < n {
				found = append(found, r)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b *Record) int { return index(a) - index(b) })
	return found, nil
}

// scan reads the parts until it finds the task.
func (d *Dir) scan(ctx context.Context, id string, near *neighbours) (*Record, error) {
	var found *Record
	for _, status := range matrix.Ends() {
		err := d.each(ctx, status, func(l line) error {
			other := l.id()
			if other == id {
				var err error
				if found, err = d.record(l); err == nil {
					err = errFound
				}
				return err
			}
			_ = near.add(other) // full or not, the task may stand further on
			return nil
		})
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, &UnknownTask{dir: d.Path, id: id, busy: d.busy, near: near.found()}
}

// line is one line of a part file.
type line struct {
	where string // data/part-00000.jsonl:18
	raw   []byte
}

// id is the task's: the first member of the object, so that little is parsed.
func (l line) id() string {
	d := json.NewDecoder(bytes.NewReader(l.raw))
	open, _ := d.Token()
	if key, _ := d.Token(); open != json.Delim('{') || key != "id" {
		return ""
	}
	id, _ := d.Token()
	s, _ := id.(string)
	return s
}

// record is the task of a line, with the formats that its calls asked for.
func (d *Dir) record(l line) (*Record, error) {
	t, err := dataset.ParseTask(l.raw)
	if err != nil {
		return nil, d.mismatch("%s is not a finished task: %w", l.where, err)
	}
	dataset.RestoreFormats(d.path(FormatsDir), t)
	return &Record{Task: t, Where: l.where}, nil
}

// Ended are the tasks that have ended, however they did, as Tasks gives them. An error
// ends them.
func (d *Dir) Ended(ctx context.Context) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		for _, status := range matrix.Ends() {
			for r, err := range d.Tasks(ctx, status) {
				if err != nil {
					yield(nil, err)
					return
				}
				if !yield(r.Task, nil) {
					return
				}
			}
		}
	}
}

// Tasks are the finished tasks of a status, in the order of the output. An error
// ends them.
func (d *Dir) Tasks(ctx context.Context, status matrix.Status) iter.Seq2[*Record, error] {
	return d.TasksFrom(ctx, status, 0)
}

// TasksFrom is Tasks without the first n.
func (d *Dir) TasksFrom(ctx context.Context, status matrix.Status, n int64) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		err := d.inspect(ctx)
		if err == nil {
			err = d.each(ctx, status, func(l line) error {
				if n--; n >= 0 {
					return nil
				}
				r, err := d.record(l)
				if err == nil && !yield(r, nil) {
					err = errFound
				}
				return err
			})
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// each calls f for the lines of the finished tasks of a status, in order, until f
// returns errFound.
func (d *Dir) each(ctx context.Context, status matrix.Status, f func(line) error) error {
	all, err := d.parts(ctx, status)
	if err != nil {
		return err
	}
	return d.readParts(ctx, all, f)
}

// errFound ends a reading that has found what it looked for.
var errFound = errors.New("found")

// errTorn ends the reading of a part whose end is half written.
var errTorn = errors.New("torn")

// readParts calls f for the lines of part files, until f returns an error; errFound
// is not handed on. While the run is under way what stands at the end of a part
// may be half written, and is passed over.
func (d *Dir) readParts(ctx context.Context, files []partFile, f func(line) error) error {
	for _, p := range files {
		src, err := dataset.Open(dataset.Options{Paths: []string{p.path}, Skip: int64(p.from)})
		if err != nil {
			return err
		}
		name := place(p.path)
		var own error // of f, and of lines
		n := p.from
		err = src.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
			n++
			switch {
			case row.Err == nil:
				own = f(line{fmt.Sprintf("%s:%d", name, n), row.Item.Raw()})
			case d.busy:
				own = errTorn
			default:
				own = d.mismatch("%s:%d is not a finished task: %w", name, n, row.Err)
			}
			return own
		})
		switch {
		case errors.Is(own, errFound):
			return nil
		case errors.Is(own, errTorn):
		case own != nil:
			return own
		case err != nil && (ctx.Err() != nil || !d.busy):
			return err
		}
	}
	return nil
}

// partFile is a part of an output.
type partFile struct {
	n    int
	path string
	from int // the line at which what counts begins
}

// parts are those of an output that hold something, in order. Rows that wait to be
// tried again count where the ledger can be read, which says how many of them still
// stand there.
func (d *Dir) parts(ctx context.Context, status matrix.Status) ([]partFile, error) {
	all, err := partFiles(d.path(OutputDir(status)), "part-")
	if err == nil && d.busy {
		var open []partFile
		if open, err = openParts(d.path(OutputDir(status)), all); len(open) > 0 {
			all = append(all, open...)
			slices.SortFunc(all, func(a, b partFile) int { return a.n - b.n })
		}
	}
	if err != nil || d.ledger == nil {
		return all, err
	}
	aside, err := partFiles(d.path(OutputDir(status)), "retry-")
	if err != nil {
		return nil, err
	}
	all = append(aside, all...)
	for k, q := range d.queues {
		checkpoint, err := run.OutputCheckpoint(ctx, q, status)
		if err != nil {
			return nil, err
		}
		first, line := dataset.OutputStart(checkpoint, d.shard(k))
		all = slices.DeleteFunc(all, func(p partFile) bool { return p.n < first && d.shard(k).Has(p.n) })
		if i := slices.IndexFunc(all, func(p partFile) bool { return p.n == first }); i >= 0 {
			all[i].from = line
		}
	}
	return all, nil
}

// partFiles are the files in dir that hold something and are called part-00000
// or what else begins their name, in order.
func partFiles(dir, begin string) ([]partFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var parts []partFile
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), begin)
		digits, ext, _ := strings.Cut(digits, ".")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || ext != "jsonl" && ext != "jsonl.gz" && ext != "jsonl.zst" {
			continue
		}
		if info, err := e.Info(); err == nil && info.Size() == 0 {
			continue
		}
		parts = append(parts, partFile{n: n, path: filepath.Join(dir, e.Name())})
	}
	slices.SortFunc(parts, func(a, b partFile) int { return a.n - b.n })
	return parts, nil
}

// Rows is a pattern of the files with the finished tasks of the run in dir; empty
// where there are none.
func Rows(dir string) string {
	parts, _ := partFiles(filepath.Join(dir, DataDir), "part-")
	if len(parts) == 0 {
		return ""
	}
	_, ext, _ := strings.Cut(filepath.Base(parts[0].path), ".")
	return filepath.Join(dir, DataDir, "part-*."+ext)
}

// neighbours gathers ids that somebody may have meant by one that is not there.
type neighbours struct {
	id     string
	near   string   // the nearest, where one is near
	around []string // some that have id in them
	seen   int
}

// How many ids are offered, and how many looked at.
const (
	maxAround = 3
	nearScans = 100_000
)

// add returns errFound once it has seen enough.
func (n *neighbours) add(id string) error {
	if n.seen++; n.seen > nearScans {
		return errFound
	}
	n.near = near.Name(n.id, []string{n.near, id})
	if len(n.around) < maxAround && strings.Contains(strings.ToLower(id), strings.ToLower(n.id)) {
		n.around = append(n.around, id)
	}
	return nil
}

func (n *neighbours) found() []string {
	switch {
	case len(n.around) > 0:
		return n.around
	case n.near != "" && len(n.id) > 2: // between short ones anything is near
		return []string{n.near}
	}
	return nil
}
