package sagemaker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sagemakerruntime"
	"github.com/aws/aws-sdk-go-v2/service/sagemakerruntime/types"

	"matrix/llm"
	"matrix/llm/internal/amazon"
	"matrix/llm/openai"
)

// sagemaker is a wire to one endpoint.
type sagemaker struct {
	conn *amazon.Conn
	wire *openai.Wire
}

var _ llm.Wire = (*sagemaker)(nil)

// Probe implements llm.Wire: an endpoint has no call that costs nothing.
func (s *sagemaker) Probe(context.Context) ([]llm.Served, error) { return nil, nil }

// Close implements llm.Wire.
func (s *sagemaker) Close() error { return s.conn.Close() }

// Send implements llm.Wire.
func (s *sagemaker) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	t := &try{stream: llm.Streams(r)}
	rep, err := s.wire.Send(context.WithValue(ctx, tryKey{}, t), r)
	var f *llm.Failure
	switch {
	case err == nil || t.err == nil:
		return rep, err
	case errors.As(err, &f) && f.Kind == llm.Timeout && ctx.Err() == nil:
		return nil, f // the stream stalled, and was ended for it
	}
	// AWS's words say more than that the exchange did not work.
	own := s.conn.Failure(ctx, t.err)
	if g := (*llm.Failure)(nil); f != nil && errors.As(own, &g) {
		g.Params, g.Usage = f.Params, f.Usage
	}
	return nil, own
}

// try is what one Send and the way of its request know of each other.
type try struct {
	stream bool
	err    error // of the SDK
}

type tryKey struct{}

// way carries a request of the OpenAI API as an invocation of an endpoint.
type way struct {
	conn                           *amazon.Conn
	client                         *sagemakerruntime.Client
	endpoint                       string
	component, variant, attributes *string
}

var media = "application/json"

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
	var id *string
	if key := r.Header.Get("Idempotency-Key"); key != "" && len(key) <= 64 {
		id = &key
	}
	if t.stream {
		return w.stream(r, t, body, id)
	}
	out, err := w.client.InvokeEndpoint(r.Context(), &sagemakerruntime.InvokeEndpointInput{
		EndpointName: &w.endpoint, Body: body, ContentType: &media, Accept: &media, InferenceId: id,
		InferenceComponentName: w.component, TargetVariant: w.variant, CustomAttributes: w.attributes,
	})
	if err != nil {
		return w.failed(r, t, err)
	}
	return response(r, http.StatusOK, value(out.ContentType), io.NopCloser(bytes.NewReader(out.Body))), nil
}

func (w *way) stream(r *http.Request, t *try, body []byte, id *string) (*http.Response, error) {
	out, err := w.client.InvokeEndpointWithResponseStream(r.Context(), &sagemakerruntime.InvokeEndpointWithResponseStreamInput{
		EndpointName: &w.endpoint, Body: body, ContentType: &media, InferenceId: id,
		InferenceComponentName: w.component, TargetVariant: w.variant, CustomAttributes: w.attributes,
	}, func(o *sagemakerruntime.Options) { o.Protocol = amazon.Protocol() })
	if err != nil {
		return w.failed(r, t, err)
	}
	return response(r, http.StatusOK, value(out.ContentType), &parts{try: t, from: out.GetStream()}), nil
}

// failed is an error of the SDK. What the container itself answered is an
// answer, which the wire judges.
func (w *way) failed(r *http.Request, t *try, err error) (*http.Response, error) {
	var m *types.ModelError
	if errors.As(err, &m) && value(m.OriginalStatusCode) >= 300 {
		said := value(m.OriginalMessage)
		if said == "" {
			said = value(m.Message)
		}
		return response(r, int(*m.OriginalStatusCode), media, io.NopCloser(strings.NewReader(said))), nil
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

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// parts is the body of a streamed reply: the payloads of its events, which are
// cut anywhere.
type parts struct {
	try  *try
	from *sagemakerruntime.InvokeEndpointWithResponseStreamEventStream
	rest []byte
}

// Read implements io.Reader.
func (p *parts) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		e, ok := <-p.from.Events()
		if !ok {
			if err := p.from.Err(); err != nil {
				p.try.err = named(err)
				return 0, err
			}
			return 0, io.EOF
		}
		if part, ok := e.(*types.ResponseStreamMemberPayloadPart); ok {
			p.rest = part.Value.Bytes
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (p *parts) Close() error {
	return p.from.Close()
}

// named gives an error of a stream the name by which it is documented: what
// broke is in a field of its own.
func named(err error) error {
	var m *types.ModelStreamError
	if errors.As(err, &m) && value(m.ErrorCode_) != "" {
		m.ErrorCodeOverride = m.ErrorCode_
	}
	return err
}
