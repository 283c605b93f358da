package lang

import (
	"reflect"
	"strings"
	"testing"

	"matrix"
)

func tooled(t testing.TB) *matrix.Task {
	raw := func(s string) matrix.Value { return matrix.RawValue([]byte(s)) }
	return &matrix.Task{ID: "a", Row: "a", Item: raw(`{}`), Turns: []matrix.Turn{
		{Role: "solve", Reasoning: "hm", ToolCalls: []matrix.ToolCall{
			{ID: "c1", Name: "add", Arguments: raw(`{"a":1,"b":[2]}`)}, {ID: "c2", Name: "neg", Arguments: raw(`{}`)}},
			Logprobs: raw(`{"content":[{"token":"x","logprob":-0.5},{"token":"y","logprob":-1.5}]}`),
			Samples:  []matrix.Sample{{Text: "", Reasoning: "one"}, {Text: "b", ToolCalls: []matrix.ToolCall{{ID: "c3", Name: "f", Arguments: raw(`"{"`)}}}},
			Calls:    []matrix.Call{{Kind: matrix.KindModel, Name: "m", Finish: "tool_calls", USD: 0.25, Tokens: matrix.Tokens{PromptTokens: 10}, Params: raw(`{"seed":7}`)}}},
		{Role: "twice", Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Finish: "length", Error: "it was cut off", USD: 0.5, Tokens: matrix.Tokens{PromptTokens: 1}}, {Kind: matrix.KindModel, Name: "m", Finish: "stop", USD: 0.25, Tokens: matrix.Tokens{PromptTokens: 2}}, {Kind: matrix.KindTool, Name: "add", TookMS: 3, Trace: &matrix.Trace{ID: "c1", Tool: "add", Code: 2, Cut: 9}}}},
		{Role: "tools", ToolResults: []matrix.ToolResult{{ID: "c1", Name: "add", Content: "3"}, {ID: "c2", Content: "no", IsError: true}}},
	}}
}

func TestTurnFields(t *testing.T) {
	task := tooled(t)
	for _, tt := range []struct {
		src  string
		want any
	}{
		{`len(turns[0].tool_calls)`, 2},
		{`len(last.tool_calls)`, 0},
		{`last.tool_calls`, []any{}},
		{`len(last.tool_calls) > 0`, false},
		{`turn("solve").tool_calls[0].arguments.b[0]`, 2},
		{`turn("solve").tool_calls[9].arguments.b[0]`, nil},
		{`map(turns[0].tool_calls, .name)`, []any{"add", "neg"}},
		{`map(filter(last.tool_results, .error == ""), .content)`, []any{"3"}},
		{`map(filter(last.tool_results, .is_error), .content)`, []any{"no"}},
		{`last.tool_results[1].error`, "no"},
		{`turn("twice").calls[2].trace.code`, 2},
		{`turn("twice").calls[2].trace.cut + 1`, 10},
		{`turn("twice").calls[0].trace?.code`, nil},
		{`turns[0].reasoning`, "hm"},
		{`turns[0].samples[1].tool_calls[0].arguments`, "{"},
		{`turns[0].samples[0].reasoning`, "one"},
		{`mean(map(turns[0].logprobs.content, .logprob))`, -1.0},
		{`last.logprobs == nil`, true},
		{`last.logprobs.content`, nil},
		{`turns[0].call.finish`, "tool_calls"},
		{`turns[0].call.usd + turns[0].call.prompt_tokens`, 10.25},
		{`turns[0].call.params.seed`, 7},
		{`last.call`, nil},
		{`last.call.usd ?? 0`, 0},
		{`sum(map(turns, .call.usd ?? 0))`, 1.0},
		{`turns[1].call.usd`, 0.75},
		{`turns[1].call.finish`, "stop"},
		{`[turns[1].call.calls, turns[0].call.calls, turns[1].call.prompt_tokens, turns[1].call.took_ms]`, []any{3, 1, 3, 3.0}},
		{`map(turns[1].calls, .error)`, []any{"it was cut off", "", ""}},
		{`map(filter(turns[1].calls, .kind == "tool"), .name)`, []any{"add"}},
		{`len(last.calls)`, 0},
		{`len(json(to_json(turns[1])).calls)`, 3},
		{`json(to_json(turns[0])).calls`, nil},
		{`keys(json(to_json(last)))`, nil},
		{`json(to_json(turns[0])).call.usd`, 0.25},
		{`json(to_json(turns[0])).logprobs.content[1].token`, "y"},
	} {
		e, err := CompileExpr(tt.src, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		got, err := e.Eval(task)
		if tt.want == nil && strings.HasPrefix(tt.src, "keys") { // in any order
			if list, _ := got.([]any); len(list) != 5 {
				t.Errorf("%s: got %v, want role, text, data, error and tool_results", tt.src, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %#v, %v, want %#v", tt.src, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ src, want string }{
		{`{% for c in turns[0].tool_calls %}{{ c.name }}({{ c.arguments | tojson }}) {% endfor %}`, `add({"a": 1, "b": [2]}) neg({}) `},
		{`{% for r in last.tool_results %}{{ r.content or r.error }} {% endfor %}`, "3 no "},
		{`{% if last.tool_calls %}yes{% else %}no{% endif %}`, "no"},
		{`{{ turns[0].call.finish }} {{ turns[0].call.usd }} {{ last.call.usd }}`, "tool_calls 0.25 "},
		{`{{ turns[1].call.usd }} {{ turns[1].calls[0].error }}{% for c in turns[1].calls %} {{ c.kind }}{% endfor %} {{ turns[1].calls | length }}`, "0.75 it was cut off model model tool 3"},
		{`{{ turns[0].logprobs.content[0].token }}{{ last.logprobs.content }}`, "x"},
		{`{{ json(turns[0] | tojson).call.prompt_tokens }} {{ turns[0].reasoning }}`, "10 hm"},
	} {
		c, err := CompileTemplate(tt.src, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if got, err := c.Render(task, nil); err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.src, got, err, tt.want)
		}
	}
}

func TestTurnFieldErrors(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{`last.call.finsh`, "a call has no finsh, did you mean finish?"},
		{`turn("x").tool_cals`, "a turn has no tool_cals, did you mean tool_calls?"},
	} {
		if _, err := CompileExpr(tt.src, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.src, err, tt.want)
		}
	}
}

// TestTurnFieldNames checks that each field that is said to be there is.
func TestTurnFieldNames(t *testing.T) {
	v := viewTurn(&tooled(t).Turns[0])
	for _, name := range turnFields {
		if _, ok := v.field(name); !ok {
			t.Errorf("a turn has no %s", name)
		}
		if _, ok := (turnView{&tooled(t).Turns[0], new(keyOrder)}).Get(name); !ok {
			t.Errorf("templates do not see %s", name)
		}
	}
	for _, name := range callFields {
		if _, ok := v.Call.(*call).field(name); !ok {
			t.Errorf("a call has no %s", name)
		}
	}
	for _, name := range oneCallFields {
		if _, ok := v.Calls[0].(oneCall).field(name); !ok {
			t.Errorf("one of the calls has no %s", name)
		}
	}
}
