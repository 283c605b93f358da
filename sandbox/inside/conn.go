package inside

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strconv"
	"sync"
	"time"
)

// A Conn speaks to a supervisor. Its methods may be called by many at once.
type Conn struct {
	rw    io.ReadWriteCloser
	out   chan []byte   // frames to be written
	hello chan struct{} // closed when the supervisor has said that it is there
	lost  chan struct{} // closed when nothing more can be asked
	ttl   time.Duration // as the supervisor said in its hello

	mu    sync.Mutex
	next  uint64
	calls map[uint64]*outgoing
	err   *LostError
}

// NewConn speaks to the supervisor whose input is written and output is read by rw. It closes rw when it is closed, or
// the supervisor is lost; who started the supervisor waits for it.
func NewConn(rw io.ReadWriteCloser) *Conn {
	c := &Conn{rw: rw, out: make(chan []byte), hello: make(chan struct{}), lost: make(chan struct{}), calls: make(map[uint64]*outgoing)}
	go c.write()
	go c.read()
	return c
}

// Ready waits until the supervisor has said that it is there.
func (c *Conn) Ready(ctx context.Context) error {
	select {
	case <-c.hello:
		return nil
	default:
	}
	select {
	case <-c.hello:
		return nil
	case <-c.lost:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Lost is closed when nothing more can be asked: the supervisor is gone, or the Conn was closed.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Err is a *[LostError] after that, and nil before.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return nil
	}
	return c.err
}

// Close ends the lease: the supervisor ends all that it started, and exits. What is under way returns a *[LostError].
func (c *Conn) Close() error {
	_ = c.lose(errClosed)
	return nil
}

// Exec runs a command. Where the context ends before it does, it is killed with all that it started. Errors are *[Error], *[LostError], and that of the context.
func (c *Conn) Exec(ctx context.Context, cmd Command) (Result, error) {
	e := encoder{buf: []byte{opExec}}
	cmd.encode(&e)
	e.bool(len(cmd.Stdin) > 0)
	limit := int(cmd.Output)
	if limit == 0 {
		limit = 1 << 20
	}
	o, err := c.begin(ctx, e.buf, func(o *outgoing) { o.limit = limit + 1<<10 }) // and what tells of a cut
	if err != nil {
		return Result{}, err
	}
	defer o.done()
	if len(cmd.Stdin) > 0 {
		go func() { _ = o.send(bytes.NewReader(cmd.Stdin)) }()
	}
	body, err := o.wait(ctx)
	if err != nil {
		return Result{}, err
	}
	d := decoder{buf: body}
	var r Result
	r.decode(&d)
	if !d.done() {
		return Result{}, c.lose(errWire)
	}
	r.Out, r.Err = o.kept[pipeOut], o.kept[pipeErr]
	return r, nil
}

// Put makes a file of what is read, or replaces it: it is there whole or not at all. Folders on its way are made. A
// relative path is below the folder that the supervisor works in.
func (c *Conn) Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	e := encoder{buf: []byte{opPut}}
	e.string(path)
	e.uint(uint64(mode.Perm()))
	o, err := c.begin(ctx, e.buf, nil)
	if err != nil {
		return err
	}
	defer o.done()
	failed := make(chan error, 1)
	go func() {
		if err := o.send(r); err != nil {
			failed <- err
		}
	}()
	replied := make(chan error, 1)
	go func() {
		_, err := o.wait(ctx)
		replied <- err
	}()
	select {
	case err := <-failed:
		return err
	case err := <-replied:
		return err
	}
}

// Get reads a file of at most so many bytes; a larger one is an [Error] with TooLarge. It never follows a link that leads
// out of the sandbox, and reads regular files alone. The reader is to be closed.
func (c *Conn) Get(ctx context.Context, path string, most int64) (io.ReadCloser, error) {
	if most < 0 {
		return nil, &Error{Invalid, "at most " + strconv.FormatInt(most, 10) + " bytes"}
	}
	e := encoder{buf: []byte{opGet}}
	e.string(path)
	e.uint(uint64(most))
	return c.flowing(ctx, e.buf)
}

// Open starts a command whose pipes are read and written while it runs; Stdin, Output and Merge do not count. It is
// killed when the stream is closed.
func (c *Conn) Open(ctx context.Context, cmd Command) (*Stream, error) {
	e := encoder{buf: []byte{opOpen}}
	cmd.encode(&e)
	return c.flowing(ctx, e.buf)
}

// Dial connects to a port that is listened at inside.
func (c *Conn) Dial(ctx context.Context, port int) (*Stream, error) {
	if port < 1 || port > 65535 {
		return nil, &Error{Invalid, "port " + strconv.Itoa(port) + " is not between 1 and 65535"}
	}
	return c.dial(ctx, strconv.Itoa(port))
}

// DialUnix connects to a socket inside, by its absolute path.
func (c *Conn) DialUnix(ctx context.Context, path string) (*Stream, error) {
	if len(path) < 2 || path[0] != '/' {
		return nil, &Error{Invalid, "path of a socket: " + strconv.Quote(path) + " is not absolute"}
	}
	return c.dial(ctx, path)
}

func (c *Conn) dial(ctx context.Context, address string) (*Stream, error) {
	e := encoder{buf: []byte{opDial}}
	e.string(address)
	return c.flowing(ctx, e.buf)
}

// flowing begins a call whose pipes flow, and returns when it has begun.
func (c *Conn) flowing(ctx context.Context, request []byte) (*Stream, error) {
	o, err := c.begin(ctx, request, func(o *outgoing) {
		for pipe := pipeOut; pipe <= pipeErr; pipe++ {
			o.in[pipe] = newInbox(func(n int) {
				e := encoder{buf: []byte{pipe}}
				e.uint(uint64(n))
				_ = c.send(context.Background(), appendFrame(nil, kindWindow, o.id, e.buf))
			})
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-o.started:
		return &Stream{o: o}, nil
	case r := <-o.reply:
		if r.err == nil { // it has begun and ended
			o.reply <- r
			return &Stream{o: o}, nil
		}
		o.done()
		return nil, r.err
	case <-c.lost:
		o.done()
		return nil, c.Err()
	case <-ctx.Done():
		o.done()
		return nil, ctx.Err()
	}
}

// An outgoing call.
type outgoing struct {
	c       *Conn
	id      uint64
	reply   chan answer // one
	room    *outbox     // what the other side takes of pipeIn
	limit   int         // bytes that are kept of a pipe that does not flow
	kept    [pipes][]byte
	in      [pipes]*inbox // of pipes that flow
	started chan struct{} // closed when such a call has begun
	once    sync.Once
}

type answer struct {
	body []byte
	err  error
}

// begin sends a request.
func (c *Conn) begin(ctx context.Context, request []byte, with func(*outgoing)) (*outgoing, error) {
	if len(request) > maxFrame-16 {
		return nil, &Error{Invalid, "a command of more than 1 MiB, its input not counted"}
	}
	if err := c.Ready(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	c.next++
	o := &outgoing{c: c, id: c.next, reply: make(chan answer, 1), room: newOutbox(), started: make(chan struct{})}
	if with != nil {
		with(o)
	}
	c.calls[o.id] = o
	c.mu.Unlock()
	if err := c.send(ctx, appendFrame(make([]byte, 0, len(request)+16), kindRequest, o.id, request)); err != nil {
		o.forget()
		return nil, err
	}
	return o, nil
}

// wait returns what is replied.
func (o *outgoing) wait(ctx context.Context) ([]byte, error) {
	select {
	case r := <-o.reply:
		return r.body, r.err
	default:
	}
	select {
	case r := <-o.reply:
		return r.body, r.err
	case <-o.c.lost:
		return nil, o.c.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget takes the call from the list. It reports whether it was there: no reply has come.
func (o *outgoing) forget() bool {
	o.c.mu.Lock()
	defer o.c.mu.Unlock()
	_, waits := o.c.calls[o.id]
	delete(o.c.calls, o.id)
	return waits
}

// done ends the call, whatever it has come to.
func (o *outgoing) done() {
	if o.forget() {
		_ = o.c.send(context.Background(), appendFrame(nil, kindCancel, o.id))
	}
	o.end(io.ErrClosedPipe)
}

// end ends what flows.
func (o *outgoing) end(err error) {
	o.room.end(err)
	for _, in := range o.in {
		if in != nil {
			in.end(err)
		}
	}
}

// send sends what is read as pipeIn, as the other side takes it. An error is that of r; where the other side takes no more
// there is none.
func (o *outgoing) send(r io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 && o.write(buf[:n]) != nil {
			return nil
		}
		if err == io.EOF {
			_ = o.c.send(context.Background(), appendFrame(nil, kindEnd, o.id, []byte{pipeIn}))
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o *outgoing) write(p []byte) error {
	for len(p) > 0 {
		n, err := o.room.take(len(p))
		if err != nil {
			return err
		}
		if err := o.c.send(context.Background(), appendFrame(make([]byte, 0, n+16), kindData, o.id, []byte{pipeIn}, p[:n])); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// A Stream is a command or a connection inside whose bytes flow. What is not read holds up that which writes it, and
// nothing else.
type Stream struct{ o *outgoing }

// Read reads what was written inside: to the standard output, to the connection, or what the file holds.
func (s *Stream) Read(p []byte) (int, error) { return s.o.in[pipeOut].Read(p) }

// Stderr is the standard error of a command.
func (s *Stream) Stderr() io.Reader { return s.o.in[pipeErr] }

// Write writes to the standard input, or to the connection.
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.o.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite says that nothing more is written.
func (s *Stream) CloseWrite() error {
	s.o.room.end(io.ErrClosedPipe)
	return s.o.c.send(context.Background(), appendFrame(nil, kindEnd, s.o.id, []byte{pipeIn}))
}

// Wait returns how a command ended, when its outputs were read. Only one may wait.
func (s *Stream) Wait(ctx context.Context) (Result, error) {
	body, err := s.o.wait(ctx)
	if err != nil {
		return Result{}, err
	}
	d := decoder{buf: body}
	var r Result
	r.decode(&d)
	if !d.done() {
		return Result{}, s.o.c.lose(errWire)
	}
	return r, nil
}

// Close kills the command, or closes the connection or the file.
func (s *Stream) Close() error {
	s.o.done()
	return nil
}

// send has a frame written.
func (c *Conn) send(ctx context.Context, frame []byte) error {
	select {
	case c.out <- frame:
		return nil
	case <-c.lost:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write writes frames, and tells the supervisor that somebody is there.
func (c *Conn) write() {
	var tick <-chan time.Time
	hello := c.hello
	var ticker *time.Ticker
	defer func() {
		if ticker != nil {
			ticker.Stop()
		}
	}()
	var buf []byte
	for {
		buf = buf[:0]
		select {
		case f := <-c.out:
			buf = append(buf, f...)
		case <-hello:
			hello = nil
			if c.ttl > 0 {
				ticker = time.NewTicker(max(c.ttl/4, time.Millisecond))
				tick = ticker.C
			}
			continue
		case <-tick:
			buf = appendFrame(buf, kindPing, 0)
		case <-c.lost:
			return
		}
	more:
		for len(buf) < 2*chunk { // what waits goes with it
			select {
			case f := <-c.out:
				buf = append(buf, f...)
			default:
				break more
			}
		}
		if _, err := c.rw.Write(buf); err != nil {
			_ = c.lose(err)
			return
		}
		if cap(buf) > 8*chunk {
			buf = nil
		}
	}
}

// lose ends all: nothing more can be asked. The first reason counts; it is returned.
func (c *Conn) lose(err error) error {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	c.err = &LostError{err}
	calls := c.calls
	c.calls = nil
	close(c.lost)
	c.mu.Unlock()
	for _, o := range calls {
		o.end(c.err)
	}
	c.rw.Close()
	return c.err
}

// read takes what the supervisor sends.
func (c *Conn) read() {
	frames := frameReader{r: c.rw}
	f, err := frames.next()
	if err == nil {
		rest, ok := bytes.CutPrefix(f.body, []byte(magic))
		d := decoder{buf: rest}
		c.ttl = time.Duration(d.uint())
		if f.kind == kindReply {
			err = errors.New("its supervisor cannot work: " + string(f.body[:min(len(f.body), 1000)]))
		} else if f.kind != kindHello || !ok || !d.done() {
			err = errWire
		}
	}
	if err == nil {
		close(c.hello)
	}
	for err == nil {
		if f, err = frames.next(); err == nil && !c.frame(f) {
			err = errWire
		}
	}
	if err == io.EOF {
		err = errors.New("its supervisor has ended")
	}
	_ = c.lose(err)
}

// frame takes one frame. It reports whether it makes sense.
func (c *Conn) frame(f frame) bool {
	if f.kind == kindPing {
		return true
	}
	c.mu.Lock()
	o := c.calls[f.id]
	if f.kind == kindReply {
		delete(c.calls, f.id)
	}
	known := f.id <= c.next
	c.mu.Unlock()
	if o == nil {
		return known // its caller has gone
	}
	d := decoder{buf: f.body}
	switch f.kind {
	case kindData:
		pipe := d.byte()
		switch {
		case d.bad || pipe != pipeOut && pipe != pipeErr:
			return false
		case o.in[pipe] != nil:
			o.once.Do(func() { close(o.started) })
			return o.in[pipe].put(d.buf)
		case len(o.kept[pipe])+len(d.buf) > o.limit:
			return false
		}
		o.kept[pipe] = append(o.kept[pipe], d.buf...)
		return true
	case kindEnd:
		pipe := d.byte()
		if !d.done() || pipe != pipeOut && pipe != pipeErr || o.in[pipe] == nil {
			return false
		}
		o.in[pipe].end(io.EOF)
		return true
	case kindWindow:
		pipe, n := d.byte(), d.uint()
		return d.done() && pipe == pipeIn && o.room.add(n)
	case kindReply:
		code := Code(d.byte())
		if d.bad || code > Canceled {
			return false
		}
		r := answer{body: bytes.Clone(d.buf)}
		end := io.ErrUnexpectedEOF
		if code != 0 {
			r.err = &Error{code, string(d.buf)}
			o.end(r.err)
		} else {
			o.end(end)
		}
		o.reply <- r
		return true
	}
	return false
}
