package amazon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"matrix/llm"
)

// Exception is an error that a service tells, in the REST JSON protocol or in a
// stream: https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html#operation-error-serialization.
type Exception struct {
	Status int    // 0 in a stream
	Code   string // its documented name; may be empty
	Msg    string
	Body   []byte

	after time.Duration
}

func (e *Exception) Error() string { return e.Code + ": " + e.Msg }

// complaint reads a response of an error.
func complaint(res *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	e := &Exception{Status: res.StatusCode, Code: res.Header.Get("X-Amzn-Errortype"), Body: body}
	e.after = llm.RetryAfter(res.Header, time.Now())
	e.read()
	return e
}

// read takes from the body what it says.
func (e *Exception) read() {
	var said struct {
		Code    string `json:"code"`
		Type    string `json:"__type"`
		Message string `json:"message"` // or Message
	}
	_ = json.Unmarshal(e.Body, &said) // what it is not says no more than its status
	e.Code, _, _ = strings.Cut(cmp.Or(e.Code, said.Code, said.Type), ":")
	if _, name, ok := strings.Cut(e.Code, "#"); ok {
		e.Code = name
	}
	e.Msg = said.Message
}

// garbled is a response of success that is none of the service.
type garbled struct {
	status int
	msg    string
}

func (g *garbled) Error() string { return g.msg }

// Garbled is the error of a response of success that cannot be read.
func Garbled(res *http.Response, msg string) error { return &garbled{res.StatusCode, msg} }

// Read reads a whole response, and closes it.
func Read(ctx context.Context, res *http.Response) ([]byte, error) {
	defer res.Body.Close()
	return io.ReadAll(llm.Counted(ctx, res.Body))
}

// Failure judges an error of Post, Read or Events. An exception of the service is
// judged by its name, which is documented, and by its HTTP status.
func (c *Conn) Failure(ctx context.Context, err error) *llm.Failure {
	f := c.judge(ctx, err)
	f.Endpoint, f.Code, f.Msg = c.Endpoint, c.keys.hide(f.Code), c.keys.hide(f.Msg)
	return f
}

func (c *Conn) judge(ctx context.Context, err error) *llm.Failure {
	var (
		key   *keyError
		said  *Exception
		none  *garbled
		field *llm.FieldError
	)
	f := &llm.Failure{}
	switch {
	case errors.As(err, &key):
		f.Kind, f.Code, f.Msg = llm.Fatal, "credentials", llm.Shorten(c.keys.hide(key.Error()), 300)
		f.Hint = "give credentials by " + c.env + ", or the role of the instance"
		if key.had {
			f.Kind, f.Hint = llm.Unreachable, "" // who hands out new ones is away
		}
	case errors.As(err, &said):
		f.Status, f.Code, f.Msg, f.After = said.Status, said.Code, llm.Shorten(c.keys.hide(said.Msg), 1000), said.after
		f.Msg = cmp.Or(f.Msg, f.Code, http.StatusText(f.Status))
		f.Kind, f.Hint = llm.Judge(f.Status, f.Code, "")
		f.Sent = f.Status == 0 || f.Kind == llm.Timeout || f.Kind == llm.Fault // in a stream, or after it had begun
	case errors.Is(err, errTooLong):
		f = llm.TooLarge(c.Endpoint, http.StatusOK, llm.MaxReply)
	case errors.As(err, &none):
		f.Kind, f.Status, f.EmptyReply, f.Sent = llm.Fault, none.status, true, true
		f.Msg = "the reply is not one of this service: " + llm.Shorten(c.keys.hide(none.msg), 300)
	case errors.As(err, &field):
		f.Kind, f.Msg = llm.Fatal, llm.Shorten(c.keys.hide(err.Error()), 300)
	default:
		f = llm.Broken(ctx, err, c.Endpoint, c.reached.Load())
	}
	return f
}
