package sagemaker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"matrix/llm"
	"matrix/llm/internal/amazon"
	"matrix/llm/openai"
)

// sagemaker is a driver to one endpoint.
type sagemaker struct {
	conn   *amazon.Conn
	driver *openai.Driver
}

var _ llm.Driver = (*sagemaker)(nil)

// Probe implements llm.Driver: an endpoint has no call that costs nothing.
func (s *sagemaker) Probe(context.Context) ([]llm.Served, error) { return nil, nil }

// Close implements llm.Driver.
func (s *sagemaker) Close() error { return s.conn.Close() }

// Send implements llm.Driver.
func (s *sagemaker) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	t := &try{stream: llm.Streams(r)}
	rep, err := s.driver.Send(context.WithValue(ctx, tryKey{}, t), r)
	var f *llm.Failure
	switch {
	case err == nil || t.err == nil:
		return rep, err
	case errors.As(err, &f) && f.Kind == llm.Timeout && ctx.Err() == nil:
		return nil, f // the stream stalled, and was ended for it
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	// AWS's words say more than that the exchange did not work.
	own := s.conn.Failure(ctx, t.err)
	if f != nil {
		own.Params, own.Usage = f.Params, f.Usage
	}
	return nil, own
}

// try is what one Send and the way of its request know of each other.
type try struct {
	stream bool
	err    error // of the way
}

type tryKey struct{}

// prefix is that of the headers of an invocation.
const prefix = "X-Amzn-Sagemaker-"

// way carries a request of the OpenAI API as an invocation of an endpoint.
type way struct {
	conn   *amazon.Conn
	path   string
	header http.Header
}

const media = "application/json"

// RoundTrip implements http.RoundTripper.
func (w *way) RoundTrip(r *http.Request) (*http.Response, error) {
	t, ok := r.Context().Value(tryKey{}).(*try)
	if r.Method != http.MethodPost || !ok { // an endpoint has invocations only
		return response(r, http.StatusNotFound, "text/plain", io.NopCloser(strings.NewReader("an endpoint has no such path"))), nil
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	h := w.header.Clone()
	if key := r.Header.Get("Idempotency-Key"); key != "" && len(key) <= 64 {
		h.Set(prefix+"Inference-Id", key)
	}
	if t.stream {
		res, err := w.conn.Post(r.Context(), w.path+"invocations-response-stream", h, body)
		if err != nil {
			return w.failed(r, t, err)
		}
		kind := res.Header.Get(prefix + "Content-Type")
		events, err := amazon.NewEvents(res)
		if err != nil {
			return w.failed(r, t, err)
		}
		return response(r, http.StatusOK, kind, &parts{try: t, from: events}), nil
	}
	h.Set("Accept", media)
	res, err := w.conn.Post(r.Context(), w.path+"invocations", h, body)
	if err != nil {
		return w.failed(r, t, err)
	}
	return response(r, http.StatusOK, res.Header.Get("Content-Type"), res.Body), nil
}

// failed is an error of the way. What the container itself answered is an answer,
// which the driver judges.
func (w *way) failed(r *http.Request, t *try, err error) (*http.Response, error) {
	var e *amazon.Exception
	if errors.As(err, &e) && e.Code == "ModelError" {
		var said struct {
			OriginalStatusCode       int
			OriginalMessage, Message string
		}
		if json.Unmarshal(e.Body, &said) == nil && said.OriginalStatusCode >= 300 {
			return response(r, said.OriginalStatusCode, media, io.NopCloser(strings.NewReader(cmp.Or(said.OriginalMessage, said.Message)))), nil
		}
	}
	t.err = err
	return nil, err
}

func response(r *http.Request, status int, media string, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {media}}, Body: body, ContentLength: -1, Request: r,
	}
}

// parts is the body of a streamed reply: the payloads of its events, which are
// cut anywhere.
type parts struct {
	try  *try
	from *amazon.Events
	rest []byte
}

// Read implements io.Reader.
func (p *parts) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		kind, payload, err := p.from.Next()
		switch {
		case err == io.EOF:
			return 0, err
		case err != nil:
			p.try.err = named(err)
			return 0, err
		case kind == "PayloadPart":
			p.rest = payload
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (p *parts) Close() error { return p.from.Close() }

// named gives an error of a stream the name by which it is documented: what
// broke is in a field of its own.
func named(err error) error {
	var e *amazon.Exception
	var said struct{ ErrorCode string }
	if errors.As(err, &e) && json.Unmarshal(e.Body, &said) == nil && said.ErrorCode != "" {
		e.Code = said.ErrorCode
	}
	return err
}
