package llm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// newStream begins a stream that ends with t.
func newStream(t *testing.T, r *Request) (context.Context, *Stream) {
	t.Helper()
	ctx, s, err := NewStream(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return ctx, s
}

func TestStreamUntil(t *testing.T) {
	for _, c := range []struct {
		name, until string
		pieces      []string
		want        string
		took        int // pieces that were asked for
	}{
		{"none", "", []string{"a", "b"}, "ab", 2},
		{"within a piece", "b", []string{"abc", "d"}, "ab", 1},
		{"over pieces", "</answer>", []string{"x</ans", "wer", "</an", "swer>rest", "y"}, "x</answer</answer>", 4},
		{"a literal beginning", `END\d`, []string{"END", "ENDE", "ND1x"}, "ENDENDEND1", 3},
		{"no literal", `(?i)stop[.!]`, []string{"do St", "OP", "! go"}, "do StOP!", 3},
		{"anchored", `^ab+c`, []string{"a", "bbb", "c"}, "abbbc", 3},
		{"anchored, in the middle", `^ab`, []string{"x", "ab", "c"}, "xabc", 3},
		{"never", "z", []string{"a", "b"}, "ab", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			heard := ""
			_, s := newStream(t, &Request{Sampling: Sampling{Until: c.until}, OnDelta: func(d Delta) bool { heard += d.Text; return true }})
			took := 0
			for _, p := range c.pieces {
				took++
				if !s.Text(0, p) {
					break
				}
			}
			if got := s.Choices()[0].Text; got != c.want || heard != c.want || took != c.took {
				t.Errorf("got %q, heard %q, after %d pieces, want %q after %d", got, heard, took, c.want, c.took)
			}
			if ended := c.until != "" && took < len(c.pieces) || c.name == "over pieces"; ended && s.Choices()[0].Finish != "stop" {
				t.Errorf("finish: got %q, want stop", s.Choices()[0].Finish)
			}
		})
	}
}

func TestStreamOfSeveral(t *testing.T) {
	_, s := newStream(t, &Request{Sampling: Sampling{N: 2, Until: "!"}})
	for i, p := range []struct {
		choice int
		text   string
		more   bool
	}{{1, "one!", true}, {1, "more", true}, {0, "two", true}, {0, "!", false}} {
		if more := s.Text(p.choice, p.text); more != p.more {
			t.Errorf("piece %d: got %v, want %v", i, more, p.more)
		}
	}
	got := s.Choices()
	if len(got) != 2 || got[0].Text != "two!" || got[1].Text != "one!" {
		t.Errorf("got %+v, want two! and one!", got)
	}
}

func TestStreamPutsTogether(t *testing.T) {
	var heard []string
	_, s := newStream(t, &Request{OnDelta: func(d Delta) bool { heard = append(heard, fmt.Sprint(d)); return true }})
	s.Reasoning(0, "hm")
	s.Text(0, "so")
	s.ToolCall(0, 1, "b", "second", "")
	s.ToolCall(0, 0, "a", "first", `{"x"`)
	s.ToolCall(0, 0, "", "", `:1}`)
	s.ToolCall(0, -1, "c", "out of bounds", "")
	s.Finish(0, "tool_calls")
	want := []Choice{{Text: "so", Reasoning: "hm", Finish: "tool_calls", ToolCalls: []ToolCall{
		{ID: "a", Name: "first", Arguments: `{"x":1}`}, {ID: "b", Name: "second"},
	}}}
	if got := s.Choices(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(heard) != 2 || s.First() <= 0 || s.Tokens() != 3 {
		t.Errorf("heard %q, first after %v, %d tokens; want 2 pieces, some time, 3 tokens", heard, s.First(), s.Tokens())
	}
}

func TestStreamEnds(t *testing.T) {
	_, s := newStream(t, &Request{OnDelta: func(d Delta) bool { return d.Text != "b" }})
	if !s.Text(0, "a") || s.Text(0, "b") || s.Text(0, "c") || !s.Ended() {
		t.Error("the stream did not end with b")
	}
	if got := s.Choices()[0]; got.Text != "ab" || got.Finish != "stop" {
		t.Errorf("got %+v, want ab and stop", got)
	}
}

// What is kept of a reply beside its texts has the same bound.
func TestStreamTooLarge(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	for name, more := range map[string]func(s *Stream, nth int){
		"names of tools":   func(s *Stream, nth int) { s.ToolCall(0, nth, "", big, "") },
		"ids of calls":     func(s *Stream, nth int) { s.ToolCall(0, nth, big, "f", "") },
		"arguments":        func(s *Stream, nth int) { s.ToolCall(0, 0, "1", "f", big) },
		"what was thought": func(s *Stream, nth int) { s.Reasoning(0, big) },
	} {
		ctx, s := newStream(t, &Request{})
		for nth := range MaxReply>>20 + 1 {
			more(s, nth)
		}
		if f := s.Stalled(ctx, "e"); f == nil || f.Kind != Refused || !strings.Contains(f.Msg, "larger than") {
			t.Errorf("%s: got %v, want a reply that is too large", name, f)
		}
	}
}

func TestStreamStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s, err := NewStream(t.Context(), &Request{Sampling: Sampling{Stall: time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		time.Sleep(time.Minute) // the first piece may take its time
		for range 3 {
			s.Text(0, "x")
			time.Sleep(900 * time.Millisecond)
			s.Alive()
			time.Sleep(900 * time.Millisecond)
		}
		if ctx.Err() != nil || s.Stalled(ctx, "e") != nil {
			t.Fatal("a stream that goes on counts as stalled")
		}
		time.Sleep(200 * time.Millisecond)
		f := s.Stalled(ctx, "e")
		if ctx.Err() == nil || f == nil || f.Kind != Timeout || !f.Sent || !strings.Contains(f.Msg, "1s") {
			t.Errorf("got %+v, want a timeout of 1s", f)
		}
	})
}

// quietBody is a body that notes when it is to be quiet.
type quietBody struct {
	io.Reader
	told []bool
}

func (b *quietBody) Quiet(on bool) { b.told = append(b.told, on) }

// A stream is read some pieces at a time only where nobody looks at each, late in
// a reply, and never for so long that it counts.
func TestStreamPauses(t *testing.T) {
	for _, c := range []struct {
		name   string
		r      Request
		after  time.Duration // since it began
		read   int           // bytes by the last read
		begun  bool
		atMost time.Duration // 0: not at all
	}{
		{"before the first piece", Request{}, time.Minute, 100, false, 0},
		{"a short one", Request{}, 399 * time.Millisecond, 100, true, 0},
		{"a longer one", Request{}, 401 * time.Millisecond, 100, true, 25 * time.Millisecond},
		{"a long one", Request{}, time.Minute, 100, true, 100 * time.Millisecond},
		{"a fast one", Request{}, time.Second, 40 << 10, true, 0},
		{"somebody looks", Request{OnDelta: func(Delta) bool { return true }}, time.Minute, 100, true, 0},
		{"until", Request{Sampling: Sampling{Until: "x"}}, time.Minute, 100, true, 0},
		{"a short stall_timeout", Request{Sampling: Sampling{Stall: 300 * time.Millisecond}}, time.Minute, 100, true, 0},
		{"a longer stall_timeout", Request{Sampling: Sampling{Stall: 800 * time.Millisecond}}, time.Minute, 100, true, 50 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, s := newStream(t, &c.r)
			body := &quietBody{}
			s.Reads(body)
			time.Sleep(c.after)
			if c.begun {
				s.Text(0, "a")
			}
			began := time.Now()
			s.Pause(c.read)
			took := time.Since(began)
			if took > c.atMost || c.atMost > 0 && took == 0 || ctx.Err() != nil {
				t.Errorf("%s: paused for %v, want %v at most; %v", c.name, took, c.atMost, ctx.Err())
			}
			if want := c.atMost > 0; slices.Contains(body.told, true) != want || want && body.told[len(body.told)-1] {
				t.Errorf("%s: the connection was quiet: %v", c.name, body.told)
			}
			s.cancel(context.Canceled)
			began = time.Now()
			if s.Pause(c.read); time.Since(began) != 0 {
				t.Errorf("%s: paused after the end", c.name)
			}
		})
	}
}

func TestStreams(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name string
		r    Request
		want bool
	}{
		{"nothing", Request{}, false},
		{"stream", Request{Sampling: Sampling{Stream: &yes}}, true},
		{"not stream", Request{Sampling: Sampling{Stream: &no}}, false},
		{"stall", Request{Sampling: Sampling{Stall: 1, Stream: &no}}, true},
		{"until", Request{Sampling: Sampling{Until: "x"}}, true},
		{"listener", Request{OnDelta: func(Delta) bool { return true }}, true},
	} {
		if got := Streams(&c.r); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if _, _, err := NewStream(t.Context(), &Request{Sampling: Sampling{Until: "("}}); err == nil {
		t.Error("a regular expression that is none makes a stream")
	}
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		name   string
		format any
		want   *Format
		bad    bool
	}{
		{"none", nil, nil, false},
		{"text", map[string]any{"type": "text"}, nil, false},
		{"any JSON", map[string]any{"type": "json_object"}, &Format{JSON: true}, false},
		{"a schema", map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "n", "schema": map[string]any{"type": "object"}}}, &Format{Name: "n", Schema: []byte(`{"type":"object"}`)}, false},
		{"a schema that is missing", map[string]any{"type": "json_schema"}, nil, true},
		{"another", map[string]any{"type": "xml"}, nil, true},
		{"a text", "json", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Wanted(&Request{Sampling: Sampling{ResponseFormat: c.format}})
			var f *FieldError
			if !reflect.DeepEqual(got, c.want) || (err != nil) != c.bad || c.bad && !errors.As(err, &f) {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}
