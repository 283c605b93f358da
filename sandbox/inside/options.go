package inside

import (
	"errors"
	"strconv"
	"time"
)

// Options of a supervisor.
type Options struct {
	Dir     string        // where it works, and commands begin; made where it is not there. Empty: where it was started
	FD      int           // a socket that it is spoken to over, instead of its standard input and output; 0: those
	Root    string        // files are put and got below it alone; empty: "/", all of the sandbox
	TTL     time.Duration // it ends when it has heard nothing for so long; 0: only with its input. A Conn sees to it
	Drop    bool          // commands have no capabilities, not even where the supervisor has some
	Seccomp bool          // system calls that no program of a sandbox needs, and holes were found in, are refused with EPERM

	// Limits of each process, as of setrlimit; 0: as they are. Data is what a process may allocate: an RLIMIT_AS would
	// refuse what runtimes reserve and never use.
	Data, Procs, FileSize, Files uint64
}

// Args are the arguments with which cmd/inside has these options.
func (o Options) Args() []string {
	var args []string
	text := func(name, value string) {
		if value != "" {
			args = append(args, name, value)
		}
	}
	number := func(name string, n uint64) {
		if n > 0 {
			args = append(args, name, strconv.FormatUint(n, 10))
		}
	}
	flag := func(name string, on bool) {
		if on {
			args = append(args, name)
		}
	}
	text("-dir", o.Dir)
	number("-fd", uint64(o.FD))
	text("-root", o.Root)
	if o.TTL > 0 {
		args = append(args, "-ttl", o.TTL.String())
	}
	flag("-drop", o.Drop)
	flag("-seccomp", o.Seccomp)
	number("-data", o.Data)
	number("-procs", o.Procs)
	number("-filesize", o.FileSize)
	number("-files", o.Files)
	return args
}

// ParseArgs is the inverse of [Options.Args].
func ParseArgs(args []string) (Options, error) {
	var o Options
	for len(args) > 0 {
		name := args[0]
		args = args[1:]
		switch name {
		case "-drop":
			o.Drop = true
			continue
		case "-seccomp":
			o.Seccomp = true
			continue
		}
		if len(args) == 0 {
			return Options{}, errors.New("unknown flag, or one without its value: " + name)
		}
		value := args[0]
		args = args[1:]
		var err error
		switch name {
		case "-dir":
			o.Dir = value
		case "-fd":
			o.FD, err = strconv.Atoi(value)
		case "-root":
			o.Root = value
		case "-ttl":
			o.TTL, err = time.ParseDuration(value)
		case "-data":
			o.Data, err = strconv.ParseUint(value, 10, 63)
		case "-procs":
			o.Procs, err = strconv.ParseUint(value, 10, 63)
		case "-filesize":
			o.FileSize, err = strconv.ParseUint(value, 10, 63)
		case "-files":
			o.Files, err = strconv.ParseUint(value, 10, 63)
		default:
			err = errors.New("unknown flag")
		}
		if err != nil {
			return Options{}, errors.New(name + " " + value + ": " + err.Error())
		}
	}
	return o, nil
}
