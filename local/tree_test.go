package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/local"
	"matrix/matrixtest"
)

// Whenever the power is cut, a parent's log tells of the children that have begun and
// of those that have ended, no more and no less, and the checkpoint counts these.
func TestTreesAndPowerCuts(t *testing.T) {
	const trees, brood, some = 5, 40, 3
	for round := range 9 {
		mem := vfs.NewCrashableMem()
		rng := rand.New(rand.NewPCG(1, uint64(round)))
		q := must(local.Open("/q", local.Options{FS: mem}))
		for i := range trees {
			must(q.Seed(t.Context(), []matrix.Seed{{Task: fmt.Sprint("p", i), Role: "grow"}}, nil))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var steps atomic.Int64
		wg.Go(func() {
			_ = matrix.Consume(ctx, q, "grow", matrix.Slots(trees), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
				steps.Add(1)
				from, _ := told(t, m)
				step := matrix.Step{Role: "grow", Record: fmt.Appendf(nil, "begun %d", from+some)}
				if from+some >= brood {
					step.Role = "wait"
				}
				for i := range some {
					step.Children = append(step.Children, matrix.Seed{Task: fmt.Sprint(m.Task, ".", from+i), Role: "end"})
				}
				return step, nil
			})
		})
		ended := 0
		wg.Go(func() {
			_ = q.Collect(ctx, "end", 7, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				ended += len(ms)
				st := matrix.Settlement{Appends: map[string]matrix.Step{}, Checkpoints: map[string][]byte{"ended": fmt.Append(nil, ended)}}
				for _, m := range ms {
					st.Fates = append(st.Fates, matrix.Fate{Status: matrix.Done})
					parent, _, _ := strings.Cut(m.Task, ".")
					st.Appends[parent] = matrix.Step{Record: append(st.Appends[parent].Record, " "+m.Task...)}
				}
				return st, nil
			})
		})
		for at := rng.Int64N(trees * brood / some); steps.Load() < at; {
			time.Sleep(50 * time.Microsecond)
		}
		time.Sleep(time.Duration(rng.IntN(8000)) * time.Microsecond)
		after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 100}[round%3], RNG: rng})
		cancel()
		wg.Wait()
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q = must(local.Open("/q", local.Options{FS: after}))
		begun, done, all := 0, 0, trees
		for i := range trees {
			m, ok, err := q.Peek(t.Context(), fmt.Sprint("p", i))
			if err != nil {
				t.Fatal(err)
			}
			if !ok { // it was not seeded yet
				all--
				continue
			}
			n, ids := told(t, m)
			begun += n
			for _, f := range must(q.Lookup(t.Context(), ids...)) {
				if f.Status == matrix.Done {
					done++
				} else {
					t.Errorf("round %d: a parent's log tells of the end of a child that is %q", round, f.Status)
				}
			}
		}
		known, fates := 0, 0
		if err := q.Walk(t.Context(), func(_ string, f matrix.Fate) error {
			known++
			if f.Status == matrix.Done {
				fates++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		checkpoint := 0
		_, _ = fmt.Sscan(string(must(q.Checkpoint(t.Context(), "ended"))), &checkpoint)
		if known != all+begun || fates != done || checkpoint != done {
			t.Errorf("round %d: parents tell of %d children that have begun and %d that have ended; the ledger has %d and %d, and the checkpoint says %d",
				round, begun, done, known-all, fates, checkpoint)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("cut after %d of %d", begun, trees*brood)
	}
}

// told reads how many children a parent's log says have begun, and which have ended.
func told(t *testing.T, m *matrix.Message) (begun int, ended []string) {
	for _, r := range must(m.Log(t.Context(), 0)) {
		if _, err := fmt.Sscanf(string(r), "begun %d", &begun); err != nil {
			ended = append(ended, strings.Fields(string(r))...)
		}
	}
	return begun, ended
}

// A repair keeps what was appended, and where the task waits all the same.
func TestRepairKeepsAppends(t *testing.T) {
	old, fixed, scratch := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "scratch")
	q := must(local.Open(old, local.Options{}))
	must(q.Seed(t.Context(), []matrix.Seed{{Task: "p", Role: "wait", Priority: 4, Record: []byte("p/0")}, {Task: "c", Role: "end"}}, nil))
	ctx, cancel := context.WithCancel(t.Context())
	if err := q.Collect(ctx, "end", 1, func(context.Context, []*matrix.Message) (matrix.Settlement, error) {
		return matrix.Settlement{
			Fates:   []matrix.Fate{{Status: matrix.Done}},
			Appends: map[string]matrix.Step{"p": {Record: []byte("c has ended")}},
			Then:    cancel,
		}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	rest := must(local.Salvage(old, scratch))
	b := must(local.Build(fixed))
	if err := rest.Tasks(func(seed matrix.Seed, steps []matrix.Step, attempt int, whole bool) error {
		return b.Task(seed, steps, attempt)
	}); err != nil || len(rest.Faults) > 0 {
		t.Fatal(err, rest.Faults)
	}
	if err := errors.Join(b.Close(), rest.Close()); err != nil {
		t.Fatal(err)
	}
	q = must(local.Open(fixed, local.Options{}))
	ts := must(q.Take(t.Context(), "wait", 2, nil))
	if len(ts) != 1 {
		t.Fatalf("%d tasks wait, want the parent", len(ts))
	}
	m := ts[0].Message()
	if log := must(m.Log(t.Context(), 0)); m.Priority != 4 || m.Hop != 1 || string(bytes.Join(log, []byte(" "))) != "p/0 c has ended" {
		t.Errorf("got %+v with the log %q", m, log)
	}
	ts[0].Return(nil)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// Steps with children do not wait for each other to become durable, and a child of
// several begins once, with the first of them.
func TestStepsWithChildrenShareGroups(t *testing.T) {
	log := matrixtest.NewScriptedLog(1 << 10)
	q := must(local.Open("q", local.Options{Memory: true, Log: log.Open(nil)}))
	const parents = 8
	for i := range parents {
		must(q.Seed(t.Context(), []matrix.Seed{{Task: fmt.Sprint("p", i), Role: "grow"}}, nil))
	}
	ts := must(q.Take(t.Context(), "grow", parents, nil))
	durable := make(chan struct{})
	log.Before = func() { <-durable }
	var wg sync.WaitGroup
	for _, x := range ts {
		wg.Go(func() {
			if err := x.Commit(matrix.Step{Role: "wait", Children: []matrix.Seed{
				{Task: "of all", Role: "work", Record: []byte(x.Message().Task)}, {Task: x.Message().Task + ".0", Role: "work"},
			}}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		all := bytes.Join(log.Groups(), nil)
		n := 0
		for i := range parents {
			if bytes.Contains(all, fmt.Appendf(nil, "p%d.0", i)) {
				n++
			}
		}
		if n == parents {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d of %d steps are in the log before the first is durable", n, parents)
			break
		}
	}
	close(durable)
	wg.Wait()
	for range 2 {
		want := matrix.Counts{Live: 2*parents + 1, Waiting: map[string]int{"wait": parents, "work": parents + 1}}
		if n := q.Counts(); fmt.Sprint(n) != fmt.Sprint(want) {
			t.Errorf("got %+v, want %+v", n, want)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q = must(local.Open("q", local.Options{Memory: true, Log: log.Open(nil)}))
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}
