package agent

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
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
