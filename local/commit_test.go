package local_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/local"
)

// counted is a file system that counts syncs.
type counted struct {
	vfs.FS
	syncs *atomic.Int64
}

type countedFile struct {
	vfs.File
	syncs *atomic.Int64
}

func (c counted) Create(name string, k vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, k)
	return countedFile{f, c.syncs}, err
}

func (f countedFile) Sync() error {
	f.syncs.Add(1)
	return f.File.Sync()
}

func (f countedFile) SyncData() error {
	f.syncs.Add(1)
	return f.File.SyncData()
}

// While a handler is busy for long, small groups share syncs, seeds and
// settlements among them, and none waits for it.
func TestPace(t *testing.T) {
	const tasks, hops, seeds = 32, 30, 30
	var syncs atomic.Int64
	q, err := local.Open(t.TempDir(), local.Options{FS: counted{vfs.Default, &syncs}})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seed := func(role, id string) {
		if n, err := q.Seed(ctx, []matrix.Seed{{Task: id, Role: role}}, nil); n != 1 || err != nil {
			t.Errorf("seed %s: got %d %v", id, n, err)
		}
	}
	seed("slow", "slow")
	for i := range tasks {
		seed("quick", fmt.Sprint("quick ", i))
	}
	busy, release := make(chan struct{}), make(chan struct{})
	var wg, settled sync.WaitGroup
	settled.Add(tasks)
	wg.Go(func() {
		err := matrix.Consume(ctx, q, "slow", matrix.Slots(1), func(context.Context, *matrix.Message) (matrix.Step, error) {
			close(busy)
			<-release
			return matrix.Step{Role: "idle"}, nil
		})
		if err != nil {
			t.Errorf("consume slow: %v", err)
		}
	})
	<-busy
	before, began := syncs.Load(), time.Now()
	wg.Go(func() {
		err := matrix.Consume(ctx, q, "quick", matrix.Slots(tasks), func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
			if m.Hop == hops {
				return matrix.Step{Role: "end"}, nil
			}
			return matrix.Step{Role: "quick"}, nil
		})
		if err != nil {
			t.Errorf("consume quick: %v", err)
		}
	})
	wg.Go(func() {
		err := q.Collect(ctx, "end", tasks, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			s := matrix.Settlement{Fates: make([]matrix.Fate, len(ms)), Then: func() { settled.Add(-len(ms)) }}
			for i := range ms {
				s.Fates[i].Status = matrix.Done
			}
			return s, nil
		})
		if err != nil {
			t.Errorf("collect: %v", err)
		}
	})
	for i := range seeds {
		seed("idle", fmt.Sprint("idle ", i))
	}
	settled.Wait()
	took := time.Since(began)
	// A group takes 5 ms to grow. Alone, each hop and each seed would be one.
	if n, most := syncs.Load()-before, int64(took/(5*time.Millisecond))+3; n > most {
		t.Errorf("got %d syncs in %v, want at most %d", n, took, most)
	}
	if most := time.Duration(hops+seeds) * 500 * time.Millisecond; took > most {
		t.Errorf("%d hops and %d seeds took %v beside a slow handler, want at most %v", hops, seeds, took, most)
	}
	cancel()
	close(release)
	wg.Wait()
}
