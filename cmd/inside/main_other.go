//go:build !linux

// Command inside is the supervisor of a sandbox, on Linux.
package main

import "os"

func main() {
	os.Stderr.WriteString("inside: sandboxes are of Linux\n")
	os.Exit(1)
}
