package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hold-children" {
		holdChildren()
		return
	}
	goleak.VerifyTestMain(m)
}

func value(t testing.TB, s string) matrix.Value {
	t.Helper()
	v, err := matrix.ParseValue([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func task(t testing.TB) *matrix.Task {
	return &matrix.Task{
		ID: "q7#1", Row: "q7", Trial: 1, Seed: 42, Item: value(t, `{"question":"2+2?","answer":"B"}`),
		Turns: []matrix.Turn{
			{Role: "student", Text: "I say (A)."},
			{Role: "teacher", Text: "I say (B).", Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m"}}},
			{Role: "student", Text: "", Error: "the reply is empty"},
			{Role: "match", Data: value(t, `{"agreed":false}`)},
			{Role: "student", Text: "Now (B)."},
			{Role: "judge", Text: "Go on."},
		},
	}
}

// fake is a model that a test scripts; it keeps the requests.
type fake struct {
	llm.Model
	replies  []llm.Reply
	err      error
	requests []*llm.Request
}

func (f *fake) Do(_ context.Context, r *llm.Request) (*llm.Reply, error) {
	f.requests = append(f.requests, r)
	if len(f.replies) == 0 {
		return nil, f.err
	}
	reply := f.replies[0]
	f.replies = f.replies[1:]
	return &reply, nil
}

func says(texts ...string) *fake {
	f := &fake{err: errors.New("the script is at its end")}
	for _, s := range texts {
		f.replies = append(f.replies, llm.Reply{Choices: []llm.Choice{{Text: s, Finish: "stop"}}})
	}
	return f
}

func msg(role, content string) llm.Message { return llm.Message{Role: role, Content: content} }

func choice(text, finish string) llm.Choice { return llm.Choice{Text: text, Finish: finish} }

// fields lists the keys of all *lang.FieldError in err.
func fields(err error) string {
	var all []string
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) { //nolint:errorlint // walks the tree itself
		case *lang.FieldError:
			all = append(all, e.Field)
		case interface{ Unwrap() []error }:
			for _, e := range e.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	return strings.Join(all, " ")
}
