package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// ask reads what q asks of e: a chat, or a text to be continued.
func (e *Engine) ask(q *api.Request) (*ask, *refusal) {
	if q.Model != "" && q.Model != e.model {
		return nil, e.unknown(q.Model)
	}
	s := &q.Sampling
	a := &ask{chat: q.Messages != nil, prompt: q.Prompt, key: q.Key, seed: s.Seed, stream: q.Stream, stop: s.Stop, n: max(1, s.N), max: s.MaxTokens}
	switch {
	case s.Temperature != nil && *s.Temperature < 0:
		return nil, wrong("temperature", "temperature must be non-negative, got %v.", *s.Temperature)
	case s.TopP != nil && !(*s.TopP > 0 && *s.TopP <= 1):
		return nil, wrong("top_p", "top_p must be in (0, 1], got %v.", *s.TopP)
	case s.Logprobs > 20:
		return nil, wrong("top_logprobs", "at most 20 logprobs a token can be had")
	case s.Logprobs > 0:
		a.logprobs = 1 + s.Logprobs
	}
	if no := a.readExtra(s.Extra); no != nil {
		return nil, no
	}
	if no := e.readFormat(a, q.Request); no != nil {
		return nil, no
	}
	if !a.chat {
		return a, nil
	}
	if no := a.readMessages(q.Messages); no != nil {
		return nil, no
	}
	return a, e.readTools(a, q.Request)
}

func (e *Engine) unknown(model string) *refusal {
	return &refusal{status: 404, typ: "NotFoundError", code: "model_not_found", param: "model", msg: fmt.Sprintf("The model %q does not exist; this server has %q.", model, e.model)}
}

// readExtra reads what vLLM adds to the API, as far as it says how long a reply is
// and how many tools it calls.
func (a *ask) readExtra(extra map[string]any) *refusal {
	for key, v := range extra {
		ok := true
		switch key {
		case "max_completion_tokens":
			if a.max, ok = integer(v); ok && a.max < 1 {
				return wrong(key, "%s must be at least 1, got %d.", key, a.max)
			}
		case "min_tokens":
			a.least, ok = integer(v)
		case "ignore_eos":
			a.endless, ok = v.(bool)
		case "parallel_tool_calls":
			a.parallel, ok = v.(bool)
		case "echo":
			if v == true {
				return wrong(key, "the simulator does not echo prompts")
			}
		}
		if !ok && v != nil {
			return wrong(key, "%s is %v, which it cannot be", key, v)
		}
	}
	return nil
}

// integer is v as a whole number.
func integer(v any) (n int, ok bool) {
	switch v := v.(type) {
	case int:
		return v, true
	case float64:
		return int(v), v == math.Trunc(v)
	}
	return 0, false
}

func (a *ask) readMessages(list []llm.Message) *refusal {
	if len(list) == 0 {
		return wrong("messages", "messages is missing or empty")
	}
	a.messages = list
	for i := range list {
		from := &list[i]
		switch from.Role {
		case "system", "user", "assistant", "tool":
		default:
			return wrong("messages", "messages[%d]: role is %q, want system, user, assistant or tool", i, from.Role)
		}
		parts, _ := from.Extra["content"].([]any) // more than one text and images
		for _, p := range parts {
			part, _ := p.(map[string]any)
			if kind := part["type"]; kind != "text" && kind != "image_url" {
				return wrong("messages", "messages[%d]: a part is of type %q, want text or image_url", i, fmt.Sprint(kind))
			}
		}
	}
	return nil
}

func (e *Engine) readTools(a *ask, r *llm.Request) *refusal {
	a.choose = "none"
	if len(r.Tools) == 0 {
		return nil
	}
	var about strings.Builder
	for i := range r.Tools {
		from := &r.Tools[i]
		t := tool{name: from.Name, schema: anything()}
		if len(from.Parameters) > 0 {
			s, err := e.schemas.get(from.Parameters)
			if err != nil {
				return wrong("tools", "tool %q: %v", from.Name, err)
			}
			t.schema = s
		}
		about.WriteString(from.Name)
		about.Write(from.Parameters)
		a.tools = append(a.tools, t)
	}
	a.about = about.String()
	switch r.ToolChoice {
	case "", "auto":
		a.choose = "auto"
		return nil
	case "none", "required":
		a.choose = r.ToolChoice
		return nil
	}
	for _, t := range a.tools {
		if t.name == r.ToolChoice {
			a.choose, a.parallel = t.name, false
			return nil
		}
	}
	return wrong("tool_choice", "tool_choice names %q, which is not one of the tools", r.ToolChoice)
}

func (e *Engine) readFormat(a *ask, r *llm.Request) *refusal {
	f, err := api.Wanted(r)
	if err != nil {
		return wrong("response_format", "%v", err)
	}
	switch {
	case f == nil:
	case len(f.Schema) > 0 && string(f.Schema) != "null":
		if a.format.schema, err = e.schemas.get(f.Schema); err != nil {
			return wrong("response_format", "%v", err)
		}
	case f.Regex != "":
		if a.format.regex, err = newPattern(f.Regex); err != nil {
			return wrong("structured_outputs", "%v", err)
		}
	case len(f.Choice) > 0:
		a.format.choice = f.Choice
	case f.Grammar != "":
		if a.format.grammar, err = newGrammar(f.Grammar); err != nil {
			return wrong("structured_outputs", "%v", err)
		}
	case f.JSON:
		a.format.json = true
	}
	return nil
}

// promptsIn are prompts that no text is: several of them, tokens, or lists of
// tokens. Tokens become texts of as many tokens.
func promptsIn(raw string) ([]string, error) {
	var texts []string
	if json.Unmarshal([]byte(raw), &texts) == nil {
		return texts, nil
	}
	var one []int
	if json.Unmarshal([]byte(raw), &one) == nil {
		return []string{ofTokens(one)}, nil
	}
	var many [][]int
	if json.Unmarshal([]byte(raw), &many) == nil {
		list := make([]string, len(many))
		for i := range many {
			list[i] = ofTokens(many[i])
		}
		return list, nil
	}
	return nil, errors.New("want a text, a list of texts, or tokens")
}

func ofTokens(ids []int) string {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = fmt.Appendf(b, "%04x", id&0xffff)
	}
	return string(b)
}
