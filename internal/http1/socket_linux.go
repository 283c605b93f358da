package http1

import "syscall"

// wakeAt has a socket wake who waits for it once so many bytes have come.
func wakeAt(fd uintptr, bytes int) {
	_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
}
