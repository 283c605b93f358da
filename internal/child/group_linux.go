package child

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// setGroup puts cmd into a process group of its own, out of reach of a Ctrl-C
// in the terminal, and has the system kill it when the thread that starts it
// ends, be it by SIGKILL.
func setGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
}

// killMarked kills the processes whose environment has mark, a NAME=VALUE that no
// other has: those that have left the group of the one that started them. It
// looks again while it finds some, since they may have started others meanwhile.
func killMarked(mark string) {
	const most = 10 // looks
	for range most {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		found := false
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			// Unreadable for those of others, and empty for the dead.
			env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
			if err != nil || !bytes.Contains(append(env, 0), append([]byte(mark), 0)) {
				continue
			}
			found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
		}
		if !found {
			return
		}
	}
}
