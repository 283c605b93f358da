package openai

import (
	"bytes"
	"errors"
	"io"
)

// events reads server-sent events, of which only the data counts: lines that
// begin with "data:", joined by line breaks up to an empty line
// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type events struct {
	r    io.Reader
	buf  []byte // read and not used yet: buf[from:]
	from int
	scan int // buf[from:scan] holds no line break
	data []byte
	some bool // data belongs to an event
	read bool // a line was
	max  int
	err  error // of r
}

var errLongEvent = errors.New("an event of the stream is too large")

// newEvents reads events of at most max bytes from r. scratch is a buffer.
func newEvents(r io.Reader, scratch []byte, limit int) *events {
	return &events{r: r, buf: scratch[:0], max: limit}
}

// next returns the data of the next event, which is valid until the call after.
// live is called for each line that is none of an event: it says that the
// server is there. The error at the end is io.EOF, and that of the reader
// otherwise; half an event before it is dropped.
func (e *events) next(live func()) ([]byte, error) {
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
					return nil, errLongEvent
				}
			}
		}
	}
}

// line returns the next line without its break, which is \n or \r\n. What comes
// behind the last one is no line.
func (e *events) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(e.buf[e.scan:], '\n'); i >= 0 {
			line := e.buf[e.from : e.scan+i]
			e.from = e.scan + i + 1
			e.scan = e.from
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		e.scan = len(e.buf)
		if len(e.buf)-e.from > e.max {
			return nil, errLongEvent
		}
		if e.err != nil {
			return nil, e.err
		}
		e.fill()
	}
}

// fill reads more.
func (e *events) fill() {
	if e.from > 0 {
		n := copy(e.buf, e.buf[e.from:])
		e.buf, e.scan, e.from = e.buf[:n], e.scan-e.from, 0
	}
	if len(e.buf) == cap(e.buf) {
		e.buf = append(e.buf, make([]byte, max(1024, len(e.buf)))...)[:len(e.buf)]
	}
	n, err := e.r.Read(e.buf[len(e.buf):cap(e.buf)])
	e.buf = e.buf[:len(e.buf)+n]
	e.err = err
}
