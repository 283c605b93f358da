package run_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/matrixtest"
	"matrix/run"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rows is a dataset in memory.
type rows []matrix.Row

// numbered makes n rows with ids "r0", "r1", ...
func numbered(n int) rows {
	out := make(rows, n)
	for i := range out {
		out[i] = matrix.Row{ID: fmt.Sprint("r", i), Item: matrix.RawValue(fmt.Appendf(nil, `{"n":%d}`, i))}
	}
	return out
}

func (s rows) Rows(_ context.Context, from matrix.Position, f func(matrix.Row) error) error {
	for i := from.Row; i < int64(len(s)); i++ {
		row := s[i]
		row.Number, row.Address = i, fmt.Sprint("rows:", i+1)
		row.Next = matrix.Position{Row: i + 1, Line: i + 1}
		if err := f(row); err != nil {
			return err
		}
	}
	return nil
}

func (s rows) Count(context.Context) (int64, error) { return int64(len(s)), nil }
func (s rows) Fingerprint() (string, error)         { return fmt.Sprint(len(s), " rows"), nil }

// bed is where runs of one test take place: a folder on some file system.
type bed struct {
	t      testing.TB
	fs     vfs.FS
	dir    string
	shards int // 0 for 1

	without matrix.Status // which has no output

	serve  func(ctx context.Context, r *run.Run, qs []run.Store) error // Config.Serve of its runs
	around func(q run.Store) run.Store                                 // what stands before the queues of its runs

	logs  []*matrixtest.ScriptedLog       // of the shards, where their queues are durable elsewhere
	fault func(n int) matrixtest.LogFault // that such a queue meets
}

func newBed(t testing.TB) *bed { return &bed{t: t, fs: vfs.Default, dir: t.TempDir()} }

// with runs cfg over the bed, f beside it, and returns what Run returned.
func (b *bed) with(cfg run.Config, f func(r *run.Run, cancel func())) (*run.Run, error) {
	b.t.Helper()
	qs := b.open()
	defer func() {
		for _, q := range qs {
			q.(closer).Close()
		}
	}()
	b.wire(&cfg, qs...)
	var r *run.Run
	if b.serve != nil {
		cfg.Serve = func(ctx context.Context) error { return b.serve(ctx, r, qs) }
	}
	r, err := run.New(context.Background(), cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	if f != nil {
		wg.Go(func() { f(r, cancel) })
	}
	err = r.Run(ctx)
	wg.Wait()
	return r, err
}

// until runs cfg, and calls stop within the step that makes so many turns: the run
// cannot come to its end before.
func (b *bed) until(cfg run.Config, turns int64, stop func(r *run.Run, cancel func())) (*run.Run, error) {
	b.t.Helper()
	var made atomic.Int64
	var now func()
	ready := make(chan struct{})
	cfg.On = func(e run.Event) {
		if e.Kind == run.StepDone && e.Err == nil && made.Add(1) == turns {
			<-ready
			now()
		}
	}
	return b.with(cfg, func(r *run.Run, cancel func()) {
		now = func() { stop(r, cancel) }
		close(ready)
	})
}

// closer is a queue of the bed.
type closer interface {
	run.Store
	Close() error
}

// open opens the queues of the bed's shards.
func (b *bed) open() (qs []run.Store) {
	b.t.Helper()
	for k := range max(1, b.shards) {
		o := local.Options{FS: b.fs}
		if b.logs != nil {
			o = local.Options{Memory: true, LogSlack: 1, Log: b.logs[k].Open(b.fault)}
		}
		q, err := local.Open(filepath.Join(b.dir, fmt.Sprint("state", "abcdefgh"[:k])), o)
		if err != nil {
			b.t.Fatal(err)
		}
		qs = append(qs, q)
	}
	return qs
}

func (b *bed) wire(cfg *run.Config, qs ...run.Store) {
	cfg.Shards = nil
	for k, q := range qs {
		open := func(name string) run.OpenSink {
			return func(checkpoint []byte) (matrix.Sink, error) {
				return dataset.OpenSink(sinkFS{b.fs}, filepath.Join(b.dir, name), dataset.SinkOptions{RowsPerPart: 50, Lazy: name != "data" && name != "failed", Shard: dataset.Shard{K: k, Of: len(qs)}}, checkpoint)
			}
		}
		if b.around != nil {
			q = b.around(q)
		}
		outputs := map[matrix.Status]run.OpenSink{}
		for _, status := range matrix.Ends() {
			if status != b.without {
				outputs[status] = open(folderOf(status))
			}
		}
		cfg.Shards = append(cfg.Shards, run.Shard{Store: q, Outputs: outputs})
	}
}

func (b *bed) run(cfg run.Config) run.Progress {
	b.t.Helper()
	r, err := b.with(cfg, nil)
	if err != nil {
		b.t.Fatalf("run: %v", err)
	}
	return r.Progress()
}

// read reads an output of a shard back as the ledger of q knows it, and what stands
// behind that; where q is nil, all parts that a person would find.
func (b *bed) read(q run.Store, shard int, name string) run.Output {
	return func(f func(matrix.Place, []byte) error) error {
		fsys, dir := sinkFS{b.fs}, filepath.Join(b.dir, name)
		g := func(part, line int, raw []byte) error { return f(matrix.Place{Part: part, Line: line}, raw) }
		if q == nil {
			names, err := fsys.List(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			sort.Strings(names)
			first := 0
			for _, n := range names {
				if _, err := fmt.Sscanf(n, "part-%d", &first); err == nil {
					break
				}
			}
			if b.shards > 1 {
				for k := range b.shards {
					if err := dataset.ReadOutput(partsOnly{fsys}, dir, dataset.Shard{K: k, Of: b.shards}, nil, g); err != nil {
						return err
					}
				}
				return nil
			}
			checkpoint := fmt.Sprintf(`{"part":0,"bytes":0,"lines":0,"first":%d}`, first)
			if first == 0 {
				checkpoint = ""
			}
			return dataset.ReadOutput(partsOnly{fsys}, dir, dataset.Shard{}, []byte(checkpoint), g)
		}
		checkpoint, err := q.Checkpoint(context.Background(), "sink/"+cmp.Or(map[string]string{"data": "done"}[name], name))
		if err != nil {
			return err
		}
		return dataset.ReadOutput(fsys, dir, dataset.Shard{K: shard, Of: max(1, b.shards)}, checkpoint, g)
	}
}

// partsOnly does not see parts that are set aside.
type partsOnly struct{ sinkFS }

func (p partsOnly) List(dir string) ([]string, error) {
	names, err := p.sinkFS.List(dir)
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "part-") }), err
}

// tasks reads an output as tasks by id.
func (b *bed) tasks(name string) map[string]matrix.Task {
	b.t.Helper()
	out, err := b.readable(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// readable reads an output up to what cannot be read: past its checkpoint a power loss
// leaves anything.
func (b *bed) readable(name string) (map[string]matrix.Task, error) {
	b.t.Helper()
	out := map[string]matrix.Task{}
	err := b.read(nil, 0, name)(func(_ matrix.Place, line []byte) error {
		x, err := dataset.ParseTask(line)
		if err != nil {
			return err
		}
		t := *x
		if _, ok := out[t.ID]; ok {
			b.t.Errorf("%s stands in %s twice", t.ID, name)
		}
		out[t.ID] = t
		return nil
	})
	return out, err
}

// folderOf is the folder of the output of a status.
func folderOf(s matrix.Status) string {
	return cmp.Or(map[matrix.Status]string{matrix.Done: "data"}[s], string(s))
}

// written is a shard of the bed as Verify reads it.
func (b *bed) written(q run.Store, shard int) run.Written {
	w := run.Written{Ledger: q, Outputs: map[matrix.Status]run.Output{}}
	for _, status := range matrix.Ends() {
		w.Outputs[status] = b.read(q, shard, folderOf(status))
	}
	return w
}

// verify audits what the bed holds.
func (b *bed) verify(source matrix.Source, trials int) *run.Audit {
	b.t.Helper()
	var shards []run.Written
	for k, q := range b.open() {
		defer q.(closer).Close()
		shards = append(shards, b.written(q, k))
	}
	a, err := run.Verify(context.Background(), source, trials, shards)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range a.Culprits {
		b.t.Errorf("verify: %s", c)
	}
	if a.Done+a.Dropped+a.Expanded+a.Failed+a.Pending+a.Unused != a.Tasks {
		b.t.Errorf("verify: %d done, %d dropped, %d expanded, %d failed, %d unused and %d pending do not add up to %d", a.Done, a.Dropped, a.Expanded, a.Failed, a.Unused, a.Pending, a.Tasks)
	}
	return a
}

// content is an output without what differs from run to run.
func content(tasks map[string]matrix.Task) map[string]string {
	out := map[string]string{}
	for id, t := range tasks {
		for i := range t.Turns {
			t.Turns[i].Timing = matrix.Timing{}
		}
		b, _ := json.Marshal(t)
		out[id] = string(b)
	}
	return out
}

// dialogue is a flow of n turns between two roles and an inline judge that
// counts them. Its turns depend on the task alone.
func dialogue(n int) run.Config {
	say := matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: fmt.Sprintf("%s says %d of seed %d", t.ID, len(t.Turns), t.Seed)}, nil
	})
	count := matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Data: matrix.RawValue(fmt.Appendf(nil, `{"said":%d}`, t.Rounds("ask")+t.Rounds("answer")))}, nil
	})
	return run.Config{
		Source: numbered(200), Live: 40, Seed: 7,
		Roles: map[string]matrix.Role{"ask": {Agent: say}, "answer": {Agent: say}, "judge": {Agent: count, Inline: true}},
		Router: router(func(t *matrix.Task) matrix.Decision {
			switch last := t.Last(); {
			case last == nil:
				return matrix.To("ask")
			case last.Role != "judge":
				return matrix.To("judge")
			case t.Rounds("judge") >= n:
				return matrix.Finish(last.Data)
			case t.Rounds("judge")%2 == 1:
				return matrix.To("answer")
			}
			return matrix.To("ask")
		}),
	}
}

type router func(t *matrix.Task) matrix.Decision

func (f router) Start(t *matrix.Task) matrix.Decision { return f(t) }
func (f router) Next(t *matrix.Task) matrix.Decision  { return f(t) }

// sinkFS lets a dataset.Sink write to the file systems that Pebble is tested
// on.
type sinkFS struct{ vfs.FS }

func (s sinkFS) Mkdir(dir string) error {
	if _, err := s.Stat(dir); err == nil {
		return nil
	}
	up := filepath.Dir(dir)
	if up != dir {
		if err := s.Mkdir(up); err != nil {
			return err
		}
	}
	return errors.Join(s.MkdirAll(dir, 0o777), s.SyncDir(up))
}

func (s sinkFS) List(dir string) ([]string, error)        { return s.FS.List(dir) }
func (s sinkFS) Remove(name string) error                 { return s.FS.Remove(name) }
func (s sinkFS) Open(name string) (io.ReadCloser, error)  { return s.FS.Open(name) }
func (s sinkFS) Rename(from, to string) error             { return s.FS.Rename(from, to) }
func (s sinkFS) Create(name string) (dataset.File, error) { return s.open(name, nil) }
func (s sinkFS) Holds(name string, _ dataset.File) (bool, error) {
	_, err := s.FS.Stat(name)
	return err == nil, nil
}
func (s sinkFS) Append(name string) (_ dataset.File, err error) {
	f, err := s.FS.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return s.open(name, b)
}

func (s sinkFS) SyncDir(dir string) error {
	d, err := s.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// open makes a file that holds b. These file systems cannot cut a file or write
// at its end, so it is made anew beside the old one and takes its place at the
// first sync.
func (s sinkFS) open(name string, b []byte) (dataset.File, error) {
	f := &sinkFile{fs: s, name: name, content: bytes.Clone(b)}
	if b == nil {
		return f, f.replace()
	}
	return f, nil
}

type sinkFile struct {
	fs      sinkFS
	name    string
	content []byte
	f       vfs.File // nil until the first write after an Append
}

func (f *sinkFile) replace() error {
	if f.f != nil {
		if err := f.f.Close(); err != nil {
			return err
		}
		f.f = nil
	}
	tmp := filepath.Join(filepath.Dir(f.name), "new-"+filepath.Base(f.name))
	n, err := f.fs.FS.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := n.Write(f.content); err != nil {
		return errors.Join(err, n.Close())
	}
	if err := n.Sync(); err != nil {
		return errors.Join(err, n.Close())
	}
	f.f = n
	if err := f.fs.Rename(tmp, f.name); err != nil {
		return err
	}
	return f.fs.SyncDir(filepath.Dir(f.name))
}

func (f *sinkFile) Write(p []byte) (int, error) {
	if f.f == nil {
		if err := f.replace(); err != nil {
			return 0, err
		}
	}
	n, err := f.f.Write(p)
	f.content = append(f.content, p[:n]...)
	return n, err
}

func (f *sinkFile) Size() (int64, error) { return int64(len(f.content)), nil }

func (f *sinkFile) Truncate(size int64) error {
	f.content = f.content[:size]
	return f.replace()
}

func (f *sinkFile) Sync() error {
	if f.f == nil {
		return nil
	}
	return f.f.Sync()
}

func (f *sinkFile) Close() error {
	if f.f == nil {
		return nil
	}
	return f.f.Close()
}

func openQueue(b *bed) (*local.Queue, error) {
	return local.Open(filepath.Join(b.dir, "state"), local.Options{FS: b.fs})
}
