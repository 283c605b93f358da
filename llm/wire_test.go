package llm

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzAppendRequest(f *testing.F) {
	f.Add("llama", "user", "a \"b\" \\ \n\t\r\x00\x7f \u2028 \xff\xc3 é 🙂", "stop", int64(-1), 0.1)
	f.Add("", "", "", "", int64(0), 1e300)
	f.Fuzz(func(t *testing.T, model, role, text, stop string, seed int64, temp float64) {
		s := Sampling{Temperature: &temp, Seed: &seed, Stop: []string{stop}, Extra: map[string]any{stop: text}}
		if s.Check() != nil {
			return
		}
		params, err := s.appendParams(nil)
		if err != nil || !json.Valid(params) {
			t.Fatalf("params: %s, %v", params, err)
		}
		body := appendRequest(nil, model, []Message{{role, text}, {role, stop}}, params)
		var v struct {
			Model    string
			Messages []struct{ Role, Content string }
		}
		if strings.EqualFold(stop, "model") || strings.EqualFold(stop, "messages") {
			return
		}
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		valid := func(s string) string { return strings.Map(func(r rune) rune { return r }, s) }
		if v.Model != valid(model) || v.Messages[0].Role != valid(role) || v.Messages[0].Content != valid(text) || v.Messages[1].Content != valid(stop) {
			t.Errorf("got %+v from %s", v, body)
		}
	})
}

func FuzzRead(f *testing.F) {
	m, err := newOpenAI("m", OpenAI{BaseURL: "http://127.0.0.1:1", APIKey: "sk-secret-1"}, quick)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, []byte(good))
	f.Add(200, []byte(`{"error":{"code":502,"message":"sk-secret-1"}}`))
	f.Add(400, []byte(`{"error":{"code":"x","message":[1]},"detail":{}}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		rep, f := m.read(&m.targets[0], head{code: status}, body)
		switch {
		case (rep == nil) == (f == nil):
			t.Errorf("got %v and %v", rep, f)
		case rep != nil && len(rep.Choices) == 0:
			t.Error("a reply without choices")
		case f != nil && (strings.Contains(f.msg, "sk-secret-1") || len(f.msg) > 3000):
			t.Errorf("got %q", f.msg)
		}
	})
}

func TestMerge(t *testing.T) {
	a, b := 0.1, 0.2
	base := Sampling{Temperature: &a, TopP: &a, MaxTokens: 5, N: 3, Stop: []string{"x"}, Extra: map[string]any{"k": 1, "l": 1}}
	got := Merge(base, Sampling{Temperature: &b, Stop: []string{}, Extra: map[string]any{"k": 2}})
	if *got.Temperature != 0.2 || *got.TopP != 0.1 || got.MaxTokens != 5 || got.N != 3 || len(got.Stop) != 0 || got.Extra["k"] != 2 || got.Extra["l"] != 1 {
		t.Errorf("got %+v", got)
	}
	if base.Extra["k"] != 1 {
		t.Error("the base was changed")
	}
	over := Sampling{MaxTokens: 7, Extra: map[string]any{"max_tokens": 9}}
	if p, _ := over.appendParams(nil); string(p) != `{"max_tokens":9}` {
		t.Errorf("got %s, want the extra key alone", p)
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("a\n  b\xff", 100); got != "a b\uFFFD" {
		t.Errorf("got %q", got)
	}
	if got := shorten(strings.Repeat("é", 100), 11); !utf8.ValidString(got) || got != "ééééé... (200 bytes)" {
		t.Errorf("got %q", got)
	}
}
