package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/jsonschema"
	"matrix/llm"
)

func adder() []any {
	return []any{
		map[string]any{"type": "function", "function": map[string]any{
			"name": "add", "description": "Adds.",
			"parameters": map[string]any{"type": "object", "required": []any{"a", "b"}, "additionalProperties": false,
				"properties": map[string]any{"a": map[string]any{"type": "number"}, "b": map[string]any{"type": "number"}}}}},
		map[string]any{"name": "now"},
	}
}

func calls(text string, cs ...llm.ToolCall) llm.Reply {
	return llm.Reply{Choices: []llm.Choice{{Text: text, ToolCalls: cs, Finish: "tool_calls"}}}
}

// With tools_strict false whoever answers a bad call says what is wrong, and the model
// is told both.
func TestChatToolsNotStrict(t *testing.T) {
	for _, tt := range []struct{ name, arguments, want string }{
		{"sub", `{"a":1}`, `{"a":1}`}, {"add", `{"a":"x"}`, `{"a":"x"}`}, {"add", `{"a": 1`, `"{\"a\": 1"`}, {"now", `[1]`, `[1]`},
	} {
		m := &fake{replies: []llm.Reply{calls("so", llm.ToolCall{ID: "c1", Name: tt.name, Arguments: tt.arguments}), {Choices: []llm.Choice{choice("I see", "stop")}}}}
		a := newChat(t, Chat{Sees: []string{"user", "teacher", "tools"}, Tools: adder(), ToolsStrict: new(false)}, m)
		tk := task(t)
		tk.Turns = []matrix.Turn{{Role: "user", Text: "go"}}
		turn, err := a.Act(t.Context(), tk)
		if err != nil || turn.Error != "" || len(m.requests) != 1 || turn.ToolCalls[0].Name != tt.name || turn.ToolCalls[0].Arguments.String() != tt.want {
			t.Fatalf("%s(%s): got %+v, %v, asked %d times", tt.name, tt.arguments, turn, err, len(m.requests))
		}
		turn.Role = "teacher"
		tk.Turns = append(tk.Turns, turn, matrix.Turn{Role: "tools", ToolResults: []matrix.ToolResult{{ID: "c1", Name: tt.name, Content: "no such thing", IsError: true}}})
		if _, err := a.Act(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		got := m.requests[1].Messages
		want := []llm.Message{{Role: "user", Content: "go"}, {Role: "assistant", Content: "so", ToolCalls: []llm.ToolCall{{ID: "c1", Name: tt.name, Arguments: strings.TrimSpace(argumentsOf(&turn.ToolCalls[0]))}}},
			{Role: "tool", Content: "no such thing", ToolCallID: "c1", ToolName: tt.name, IsError: true}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestChatTools(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reply llm.Reply
		calls string // as said shows them
		err   string
	}{
		{"one", calls("", llm.ToolCall{ID: "c1", Name: "add", Arguments: ` {"a": 1, "b": 2} `}), `add({"a":1,"b":2})`, ""},
		{"parallel, with text", calls("Let me see.", llm.ToolCall{ID: "c1", Name: "add", Arguments: `{"a":1,"b":2.5}`}, llm.ToolCall{ID: "c2", Name: "now"}),
			"Let me see.\nadd({\"a\":1,\"b\":2.5})\nnow({})", ""},
		{"no JSON", calls("", llm.ToolCall{ID: "c1", Name: "add", Arguments: `{"a": 1`}), `add({"a": 1)`, `the arguments of the call of add are not JSON: {"a": 1`},
		{"two values", calls("", llm.ToolCall{ID: "c1", Name: "now", Arguments: `{} {}`}), `now({} {})`, `the arguments of the call of now are not JSON`},
		{"odd JSON", calls("", llm.ToolCall{ID: "c1", Name: "add", Arguments: `{"a":1,"b":"\ud83d", "b":2}`}), `add({"a":1,"b":2})`, ""},
		{"beyond floats", calls("", llm.ToolCall{ID: "c1", Name: "add", Arguments: `{"a":1e400,"b":2}`}), `add({"a":1e400,"b":2})`,
			`the arguments of the call of add cannot be used: "a" has the number 1e400`},
		{"misfit", calls("", llm.ToolCall{ID: "c1", Name: "add", Arguments: `{"a":"x","b":2}`}), `add({"a":"x","b":2})`,
			"the arguments of the call of add do not fit its parameters: /a: got string, want number"},
		{"no object", calls("", llm.ToolCall{ID: "c1", Name: "now", Arguments: `[1]`}), `now([1])`, "the arguments of the call of now are [1], want an object"},
		{"unknown", calls("", llm.ToolCall{ID: "c1", Name: "sub", Arguments: `{}`}), `sub({})`, "the reply calls sub, and there is no such tool, only add, now"},
		{"none after all", llm.Reply{Choices: []llm.Choice{choice("", "tool_calls")}}, "", "the reply is empty"},
		{"cut", llm.Reply{Choices: []llm.Choice{{ToolCalls: []llm.ToolCall{{ID: "c1", Name: "add", Arguments: `{"a`}}, Finish: "length"}}}, `add({"a)`, "the reply was cut off at max_tokens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &fake{replies: []llm.Reply{tt.reply, {Choices: []llm.Choice{choice("42", "stop")}}}}
			c := Chat{Prompt: "p", Tools: adder(), ToolChoice: "add", Parse: Parse{Regex: `\d+`}}
			turn, err := newChat(t, c, m).Act(t.Context(), task(t))
			if err != nil || !strings.HasPrefix(turn.Error, tt.err) || tt.err == "" && turn.Error != "" {
				t.Fatalf("got %+v, %v, want error %q", turn, err, tt.err)
			}
			if got := replyText(&matrix.Sample{Text: turn.Text, ToolCalls: turn.ToolCalls}); got != tt.calls {
				t.Errorf("got %q, want %q", got, tt.calls)
			}
			if r := m.requests[0]; len(r.Tools) != 2 || r.Tools[0].Name != "add" || r.Tools[0].Description != "Adds." || r.Tools[1].Parameters != nil || r.ToolChoice != "add" {
				t.Errorf("got the tools %+v", r.Tools)
			}
			if tt.err == "" || tt.name == "cut" {
				return
			}
			c.Reask = 1
			m = &fake{replies: []llm.Reply{tt.reply, {Choices: []llm.Choice{choice("42", "stop")}}}}
			turn, err = newChat(t, c, m).Act(t.Context(), task(t))
			if err != nil || turn.Error != "" || turn.Data.String() != `{"answer":"42"}` || turn.ToolCalls != nil {
				t.Fatalf("re-asked: got %+v, %v", turn, err)
			}
			last := m.requests[1].Messages
			if got := last[len(last)-1]; got.Role != "user" || !strings.Contains(got.Content, tt.err) || len(last) == 3 && last[1].Content != tt.calls {
				t.Errorf("re-asked: got %+v", last)
			}
		})
	}
}

func TestChatToolIDs(t *testing.T) {
	tk := task(t)
	tk.Turns = append(tk.Turns, matrix.Turn{Role: "teacher", ToolCalls: []matrix.ToolCall{{ID: "c1", Name: "now"}}})
	m := &fake{replies: []llm.Reply{calls("", llm.ToolCall{ID: "c1", Name: "now"}, llm.ToolCall{Name: "now"}, llm.ToolCall{ID: "c2", Name: "now"}, llm.ToolCall{ID: "c2", Name: "now"})}}
	turn, err := newChat(t, Chat{Prompt: "p", Tools: adder()}, m).Act(t.Context(), tk)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range turn.ToolCalls {
		got = append(got, c.ID)
	}
	if want := []string{"call_7_1", "call_7_2", "c2", "call_7_4"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q: no id twice in a task", got, want)
	}
}

func TestChatToolsOfTheRow(t *testing.T) {
	tk := task(t)
	act := func(item, src, choice string) (*fake, error) {
		tk.Item = value(t, item)
		m := says("x")
		_, err := newChat(t, Chat{Prompt: "p", Tools: src, ToolChoice: choice}, m).Act(t.Context(), tk)
		return m, err
	}
	m, err := act(`{"tools":"[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]"}`, "json(item.tools)", "f")
	if err != nil || len(m.requests[0].Tools) != 1 || string(m.requests[0].Tools[0].Parameters) != `{"type":"object"}` {
		t.Errorf("got %+v, %v", m.requests, err)
	}
	if m, err = act(`{"tools":[]}`, "item.tools", "auto"); err != nil || m.requests[0].Tools != nil || m.requests[0].ToolChoice != "" {
		t.Errorf("none: got %+v, %v", m.requests, err)
	}
	for _, tt := range []struct{ item, want string }{
		{`{"tools":[{"name":"g"}]}`, `tool_choice: got "f", want auto, none, required, or one of the tools: g`},
		{`{"tools":[{"nome":"f"}]}`, `tools: tool 1: want {name, description, parameters, strict}, got {"nome":"f"}: unknown field "nome"`},
		{`{"tools":[{"name":"f"},{"name":"f"}]}`, `tools: tool 2 (f): it is there twice`},
		{`{"tools":[{"name":"f","parameters":{"type":3}}]}`, `tools: tool 1 (f): not a JSON Schema: /type`},
		{`{"tools":[{"name":"f","parameters":"x"}]}`, `tools: tool 1 (f): its parameters are "x", want a JSON Schema of an object`},
		{`{"tools":[{"type":"retrieval","function":{"name":"f"}}]}`, `tools: tool 1: its type is "retrieval"`},
		{`{"tools":"[]"}`, `tools: want a list of tools, got "[]"`},
		{`{}`, `tools: item has no field "tools"`},
	} {
		_, err := act(tt.item, "item.tools", "f")
		var fail *matrix.FailError
		if !errors.As(err, &fail) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.item, err, tt.want)
		}
	}
}

func TestChatToolMessages(t *testing.T) {
	call := func(id, name string) matrix.ToolCall {
		return matrix.ToolCall{ID: id, Name: name, Arguments: matrix.RawValue([]byte(`{"a":1}`))}
	}
	asked := func(text string, cs ...matrix.ToolCall) matrix.Turn {
		return matrix.Turn{Role: "teacher", Text: text, ToolCalls: cs}
	}
	opaque := func(t matrix.Turn) matrix.Turn {
		t.Opaque = matrix.RawValue([]byte(`{"wire":"w"}`))
		return t
	}
	told := func(rs ...matrix.ToolResult) matrix.Turn { return matrix.Turn{Role: "tools", ToolResults: rs} }
	assistant := func(text string, ids ...string) llm.Message {
		m := llm.Message{Role: "assistant", Content: text}
		for _, id := range ids {
			m.ToolCalls = append(m.ToolCalls, llm.ToolCall{ID: id, Name: "f", Arguments: `{"a":1}`})
		}
		return m
	}
	tool := func(id, content string) llm.Message {
		return llm.Message{Role: "tool", Content: content, ToolCallID: id, ToolName: "f"}
	}
	for _, tt := range []struct {
		name  string
		turns []matrix.Turn
		last  int
		want  []llm.Message
	}{
		{"a round", []matrix.Turn{asked("", call("1", "f")), told(matrix.ToolResult{ID: "1", Content: "2"}), {Role: "teacher", Text: "It is 2."}}, 0,
			[]llm.Message{assistant("", "1"), tool("1", "2"), msg("assistant", "It is 2."), msg("user", "p")}},
		{"parallel", []matrix.Turn{asked("so", call("1", "f"), call("2", "f")), told(matrix.ToolResult{ID: "2", Content: "no", IsError: true}, matrix.ToolResult{ID: "1", Content: "x"})}, 0,
			[]llm.Message{assistant("so", "1", "2"), tool("1", "x"), {Role: "tool", Content: "no", ToolCallID: "2", ToolName: "f", IsError: true}, msg("user", "p")}},
		{"two answerers, one says more", []matrix.Turn{asked("", call("1", "f"), call("2", "f")), told(matrix.ToolResult{ID: "1", Content: "a"}),
			{Role: "student", Text: "well", ToolResults: []matrix.ToolResult{{ID: "2", Content: "b"}}}}, 0,
			[]llm.Message{assistant("", "1", "2"), tool("1", "a"), tool("2", "b"), msg("user", "well\n\np")}},
		{"one not answered", []matrix.Turn{asked("", call("1", "f"), call("2", "f")), told(matrix.ToolResult{ID: "2", Content: "b"})}, 0,
			[]llm.Message{assistant("", "2"), tool("2", "b"), msg("user", "p")}},
		{"none answered", []matrix.Turn{asked("I call", call("1", "f")), asked("", call("2", "f"))}, 0,
			[]llm.Message{msg("assistant", "I call"), msg("user", "p")}},
		{"with signed thoughts", []matrix.Turn{opaque(asked("so", call("1", "f"))), told(matrix.ToolResult{ID: "1", Content: "2"})}, 0,
			[]llm.Message{{Role: "assistant", Content: "so", ToolCalls: assistant("", "1").ToolCalls, Opaque: json.RawMessage(`{"wire":"w"}`)}, tool("1", "2"), msg("user", "p")}},
		{"signed, not answered", []matrix.Turn{opaque(asked("so", call("1", "f")))}, 0, []llm.Message{msg("assistant", "so"), msg("user", "p")}},
		{"call out of view", []matrix.Turn{asked("", call("1", "f")), told(matrix.ToolResult{ID: "1", Content: "2"}), {Role: "teacher", Text: "It is 2."}}, 2,
			[]llm.Message{msg("assistant", "It is 2."), msg("user", "p")}},
		{"answer before its call", []matrix.Turn{told(matrix.ToolResult{ID: "1", Content: "2"}), asked("t", call("1", "f"))}, 0,
			[]llm.Message{msg("assistant", "t"), msg("user", "p")}},
		{"of another, and with an error", []matrix.Turn{{Role: "student", Text: "I too", ToolCalls: []matrix.ToolCall{call("1", "f")}},
			{Role: "teacher", Error: "no such tool", ToolCalls: []matrix.ToolCall{call("2", "f")}}, told(matrix.ToolResult{ID: "1", Content: "x"}, matrix.ToolResult{ID: "2", Content: "y"})}, 0,
			[]llm.Message{msg("user", "I too\n\np")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tk := task(t)
			tk.Turns = tt.turns
			m := says("fine")
			if _, err := newChat(t, Chat{Prompt: "p", Sees: []string{"teacher", "tools", "student"}, Last: tt.last}, m).Act(t.Context(), tk); err != nil {
				t.Fatal(err)
			}
			if got := m.requests[0].Messages; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestChatKeepsWhatCame(t *testing.T) {
	m := &fake{replies: []llm.Reply{{Choices: []llm.Choice{
		{Text: "B", Reasoning: "hm", Logprobs: []byte(`{"content":[],"top":1e999,"top":-1e999,"t":"\udc00"}`), Finish: "stop"},
		{Text: "C", Reasoning: "ha", Finish: "stop"},
	}}}}
	turn, err := newChat(t, Chat{Prompt: "p", Sampling: llm.Sampling{N: 2, Logprobs: 1}}, m).Act(t.Context(), task(t))
	if err != nil || turn.Reasoning != "hm" || turn.Logprobs.String() != `{"content":[],"top":null,"t":"�"}` || turn.Samples[1].Reasoning != "ha" || turn.Samples[0].Logprobs.IsZero() {
		t.Errorf("got %+v, %v", turn, err)
	}
}

// What goes back with calls is kept with them, and only with them.
func TestChatKeepsOpaque(t *testing.T) {
	sealed := []byte(`{"wire":"w","parts":[]}`)
	call := []llm.ToolCall{{ID: "c1", Name: "now"}}
	m := &fake{replies: []llm.Reply{{Choices: []llm.Choice{
		{ToolCalls: call, Opaque: sealed, Finish: "tool_calls"}, {Text: "B", Opaque: sealed, Finish: "stop"},
	}}}}
	turn, err := newChat(t, Chat{Prompt: "p", Tools: adder(), Sampling: llm.Sampling{N: 2}}, m).Act(t.Context(), task(t))
	if err != nil || turn.Opaque.String() != string(sealed) || turn.Samples[0].Opaque.String() != string(sealed) || !turn.Samples[1].Opaque.IsZero() {
		t.Errorf("got %+v, %v", turn, err)
	}
}

func TestChatFormat(t *testing.T) {
	schema := map[string]any{"type": "object"}
	for _, tt := range []struct {
		p    Parse
		text string
		want *llm.Format
		data string
	}{
		{Parse{JSON: true}, "{}", nil, "{}"},
		{Parse{JSON: true, Enforce: true}, "{}", &llm.Format{JSON: true}, "{}"},
		{Parse{Schema: schema, Enforce: true}, "{}", &llm.Format{Schema: []byte(`{"type":"object"}`)}, "{}"},
		{Parse{Schema: "type: object", Enforce: true}, "{}", &llm.Format{Schema: []byte(`{"type": "object"}`)}, "{}"},
		{Parse{Choice: []string{"A", "B"}, Enforce: true}, "A", &llm.Format{Choice: []string{"A", "B"}}, `{"choice":"A"}`},
		{Parse{Regex: "x+", Enforce: true}, "xx", &llm.Format{Regex: "x+"}, `{"answer":"xx"}`},
		{Parse{Grammar: `root ::= "x"+`}, "xx", &llm.Format{Grammar: `root ::= "x"+`}, `{"answer":"xx"}`},
		{Parse{Grammar: `root ::= "x"+`, Field: "sql", Enforce: true}, "xx", &llm.Format{Grammar: `root ::= "x"+`}, `{"sql":"xx"}`},
	} {
		m := says(tt.text)
		turn, err := newChat(t, Chat{Prompt: "p", Parse: tt.p}, m).Act(t.Context(), task(t))
		if err != nil || turn.Data.String() != tt.data {
			t.Errorf("%+v: got %+v, %v", tt.p, turn, err)
			continue
		}
		if got := m.requests[0].Format; !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%+v: got %+v, want %+v", tt.p, got, tt.want)
		}
	}
	m := says("no JSON", `{"a":1}`) // the server is not trusted
	turn, err := newChat(t, Chat{Prompt: "p", Reask: 1, Parse: Parse{JSON: true, Enforce: true}}, m).Act(t.Context(), task(t))
	if err != nil || turn.Data.String() != `{"a":1}` || len(m.requests) != 2 || m.requests[1].Format == nil {
		t.Errorf("got %+v, %v", turn, err)
	}
	m = says("yes!", "yes") // no grammar either
	turn, err = newChat(t, Chat{Prompt: "p", Reask: 1, Parse: Parse{Grammar: `root ::= "yes" | "no"`}}, m).Act(t.Context(), task(t))
	if err != nil || turn.Data.String() != `{"answer":"yes"}` || len(m.requests) != 2 ||
		!strings.Contains(m.requests[1].Messages[2].Content, `the reply does not match the grammar: line 1, character 4: got "!", want the end`) {
		t.Errorf("got %+v, %v, asked %+v", turn, err, m.requests)
	}
	m = says("yes!", "no!")
	turn, err = newChat(t, Chat{Prompt: "p", Reask: 1, Parse: Parse{Grammar: `root ::= "yes" | "no"`}}, m).Act(t.Context(), task(t))
	if err != nil || turn.Text != "no!" || !turn.Data.IsZero() || !strings.Contains(turn.Error, `line 1, character 3: got "!"`) {
		t.Errorf("got %+v, %v", turn, err)
	}
}

func FuzzToolCalls(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":2}`, `{"a":`, "", `"x"`, "\xff", `{} {}`, `{"a":1e999}`} {
		f.Add("add", s)
	}
	s, err := newToolSet(adder())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, args string) {
		cs, err := s.read(&matrix.Task{}, []llm.ToolCall{{Name: name, Arguments: args}})
		if len(cs) != 1 || !isJSON(cs[0].Arguments.Raw()) || cs[0].ID == "" || err == nil && !s.has(name) {
			t.Errorf("%s(%q): got %+v, %v", name, args, cs, err)
		}
	})
}

// TestToolsTakeBoundedWork checks that a row whose tools take too long to check
// fails alone.
func TestToolsTakeBoundedWork(t *testing.T) {
	defs := map[string]any{"d40": map[string]any{}}
	for i := range 40 {
		next := map[string]any{"$ref": fmt.Sprintf("#/$defs/d%d", i+1)}
		defs[fmt.Sprintf("d%d", i)] = map[string]any{"allOf": []any{next, next}}
	}
	tools, err := newToolSet([]any{map[string]any{"name": "f", "parameters": map[string]any{"$ref": "#/$defs/d0", "$defs": defs}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tools.schemas["f"].Check(map[string]any{"a": 1}); !errors.Is(err, jsonschema.ErrWork) {
		t.Errorf("got %v", err)
	}
}
