package gemini

import (
	"context"
	"errors"
	"io"
	"net/http"

	"matrix/llm"
)

// exchange is what the SDK does not tell of a call.
type exchange struct {
	status int
	header http.Header
	err    error // of the connection, while the body was read
}

type exchangeKey struct{}

// tap notes an exchange in the context of its request. It ends a broken body as
// if it were whole, since the SDK would write the error to the log.
type tap struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t tap) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok && err == nil {
		x.status, x.header = res.StatusCode, res.Header
		res.Body = &body{res.Body, r.Context(), x, maxBody}
	}
	return res, err
}

// maxBody is the longest reply that is read, in bytes.
const maxBody = 64 << 20

var errTooLong = errors.New("the reply is too long")

type body struct {
	io.ReadCloser
	ctx  context.Context
	x    *exchange
	left int
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 && err == nil {
		err = errTooLong
	}
	if err != nil && err != io.EOF {
		b.x.err = err
		err = io.EOF
	}
	return n, err
}

func (b *body) Close() error {
	_ = b.ReadCloser.Close()
	return nil
}

// broken judges an error of the connection.
func (w *Wire) broken(ctx context.Context, err error) *llm.Failure {
	if errors.Is(err, errTooLong) {
		return &llm.Failure{Kind: llm.Refused, Endpoint: w.base, Sent: true, Msg: "the reply is larger than 64 MiB", Hint: "set max_tokens"}
	}
	f := llm.Broken(ctx, err, w.base, w.answered.Load())
	f.Msg = w.secrets.Hide(f.Msg)
	return f
}
