//go:build !linux

package bench

import "syscall"

// RSS is the peak resident memory of the process in bytes: what this system
// tells of it.
func RSS() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Maxrss
}
