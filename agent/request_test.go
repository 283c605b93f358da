package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"matrix"
	"matrix/llm"
)

// rowOf is a task that nothing was said in.
func rowOf(t *testing.T, item string) *matrix.Task {
	t.Helper()
	return &matrix.Task{ID: "r1", Row: "r1", Seed: 1, Item: value(t, item)}
}

// requestOf acts on a row, and gives what the model was asked.
func requestOf(t *testing.T, c Request, m *fake, item string) (*llm.Request, matrix.Turn) {
	t.Helper()
	a, err := NewRequest("reply", c, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	turn, err := a.Act(t.Context(), rowOf(t, item))
	if err != nil {
		t.Fatalf("%s: %v", item, err)
	}
	return m.requests[len(m.requests)-1], turn
}

func TestRequestMessages(t *testing.T) {
	image := picture(t, "png", 4, 4)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.png"), image, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, item string
		want       []llm.Message
	}{
		{"OpenAI", `[{"role":"developer","content":"Be short."},{"role":"user","content":"Hi"}]`,
			[]llm.Message{{Role: "system", Content: "Be short.", Extra: map[string]any{"role": "developer"}}, msg("user", "Hi")}},
		{"names, and columns of a dataset", `[{"role":"user","name":"ann","content":"Hi","weight":1,"cache_control":{"type":"ephemeral"}}]`,
			[]llm.Message{{Role: "user", Content: "Hi", Extra: map[string]any{"name": "ann"}}}},
		{"ShareGPT", `[{"from":"human","value":"Hi"},{"from":"gpt","value":"Ho"},{"from":"Human","value":"Go on"}]`,
			[]llm.Message{msg("user", "Hi"), msg("assistant", "Ho"), msg("user", "Go on")}},
		{"JSON text", `"[{\"role\": \"user\", \"content\": \"hi\"}]"`, []llm.Message{msg("user", "hi")}},
		{"ShareGPT in JSON text", `"[{\"from\": \"human\", \"value\": \"hi\"}]"`, []llm.Message{msg("user", "hi")}},
		{"parts", `[{"role":"user","content":[{"type":"text","text":"What"},{"type":"text","text":"is it?"},
			{"type":"image_url","image_url":{"url":"https://x.org/a.png","detail":"low"}},{"type":"image_url","image_url":"a.png"}]}]`,
			[]llm.Message{{Role: "user", Content: "What\n\nis it?", Images: []llm.Image{
				{URL: "https://x.org/a.png", Detail: "low"}, {Data: image, Media: "image/png"}}}}},
		{"tools", `[{"role":"user","content":"Weather?"},
			{"role":"assistant","content":null,"tool_calls":[
				{"id":"c1","type":"function","function":{"name":"look","arguments":"{\"at\": 1}"}},
				{"id":"c2","function":{"name":"look","arguments":{"at":2}}},{"id":"c3","name":"now"}]},
			{"role":"tool","tool_call_id":"c1","name":"look","content":"rain"}]`,
			[]llm.Message{msg("user", "Weather?"),
				{Role: "assistant", ToolCalls: []llm.ToolCall{
					{ID: "c1", Name: "look", Arguments: `{"at": 1}`}, {ID: "c2", Name: "look", Arguments: `{"at":2}`}, {ID: "c3", Name: "now", Arguments: "{}"}}},
				{Role: "tool", Content: "rain", ToolCallID: "c1", ToolName: "look"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, turn := requestOf(t, Request{Messages: "item.m", ImageDir: dir}, says("ok"), `{"m":`+tt.item+`}`)
			if !reflect.DeepEqual(r.Messages, tt.want) {
				t.Errorf("got  %+v\nwant %+v", r.Messages, tt.want)
			}
			if turn.Text != "ok" || turn.Error != "" {
				t.Errorf("got %+v", turn)
			}
		})
	}
}

// TestRequestOfSilence checks that a conversation that says nothing is refused, as
// an empty prompt is.
func TestRequestOfSilence(t *testing.T) {
	for _, item := range []string{
		`[{"role":"user","content":""}]`, `[{"role":"user","content":" \n"}]`, `[{"role":"system","content":""}]`,
		`[{"role":"system","content":"s"},{"role":"user","content":[]}]`, `[{"from":"human","value":""}]`, `"[{\"role\": \"user\", \"content\": \"\"}]"`,
		`[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ho"},{"role":"user","content":""}]`,
	} {
		a, err := NewRequest("reply", Request{Messages: "item.m"}, says("ok"), nil)
		if err != nil {
			t.Fatal(err)
		}
		var fail *matrix.FailError
		if _, err := a.Act(t.Context(), rowOf(t, `{"m":`+item+`}`)); !errors.As(err, &fail) || !strings.Contains(err.Error(), "there is nothing to reply to") {
			t.Errorf("%s: got %v, want an error: nothing to reply to", item, err)
		}
	}
}

func TestRequestRewrite(t *testing.T) {
	item := `{"m":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ho"},{"role":"user","content":"So?"},{"role":"assistant","content":"Well"},{"role":"assistant","content":"Yes"}]}`
	for _, tt := range []struct {
		rewrite bool
		want    int // messages, with the system's
	}{{false, 6}, {true, 4}} {
		r, _ := requestOf(t, Request{Messages: "item.m", Rewrite: &tt.rewrite, System: "S {{ id }}"}, says("ok"), item)
		if len(r.Messages) != tt.want || r.Messages[0].Content != "S r1" {
			t.Errorf("rewrite %v: got %+v, want %d messages", tt.rewrite, r.Messages, tt.want)
		}
	}
}

func TestRequestBody(t *testing.T) {
	m := says(`{"at": 1}`, "or {}")
	warm := 0.5
	c := Request{Body: "item.body", Sampling: llm.Sampling{Temperature: &warm, MaxTokens: 99, Extra: map[string]any{"top_k": 7}}}
	_, turn := requestOf(t, c, m, `{"body":{"model":"x","stream":true,"messages":[{"role":"user","content":"Hi"}],
		"temperature":1,"max_tokens":5,"n":2,"stop":"END","seed":11,"logprobs":true,"top_logprobs":3,"reasoning_effort":"low",
		"top_p":null,"min_p":0.1,"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object"}}},
		"tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object"}}}],
		"tool_choice":{"type":"function","function":{"name":"look"}},"parallel_tool_calls":false}}`)
	if len(m.requests) != 2 || len(turn.Samples) != 2 { // a fake draws one reply a call
		t.Errorf("got %d requests and the samples %+v, want 2 each", len(m.requests), turn.Samples)
	}
	r := m.requests[0]
	s := r.Sampling
	if *s.Temperature != 1 || s.MaxTokens != 5 || s.N != 2 || len(s.Stop) != 1 || *s.Seed != 11 || s.Logprobs != 3 || s.Effort != "low" || s.TopP != nil {
		t.Errorf("got %+v", s)
	}
	if want := (map[string]any{"top_k": 7, "min_p": 0.1, "parallel_tool_calls": false}); !reflect.DeepEqual(s.Extra, want) {
		t.Errorf("got the extra keys %v, want %v", s.Extra, want)
	}
	if s.ResponseFormat == nil || r.Format != nil {
		t.Errorf("got the formats %v and %v, want the row's alone", s.ResponseFormat, r.Format)
	}
	if len(r.Tools) != 1 || r.Tools[0].Name != "look" || r.ToolChoice != "look" {
		t.Errorf("got the tools %+v, choice %q", r.Tools, r.ToolChoice)
	}
	if turn.Data.String() != `{"at":1}` {
		t.Errorf("got the data %s, want what the schema makes of the reply", turn.Data)
	}

	// What one row says is not another's.
	m.replies = []llm.Reply{{Choices: []llm.Choice{choice("plain", "stop")}}}
	r, turn = requestOf(t, c, m, `{"body":{"messages":[{"role":"user","content":"Hi"}]}}`)
	if *r.Sampling.Temperature != 0.5 || r.Sampling.MaxTokens != 99 || r.Tools != nil || turn.Text != "plain" || !turn.Data.IsZero() {
		t.Errorf("got %+v and the turn %+v", r, turn)
	}
}

// What a batch file says of its messages and we know nothing of goes to a service
// with the same API.
func TestRequestExactMessages(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.png"), picture(t, "png", 4, 4), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, message, content, extra string }{
		{"plain", `{"role":"user","content":"Hi","audio":null}`, "Hi", "null"},
		{"fields", `{"role":"assistant","content":"Hi","name":"bob","reasoning_content":"hm","cache_control":{"type":"ephemeral"}}`, "Hi",
			`{"cache_control":{"type":"ephemeral"},"name":"bob","reasoning_content":"hm"}`},
		{"a tool's", `{"role":"tool","tool_call_id":"c","name":"look","content":"rain"}`, "rain", `{"name":"look"}`},
		{"one part", `{"role":"user","content":[{"type":"text","text":"Hi"}]}`, "Hi", "null"},
		{"two texts", `{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`, "a\n\nb",
			`{"content":[{"text":"a","type":"text"},{"text":"b","type":"text"}],"role":"developer"}`},
		{"a part's field", `{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}`, "a",
			`{"content":[{"cache_control":{"type":"ephemeral"},"text":"a","type":"text"}]}`},
		{"text behind an image", `{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.org/a.png"}},{"type":"text","text":"a"}]}`, "a",
			`{"content":[{"image_url":{"url":"https://x.org/a.png"},"type":"image_url"},{"text":"a","type":"text"}]}`},
		{"a file of ours", `{"role":"user","content":[{"type":"image_url","image_url":{"url":"a.png"}},{"type":"text","text":"a"}]}`, "a", "null"},
		{"ShareGPT", `{"from":"human","value":"Hi","id":7}`, "Hi", "null"},
	} {
		rewrite := false
		r, _ := requestOf(t, Request{Body: "item", ImageDir: dir, Rewrite: &rewrite}, says("ok"), `{"messages":[`+tt.message+`]}`)
		extra, err := json.Marshal(r.Messages[0].Extra)
		if err != nil {
			t.Fatal(err)
		}
		if r.Messages[0].Content != tt.content || string(extra) != tt.extra {
			t.Errorf("%s: got %q and %s, want %q and %s", tt.name, r.Messages[0].Content, extra, tt.content, tt.extra)
		}
	}
}

func TestRequestToolCalls(t *testing.T) {
	tools := `"tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object","required":["at"]}}}]`
	calls := func(name, args string) llm.Reply {
		return llm.Reply{Choices: []llm.Choice{{Finish: "tool_calls", ToolCalls: []llm.ToolCall{{ID: "c", Name: name, Arguments: args}}}}}
	}
	m := &fake{replies: []llm.Reply{calls("look", `{}`), calls("look", `{"at":1}`)}}
	r, turn := requestOf(t, Request{Body: "item", Reask: 1}, m, `{"messages":[{"role":"user","content":"Hi"}],`+tools+`}`)
	if len(turn.ToolCalls) != 1 || turn.ToolCalls[0].Arguments.String() != `{"at":1}` || turn.Error != "" {
		t.Errorf("got %+v", turn)
	}
	if n := len(r.Messages); n != 3 || !strings.Contains(r.Messages[2].Content, "do not fit its parameters") {
		t.Errorf("got the second request %+v", r.Messages)
	}
}

// A row of another form fails alone: nothing is sent.
func TestRequestBadRows(t *testing.T) {
	body := func(rest string) string {
		return `{"body":{"messages":[{"role":"user","content":"x"}],` + rest + `}}`
	}
	for _, tt := range []struct{ key, item, want string }{
		{"messages", `{}`, `item has no field "messages"`},
		{"messages", `{"messages":"hi"}`, "got a text"},
		{"messages", `{"messages":[]}`, "the list of messages is empty"},
		{"messages", `{"messages":["hi"]}`, "message 1 is a text"},
		{"messages", `{"messages":[{"role":"user","content":"a"},{"role":"bee","content":"b"}]}`, `message 2: role is "bee"`},
		{"messages", `{"messages":[{"content":"b"}]}`, "role is null"},
		{"messages", `{"messages":[{"role":"user"}]}`, "message 1: it has no content"},
		{"messages", `{"messages":[{"role":"user","content":7}]}`, "content is a number"},
		{"messages", `{"messages":[{"role":"user","content":[7]}]}`, "part 1 of content is a number"},
		{"messages", `{"messages":[{"role":"user","content":[{"type":"text"}]}]}`, "it has no text"},
		{"messages", `{"messages":[{"role":"user","content":[{"type":"input_audio"}]}]}`, `its type is "input_audio"`},
		{"messages", `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, "no url"},
		{"messages", `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"gone.png"}]}]}`, "image_dir"},
		{"messages", `{"messages":[{"role":"system","content":[{"type":"image_url","image_url":"http://x/a.png"}]}]}`, "only the user's may have images"},
		{"messages", `{"messages":[{"role":"assistant","tool_calls":[{"id":"a"}]}]}`, "tool call 1 names no function"},
		{"messages", `{"messages":[{"role":"assistant","tool_calls":7}]}`, "tool_calls is a number"},
		{"rewrite", `{"messages":[{"role":"assistant","content":"x"}]}`, "nothing to reply to"},
		{"messages", `{"messages":[{"role":"user","content":"x"},{"from":"gpt","value":"y"}]}`, "messages: the conversation ends with the assistant's reply: rewrite=true leaves it out"},
		{"body", `{"body":{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}}`, "body.messages: the conversation ends with the assistant's reply"},
		{"body", `{"body":[]}`, "body: want a request with messages, got a list"},
		{"body", `{"body":{}}`, "body.messages: want a list of messages, got null"},
		{"body", body(`"tools":7`), "body.tools: want a list of tools"},
		{"body", body(`"temperature":"hot"`), "body.temperature: want a number, got a text"},
		{"body", body(`"max_tokens":0`), "body.max_tokens: want a whole number of 1 or more, got a number"},
		{"body", body(`"n":1.5`), "body.n: want a whole number, got a number"},
		{"body", body(`"stop":[1]`), "body.stop: want a text or a list of texts"},
		{"body", body(`"logprobs":"a"`), "body.logprobs: want"},
		{"body", body(`"response_format":{"type":"json_schema"}`), "body.response_format: it has no json_schema.schema"},
		{"body", body(`"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"objekt"}}}`), "body.response_format: parse.schema"},
		{"body", body(`"tools":[{"name":"a"}],"tool_choice":"b"`), `body.tool_choice: want auto, none, required or`},
		{"body", body(`"tools":[{"name":"a"}],"tool_choice":{"function":{"name":"b"}}`), `there is no tool "b", only a`},
	} {
		rewrite := true
		c := Request{Messages: "item.messages"}
		switch tt.key {
		case "body":
			c = Request{Body: "item.body"}
		case "rewrite":
			c.Rewrite = &rewrite
		}
		m := says("never")
		a, err := NewRequest("reply", c, m, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Act(t.Context(), rowOf(t, tt.item))
		var fail *matrix.FailError
		if !errors.As(err, &fail) || !strings.Contains(err.Error(), tt.want) || len(m.requests) > 0 {
			t.Errorf("%s: got %v after %d requests, want a FailError with %q and none", tt.item, err, len(m.requests), tt.want)
		}
	}
}

func TestRequestConfig(t *testing.T) {
	for _, tt := range []struct {
		c    Request
		want string
	}{
		{Request{}, ""},
		{Request{Messages: "item.a", URL: "item.b"}, "url"},
		{Request{Messages: "item.a", Body: "item.b"}, ""},
		{Request{Messages: "item.", System: "{{ x }}", Reask: -1}, "reask system messages"},
		{Request{Body: "item.", OnRefused: "y", Parse: Parse{Enforce: true}}, "parse.enforce on_refused body"},
	} {
		if _, err := NewRequest("r", tt.c, says(), nil); err == nil || strings.TrimSpace(fields(err)) != tt.want {
			t.Errorf("%+v: got %v at %q, want %q", tt.c, err, fields(err), tt.want)
		}
	}
	a, err := NewRequest("r", Request{Body: `item["body"]`, System: "{{ item.lang }} {{ last.text }}"}, says(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mentioned(a), "body [body] [] system [lang] []"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRequestSeeds(t *testing.T) {
	m := &fake{replies: []llm.Reply{
		{Choices: []llm.Choice{choice("", "stop")}}, {Choices: []llm.Choice{choice("x", "stop")}, Params: json.RawMessage(`{}`)}}}
	_, turn := requestOf(t, Request{Body: "item", Reask: 1}, m, `{"messages":[{"role":"user","content":"x"}],"seed":5}`)
	if len(m.requests) != 2 || turn.Text != "x" || len(turn.Calls) != 2 {
		t.Fatalf("got %d requests and %+v, want the empty reply asked for again", len(m.requests), turn)
	}
	for i, r := range m.requests {
		if *r.Sampling.Seed != 5 {
			t.Errorf("request %d: got seed %d, want the row's", i, *r.Sampling.Seed)
		}
	}
}
