// Command inside is the supervisor of a sandbox (package sandbox/inside): its standard input is the lease, or a socket. It is embedded in
// package sandbox for both architectures, and is started by that.
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"matrix/sandbox/inside"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "launch" {
		l, err := inside.ParseLaunch(os.Args[2:])
		if err == nil {
			err = l.Do()
		}
		_, _ = os.Stderr.WriteString("launch: " + err.Error() + "\n")
		os.Exit(1)
	}
	runtime.GOMAXPROCS(min(4, runtime.NumCPU()))
	debug.SetGCPercent(50)
	o, err := inside.ParseArgs(os.Args[1:])
	if err == nil {
		in, out := os.Stdin, os.Stdout
		if o.FD > 0 {
			syscall.CloseOnExec(o.FD)
			in = os.NewFile(uintptr(o.FD), "lease")
			out = in
		}
		err = inside.Serve(in, out, o)
	}
	if err != nil {
		_, _ = os.Stderr.WriteString("inside: " + err.Error() + "\n")
		os.Exit(1)
	}
}
