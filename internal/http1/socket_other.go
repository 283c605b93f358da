//go:build !linux

package http1

// wakeAt does nothing where nothing is known of the system's sockets.
func wakeAt(uintptr, int) {}
