package local_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
	"matrix/local"
	"matrix/matrixtest"
)

// A queue over a log keeps all promises of one over the disk, whatever the log loses,
// into however many pieces it cuts, and however often it is swept.
func TestQueueOverLog(t *testing.T) {
	lossy := func(int) matrixtest.LogFault {
		return []matrixtest.LogFault{matrixtest.Answered, matrixtest.Late, matrixtest.RequestLost, matrixtest.AnswerLost}[rand.IntN(4)]
	}
	for _, c := range []struct {
		name  string
		o     local.Options
		most  int // bytes of a group
		fault func(int) matrixtest.LogFault
	}{
		{"on disk", local.Options{}, 1 << 20, nil},
		{"swept all the time", local.Options{Memory: true, LogSlack: 1}, 1 << 20, nil},
		{"swept, in pieces, with losses", local.Options{Memory: true, LogSlack: 1}, 1 << 10, lossy},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			logs := map[string]*matrixtest.ScriptedLog{}
			matrixtest.Queue(t, true, func(dir string) (matrixtest.Store, error) {
				mu.Lock()
				defer mu.Unlock()
				if logs[dir] == nil {
					logs[dir] = matrixtest.NewScriptedLog(c.most)
					logs[dir].Before = func() { time.Sleep(rand.N(200 * time.Microsecond)) } // so that groups are under way
				}
				o := c.o
				o.Log = logs[dir].Open(c.fault)
				return local.Open(dir, o)
			})
		})
	}
}

// tee keeps all that was ever appended to a log.
type tee struct {
	local.Log
	mu  *sync.Mutex
	all *[][]byte
}

func (l tee) Append(group []byte) (wait func() error) {
	l.mu.Lock()
	*l.all = append(*l.all, slices.Clone(group))
	l.mu.Unlock()
	return l.Log.Append(group)
}

// logBed is a log that is swept, and all that was ever appended to it.
type logBed struct {
	*testing.T
	log   *matrixtest.ScriptedLog
	slack int

	mu     sync.Mutex
	all    [][]byte
	told   map[string]matrix.Status // what the queue said is durable: how tasks ended
	hops   map[string]int           // how far they are
	seeded int
	failed []string
}

func newLogBed(t *testing.T, maxGroup, slack int) *logBed {
	log := matrixtest.NewScriptedLog(maxGroup)
	log.Before = func() { time.Sleep(rand.N(200 * time.Microsecond)) } // so that groups are under way
	return &logBed{T: t, log: log, slack: slack, told: map[string]matrix.Status{}, hops: map[string]int{}}
}

func (b *logBed) open(fault func(int) matrixtest.LogFault) *local.Queue {
	b.Helper()
	q, err := local.Open("view", local.Options{Memory: true, LogSlack: b.slack, Log: tee{b.log.Open(fault), &b.mu, &b.all}})
	if err != nil {
		b.Fatal(err)
	}
	return q
}

// work does so many things with a queue, until one fails.
func (b *logBed) work(q *local.Queue, r *rand.Rand, n int) error {
	ctx := b.Context()
	record := func() []byte { return bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(3000)) }
	for range n {
		switch r.IntN(10) {
		case 0:
			seeds := b.seeds(1+r.IntN(4), record)
			if _, err := q.Seed(ctx, seeds, map[string][]byte{"feed": fmt.Append(nil, b.seeded)}); err != nil {
				return err
			}
			b.mu.Lock()
			for _, s := range seeds {
				b.told[s.Task] = matrix.Pending
			}
			b.mu.Unlock()
		case 1, 2, 3:
			ts, err := q.Take(ctx, "a", 1+r.IntN(8), nil)
			if err != nil {
				return err
			}
			for _, t := range ts {
				if r.IntN(4) == 0 {
					t.Return(&matrix.RetryError{Err: errors.New("again"), After: 1})
					continue
				}
				task, hop := t.Message().Task, t.Message().Hop+1
				if err := t.Commit(matrix.Step{Role: []string{"a", "a", "end"}[r.IntN(3)], Priority: r.IntN(3), Record: record()}, func() {
					b.mu.Lock()
					b.hops[task] = hop
					b.mu.Unlock()
				}); err != nil {
					return err
				}
			}
		case 4:
			if err := q.Flush(ctx); err != nil {
				return err
			}
		case 5, 6:
			stopped, stop := context.WithCancel(ctx)
			stop()
			err := q.Collect(matrix.WithStopping(ctx, stopped), "end", 1+r.IntN(5), func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				s := matrix.Settlement{Checkpoints: map[string][]byte{"sink": fmt.Append(nil, len(b.told))}, Appends: map[string]matrix.Step{}}
				for id := range b.told {
					if m, ok, err := q.Peek(ctx, id); err != nil {
						return s, err
					} else if ok && m.Role == "wait" && len(s.Appends) < 3 {
						s.Appends[id] = matrix.Step{Role: []string{"", "a"}[r.IntN(2)], Record: record()}
					}
				}
				for _, m := range ms {
					s.Fates = append(s.Fates, matrix.Fate{Status: []matrix.Status{matrix.Done, matrix.Failed}[r.IntN(2)], Part: 1, Line: m.Hop})
				}
				s.Then = func() {
					b.mu.Lock()
					defer b.mu.Unlock()
					for i, m := range ms {
						b.told[m.Task] = s.Fates[i].Status
						if s.Fates[i].Status == matrix.Failed {
							b.failed = append(b.failed, m.Task)
						}
					}
					for id := range s.Appends {
						b.hops[id]++
					}
				}
				return s, nil
			})
			if err != nil {
				return err
			}
		case 7:
			if len(b.failed) > 0 && r.IntN(3) == 0 {
				id := b.failed[0]
				b.failed = b.failed[1:]
				b.mu.Lock()
				delete(b.told, id) // it may be so or not, until it is told
				delete(b.hops, id)
				b.mu.Unlock()
				if _, err := q.Revive(ctx, []matrix.Seed{{Task: id, Role: "a", Record: record()}}, nil, nil); err != nil {
					return err
				}
				b.mu.Lock()
				b.told[id] = matrix.Pending
				b.mu.Unlock()
			}
		case 8, 9:
			ts, err := q.Take(ctx, "a", 1, nil)
			if err != nil {
				return err
			}
			for _, t := range ts {
				task, hop, children := t.Message().Task, t.Message().Hop+1, b.seeds(r.IntN(4), record)
				err := t.Commit(matrix.Step{Role: []string{"a", "wait"}[r.IntN(2)], Record: record(), Children: children}, nil)
				if err = errors.Join(err, q.Flush(ctx)); err != nil {
					return err
				}
				b.hops[task] = hop
				for _, c := range children {
					b.told[c.Task], b.hops[c.Task] = matrix.Pending, 0
				}
			}
		}
	}
	return nil
}

// seeds are of so many tasks that are new.
func (b *logBed) seeds(n int, record func() []byte) (seeds []matrix.Seed) {
	for range n {
		seeds = append(seeds, matrix.Seed{Task: fmt.Sprint("t", b.seeded), Row: int64(b.seeded), Role: "a", Record: record()})
		b.seeded++
	}
	return seeds
}

// check checks that q holds all that was told, and just what the log holds that was
// never swept.
func (b *logBed) check(q *local.Queue, when string) {
	b.Helper()
	if err := q.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.mu.Lock()
	for id, status := range b.told {
		f, err := q.Lookup(b.Context(), id)
		m, ok, peeked := q.Peek(b.Context(), id)
		if err != nil || peeked != nil || f[0].Status == "" || status != matrix.Pending && f[0].Status != status || ok && m.Hop < b.hops[id] {
			b.Errorf("%s: %s was said to be %s at hop %d, and is %+v, %+v, %v, %v", when, id, status, b.hops[id], f, m, err, peeked)
		}
	}
	b.mu.Unlock()
	all := matrixtest.NewScriptedLog(b.log.Open(nil).MaxGroup())
	groups := b.log.Groups()
	b.mu.Lock()
	for len(b.all) > 0 && (len(groups) == 0 || !bytes.Equal(b.all[len(b.all)-1], groups[len(groups)-1])) {
		b.all = b.all[:len(b.all)-1] // it never came
	}
	all.SetGroups(b.all)
	b.mu.Unlock()
	whole, err := local.Open("whole", local.Options{Memory: true, Log: all.Open(nil)})
	if err != nil {
		b.Fatalf("%s: %v", when, err)
	}
	defer whole.Close()
	if got, want := dump(b.T, q), dump(b.T, whole); got != want {
		b.Errorf("%s: the log holds\n%s\nand before it was swept it held\n%s", when, got, want)
	}
}

// dump is all that a queue tells.
func dump(t *testing.T, q *local.Queue) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%+v\n", q.Counts())
	for _, name := range []string{"feed", "sink"} {
		v, err := q.Checkpoint(t.Context(), name)
		fmt.Fprintf(&b, "%s %s %v\n", name, v, err)
	}
	if err := q.Walk(t.Context(), func(id string, f matrix.Fate) error {
		fmt.Fprintf(&b, "%s %+v", id, f)
		m, ok, err := q.Peek(t.Context(), id)
		if err != nil || !ok {
			fmt.Fprintf(&b, " %v %v\n", ok, err)
			return nil
		}
		log, err := m.Log(t.Context(), 0)
		fmt.Fprintf(&b, " %s %d %d %d %v", m.Role, m.Priority, m.Hop, m.Attempt, err)
		for _, r := range log {
			fmt.Fprintf(&b, " %d:%x", len(r), matrix.Sum(r))
		}
		b.WriteByte('\n')
		return nil
	}); err != nil {
		t.Error(err)
	}
	return b.String()
}

// The process ends at each of its groups in turn, in the log or before it: all that
// was told is there, nothing that was settled comes back, and what the swept log
// holds is what it would have held unswept.
func TestLogCut(t *testing.T) {
	const requests = 120
	var trims atomic.Int64
	for n := 0; n < requests; n += 12 {
		for _, fault := range []matrixtest.LogFault{matrixtest.Cut, matrixtest.CutAfter} {
			t.Run(fmt.Sprint(n, fault), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(uint64(n), uint64(fault)))
				b := newLogBed(t, 1<<10, 1)
				b.log.Trims = func(before uint64) uint64 {
					trims.Add(1)
					return before - uint64(rand.IntN(2)*rand.IntN(3)) // or a little less
				}
				for round := range 3 {
					q := b.open(func(i int) matrixtest.LogFault {
						if i == n+round*40 {
							return fault
						}
						return matrixtest.Answered
					})
					b.check(q, fmt.Sprint("opened for round ", round))
					err := b.work(q, r, 300)
					if err == nil {
						t.Errorf("round %d: nothing failed", round)
					}
					_ = q.Close()
				}
				q := b.open(nil)
				b.check(q, "opened again")
				for range 4 {
					if err := errors.Join(b.work(q, r, 20), q.Compact()); err != nil {
						t.Error(err)
					}
					b.check(q, "at work")
				}
				if err := q.Close(); err != nil {
					t.Error(err)
				}
				q = b.open(nil)
				b.check(q, "closed and opened")
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Cleanup(func() {
		if trims.Load() < requests {
			t.Errorf("the log was trimmed %d times only", trims.Load())
		}
	})
}

// Who opens a queue over a log takes it over: the one before can do nothing any more,
// whatever it is doing, and all that it was told is durable is there.
func TestLogFenced(t *testing.T) {
	b := newLogBed(t, 1<<10, 1)
	a := b.open(nil)
	if err := b.work(a, rand.New(rand.NewPCG(1, 1)), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "held"}}, nil); err != nil {
		t.Fatal(err)
	}
	held, err := a.Take(t.Context(), "held", 1, nil)
	if err != nil || len(held) != 1 {
		t.Fatalf("take: got %v, %v", held, err)
	}
	collected := make(chan error)
	go func() {
		collected <- a.Collect(t.Context(), "nothing", 1, nil)
	}()
	next := b.open(nil)
	b.check(next, "taken over")

	if err := held[0].Commit(matrix.Step{Role: "b"}, func() { t.Error("a step of one that was fenced is said to be durable") }); err != nil {
		t.Errorf("commit: %v", err)
	}
	if err := a.Flush(t.Context()); !errors.Is(err, local.ErrFenced) {
		t.Errorf("flush: got %v, want %v", err, local.ErrFenced)
	}
	select {
	case <-a.Done(): // who waits in a Flush may be told first
	case <-time.After(time.Minute):
		t.Error("a queue that was fenced is not done")
	}
	if err := <-collected; !errors.Is(err, local.ErrFenced) {
		t.Errorf("collect: got %v, want %v", err, local.ErrFenced)
	}
	if _, err := a.Seed(t.Context(), []matrix.Seed{{Task: "late", Role: "a"}}, nil); !errors.Is(err, local.ErrFenced) {
		t.Errorf("seed: got %v, want %v", err, local.ErrFenced)
	}
	if _, err := a.Take(t.Context(), "a", 1, nil); !errors.Is(err, local.ErrFenced) {
		t.Errorf("take: got %v, want %v", err, local.ErrFenced)
	}
	if err := a.Close(); !errors.Is(err, local.ErrFenced) {
		t.Errorf("close: got %v, want %v", err, local.ErrFenced)
	}
	b.check(next, "after all that")
	if err := b.work(next, rand.New(rand.NewPCG(2, 2)), 100); err != nil {
		t.Error(err)
	}
	b.check(next, "at work")
	if m, ok, err := next.Peek(t.Context(), "x"); err != nil || !ok || m.Role != "held" {
		t.Errorf("peek: got %+v, %v, %v; want the task where it was", m, ok, err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// interrupted does something once so many groups were read.
type interrupted struct {
	local.Log
	after int
	do    func()
	nils  *int
}

func (l interrupted) Replay(apply func(group []byte) error) error {
	return l.Log.Replay(func(group []byte) error {
		if group == nil {
			*l.nils++
		}
		err := apply(group)
		if l.after--; l.after == 0 {
			l.do()
		}
		return err
	})
}

// Who reads the log while its writer goes on, and trims what was read, has in the end
// what that one had.
func TestLogTrimmedWhileRead(t *testing.T) {
	t.Parallel()
	nils := 0
	for after := 1; after < 60; after += 6 {
		b := newLogBed(t, 1<<10, 1)
		r := rand.New(rand.NewPCG(uint64(after), 0))
		a := b.open(nil)
		if err := b.work(a, r, 100); err != nil {
			t.Fatal(err)
		}
		var held string
		next, err := local.Open("", local.Options{Memory: true, LogSlack: 1, Log: tee{interrupted{b.log.Open(nil), after, func() {
			if err := errors.Join(b.work(a, r, 60), a.Flush(t.Context())); err != nil {
				t.Error(err)
			}
			held = dump(t, a)
		}, &nils}, &b.mu, &b.all}})
		if err != nil {
			t.Fatal(err)
		}
		if got := dump(t, next); held != "" && got != held {
			t.Errorf("with the log trimmed after %d groups were read, the successor has\n%s\nand the one before had\n%s", after, got, held)
		}
		b.check(next, "taken over")
		_ = a.Close()
		if err := errors.Join(b.work(next, r, 30), next.Close()); err != nil {
			t.Error(err)
		}
	}
	if nils < 5 {
		t.Errorf("what was read was trimmed %d times, want 5 at least", nils)
	}
}

// Nobody is told of what is not durable yet.
func TestLogTellsWhatIsDurable(t *testing.T) {
	log := matrixtest.NewScriptedLog(1 << 20)
	var slow atomic.Bool
	began, release := make(chan struct{}, 10), make(chan struct{})
	log.Before = func() {
		if slow.Load() {
			began <- struct{}{}
			<-release
		}
	}
	q, err := local.Open("", local.Options{Memory: true, Log: log.Open(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a"}}, map[string][]byte{"feed": []byte("1")}); err != nil {
		t.Fatal(err)
	}
	before := dump(t, q)
	taken, err := q.Take(t.Context(), "a", 1, nil)
	if err != nil || len(taken) != 1 {
		t.Fatalf("take: got %v, %v", taken, err)
	}
	before = strings.Replace(before, "a:1", "", 1) // in a hand
	slow.Store(true)
	var durable atomic.Bool
	if err := taken[0].Commit(matrix.Step{Role: "b"}, func() { durable.Store(true) }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "y", Role: "b"}}, map[string][]byte{"feed": []byte("2")}); err != nil {
			t.Error(err)
		}
	})
	<-began
	if got := dump(t, q); got != before || durable.Load() {
		t.Errorf("with a commit under way the queue tells\n%s\nand before it\n%s", got, before)
	}
	if ts, err := q.Take(t.Context(), "b", 1, nil); len(ts) > 0 || err != nil {
		t.Errorf("take: got %v, %v; want nothing yet", ts, err)
	}
	slow.Store(false)
	close(release)
	wg.Wait()
	if err := q.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if got, want := q.Counts().Waiting["b"], 2; got != want || !durable.Load() {
		t.Errorf("once it is durable %d wait, want %d", got, want)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// A log stays within a small multiple of what it has to hold, however fast tasks
// come, and is opened by who comes next without being swept anew.
func TestLogBounded(t *testing.T) {
	for _, c := range []struct {
		name        string
		seeds, live int // at once; before they are settled
		rounds      int
		group       int
	}{
		{"tasks come and go", 50, 100, 300, 16 << 10},
		{"tasks come faster than they go", 250, 10_000, 40, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			const slack, record = 64 << 10, 300
			log := matrixtest.NewScriptedLog(c.group)
			var trims atomic.Int64
			log.Trims = func(before uint64) uint64 { trims.Add(1); return before }
			q, err := local.Open("", local.Options{Memory: true, LogSlack: slack, Log: log.Open(nil)})
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			most, seeded, settled := 0, 0, 0
			for range c.rounds {
				var seeds []matrix.Seed
				for range c.seeds {
					seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(seeded), Role: "end", Record: make([]byte, record)})
					seeded++
				}
				if _, err := q.Seed(ctx, seeds, nil); err != nil {
					t.Fatal(err)
				}
				if seeded-settled >= c.live {
					ended, stop := context.WithCancel(ctx)
					stop()
					if err := q.Collect(matrix.WithStopping(ctx, ended), "end", 1000, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
						settled += len(ms)
						return matrix.Settlement{Fates: slices.Repeat([]matrix.Fate{{Status: matrix.Done}}, len(ms))}, nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				holds := min(seeded, c.live)*(record+50) + seeded*20
				if n := log.Size(); n > 4*holds+2*slack {
					t.Errorf("the log has %d bytes for %d that it holds", n, holds)
				}
				most = max(most, log.Size())
			}
			t.Logf("at most %d bytes, %d trims, %d bytes at the end", most, trims.Load(), log.Size())
			if trims.Load() < 5 {
				t.Errorf("the log was trimmed %d times, want 5 at least", trims.Load())
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			before := trims.Load()
			for range 5 {
				q, err := local.Open("", local.Options{Memory: true, LogSlack: slack, Log: log.Open(nil)})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := q.Seed(ctx, nil, map[string][]byte{"m": nil}); err != nil {
					t.Error(err)
				}
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			}
			if n := trims.Load() - before; n > 1 {
				t.Errorf("5 openings swept the log %d times", n)
			}
		})
	}
}

// A log that has lost what it was said to hold is damage, not a log that ends there.
func TestLogDamaged(t *testing.T) {
	b := newLogBed(t, 1<<10, 1)
	q := b.open(nil)
	if err := errors.Join(b.work(q, rand.New(rand.NewPCG(3, 3)), 100), q.Close()); err != nil {
		t.Fatal(err)
	}
	whole := b.log.Groups()
	opened := func(groups [][]byte, existing bool) error {
		log := matrixtest.NewScriptedLog(1 << 10)
		log.SetGroups(groups)
		q, err := local.Open("", local.Options{Memory: true, Existing: existing, Log: log.Open(nil)})
		if err == nil {
			err = q.Close()
		}
		return err
	}
	if err := opened(whole, true); err != nil {
		t.Fatal(err)
	}
	if err := opened(nil, false); err != nil {
		t.Error(err)
	}
	damaged := func(what string, groups [][]byte, existing bool) {
		t.Helper()
		if err := opened(groups, existing); !errors.As(err, new(*local.DamagedError)) {
			t.Errorf("%s: got %v, want damage", what, err)
		}
	}
	damaged("nothing is left", nil, true)
	for i := range whole {
		flipped := slices.Clone(whole)
		flipped[i] = slices.Clone(whole[i])
		flipped[i][rand.IntN(len(whole[i]))] ^= 1 << rand.IntN(8)
		damaged(fmt.Sprint("a bit of group ", i), flipped, false)
		if i > 0 && i < len(whole)-1 {
			damaged(fmt.Sprint("no group ", i), slices.Delete(slices.Clone(whole), i, i+1), false)
		}
	}
	damaged("the end alone", whole[len(whole)-1:], true)
	damaged("cut short", [][]byte{whole[0][:3]}, false)
	newer := slices.Clone(whole[0])
	newer[4] = 9 // the version
	binary.LittleEndian.PutUint32(newer, matrix.Sum(newer[4:]))
	if err := opened([][]byte{newer}, false); err == nil || !strings.Contains(err.Error(), "use a newer Matrix") || errors.As(err, new(*local.DamagedError)) {
		t.Errorf("a newer log: got %v", err)
	}
}

// The view of a log on this disk is made anew, whatever is left of the one before,
// and goes with the queue.
func TestLogView(t *testing.T) {
	dir := t.TempDir()
	log := matrixtest.NewScriptedLog(1 << 20)
	open := func(o local.Options) (*local.Queue, error) {
		o.Log = log.Open(nil)
		return local.Open(dir, o)
	}
	for i := range 3 {
		q, err := open(local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(local.Options{}); !errors.Is(err, local.ErrLocked) {
			t.Errorf("a second view in the same folder: got %v, want %v", err, local.ErrLocked)
		}
		if n, err := q.Seed(t.Context(), []matrix.Seed{{Task: fmt.Sprint(i), Role: "a"}}, nil); n != 1 || err != nil {
			t.Errorf("seed: got %d, %v", n, err)
		}
		if got := q.Counts().Live; got != i+1 {
			t.Errorf("live: got %d, want %d", got, i+1)
		}
		if err := errors.Join(q.Compact(), q.Close()); err != nil {
			t.Error(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "view", "*[0-9]*"))
		if err != nil || len(left) > 0 {
			t.Errorf("the view has left %v, %v", left, err)
		}
		for _, name := range []string{"000004.sst", "MANIFEST-000001", "CURRENT"} { // of one that was killed
			if err := os.WriteFile(filepath.Join(dir, "view", name), []byte("rubbish"), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := open(local.Options{ReadOnly: true}); err == nil {
		t.Error("a queue over a log was opened to be read alone")
	}
	if _, err := local.Open(dir, local.Options{Log: matrixtest.NewScriptedLog(100).Open(nil)}); err == nil {
		t.Error("a queue was opened over a log of tiny groups")
	}
}

// A log that cannot be reached is not damage.
func TestLogReplayFails(t *testing.T) {
	away := errors.New("nobody answers")
	_, err := local.Open("", local.Options{Memory: true, Log: unreadable{matrixtest.NewScriptedLog(1 << 10).Open(nil), away}})
	if !errors.Is(err, away) || errors.As(err, new(*local.DamagedError)) {
		t.Errorf("open: got %v, want %v", err, away)
	}
}

type unreadable struct {
	local.Log
	err error
}

func (l unreadable) Replay(func([]byte) error) error { return l.err }
