// Package child runs programs as children of this process: each in a group of its own, with what it
// says on stderr logged, and none that outlives this process or Kill, nor anything that it started.
// It knows nothing of what is said to them.
package child

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Process is one child.
type Process struct {
	In *os.File // its stdin

	cmd       *exec.Cmd
	began     time.Time
	ended     time.Time // read it after gone
	out       *os.File
	tail      *tail
	lines     chan Line     // what it writes, a line at a time; closed when it ends
	quit      chan struct{} // closed by Kill: nobody wants lines any more
	gone      chan struct{} // closed when the child was waited for
	mark      string        // in the environment of the child and of all that it starts; empty where that is contained
	end       error         // why lines was closed; read it after that
	exit      error         // what Wait said; read it after gone
	once      sync.Once
	bytesRead atomic.Int64 // bytes of stdout that were read

}

// Line is a line that a child wrote, without its end.
type Line struct {
	Text []byte
	End  int64 // bytes that it had written with it
}

// MaxLine is how many bytes a line of a child may have.
const MaxLine = 64 << 20

const moment = time.Second // for the system to say that a child ended

// ErrClosed is returned by a Spawner that was closed.
var ErrClosed = errors.New("no more processes are started")

var errLong = fmt.Errorf("wrote a line of more than %d MiB", MaxLine>>20)

// Options say what becomes of what a child says beside its answers.
type Options struct {
	Hide func(text string) string // leaves out what must not be shown; nil leaves out nothing
	Log  func(line string)        // takes stderr, a line at a time; it is called concurrently; nil drops it

	Contained bool // what it starts ends with it, and need not be looked for
}

// Start starts cmd with pipes as its stdin and stdout, which cmd must not have set.
func (s *Spawner) Start(cmd *exec.Cmd, o Options) (*Process, error) {
	if o.Hide == nil {
		o.Hide = func(text string) string { return text }
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		childIn.Close()
		in.Close()
		return nil, err
	}
	mark := ""
	if !o.Contained {
		mark = "MATRIX_CHILD=" + rand.Text()
		cmd.Env = append(cmd.Env, mark)
	}
	p := &Process{In: in, cmd: cmd, began: time.Now(), out: out, tail: &tail{hide: o.Hide, log: o.Log}, mark: mark,
		quit: make(chan struct{}), gone: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childIn, childOut, p.tail
	cmd.WaitDelay = moment // for grandchildren that hold on to stderr
	err = s.start(cmd)
	childIn.Close()
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	go func() {
		p.exit = cmd.Wait()
		p.ended = time.Now()
		p.tail.flush()
		close(p.gone)
		// What it wrote is read at once; a grandchild may hold the pipe open.
		_ = out.SetReadDeadline(time.Now().Add(moment / 4))
	}()
	return p, nil
}

// Out is what the child writes to stdout, for who reads it by other units than lines.
func (p *Process) Out() io.Reader { return p.out }

// Lines is what the child writes to stdout. It is closed when there is no more; ExitError says why.
// It is called by one goroutine, and Out is not read then.
func (p *Process) Lines() <-chan Line {
	if p.lines == nil {
		p.lines = make(chan Line)
		go p.read()
	}
	return p.lines
}

// BytesRead counts what was read of its stdout, be it passed on or not.
func (p *Process) BytesRead() int64 { return p.bytesRead.Load() }

// Gone is closed when the child has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// PID is the number of its process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// read passes on the lines of the child until it ends.
func (p *Process) read() {
	defer close(p.lines)
	r := bufio.NewReaderSize(countingReader{p.out, &p.bytesRead}, 64<<10)
	for {
		line, err := readLine(r)
		if err != nil {
			p.end = err
			return
		}
		select {
		case p.lines <- Line{line, p.bytesRead.Load() - int64(r.Buffered())}:
		case <-p.quit:
			p.end = os.ErrClosed
			return
		}
	}
}

// countingReader counts what is read.
type countingReader struct {
	io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// readLine reads up to a newline, which it cuts off. A last line without one
// counts.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxLine:
			return nil, errLong
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		default:
			return nil, err
		}
	}
}

// ExitError says why there are no more lines: what stands behind the name of the program in a sentence.
func (p *Process) ExitError() error {
	if errors.Is(p.end, errLong) {
		return errLong
	}
	select {
	case <-p.gone:
	case <-time.After(moment):
		return errors.New("closed its stdout without an answer")
	}
	var exit *exec.ExitError
	switch {
	case errors.As(p.exit, &exit):
		return fmt.Errorf("ended without an answer: %s", exit.ProcessState)
	case p.exit != nil:
		return fmt.Errorf("ended without an answer: %w", p.exit)
	}
	return errors.New("ended without an answer: exit status 0")
}

// Kill ends the child and all that it started, and returns when it is gone.
func (p *Process) Kill() {
	p.once.Do(func() {
		close(p.quit)
		killGroup(p.cmd.Process.Pid)
		if p.mark != "" {
			killMarked(p.mark)
		}
		p.In.Close()
		p.out.Close()
	})
	<-p.gone
}

// linger is how long a child may take to end by itself once its stdin has.
const linger = 2 * time.Second

// End closes the child's stdin, gives it a while to end by itself, and kills it, with
// all that it started. It returns when it is gone.
func (p *Process) End() {
	p.In.Close()
	wait := time.NewTimer(linger)
	defer wait.Stop()
	select {
	case <-p.gone:
	case <-wait.C:
	}
	p.Kill()
}

// Lived is how long the child was there. It is gone.
func (p *Process) Lived() time.Duration { return p.ended.Sub(p.began) }

// Kept are the last lines that the child wrote to stderr.
func (p *Process) Kept() []string { return p.tail.kept() }

// LastStderr is what the child wrote to stderr last, for the end of a message; empty for nothing.
func (p *Process) LastStderr() string {
	if s := p.tail.text(); s != "" {
		return "; its stderr ends with: " + s
	}
	return ""
}

// tail logs what is written to it, a line at a time, and keeps the end.
type tail struct {
	mu   sync.Mutex
	hide func(text string) string
	log  func(line string)
	part []byte // of the line under way
	last []string
}

const (
	maxLogged = 8 << 10 // bytes of a logged line
	keptLines = 10
)

// Write implements io.Writer. It never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		t.part = append(t.part, line[:min(len(line), max(0, maxLogged-len(t.part)))]...)
		if ended {
			t.emit()
		}
	}
	return len(b), nil
}

func (t *tail) emit() {
	line := strings.ToValidUTF8(strings.TrimRight(string(t.part), "\r"), "\uFFFD")
	t.part = t.part[:0]
	if line == "" {
		return
	}
	line = t.hide(line)
	t.last = append(t.last, line)
	if len(t.last) > keptLines {
		t.last = t.last[1:]
	}
	t.log(line)
}

func (t *tail) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emit()
}

// kept is the last lines that were written.
func (t *tail) kept() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.last)
}

// text is the end of what was written, at most 1,000 bytes.
func (t *tail) text() string {
	s := strings.Join(t.kept(), "\n")
	if len(s) > 1000 {
		s = "..." + strings.ToValidUTF8(s[len(s)-1000:], "")
	}
	return s
}

// Spawner starts processes from one thread that lives until Close: where the
// system can kill a child with its parent, it means the parent's thread, and
// the threads of Go come and go.
type Spawner struct {
	mu     sync.Mutex
	work   chan func()
	ended  chan struct{}
	closed bool
}

func (s *Spawner) start(cmd *exec.Cmd) error {
	setGroup(cmd)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.work == nil {
		s.work, s.ended = make(chan func()), make(chan struct{})
		go func() {
			defer close(s.ended)
			runtime.LockOSThread() // never unlocked: the thread ends with this function
			for f := range s.work {
				f()
			}
		}()
	}
	done := make(chan error)
	s.work <- func() { done <- cmd.Start() }
	return <-done
}

// Close ends the thread. No child may be alive.
func (s *Spawner) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work != nil && !s.closed {
		close(s.work)
		<-s.ended
	}
	s.closed = true
}
