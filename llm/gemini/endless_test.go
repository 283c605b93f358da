package gemini

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"matrix/llm"
	"matrix/llm/internal/rest"
)

// endless is a body that repeats an event until ctx ends.
type endless struct {
	ctx   context.Context
	event string
	at    int
	read  int // bytes
}

func (b *endless) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, b.ctx.Err()
	}
	n := copy(p, b.event[b.at:])
	b.at = (b.at + n) % len(b.event)
	b.read += n
	return n, nil
}

func (b *endless) Close() error { return nil }

// What is kept of a stream beside its text has a bound, too.
func TestStreamWithoutEnd(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	for name, part := range map[string]string{
		"logprobs":          `"logprobsResult":{"chosenCandidates":[{"token":"` + big + `"}]}`,
		"signed thoughts":   `"content":{"parts":[{"thought":true,"text":"","thoughtSignature":"` + big + `"}]}`,
		"names of tools":    `"content":{"parts":[{"functionCall":{"name":"` + big + `","args":{}}}]}`,
		"calls without end": `"content":{"parts":[` + strings.Repeat(`{"functionCall":{"name":"f"}},`, 10_000) + `{"text":""}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s, err := llm.NewStream(t.Context(), &llm.Request{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			body := &endless{ctx: ctx, event: `data: {"candidates":[{` + part + "}]}\n\n"}
			w := &Driver{conn: &rest.Conn{}}
			_, f := w.stream(ctx, &http.Response{StatusCode: http.StatusOK, Body: body}, s)
			if large := s.Stalled(ctx, ""); f == nil || large == nil || !strings.Contains(large.Msg, "larger than") || body.read > 8*llm.MaxReply {
				t.Errorf("got %v after %d bytes, want a reply that is too large", f, body.read)
			}
		})
	}
}
