//go:build unix && !linux

package launch

import "syscall"

// serverAttr puts a server into a group of its own, out of reach of a Ctrl-C in
// the terminal.
func serverAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Here a server's group is all that can be found of what it started.

func adopt()                {}
func descendants(int) []int { return nil }
func marked(string) []int   { return nil }
