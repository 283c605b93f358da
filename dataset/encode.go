package dataset

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"matrix"
	"matrix/internal/jsontext"
)

// appendTask appends t as one line of JSON without the newline. The result
// means what encoding/json says of a Task (HTML not escaped), but for two
// things that keep a line readable: no turns are [], and a number that JSON
// does not have (NaN, an infinity) is null.
func appendTask(b []byte, t *matrix.Task) []byte {
	b = jsontext.AppendString(append(b, `{"id":`...), t.ID)
	b = jsontext.AppendString(append(b, `,"row":`...), t.Row)
	b = strconv.AppendInt(append(b, `,"trial":`...), int64(t.Trial), 10)
	b = strconv.AppendInt(append(b, `,"seed":`...), t.Seed, 10)
	b = appendValue(append(b, `,"item":`...), t.Item)
	b = append(b, `,"turns":[`...)
	for i := range t.Turns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTurn(b, &t.Turns[i])
	}
	b = append(b, ']')
	if o := t.Outcome; o != nil {
		b = jsontext.AppendString(append(b, `,"outcome":{"status":`...), o.Status)
		if !o.Value.IsZero() {
			b = appendValue(append(b, `,"value":`...), o.Value)
		}
		b = appendText(b, `,"cause":`, o.Cause)
		b = append(appendText(b, `,"fault":`, string(o.Fault)), '}')
	}
	if len(t.Metrics) > 0 {
		b = append(b, `,"metrics":{`...)
		for i, name := range slices.Sorted(maps.Keys(t.Metrics)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendFloat(append(jsontext.AppendString(b, name), ':'), t.Metrics[name])
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendTurn(b []byte, t *matrix.Turn) []byte {
	b = jsontext.AppendString(append(b, `{"role":`...), t.Role)
	b = appendText(b, `,"text":`, t.Text)
	b = appendPresent(b, `,"data":`, t.Data)
	if len(t.Samples) > 0 {
		b = append(b, `,"samples":[`...)
		for i := range t.Samples {
			if i > 0 {
				b = append(b, ',')
			}
			b = jsontext.AppendString(append(b, `{"text":`...), t.Samples[i].Text)
			b = appendPresent(b, `,"data":`, t.Samples[i].Data)
			b = appendText(b, `,"reasoning":`, t.Samples[i].Reasoning)
			b = appendToolCalls(b, t.Samples[i].ToolCalls)
			b = appendPresent(b, `,"logprobs":`, t.Samples[i].Logprobs)
			b = appendPresent(b, `,"opaque":`, t.Samples[i].Opaque)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	b = appendText(b, `,"error":`, t.Error)
	b = appendText(b, `,"reasoning":`, t.Reasoning)
	b = appendToolCalls(b, t.ToolCalls)
	b = appendToolResults(b, t.ToolResults)
	b = appendPresent(b, `,"logprobs":`, t.Logprobs)
	b = appendPresent(b, `,"opaque":`, t.Opaque)
	if t.Call != nil {
		b = appendCall(append(b, `,"call":`...), t.Call)
	}
	b = appendInt(b, `,"hop":`, t.Hop)
	if t.Timing != (matrix.Timing{}) {
		b = appendTiming(append(b, `,"timing":`...), &t.Timing)
	}
	return append(b, '}')
}

func appendToolCalls(b []byte, calls []matrix.ToolCall) []byte {
	for i := range calls {
		b = append(b, [...]string{`,"tool_calls":[`, `,`}[min(i, 1)]...)
		b = jsontext.AppendString(append(b, `{"id":`...), calls[i].ID)
		b = jsontext.AppendString(append(b, `,"name":`...), calls[i].Name)
		b = append(appendValue(append(b, `,"arguments":`...), calls[i].Arguments), '}')
	}
	if len(calls) > 0 {
		b = append(b, ']')
	}
	return b
}

func appendToolResults(b []byte, results []matrix.ToolResult) []byte {
	for i := range results {
		b = append(b, [...]string{`,"tool_results":[`, `,`}[min(i, 1)]...)
		b = jsontext.AppendString(append(b, `{"id":`...), results[i].ID)
		b = appendText(b, `,"name":`, results[i].Name)
		b = jsontext.AppendString(append(b, `,"content":`...), results[i].Content)
		b = append(appendText(b, `,"error":`, results[i].Error), '}')
	}
	if len(results) > 0 {
		b = append(b, ']')
	}
	return b
}

func appendCall(b []byte, c *matrix.Call) []byte {
	b = jsontext.AppendString(append(b, `{"name":`...), c.Name)
	b = appendText(b, `,"model":`, c.Model)
	b = appendText(b, `,"revision":`, c.Revision)
	b = appendText(b, `,"endpoint":`, c.Endpoint)
	b = appendPresent(b, `,"params":`, c.Params)
	b = appendText(b, `,"prompt":`, c.Prompt)
	b = appendText(b, `,"finish":`, c.Finish)
	b = appendInt(b, `,"calls":`, c.Calls)
	if c.Retries != 0 {
		b = appendInt(b, `,"retries":`, c.Retries)
	}
	b = appendInt(b, `,"prompt_tokens":`, c.PromptTokens)
	b = appendInt(b, `,"completion_tokens":`, c.CompletionTokens)
	if c.CachedTokens != 0 {
		b = appendInt(b, `,"cached_tokens":`, c.CachedTokens)
	}
	if c.CacheWriteTokens != 0 {
		b = appendInt(b, `,"cache_write_tokens":`, c.CacheWriteTokens)
	}
	if c.ReasoningTokens != 0 {
		b = appendInt(b, `,"reasoning_tokens":`, c.ReasoningTokens)
	}
	if c.Estimated {
		b = append(b, `,"estimated":true`...)
	}
	b = appendNumber(b, `,"usd":`, c.USD)
	b = appendNumber(b, `,"wait_ms":`, c.WaitMS)
	b = appendNumber(b, `,"retry_ms":`, c.RetryMS)
	b = appendNumber(b, `,"first_token_ms":`, c.FirstMS)
	b = appendNumber(b, `,"took_ms":`, c.TookMS)
	return append(b, '}')
}

func appendTiming(b []byte, t *matrix.Timing) []byte {
	b = append(b, `{"at":"`...)
	b = append(t.At.AppendFormat(b, time.RFC3339Nano), '"')
	b = appendFloat(append(b, `,"queued_ms":`...), t.QueuedMS)
	b = appendNumber(b, `,"delay_ms":`, t.DelayMS)
	b = appendFloat(append(b, `,"took_ms":`...), t.TookMS)
	if t.Attempts != 0 {
		b = appendInt(b, `,"attempts":`, t.Attempts)
	}
	return append(b, '}')
}

// appendText appends key and s, where s is not empty.
func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return jsontext.AppendString(append(b, key...), s)
}

// appendPresent appends key and v, where v is not absent.
func appendPresent(b []byte, key string, v matrix.Value) []byte {
	if v.IsZero() {
		return b
	}
	return appendValue(append(b, key...), v)
}

func appendInt(b []byte, key string, n int) []byte {
	return strconv.AppendInt(append(b, key...), int64(n), 10)
}

// appendNumber appends key and f, where f is not 0.
func appendNumber(b []byte, key string, f float64) []byte {
	if f == 0 {
		return b
	}
	return appendFloat(append(b, key...), f)
}

func appendFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

// appendValue appends v on one line.
func appendValue(b []byte, v matrix.Value) []byte {
	raw := v.Raw()
	if len(raw) == 0 {
		return append(b, "null"...)
	}
	if bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0 {
		return append(b, raw...)
	}
	var one bytes.Buffer
	if err := json.Compact(&one, raw); err != nil {
		return append(b, "null"...) // a Value is valid; and a line must be
	}
	return append(b, one.Bytes()...)
}
