package llm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func by(role string, nth, reask int) *Request {
	return &Request{Messages: []Message{{"user", "12345678"}}, Ask: Ask{ID: "q1", Role: role, Nth: nth, Reask: reask}}
}

func TestReplyList(t *testing.T) {
	roles := map[string]any{"a": []any{"one", "two", "three"}, "b": "only"}
	for _, c := range []struct {
		replies any
		ask     *Request
		want    string
	}{
		{[]any{"one", "two"}, by("x", 0, 0), "one"},
		{[]any{"one", "two"}, by("y", 1, 0), "two"},
		{[]any{"one", "two"}, by("y", 0, 1), "two"},
		{[]any{"one", "two"}, by("y", 7, 0), "two"}, // the last one repeats
		{[]string{"one"}, by("y", 0, 0), "one"},
		{"alone", by("y", 3, 0), "alone"},
		{roles, by("a", 1, 1), "three"},
		{roles, by("b", 4, 0), "only"},
	} {
		f, err := ReplyList(c.replies)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f(c.ask); got != c.want || err != nil {
			t.Errorf("%v, %+v: got %q, %v, want %q", c.replies, c.ask.Ask, got, err, c.want)
		}
	}

	f, _ := ReplyList(roles)
	m, err := NewScripted("student", Scripted{Reply: f})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Chat(t.Context(), by("c", 0, 0))
	if e := kindOf(t, err); e.Kind != Fatal || e.Model != "student" || !strings.Contains(e.Hint, "a, b") {
		t.Errorf("got %v", err)
	}

	for _, bad := range []any{nil, 7, []any{}, map[string]any{}, []any{"x", 42}, map[string]any{"a": []any{}}, map[string]any{"a": 1}} {
		_, err := ReplyList(bad)
		var f *FieldError
		if !errors.As(err, &f) || f.Field != "replies" {
			t.Errorf("%v: got %v, want a *FieldError", bad, err)
		}
	}
}

func TestScripted(t *testing.T) {
	m, err := NewScripted("echo", Scripted{Reply: func(r *Request) (string, error) {
		if r.Ask.Nth == 9 {
			return "", errors.New("boom")
		}
		return "re: " + r.Messages[0].Content, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := by("a", 0, 0)
	r.Sampling.N = 2
	rep, err := m.Chat(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := Choice{"re: 12345678", "stop"}
	if len(rep.Choices) != 2 || rep.Choices[0] != want || rep.Choices[1] != want {
		t.Errorf("got %+v", rep.Choices)
	}
	if rep.Usage != (Usage{2, 6}) || string(rep.Params) != `{"n":2}` || rep.Model != "echo" {
		t.Errorf("got %+v", rep)
	}
	if e := kindOf(t, func() error { _, err := m.Chat(t.Context(), by("a", 9, 0)); return err }()); e.Kind != Refused || e.Msg != "boom" {
		t.Errorf("got %v", e)
	}
	if got, want := m.Stats(), (Stats{Calls: 1, PromptTokens: 2, CompletionTokens: 6}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, s := range []Scripted{{}, {Reply: func(*Request) (string, error) { return "", nil }, Delay: -1}} {
		if _, err := NewScripted("m", s); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

func TestScriptedDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := NewScripted("slow", Scripted{Reply: func(*Request) (string, error) { return "x", nil }, Delay: time.Minute})
		start := time.Now()
		done := make(chan error)
		for range 1000 {
			go func() { _, err := m.Chat(t.Context(), by("a", 0, 0)); done <- err }()
		}
		synctest.Wait()
		if got := m.Stats().InFlight; got != 1000 {
			t.Errorf("in flight: got %d, want 1000", got)
		}
		for range 1000 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := time.Since(start); got != time.Minute {
			t.Errorf("took %v, want 1m", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Chat(ctx, by("a", 0, 0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want deadline exceeded", err)
		}
	})
}
