package lang

import (
	"slices"
	"strings"

	"matrix"
	"matrix/lang/internal/calc"
)

// turn is a turn as expressions see it: all but Opaque, which is not for them.
type turn struct {
	Role        string   `expr:"role"`
	Text        string   `expr:"text"`
	Data        any      `expr:"data"`
	Error       string   `expr:"error"`
	Samples     []sample `expr:"samples"`
	Reasoning   string   `expr:"reasoning"`
	ToolCalls   []any    `expr:"tool_calls"`
	ToolResults []any    `expr:"tool_results"`
	Logprobs    any      `expr:"logprobs"` // nil or a *matrix.Value, which is parsed when somebody looks inside
	Call        any      `expr:"call"`     // nil or a *call
	Calls       []any    `expr:"calls"`    // each a oneCall
}

type sample struct {
	Text      string `expr:"text"`
	Data      any    `expr:"data"`
	Reasoning string `expr:"reasoning"`
	ToolCalls []any  `expr:"tool_calls"`
	Logprobs  any    `expr:"logprobs"`
}

// call is a turn whose calls are seen as one, and oneCall one of them.
type (
	call    matrix.Turn
	oneCall struct{ *matrix.Call }
)

// The names of their fields.
var (
	turnFields = []string{"role", "text", "data", "error", "samples", "reasoning", "tool_calls", "tool_results", "logprobs", "call", "calls"}
	callFields = []string{"name", "model", "revision", "endpoint", "params", "prompt", "request", "seed", "finish", "reused", "calls", "retries", "prompt_tokens",
		"completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "estimated", "usd", "wait_ms", "retry_ms", "first_token_ms", "took_ms"}
	oneCallFields = append(slices.DeleteFunc(slices.Clone(callFields), func(name string) bool { return name == "calls" }), "kind", "error", "trace")
)

// Kind names the type, as do those of the others.
func (turn) Kind() string { return "a turn" }

// Kind names the type.
func (sample) Kind() string { return "a sample" }

// Kind names the type.
func (*call) Kind() string { return "a call" }

// Kind names the type.
func (oneCall) Kind() string { return "a call" }

// noTurnField says that a turn has no such field, and which it has.
func noTurnField(name string) string {
	last := len(turnFields) - 1
	return "a turn has no " + name + calc.DidYouMean(name, turnFields) +
		", it has " + strings.Join(turnFields[:last], ", ") + " and " + turnFields[last]
}

func viewTurn(t *matrix.Turn) turn {
	v := turn{Role: t.Role, Text: t.Text, Data: t.Data.Any(), Error: t.Error, Reasoning: t.Reasoning,
		ToolCalls: viewToolCalls(t.ToolCalls), Logprobs: later(&t.Logprobs)}
	if len(t.Samples) > 0 {
		v.Samples = make([]sample, len(t.Samples))
		for i := range t.Samples {
			s := &t.Samples[i]
			v.Samples[i] = sample{Text: s.Text, Data: s.Data.Any(), Reasoning: s.Reasoning,
				ToolCalls: viewToolCalls(s.ToolCalls), Logprobs: later(&s.Logprobs)}
		}
	}
	if len(t.ToolResults) > 0 {
		v.ToolResults = make([]any, len(t.ToolResults))
		for i, r := range t.ToolResults {
			v.ToolResults[i] = map[string]any{"id": r.ID, "name": r.Name, "content": r.Content, "is_error": r.IsError, "error": ""}
			if r.IsError { // the name that it had in flows of before
				v.ToolResults[i].(map[string]any)["error"] = r.Content
			}
		}
	}
	if len(t.Calls) > 0 {
		v.Call, v.Calls = (*call)(t), make([]any, len(t.Calls))
		for i := range t.Calls {
			v.Calls[i] = oneCall{&t.Calls[i]}
		}
	}
	return v
}

func viewToolCalls(calls []matrix.ToolCall) []any {
	if len(calls) == 0 {
		return nil
	}
	list := make([]any, len(calls))
	for i := range calls {
		list[i] = map[string]any{"id": calls[i].ID, "name": calls[i].Name, "arguments": calls[i].Arguments.Any()}
	}
	return list
}

// later is v, not yet parsed; nil where it is absent.
func later(v *matrix.Value) any {
	if v.IsZero() {
		return nil
	}
	return v
}

func (t *turn) field(name string) (any, bool) {
	switch name {
	case "role":
		return t.Role, true
	case "text":
		return t.Text, true
	case "data":
		return t.Data, true
	case "error":
		return t.Error, true
	case "samples":
		return t.Samples, true
	case "reasoning":
		return t.Reasoning, true
	case "tool_calls":
		return t.ToolCalls, true
	case "tool_results":
		return t.ToolResults, true
	case "logprobs":
		return t.Logprobs, true
	case "call":
		return t.Call, true
	case "calls":
		return t.Calls, true
	}
	return nil, false
}

func (s *sample) field(name string) (any, bool) {
	switch name {
	case "text":
		return s.Text, true
	case "data":
		return s.Data, true
	case "reasoning":
		return s.Reasoning, true
	case "tool_calls":
		return s.ToolCalls, true
	case "logprobs":
		return s.Logprobs, true
	}
	return nil, false
}

func (c *call) field(name string) (any, bool) {
	switch name {
	case "calls":
		return len(c.Calls), true
	case "kind", "error", "trace":
		return nil, false
	}
	return oneCall{(*matrix.Turn)(c).Call()}.field(name)
}

func (c oneCall) field(name string) (any, bool) {
	switch name {
	case "kind":
		return string(c.Call.Kind), true
	case "error":
		return c.Error, true
	case "trace":
		return viewTrace(c.Trace), true
	case "name":
		return c.Name, true
	case "model":
		return c.Model, true
	case "revision":
		return c.Revision, true
	case "endpoint":
		return c.Endpoint, true
	case "params":
		return c.Params.Any(), true
	case "prompt":
		return c.Prompt, true
	case "request":
		return c.Request, true
	case "seed":
		if c.Seed == nil {
			return nil, true
		}
		return int(*c.Seed), true
	case "finish":
		return c.Finish, true
	case "reused":
		if c.Reused == nil {
			return nil, true
		}
		return map[string]any{"run": c.Reused.Run, "task": c.Reused.Task}, true
	case "retries":
		return c.Retries, true
	case "prompt_tokens":
		return c.PromptTokens, true
	case "completion_tokens":
		return c.CompletionTokens, true
	case "cached_tokens":
		return c.CachedTokens, true
	case "cache_write_tokens":
		return c.CacheWriteTokens, true
	case "reasoning_tokens":
		return c.ReasoningTokens, true
	case "estimated":
		return c.Estimated, true
	case "usd":
		return c.USD, true
	case "wait_ms":
		return c.WaitMS, true
	case "retry_ms":
		return c.RetryMS, true
	case "first_token_ms":
		return c.FirstMS, true
	case "took_ms":
		return c.TookMS, true
	}
	return nil, false
}

// viewTrace is how a call of a tool or a sandbox went; nil of other calls.
func viewTrace(t *matrix.Trace) any {
	if t == nil {
		return nil
	}
	return map[string]any{"id": t.ID, "tool": t.Tool, "is_error": t.IsError, "changed": t.Changed, "lease": t.Lease, "generation": t.Generation,
		"restored": t.Restored, "code": t.Code, "signal": t.Signal, "cut": int(t.Cut), "timed_out": t.TimedOut, "oom": t.OOM, "cpu_ms": t.CPUMS, "peak_bytes": int(t.PeakBytes)}
}

// plain is the turn as an object: what most turns do not have is left out.
func (t turn) plain() map[string]any {
	m := map[string]any{"role": t.Role, "text": t.Text, "data": t.Data, "error": t.Error}
	if len(t.Samples) > 0 {
		m["samples"] = t.Samples
	}
	more(m, t.Reasoning, t.ToolCalls, t.Logprobs)
	if len(t.ToolResults) > 0 {
		m["tool_results"] = t.ToolResults
	}
	if t.Call != nil {
		m["call"] = t.Call
	}
	if len(t.Calls) > 1 {
		m["calls"] = t.Calls
	}
	return m
}

func (s sample) plain() map[string]any {
	m := map[string]any{"text": s.Text, "data": s.Data}
	more(m, s.Reasoning, s.ToolCalls, s.Logprobs)
	return m
}

func more(m map[string]any, reasoning string, calls []any, logprobs any) {
	if reasoning != "" {
		m["reasoning"] = reasoning
	}
	if len(calls) > 0 {
		m["tool_calls"] = calls
	}
	if logprobs != nil {
		m["logprobs"] = logprobs
	}
}

func (c *call) plain() map[string]any {
	m := oneCall{(*matrix.Turn)(c).Call()}.plain()
	delete(m, "kind")
	delete(m, "error")
	m["calls"] = len(c.Calls)
	return m
}

func (c oneCall) plain() map[string]any {
	m := make(map[string]any, len(oneCallFields))
	for _, name := range oneCallFields {
		m[name], _ = c.field(name)
	}
	return m
}
