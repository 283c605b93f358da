package vllmgrpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"matrix/llm"
)

// maxMessage is the longest message that is read, in bytes.
const maxMessage = 64 << 20

// statuses are gRPC's codes, by number, with the HTTP status that says the same,
// as google.rpc.Code has them:
// https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
// An RPC that the server cancelled is as a connection that broke.
var statuses = [...]struct {
	name string
	http int
}{
	0: {"OK", 200}, 1: {"CANCELLED", 502}, 2: {"UNKNOWN", 500}, 3: {"INVALID_ARGUMENT", 400}, 4: {"DEADLINE_EXCEEDED", 504},
	5: {"NOT_FOUND", 404}, 6: {"ALREADY_EXISTS", 409}, 7: {"PERMISSION_DENIED", 403}, 8: {"RESOURCE_EXHAUSTED", 429},
	9: {"FAILED_PRECONDITION", 400}, 10: {"ABORTED", 409}, 11: {"OUT_OF_RANGE", 400}, 12: {unimplemented, 501},
	13: {"INTERNAL", 500}, 14: {"UNAVAILABLE", 503}, 15: {"DATA_LOSS", 500}, 16: {"UNAUTHENTICATED", 401},
}

const unimplemented = "UNIMPLEMENTED"

// stream is an RPC under way.
type stream struct {
	w     *driver
	ctx   context.Context
	res   *http.Response
	body  io.Reader // of res
	began bool      // a message came
}

// connect makes the driver's pool of connections. A base URL that is pinned leads
// to the address that it names.
func (w *driver) connect(u *url.URL, addr string) {
	w.endpoint = u.Scheme + "://" + u.Host
	w.http = llm.NewTransport(llm.TransportOptions{H2C: true})
	if addr == "" {
		return
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	dial := w.http.DialContext
	w.http.Proxy = nil
	w.http.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, net.JoinHostPort(addr, port))
	}
}

// call begins an RPC. The stream is the caller's to close.
func (w *driver) call(ctx context.Context, method string, in message) (*stream, *llm.Failure) {
	frame := make([]byte, 5, 5+len(in)) // not compressed, and how long it is
	binary.BigEndian.PutUint32(frame[1:], uint32(len(in)))
	frame = append(frame, in...)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.endpoint+"/"+method, bytes.NewReader(frame))
	if err != nil {
		return nil, &llm.Failure{Kind: llm.Refused, Endpoint: w.endpoint, Msg: err.Error()}
	}
	r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"matrix"}}
	if w.key != "" {
		r.Header.Set("Authorization", "Bearer "+w.key)
	}
	if at, ok := ctx.Deadline(); ok {
		if left := time.Until(at).Milliseconds(); left > 0 && left < 1e8 {
			r.Header.Set("Grpc-Timeout", strconv.FormatInt(left, 10)+"m")
		}
	}
	res, err := w.http.RoundTrip(r) //nolint:bodyclose // stream.close does
	if err != nil {
		return nil, w.broken(ctx, err)
	}
	s := &stream{w: w, ctx: ctx, res: res, body: res.Body}
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/grpc") {
		defer s.close()
		return nil, w.stranger(res)
	}
	w.reached.Store(true)
	if res.Header.Get("Grpc-Status") != "" { // the trailers alone came
		defer s.close()
		if f := s.end(res.Header); f != nil {
			return nil, f
		}
		return nil, &llm.Failure{Kind: llm.Fault, Endpoint: w.endpoint, EmptyReply: true, Sent: true, Msg: "the server answered with success, and without a reply"}
	}
	return s, nil
}

// close ends the RPC, also where the server has not.
func (s *stream) close() { s.res.Body.Close() }

// next reads a message. There are no more where the RPC ended well.
func (s *stream) next() (b []byte, more bool, f *llm.Failure) {
	var head [5]byte
	if _, err := io.ReadFull(s.body, head[:]); err == io.EOF {
		return nil, false, s.end(s.res.Trailer)
	} else if err != nil {
		return nil, false, s.w.broken(s.ctx, err)
	}
	n := binary.BigEndian.Uint32(head[1:])
	switch {
	case head[0] != 0:
		return nil, false, s.fault("the server compressed its reply, unasked")
	case n > maxMessage:
		return nil, false, &llm.Failure{Kind: llm.Refused, Endpoint: s.w.endpoint, Sent: true,
			Msg: fmt.Sprintf("the reply is larger than %d bytes", maxMessage), Hint: "set max_tokens"}
	}
	var all bytes.Buffer // grows with what comes, not with what was announced
	if _, err := io.CopyN(&all, s.body, int64(n)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, false, s.w.broken(s.ctx, err)
	}
	s.began = true
	return all.Bytes(), true, nil
}

func (s *stream) fault(msg string) *llm.Failure {
	return &llm.Failure{Kind: llm.Fault, Endpoint: s.w.endpoint, EmptyReply: !s.began, Sent: true, Msg: msg}
}

// end judges the trailers of an RPC: nil for OK.
func (s *stream) end(h http.Header) *llm.Failure {
	text := h.Get("Grpc-Status")
	n, err := strconv.Atoi(text)
	switch {
	case text == "":
		return s.w.broken(s.ctx, io.ErrUnexpectedEOF) // cut off between two messages
	case err != nil || n < 0 || n >= len(statuses):
		return s.fault(fmt.Sprintf("the RPC ended with grpc-status %q", llm.Shorten(text, 20)))
	case n == 0:
		return nil
	}
	code := statuses[n]
	f := &llm.Failure{Endpoint: s.w.endpoint, Code: code.name, Msg: h.Get("Grpc-Message")}
	if msg, err := url.PathUnescape(f.Msg); err == nil {
		f.Msg = msg
	}
	f.Msg = llm.Shorten(s.w.secrets.Hide(f.Msg), 1000)
	if f.Msg == "" {
		f.Msg = code.name
	}
	word := ""
	if code.http == http.StatusForbidden { // gRPC's word for who may not call at all
		word = code.name
	}
	f.Kind, f.Hint = llm.Judge(code.http, word, "")
	f.Sent = s.began || f.Kind == llm.Fault || f.Kind == llm.Timeout
	if ms, err := strconv.Atoi(h.Get("Grpc-Retry-Pushback-Ms")); err == nil && ms > 0 {
		f.After = time.Duration(ms) * time.Millisecond
	}
	return f
}

// stranger judges an answer that is not gRPC's: of a proxy, or of a server that
// is none of gRPC.
func (w *driver) stranger(res *http.Response) *llm.Failure {
	f := &llm.Failure{Endpoint: w.endpoint, Status: res.StatusCode, After: llm.RetryAfter(res.Header, time.Now())}
	f.Msg = fmt.Sprintf("the answer is %s and not gRPC's", llm.Shorten(res.Header.Get("Content-Type"), 60))
	if res.StatusCode != http.StatusOK {
		f.Msg = "the answer is " + strconv.Itoa(res.StatusCode) + " " + http.StatusText(res.StatusCode) + ", and not gRPC's"
		f.Kind, f.Hint = llm.Judge(res.StatusCode, "", "")
		if res.StatusCode == http.StatusNotFound {
			f.Hint = hintPort
		}
		return f
	}
	f.Kind, f.Sent = llm.Transport, true // somebody on the way answered
	if !w.reached.Load() {
		f.Kind, f.Hint = llm.Fatal, hintPort
	}
	return f
}

const hintPort = "check base_url: it is the port of vLLM's --grpc-port, not that of its HTTP API"

// broken judges an error of the connection.
func (w *driver) broken(ctx context.Context, err error) *llm.Failure {
	f := llm.Broken(ctx, err, w.endpoint, w.reached.Load())
	f.Msg = w.secrets.Hide(f.Msg)
	if f.Kind == llm.Transport && f.Hint == "" && !w.reached.Load() {
		f.Hint = hintPort
	}
	return f
}
