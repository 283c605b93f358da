package bench_test

import (
	"context"
	"testing"
	"time"

	"matrix/internal/bench"
)

// BenchmarkHop: one operation is one hop of 4 KiB.
func BenchmarkHop(b *testing.B) {
	for name, memory := range map[string]bool{"durable": false, "memory": true} {
		b.Run(name, func(b *testing.B) {
			r, err := bench.Hop(context.Background(), bench.HopOptions{
				StateBytes: 4096, Turns: 1, Live: 1000, Memory: memory, For: time.Hour, Hops: int64(b.N), Dir: b.TempDir(),
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(r.HopsPerS, "hops/s")
			b.ReportMetric(r.CPUPerHop, "cpu-us/hop")
			b.ReportMetric(r.PerHop, "written-B/hop")
		})
	}
}

// BenchmarkCoral: one operation is one task of the Coral shape, from row to
// output line.
func BenchmarkCoral(b *testing.B) {
	for name, memory := range map[string]bool{"durable": false, "memory": true} {
		b.Run(name, func(b *testing.B) {
			r, err := bench.Coral(context.Background(), bench.CoralOptions{Tasks: b.N, Live: 1000, Memory: memory, Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(r.TasksPerS, "tasks/s")
			b.ReportMetric(r.HopsPerS, "hops/s")
			b.ReportMetric(r.CPUPerTask, "cpu-us/task")
		})
	}
}
