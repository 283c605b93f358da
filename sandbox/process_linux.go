package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hostLabel tells this machine from others.
func hostLabel() string {
	id, _ := os.ReadFile("/etc/machine-id")
	name, _ := os.Hostname()
	return short(strings.TrimSpace(string(id))+" "+name, 12)
}

// watched is a process that is not a child of this one.
type watched struct {
	pid   int
	fd    *os.File // a pidfd
	ended chan struct{}
}

const (
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434
)

// watchFile watches the process whose number a file holds.
func watchFile(path string) (*watched, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	w := &watched{pid: pid, ended: make(chan struct{})}
	fd, _, e := syscall.Syscall(sysPidfdOpen, uintptr(pid), syscall.O_NONBLOCK, 0)
	if e == syscall.ESRCH {
		close(w.ended)
		return w, nil
	}
	if e != 0 {
		return nil, os.NewSyscallError("pidfd_open", e)
	}
	syscall.CloseOnExec(int(fd))
	w.fd = os.NewFile(fd, "process "+strconv.Itoa(pid))
	go w.wait()
	return w, nil
}

// wait closes ended when the process has ended: its pidfd can be read then.
func (w *watched) wait() {
	defer close(w.ended)
	asked := false
	c, err := w.fd.SyscallConn()
	if err == nil {
		err = c.Read(func(uintptr) bool {
			defer func() { asked = true }()
			return asked
		})
	}
	for err != nil && w.alive() { // of a kernel where it cannot be waited for
		time.Sleep(50 * time.Millisecond)
	}
}

// signal reports whether it could be sent.
func (w *watched) signal(s syscall.Signal) bool {
	if w.fd == nil {
		return false
	}
	c, err := w.fd.SyscallConn()
	if err != nil {
		return false
	}
	sent := false
	_ = c.Control(func(fd uintptr) {
		_, _, e := syscall.Syscall6(sysPidfdSendSignal, fd, uintptr(s), 0, 0, 0, 0)
		sent = e == 0 || e == syscall.EPERM
	})
	return sent
}

// alive reports whether it has not ended; one that nobody waited for yet has.
func (w *watched) alive() bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(w.pid) + "/stat")
	return err == nil && !bytes.Contains(stat, []byte(") Z ")) && w.signal(0)
}

func (w *watched) kill() { w.signal(syscall.SIGKILL) }
func (w *watched) close() {
	if w.fd != nil {
		w.fd.Close()
	}
}

// memoryEvents is the file in which the kernel counts those processes of the control group of pid that it killed for want of memory;
// empty where there is none.
func memoryEvents(pid int) string {
	of, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	c := findCgroups(of, mounts)
	if dir := c.v1[memoryGroup]; dir != "" {
		return filepath.Join(dir, "memory.oom_control")
	}
	if c.v2 == "" {
		return ""
	}
	return filepath.Join(c.v2, "memory.events")
}
