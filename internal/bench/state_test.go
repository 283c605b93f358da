package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
	"matrix/internal/bench"
	"matrix/local"
)

// fill seeds so many tasks and takes each through one hop of 4 KiB. They wait
// for "later" then.
func fill(b *testing.B, q *local.Queue, tasks int) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := 0; i < tasks; i += 1000 {
		seeds := make([]matrix.Seed, min(1000, tasks-i))
		for j := range seeds {
			seeds[j] = matrix.Seed{Task: fmt.Sprint("task-", i+j), Row: int64(i + j), Role: "now", Record: make([]byte, 500)}
		}
		if _, err := q.Seed(ctx, seeds, nil); err != nil {
			b.Fatal(err)
		}
	}
	record := bytes.Repeat([]byte("turn"), 1024)
	var n atomic.Int64
	err := matrix.Consume(ctx, q, "now", matrix.Slots(64), func(context.Context, *matrix.Message) (matrix.Step, error) {
		if n.Add(1) == int64(tasks) {
			cancel()
		}
		return matrix.Step{Role: "later", Record: record}, nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRestart: one operation opens a queue with 50,000 live tasks of 4.5
// KiB until the first of them is in a handler's hands.
func BenchmarkRestart(b *testing.B) {
	const tasks = 50_000
	dir := b.TempDir()
	q, err := local.Open(dir, local.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, q, tasks)
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		q, err := local.Open(dir, local.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if q.Counts().Live != tasks {
			b.Fatalf("live: got %d, want %d", q.Counts().Live, tasks)
		}
		ctx, cancel := context.WithCancel(context.Background())
		err = matrix.Consume(ctx, q, "later", matrix.Slots(1), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
			cancel()
			_, err := m.Log(context.Background(), 0)
			if err != nil {
				b.Error(err)
			}
			return matrix.Step{}, context.Canceled
		})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := q.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkLive: 100,000 tasks wait in a queue. What they cost in memory, of
// the heap and of the process, whose fixed buffers are part of it.
func BenchmarkLive(b *testing.B) {
	const tasks = 100_000
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		rss := resident()
		q, err := local.Open(b.TempDir(), local.Options{})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, q, tasks)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tasks, "heap-B/task")
		b.ReportMetric(float64(resident()-rss)/tasks, "rss-B/task")
		if err := q.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstRow: one operation is a run until its first finished task is
// durable in the output, state folder made and all.
func BenchmarkFirstRow(b *testing.B) {
	var sum time.Duration
	for range b.N {
		r, err := bench.Coral(context.Background(), bench.CoralOptions{Tasks: 1000, Live: 1000, Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(r.FirstRowMS * float64(time.Millisecond))
	}
	b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms-to-first-row")
}

// resident is the memory, in bytes, that the process has now; 0 where the
// system does not tell.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
