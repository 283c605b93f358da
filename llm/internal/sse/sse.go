// Package sse reads server-sent events, as model services stream replies.
package sse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"time"
)

// Reader reads events, of which only the data counts: lines that begin with
// "data:", joined by line breaks up to an empty line
// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type Reader struct {
	// Wait is called before each read, with the bytes that the one before brought;
	// nil for nothing.
	Wait func(read int)

	Stray []byte // lines that are of no event, each with a line break: some services write an error so

	r    io.Reader
	buf  []byte // read and not used yet: buf[from:]
	from int
	scan int // buf[from:scan] holds no line break
	data []byte
	some bool // data belongs to an event
	read bool // a line was
	max  int
	last int   // bytes that the last read brought
	err  error // of r
}

// ErrLong is an event of more bytes than are read.
var ErrLong = errors.New("an event of the stream is too large")

// bom is the mark that some servers write before a text.
const bom = "\ufeff"

const blanks = " \t\r\n"

// New reads events of at most limit bytes from r. scratch is a buffer; it may be
// nil.
func New(r io.Reader, scratch []byte, limit int) *Reader {
	return &Reader{r: r, buf: scratch[:0], max: limit}
}

// Next returns the data of the next event, which is valid until the call after.
// live is called for each line that is not part of an event: it says that the
// server is there. The error at the end is io.EOF, and that of the reader
// otherwise; half an event before it is dropped.
func (e *Reader) Next(live func()) ([]byte, error) {
	e.data, e.some = e.data[:0], false
	for {
		line, err := e.line()
		if err != nil {
			return nil, err
		}
		if !e.read {
			line, e.read = bytes.TrimPrefix(line, []byte(bom)), true
		}
		switch {
		case len(line) == 0 && e.some:
			return e.data, nil
		case len(line) == 0:
		case line[0] == ':':
			live()
		default:
			if v, ok := bytes.CutPrefix(line, []byte("data:")); ok {
				if e.some {
					e.data = append(e.data, '\n')
				}
				if len(v) > 0 && v[0] == ' ' {
					v = v[1:]
				}
				e.data = append(e.data, v...)
				e.some = true
				if len(e.data) > e.max {
					return nil, ErrLong
				}
			} else if !field(line) && len(e.Stray) < maxStray {
				e.Stray = append(append(e.Stray, line...), '\n')
			}
		}
	}
}

// Here reports whether events are what comes, rather than a body of another kind,
// whatever its content type says. It skips what may stand before either: blank
// lines, and comments, for each of which live is called.
func (e *Reader) Here(media string, live func()) bool {
	odd := strings.HasPrefix(media, "application/json") || strings.HasPrefix(media, "text/html")
	for {
		if !e.read && len(e.buf) >= len(bom) {
			e.buf, e.read = bytes.TrimPrefix(e.buf, []byte(bom)), true
		}
		switch b := bytes.TrimLeft(e.buf[e.from:], blanks); {
		case len(b) == 0 && e.err != nil:
			return !odd
		case len(b) == 0, !e.read && e.err == nil:
			e.fill()
		case b[0] == ':':
			e.from = len(e.buf) - len(b)
			e.scan = e.from
			if _, err := e.line(); err != nil {
				return !odd
			}
			live()
		default:
			return b[0] != '{' && b[0] != '[' && b[0] != '<' && !(odd && !Is(b))
		}
	}
}

// Left is what has not been read yet.
func (e *Reader) Left() io.Reader {
	rest := bytes.NewReader(e.buf[e.from:])
	if e.err != nil {
		return io.MultiReader(rest, failed{e.err})
	}
	return io.MultiReader(rest, e.r)
}

type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// Is reports whether a body begins as events do.
func Is(body []byte) bool {
	for _, field := range []string{"data:", "event:", "id:", "retry:"} {
		if n := min(len(body), len(field)); n > 0 && string(body[:n]) == field[:n] {
			return true
		}
	}
	return false
}

// Uncommented is a body without the comments before it that servers keep a
// connection alive with.
func Uncommented(body []byte) []byte {
	body = bytes.TrimPrefix(body, []byte(bom))
	for {
		body = bytes.TrimLeft(body, blanks)
		if len(body) == 0 || body[0] != ':' {
			return body
		}
		_, body, _ = bytes.Cut(body, []byte("\n"))
	}
}

// maxStray is how many bytes of stray lines are kept, or a line more.
const maxStray = 64 << 10

// field reports whether a line is one of an event.
func field(line []byte) bool {
	name, _, _ := bytes.Cut(line, []byte(":"))
	switch string(name) {
	case "data", "event", "id", "retry":
		return true
	}
	return false
}

// line returns the next line without its break, which is \n or \r\n. What comes
// behind the last one is not a line.
func (e *Reader) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(e.buf[e.scan:], '\n'); i >= 0 {
			line := e.buf[e.from : e.scan+i]
			e.from = e.scan + i + 1
			e.scan = e.from
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		e.scan = len(e.buf)
		if len(e.buf)-e.from > e.max {
			return nil, ErrLong
		}
		if e.err != nil {
			return nil, e.err
		}
		e.fill()
	}
}

// fill reads more.
func (e *Reader) fill() {
	if e.from > 0 {
		n := copy(e.buf, e.buf[e.from:])
		e.buf, e.scan, e.from = e.buf[:n], e.scan-e.from, 0
	}
	if len(e.buf) == cap(e.buf) {
		e.buf = append(e.buf, make([]byte, max(1024, len(e.buf)))...)[:len(e.buf)]
	}
	if e.Wait != nil {
		e.Wait(e.last)
	}
	n, err := e.r.Read(e.buf[len(e.buf):cap(e.buf)])
	e.buf = e.buf[:len(e.buf)+n]
	e.last, e.err = n, err
}

// Drain reads what is left behind the last event, for a moment, so that the
// connection can be used again. end ends the reading.
func Drain(body io.Reader, end func()) {
	stop := time.AfterFunc(250*time.Millisecond, end)
	defer stop.Stop()
	_, _ = io.CopyN(io.Discard, body, 4<<10) // it only saves a connection
}
