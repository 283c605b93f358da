package run_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"matrix/matrixtest"
	"matrix/run"
)

// TestPowerLoss cuts the power at random moments, over a file system that then
// drops some or all of what was not synced, and goes on with what is left.
func TestPowerLoss(t *testing.T) {
	undisturbed := newBed(t)
	undisturbed.run(dialogue(5))
	want := content(undisturbed.tasks("data"))

	losses := 0
	for round := range 8 {
		rng := rand.New(rand.NewPCG(1, uint64(round)))
		b := &bed{t: t, fs: vfs.NewCrashableMem(), dir: "/run"}
		for {
			mem := b.fs.(*vfs.MemFS)
			var after *vfs.MemFS
			_, err := b.with(dialogue(5), func(r *run.Run, cancel func()) {
				for at := int64(rng.IntN(400)); r.Progress().NewHops < at && !r.Finished(); {
					time.Sleep(50 * time.Microsecond)
				}
				after = mem.CrashClone(vfs.CrashCloneCfg{
					UnsyncedDataPercent: []int{0, 30, 100}[rng.IntN(3)],
					RNG:                 rng,
				})
				cancel() // of the world that goes on without us
			})
			if err != nil && !errors.Is(err, run.ErrStopped) {
				t.Fatal(err)
			}
			b.fs = after
			a := b.verify(dialogue(5).Source, 1)
			if !a.OK {
				t.Fatalf("round %d after %d losses", round, losses)
			}
			if a.Pending == 0 {
				break
			}
			losses++
		}
		if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
			t.Errorf("round %d differs from an undisturbed run: %s", round, d)
		}
	}
	if losses < 8 {
		t.Errorf("the power was lost %d times in the middle of a run: too few to test anything", losses)
	}
}

// TestOwnerDies runs over queues whose logs are elsewhere, and loses the process that
// owns them at random moments: with a commit in the log or not, and with what it had
// not synced of its output. The next one has nothing but logs and output.
func TestOwnerDies(t *testing.T) {
	undisturbed := newBed(t)
	undisturbed.run(dialogue(3))
	want := content(undisturbed.tasks("data"))
	const shards = 2
	deaths := 0
	for round := range 4 {
		rng := rand.New(rand.NewPCG(3, uint64(round)))
		b := &bed{t: t, fs: vfs.NewCrashableMem(), dir: "/run", shards: shards}
		for range shards {
			b.logs = append(b.logs, matrixtest.NewScriptedLog(4<<10))
		}
		for {
			at, fault := 1+rng.IntN(20), []matrixtest.LogFault{matrixtest.Cut, matrixtest.CutAfter}[rng.IntN(2)]
			b.fault = func(n int) matrixtest.LogFault {
				if n == at {
					return fault
				}
				return matrixtest.Answered
			}
			_, err := b.with(dialogue(3), nil)
			b.fs = b.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 100}[rng.IntN(3)], RNG: rng})
			b.fault = nil
			a := b.verify(dialogue(3).Source, 1)
			if !a.OK {
				t.Fatalf("round %d after %d deaths", round, deaths)
			}
			if err == nil && a.Pending == 0 {
				break
			}
			if !errors.Is(err, matrixtest.ErrCut) {
				t.Fatalf("run: got %v, want %v", err, matrixtest.ErrCut)
			}
			deaths++
		}
		if d := cmp.Diff(want, content(b.tasks("data"))); d != "" {
			t.Errorf("round %d differs from an undisturbed run: %s", round, d)
		}
	}
	if deaths < 8 {
		t.Errorf("the owner died %d times in the middle of a run: too few to test anything", deaths)
	}
}

// fullDisk is a file system on which so many bytes can be written.
type fullDisk struct {
	vfs.FS
	left *atomic.Int64
}

type fullFile struct {
	vfs.File
	left *atomic.Int64
}

func (d fullDisk) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return fullFile{f, d.left}, nil
}

func (d fullDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.wrap(d.FS.Create(name, c))
}

func (d fullDisk) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return d.wrap(d.FS.OpenReadWrite(name, c, o...))
}

func (d fullDisk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.wrap(d.FS.ReuseForWrite(from, to, c))
}

func (f fullFile) Write(p []byte) (int, error) {
	if f.left.Add(-int64(len(p))) < 0 {
		return 0, &os.PathError{Op: "write", Path: "a file", Err: syscall.ENOSPC}
	}
	return f.File.Write(p)
}

// TestDiskFull fills the disk in the middle of a run, under the queue and the
// output alike. The run says so, and goes on once there is room.
func TestDiskFull(t *testing.T) {
	stopped := 0
	for _, room := range []int64{20 << 10, 45 << 10, 90 << 10, 150 << 10, 200 << 10, 300 << 10} {
		var left atomic.Int64
		left.Store(room)
		b := &bed{t: t, fs: fullDisk{vfs.NewMem(), &left}, dir: "/run"}
		q, err := openQueue(b)
		if err != nil {
			if !strings.Contains(err.Error(), "no space left") {
				t.Errorf("room for %d: open: got %v, want no space left", room, err)
			}
		} else {
			cfg := dialogue(5)
			b.wire(&cfg, q)
			r, err := run.New(context.Background(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			switch err := r.Run(t.Context()); {
			case err == nil:
			case errors.Is(err, syscall.ENOSPC):
				stopped++
			default:
				t.Errorf("room for %d: got %v, want no space left", room, err)
			}
			_ = q.Close()
			// Typed again while the disk is still full: told again, at once.
			if q, err := openQueue(b); err == nil {
				_ = q.Close()
			} else if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("room for %d: opened again: got %v, want no space left", room, err)
			}
		}
		left.Store(1 << 40)
		b.run(dialogue(5))
		if a := b.verify(dialogue(5).Source, 1); !a.OK || a.Done != 200 {
			t.Errorf("room for %d: after there was room again: %+v", room, a)
		}
	}
	if stopped < 3 {
		t.Errorf("the disk was full in the middle of a run %d times: too few to test anything", stopped)
	}
}
