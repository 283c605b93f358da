//go:build !linux

package llm

import "syscall"

// patientSocket leaves black holes to keep-alive.
func patientSocket(_, _ string, _ syscall.RawConn) error { return nil }

// wakeAt does nothing where nothing is known of the system's sockets.
func wakeAt(uintptr, int) {}
