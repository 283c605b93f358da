package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processLabel tells a process from all others that this machine ever had.
func processLabel(pid int) string {
	return strconv.Itoa(pid) + " " + processBegan(pid) + " " + bootID()
}

// labelLives reports whether the process of a label has not ended.
func labelLives(label string) bool {
	pid, _, _ := strings.Cut(label, " ")
	n, err := strconv.Atoi(pid)
	return err == nil && processBegan(n) != "" && processLabel(n) == label
}

// processBegan is when a process began, in ticks since the boot; empty: it has ended.
func processBegan(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from the third field on
	if len(f) < 20 || f[0][0] == 'Z' {
		return ""
	}
	return string(f[19])
}

// bootID tells this start of this machine from others.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(b[:min(len(b), 36)])
}

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

func (w *watched) alive() bool { return w.signal(0) && processBegan(w.pid) != "" }
func (w *watched) kill()       { w.signal(syscall.SIGKILL) }
func (w *watched) close() {
	if w.fd != nil {
		w.fd.Close()
	}
}

// memoryCounter counts the processes of a control group of memory, that of pid, that were killed for want of it. Where it cannot be
// known it stays at 0.
func memoryCounter(pid int) func() int64 {
	path, word := "", ""
	groups, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	for line := range strings.SplitSeq(string(groups), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[1] == "memory" {
			path, word = "/sys/fs/cgroup/memory"+f[2]+"/memory.oom_control", "oom_kill"
			break
		}
		if f[0] == "0" && f[1] == "" {
			path, word = "/sys/fs/cgroup"+f[2]+"/memory.events", "oom_kill"
		}
	}
	return func() int64 {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if n, ok := strings.CutPrefix(line, word+" "); ok {
				k, _ := strconv.ParseInt(n, 10, 64)
				return k
			}
		}
		return 0
	}
}
