package replay

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"matrix/llm"
)

func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	var b bytes.Buffer
	switch filepath.Ext(name) {
	case ".gz":
		z := gzip.NewWriter(&b)
		z.Write([]byte(text))
		z.Close()
	case ".zst":
		z, _ := zstd.NewWriter(&b)
		z.Write([]byte(text))
		z.Close()
	default:
		b.WriteString(text)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func replayer(t testing.TB, c Config) llm.Model {
	t.Helper()
	m, err := New("old", c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func row(item string, a llm.Ask) *llm.Request {
	json.Unmarshal([]byte(item), &a.Item)
	return &llm.Request{Ask: a}
}

func TestReplayKeys(t *testing.T) {
	const rows = "\xEF\xBB\xBF" + `{"question_id": 7, "model": "m-70b", "text": "seven"}` + "\r\n\n" +
		`{"question_id": "q/8", "text": "eight"}
{"question_id": 9, "text": "nine a"}
{"question_id": 12345678901234567890, "text": "big"}
{"question_id": 2.5, "text": "half"}
{"question_id": 9.0, "text": "nine b", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
{"question_id": "9", "text": "nine c"}`
	for _, name := range []string{"r.jsonl", "r.jsonl.gz", "r.jsonl.zst"} {
		t.Run(name, func(t *testing.T) {
			m := replayer(t, Config{Path: file(t, name, rows), Key: "question_id"})
			for _, c := range []struct {
				req  *llm.Request
				want string
			}{
				{row(`{"question_id":7}`, llm.Ask{}), "seven"},
				{row(`{"question_id":"7"}`, llm.Ask{}), "seven"},
				{row(`{"question_id":"q/8"}`, llm.Ask{}), "eight"},
				{row(`{"question_id":9}`, llm.Ask{}), "nine a"},
				{row(`{"question_id":9.0}`, llm.Ask{Nth: 1}), "nine b"},
				{row(`{"question_id":9e0}`, llm.Ask{Nth: 1, Reask: 1}), "nine c"},
				{row(`{"question_id":2.50}`, llm.Ask{}), "half"},
				{&llm.Request{Ask: llm.Ask{Item: map[string]any{"question_id": 7}}}, "seven"},
				{&llm.Request{Ask: llm.Ask{Item: map[string]any{"question_id": json.Number("12345678901234567890")}}}, "big"},
			} {
				rep, err := m.Do(t.Context(), c.req)
				if err != nil || !reflect.DeepEqual(rep.Choices, []llm.Choice{{Text: c.want, Finish: "stop"}}) {
					t.Errorf("%+v: got %+v, %v, want %q", c.req.Ask, rep, err, c.want)
				}
			}
			three := row(`{"question_id":9}`, llm.Ask{})
			three.Sampling.N = 3
			if rep, err := m.Do(t.Context(), three); err != nil || len(rep.Choices) != 3 || rep.Choices[2].Text != "nine c" {
				t.Errorf("n: got %+v, %v", rep, err)
			}
			if rep, _ := m.Do(t.Context(), row(`{"question_id":9}`, llm.Ask{Nth: 1})); rep.Usage != (llm.Usage{Tokens: llm.Tokens{PromptTokens: 3, CompletionTokens: 4}}) {
				t.Errorf("usage: got %+v", rep.Usage)
			}
			if rep, _ := m.Do(t.Context(), row(`{"question_id":7}`, llm.Ask{})); rep.Model != "m-70b" {
				t.Errorf("model: got %q", rep.Model)
			}
			for _, c := range []struct {
				req  *llm.Request
				want string
			}{
				{row(`{"question_id":10}`, llm.Ask{}), `no reply for question_id "10"`},
				{row(`{"question_id":9}`, llm.Ask{Nth: 3}), `has 3 replies for question_id "9", and call 4 wants one more`},
				{row(`{"id":9}`, llm.Ask{ID: "9"}), `no field "question_id"`},
				{row(`{"question_id":null}`, llm.Ask{}), `is null, want a number or a text`},
				{row(`[1]`, llm.Ask{}), `not an object`},
			} {
				_, err := m.Do(t.Context(), c.req)
				if e := kindOf(t, err); e.Kind != llm.Refused || !strings.Contains(e.Msg, c.want) {
					t.Errorf("%+v: got %v, want ...%s...", c.req.Ask, err, c.want)
				}
			}
		})
	}
}

func TestReplayCoordinates(t *testing.T) {
	m := replayer(t, Config{Path: file(t, "r.jsonl", `
{"id":"q1","role":"teacher","n":0,"trial":0,"text":"t0 old"}
{"id":"q1","role":"teacher","n":1,"trial":0,"text":"t1"}
{"id":"q1","role":"teacher","n":0,"trial":0,"text":"t0"}
{"id":"q1","role":"teacher","n":0,"trial":0,"reask":1,"text":"t0 again"}
{"id":"q1","role":"student","text":"s first"}
{"id":"q1","role":"student","text":"s second"}
{"id":"q2","trial":1,"text":"second trial"}
{"id":"q3","text":"whoever"}
`)})
	for _, c := range []struct {
		ask  llm.Ask
		want string
	}{
		{llm.Ask{ID: "q1", Role: "teacher"}, "t0"},
		{llm.Ask{ID: "q1", Role: "teacher", Nth: 1}, "t1"},
		{llm.Ask{ID: "q1", Role: "teacher", Reask: 1}, "t0 again"},
		{llm.Ask{ID: "q1", Role: "student"}, "s first"},
		{llm.Ask{ID: "q1", Role: "student", Nth: 1, Trial: 3}, "s second"},
		{llm.Ask{ID: "q2", Role: "student", Trial: 1}, "second trial"},
		{llm.Ask{ID: "q3", Role: "student", Trial: 1}, "whoever"},
		{llm.Ask{ID: "q1", Role: "teacher", Nth: 2}, ""},
		{llm.Ask{ID: "q1", Role: "teacher", Trial: 1}, ""},
		{llm.Ask{ID: "q2"}, ""},
		{llm.Ask{ID: "q1", Role: "judge"}, ""},
	} {
		rep, err := m.Do(t.Context(), &llm.Request{Ask: c.ask})
		if c.want == "" {
			if e := kindOf(t, err); e.Kind != llm.Refused || !strings.Contains(e.Msg, fmt.Sprintf("role %q", c.ask.Role)) {
				t.Errorf("%+v: got %v", c.ask, err)
			}
		} else if err != nil || rep.Choices[0].Text != c.want {
			t.Errorf("%+v: got %+v, %v, want %q", c.ask, rep, err, c.want)
		}
	}
}

func TestReplayForms(t *testing.T) {
	m := replayer(t, Config{Path: file(t, "r.jsonl", `
{"id":"hand","text":"","tool_calls":[{"name":"add","arguments":{"a": 1}},{"id":"x","name":"f","arguments":"{"}]}
{"id":"thought","text":"B","reasoning":"hm","logprobs":{"content":[]},"finish":"eos","revision":"fp"}
{"id":"vector","text":"","vectors":[[0.25,1]]}
`)})
	for _, c := range []struct {
		id   string
		want llm.Choice
	}{
		{"hand", llm.Choice{Finish: "tool_calls", ToolCalls: []llm.ToolCall{{ID: "call_1", Name: "add", Arguments: `{"a": 1}`}, {ID: "x", Name: "f", Arguments: "{"}}}},
		{"thought", llm.Choice{Text: "B", Reasoning: "hm", Finish: "eos", Logprobs: json.RawMessage(`{"content":[]}`)}},
	} {
		rep, err := m.Do(t.Context(), &llm.Request{Ask: llm.Ask{ID: c.id}})
		if err != nil || !reflect.DeepEqual(rep.Choices, []llm.Choice{c.want}) || (c.id == "thought") != (rep.Revision == "fp") {
			t.Errorf("%s: got %+v, %v, want %+v", c.id, rep, err, c.want)
		}
	}
	if rep, err := m.Do(t.Context(), &llm.Request{Ask: llm.Ask{ID: "vector"}, Input: []string{"a"}}); err != nil || !reflect.DeepEqual(rep.Vectors, [][]float32{{0.25, 1}}) || rep.Choices != nil {
		t.Errorf("got %+v, %v", rep, err)
	}
	_, err := m.Do(t.Context(), &llm.Request{Ask: llm.Ask{ID: "hand"}, Input: []string{"a"}})
	if e := kindOf(t, err); e.Kind != llm.Refused || !strings.Contains(e.Msg, `has 0 vectors for id "hand", and 1 texts`) {
		t.Errorf("got %v", err)
	}
}

func TestReplayBadFiles(t *testing.T) {
	ok := `{"id":1,"text":"x"}` + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"not json", ok + "oops\n" + ok, ":2: not a JSON object"},
		{"array", ok + ok + "[1]\n", ":3: not a JSON object"},
		{"no key", ok + `{"text":"x"}` + "\n", `:2: has no field "id"`},
		{"no key at the end", ok + `{"text":"x"}`, `:2: has no field "id"`},
		{"no text", ok + `{"id":1}` + "\n", `:2: has no field "text"`},
		{"null text", `{"id":1,"text":null}` + "\n", `:1: field "text" is null`},
		{"number text", `{"id":1,"text":5}` + "\n", `:1: field "text" is 5`},
		{"object key", `{"id":{},"text":"x"}` + "\n", `:1: field "id" is {}`},
		{"odd n", `{"id":1,"n":"x","text":"x"}` + "\n", `:1: field "n" is "x"`},
		{"empty", "", "holds no replies"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := file(t, "r.jsonl", c.text)
			_, err := New("m", Config{Path: path})
			var f *llm.FieldError
			if !errors.As(err, &f) || f.Field != "path" || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ...%s...", err, c.want)
			}
		})
	}
	for _, path := range []string{"", t.TempDir(), filepath.Join(t.TempDir(), "none.jsonl")} {
		if _, err := New("m", Config{Path: path}); err == nil {
			t.Errorf("%q: no error", path)
		}
	}
	// Cut-off archives are an error, a torn last line is not.
	for _, name := range []string{"r.jsonl.gz", "r.jsonl.zst"} {
		path := file(t, name, strings.Repeat(ok, 1000))
		raw, _ := os.ReadFile(path)
		os.WriteFile(path, raw[:len(raw)-10], 0o666)
		if _, err := New("m", Config{Path: path}); err == nil {
			t.Errorf("%s: no error for a cut-off file", name)
		}
		os.WriteFile(path, []byte("not packed"), 0o666)
		if _, err := New("m", Config{Path: path}); err == nil {
			t.Errorf("%s: no error for a file that is not packed", name)
		}
	}
	// What a file holds counts more than its name.
	for name, raw := range map[string]string{"r.gz": "r.jsonl", "r.zst": "r.jsonl", "r.jsonl": "r.jsonl.gz"} {
		path := file(t, name, ok)
		other := filepath.Join(filepath.Dir(path), raw)
		if err := os.Rename(path, other); err != nil {
			t.Fatal(err)
		}
		replayer(t, Config{Path: other})
	}
	for head, want := range map[string]string{"\xff\xfe{\x00": "is text in UTF-16", "version https://git-lfs.github.com/spec/v1\n": "git lfs pull", "<!doctype html>": "is a web page", "PAR1": "is a Parquet file"} {
		if _, err := New("m", Config{Path: file(t, "r.jsonl", head)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", head, err, want)
		}
	}
	if _, err := New("m", Config{Path: os.DevNull}); err == nil || !strings.Contains(err.Error(), "is a device, not a file") {
		t.Errorf("a device: got %v", err)
	}
	m := replayer(t, Config{Path: file(t, "r.jsonl", ok+`{"id":2,"te`)})
	if _, err := m.Do(t.Context(), &llm.Request{Ask: llm.Ask{ID: "1"}}); err != nil {
		t.Error(err)
	}
}

// The replies that Matrix's own example replays.
func TestReplayMMLUPro(t *testing.T) {
	path := "../../shared/data/mmlu_pro/replies_llama-3.1-70b-instruct.jsonl"
	if _, err := os.Stat(path); err != nil {
		t.Skip("no data: ", err)
	}
	m := replayer(t, Config{Path: path, Key: "question_id"})
	raw, _ := os.ReadFile(path)
	for _, l := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		var want struct {
			ID   int `json:"question_id"`
			Text string
		}
		if err := json.Unmarshal(l, &want); err != nil {
			t.Fatal(err)
		}
		rep, err := m.Do(t.Context(), &llm.Request{Ask: llm.Ask{Item: map[string]any{"question_id": want.ID}}})
		if err != nil || rep.Choices[0].Text != want.Text {
			t.Fatalf("%d: got %+v, %v", want.ID, rep, err)
		}
	}
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"id":1,"text":"x"}` + "\n" + `{"id":"q","role":"a","n":0,"trial":1,"text":"y","samples":[{"text":"z"}],"usage":null}` + "\n{"))
	f.Add([]byte("\xEF\xBB\xBF\r\n{}\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "r.jsonl")
		os.WriteFile(path, data, 0o666)
		m, err := New("m", Config{Path: path})
		if err != nil {
			return
		}
		defer m.Close()
		for _, a := range []llm.Ask{{ID: "1"}, {ID: "q", Role: "a", Trial: 1}} {
			if rep, err := m.Do(t.Context(), &llm.Request{Ask: a}); err == nil && len(rep.Choices) == 0 {
				t.Error("a reply without choices")
			}
		}
	})
}
