package inside

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const maxCalls = 4096 // under way at once

// Serve is a supervisor: it does what comes through in, answers through out, and has ended all that it started when it
// returns. An end of in is no error. A process calls it once, and starts no other processes.
func Serve(in io.Reader, out io.Writer, o Options) error {
	s := &server{options: o, begun: time.Now(), out: out, calls: make(map[uint64]*call)}
	if s.options.Root == "" {
		s.options.Root = "/"
	}
	if err := s.prepare(); err != nil {
		s.send(kindReply, 0, []byte(err.Error()))
		return err
	}
	hello := encoder{}
	hello.uint(uint64(o.TTL))
	s.send(kindHello, 0, []byte(magic), hello.buf)

	ended := make(chan error, 1)
	go func() { ended <- s.read(in) }()
	err := s.wait(ended)
	s.end()
	if err == io.EOF {
		return nil
	}
	return err
}

// A server is a supervisor.
type server struct {
	options  Options
	root     int // Options.Root, opened
	procs    *procs
	commands atomic.Int64 // that were begun
	begun    time.Time
	heard    atomic.Int64 // when there was something in its input, in ns since begun

	sending sync.Mutex
	out     io.Writer
	sendBuf []byte

	mu    sync.Mutex
	calls map[uint64]*call
}

// A call is what is asked for by one request.
type call struct {
	id       uint64
	in       *inbox
	out      [pipes]*outbox
	canceled chan struct{}
	cancel   sync.Once
}

func (c *call) giveUp() {
	c.cancel.Do(func() { close(c.canceled) })
	c.close(errors.New("canceled"))
}

// close ends what flows.
func (c *call) close(err error) {
	c.in.drop(err)
	for _, o := range c.out[pipeOut:] {
		o.end(err)
	}
}

// alone reports whether all processes that this one sees are its own: it is the first one of its PID namespace.
func alone() bool { return os.Getpid() == 1 }

// prepare makes of this process a supervisor.
func (s *server) prepare() error {
	warmThreads(4) // while there are threads to be had: with none left the runtime would end the process
	if err := prctl(prSetChildSubreaper, 1); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	_ = prctl(prSetDumpable, 0) // nobody inside reaches its memory and its pipes through /proc
	if err := setLimits(s.options); err != nil {
		return err
	}
	if alone() {
		// Nobody inside may end process 1 by a signal that it has a handler of. A signal that is caught is reset in
		// commands; one that is ignored would not be.
		var all []os.Signal
		for n := syscall.Signal(1); n <= 64; n++ {
			if n != syscall.SIGCHLD && n != syscall.SIGURG {
				all = append(all, n)
			}
		}
		signal.Notify(make(chan os.Signal, 1), all...)
	} else {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	if dir := s.options.Dir; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chdir(dir); err != nil {
			return err
		}
	}
	root, err := syscall.Open(s.options.Root, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return errors.New("root " + s.options.Root + ": " + err.Error())
	}
	s.root = root
	s.procs, err = newProcs(s.options)
	return err
}

// wait returns when the lease has ended.
func (s *server) wait(ended <-chan error) error {
	var told chan os.Signal
	if !alone() {
		told = make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	}
	for {
		var late <-chan time.Time
		if s.options.TTL > 0 {
			late = time.After(s.options.TTL - s.silence())
		}
		select {
		case err := <-ended:
			return err
		case sig := <-told:
			return errors.New("told to end: " + sig.String())
		case <-late:
			if s.silence() >= s.options.TTL {
				return errors.New("nothing was heard for " + s.options.TTL.String())
			}
		}
	}
}

// silence is for how long nothing has come.
func (s *server) silence() time.Duration {
	return time.Since(s.begun) - time.Duration(s.heard.Load())
}

// end gives up what is under way, and ends all processes.
func (s *server) end() {
	s.mu.Lock()
	calls := s.calls
	s.calls = nil
	s.mu.Unlock()
	for _, c := range calls {
		c.giveUp()
	}
	s.procs.end()
}

// send writes a frame. What cannot be written has no reader: the input ends, too.
func (s *server) send(kind byte, id uint64, parts ...[]byte) {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.sendBuf = appendFrame(s.sendBuf[:0], kind, id, parts...)
	_, _ = s.out.Write(s.sendBuf)
	if cap(s.sendBuf) > 4*chunk {
		s.sendBuf = nil
	}
}

// read does what comes, until nothing more does.
func (s *server) read(in io.Reader) error {
	frames := frameReader{r: in}
	for {
		f, err := frames.next()
		if err != nil {
			return err
		}
		s.heard.Store(int64(time.Since(s.begun)))
		if !s.frame(f) {
			return errWire
		}
	}
}

// frame takes one frame. It reports whether it makes sense.
func (s *server) frame(f frame) bool {
	if f.kind == kindRequest {
		return s.request(f.id, f.body)
	}
	if f.kind == kindPing {
		s.send(kindPing, 0)
		return true
	}
	s.mu.Lock()
	c := s.calls[f.id]
	s.mu.Unlock()
	d := decoder{buf: f.body}
	switch f.kind {
	case kindData:
		if pipe := d.byte(); d.bad || pipe != pipeIn {
			return false
		}
		return c == nil || c.in.put(d.buf)
	case kindEnd:
		if pipe := d.byte(); !d.done() || pipe != pipeIn {
			return false
		}
		if c != nil {
			c.in.end(io.EOF)
		}
		return true
	case kindWindow:
		pipe, n := d.byte(), d.uint()
		if !d.done() || pipe != pipeOut && pipe != pipeErr {
			return false
		}
		return c == nil || c.out[pipe].add(n)
	case kindCancel:
		if c != nil {
			c.giveUp()
		}
		return true
	}
	return false
}

// request begins a call.
func (s *server) request(id uint64, body []byte) bool {
	c := &call{id: id, canceled: make(chan struct{})}
	c.in = newInbox(func(n int) {
		e := encoder{buf: []byte{pipeIn}}
		e.uint(uint64(n))
		s.send(kindWindow, id, e.buf)
	})
	c.out[pipeOut], c.out[pipeErr] = newOutbox(), newOutbox()

	d := decoder{buf: body}
	var act func() ([]byte, error)
	switch op := d.byte(); op {
	case opExec, opOpen:
		var cmd Command
		cmd.decode(&d)
		if op == opOpen {
			act = func() ([]byte, error) { return s.open(c, &cmd) }
			break
		}
		if !d.bool() {
			c.in.end(io.EOF)
		}
		act = func() ([]byte, error) { return s.exec(c, &cmd) }
	case opPut:
		path, mode := d.string(), d.uint()
		act = func() ([]byte, error) { return nil, s.put(c, path, uint32(mode&0o7777)) }
	case opGet:
		path, most := d.string(), d.uint()
		act = func() ([]byte, error) { return s.get(c, path, int64(most)) }
	case opDial:
		address := d.string()
		act = func() ([]byte, error) { return nil, s.dial(c, address) }
	}
	if act == nil || !d.done() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		return true // all has ended
	}
	if s.calls[id] != nil {
		return false
	}
	if len(s.calls) >= maxCalls {
		s.reply(c, nil, &Error{Busy, "more than " + strconv.Itoa(maxCalls) + " calls are under way"})
		return true
	}
	s.calls[id] = c
	go func() {
		body, err := act()
		c.close(io.ErrClosedPipe)
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
		s.reply(c, body, err)
	}()
	return true
}

func (s *server) reply(c *call, body []byte, err error) {
	if err == nil {
		s.send(kindReply, c.id, []byte{0}, body)
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Failed, err.Error()}
		if errors.Is(err, syscall.ENOENT) {
			e.Code = NotExist
		}
	}
	s.send(kindReply, c.id, []byte{byte(e.Code)}, []byte(e.Message))
}

// data sends what a limit has bounded already.
func (s *server) data(c *call, pipe byte, p []byte) {
	for len(p) > 0 {
		n := min(len(p), chunk)
		s.send(kindData, c.id, []byte{pipe}, p[:n])
		p = p[n:]
	}
}

// flow sends as much as the reader takes, until it has ended.
func (s *server) flow(c *call, pipe byte, p []byte) error {
	for len(p) > 0 {
		n, err := c.out[pipe].take(len(p))
		if err != nil {
			return err
		}
		s.send(kindData, c.id, []byte{pipe}, p[:n])
		p = p[n:]
	}
	return nil
}

// started says that a call whose pipes flow has begun.
func (s *server) started(c *call) { s.send(kindData, c.id, []byte{pipeOut}) }

func (s *server) ended(c *call, pipe byte) { s.send(kindEnd, c.id, []byte{pipe}) }

// warmThreads has the runtime make n threads, which it keeps.
func warmThreads(n int) {
	var made, go_ sync.WaitGroup
	made.Add(n)
	go_.Add(1)
	for range n {
		go func() {
			runtime.LockOSThread()
			made.Done()
			go_.Wait()
			runtime.UnlockOSThread()
		}()
	}
	made.Wait()
	go_.Done()
}
