package amazon

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/smithy-go/eventstream"
)

// Events reads a stream of events:
// https://smithy.io/2.0/aws/amazon-eventstream.html
type Events struct {
	// Wait is called before each read, with the bytes that the one before brought;
	// nil for nothing.
	Wait func(read int)

	last   int // bytes that the last read brought
	res    *http.Response
	from   *bufio.Reader
	decode *eventstream.Decoder
	buffer []byte
}

// NewEvents reads those of a response of success. It closes one that has none.
func NewEvents(res *http.Response) (*Events, error) {
	if media := res.Header.Get("Content-Type"); !strings.HasPrefix(media, "application/vnd.amazon.eventstream") {
		res.Body.Close()
		return nil, Garbled(res, fmt.Sprintf("it is not a stream of events, but %q", media))
	}
	e := &Events{res: res, decode: eventstream.NewDecoder()}
	e.from = bufio.NewReader(waiting{e})
	return e, nil
}

// waiting reads the body of events.
type waiting struct{ e *Events }

func (w waiting) Read(b []byte) (n int, err error) {
	if w.e.Wait != nil {
		w.e.Wait(w.e.last)
	}
	n, err = w.e.res.Body.Read(b)
	w.e.last = n
	return n, err
}

// Next returns the type and the payload of the next event, which is valid until
// the call after. The error at the end is io.EOF, and that of the reader, or an
// *Exception, otherwise.
func (e *Events) Next() (kind string, payload []byte, err error) {
	for {
		m, err := e.decode.Decode(e.from, e.buffer[:0])
		var (
			length eventstream.LengthError
			sum    eventstream.ChecksumError
		)
		switch {
		case errors.As(err, &length), errors.As(err, &sum):
			return "", nil, Garbled(e.res, err.Error())
		case err != nil:
			return "", nil, err
		}
		if cap(m.Payload) > cap(e.buffer) {
			e.buffer = m.Payload
		}
		text := func(name string) string {
			if v, ok := m.Headers.Get(name).(eventstream.StringValue); ok {
				return string(v)
			}
			return ""
		}
		switch text(":message-type") {
		case "event":
			return text(":event-type"), m.Payload, nil
		case "exception":
			x := &Exception{Body: append([]byte(nil), m.Payload...)}
			x.read()
			if name := text(":exception-type"); name != "" { // written as a member is: throttlingException
				x.Code = strings.ToUpper(name[:1]) + name[1:]
			}
			return "", nil, x
		case "error":
			return "", nil, &Exception{Code: text(":error-code"), Msg: text(":error-message")}
		}
	}
}

// Close closes the response.
func (e *Events) Close() error { return e.res.Body.Close() }
