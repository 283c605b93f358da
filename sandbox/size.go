package sandbox

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// autoSize is how many boxes memory, processes and cores admit at once.
func autoSize(c Config) int {
	n := 1000
	if c.Limits.Memory > 0 {
		n = min(n, int(int64(memory())*8/10/int64(c.Limits.Memory)))
	}
	if most := maxProcesses(); c.Limits.PIDs > 0 && most > 0 {
		n = min(n, most/c.Limits.PIDs)
	}
	if c.Keep == KeepCall { // none of them waits
		cpu := c.Limits.CPU
		if cpu == 0 {
			cpu = 1
		}
		n = min(n, int(2*float64(runtime.NumCPU())/cpu))
	}
	return max(n, 1)
}

// memory is what this machine has, in bytes.
func memory() Bytes {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 8 << 30
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return Bytes(kib << 10)
		}
	}
	return 8 << 30
}

// maxProcesses is how many there may be on this machine.
func maxProcesses() int {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}
