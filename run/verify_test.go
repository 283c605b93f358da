package run_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/local"
	"matrix/run"
)

// audit is what Verify finds in the bed, without judging it.
func (b *bed) audit(source matrix.Source, trials int) *run.Audit {
	b.t.Helper()
	q, err := openQueue(b)
	if err != nil {
		b.t.Fatal(err)
	}
	defer q.Close()
	a, err := run.Verify(context.Background(), source, trials, []run.Written{b.written(q, 0)})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// stopAt makes a run of dialogues that stops with so many hops, each of which has two
// turns.
func (b *bed) stopAt(cfg run.Config, hops int64) {
	b.t.Helper()
	cfg.Grace = time.Millisecond
	if _, err := b.until(cfg, 2*hops, func(r *run.Run, _ func()) { r.Stop() }); !errors.Is(err, run.ErrStopped) {
		b.t.Fatal(err)
	}
}

// slow is the dialogue with a role that leaves r7 and r8 unfinished when the run
// is stopped.
func slow(n int) run.Config {
	cfg := dialogue(n)
	answer := cfg.Roles["answer"].Agent
	cfg.Roles["answer"] = matrix.Role{Agent: matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		if t.Row == "r7" || t.Row == "r8" {
			<-ctx.Done()
			return matrix.Turn{}, ctx.Err()
		}
		return answer.Act(ctx, t)
	})}
	return cfg
}

// store opens the bed's store below the queue.
func (b *bed) store(f func(db *pebble.DB) error) {
	b.t.Helper()
	db, err := pebble.Open(filepath.Join(b.dir, "state"), &pebble.Options{FormatMajorVersion: pebble.FormatValueSeparation, LoggerAndTracer: silent{}})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(f(db), db.Close()); err != nil {
		b.t.Fatal(err)
	}
}

type silent struct{}

func (silent) Infof(string, ...any)                   {}
func (silent) Errorf(string, ...any)                  {}
func (silent) Fatalf(format string, args ...any)      { panic(fmt.Sprintf(format, args...)) }
func (silent) Eventf(context.Context, string, ...any) {}
func (silent) IsTracingEnabled(context.Context) bool  { return false }

// edit changes the part file of an output.
func (b *bed) edit(name string, f func(content []byte) []byte) {
	b.t.Helper()
	part := filepath.Join(b.dir, name, "part-00000.jsonl")
	c, err := os.ReadFile(part)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(part, f(c), 0o666); err != nil {
		b.t.Fatal(err)
	}
}

// TestVerifyFinds tampers with what a run left, and expects to be told.
func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	lines := func(c []byte) [][]byte { return bytes.SplitAfter(bytes.TrimSuffix(c, []byte("\n")), []byte("\n")) }
	for _, c := range []struct {
		name   string
		tamper func(b *bed)
		want   string // in the culprits
	}{
		{"a line is gone", func(b *bed) {
			b.edit("data", func(c []byte) []byte { return bytes.Join(lines(c)[1:], nil) })
		}, "does not stand there: lost"},
		{"the last line is gone", func(b *bed) {
			b.edit("data", func(c []byte) []byte { l := lines(c); return bytes.Join(l[:len(l)-1], nil) })
		}, "does not stand there: lost"},
		{"a line stands twice", func(b *bed) {
			b.edit("data", func(c []byte) []byte { return append(c, lines(c)[0]...) })
		}, "doubled"},
		{"a line of nobody", func(b *bed) {
			b.edit("data", func(c []byte) []byte { return append(c, `{"id":"nobody"}`+"\n"...) })
		}, "nobody is not in the ledger"},
		{"a line that is none", func(b *bed) {
			b.edit("data", func(c []byte) []byte { return append([]byte("what\n"), c...) })
		}, "not JSON"},
		{"a failed task stands in data", func(b *bed) {
			b.edit("failed", func(c []byte) []byte {
				b.edit("data", func(d []byte) []byte { return append(d, c...) })
				return c
			})
		}, "the ledger says that rows:4 is failed"},
		{"an entry of the ledger is gone", func(b *bed) {
			b.store(func(db *pebble.DB) error { return db.Delete([]byte("ir5"), pebble.Sync) })
		}, "lost"},
		{"an entry too many", func(b *bed) {
			b.store(func(db *pebble.DB) error { return db.Set([]byte("ighost"), []byte{1, 0, 1, 1, 0}, pebble.Sync) })
		}, "the ledger has"},
	} {
		for _, half := range []bool{false, true} {
			name := c.name
			if half {
				name += ", half way"
			}
			t.Run(name, func(t *testing.T) {
				b := newBed(t)
				cfg := dialogue(3)
				if half {
					cfg = slow(3)
				}
				source := numbered(40)
				source[3].ID, source[3].Err = "", errors.New("broken")
				cfg.Source = source
				if half {
					b.stopAt(cfg, 110)
				} else {
					b.run(cfg)
				}
				if a := b.audit(source, 1); !a.OK || half != (a.Pending > 0) {
					t.Fatalf("before: %+v", a)
				}
				c.tamper(b)
				a := b.audit(source, 1)
				if a.OK || a.Faults == 0 || !strings.Contains(strings.Join(a.Culprits, "\n"), c.want) {
					t.Errorf("got %+v, want a culprit with %q", a, c.want)
				}
			})
		}
	}
}

// A task whose records are gone is not a task that is pending.
func TestLostRecords(t *testing.T) {
	b := newBed(t)
	cfg := slow(3)
	cfg.Source = numbered(10)
	b.stopAt(cfg, 26)
	b.store(func(db *pebble.DB) error { return db.DeleteRange([]byte("t"), []byte("u"), pebble.Sync) })
	if a := b.audit(cfg.Source, 1); a.OK {
		t.Errorf("verify: got %+v", a)
	}
	cfg = dialogue(3)
	cfg.Source = numbered(10)
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	b.wire(&cfg, q)
	if _, err := run.New(context.Background(), cfg); !errors.Is(err, run.ErrDamaged) {
		t.Errorf("run: got %v, want it to say that the state is damaged", err)
	}
}

func TestVerifyOtherDataset(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = numbered(20)
	b.run(cfg)
	if a := b.audit(numbered(15), 1); a.OK || !strings.Contains(a.Culprits[0], "the dataset is not the one that was fed") {
		t.Errorf("got %+v", a)
	}
}

// What was fed from a dataset that is gone cannot be looked up, and is in
// ledger and output all the same.
func TestVerifyAfterAccept(t *testing.T) {
	b := newBed(t)
	b.stopAt(dialogue(3), 50)
	for _, n := range []int{150, 10, 60} {
		cfg := dialogue(3)
		cfg.Source, cfg.AcceptChanges = numbered(n), true
		p := b.run(cfg)
		if a := b.verify(cfg.Source, 1); !a.OK || a.Pending != 0 || a.Done != p.Done {
			t.Errorf("%d rows: got %+v", n, a)
		}
	}
}

// Rows that joined are not forgotten when the run stops before it reads them.
func TestJoinedRowsSurviveAStop(t *testing.T) {
	b := newBed(t)
	cfg := dialogue(1)
	cfg.Source = numbered(3)
	b.run(cfg)
	cfg.Source, cfg.AcceptChanges = numbered(5), true
	q, err := openQueue(b)
	if err != nil {
		t.Fatal(err)
	}
	b.wire(&cfg, q)
	r, err := run.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Stop()
	if err := r.Run(t.Context()); !errors.Is(err, run.ErrStopped) {
		t.Errorf("got %v, want %v", err, run.ErrStopped)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.AcceptChanges = false
	if p := b.run(cfg); p.Done != 5 {
		t.Errorf("got %d done, want 5", p.Done)
	}
	b.verify(cfg.Source, 1)
}

// A run does not go on where live tasks would be left behind.
func TestNewRefuses(t *testing.T) {
	b := newBed(t)
	cfg := slow(3)
	cfg.Source = numbered(10)
	b.stopAt(cfg, 26)
	for name, c := range map[string]struct {
		change func(cfg *run.Config)
		want   string
	}{
		"a role has gone": {func(cfg *run.Config) { delete(cfg.Roles, "answer") }, "2 tasks wait for the role answer"},
		"other trials":    {func(cfg *run.Config) { cfg.Trials = 2 }, "it cannot change within a run"},
		"a bad role":      {func(cfg *run.Config) { cfg.Roles["_sink"] = matrix.Role{} }, "cannot be the name of a role"},
		"no live task":    {func(cfg *run.Config) { cfg.Live = -1 }, "want at least 1"},
		"no attempt":      {func(cfg *run.Config) { cfg.Roles["ask"] = matrix.Role{Attempts: -1} }, "want at least 1"},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := openQueue(b)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			cfg := dialogue(3)
			cfg.Source = numbered(10)
			b.wire(&cfg, q)
			c.change(&cfg)
			if _, err := run.New(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	cfg = dialogue(3)
	cfg.Source = numbered(10)
	if p := b.run(cfg); p.Done != 10 {
		t.Errorf("got %d done, want 10", p.Done)
	}
}

// The time between two sessions is nobody's.
func TestSecondsOfWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in a time of its own
		b := &bed{t: t, fs: vfs.NewMem(), dir: "/run"}
		cfg := slow(3)
		cfg.Source = numbered(10)
		b.stopAt(cfg, 26)
		time.Sleep(time.Hour)
		cfg = dialogue(3)
		cfg.Source, cfg.Limits.Seconds = numbered(10), 60
		if p := b.run(cfg); p.Done != 10 {
			t.Errorf("after a pause: %d done: %s", p.Done, p.Failure)
		}
	})
}

// Many large rows are fed little by little.
func TestFeedsByBytes(t *testing.T) {
	t.Parallel()
	q, err := local.Open("", local.Options{Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	source := numbered(60)
	item := append(append([]byte(`"`), bytes.Repeat([]byte("x"), 1<<20)...), '"')
	for i := range source {
		source[i].Item = matrix.RawValue(item)
	}
	cfg := dialogue(1)
	cfg.Source = source
	b := newBed(t)
	w := &watched{Store: q}
	b.wire(&cfg, w)
	r, err := run.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.most > 10<<20 || w.most == 0 {
		t.Errorf("%d bytes were seeded at once, want at most about 8 MiB", w.most)
	}
}

type watched struct {
	run.Store
	most int
}

func (w *watched) Seed(ctx context.Context, seeds []matrix.Seed, checkpoints map[string][]byte) (int, error) {
	n := 0
	for _, s := range seeds {
		n += len(s.Record)
	}
	w.most = max(w.most, n)
	return w.Store.Seed(ctx, seeds, checkpoints)
}
