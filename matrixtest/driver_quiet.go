package matrixtest

import (
	"context"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"matrix/llm"
)

// QuietStream checks how a driver reads a streamed reply that nobody follows: in
// pauses, in which its connection wakes nobody. event carries the text "a", last
// ends the reply, and read is the driver's reading of a response.
func QuietStream(t *testing.T, event, last string, read func(context.Context, *http.Response, *llm.Stream) (*llm.Reply, *llm.Failure)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s, err := llm.NewStream(t.Context(), &llm.Request{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		body := &slowBody{event: event, last: last}
		res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}
		rep, f := read(ctx, res, s)
		if f != nil || len(rep.Choices[0].Text) != 40 {
			t.Fatalf("got %+v, %v, want a reply of 40 letters", rep, f)
		}
		if !slices.Contains(body.quiet, true) || body.quiet[len(body.quiet)-1] {
			t.Errorf("the connection was told to be quiet: %v, want true now and then, and false in the end", body.quiet)
		}
	})
}

// slowBody is a body of 40 events, 100 ms apart, and a last one. It notes when it
// is to be quiet.
type slowBody struct {
	event, last string
	events      int
	quiet       []bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	time.Sleep(100 * time.Millisecond)
	switch b.events++; {
	case b.events <= 40:
		return copy(p, "data: "+b.event+"\n\n"), nil
	case b.events == 41:
		return copy(p, "data: "+b.last+"\n\n"), nil
	}
	return 0, io.EOF
}

func (b *slowBody) Quiet(on bool) { b.quiet = append(b.quiet, on) }
func (b *slowBody) Close() error  { return nil }
