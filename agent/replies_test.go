package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"

	"matrix/llm"
	"matrix/llm/openai"
)

// reply is a line of testdata: what a model said, and what it comes to. An or is
// right as well; of an error, one is right that is never the wrong value.
type reply struct {
	Choice []string `json:"choice"`
	Schema any      `json:"schema"`
	Reply  string   `json:"reply"`
	Want   any      `json:"want"`
	Error  bool     `json:"error"`
	Or     any      `json:"or"`
}

func replies(t *testing.T, path string) (all []reply) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var r reply
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// check compares what a reply came to with what it should.
func (r *reply) check(t *testing.T, got any, err error) {
	t.Helper()
	switch {
	case err != nil && (r.Error || r.Or == "error"):
	case err == nil && !r.Error && reflect.DeepEqual(got, r.Want), err == nil && r.Or != nil && reflect.DeepEqual(got, r.Or):
	case r.Error:
		t.Errorf("%q of %v: got %v, %v, want an error", r.Reply, r.Choice, got, err)
	default:
		t.Errorf("%q of %v: got %v, %v, want %v", r.Reply, r.Choice, got, err, r.Want)
	}
}

// TestChoices checks that a reply comes to the option that it gives as its
// answer, and to none where it gives none.
func TestChoices(t *testing.T) {
	for _, r := range replies(t, "testdata/choice.jsonl") {
		reader, err := newReader(Parse{Choice: r.Choice})
		if err != nil {
			t.Fatal(err)
		}
		v, err := reader.parse(r.Reply)
		m, _ := v.Any().(map[string]any)
		r.check(t, m["choice"], err)
	}
}

// TestJSONReplies checks that a reply comes to the JSON that it gives as its
// answer, and to none where that is not plain.
func TestJSONReplies(t *testing.T) {
	for _, r := range replies(t, "testdata/json.jsonl") {
		reader, err := newReader(Parse{JSON: true, Schema: r.Schema})
		if err != nil {
			t.Fatal(err)
		}
		v, err := reader.parse(r.Reply)
		var got any
		if err == nil {
			if err := json.Unmarshal(v.Raw(), &got); err != nil {
				t.Fatal(err)
			}
		}
		r.check(t, got, err)
	}
}

// TestThoughtsBeforeJSON checks that what a model thinks aloud, with the first mark
// in its prompt, is not part of the JSON that it answers: whole, and in pieces.
func TestThoughtsBeforeJSON(t *testing.T) {
	const thought = "Maybe {\"score\": 1}? The answer is good though."
	text := thought + "\n</think>\n\n{\"score\": 4}"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Stream bool }
		_ = json.NewDecoder(r.Body).Decode(&body)
		choice := func(field, text string, finish any) string {
			b, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, field: map[string]any{"content": text}, "finish_reason": finish}}})
			return string(b)
		}
		if !body.Stream {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, choice("message", text, "stop"))
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; i < len(text); i += 3 {
			fmt.Fprintf(w, "data: %s\n\n", choice("delta", text[i:min(i+3, len(text))], nil))
		}
		fmt.Fprintf(w, "data: %s\n\ndata: [DONE]\n\n", choice("delta", "", "stop"))
	}))
	defer s.Close()
	for _, stream := range []bool{false, true} {
		c := openai.Config{Model: "m"}
		m, err := llm.New("judge", c.Service, llm.Endpoints{{URL: s.URL}}, c.Open)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		a := newChat(t, Chat{Prompt: "p", Parse: Parse{JSON: true}, Sampling: llm.Sampling{Stream: &stream}}, m)
		for range 2 { // the second time it is known that the model thinks so
			turn, err := a.Act(t.Context(), task(t))
			if err != nil || string(turn.Data.Raw()) != `{"score":4}` || turn.Reasoning != thought || turn.Text != `{"score": 4}` {
				t.Errorf("stream %v: got %s, %q after %q, %v", stream, turn.Data.Raw(), turn.Text, turn.Reasoning, err)
			}
		}
	}
}
