package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// process is one child: lines go in, lines come out.
type process struct {
	cmd       *exec.Cmd
	began     time.Time
	ended     time.Time // read it after gone
	in        *os.File
	out       *os.File
	tail      *tail
	lines     chan output   // what it writes, a line at a time; closed when it ends
	quit      chan struct{} // closed by kill: nobody wants lines any more
	gone      chan struct{} // closed when the child was waited for
	mark      string        // in the environment of the child and of all that it starts
	end       error         // why lines was closed; read it after that
	exit      error         // what Wait said; read it after gone
	once      sync.Once
	bytesRead atomic.Int64 // bytes of stdout that were read

	// Of the one that asks:
	seq      int64 // of the last question
	answered bool
	numbered bool // it returned seq, so it always will
}

// output is a line that a child wrote.
type output struct {
	line []byte
	end  int64 // bytes that it had written with it
}

var errLong = fmt.Errorf("wrote a line of more than %d MiB", maxLine>>20)

// startProcess starts cmd in a process group of its own.
// Of what it says hide leaves out what must not be shown.
func startProcess(s *spawner, cmd *exec.Cmd, hide func(string) string, log func(line string)) (*process, error) {
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
	mark := "MATRIX_AGENT=" + rand.Text()
	cmd.Env = append(cmd.Env, mark)
	p := &process{cmd: cmd, began: time.Now(), in: in, out: out, tail: &tail{hide: hide, log: log}, mark: mark,
		lines: make(chan output), quit: make(chan struct{}), gone: make(chan struct{})}
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
	go p.read()
	return p, nil
}

// read passes on the lines of the child until it ends.
func (p *process) read() {
	defer close(p.lines)
	r := bufio.NewReaderSize(countingReader{p.out, &p.bytesRead}, 64<<10)
	for {
		line, err := readLine(r)
		if err != nil {
			p.end = err
			return
		}
		select {
		case p.lines <- output{line, p.bytesRead.Load() - int64(r.Buffered())}:
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
		case len(line) > maxLine:
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

// ready reports whether the child lives and has said nothing that it was not
// asked.
func (p *process) ready() bool {
	select {
	case <-p.lines:
		return false
	case <-p.gone:
		return false
	default:
		return true
	}
}

// errLate: the child kept its answer until stdin ended, as a program does that
// does not flush, or reads all of its input first.
var errLate = errors.New("answered once stdin had ended")

var errMore = errors.New("printed more than one line for one task; print diagnostics to stderr, or return seq")

// ask writes a question, a JSON object, with its seq and returns the JSON object
// that comes back. After an error the process is of no use. quiet is how long
// nothing more must come after a first and after a later answer without seq.
func (p *process) ask(ctx context.Context, question []byte, quiet [2]time.Duration) ([]byte, error) {
	p.seq++
	written := make(chan error, 1)
	go func() {
		_, err := fmt.Fprintf(p.in, `{"seq":%d,`, p.seq)
		if err == nil {
			_, err = p.in.Write(question[1:])
		}
		written <- err
	}()
	stop := context.AfterFunc(ctx, func() { p.in.Close() }) // ends the write
	defer stop()
	var answer output
	var ok bool
	select {
	case answer, ok = <-p.lines:
	case <-ctx.Done():
		<-written //nolint:errcheck // waits only
		err := ctx.Err()
		if !p.answered && errors.Is(err, context.DeadlineExceeded) && p.speaks() {
			err = errLate
		}
		p.kill()
		return nil, err
	}
	var err error
	if ok {
		err = p.check(answer, quiet)
	} else {
		err = p.exitError()
	}
	if err != nil {
		p.kill()
		<-written //nolint:errcheck // waits only
		return nil, err
	}
	if err := <-written; err != nil {
		return nil, fmt.Errorf("answered before it had read the whole line: %w", err)
	}
	p.answered = true
	if !stop() { // its stdin is closed: it cannot be asked again
		p.kill()
	}
	return answer.line, nil
}

// speaks reports whether a JSON object comes within a moment.
func (p *process) speaks() bool {
	soon := time.NewTimer(moment)
	defer soon.Stop()
	select {
	case out := <-p.lines:
		return isObject(out.line)
	case <-soon.C:
		return false
	}
}

// check reports whether a line is the one answer to the last question.
func (p *process) check(answer output, quiet [2]time.Duration) error {
	var head struct {
		Seq json.RawMessage `json:"seq"`
	}
	if !isObject(answer.line) {
		return fmt.Errorf("printed %s, which is not a JSON object; print diagnostics to stderr", p.printed(answer.line))
	}
	if err := json.Unmarshal(answer.line, &head); err != nil {
		hint := ""
		if bytes.Contains(answer.line, []byte("NaN")) || bytes.Contains(answer.line, []byte("Infinity")) {
			hint = " (JSON has no NaN and no Infinity: print null)"
		}
		return fmt.Errorf("printed %s, which is not a JSON object: %w%s", p.printed(answer.line), err, hint)
	}
	if p.bytesRead.Load() > answer.end {
		return errMore
	}
	if head.Seq != nil {
		if want := strconv.FormatInt(p.seq, 10); string(head.Seq) != want {
			return fmt.Errorf("answered with seq %s to the question with seq %s: it printed more than one line for a task before, or mixed them up",
				p.shorten(head.Seq), want)
		}
		p.numbered = true
		return nil
	}
	if p.numbered {
		return fmt.Errorf("printed %s without the seq that it returned before; print diagnostics to stderr", p.printed(answer.line))
	}
	wait := quiet[0]
	if p.answered {
		wait = quiet[1]
	}
	still := time.NewTimer(wait)
	defer still.Stop()
	select {
	case _, ok := <-p.lines:
		if ok {
			return errMore
		}
	case <-still.C:
		if p.bytesRead.Load() > answer.end { // half a line
			return errMore
		}
	}
	return nil
}

func isObject(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] == '{'
}

func (p *process) printed(line []byte) string {
	if len(line) == 0 {
		return "an empty line"
	}
	return fmt.Sprintf("%q", p.shorten(line))
}

// shorten is the beginning of a line of the child, without secrets.
func (p *process) shorten(line []byte) string {
	return shorten([]byte(p.tail.hide(string(line[:min(len(line), maxLogged)]))))
}

// exitError says why there are no more lines.
func (p *process) exitError() error {
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

// kill ends the child and all that it started, and returns when it is gone.
func (p *process) kill() {
	p.once.Do(func() {
		close(p.quit)
		killGroup(p.cmd.Process.Pid)
		killMarked(p.mark)
		p.in.Close()
		p.out.Close()
	})
	<-p.gone
}

// lived is how long the child was there. It is gone.
func (p *process) lived() time.Duration { return p.ended.Sub(p.began) }

// lastStderr is what the child wrote to stderr last, for a message.
func (p *process) lastStderr() string {
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

// spawner starts processes from one thread that lives until close: where the
// system can kill a child with its parent, it means the parent's thread, and
// the threads of Go come and go.
type spawner struct {
	mu     sync.Mutex
	work   chan func()
	ended  chan struct{}
	closed bool
}

func (s *spawner) start(cmd *exec.Cmd) error {
	setGroup(cmd)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the agent is closed")
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

// close ends the thread. No child may be alive.
func (s *spawner) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work != nil && !s.closed {
		close(s.work)
		<-s.ended
	}
	s.closed = true
}
