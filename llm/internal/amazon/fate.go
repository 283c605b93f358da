package amazon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"matrix/llm"
)

// Failure judges an error of the SDK: an *llm.Failure, or ctx's error where ctx
// ended. An exception of the service is judged by its name, which is documented,
// and by its HTTP status.
func (c *Conn) Failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f := c.judge(ctx, err)
	f.Endpoint, f.Msg = c.Endpoint, c.keys.hide(f.Msg)
	return f
}

func (c *Conn) judge(ctx context.Context, err error) *llm.Failure {
	var (
		key  *keyError
		api  smithy.APIError
		send *smithyhttp.RequestSendError
		res  *smithyhttp.ResponseError
	)
	f := &llm.Failure{}
	if errors.As(err, &res) && res.Response != nil && res.Response.Response != nil {
		f.Status = res.HTTPStatusCode()
		f.After = llm.RetryAfter(res.Response.Header, time.Now())
	}
	switch {
	case errors.As(err, &key):
		f.Kind, f.Code, f.Msg = llm.Fatal, "credentials", llm.Shorten(key.Error(), 300)
		f.Hint = "give credentials by " + c.env + ", or the role of the instance"
		if key.had {
			f.Kind, f.Hint = llm.Unreachable, "" // who hands out new ones is away
		}
	case errors.As(err, &api):
		f.Code, f.Msg = api.ErrorCode(), llm.Shorten(api.ErrorMessage(), 1000)
		if f.Msg == "" {
			f.Msg = f.Code
		}
		f.Kind, f.Hint = llm.Judge(f.Status, f.Code, "")
		f.Sent = f.Status == 0 || f.Kind == llm.Timeout || f.Kind == llm.Fault // in a stream, or after it had begun
	case errors.Is(err, errTooLong):
		f.Kind, f.Msg, f.Hint, f.Sent = llm.Refused, errTooLong.Error(), "set max_tokens", true
	case errors.As(err, &send):
		return llm.Broken(ctx, send.Err, c.Endpoint, c.reached.Load())
	case cut(err):
		status, after := f.Status, f.After
		f = llm.Broken(ctx, err, c.Endpoint, true)
		f.Status, f.After = status, after
	case f.Status >= 300:
		f.Kind, f.Hint = llm.Judge(f.Status, "", "")
		f.Msg = http.StatusText(f.Status)
	case f.Status != 0, errors.As(err, new(*smithy.DeserializationError)):
		f.Kind, f.Hollow, f.Sent = llm.Fault, true, true
		f.Msg = "the reply is not one of this service: " + llm.Shorten(err.Error(), 300)
	case errors.As(err, new(smithy.InvalidParamsError)), errors.As(err, new(*smithy.SerializationError)):
		f.Kind, f.Msg = llm.Refused, "the request cannot be sent: "+llm.Shorten(err.Error(), 300)
	default:
		f.Kind, f.Msg, f.Sent = llm.Fault, llm.Shorten(err.Error(), 300), true
	}
	return f
}

// cut says that a connection broke while the reply came.
func cut(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}
