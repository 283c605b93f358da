package inside

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	defaultOutput = 1 << 20
	maxOutput     = 64 << 20
	defaultPath   = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// grace is how long outputs may go on when a command has ended: what it left behind may hold them open for ever.
	grace = 100 * time.Millisecond
)

// exec runs a command whose outputs are kept to its end.
func (s *server) exec(c *call, cmd *Command) ([]byte, error) {
	if cmd.Output < 0 || cmd.Output > maxOutput {
		return nil, &Error{Invalid, "an output of more than 64 MiB is not kept"}
	}
	limit := int(cmd.Output)
	if limit == 0 {
		limit = defaultOutput
	}
	outs := [pipes]*cutter{pipeOut: {limit: limit}, pipeErr: {limit: limit}}
	r, err := s.command(c, cmd, func(pipe byte, p []byte) error {
		outs[pipe].Write(p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.data(c, pipeOut, outs[pipeOut].bytes())
	s.data(c, pipeErr, append(r.Err, outs[pipeErr].bytes()...))
	r.Cut = outs[pipeOut].cut + outs[pipeErr].cut
	var e encoder
	r.encode(&e)
	return e.buf, nil
}

// open runs a command whose pipes flow.
func (s *server) open(c *call, cmd *Command) ([]byte, error) {
	s.started(c)
	r, err := s.command(c, cmd, func(pipe byte, p []byte) error { return s.flow(c, pipe, p) })
	if err != nil {
		return nil, err
	}
	_ = s.flow(c, pipeErr, r.Err)
	s.ended(c, pipeOut)
	s.ended(c, pipeErr)
	var e encoder
	r.encode(&e)
	return e.buf, nil
}

// command runs a command, hands on what it writes, and returns how it ended. What cannot be started is a result, too: of a
// shell it would be one.
func (s *server) command(c *call, cmd *Command, write func(pipe byte, p []byte) error) (*Result, error) {
	args := cmd.Args
	if cmd.Shell != "" {
		if len(args) > 0 {
			return nil, &Error{Invalid, "a command has either Args or Shell"}
		}
		args = []string{"/bin/sh", "-c", cmd.Shell}
	}
	if len(args) == 0 {
		return nil, &Error{Invalid, "a command has neither Args nor Shell"}
	}
	number := strconv.FormatInt(s.commands.Add(1), 10)
	env := environment(cmd.Env, number)
	attr := &syscall.ProcAttr{Dir: cmd.Dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}}
	if cmd.Dir != "" {
		if info, err := os.Stat(cmd.Dir); err != nil || !info.IsDir() {
			return &Result{Code: 126, Err: []byte("cannot enter " + cmd.Dir + ": no such directory\n")}, nil
		}
	}
	program, err := lookPath(args[0], cmd.Dir, env)
	if err != nil {
		code := 127
		if err != syscall.ENOENT {
			code = 126
		}
		return &Result{Code: code, Err: []byte(args[0] + ": " + notFound(err) + "\n")}, nil
	}

	p, err := newPlumbing(!c.in.ended(), cmd.Merge)
	if err != nil {
		return &Result{Code: 126, Err: []byte(args[0] + ": cannot be started: " + err.Error() + "\n")}, nil
	}
	attr.Files = p.inside[:]
	begun := time.Now()
	up := make(chan started, 1)
	s.procs.starts <- start{program: program, args: args, attr: attr, done: up}
	child := <-up
	p.closeInside()
	if child.err != nil {
		p.closeOutside()
		if child.err == os.ErrProcessDone {
			return nil, &Error{Canceled, "the sandbox ends"}
		}
		return &Result{Code: 126, Err: []byte(args[0] + ": cannot be started: " + child.err.Error() + "\n")}, nil
	}
	p.flow(c.in, write)

	r := &Result{}
	canceled := false
	var timeout <-chan time.Time
	if cmd.Timeout > 0 {
		t := time.NewTimer(cmd.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	var end exit
	select {
	case end = <-child.exit:
	case <-timeout:
		r.TimedOut = true
	case <-c.canceled:
		canceled = true
	}
	if r.TimedOut || canceled {
		s.procs.killCommand(child.pid, number)
		select {
		case end = <-child.exit:
		case <-time.After(2 * time.Second): // the kernel does not let go of it
			end.status = syscall.WaitStatus(syscall.SIGKILL)
		}
	}
	r.Took = time.Since(begun)
	p.drain()
	if canceled {
		return nil, &Error{Canceled, "canceled"}
	}
	r.Code = end.status.ExitStatus()
	if end.status.Signaled() {
		r.Code, r.Signal = 128+int(end.status.Signal()), signalName(end.status.Signal())
	}
	r.CPU = time.Duration(end.usage.Utime.Nano() + end.usage.Stime.Nano())
	r.Peak = int64(end.usage.Maxrss) << 10
	return r, nil
}

// plumbing are the pipes of a command.
type plumbing struct {
	inside  [pipes]uintptr // its standard input, output and error
	outside [pipes]*os.File
	ended   [pipes]chan struct{} // an output is at its end, or given up
	exited  atomic.Bool
}

func newPlumbing(input, merge bool) (*plumbing, error) {
	p := &plumbing{}
	none := ^uintptr(0)
	p.inside = [pipes]uintptr{none, none, none}
	open := func(pipe byte) error {
		var fds [2]int
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			return err
		}
		in, out := fds[0], fds[1]
		if pipe != pipeIn {
			in, out = fds[1], fds[0]
		}
		_ = syscall.SetNonblock(out, true)
		p.inside[pipe], p.outside[pipe] = uintptr(in), os.NewFile(uintptr(out), "pipe")
		return nil
	}
	err := open(pipeOut)
	if err == nil && merge {
		p.inside[pipeErr] = p.inside[pipeOut]
	} else if err == nil {
		err = open(pipeErr)
	}
	if err == nil && !input {
		var null int
		if null, err = syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err == nil {
			p.inside[pipeIn] = uintptr(null)
		} else {
			input = true // a pipe that ends at once
		}
	}
	if input {
		err = open(pipeIn)
	}
	if err != nil {
		p.closeInside()
		p.closeOutside()
		return nil, err
	}
	return p, nil
}

func (p *plumbing) closeInside() {
	if p.inside[pipeErr] == p.inside[pipeOut] {
		p.inside[pipeErr] = ^uintptr(0)
	}
	for _, fd := range p.inside {
		if fd != ^uintptr(0) {
			syscall.Close(int(fd))
		}
	}
}

func (p *plumbing) closeOutside() {
	for _, f := range p.outside {
		if f != nil {
			f.Close()
		}
	}
}

// flow begins to hand on what is written, in both directions.
func (p *plumbing) flow(in *inbox, write func(pipe byte, p []byte) error) {
	if w := p.outside[pipeIn]; w != nil {
		go func() {
			_, _ = io.Copy(onlyWriter{w}, in)
			w.Close()
		}()
	}
	for pipe := pipeOut; pipe <= pipeErr; pipe++ {
		r := p.outside[pipe]
		if r == nil {
			continue
		}
		done := make(chan struct{})
		p.ended[pipe] = done
		go func() {
			defer r.Close()
			b := buffers.Get().(*[]byte)
			defer buffers.Put(b)
			buf := *b
			for {
				if p.exited.Load() {
					_ = r.SetReadDeadline(time.Now().Add(grace))
				}
				n, err := r.Read(buf)
				if err == nil {
					err = write(pipe, buf[:n])
				}
				if err != nil {
					close(done)
					if err != io.EOF { // what still writes shall not end for want of a reader
						_ = r.SetReadDeadline(time.Time{})
						_, _ = io.Copy(discard{buf}, onlyReader{r})
					}
					return
				}
			}
		}()
	}
}

// drain waits for the ends of the outputs when the command has ended, and somewhat longer.
func (p *plumbing) drain() {
	p.exited.Store(true)
	for pipe := pipeOut; pipe <= pipeErr; pipe++ {
		if p.ended[pipe] == nil {
			continue
		}
		_ = p.outside[pipe].SetReadDeadline(time.Now().Add(grace))
		<-p.ended[pipe]
	}
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, chunk)
	return &b
}}

// Without ReadFrom and WriteTo, which bring splice and its pipes.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

type discard struct{ buf []byte }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func (d discard) ReadFrom(r io.Reader) (int64, error) {
	for {
		if _, err := r.Read(d.buf); err != nil {
			return 0, nil
		}
	}
}

// A cutter keeps the first and the last half of limit bytes.
type cutter struct {
	limit int
	head  []byte
	tail  []byte // a ring, once it is full
	at    int
	cut   int64
}

func (c *cutter) Write(p []byte) {
	if room := c.limit - c.limit/2 - len(c.head); room > 0 {
		n := min(room, len(p))
		c.head = append(c.head, p[:n]...)
		p = p[n:]
	}
	half := c.limit / 2
	if over := len(p) - half; over > 0 {
		c.cut += int64(over + len(c.tail))
		c.tail, c.at = append(c.tail[:0], p[over:]...), 0
		return
	}
	n := min(half-len(c.tail), len(p))
	c.tail = append(c.tail, p[:n]...)
	for p = p[n:]; len(p) > 0; p = p[n:] {
		n = copy(c.tail[c.at:], p)
		c.at = (c.at + n) % half
		c.cut += int64(n)
	}
}

// bytes returns what was kept, and a line in between that says how much is missing. It cuts no character in two.
func (c *cutter) bytes() []byte {
	tail := append(c.tail[c.at:len(c.tail):len(c.tail)], c.tail[:c.at]...)
	if c.cut == 0 {
		return append(c.head, tail...)
	}
	head := c.head
	for i := 1; i < utf8.UTFMax && i <= len(head); i++ { // a rune that begins here, and does not end
		if b := head[len(head)-i]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(head[len(head)-i:]) {
				c.cut += int64(i)
				head = head[:len(head)-i]
			}
			break
		}
	}
	for i := 0; i < utf8.UTFMax-1 && len(tail) > 0 && !utf8.RuneStart(tail[0]); i++ {
		c.cut++
		tail = tail[1:]
	}
	out := make([]byte, 0, len(head)+len(tail)+40)
	out = append(out, head...)
	out = append(out, "\n[... "+strconv.FormatInt(c.cut, 10)+" bytes cut ...]\n"...)
	return append(out, tail...)
}

// environment is that of the supervisor, with what a command has.
func environment(own map[string]string, number string) []string {
	env := make([]string, 0, len(own)+16)
	path := false
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if _, ok := own[name]; ok || name == mark {
			continue
		}
		path = path || name == "PATH"
		env = append(env, v)
	}
	for name, value := range own {
		path = path || name == "PATH"
		env = append(env, name+"="+value)
	}
	if !path {
		env = append(env, "PATH="+defaultPath)
	}
	return append(env, mark+"="+number)
}

// lookPath finds a program as a shell does, in the PATH of env.
func lookPath(name, dir string, env []string) (string, error) {
	runs := func(path string) error {
		full := path
		if dir != "" && !strings.HasPrefix(path, "/") {
			full = dir + "/" + path
		}
		info, err := os.Stat(full)
		switch {
		case err != nil:
			var no syscall.Errno
			if errors.As(err, &no) && no == syscall.EACCES {
				return no
			}
			return syscall.ENOENT
		case info.IsDir():
			return syscall.EISDIR
		case info.Mode()&0o111 == 0:
			return syscall.EACCES
		}
		return nil
	}
	if strings.Contains(name, "/") {
		return name, runs(name)
	}
	if name == "" {
		return "", syscall.ENOENT
	}
	why := error(syscall.ENOENT)
	for _, v := range env {
		list, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(list, ":") {
			if d == "" {
				d = "."
			}
			err := runs(d + "/" + name)
			if err == nil {
				return d + "/" + name, nil
			}
			if err == syscall.EACCES {
				why = err
			}
		}
	}
	return "", why
}

func notFound(err error) string {
	switch err {
	case syscall.ENOENT:
		return "not found"
	case syscall.EISDIR:
		return "is a directory"
	}
	return "permission denied"
}

var signals = [...]string{1: "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
	"STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS"}

func signalName(s syscall.Signal) string {
	if int(s) < len(signals) && s > 0 {
		return "SIG" + signals[s]
	}
	return "signal " + strconv.Itoa(int(s))
}
