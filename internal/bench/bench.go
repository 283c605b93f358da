// Package bench measures the engine and its queue on work of a known shape,
// without models or with simulated ones: what is left is the cost of Matrix
// itself.
package bench

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// usage is what the process has used so far.
type usage struct {
	at  time.Time
	cpu time.Duration
}

func measure() usage {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return usage{at: time.Now(), cpu: time.Duration(u.Utime.Nano() + u.Stime.Nano())}
}

// folder makes a temporary folder under dir (the system's choice if empty) for
// a durable benchmark: where it lies decides which disk is measured.
func folder(dir string) (name string, remove func(), err error) {
	name, err = os.MkdirTemp(dir, "matrix-bench-")
	return name, func() { _ = os.RemoveAll(name) }, err
}

// PeakRSS is the most memory, in bytes, that the process has had resident.
func PeakRSS() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return peak(&u)
}

// peak is the most memory, in bytes, that was resident.
func peak(u *syscall.Rusage) int64 {
	if runtime.GOOS == "darwin" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) << 10
}
