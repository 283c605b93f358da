package local_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"matrix"
	"matrix/local"
)

// BenchmarkHop moves tasks between two roles: each hop commits a record of
// 4 KiB, a task takes 16 hops, is settled, and a new one takes its place.
func BenchmarkHop(b *testing.B) {
	for _, memory := range []bool{false, true} {
		name := "durable"
		if memory {
			name = "memory"
		}
		b.Run(name, func(b *testing.B) { benchmarkHop(b, local.Options{Memory: memory}, 1000, 4096) })
	}
}

func benchmarkHop(b *testing.B, o local.Options, live, size int) {
	const hops = 16
	q, err := local.Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	record := make([]byte, size)
	var mu sync.Mutex
	fed := 0
	seed := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		seeds := make([]matrix.Seed, n)
		for i := range seeds {
			seeds[i] = matrix.Seed{Task: fmt.Sprint("task-", fed), Row: int64(fed), Role: "a", Record: record[:100]}
			fed++
		}
		if _, err := q.Seed(ctx, seeds, nil); err != nil && !errors.Is(err, matrix.ErrClosed) {
			b.Error(err)
		}
	}
	var done atomic.Int64
	handler := func(next string) matrix.Handler {
		return func(ctx context.Context, m *matrix.Message) (matrix.Step, error) {
			if done.Add(1) == int64(b.N) {
				cancel()
			}
			to := next
			if m.Hop == hops-1 {
				to = "done"
			}
			return matrix.Step{Role: to, Record: record, Keep: q, Size: size}, nil
		}
	}
	seed(live)
	b.ReportAllocs()
	cpu := cpuTime()
	b.ResetTimer()
	end := make(chan error, 3)
	go func() { end <- q.Consume(ctx, "a", live, handler("b")) }()
	go func() { end <- q.Consume(ctx, "b", live, handler("a")) }()
	go func() {
		end <- q.Collect(ctx, "done", 1000, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			fates := make([]matrix.Fate, len(ms))
			for i := range fates {
				fates[i].Status = matrix.Done
			}
			go seed(len(ms))
			return matrix.Settlement{Fates: fates}, nil
		})
	}()
	for range 3 {
		if err := <-end; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(done.Load())/b.Elapsed().Seconds(), "hops/s")
	b.ReportMetric(float64(cpuTime()-cpu)/1e3/float64(done.Load()), "cpu-us/hop")
}

func cpuTime() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
