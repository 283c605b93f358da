package llm

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// What stands before the answer is not part of it: with both marks, with the
// second one alone, whole and however it is cut.
func TestSplit(t *testing.T) {
	for in, want := range map[string][2]string{
		"":                            {"", ""},
		"hello":                       {"", "hello"},
		" hello ":                     {"", " hello "},
		"a <think>b</think>":          {"", "a <think>b</think>"},
		"<think>\nhm\n</think>\n\n42": {"hm", "42"},
		"<think></think>42":           {"", "42"},
		"<think>cut":                  {"cut", ""},
		"<thin":                       {"", "<thin"},
		"<think>a</thin":              {"a</thin", ""},
		"\n <think>a</think> b\n":     {"a", "b\n"},

		"So 4, I think.\n</think>\n\nThe answer is 4.": {"So 4, I think.", "The answer is 4."},
		"hm</think>42":                  {"hm", "42"},
		"</think>\n\n42":                {"", "42"},
		"hm</think>":                    {"hm", ""},
		"hm</thin":                      {"", "hm</thin"},
		"a < b, [c], 1 <<2 </thi":       {"", "a < b, [c], 1 <<2 </thi"},
		"hm</think>\n<b> </think> c":    {"hm", "<b> </think> c"},
		"Close it by `</think>`, so.":   {"", "Close it by `</think>`, so."},
		`s.split("</think>")[1]`:        {"", `s.split("</think>")[1]`},
		"say `</think>` ...</think>yes": {"say `</think>` ...", "yes"},

		"[THINK]hm[/THINK]42":           {"hm", "42"},
		"hm[/THINK]42":                  {"hm", "42"},
		"<seed:think>hm</seed:think>42": {"hm", "42"},
		"◁think▷hm◁/think▷42":           {"hm", "42"},
		"hm◁/think▷42":                  {"hm", "42"},
		"<think>a[/THINK]b</think>42":   {"a[/THINK]b", "42"},
		"[x](y) [THIN] ◁ ok":            {"", "[x](y) [THIN] ◁ ok"},
		"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>42": {"hm", "42"},
	} {
		reasoning, answer := new(thinker).split(in)
		if got := [2]string{reasoning, answer}; got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
		for step := 1; step < 9; step++ { // the same in pieces
			heard := ""
			_, s := newStream(t, &Request{OnDelta: func(d Delta) bool { heard += d.Text + d.Reasoning; return true }})
			for i := 0; i < len(in); i += step {
				s.Text(0, in[i:min(i+step, len(in))])
			}
			s.Finish(0, "stop")
			c := s.Choices()[0]
			if got := [2]string{c.Reasoning, c.Text}; got != want {
				t.Errorf("%q by %d: got %q, want %q", in, step, got, want)
			}
			if strings.Count(heard, "4") != strings.Count(in, "4") {
				t.Errorf("%q by %d: heard %q", in, step, heard)
			}
		}
	}
}

// A service that takes thoughts apart itself is believed.
func TestThoughtsThatCameApart(t *testing.T) {
	_, s := newStream(t, &Request{})
	s.Reasoning(0, "how do I close it?")
	s.Text(0, "By </think>.")
	if c := s.Choices()[0]; c.Text != "By </think>." || c.Reasoning != "how do I close it?" {
		t.Errorf("got %+v", c)
	}
}

// Once it is known that a model begins within its thoughts, a reply that a stop
// word or the length limit broke off before their end is not an answer.
func TestThoughtsBrokenOff(t *testing.T) {
	const thought = "So 4, I th"
	text, finish := "", "stop"
	driver := script(func(ctx context.Context, r *Request) (*Reply, error) {
		if !Streams(r) {
			return &Reply{Choices: []Choice{{Text: text, Finish: finish}}}, nil
		}
		_, s, err := NewStream(ctx, r)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		for _, piece := range strings.SplitAfter(text, " ") {
			if !s.Text(0, piece) {
				break
			}
		}
		s.Finish(0, finish)
		return &Reply{Choices: s.Choices(), First: s.First()}, nil
	})
	for _, stream := range []bool{false, true} {
		virtual(t, Service{Sampling: Sampling{Stream: &stream}}, []Driver{driver}, func(t *testing.T, c *Client) {
			for i, x := range []struct {
				text, finish    string
				change          func(r *Request)
				reasoning, want string
			}{
				{thought, "stop", func(r *Request) { r.Sampling.Stop = []string{"ink"} }, "", thought}, // nothing is known yet
				{thought + "ink.\n</think>\n\n4", "stop", nil, thought + "ink.", "4"},
				{thought, "stop", func(r *Request) { r.Sampling.Stop = []string{"ink"} }, thought, ""},
				{thought, "length", nil, thought, ""},
				{"4", "stop", nil, "", "4"},
				{"4", "length", func(r *Request) {
					r.Sampling.Extra = map[string]any{"chat_template_kwargs": map[string]any{"thinking": false}}
				}, "", "4"},
				{"<think>\n\n</think>\n\n4", "length", nil, "", "4"},
			} {
				text, finish = x.text, x.finish
				r := question(fmt.Sprint(i))
				if x.change != nil {
					x.change(r)
				}
				rep, err := c.Do(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if got := rep.Choices[0]; got.Text != x.want || got.Reasoning != x.reasoning {
					t.Errorf("stream %v, reply %d: got %+v, want %q after %q", stream, i, got, x.want, x.reasoning)
				}
			}
			if !stream {
				return
			}
			text, finish = "the end is near. </think> at the end", "stop" // until is no matter of thoughts
			r := question("until")
			r.Sampling.Until = `end`
			if rep, err := c.Do(t.Context(), r); err != nil || rep.Choices[0].Text != "at the end" {
				t.Errorf("until: got %+v, %v", rep, err)
			}
		})
	}
}

// A word of the service's own for why a reply ended is its failure, and no reply.
func TestOutagesTold(t *testing.T) {
	for word, kind := range map[string]Kind{
		"network_error": Transport, "insufficient_system_resource": Capacity, "timeout": Timeout, "cancelled": Transport,
		"engine_overloaded": Capacity, "OTHER": Fault, "error": Fault, "abort": Fault, "quite_unknown": Fault,
	} {
		failed := 0
		driver := script(func(context.Context, *Request) (*Reply, error) {
			if failed++; failed < 40 {
				return &Reply{Choices: []Choice{{Text: "whole", Finish: "stop"}, {Text: "hel", Finish: word}}, Usage: Usage{Tokens: Tokens{PromptTokens: 1}}}, nil
			}
			return &Reply{Choices: []Choice{{Text: "hello", Finish: "stop"}}}, nil
		})
		virtual(t, Service{}, []Driver{driver}, func(t *testing.T, c *Client) {
			rep, err := c.Do(t.Context(), question("x"))
			if err != nil || rep.Choices[0].Text != "hello" || rep.Retries != 39 {
				t.Errorf("%s: got %+v, %v, want hello after the outage", word, rep, err)
			}
		})
		f := (&Reply{Endpoint: "http://x", Choices: []Choice{{Finish: word}}, Usage: Usage{Tokens: Tokens{PromptTokens: 3}}}).broken()
		if f == nil || f.Kind != kind || f.EmptyReply || f.Usage.PromptTokens != 3 || weights[f.Kind].gate == 0 {
			t.Errorf("%s: got %+v, want %v, with what it cost", word, f, kind)
		}
	}
	for _, word := range []string{"", "stop", "LENGTH", "tool_calls", "content_filter"} {
		if f := (&Reply{Choices: []Choice{{Finish: word}}}).broken(); f != nil {
			t.Errorf("%s: got %v, want none", word, f)
		}
	}
}
