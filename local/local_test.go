package local_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"matrix"
	"matrix/local"
	"matrix/matrixtest"
)

// A store that gave up as it was opened (TestOpenGivesUp) leaves a goroutine.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"),
		// Of a store in which a read has panicked: see Queue.recovered.
		goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/internal/genericcache.(*shard[...]).releaseLoop"))
}

func TestQueue(t *testing.T) {
	for _, c := range []struct {
		name string
		o    local.Options
	}{
		{"durable", local.Options{}},
		{"memory", local.Options{Memory: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			matrixtest.Queue(t, !c.o.Memory, func(dir string) (matrixtest.Store, error) {
				return local.Open(dir, c.o)
			})
		})
	}
}

// What hops write is proportional to what their turns add: 200 turns of 2 KiB
// write at most 4 times their content in all, compactions included, and however
// long the history is that a turn joins.
func TestBytesWritten(t *testing.T) {
	t.Parallel()
	const tasks, turns, size = 600, 200, 2 << 10
	q, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seeds := make([]matrix.Seed, tasks)
	for i := range seeds {
		seeds[i] = matrix.Seed{Task: fmt.Sprint(i), Role: "a"}
	}
	if _, err := q.Seed(ctx, seeds, nil); err != nil {
		t.Fatal(err)
	}
	record := bytes.Repeat([]byte("turn"), size/4)
	var left atomic.Int64
	left.Store(tasks)
	err = matrix.Consume(ctx, q, "a", matrix.Slots(8), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
		if m.Hop < turns-1 {
			return matrix.Step{Role: "a", Record: record}, nil
		}
		if left.Add(-1) == 0 {
			cancel()
		}
		return matrix.Step{Role: "b", Record: record}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	content := int64(tasks * turns * size)
	if got := q.BytesWritten(); got > 4*content || got < content {
		t.Errorf("wrote %d bytes for %d of content: %.2f times, want 1 to 4", got, content, float64(got)/float64(content))
	} else {
		t.Logf("wrote %.2f times the content", float64(got)/float64(content))
	}
}
