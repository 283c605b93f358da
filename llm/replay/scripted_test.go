package replay

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"matrix/llm"
)

func by(role string, nth, reask int) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: "12345678"}}, Ask: llm.Ask{ID: "q1", Role: role, Nth: nth, Reask: reask}}
}

func TestReplyList(t *testing.T) {
	roles := map[string]any{"a": []any{"one", "two", "three"}, "b": "only"}
	for _, c := range []struct {
		replies any
		ask     *llm.Request
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
		{map[string]any{"a": map[string]any{"text": "one"}}, by("a", 0, 0), "one"},
	} {
		f, err := ReplyList(c.replies)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f(c.ask); !reflect.DeepEqual(got, llm.Choice{Text: c.want}) || err != nil {
			t.Errorf("%v, %+v: got %+v, %v, want %q", c.replies, c.ask.Ask, got, err, c.want)
		}
	}

	f, _ := ReplyList(roles)
	m, err := NewScripted("student", Scripted{Reply: f})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Do(t.Context(), by("c", 0, 0))
	if e := kindOf(t, err); e.Kind != llm.Fatal || e.Model != "student" || !strings.Contains(e.Hint, "a, b") {
		t.Errorf("got %v", err)
	}

	for _, bad := range []any{nil, 7, []any{}, map[string]any{}, []any{"x", 42}, map[string]any{"a": []any{}}, map[string]any{"a": 1},
		[]any{map[string]any{"txt": "x"}}, []any{map[string]any{"text": 1}}, []any{map[string]any{"tool_calls": []any{map[string]any{"arguments": "{}"}}}}} {
		_, err := ReplyList(bad)
		var f *llm.FieldError
		if !errors.As(err, &f) || f.Field != "replies" {
			t.Errorf("%v: got %v, want a *FieldError", bad, err)
		}
	}
}

func TestScripted(t *testing.T) {
	m, err := NewScripted("echo", Scripted{Reply: func(r *llm.Request) (llm.Choice, error) {
		if r.Ask.Nth == 9 {
			return llm.Choice{}, errors.New("boom")
		}
		return llm.Choice{Text: "re: " + r.Messages[0].Content}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := by("a", 0, 0)
	r.Sampling.N = 2
	rep, err := m.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := llm.Choice{Text: "re: 12345678", Finish: "stop"}
	if !reflect.DeepEqual(rep.Choices, []llm.Choice{want, want}) {
		t.Errorf("got %+v", rep.Choices)
	}
	if rep.Usage != (llm.Usage{Tokens: llm.Tokens{PromptTokens: 2, CompletionTokens: 6}}) || string(rep.Params) != `{"n":2}` || rep.Model != "echo" {
		t.Errorf("got %+v", rep)
	}
	if e := kindOf(t, func() error { _, err := m.Do(t.Context(), by("a", 9, 0)); return err }()); e.Kind != llm.Refused || e.Msg != "boom" {
		t.Errorf("got %v", e)
	}
	got := m.Stats()
	if want := (llm.Stats{Calls: 1, Seconds: got.Seconds, PromptTokens: 2, CompletionTokens: 6}); !reflect.DeepEqual(got, want) || got.Seconds < 0 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, s := range []Scripted{{}, {Reply: func(*llm.Request) (llm.Choice, error) { return llm.Choice{}, nil }, Delay: -1}} {
		if _, err := NewScripted("m", s); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

func TestScriptedTools(t *testing.T) {
	f, err := ReplyList([]any{
		map[string]any{"text": "let me see", "reasoning": "hm", "tool_calls": []any{
			map[string]any{"name": "add", "arguments": map[string]any{"a": 1}},
			map[string]any{"id": "mine", "name": "now"},
			map[string]any{"name": "bad", "arguments": "{"},
		}},
		"42",
	})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := NewScripted("s", Scripted{Reply: f})
	rep, err := m.Do(t.Context(), by("a", 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := []llm.Choice{{Text: "let me see", Reasoning: "hm", Finish: "tool_calls", ToolCalls: []llm.ToolCall{
		{ID: "call_1", Name: "add", Arguments: `{"a":1}`}, {ID: "mine", Name: "now", Arguments: "{}"}, {ID: "call_3", Name: "bad", Arguments: "{"}}}}
	if !reflect.DeepEqual(rep.Choices, want) {
		t.Errorf("got %+v, want %+v", rep.Choices, want)
	}
	if rep.Usage.ReasoningTokens != 1 || rep.Usage.CompletionTokens < 8 {
		t.Errorf("usage: got %+v", rep.Usage)
	}
	if rep, err := m.Do(t.Context(), by("a", 1, 0)); err != nil || !reflect.DeepEqual(rep.Choices, []llm.Choice{{Text: "42", Finish: "stop"}}) {
		t.Errorf("got %+v, %v", rep, err)
	}
}

func TestScriptedForms(t *testing.T) {
	m, _ := NewScripted("s", Scripted{Reply: func(r *llm.Request) (llm.Choice, error) { return llm.Choice{Text: r.Prompt + "!", Reasoning: "r"}, nil }})
	var heard []llm.Delta
	rep, err := m.Do(t.Context(), &llm.Request{Prompt: "go on", OnDelta: func(d llm.Delta) bool { heard = append(heard, d); return false }, Sampling: llm.Sampling{N: 2}})
	if err != nil || rep.Choices[1].Text != "go on!" || !reflect.DeepEqual(heard, []llm.Delta{{Text: "go on!", Reasoning: "r"}}) {
		t.Errorf("got %+v, %v, heard %+v", rep, err, heard)
	}
	rep, err = m.Do(t.Context(), &llm.Request{Input: []string{"the ferry leaves", "the ferry leaves now", "quantum"}})
	if err != nil || len(rep.Vectors) != 3 || len(rep.Choices) != 0 {
		t.Fatalf("got %+v, %v", rep, err)
	}
	near := func(a, b []float32) (sum float32) {
		for i := range a {
			sum += a[i] * b[i]
		}
		return sum
	}
	if v := rep.Vectors; near(v[0], v[0]) < 0.999 || near(v[0], v[1]) <= near(v[0], v[2]) {
		t.Errorf("got %v and %v, want texts that share words nearer", near(v[0], v[1]), near(v[0], v[2]))
	}
}

func TestScriptedDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := NewScripted("slow", Scripted{Reply: func(*llm.Request) (llm.Choice, error) { return llm.Choice{Text: "x"}, nil }, Delay: time.Minute})
		start := time.Now()
		done := make(chan error)
		for range 1000 {
			go func() { _, err := m.Do(t.Context(), by("a", 0, 0)); done <- err }()
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
		if _, err := m.Do(ctx, by("a", 0, 0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want deadline exceeded", err)
		}
	})
}
