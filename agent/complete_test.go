package agent

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"matrix"
	"matrix/llm"
)

func TestComplete(t *testing.T) {
	m := says("no", "the answer is (B)")
	seed := int64(7)
	c := Complete{Model: "base", Prompt: "Q: {{ item.question }}\nA:", Reask: 1, Parse: Parse{Regex: `\(([A-J])\)`, Enforce: true},
		Sampling: llm.Sampling{Seed: &seed, Stop: []string{"\n"}}}
	a, err := NewComplete("teacher", c, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	turn, err := a.Act(t.Context(), task(t))
	if err != nil || turn.Error != "" || turn.Data.String() != `{"answer":"B"}` || len(turn.Calls) != 2 || turn.Call().Name != "base" {
		t.Fatalf("got %+v, %v", turn, err)
	}
	first, second := m.requests[0], m.requests[1]
	for _, r := range m.requests {
		if r.Prompt != "Q: 2+2?\nA:" || r.Messages != nil || r.Format == nil || r.Session != "q7#1" || r.Ask.Nth != 1 {
			t.Errorf("got %+v", r)
		}
	}
	if *first.Sampling.Seed != 7 || *second.Sampling.Seed != 8 || first.Key == second.Key {
		t.Errorf("got the seeds %d and %d, want another one for the second try", *first.Sampling.Seed, *second.Sampling.Seed)
	}
	if got, want := mentioned(a), "prompt [question] []"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	m = &fake{replies: []llm.Reply{
		{Choices: []llm.Choice{choice("cut", "length")}, Asked: llm.Asked{MaxTokens: 16}},
		{Choices: []llm.Choice{choice("cut no more", "stop")}}}}
	if a, err = NewComplete("r", Complete{Prompt: "p", Reask: 1, OnLength: "more"}, m, nil); err != nil {
		t.Fatal(err)
	}
	if turn, err := a.Act(t.Context(), task(t)); err != nil || turn.Text != "cut no more" || m.requests[1].Sampling.MaxTokens != 32 {
		t.Errorf("got %+v, %v", turn, err)
	}

	for _, tt := range []struct {
		c    Complete
		want string
	}{
		{Complete{}, "prompt"},
		{Complete{Prompt: "{{ x }}", Reask: -1, OnLength: "y"}, "reask on_length prompt"},
		{Complete{Prompt: "p", Parse: Parse{Enforce: true}}, "parse.enforce"},
	} {
		if _, err := NewComplete("r", tt.c, says(), nil); fields(err) != tt.want {
			t.Errorf("%+v: got %v at %q, want %q", tt.c, err, fields(err), tt.want)
		}
	}
	if a, err = NewComplete("r", Complete{Prompt: "{{ item.answer[9:] }} "}, says("x"), nil); err != nil {
		t.Fatal(err)
	}
	var fail *matrix.FailError
	if _, err := a.Act(t.Context(), task(t)); !errors.As(err, &fail) || !strings.Contains(err.Error(), "the text is empty") {
		t.Errorf("got %v", err)
	}
}

func TestEmbed(t *testing.T) {
	reply := llm.Reply{Vectors: [][]float32{{0.1, -2, 3e-9}}, Model: "e5", Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 3}}}
	for _, tt := range []struct {
		name    string
		c       Embed
		vectors [][]float32
		input   []string
		data    string
		fail    string // a FailError
		err     string // any other
	}{
		{"one", Embed{Text: "{{ item.question }}"}, reply.Vectors, []string{"2+2?"}, `{"vector":[0.1,-2.0,3e-09]}`, "", ""},
		{"list", Embed{Texts: "[item.question, item.answer]"}, [][]float32{{1}, {2, 3}}, []string{"2+2?", "B"}, `{"vectors":[[1.0],[2.0,3.0]]}`, "", ""},
		{"empty list", Embed{Texts: "filter([1], false)"}, nil, nil, `{"vectors":[]}`, "", ""},
		{"empty text", Embed{Text: "{% if false %}x{% endif %}"}, nil, nil, "", "text: it is empty", ""},
		{"empty in list", Embed{Texts: `["a", ""]`}, nil, nil, "", "texts: element 1 is not a text", ""},
		{"no list", Embed{Texts: "item.question"}, nil, nil, "", "texts: want a list of texts", ""},
		{"too few", Embed{Texts: `["a", "b"]`}, [][]float32{{1}}, []string{"a", "b"}, "", "", "got 1 vectors for 2 texts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := reply
			r.Vectors = tt.vectors
			m := &fake{replies: []llm.Reply{r}}
			tt.c.Model, tt.c.Extra = "e", map[string]any{"dimensions": 3}
			a, err := NewEmbed("vec", tt.c, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			turn, err := a.Act(t.Context(), task(t))
			var fail *matrix.FailError
			switch {
			case tt.fail != "":
				if !errors.As(err, &fail) || !strings.HasPrefix(err.Error(), tt.fail) {
					t.Errorf("got %v, want %s", err, tt.fail)
				}
			case tt.err != "":
				if err == nil || errors.As(err, &fail) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
			case err != nil || turn.Data.String() != tt.data || !json.Valid(turn.Data.Raw()):
				t.Errorf("got %+v, %v, want %s", turn, err, tt.data)
			case tt.input != nil && (turn.Call().PromptTokens != 3 || turn.Call().Model != "e5"):
				t.Errorf("got the calls %+v", turn.Calls)
			}
			if tt.input == nil {
				if len(m.requests) > 0 {
					t.Errorf("got a request for nothing")
				}
				return
			}
			if q := m.requests[0]; !reflect.DeepEqual(q.Input, tt.input) || q.Sampling.Seed != nil || q.Sampling.Extra["dimensions"] != 3 || q.Key == "" {
				t.Errorf("got %+v", q)
			}
		})
	}
	for _, c := range []Embed{{}, {Text: "a", Texts: "b"}} {
		if _, err := NewEmbed("r", c, says(), nil); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, err := NewEmbed("r", Embed{Texts: "itm"}, says(), nil); fields(err) != "texts" {
		t.Errorf("got %v", err)
	}
}
