package matrixtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix"
)

// Output is a place that sinks write to, for the suite.
type Output interface {
	// Open opens the place for writing, cut back to checkpoint.
	Open(checkpoint []byte) (matrix.Sink, error)
	// Read reads all that it holds, in order; parts and lines from 0.
	Read(f func(part, line int, raw []byte) error) error
	// Parse reads the task of a line that Read gives.
	Parse(raw []byte) (*matrix.Task, error)
	// Tear puts after the end of the newest part what a crash within a Write
	// may leave there: bytes that no checkpoint covers.
	Tear(t *testing.T, b []byte)
	// Shorten takes the last n bytes from the newest part.
	Shorten(t *testing.T, n int64)
}

// Sink runs the conformance suite of matrix.Sink. build makes an empty output
// whose parts hold so many rows.
func Sink(t *testing.T, build func(t *testing.T, rowsPerPart int) Output) {
	t.Helper()

	t.Run("OrderAndPlaces", func(t *testing.T) {
		out := build(t, 4)
		s := openSink(t, out, nil)
		var want []string
		places := map[matrix.Place]string{}
		for batch := range 8 { // of 0, 1, 2 ... 7 tasks: some span two parts, one three
			tasks := sinkTasks(fmt.Sprintf("b%d", batch), batch)
			got, _ := write(t, s, tasks)
			for i, p := range got {
				n := len(want)
				if w := (matrix.Place{Part: n / 4, Line: n % 4}); p != w {
					t.Errorf("task %s: got place %v, want %v", tasks[i].ID, p, w)
				}
				places[p] = tasks[i].ID
				want = append(want, tasks[i].ID)
			}
		}
		checkOutput(t, out, want)
		err := out.Read(func(part, line int, raw []byte) error {
			if p := (matrix.Place{Part: part, Line: line}); places[p] != idOf(t, raw) {
				t.Errorf("place %v: got %s, want %s", p, idOf(t, raw), places[p])
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		closeSink(t, s)
	})

	t.Run("DurableWithoutClose", func(t *testing.T) {
		out := build(t, 3)
		s := openSink(t, out, nil)
		write(t, s, sinkTasks("a", 5))
		checkOutput(t, out, sinkIDs("a", 5))
		closeSink(t, s)
		checkOutput(t, out, sinkIDs("a", 5))
	})

	t.Run("CutBack", func(t *testing.T) {
		for after := range 5 {
			for _, perPart := range []int{1, 2, 3, 100} {
				out := build(t, perPart)
				s := openSink(t, out, nil)
				var kept []string
				var checkpoint []byte
				for batch := range 5 {
					name := fmt.Sprintf("b%d", batch)
					_, m := write(t, s, sinkTasks(name, batch+1))
					if batch <= after {
						kept, checkpoint = append(kept, sinkIDs(name, batch+1)...), m
					}
				}
				closeSink(t, s)
				s = openSink(t, out, checkpoint)
				checkOutput(t, out, kept)
				places, _ := write(t, s, sinkTasks("more", 2))
				if w := (matrix.Place{Part: len(kept) / perPart, Line: len(kept) % perPart}); places[0] != w {
					t.Errorf("after %d batches, %d rows a part: got place %v, want %v", after+1, perPart, places[0], w)
				}
				checkOutput(t, out, append(kept, sinkIDs("more", 2)...))
				closeSink(t, s)
			}
		}
	})

	t.Run("NoCheckpointStartsAfresh", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		write(t, s, sinkTasks("old", 5))
		closeSink(t, s)
		s = openSink(t, out, nil)
		checkOutput(t, out, nil)
		write(t, s, sinkTasks("new", 1))
		checkOutput(t, out, sinkIDs("new", 1))
		closeSink(t, s)
	})

	t.Run("EmptyWrite", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		places, checkpoint := write(t, s, nil)
		if len(places) != 0 {
			t.Errorf("got places %v, want none", places)
		}
		write(t, s, sinkTasks("lost", 3))
		closeSink(t, s)
		s = openSink(t, out, checkpoint)
		checkOutput(t, out, nil)
		_, full := write(t, s, sinkTasks("a", 2))
		_, same := write(t, s, nil)
		if !bytes.Equal(full, same) {
			t.Errorf("an empty Write moved the checkpoint: got %s, want %s", same, full)
		}
		closeSink(t, s)
		closeSink(t, openSink(t, out, same))
		checkOutput(t, out, sinkIDs("a", 2))
	})

	t.Run("TornTail", func(t *testing.T) {
		for _, tail := range []string{"{", `{"id":"torn","te`, "{}\n{}\n", "\x00\x00\x00\x00", strings.Repeat("x", 1<<16)} {
			out := build(t, 100)
			s := openSink(t, out, nil)
			_, checkpoint := write(t, s, sinkTasks("a", 3))
			closeSink(t, s)
			out.Tear(t, []byte(tail))
			s = openSink(t, out, checkpoint)
			checkOutput(t, out, sinkIDs("a", 3))
			write(t, s, sinkTasks("b", 2))
			checkOutput(t, out, append(sinkIDs("a", 3), sinkIDs("b", 2)...))
			closeSink(t, s)
		}
	})

	t.Run("TornTailIsReported", func(t *testing.T) {
		out := build(t, 100)
		s := openSink(t, out, nil)
		write(t, s, sinkTasks("a", 3))
		closeSink(t, s)
		out.Shorten(t, 3)
		if err := out.Read(func(int, int, []byte) error { return nil }); err == nil {
			t.Error("Read of a torn part: got no error")
		}
	})

	t.Run("ShorterThanCheckpoint", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		_, checkpoint := write(t, s, sinkTasks("a", 3))
		closeSink(t, s)
		out.Shorten(t, 1)
		if s, err := out.Open(checkpoint); err == nil {
			s.Close()
			t.Error("Open of a part that was shortened: got no error")
		}
	})

	t.Run("WrongCheckpoint", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		_, checkpoint := write(t, s, sinkTasks("a", 3))
		closeSink(t, s)
		for _, wrong := range []string{"{", "[]", "null x", `{"part":-1}`} {
			if s, err := out.Open([]byte(wrong)); err == nil {
				s.Close()
				t.Errorf("Open with checkpoint %s: got no error", wrong)
			}
		}
		closeSink(t, openSink(t, out, checkpoint))
		checkOutput(t, out, sinkIDs("a", 3))
	})

	t.Run("Content", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		tasks := []*matrix.Task{
			fullTask(),
			{ID: "text", Item: matrix.RawValue([]byte(`{}`)), Turns: []matrix.Turn{{
				Role: "róle", Text: "\x00\x01\x1f\"\\/\b\f\n\r\t<>&\x7f\u2028\u2029 žluť 駅 🐎 \xff\xfe",
			}}},
			{ID: "lines", Item: matrix.RawValue([]byte("{\n  \"a\": \"x\\ny\",\r\n  \"b\": [1,\n2]\n}\n"))},
			{ID: "large", Item: matrix.RawValue([]byte(`{"large":"` + strings.Repeat("0123456789abcdef", 8<<20/16) + `"}`))},
			{ID: "after", Item: matrix.RawValue([]byte(`"a line that is not a row"`)), Outcome: &matrix.Outcome{Status: matrix.Failed, Cause: "no JSON"}},
		}
		write(t, s, tasks)
		closeSink(t, s)
		i := 0
		err := out.Read(func(part, line int, raw []byte) error {
			got, err := out.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if g, w := fields(t, got), fields(t, tasks[i]); !reflect.DeepEqual(g, w) {
				t.Errorf("task %s: got %.500s\nas %.500s\nwant %.500s", tasks[i].ID, raw, fmt.Sprint(g), fmt.Sprint(w))
			}
			i++
			return nil
		})
		if err != nil || i != len(tasks) {
			t.Errorf("got %d tasks, %v, want %d", i, err, len(tasks))
		}
	})

	t.Run("CheckpointIsSmallJSON", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		_, checkpoint := write(t, s, sinkTasks("a", 3))
		if !json.Valid(checkpoint) || len(checkpoint) > 200 || bytes.ContainsAny(checkpoint, " \n") {
			t.Errorf("got checkpoint %q, want small compact JSON", checkpoint)
		}
		closeSink(t, s)
	})

	t.Run("WriteAfterClose", func(t *testing.T) {
		out := build(t, 2)
		s := openSink(t, out, nil)
		closeSink(t, s)
		closeSink(t, s)
		if _, _, err := s.Write(t.Context(), sinkTasks("a", 1)); err == nil {
			t.Error("Write after Close: got no error")
		}
		checkOutput(t, out, nil)
	})
}

func openSink(t *testing.T, out Output, checkpoint []byte) matrix.Sink {
	t.Helper()
	s, err := out.Open(checkpoint)
	if err != nil {
		t.Fatalf("open with checkpoint %q: %v", checkpoint, err)
	}
	return s
}

func closeSink(t *testing.T, s matrix.Sink) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func write(t *testing.T, s matrix.Sink, tasks []*matrix.Task) ([]matrix.Place, []byte) {
	t.Helper()
	places, checkpoint, err := s.Write(t.Context(), tasks)
	if err != nil {
		t.Fatalf("write %d tasks: %v", len(tasks), err)
	}
	if len(places) != len(tasks) {
		t.Fatalf("got %d places for %d tasks", len(places), len(tasks))
	}
	return places, checkpoint
}

func sinkIDs(name string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", name, i)
	}
	return ids
}

func sinkTasks(name string, n int) []*matrix.Task {
	tasks := make([]*matrix.Task, n)
	for i, id := range sinkIDs(name, n) {
		tasks[i] = &matrix.Task{ID: id, Row: id, Item: matrix.RawValue([]byte(`{"n":1}`)), Outcome: &matrix.Outcome{Status: matrix.Done}}
	}
	return tasks
}

func checkOutput(t *testing.T, out Output, want []string) {
	t.Helper()
	var got []string
	err := out.Read(func(part, line int, raw []byte) error {
		got = append(got, idOf(t, raw))
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("output: got %v, %v, want %v", got, err, want)
	}
}

func idOf(t *testing.T, raw []byte) string {
	t.Helper()
	var task struct{ ID string }
	if err := json.Unmarshal(raw, &task); err != nil {
		t.Fatalf("line %.100q: %v", raw, err)
	}
	return task.ID
}

// fields are those of a task, in JSON. No turns and null are the same.
func fields(t *testing.T, task *matrix.Task) map[string]any {
	t.Helper()
	raw, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("task %.100q: %v", raw, err)
	}
	if m["turns"] == nil {
		m["turns"] = []any{}
	}
	return m
}

// fullTask has something in every field.
func fullTask() *matrix.Task {
	value := func(s string) matrix.Value { return matrix.RawValue([]byte(s)) }
	return &matrix.Task{
		ID: "full#1", Row: "full", Trial: 1, Seed: -7, Item: value(`{"question":"why?","n":12345678901234567890}`),
		Turns: []matrix.Turn{{
			Role: "teacher", Text: "because", Data: value(`{"answer":"B"}`), Error: "did not parse", Hop: 3,
			Reasoning: "let me think", Logprobs: value(`{"content":[]}`), Opaque: value(`{"wire":"w"}`),
			ToolCalls:   []matrix.ToolCall{{ID: "c1", Name: "add", Arguments: value(`{"a":1}`)}, {ID: "c2", Name: "f", Arguments: value(`"{"`)}},
			ToolResults: []matrix.ToolResult{{ID: "c1", Name: "add", Content: "2"}, {ID: "c2", Content: "no JSON", IsError: true}},
			Samples: []matrix.Sample{
				{Text: "because", Data: value(`{"n":1}`), Reasoning: "so", ToolCalls: []matrix.ToolCall{{ID: "c3", Name: "g", Arguments: value(`{}`)}}, Logprobs: value(`[0]`), Opaque: value(`[1]`)},
				{Text: "so"},
			},
			Calls: []matrix.Call{{
				Kind: matrix.KindModel, Name: "m", Model: "llama", Revision: "fp_1", Endpoint: "http://127.0.0.1", Params: value(`{"temperature":0.5}`), Prompt: "abc", Request: "0f1e", Seed: new(int64), Finish: "stop",
				Error: "the reply is empty", Retries: 1, WaitMS: 1.5, RetryMS: 2.25,
				Tokens: matrix.Tokens{PromptTokens: 10, CompletionTokens: 20, CachedTokens: 8, CacheWriteTokens: 3, ReasoningTokens: 7}, Estimated: true, USD: 0.000125, FirstMS: 12.5, TookMS: 800.5,
			}, {Kind: matrix.KindTool, Name: "add", TookMS: 0.5}},
			Timing: matrix.Timing{At: time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC), QueuedMS: 0.25, DelayMS: 0.5, TookMS: 812.75, Attempts: 2},
		}, {Role: "student"}},
		Outcome: &matrix.Outcome{Status: matrix.Failed, Value: value(`[1]`), Cause: "no agreement", Stopped: "filter"},
		Metrics: map[string]*float64{"b": new(1.0), "a": new(0.1), "c": nil},
	}
}
