package api

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"matrix/llm"
)

// What a server writes, a client reads as it was.
func TestReplyBothWays(t *testing.T) {
	for name, r := range map[string]*Reply{
		"chat": {ID: "chatcmpl-1", Object: "chat.completion", Created: 7, Model: "m\"", Revision: "fp", Usage: &Usage{Prompt: 3, Completion: 2, Cached: 1, Thought: 1, Cost: 0.5}, Choices: []Choice{
			{Whole: true, Message: Message{Content: "a\nb", Thinking: "hm"}, Finish: "stop", Logprobs: `{"content":[]}`},
			{Index: 1, Whole: true, Message: Message{Tools: []ToolCall{{ID: "c", Name: "f", Arguments: `{"a":1}`}}}, Finish: "tool_calls"},
			{Index: 2, Whole: true, Message: Message{Refusal: "no", Reasoning: "why"}, Finish: "stop"}}},
		"pieces": {Object: "chat.completion.chunk", Model: "m", Choices: []Choice{
			{Piece: true, First: true}, {Piece: true, Delta: Message{Content: "x"}}, {Piece: true, Finish: "length"},
			{Piece: true, Delta: Message{Tools: []ToolCall{{Index: 1, Numbered: true, ID: "c", Name: "f"}}}},
			{Piece: true, Delta: Message{Tools: []ToolCall{{Index: 1, Numbered: true, Arguments: `{"a`}}}}}},
		"the end of a stream":    {Object: "chat.completion.chunk", Model: "m", Choices: []Choice{}, Usage: &Usage{Prompt: 3}},
		"completion":             {Object: "text_completion", Model: "m", Choices: []Choice{{Text: "t", Finish: "stop"}, {Index: 1, Error: `{"message":"no"}`}}},
		"embeddings":             {Object: "list", Model: "m", Data: []Vector{{0, []float32{0.5, -1}}, {1, []float32{1e-9}}}},
		"embeddings, as numbers": {Object: "list", Model: "m", Floats: true, Data: []Vector{{0, []float32{0.5, -1}}, {1, []float32{1e-9}}}},
		"an error":               {Object: "x", Model: "m", Error: `{"message":"no"}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := r.Append(nil)
			if !json.Valid(b) {
				t.Fatalf("not JSON: %s", b)
			}
			got, err := Decode(string(b), 10)
			null := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Logprobs" },
				cmp.Comparer(func(a, b string) bool { return a == b || a+b == "null" }))
			if d := cmp.Diff(*r, got, null, cmpopts.IgnoreFields(Reply{}, "ID", "Created", "Floats"), cmpopts.IgnoreFields(Choice{}, "First")); err != nil || d != "" {
				t.Errorf("%v: %s\n%s", err, b, d)
			}
		})
	}
}

// What a client asks for, a server reads as it was.
func TestRequestBothWays(t *testing.T) {
	half, seed := 0.5, int64(-7)
	for name, r := range map[string]*Request{
		"chat": {Model: "m", Stream: true, Usage: true, Counts: true, Request: &llm.Request{
			Messages: []llm.Message{{Role: "system", Content: "s\n"}, {Role: "user", Content: "look", Images: []llm.Image{{URL: "http://x/a.png", Detail: "low"}, {Data: []byte{1, 2}, Media: "image/png"}}},
				{Role: "assistant", ToolCalls: []llm.ToolCall{{ID: "c", Name: "f", Arguments: `{"a":1}`}}}, {Role: "tool", Content: "3", ToolCallID: "c"}},
			Tools: []llm.Tool{{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`), Strict: true}, {Name: "g"}}, ToolChoice: "g",
			Sampling: llm.Sampling{Temperature: &half, TopP: &half, PresencePenalty: &half, FrequencyPenalty: &half, MaxTokens: 5, N: 2, Stop: []string{"a", "b"}, Seed: &seed,
				Logprobs: 3, Effort: "low", ResponseFormat: map[string]any{"type": "json_object"}, Extra: map[string]any{"min_p": 0.25, "top_k": 4, "x": []any{"a", nil, map[string]any{"b": true}}}}}},
		"fields of a message of its own": {Request: &llm.Request{Messages: []llm.Message{{Role: "system", Content: "s", Extra: map[string]any{"role": "developer", "cache_control": map[string]any{"type": "ephemeral"}}},
			{Role: "user", Extra: map[string]any{"content": []any{map[string]any{"type": "input_audio", "input_audio": map[string]any{"data": "x"}}}}}}}},
		"completion": {Model: "m", Request: &llm.Request{Prompt: "once", Sampling: llm.Sampling{Logprobs: 2}}},
		"embeddings": {Model: "m", Request: &llm.Request{Input: []string{"a", "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			params, err := r.Params(Server{Name: OpenAI})
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.Append(nil, params)
			if err != nil || !json.Valid(b) {
				t.Fatalf("%v: %s", err, b)
			}
			got, err := Read(b)
			if d := cmp.Diff(r, got, cmpopts.IgnoreUnexported(llm.Request{}), cmpopts.IgnoreFields(Request{}, "Floats")); err != nil || d != "" {
				t.Errorf("%v: %s\n%s", err, b, d)
			}
		})
	}
}

func TestReadRequest(t *testing.T) {
	for _, c := range []struct {
		body string
		want func(*Request) any
		is   any
	}{
		{`{"prompt":["a"]}`, func(r *Request) any { return r.Prompt }, "a"},
		{`{"prompt":["a","b"]}`, func(r *Request) any { return r.Other }, `["a","b"]`},
		{`{"prompt":[1,2]}`, func(r *Request) any { return r.Other }, `[1,2]`},
		{`{"input":"a"}`, func(r *Request) any { return r.Input }, []string{"a"}},
		{`{"input":[[1]]}`, func(r *Request) any { return r.Other }, `[[1]]`},
		{`{"stop":"x","n":null}`, func(r *Request) any { return r.Sampling.Stop }, []string{"x"}},
		{`{"logprobs":true}`, func(r *Request) any { return r.Sampling.Logprobs }, 1},
		{`{"logprobs":false,"top_logprobs":5}`, func(r *Request) any { return r.Sampling.Logprobs }, 0},
		{`{"tool_choice":{"type":"function","function":{"name":"f"}}}`, func(r *Request) any { return r.ToolChoice }, "f"},
		{`{"tool_choice":{"type":"allowed_tools"}}`, func(r *Request) any { return r.Sampling.Extra["tool_choice"] }, map[string]any{"type": "allowed_tools"}},
		{`{"max_completion_tokens":9,"big":12345678901234567890}`, func(r *Request) any { return r.Sampling.Extra }, map[string]any{"max_completion_tokens": 9, "big": json.Number("12345678901234567890")}},
		{`{"input":"a","encoding_format":"base64"}`, func(r *Request) any { return r.Floats }, false},
		{`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}`, func(r *Request) any { return len(r.Messages[0].Extra) }, 1},
	} {
		r, err := Read([]byte(c.body))
		if err != nil || !reflect.DeepEqual(c.want(r), c.is) {
			t.Errorf("%s: got %#v, %v, want %#v", c.body, c.want(r), err, c.is)
		}
	}
	for body, want := range map[string]string{
		`{"n":0}`: `"n" is not a whole number of 1 or more`, `{"max_tokens":"x"}`: `"max_tokens" is not`, `{"stop":[1]}`: `"stop" is not a text or a list of texts`,
		`{"messages":{}}`: `"messages" is not a list`, `{"messages":[{"content":5}]}`: `"content" is not a text`, `{"tools":[{"type":"function"}]}`: "a list of functions that have a name",
		`{"logprobs":"x"}`: `"logprobs" is not`, `{"encoding_format":"x"}`: "float or base64", `{"n":1`: "unexpected end", `[]`: "it is not an object",
	} {
		if _, err := Read([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", body, err, want)
		}
	}
}

// What a reply must look like is read in each way that Params writes it.
func TestFormatsBothWays(t *testing.T) {
	for _, f := range []llm.Format{
		{JSON: true}, {Schema: json.RawMessage(`{"type":"object"}`), Name: "n"}, {Regex: "a+"}, {Choice: []string{"a", "b"}}, {Grammar: "root ::= \"a\""},
	} {
		for _, s := range []Server{{Name: VLLM}, {Name: VLLM, Guided: true}} {
			r := &Request{Request: &llm.Request{Messages: []llm.Message{{Role: "user", Content: "x"}}, Format: &f}}
			params, err := r.Params(s)
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.Append(nil, params)
			if err != nil {
				t.Fatal(err)
			}
			in, err := Read(b)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Wanted(in.Request); err != nil || !reflect.DeepEqual(got, &f) {
				t.Errorf("%s: got %+v, %v, want %+v", b, got, err, f)
			}
		}
	}
	text := &llm.Request{Sampling: llm.Sampling{Extra: map[string]any{"guided_json": `{"type":"string"}`}}}
	if got, err := Wanted(text); err != nil || string(got.Schema) != `{"type":"string"}` {
		t.Errorf("a schema in a text: got %+v, %v", got, err)
	}
}

func TestErrorAndModelsBothWays(t *testing.T) {
	e := Error{Msg: "no such model", Type: "NotFoundError", Param: "model", Code: "model_not_found"}
	if got := ReadError(e.Append(nil)); got != e {
		t.Errorf("got %+v, want %+v", got, e)
	}
	e.Code, e.Status = "", 404
	if got := ReadError(e.Append(nil)); got != e {
		t.Errorf("got %+v, want %+v", got, e)
	}
	list := []llm.Served{{Name: "a", Owner: "vllm", Context: 4096}, {Name: "b"}}
	if got, ok := ReadModels(AppendModels(nil, list, 7)); !ok || !reflect.DeepEqual(got, list) {
		t.Errorf("got %+v, want %+v", got, list)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}],"tools":[{"function":{"name":"f"}}],"x":1e3}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Read(body)
		if err != nil {
			return
		}
		params, err := r.Params(Server{Name: OpenAI})
		if err != nil {
			return
		}
		if b, err := r.Append(nil, params); err == nil && !json.Valid(b) {
			t.Errorf("%s becomes %s", body, b)
		}
	})
}

func TestReadError(t *testing.T) {
	const page = "<!DOCTYPE HTML>\n<html lang=\"en\">\n<head>\n<title>Error response</title>\n</head></html>"
	for body, want := range map[string]Error{
		`{"error":{"message":"a","code":"c","type":"t","param":"p"}}`: {Code: "c", Type: "t", Param: "p", Msg: "a"},
		`{"error":"a"}`: {Msg: "a"},
		`{"object":"error","message":"a","code":404,"type":"t"}`: {Status: 404, Type: "t", Msg: "a"},
		`{"error":{"message":"a","code":"503"}}`:                 {Status: 503, Msg: "a"},
		`{"error":{"message":"a","code":1234}}`:                  {Msg: "a"},
		`{"error":{"message":"a","code":null,"param":null}}`:     {Msg: "a"},
		`{"detail":"a"}`:           {Msg: "a"},
		`{"detail":[{"msg":"a"}]}`: {Msg: `[{"msg":"a"}]`},
		"a\n b":                    {Msg: "a b", Text: true},
		`{}`:                       {Msg: "{}"},
		page:                       {Msg: "a web page (Error response)", Text: true, Page: true},
		"  <html><body>no":         {Msg: "a web page", Text: true, Page: true},
		"<!DOCTYPE html>\n<TITLE lang=en>502\n Bad &amp; Gate</title>":  {Msg: "a web page (502 Bad & Gate)", Text: true, Page: true},
		"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": {Msg: "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", Text: true},
		``:                              {Text: true},
		`{"error":{"message":["odd"]}}`: {Msg: `{"message":["odd"]}`},
	} {
		if got := ReadError([]byte(body)); got != want {
			t.Errorf("%s: got %+v, want %+v", body, got, want)
		}
	}
}

func TestStrict(t *testing.T) {
	for schema, want := range map[string]bool{
		`{"type":"string"}`: true,
		`{"type":"object"}`: false,
		`{"type":"object","additionalProperties":false}`:                                        true,
		`{"type":"object","properties":{"a":{}},"required":["a"],"additionalProperties":false}`: true,
		`{"type":"object","properties":{"a":{}},"required":[],"additionalProperties":false}`:    false,
		`{"type":"object","properties":{"a":{}},"required":["a"]}`:                              false,
		`{"type":"array","items":{"type":"object"}}`:                                            false,
		`{"anyOf":[{"type":"string"},{"type":"object"}]}`:                                       false,
		`{"$defs":{"x":{"type":"object"}},"type":"string"}`:                                     false,
		`{"type":"object","properties":{"type":{"type":"string"},"items":{"type":"array","items":{"type":"string"}}},"required":["type","items"],"additionalProperties":false}`: true,
		`{"type":"object","properties":{"a":{"type":"object","properties":{"b":{}},"required":["b"]}},"required":["a"],"additionalProperties":false}`:                           false,
		`not JSON`: false,
	} {
		if got := strict(json.RawMessage(schema)); got != want {
			t.Errorf("%s: got %v, want %v", schema, got, want)
		}
	}
}

func TestEither(t *testing.T) {
	choices := []string{"a|b", "c.d", "(e)", `\`}
	re := regexp.MustCompile("^" + either(choices) + "$")
	for _, c := range choices {
		if !re.MatchString(c) {
			t.Errorf("%q does not match %s", c, re)
		}
	}
	if re.MatchString("cxd") || re.MatchString("a") {
		t.Errorf("%s matches too much", re)
	}
}
