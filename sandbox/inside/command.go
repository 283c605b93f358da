package inside

import (
	"errors"
	"io/fs"
	"slices"
	"time"
)

// A Command is a program to be run inside.
type Command struct {
	Args    []string          // program and arguments; a program without a slash is looked for in PATH
	Shell   string            // instead of Args: what /bin/sh -c is given
	Stdin   []byte            // what it can read; an empty one is /dev/null
	Dir     string            // absolute, or relative to that of the supervisor, which is the default
	Env     map[string]string // beside the environment of the supervisor; wins over that
	Timeout time.Duration     // after which it and all that it started are killed; 0: none
	Output  int64             // bytes kept of each of its outputs, the first and the last half; 0: 1 MiB; at most 64 MiB
	Merge   bool              // both outputs into Out, in their order
}

// A Result says how a command ended. Whatever it is, it is what the command did: failures of the sandbox are errors.
type Result struct {
	Code     int    // the exit code; 128 + the signal that ended it; 127: no such program; 126: it cannot be started
	Signal   string // by which it was ended: SIGKILL, SIGSEGV ...; empty: by none
	Out, Err []byte // what was written, cut in the middle to the limit, which a line there says
	Cut      int64  // bytes that are missing of Out and Err

	TimedOut bool // it was killed since it took longer than its Timeout

	Took time.Duration // from its start to its end
	CPU  time.Duration // user and system time, with that of children that it waited for
	Peak int64         // bytes of memory that the largest of these processes held at once
}

// A Code says which fate an [Error] has.
type Code byte

// Fates of errors.
const (
	Failed   Code = 1 + iota // what was asked could not be done: nobody listens at the port, no room on the disk ...
	Invalid                  // it makes no sense: no program, a path that leaves the sandbox ...
	NotExist                 // no such file: it is fs.ErrNotExist
	TooLarge                 // more bytes than the caller allows
	Busy                     // more calls are under way than the supervisor allows
	Canceled                 // the caller gave up; what was begun was killed
)

// An Error is the answer of a supervisor that is well, and did not do what was asked.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string        { return e.Message }
func (e *Error) Is(target error) bool { return e.Code == NotExist && target == fs.ErrNotExist }

// A LostError says that the supervisor, and with it all that ran inside, is gone, or no longer makes sense. Whether what
// was under way has happened is not known.
type LostError struct {
	Err error // what the connection said
}

func (e *LostError) Error() string { return "sandbox is lost: " + e.Err.Error() }
func (e *LostError) Unwrap() error { return e.Err }

var errClosed = errors.New("closed by this end")

func (c *Command) encode(e *encoder) {
	e.strings(c.Args)
	e.string(c.Shell)
	e.string(c.Dir)
	keys := make([]string, 0, len(c.Env))
	for k := range c.Env {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	e.uint(uint64(len(keys)))
	for _, k := range keys {
		e.string(k)
		e.string(c.Env[k])
	}
	e.uint(uint64(c.Timeout))
	e.uint(uint64(c.Output))
	e.bool(c.Merge)
}

func (c *Command) decode(d *decoder) {
	c.Args = d.strings()
	c.Shell = d.string()
	c.Dir = d.string()
	if n := d.count(2); n > 0 {
		c.Env = make(map[string]string, n)
		for range n {
			k := d.string()
			c.Env[k] = d.string()
		}
	}
	c.Timeout = time.Duration(d.uint())
	c.Output = int64(d.uint())
	c.Merge = d.bool()
}

// The outputs are not in it: on the wire they come before it, as data.
func (r *Result) encode(e *encoder) {
	e.uint(uint64(r.Code))
	e.string(r.Signal)
	e.uint(uint64(r.Cut))
	e.bool(r.TimedOut)
	e.uint(uint64(r.Took))
	e.uint(uint64(r.CPU))
	e.uint(uint64(r.Peak))
}

func (r *Result) decode(d *decoder) {
	r.Code = int(d.uint())
	r.Signal = d.string()
	r.Cut = int64(d.uint())
	r.TimedOut = d.bool()
	r.Took = time.Duration(d.uint())
	r.CPU = time.Duration(d.uint())
	r.Peak = int64(d.uint())
}
