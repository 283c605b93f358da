package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"matrix/sandbox"
)

// SandboxOptions of one measurement.
type SandboxOptions struct {
	Kind  string // bwrap or plain
	Execs int    // commands, one after another
	Held  int    // sandboxes at once
	Disk  bool   // restore: disk, with a layer for each command
	Dir   string // for files that are kept
}

// SandboxRun is what sandboxes of one kind came to.
type SandboxRun struct {
	Kind      string  `json:"kind"`
	ExecP50   float64 `json:"exec_p50_ms"`
	ExecP99   float64 `json:"exec_p99_ms"`
	ExecCPU   float64 `json:"exec_cpu_ms"` // user and system, of all processes
	StartP50  float64 `json:"start_p50_ms"`
	PerS      float64 `json:"starts_per_s"` // two at a time
	StartCPU  float64 `json:"start_cpu_ms"`
	Held      int     `json:"held"`
	EachMB    float64 `json:"each_mb"` // proportional set size (PSS) of a held one's processes
	Processes float64 `json:"each_processes"`
	ReleaseMS float64 `json:"release_ms"`
}

// Sandbox measures sandboxes.
func Sandbox(ctx context.Context, o SandboxOptions) (*SandboxRun, error) {
	dir, err := os.MkdirTemp(o.Dir, "matrix-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := sandbox.Config{Keep: sandbox.KeepTask, Size: sandbox.Size(o.Held + 1), Restore: sandbox.RestoreNone, InDoubt: sandbox.Rewind, Enforce: sandbox.BestEffort, Park: time.Hour, TTL: time.Hour,
		Limits: sandbox.Limits{CPU: 1, Memory: 512 << 20, PIDs: 64, Files: 1024, Timeout: time.Minute, Output: 64 << 10}}
	if o.Disk {
		c.Restore = sandbox.RestoreDisk
	}
	options := sandbox.Options{Run: fmt.Sprintf("bench-%d", os.Getpid()), Pool: "bench", Folder: dir}
	open := func() (sandbox.Pool, error) {
		if o.Kind == "plain" {
			return sandbox.NewPlain(sandbox.Plain{Config: c}, options)
		}
		return sandbox.NewBwrap(sandbox.Bwrap{Config: c}, options)
	}
	r := &SandboxRun{Kind: o.Kind, Held: o.Held}
	for _, measure := range []func(context.Context, sandbox.Pool, SandboxOptions, *SandboxRun) error{measureExec, measureStart} {
		p, err := open()
		if err != nil {
			return nil, err
		}
		if err = p.Check(ctx); err == nil {
			err = measure(ctx, p, o, r)
		}
		if closeErr := p.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// spentCPU is that of this process and of its children that have ended, in ms.
func spentCPU() float64 {
	var sum float64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
		}
	}
	return sum
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

// share is the value that so large a part of all is not above.
func share(all []time.Duration, part float64) float64 {
	slices.Sort(all)
	return milliseconds(all[min(len(all)-1, int(part*float64(len(all))))])
}

func measureExec(ctx context.Context, p sandbox.Pool, o SandboxOptions, r *SandboxRun) error {
	key := sandbox.Key{Run: "bench", Pool: "bench", Task: "exec"}
	l, err := p.Lease(ctx, key, sandbox.Spec{}, sandbox.Past{})
	if err != nil {
		return err
	}
	before := spentCPU() + heldCPU(os.Getpid())
	took := make([]time.Duration, o.Execs)
	for i := range took {
		begin := time.Now()
		got, err := l.Exec(ctx, sandbox.Command{Key: "1/" + strconv.Itoa(i), Args: []string{"true"}})
		if err == nil && got.Code != 0 {
			err = fmt.Errorf("true ended with code %d: %s", got.Code, got.Err)
		}
		if err != nil {
			l.Done()
			return err
		}
		took[i] = time.Since(begin)
	}
	r.ExecP50, r.ExecP99, r.ExecCPU = share(took, 0.5), share(took, 0.99), (spentCPU()+heldCPU(os.Getpid())-before)/float64(o.Execs)
	l.Done()
	return p.Release(ctx, key)
}

func measureStart(ctx context.Context, p sandbox.Pool, o SandboxOptions, r *SandboxRun) error {
	begin, before := time.Now(), spentCPU()
	took, errs := make([]time.Duration, o.Held), make([]error, 2)
	key := func(i int) sandbox.Key { return sandbox.Key{Run: "bench", Pool: "bench", Task: strconv.Itoa(i)} }
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			for i := w; i < o.Held && errs[w] == nil; i += len(errs) {
				begin := time.Now()
				l, err := p.Lease(ctx, key(i), sandbox.Spec{}, sandbox.Past{})
				if err != nil {
					errs[w] = err
					return
				}
				if !o.Disk {
					_, errs[w] = l.Exec(ctx, sandbox.Command{Key: "1/0", Args: []string{"true"}})
				}
				took[i] = time.Since(begin)
				l.Done()
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	r.StartP50, r.PerS = share(took, 0.5), float64(o.Held)/time.Since(begin).Seconds()
	kib, n := heldMemory(os.Getpid())
	r.EachMB, r.Processes = float64(kib)/1000*1.024/float64(o.Held), float64(n)/float64(o.Held)
	begin = time.Now()
	for i := range o.Held {
		if err := p.Release(ctx, key(i)); err != nil {
			return err
		}
	}
	r.ReleaseMS = milliseconds(time.Since(begin)) / float64(o.Held)
	r.StartCPU = (spentCPU() - before) / float64(o.Held)
	return nil
}

// heldMemory is the memory of what a process started, in KiB, and how many processes that is.
func heldMemory(pid int) (kib int64, n int) {
	for _, child := range children(pid) {
		more, below := heldMemory(child)
		kib, n = kib+pss(child)+more, n+1+below
	}
	return kib, n
}

// heldCPU is that of what a process started and is there, in ms, with that of what these waited for.
func heldCPU(pid int) (ms float64) {
	for _, child := range children(pid) {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat")
		if err != nil {
			continue
		}
		if f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])); len(f) > 14 {
			for _, ticks := range f[11:15] { // fields 14 to 17 of proc_pid_stat(5), in 1/100 s
				n, _ := strconv.ParseFloat(ticks, 64)
				ms += n * 10
			}
		}
		ms += heldCPU(child)
	}
	return ms
}

func children(pid int) (all []int) {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, file := range tasks {
		text, _ := os.ReadFile(file)
		for _, id := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(id); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func pss(pid int) int64 {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return n
		}
	}
	return 0
}
