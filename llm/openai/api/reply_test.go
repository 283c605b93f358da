package api

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Decode makes of a reply what encoding/json does, and refuses what it refuses.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"model":"m\n\ud83d\ude00","system_fingerprint":null,"object":"x","usage":{"prompt_tokens":1,"completion_tokens":-0,"prompt_cache_hit_tokens":2,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":4},"reasoning_tokens":5,"cost":1e-3,"x":[{}]}}`,
		`{"choices":[{"index":1,"delta":{"content":"a","tool_calls":[{"index":0,"id":"i","function":{"name":"f","arguments":"{}"}},{"index":null,"function":{"arguments": {"a" : 1} }}]},"logprobs":{"content":[ 1 ]}},null,{"text":"t","error":{"a":1},"finish_reason":null}],"error":null}`,
		`{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"text":"b"},{"type":"thinking","text":"c"},null,{"type":"output_text","text":null}],"refusal":5,"reasoning_content":"r","reasoning":["x"]}}]}`,
		`{"data":[{"index":0,"embedding":"AACAPw=="},{"index":1,"embedding":[1,2.5,-1e3,null]},{"embedding":null},{"embedding":"AACA\/w=="}]}`,
		`{"choices":null,"data":null,"usage":null}`, `{"choices":[],"data":[]}`, `{"choices":{}}`, `{"choices":[1]}`, `{"model":5}`, `{"usage":[]}`, `{"usage":{"prompt_tokens":1.5,"completion_tokens":"3","cost":"x","prompt_tokens_details":[1]}}`, `{"usage":{"prompt_tokens":-4,"completion_tokens":1e15,"reasoning_tokens":1e999,"cost":null,"prompt_tokens_details":{"cached_tokens":{}}}}`, `{"usage":{"cost":1e999}}`,
		`{"choices":[{"index":"0"}]}`, `{"choices":[{"message":"a"}]}`, `{"choices":[{"message":{"content":5}}]}`, `{"choices":[{"message":{"content":["a"]}}]}`, `{"choices":[{"message":{"tool_calls":{}}}]}`,
		`{"data":[{"embedding":"AAC"}]}`, `{"data":[{"embedding":[1e39]}]}`, `{"data":[{"embedding":{}}]}`, `null`, `[]`, `5`, `{"model":"a"} x`, `{"model":"a"`, "{\"model\":\"\xff\"}", `<html>`, ``, `{"x":"\u12"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !plainKeys(body) || bytes.HasPrefix(body, []byte(BOM)) {
			return
		}
		got, err := Decode(string(body), 1<<20)
		var slow slowReply
		wrong := json.Unmarshal(body, &slow)
		if (err == nil) != (wrong == nil) {
			t.Fatalf("%s: got error %v, want %v", body, err, wrong)
		}
		if want := slow.quick(); err == nil && !cmp.Equal(got, want, cmpopts.EquateNaNs(), cmpopts.IgnoreFields(Choice{}, "Whole", "Piece")) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", body, got, want)
		}
	})
}

// Of keys that come twice the last counts, and those in another case do not.
func TestDecodeKeys(t *testing.T) {
	got, err := Decode(`{"model":"a","model":"b","Model":5,"choices":[{"text":"a"},{}],"choices":[{"text":"b"}],"\u006fbject":"o"}`, 10)
	if err != nil || got.Model != "b" || got.Object != "o" || len(got.Choices) != 1 || got.Choices[0].Text != "b" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// plainKeys says that no key of a document comes twice, nor one in another case
// than a key that counts.
func plainKeys(body []byte) bool {
	known := strings.Fields(`model system_fingerprint choices data usage error object index message delta text finish_reason logprobs
		content refusal reasoning_content reasoning tool_calls id function name arguments embedding type prompt_tokens completion_tokens
		prompt_cache_hit_tokens prompt_tokens_details completion_tokens_details cached_tokens reasoning_tokens cost`)
	d := json.NewDecoder(bytes.NewReader(body))
	type level struct {
		keys map[string]bool // nil: a list
		odd  bool            // a value comes next
	}
	levels := []level{{}}
	for {
		tok, err := d.Token()
		if err != nil {
			return true
		}
		top := &levels[len(levels)-1]
		if key, ok := tok.(string); ok && top.keys != nil && !top.odd {
			folded := strings.ToLower(strings.ToUpper(key))
			if top.keys[folded] || slices.Contains(known, folded) && folded != key {
				return false
			}
			top.keys[folded], top.odd = true, true
			continue
		}
		top.odd = false
		switch tok {
		case json.Delim('{'):
			levels = append(levels, level{keys: map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
	}
}

// slowReply is a Reply as encoding/json reads it: what decode is held
// against.
type slowReply struct {
	Model    string          `json:"model"`
	Revision text            `json:"system_fingerprint"`
	Choices  *[]slowChoice   `json:"choices"`
	Data     *[]slowVector   `json:"data"`
	Usage    json.RawMessage `json:"usage"`
	Error    json.RawMessage `json:"error"`
	Object   string          `json:"object"`
}

type slowChoice struct {
	Index        int             `json:"index"`
	Message      slowMessage     `json:"message"`
	Delta        slowMessage     `json:"delta"`
	Text         string          `json:"text"`
	FinishReason string          `json:"finish_reason"`
	Logprobs     json.RawMessage `json:"logprobs"`
	Error        json.RawMessage `json:"error"`
}

type slowMessage struct {
	Content          slowContent `json:"content"`
	Refusal          text        `json:"refusal"`
	ReasoningContent text        `json:"reasoning_content"`
	Reasoning        text        `json:"reasoning"`
	ToolCalls        []slowTool  `json:"tool_calls"`
}

type slowTool struct {
	Index    *int   `json:"index"`
	ID       string `json:"id"`
	Function struct {
		Name      string        `json:"name"`
		Arguments slowArguments `json:"arguments"`
	} `json:"function"`
}

type slowVector struct {
	Index     int        `json:"index"`
	Embedding slowFloats `json:"embedding"`
}

type slowUsage struct {
	Prompt           slowAmount `json:"prompt_tokens"`
	Completion       slowAmount `json:"completion_tokens"`
	CacheHit         slowAmount `json:"prompt_cache_hit_tokens"`
	PromptDetail     slowDetail `json:"prompt_tokens_details"`
	CompletionDetail slowDetail `json:"completion_tokens_details"`
	Reasoning        slowAmount `json:"reasoning_tokens"`
	Cost             slowAmount `json:"cost"`
}

// slowAmount is a number, also in a text; what is none is 0.
type slowAmount float64

func (a *slowAmount) UnmarshalJSON(b []byte) error {
	s := string(b)
	_ = json.Unmarshal(b, &s)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= 1e9) {
		f = 0
	}
	*a = slowAmount(f)
	return nil
}

// slowDetail is an object of two numbers of which one counts; what is none is
// empty.
type slowDetail struct{ Cached, Reasoning slowAmount }

func (d *slowDetail) UnmarshalJSON(b []byte) error {
	var v struct {
		Cached    slowAmount `json:"cached_tokens"`
		Reasoning slowAmount `json:"reasoning_tokens"`
	}
	if b[0] == '{' {
		_ = json.Unmarshal(b, &v)
	}
	*d = slowDetail(v)
	return nil
}

type slowContent string

func (c *slowContent) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*string)(c))
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Text != nil && (p.Type == "text" || p.Type == "output_text" || p.Type == "") {
			all.WriteString(*p.Text)
		}
	}
	*c = slowContent(all.String())
	return nil
}

type slowArguments string

func (a *slowArguments) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "null":
		return nil
	case len(b) > 0 && b[0] == '"':
		return json.Unmarshal(b, (*string)(a))
	}
	*a = slowArguments(b)
	return nil
}

type slowFloats []float32

func (v *slowFloats) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '"' {
		return json.Unmarshal(b, (*[]float32)(v))
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return err
	}
	if len(raw)%4 != 0 {
		return errors.New("its bytes are not float32s")
	}
	*v = make(slowFloats, len(raw)/4)
	for i := range *v {
		(*v)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// quick is what decode makes of it.
func (s *slowReply) quick() Reply {
	w := Reply{Model: s.Model, Revision: string(s.Revision), Object: s.Object, Error: string(s.Error)}
	if s.Choices != nil {
		w.Choices = []Choice{}
		for _, c := range *s.Choices {
			w.Choices = append(w.Choices, Choice{
				Index: c.Index, Message: c.Message.quick(), Delta: c.Delta.quick(), Text: c.Text,
				Finish: c.FinishReason, Logprobs: string(c.Logprobs), Error: string(c.Error),
			})
		}
	}
	if s.Data != nil {
		w.Data = []Vector{}
		for _, v := range *s.Data {
			w.Data = append(w.Data, Vector{v.Index, v.Embedding})
		}
	}
	if len(s.Usage) > 0 && s.Usage[0] == '{' {
		var u slowUsage
		_ = json.Unmarshal(s.Usage, &u) // no part of it refuses anything
		w.Usage = &Usage{int(u.Prompt), int(u.Completion), int(u.PromptDetail.Cached), int(u.CacheHit), int(u.CompletionDetail.Reasoning), int(u.Reasoning), float64(u.Cost)}
	}
	return w
}

func (s *slowMessage) quick() Message {
	m := Message{Content: string(s.Content), Refusal: string(s.Refusal), Thinking: string(s.ReasoningContent), Reasoning: string(s.Reasoning)}
	if s.ToolCalls != nil {
		m.Tools = []ToolCall{}
	}
	for _, t := range s.ToolCalls {
		tool := ToolCall{ID: t.ID, Name: t.Function.Name, Arguments: string(t.Function.Arguments)}
		if t.Index != nil {
			tool.Index, tool.Numbered = *t.Index, true
		}
		m.Tools = append(m.Tools, tool)
	}
	return m
}
