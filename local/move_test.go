package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"matrix"
	"matrix/local"
	"matrix/matrixtest"
)

// content is all that a queue tells: fates, live tasks with their records, attempts and
// the roles that they wait for, and checkpoints.
func content(t *testing.T, q *local.Queue) map[string]string {
	t.Helper()
	ctx := t.Context()
	all := map[string]string{"counts": fmt.Sprint(q.Counts())}
	err := q.Walk(ctx, func(id string, fate matrix.Fate) error {
		all[id] = fmt.Sprint(fate)
		m, ok, err := q.Peek(ctx, id)
		if err != nil || !ok {
			return err
		}
		log, err := m.Log(ctx, 0)
		all[id] += fmt.Sprintf(" %s %d %d %d %d %x", m.Role, m.Priority, m.Hop, m.Attempt, m.Sum, bytes.Join(log, []byte("|")))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"feed", "other", "absent"} {
		v, err := q.Checkpoint(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		all["checkpoint "+name] = string(v)
	}
	return all
}

func sameContent(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for key := range want {
		if got[key] != want[key] {
			t.Errorf("%s: %s: got %.300s, want %.300s", what, key, got[key], want[key])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: got %d entries, want %d", what, len(got), len(want))
	}
}

// worked is a queue on the disk with tasks of all kinds in it.
func worked(t *testing.T, dir string, n int) *local.Queue {
	t.Helper()
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	ctx := t.Context()
	seeds := make([]matrix.Seed, n)
	for i := range seeds {
		seeds[i] = matrix.Seed{Task: fmt.Sprint("t", i), Row: int64(i), Role: "a", Priority: i % 3, Record: bytes.Repeat([]byte{byte(i)}, 40*(i%70))}
	}
	if _, err := q.Seed(ctx, seeds, map[string][]byte{"feed": []byte("7"), "other": bytes.Repeat([]byte("x"), 3000)}); err != nil {
		t.Fatal(err)
	}
	ts, err := q.Take(ctx, "a", n*2/3, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range ts {
		if i%5 == 0 {
			x.Return(&matrix.RetryError{Err: errors.New("again"), After: 1})
			continue
		}
		if err := x.Commit(matrix.Step{Role: []string{"b", "end", "a"}[i%3], Record: []byte("record")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	ended, stop := context.WithCancel(ctx)
	stop()
	if err := q.Collect(matrix.WithStopping(ctx, ended), "end", 1000, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
		fates := make([]matrix.Fate, len(ms))
		for i := range ms {
			fates[i] = matrix.Fate{Status: []matrix.Status{matrix.Done, matrix.Failed}[i%2], Part: i / 9, Line: i % 9}
		}
		return matrix.Settlement{Fates: fates}, nil
	}); err != nil {
		t.Fatal(err)
	}
	return q
}

// A queue goes from a disk into a log and back, and is the same everywhere, at each
// moment at which bringing it in may be cut short, and begun again.
func TestImportAndCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const tasks = 3000 // more than one batch
	from := worked(t, filepath.Join(dir, "from"), tasks)
	want := content(t, from)
	log := matrixtest.NewScriptedLog(4 << 10)
	open := func(cut int, from *local.Queue) (*local.Queue, error) {
		var fault func(int) matrixtest.LogFault
		if cut >= 0 {
			fault = func(n int) matrixtest.LogFault {
				if n == cut {
					return []matrixtest.LogFault{matrixtest.Cut, matrixtest.CutAfter}[cut%2]
				}
				return matrixtest.Answered
			}
		}
		return local.Open("view", local.Options{Memory: true, Log: log.Open(fault), Import: from})
	}
	for cut := 0; ; cut += 1 + cut/3 {
		q, err := open(cut, from)
		if err == nil {
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			t.Logf("cut short until append %d", cut)
			break
		}
		if cut > 1 {
			if q, err := open(-1, nil); err == nil {
				q.Close()
				t.Fatalf("cut at append %d: a log in which a queue was not brought in to its end is opened", cut)
			}
		}
	}
	other := worked(t, filepath.Join(dir, "other"), 10)
	q, err := open(-1, other) // the log is not empty: it stays as it is
	if err != nil {
		t.Fatal(err)
	}
	sameContent(t, "in the log", content(t, q), want)

	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "new", Role: "a", Record: []byte("new")}}, nil); err != nil {
		t.Fatal(err)
	}
	want = content(t, q)
	want["checkpoint feed"] = "landed"
	back := filepath.Join(dir, "back")
	if err := q.CopyTo(back, map[string][]byte{"feed": []byte("landed")}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := local.Open(back, local.Options{Existing: true})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	sameContent(t, "on the disk", content(t, plain), want)
	fates := 0
	ts, err := plain.Take(t.Context(), "a", tasks, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range ts {
		if err := x.Commit(matrix.Step{Role: "end", Record: []byte("last")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := plain.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := plain.Collect(matrix.WithStopping(t.Context(), ended), "end", 100, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
		fates += len(ms)
		return matrix.Settlement{Fates: slices.Repeat([]matrix.Fate{{Status: matrix.Done}}, len(ms))}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if fates != len(ts) || fates == 0 {
		t.Errorf("%d tasks were settled, of %d", fates, len(ts))
	}
	for id, was := range content(t, plain) {
		if id != "counts" && was == "" && id != "checkpoint absent" {
			t.Errorf("%s is gone", id)
		}
	}
}

// A log that has lost all that was committed to it is not taken for a new one.
func TestLogLost(t *testing.T) {
	_, err := local.Open("view", local.Options{Memory: true, Existing: true, Log: matrixtest.NewScriptedLog(4 << 10).Open(nil)})
	if !errors.Is(err, local.ErrNoLog) {
		t.Errorf("got %v, want %v", err, local.ErrNoLog)
	}
}
