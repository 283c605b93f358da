//go:build unix

package child

import "syscall"

// killGroup kills a process and all that it started and that stayed in its
// group. Nobody left to kill is fine.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
