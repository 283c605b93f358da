package inside

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

const (
	magic    = "matrix inside 1\n" // begins a supervisor's first frame
	maxFrame = 1 << 20             // bytes of a frame, its length not counted
	chunk    = 32 << 10            // bytes that a data frame carries at most, as this end writes them
	window   = 256 << 10           // bytes that may be on their way to a reader
)

// Kinds of frames.
const (
	kindHello   byte = 1 + iota // of a supervisor, once: magic, ttl in ns
	kindRequest                 // op, and what it takes
	kindData                    // pipe, bytes
	kindEnd                     // pipe: nothing more comes through it
	kindWindow                  // pipe, how many bytes more the reader takes
	kindCancel                  // the caller has given up
	kindReply                   // code (0: done), then what the op returns, or a message; in the place of hello why there is no supervisor
	kindPing                    // somebody is there
)

// What is asked for.
const (
	opExec byte = 1 + iota // command, whether stdin flows. Returns the outputs as data, then the result
	opPut                  // path, mode; content flows
	opGet                  // path, most. Returns size, mode; content flows before it
	opOpen                 // command; three pipes flow. Returns the result at its end
	opDial                 // address; two pipes flow, an empty data frame says that it is connected
)

// Pipes of a call.
const (
	pipeIn  byte = iota // towards the inside
	pipeOut             // what comes back
	pipeErr             // standard error of a command
	pipes   = 3
)

var errWire = errors.New("what the other side sends makes no sense")

// A frame is what is sent at once. Its body is valid until the next one is read.
type frame struct {
	kind byte
	id   uint64
	body []byte
}

// A frameReader reads frames.
type frameReader struct {
	r   io.Reader
	buf []byte
}

func (f *frameReader) next() (frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return frame{}, err
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n < 2 || n > maxFrame {
		return frame{}, errWire
	}
	if cap(f.buf) < n || cap(f.buf) > 4*chunk && n <= 2*chunk { // a large frame's buffer is not kept
		f.buf = make([]byte, max(n, 2*chunk))
	}
	b := f.buf[:n]
	if _, err := io.ReadFull(f.r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	id, used := binary.Uvarint(b[1:])
	if used <= 0 || b[0] < kindHello || b[0] > kindPing {
		return frame{}, errWire
	}
	return frame{kind: b[0], id: id, body: b[1+used:]}, nil
}

// appendFrame appends a frame; the parts are its body.
func appendFrame(b []byte, kind byte, id uint64, parts ...[]byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, kind)
	b = binary.AppendUvarint(b, id)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// An encoder appends values to buf.
type encoder struct{ buf []byte }

func (e *encoder) uint(n uint64) { e.buf = binary.AppendUvarint(e.buf, n) }
func (e *encoder) string(s string) {
	e.uint(uint64(len(s)))
	e.buf = append(e.buf, s...)
}
func (e *encoder) strings(list []string) {
	e.uint(uint64(len(list)))
	for _, s := range list {
		e.string(s)
	}
}
func (e *encoder) bool(b bool) {
	if b {
		e.buf = append(e.buf, 1)
	} else {
		e.buf = append(e.buf, 0)
	}
}

// A decoder takes values from buf, and zeros once something did not fit.
type decoder struct {
	buf []byte
	bad bool
}

func (d *decoder) fail() { d.buf, d.bad = nil, true }

// done reports whether all was there, and no more.
func (d *decoder) done() bool { return !d.bad && len(d.buf) == 0 }

func (d *decoder) uint() uint64 {
	n, used := binary.Uvarint(d.buf)
	if used <= 0 || n > 1<<63-1 {
		d.fail()
		return 0
	}
	d.buf = d.buf[used:]
	return n
}

// count is the length of a list whose elements take at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uint()
	if n > uint64(len(d.buf)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.count(1)
	b := d.buf[:n:n]
	d.buf = d.buf[n:]
	return b
}

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) strings() []string {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.string()
	}
	return list
}

func (d *decoder) byte() byte {
	if len(d.buf) == 0 {
		d.fail()
		return 0
	}
	b := d.buf[0]
	d.buf = d.buf[1:]
	return b
}

func (d *decoder) bool() bool { return d.byte() != 0 }

// An inbox is the reading end of a pipe of a call: what came and was not read yet, at most a window of it.
type inbox struct {
	mu     sync.Mutex
	more   sync.Cond
	buf    []byte
	err    error     // why no more comes; io.EOF: it is all
	taken  int       // bytes that were read, and the writer does not know of yet
	credit func(int) // tells the writer how much was read
}

func newInbox(credit func(int)) *inbox {
	b := &inbox{credit: credit}
	b.more.L = &b.mu
	return b
}

// put adds what came. It reports whether the writer kept to the window.
func (b *inbox) put(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return true // nobody reads it
	}
	if len(b.buf)+len(p) > window {
		return false
	}
	b.buf = append(b.buf, p...)
	b.more.Broadcast()
	return true
}

// end says why no more comes. The first reason counts.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.more.Broadcast()
}

// ended reports whether nothing comes, and nothing came.
func (b *inbox) ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.buf) == 0 && b.err != nil
}

// drop ends it without what is still in it.
func (b *inbox) drop(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf, b.err = nil, err
	b.more.Broadcast()
}

func (b *inbox) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b.mu.Lock()
	for len(b.buf) == 0 && b.err == nil {
		b.more.Wait()
	}
	if len(b.buf) == 0 {
		defer b.mu.Unlock()
		return 0, b.err
	}
	n := copy(p, b.buf)
	b.buf = b.buf[n:]
	if len(b.buf) == 0 {
		b.buf = nil
	}
	b.taken += n
	tell := 0
	if b.taken >= window/2 && b.err == nil {
		tell, b.taken = b.taken, 0
	}
	b.mu.Unlock()
	if tell > 0 {
		b.credit(tell)
	}
	return n, nil
}

// An outbox is the writing end of a pipe of a call: how much the reader takes.
type outbox struct {
	mu   sync.Mutex
	more sync.Cond
	room int
	err  error // why nothing is taken any more
}

func newOutbox() *outbox {
	b := &outbox{room: window}
	b.more.L = &b.mu
	return b
}

// take waits for room, and takes n bytes of it at most.
func (b *outbox) take(n int) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.room == 0 && b.err == nil {
		b.more.Wait()
	}
	if b.err != nil {
		return 0, b.err
	}
	n = min(n, b.room, chunk)
	b.room -= n
	return n, nil
}

// add gives room back. It reports whether the reader told the truth.
func (b *outbox) add(n uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > uint64(window-b.room) {
		return false
	}
	b.room += int(n)
	b.more.Broadcast()
	return true
}

func (b *outbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.more.Broadcast()
}
