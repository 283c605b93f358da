//go:build unix && !linux

package child

import (
	"os/exec"
	"syscall"
)

// setGroup puts cmd into a process group of its own, out of reach of a Ctrl-C
// in the terminal. Should this process be killed, the end of stdin tells the
// child to end.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// killMarked would kill what has left the group: here nobody can find it.
func killMarked(string) {}
