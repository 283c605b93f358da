package reuse

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"matrix"
	"matrix/llm"
)

// hash is one of a request.
func hash(c string) string { return strings.Repeat(c, 64) }

// answered is a task with a turn that was answered.
func answered(id, hash, text string, seed *int64) *matrix.Task {
	return &matrix.Task{ID: id, Turns: []matrix.Turn{{Role: "r", Text: text, Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Request: hash, Seed: seed, Finish: "stop"}}}}}
}

func tasks(all ...*matrix.Task) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		for _, t := range all {
			if !yield(t, nil) {
				return
			}
		}
	}
}

func open(t *testing.T, dir string, again bool) *Index {
	t.Helper()
	x, err := Open(dir, Options{Again: again})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

// reply is the text of the reply to a call; empty for none.
func reply(t *testing.T, x *Index, call, hash string, seed *int64) string {
	t.Helper()
	r, err := x.Reply(t.Context(), call, hash, seed)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return ""
	}
	return r.Choices[0].Text
}

func add(t *testing.T, x *Index, run string, want int64, all ...*matrix.Task) {
	t.Helper()
	if n, err := x.Add(t.Context(), run, tasks(all...)); err != nil || n != want {
		t.Fatalf("add %s: got %d, %v, want %d", run, n, err, want)
	}
}

// Each reply is handed out once, that of the same seed first; the same call gets the
// same one, also after a crash.
func TestOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	x := open(t, dir, false)
	add(t, x, "old", 5,
		answered("1", hash("a"), "seed 1", new(int64(1))), answered("2", hash("a"), "seed 2", new(int64(2))), answered("3", hash("a"), "no seed", nil),
		answered("4", hash("a"), "no seed", nil), // of another task: one more
		answered("5", hash("b"), "other", new(int64(1))))
	if got := reply(t, x, "c1", hash("a"), new(int64(2))); got != "seed 2" {
		t.Errorf("the same seed: got %q", got)
	}
	rest := []string{reply(t, x, "c2", hash("a"), new(int64(2))), reply(t, x, "c3", hash("a"), new(int64(7)))}
	crashed := filepath.Join(t.TempDir(), "b")
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil { // as a kill leaves it
		t.Fatal(err)
	}
	for _, x := range []*Index{x, open(t, crashed, false)} {
		if n, ok, err := x.Has("old"); n != 5 || !ok || err != nil {
			t.Errorf("has: got %d, %v, %v", n, ok, err)
		}
		for call, want := range map[string]string{"c1": "seed 2", "c2": rest[0], "c3": rest[1]} {
			if got := reply(t, x, call, hash("a"), new(int64(9))); got != want {
				t.Errorf("call %s asks again: got %q, want %q", call, got, want)
			}
		}
		last := reply(t, x, "c4", hash("a"), nil)
		all := append(slices.Clone(rest), last)
		if slices.Sort(all); !slices.Equal(all, []string{"no seed", "no seed", "seed 1"}) {
			t.Errorf("the rest: got %q", all)
		}
		if got := reply(t, x, "c5", hash("a"), nil); got != "" {
			t.Errorf("none is left: got %q", got)
		}
		if got := reply(t, x, "c6", hash("b"), nil); got != "other" {
			t.Errorf("got %q", got)
		}
	}
}

// What was reused by a run that is taken in, too, is one reply; and what is taken in
// late is not free again.
func TestOnceOverRuns(t *testing.T) {
	x := open(t, t.TempDir(), false)
	first := answered("1", hash("a"), "x", nil)
	again := answered("9", hash("a"), "x", nil)
	again.Turns[0].Calls[0].Reused = &matrix.Reused{Run: "elsewhere/old", Task: "1"}
	add(t, x, "old", 1, first)
	add(t, x, "newer", 0, again)
	if got := reply(t, x, "c1", hash("a"), nil); got != "x" {
		t.Errorf("got %q", got)
	}
	add(t, x, "third", 0, again)
	if got := reply(t, x, "c2", hash("a"), nil); got != "" {
		t.Errorf("handed out twice: %q", got)
	}
}

// Calls of tasks that are tried again get other replies.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, false)
	add(t, x, "old", 2, answered("1", hash("a"), "x", nil), answered("2", hash("a"), "y", nil))
	first := reply(t, x, "c", hash("a"), nil)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{true, false} { // a session after that goes on with it
		y := open(t, dir, again)
		if got := reply(t, y, "c", hash("a"), nil); got == first || got == "" {
			t.Errorf("again %v: got %q, and before %q", again, got, first)
		}
		if err := y.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConcurrently(t *testing.T) {
	x := open(t, t.TempDir(), false)
	var all []*matrix.Task
	for i := range 200 {
		all = append(all, answered(fmt.Sprint(i), hash("a"), fmt.Sprint("text ", i), nil))
	}
	add(t, x, "old", 200, all...)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 30 {
				r, err := x.Reply(t.Context(), fmt.Sprintf("c%d.%d", w, i), hash("a"), nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if r == nil {
					seen[""]++
				} else {
					seen[r.Choices[0].Text]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 201 || seen[""] != 40 {
		t.Errorf("got %d replies, and none %d times; want 200 and 40: %v", len(seen)-1, seen[""], seen)
	}
}

// A reply comes back as it was: all its parts, all samples.
func TestWhole(t *testing.T) {
	v := func(s string) matrix.Value { return matrix.RawValue([]byte(s)) }
	call := func(c matrix.Call) []matrix.Call {
		c.Kind, c.Request = matrix.KindModel, hash("a")
		return []matrix.Call{c}
	}
	for _, tt := range []struct {
		name string
		turn matrix.Turn
		want *llm.Reply // nil: nothing to be reused
	}{
		{"all parts", matrix.Turn{Text: "t", Reasoning: "r", Logprobs: v(`{"l":"<"}`), Opaque: v(`"o"`),
			ToolCalls: []matrix.ToolCall{{ID: "1", Name: "f", Arguments: v(`{"a":"<1>"}`)}, {ID: "2", Name: "g", Arguments: v(`"{a"`)}},
			Calls:     call(matrix.Call{Model: "M", Revision: "R", Seed: new(int64(3)), Finish: "tool_calls", Params: v(`{"n":1}`)})},
			&llm.Reply{Model: "M", Revision: "R", Params: json.RawMessage(`{"n":1}`), Choices: []llm.Choice{{Text: "t", Reasoning: "r", Finish: "tool_calls", Logprobs: json.RawMessage(`{"l":"<"}`), Opaque: json.RawMessage(`"o"`),
				ToolCalls: []llm.ToolCall{{ID: "1", Name: "f", Arguments: `{"a":"<1>"}`}, {ID: "2", Name: "g", Arguments: `{a`}}}},
				Reused: &llm.Reused{Run: "runs/old", Task: "id", Seed: new(int64(3))}}},
		{"samples", matrix.Turn{Text: "b", Samples: []matrix.Sample{{Text: "b", Finish: "stop"}, {Text: "a", Finish: "length"}, {Text: "c"}}, Calls: call(matrix.Call{Finish: "stop"})},
			&llm.Reply{Choices: []llm.Choice{{Text: "b", Finish: "stop"}, {Text: "a", Finish: "length"}, {Text: "c", Finish: "stop"}}, Reused: &llm.Reused{Run: "runs/old", Task: "id"}}},
		{"a reply that could not be used", matrix.Turn{Text: "b", Error: "it does not parse", Calls: call(matrix.Call{Finish: "stop", Error: "it does not parse"})},
			&llm.Reply{Choices: []llm.Choice{{Text: "b", Finish: "stop"}}, Reused: &llm.Reused{Run: "runs/old", Task: "id"}}},
		{"the last of several", matrix.Turn{Text: "b", Calls: append(call(matrix.Call{Error: "no"}), call(matrix.Call{Finish: "stop"})...)},
			&llm.Reply{Choices: []llm.Choice{{Text: "b", Finish: "stop"}}, Reused: &llm.Reused{Run: "runs/old", Task: "id"}}},
		{"a vector", matrix.Turn{Data: v(`{"vector":[0.1,1.0]}`), Calls: call(matrix.Call{})},
			&llm.Reply{Vectors: [][]float32{{0.1, 1}}, Reused: &llm.Reused{Run: "runs/old", Task: "id"}}},
		{"vectors", matrix.Turn{Data: v(`{"vectors":[[0.5],[2.0]]}`), Calls: call(matrix.Call{})},
			&llm.Reply{Vectors: [][]float32{{0.5}, {2}}, Reused: &llm.Reused{Run: "runs/old", Task: "id"}}},
		{"put together of two", matrix.Turn{Text: "b", Samples: []matrix.Sample{{Text: "b"}, {Text: "c"}}, Calls: append(call(matrix.Call{Finish: "stop"}), call(matrix.Call{Finish: "stop"})...)}, nil},
		{"refused", matrix.Turn{Error: "no", Calls: call(matrix.Call{Error: "no"})}, nil},
		{"computed", matrix.Turn{Data: v(`{"vector":[1]}`)}, nil},
		{"of a version before", matrix.Turn{Text: "b", Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m"}}}, nil},
		{"of a child process", matrix.Turn{Text: "b", Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Request: "mine"}}}, nil},
	} {
		x := open(t, t.TempDir(), false)
		want := int64(1)
		if tt.want == nil {
			want = 0
		}
		add(t, x, "runs/old", want, &matrix.Task{ID: "id", Turns: []matrix.Turn{tt.turn}})
		got, err := x.Reply(t.Context(), "c", hash("a"), nil)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// A run that cannot be read whole is not in.
func TestHalf(t *testing.T) {
	x := open(t, t.TempDir(), false)
	torn := errors.New("torn")
	_, err := x.Add(t.Context(), "old", func(yield func(*matrix.Task, error) bool) {
		_ = yield(answered("1", hash("a"), "x", nil), nil) && yield(nil, torn)
	})
	if _, ok, _ := x.Has("old"); !errors.Is(err, torn) || ok {
		t.Errorf("got %v, has %v", err, ok)
	}
}
