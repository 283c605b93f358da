package agent

import (
	"os/exec"
	"syscall"
)

// setGroup puts cmd into a process group of its own, out of reach of a Ctrl-C
// in the terminal, and has the system kill it when the thread that starts it
// ends, be it by SIGKILL.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
