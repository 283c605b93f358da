package local_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/local"
)

// Steps of seconds share their syncs and their settlements, though they end one
// by one; the last ones do not wait.
func TestSlowStepsShareSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tasks, each = 640, 10 * time.Millisecond
		var syncs atomic.Int64
		q, err := local.Open("state", local.Options{FS: counted{vfs.NewMem(), &syncs}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		seeds := make([]matrix.Seed, tasks)
		for i := range seeds {
			seeds[i] = matrix.Seed{Task: fmt.Sprint(i), Row: int64(i), Role: "a", Record: []byte("r")}
		}
		if _, err := q.Seed(ctx, seeds, nil); err != nil {
			t.Fatal(err)
		}
		began, before := time.Now(), syncs.Load()
		go func() {
			_ = matrix.Consume(ctx, q, "a", matrix.Slots(tasks), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
				var n int
				_, _ = fmt.Sscan(m.Task, &n)
				time.Sleep(2*time.Second + time.Duration(n)*each)
				return matrix.Step{Role: "end", Record: []byte("s")}, nil
			})
		}()
		settled, settlements := 0, 0
		err = q.Collect(ctx, "end", 1024, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			if settled++; settled < tasks { // counts settlements until then
				settled += len(ms) - 1
			}
			settlements++
			s := matrix.Settlement{Fates: make([]matrix.Fate, len(ms))}
			for i := range s.Fates {
				s.Fates[i].Status = matrix.Done
			}
			if settled == tasks {
				s.Then = cancel
			}
			return s, nil
		})
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		// A settlement has two syncs of its own; a hop is some 20 ms late.
		if most := tasks / 5; settlements > most {
			t.Errorf("%d tasks in %d settlements, want at most %d", tasks, settlements, most)
		}
		if n, most := syncs.Load()-before, int64(tasks/3); n > most {
			t.Errorf("%d tasks in %d syncs of the log, want at most %d", tasks, n, most)
		}
		if most := 2*time.Second + tasks*each + 10*time.Millisecond; took > most {
			t.Errorf("took %v, want at most %v: the last ones have nobody to wait for", took, most)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A Collect that is ended and begun again, as while failed tasks are tried again in
// several shards, keeps its pace.
func TestPaceOutlivesACollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const live, tasks = 100_000, 200
		q, err := local.Open("state", local.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var seeds []matrix.Seed
		for i := range live {
			s := matrix.Seed{Task: fmt.Sprint(i), Role: "later"}
			if i < tasks {
				s.Role = "a"
			}
			seeds = append(seeds, s)
		}
		if _, err := q.Seed(ctx, seeds, nil); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = matrix.Consume(ctx, q, "a", matrix.Slots(tasks), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
				var n int
				_, _ = fmt.Sscan(m.Task, &n)
				time.Sleep(time.Duration(n) * 5 * time.Millisecond)
				return matrix.Step{Role: "end"}, nil
			})
		}()
		settled, settlements := 0, 0
		for settled < tasks {
			some, end := context.WithTimeout(ctx, 3*time.Millisecond)
			if err := q.Collect(some, "end", 1024, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				settled, settlements = settled+len(ms), settlements+1
				s := matrix.Settlement{Fates: make([]matrix.Fate, len(ms))}
				for i := range s.Fates {
					s.Fates[i].Status = matrix.Done
				}
				return s, nil
			}); err != nil {
				t.Fatal(err)
			}
			end()
		}
		if most := 15; settlements > most {
			t.Errorf("%d tasks that end within a second in %d settlements, want at most %d", tasks, settlements, most)
		}
		cancel()
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Where every live task has a slot of its own, slots hardly stand idle for what
// waits for company.
func TestPaceKeepsSlotsBusy(t *testing.T) {
	for _, hops := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			const live, each, tasks = 200, 2 * time.Second, 3000
			q, err := local.Open("state", local.Options{FS: vfs.NewMem()})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			fed := 0
			feed := func() {
				var seeds []matrix.Seed
				for ; q.Counts().Live+len(seeds) < live && fed < tasks; fed++ {
					seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(fed), Row: int64(fed), Role: "a", Record: []byte("r")})
				}
				if _, err := q.Seed(ctx, seeds, nil); err != nil {
					t.Error(err)
				}
			}
			feed()
			began := time.Now()
			var acting, busy atomic.Int64 // slots' time, of steps that go on less what they began with
			go func() {
				_ = matrix.Consume(ctx, q, "a", matrix.Slots(live), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
					var n int64
					_, _ = fmt.Sscan(m.Task, &n)
					took := each/2 + time.Duration(n*7919%2000)*time.Millisecond // 1 to 3 s
					busy.Add(-int64(time.Since(began)))
					acting.Add(1)
					time.Sleep(took)
					acting.Add(-1)
					busy.Add(int64(time.Since(began)))
					s := matrix.Step{Role: "a", Record: []byte("s")}
					if m.Hop == hops-1 {
						s.Role = "end"
					}
					return s, nil
				})
			}()
			settled := 0
			idle := 0.0
			err = q.Collect(ctx, "end", 1024, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				s := matrix.Settlement{Fates: make([]matrix.Fate, len(ms)), Then: func() { go feed() }}
				for i := range s.Fates {
					s.Fates[i].Status = matrix.Done
				}
				if settled += len(ms); settled > tasks-live { // all slots had work until now
					took := time.Since(began)
					idle = 1 - float64(busy.Load()+acting.Load()*int64(took))/float64(live*took)
					s.Then = cancel
				}
				return s, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if idle > 0.02 {
				t.Errorf("tasks of %d hops: slots are idle for %.2f%% of the time, want at most 2%%", hops, 100*idle)
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A closed store holds what it must know, and nothing that was settled.
func TestClosedStoreIsSmall(t *testing.T) {
	for _, c := range []struct{ tasks, most int }{{3, 64 << 10}, {5000, 2 << 20}} {
		dir := filepath.Join(t.TempDir(), "state")
		q, err := local.Open(dir, local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		record := make([]byte, 8<<10)
		seeds := make([]matrix.Seed, c.tasks)
		for i := range seeds {
			seeds[i] = matrix.Seed{Task: fmt.Sprint(i), Row: int64(i), Role: "end", Record: record}
		}
		for some := range slices.Chunk(seeds, 256) {
			if _, err := q.Seed(ctx, some, nil); err != nil {
				t.Fatal(err)
			}
		}
		settled := 0
		if err := q.Collect(ctx, "end", 1024, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			if settled += len(ms); settled == c.tasks {
				cancel()
			}
			s := matrix.Settlement{Fates: make([]matrix.Fate, len(ms))}
			for i := range s.Fates {
				s.Fates[i].Status = matrix.Done
			}
			return s, nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, e := range must(os.ReadDir(dir)) {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			size += int(info.Sys().(*syscall.Stat_t).Blocks) * 512
		}
		if size > c.most {
			t.Errorf("%d settled tasks take %d bytes on disk, want at most %d", c.tasks, size, c.most)
		}
		q, err = local.Open(dir, local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f, err := q.Lookup(context.Background(), "2")
		if err != nil || f[0].Status != matrix.Done {
			t.Errorf("after closing: fate %v, %v; want done", f, err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}
