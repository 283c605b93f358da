package sandbox

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// owner is what stands behind the names of things that end with this process: its
// number and when it began, so that a later process of the same number is another one.
func owner() string {
	pid := os.Getpid()
	return "." + strconv.Itoa(pid) + "." + startTime(pid)
}

// ownerLives reports whether the process that owner named in name is still there.
func ownerLives(name string) bool {
	parts := strings.Split(name, ".")
	if len(parts) < 3 {
		return true // not named by owner
	}
	pid, err := strconv.Atoi(parts[len(parts)-2])
	return err != nil || startTime(pid) == parts[len(parts)-1]
}

// startTime is the 22nd field of /proc/PID/stat, clock ticks since boot; empty where there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return ""
	}
	return string(f[19])
}
