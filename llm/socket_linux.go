package llm

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// patientSocket has the system give up a connection whose other side has
// acknowledged nothing for 30 s: a black hole, which it would otherwise feed for
// a quarter of an hour.
func patientSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 30_000) // keep-alive covers what is idle
	})
}
