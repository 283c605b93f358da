package bench

import (
	"os"
	"strconv"
	"strings"
)

// RSS is the resident memory of the process in bytes; 0 where it cannot be
// told.
func RSS() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
