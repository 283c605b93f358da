package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"matrix/llm"
)

// What was recorded, by many callers at once and in two runs, replays exactly.
func TestRecordReplays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "rec.jsonl")
	seen := map[string]*llm.Reply{}
	var mu sync.Mutex
	request := func(i int) *llm.Request {
		r := &llm.Request{
			Messages: []llm.Message{{Role: "user", Content: "x"}},
			Ask:      llm.Ask{ID: fmt.Sprintf("q%d", i%7), Role: []string{"a", "b"}[i%2], Trial: i % 3, Nth: i % 5, Reask: i % 11},
		}
		r.Sampling.N = 1 + i%2
		if i%7 == 6 {
			r.Input = []string{fmt.Sprint("a text ", i%5), "another"}
		}
		return r
	}
	for run := range 2 {
		m, err := NewScripted("script", Scripted{Reply: func(r *llm.Request) (llm.Choice, error) {
			c := llm.Choice{Text: fmt.Sprintf("run %d: %+v \u2028 <\"\n>", run, r.Ask)}
			if r.Ask.Nth == 2 {
				c = llm.Choice{Reasoning: "well", Logprobs: json.RawMessage(`{"content":[{"logprob":-0.5}]}`), Opaque: json.RawMessage(`{"wire":"w","parts":[]}`), ToolCalls: []llm.ToolCall{{ID: "c1", Name: "add", Arguments: `{"a": 1`}}}
			}
			return c, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if m, err = Record(m, path); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 500 {
			if run == 1 && i%3 == 0 {
				continue
			}
			wg.Go(func() {
				r := request(i)
				rep, err := m.Do(t.Context(), r)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[fmt.Sprintf("%+v %d", r.Ask, r.Sampling.N)] = rep
				mu.Unlock()
			})
		}
		wg.Wait()
		if got := m.Stats().Calls; got < 300 {
			t.Errorf("calls: got %d", got)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m := replayer(t, Config{Path: path})
	for i := range 500 {
		r := request(i)
		want := seen[fmt.Sprintf("%+v %d", r.Ask, r.Sampling.N)]
		got, err := m.Do(t.Context(), r)
		if err != nil {
			t.Fatalf("%+v: %v", r.Ask, err)
		}
		if !reflect.DeepEqual(got.Choices, want.Choices) || !reflect.DeepEqual(got.Vectors, want.Vectors) || got.Usage != want.Usage || got.Model != want.Model {
			t.Fatalf("%+v: got %+v, want %+v", r.Ask, got, want)
		}
	}
}

func TestRecordCompletesTheEnd(t *testing.T) {
	whole := `{"id":"q0","role":"","n":0,"trial":0,"text":"old"}`
	long := `{"id":"q9","text":"` + strings.Repeat("x", 200_000)
	for _, c := range []struct{ name, before, after string }{
		{"nothing", "", ""},
		{"whole", whole + "\n", whole + "\n"},
		{"no line break", whole, whole + "\n"},
		{"torn", whole + "\n" + whole[:20], whole + "\n"},
		{"only torn", whole[:20], ""},
		{"long and torn", whole + "\n" + long, whole + "\n"},
		{"long, no line break", whole + "\n" + long + `"}`, whole + "\n" + long + `"}` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := file(t, "rec.jsonl", c.before)
			m, _ := NewScripted("s", Scripted{Reply: func(*llm.Request) (llm.Choice, error) { return llm.Choice{Text: "new"}, nil }})
			m, err := Record(m, path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Do(t.Context(), &llm.Request{Ask: llm.Ask{ID: "q1"}}); err != nil {
				t.Fatal(err)
			}
			m.Close()
			raw, _ := os.ReadFile(path)
			rest, ok := bytes.CutPrefix(raw, []byte(c.after))
			if !ok || bytes.Count(rest, []byte("\n")) != 1 || !bytes.HasPrefix(rest, []byte(`{"id":"q1",`)) {
				t.Errorf("got %.300q", raw)
			}
		})
	}
}

func TestRecordFails(t *testing.T) {
	m, _ := NewScripted("s", Scripted{Reply: func(*llm.Request) (llm.Choice, error) { return llm.Choice{Text: "x"}, nil }})
	for _, path := range []string{"x.jsonl.gz", t.TempDir(), file(t, "f", "") + "/x"} {
		if _, err := Record(m, path); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full")
	}
	path := filepath.Join(t.TempDir(), "full")
	r := &recorder{Model: m, path: path}
	r.file, _ = os.OpenFile("/dev/full", os.O_WRONLY, 0)
	defer r.file.Close()
	_, err := r.Do(t.Context(), &llm.Request{})
	if e := kindOf(t, err); e.Kind != llm.Fatal || !strings.Contains(e.Msg, "no space") {
		t.Errorf("got %v", err)
	}
}
