package anthropic

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"matrix/llm"
	"matrix/llm/internal/rest"
)

// slowBody is a body of 40 events, 100 ms apart, and a last one. It notes when it
// is to be quiet.
type slowBody struct {
	events int
	told   []bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	time.Sleep(100 * time.Millisecond)
	switch b.events++; {
	case b.events <= 40:
		return copy(p, "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n"), nil
	case b.events == 41:
		return copy(p, "data: {\"type\":\"message_stop\"}\n\n"), nil
	}
	return 0, io.EOF
}

func (b *slowBody) Quiet(on bool) { b.told = append(b.told, on) }
func (b *slowBody) Close() error  { return nil }

// Where nobody looks at each piece, the connection wakes nobody between two reads.
func TestStreamIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s, err := llm.NewStream(t.Context(), &llm.Request{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		body := &slowBody{}
		res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}
		w := &Driver{conn: &rest.Conn{}}
		rep, f := w.stream(ctx, res, s)
		if f != nil || len(rep.Choices[0].Text) != 40 {
			t.Fatalf("got %+v, %v, want a reply of 40 letters", rep, f)
		}
		if !slices.Contains(body.told, true) || body.told[len(body.told)-1] {
			t.Errorf("the connection was told to be quiet: %v, want true now and then, and false in the end", body.told)
		}
	})
}
