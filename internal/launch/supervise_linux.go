package launch

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// serverAttr puts a server into a group of its own, out of reach of a Ctrl-C in
// the terminal, and has the system kill it with the thread that starts it.
func serverAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// adopt makes this process the parent of all that its children leave behind.
func adopt() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// descendants are the children of a process, their children, and so on.
func descendants(of int) []int {
	children := map[int][]int{}
	for _, pid := range processes() {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue
		}
		rest := b[bytes.LastIndexByte(b, ')')+1:] // the name before it may hold anything
		if f := strings.Fields(string(rest)); len(f) > 1 && f[0] != "Z" {
			if parent, err := strconv.Atoi(f[1]); err == nil {
				children[parent] = append(children[parent], pid)
			}
		}
	}
	var all []int
	for todo := []int{of}; len(todo) > 0; {
		next := children[todo[0]]
		all = append(all, next...)
		todo = append(todo[1:], next...)
	}
	return all
}

func processes() []int {
	var all []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, n := range names {
		if pid, err := strconv.Atoi(filepath.Base(n)); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// marked are the processes in whose environment markVar begins so, which those
// that a server starts inherit.
func marked(prefix string) []int {
	entry := []byte(markVar + "=" + prefix)
	var all []int
	for _, pid := range processes() {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err == nil && pid != os.Getpid() && (bytes.HasPrefix(b, entry) || bytes.Contains(b, append([]byte{0}, entry...))) {
			all = append(all, pid)
		}
	}
	return all
}
