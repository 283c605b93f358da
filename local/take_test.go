package local

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
)

// A message that cannot be read fails a Take of several, which leaves the others in
// their order.
func TestTakeKeepsTheOrder(t *testing.T) {
	fs := vfs.NewMem()
	q := must(Open("state", Options{FS: fs}))
	var seeds []matrix.Seed
	for i := range 5 {
		seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(i), Role: "a", Priority: -i / 3, Record: []byte("r")})
	}
	must(q.Seed(t.Context(), seeds, nil))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = must(Open("state", Options{FS: fs}))
	key := recordKey(nil, 2, 0)
	v, closer, err := q.db.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	record := append([]byte(nil), v...)
	_ = closer.Close()
	if err := q.db.Delete(key, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ts, err := q.Take(t.Context(), "a", 5, nil); err == nil {
			t.Errorf("got %d messages, want an error: one has lost its record", len(ts))
		}
	}
	if err := q.db.Set(key, record, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	for i, x := range must(q.Take(t.Context(), "a", 5, nil)) {
		if got := x.Message().Task; got != fmt.Sprint(i) {
			t.Errorf("the %d-th message is of %s", i, got)
		}
		x.Return(nil)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// What Takes leave behind that have ended does not grow with their number.
func TestTakeForgetsWhoWithdrew(t *testing.T) {
	q := must(Open("", Options{Memory: true}))
	for range 100 {
		ctx, withdraw := context.WithCancel(t.Context())
		must(q.Take(ctx, "a", 1, func() {}))
		withdraw()
	}
	if n := len(q.role("a").ready); n > 1 {
		t.Errorf("%d are to be called, want the last at most", n)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// A checksum that comes with a record is not taken again.
func TestSumIsTakenOnce(t *testing.T) {
	const known = 5
	q := must(Open("", Options{Memory: true}))
	record := make([]byte, 100)
	must(q.Seed(t.Context(), []matrix.Seed{{Task: "x", Role: "a", Record: record, Sum: known}}, nil))
	for _, want := range []uint32{known, matrix.Sum(record), known} {
		x := must(q.Take(t.Context(), "a", 1, nil))[0]
		if got := x.Message().Sum; got != want {
			t.Errorf("hop %d: got %d, want %d", x.Message().Hop, got, want)
		}
		step := matrix.Step{Role: "a", Record: record}
		if x.Message().Hop > 0 {
			step.Sum = known
		}
		if err := errors.Join(x.Commit(step, nil), q.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}
