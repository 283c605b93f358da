// Package taskjson writes tasks as JSON in which every task and every turn has the
// same fields.
package taskjson

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"matrix"
	"matrix/internal/jsontext"
)

// Form is how values that have a type of their own from turn to turn are written:
// data, the arguments of tool calls, and what is opaque.
type Form int

const (
	Framed Form = iota // of one type: data is an object, the others are JSON as text
	Plain              // as they are
)

// AppendTask appends t as dataset.AppendTask says.
func AppendTask(b []byte, t *matrix.Task) []byte {
	b = jsontext.AppendString(append(b, `{"id":`...), t.ID)
	b = jsontext.AppendString(append(b, `,"row":`...), t.Row)
	b = appendInt(b, `,"trial":`, t.Trial)
	b = strconv.AppendInt(append(b, `,"seed":`...), t.Seed, 10)
	b = jsontext.AppendString(append(b, `,"priority":`...), t.Priority.String())
	b = appendText(b, `,"parent":`, t.Parent)
	b = appendInt(b, `,"siblings":`, t.Siblings)
	b = strconv.AppendBool(append(b, `,"waited":`...), t.Waited)
	if item := t.Item.Raw(); len(item) > 0 && item[0] == '"' {
		b = appendValue(append(b, `,"item":{},"unread":`...), t.Item)
	} else {
		b = append(appendObject(append(b, `,"item":`...), t.Item), `,"unread":""`...)
	}
	b = Framed.AppendTurns(append(b, `,"turns":`...), t.Turns)
	o := t.Outcome
	if o == nil {
		o = &matrix.Outcome{}
	}
	b = jsontext.AppendString(append(b, `,"outcome":{"status":`...), o.Status)
	b = appendValue(append(b, `,"value":`...), o.Value)
	b = appendText(b, `,"cause":`, o.Cause)
	b = appendText(b, `,"fault":`, string(o.Fault))
	b = appendText(b, `,"stopped":`, o.Stopped)
	b = base64.StdEncoding.AppendEncode(append(b, `,"signature":"`...), o.Signature)
	b = appendInt(b, `"},"expanded":`, t.Expanded)
	b = AppendChildren(append(b, `,"children":`...), t.Children)
	b = append(b, `,"metrics":{`...)
	for i, name := range slices.Sorted(maps.Keys(t.Metrics)) {
		b = jsontext.Separate(b, i)
		v := t.Metrics[name]
		if v == nil {
			v = new(math.NaN())
		}
		b = jsontext.AppendFloat(append(jsontext.AppendString(b, name), ':'), *v, 64)
	}
	return append(b, '}', '}')
}

// AppendChildren appends what a task was told of its children as a list.
func AppendChildren(b []byte, children []matrix.Child) []byte {
	return appendList(Plain, b, children, func(_ Form, b []byte, c *matrix.Child) []byte {
		b = jsontext.AppendString(append(b, `{"id":`...), c.ID)
		b = appendInt(b, `,"index":`, c.Index)
		b = jsontext.AppendString(append(b, `,"status":`...), c.Status)
		b = appendValue(append(b, `,"value":`...), c.Value)
		return append(appendText(b, `,"cause":`, c.Cause), '}')
	})
}

// AppendTurns appends turns as a list.
func (f Form) AppendTurns(b []byte, turns []matrix.Turn) []byte {
	return appendList(f, b, turns, Form.turn)
}

func (f Form) turn(b []byte, t *matrix.Turn) []byte {
	b = jsontext.AppendString(append(b, `{"role":`...), t.Role)
	b = appendText(b, `,"text":`, t.Text)
	b = f.data(append(b, `,"data":`...), t.Data)
	b = appendList(f, append(b, `,"samples":`...), t.Samples, Form.sample)
	b = appendText(b, `,"error":`, t.Error)
	b = appendText(b, `,"reasoning":`, t.Reasoning)
	b = appendList(f, append(b, `,"tool_calls":`...), t.ToolCalls, Form.toolCall)
	b = appendList(f, append(b, `,"tool_results":`...), t.ToolResults, Form.toolResult)
	b = appendValue(append(b, `,"logprobs":`...), t.Logprobs)
	b = f.opaque(append(b, `,"opaque":`...), t.Opaque)
	b = appendList(f, append(b, `,"calls":`...), t.Calls, Form.call)
	b = appendInt(b, `,"hop":`, t.Hop)
	return append(appendTiming(append(b, `,"timing":`...), &t.Timing), '}')
}

func (f Form) sample(b []byte, s *matrix.Sample) []byte {
	b = jsontext.AppendString(append(b, `{"text":`...), s.Text)
	b = f.data(append(b, `,"data":`...), s.Data)
	b = appendText(b, `,"reasoning":`, s.Reasoning)
	b = appendList(f, append(b, `,"tool_calls":`...), s.ToolCalls, Form.toolCall)
	b = appendValue(append(b, `,"logprobs":`...), s.Logprobs)
	b = f.opaque(append(b, `,"opaque":`...), s.Opaque)
	return append(appendText(b, `,"finish":`, s.Finish), '}')
}

func (f Form) toolCall(b []byte, c *matrix.ToolCall) []byte {
	b = jsontext.AppendString(append(b, `{"id":`...), c.ID)
	b = jsontext.AppendString(append(b, `,"name":`...), c.Name)
	b = append(b, `,"arguments":`...)
	if raw := c.Arguments.Raw(); f == Plain || len(raw) > 0 && raw[0] == '"' { // it is not JSON
		b = appendValue(b, c.Arguments)
	} else {
		b = jsontext.AppendString(b, raw)
	}
	return append(b, '}')
}

func (f Form) opaque(b []byte, v matrix.Value) []byte {
	if f == Plain {
		return appendValue(b, v)
	}
	return jsontext.AppendString(b, v.Raw())
}

func (Form) toolResult(b []byte, r *matrix.ToolResult) []byte {
	b = jsontext.AppendString(append(b, `{"id":`...), r.ID)
	b = appendText(b, `,"name":`, r.Name)
	b = appendText(b, `,"content":`, r.Content)
	return append(strconv.AppendBool(append(b, `,"is_error":`...), r.IsError), '}')
}

func (Form) call(b []byte, c *matrix.Call) []byte {
	b = jsontext.AppendString(append(b, `{"kind":`...), cmp.Or(c.Kind, matrix.KindModel))
	b = appendText(b, `,"name":`, c.Name)
	b = appendText(b, `,"model":`, c.Model)
	b = appendText(b, `,"revision":`, c.Revision)
	b = appendText(b, `,"endpoint":`, c.Endpoint)
	b = appendObject(append(b, `,"params":`...), c.Params)
	b = appendText(b, `,"prompt":`, c.Prompt)
	b = appendText(b, `,"request":`, c.Request)
	if b = append(b, `,"seed":`...); c.Seed == nil {
		b = append(b, "null"...)
	} else {
		b = strconv.AppendInt(b, *c.Seed, 10)
	}
	b = appendText(b, `,"finish":`, c.Finish)
	b = appendText(b, `,"error":`, c.Error)
	r := c.Reused
	if r == nil {
		r = &matrix.Reused{}
	}
	b = appendText(b, `,"reused":{"run":`, r.Run)
	b = append(appendText(b, `,"task":`, r.Task), '}')
	b = appendInt(b, `,"retries":`, c.Retries)
	b = appendInt(b, `,"prompt_tokens":`, c.PromptTokens)
	b = appendInt(b, `,"completion_tokens":`, c.CompletionTokens)
	b = appendInt(b, `,"cached_tokens":`, c.CachedTokens)
	b = appendInt(b, `,"cache_write_tokens":`, c.CacheWriteTokens)
	b = appendInt(b, `,"reasoning_tokens":`, c.ReasoningTokens)
	b = strconv.AppendBool(append(b, `,"estimated":`...), c.Estimated)
	b = appendKnown(b, `,"usd":`, c.USD)
	b = appendFloat(b, `,"wait_ms":`, c.WaitMS)
	b = appendFloat(b, `,"retry_ms":`, c.RetryMS)
	b = appendKnown(b, `,"first_token_ms":`, c.FirstMS)
	b = appendFloat(b, `,"took_ms":`, c.TookMS)
	return append(appendTrace(append(b, `,"trace":`...), c.Trace), '}')
}

func appendTrace(b []byte, t *matrix.Trace) []byte {
	if t == nil {
		t = &matrix.Trace{}
	}
	b = appendText(b, `{"id":`, t.ID)
	b = appendText(b, `,"tool":`, t.Tool)
	b = strconv.AppendBool(append(b, `,"is_error":`...), t.IsError)
	b = strconv.AppendBool(append(b, `,"changed":`...), t.Changed)
	b = appendText(b, `,"lease":`, t.Lease)
	b = appendInt(b, `,"generation":`, t.Generation)
	b = appendText(b, `,"restored":`, t.Restored)
	b = appendInt(b, `,"code":`, t.Code)
	b = appendText(b, `,"signal":`, t.Signal)
	b = strconv.AppendInt(append(b, `,"cut":`...), t.Cut, 10)
	b = strconv.AppendBool(append(b, `,"timed_out":`...), t.TimedOut)
	b = strconv.AppendBool(append(b, `,"oom":`...), t.OOM)
	b = appendFloat(b, `,"cpu_ms":`, t.CPUMS)
	b = strconv.AppendInt(append(b, `,"peak_bytes":`...), t.PeakBytes, 10)
	return append(b, '}')
}

func appendTiming(b []byte, t *matrix.Timing) []byte {
	b = append(appendTime(append(b, `{"at":"`...), t.At), '"')
	b = appendFloat(b, `,"queued_ms":`, t.QueuedMS)
	b = appendFloat(b, `,"delay_ms":`, t.DelayMS)
	b = appendFloat(b, `,"took_ms":`, t.TookMS)
	return append(appendInt(b, `,"attempts":`, t.Attempts), '}')
}

// appendTime appends t with six digits of its second in every line, so that a time
// is a text of one form to who infers types. The standard library has a short way
// for RFC 3339 alone, and a longer one for every other layout.
func appendTime(b []byte, t time.Time) []byte {
	b = t.AppendFormat(b, time.RFC3339)
	zone := len(b) - len("Z")
	if b[zone] != 'Z' {
		zone = len(b) - len("+00:00")
	}
	micros := [7]byte{'.'}
	for i, n := len(micros)-1, t.Nanosecond()/1000; i > 0; i, n = i-1, n/10 {
		micros[i] = byte('0' + n%10)
	}
	return slices.Insert(b, zone, micros[:]...)
}

func appendText(b []byte, key, s string) []byte {
	return jsontext.AppendString(append(b, key...), s)
}

func appendInt(b []byte, key string, n int) []byte {
	return strconv.AppendInt(append(b, key...), int64(n), 10)
}

func appendFloat(b []byte, key string, f float64) []byte {
	return jsontext.AppendFloat(append(b, key...), f, 64)
}

// appendKnown appends f; 0 means that it is not known.
func appendKnown(b []byte, key string, f float64) []byte {
	if f == 0 {
		f = math.NaN()
	}
	return appendFloat(b, key, f)
}

func appendList[T any](f Form, b []byte, list []T, one func(Form, []byte, *T) []byte) []byte {
	b = append(b, '[')
	for i := range list {
		b = one(f, jsontext.Separate(b, i), &list[i])
	}
	return append(b, ']')
}

// appendObject appends v, an object, or absent: one that is empty.
func appendObject(b []byte, v matrix.Value) []byte {
	if v.IsZero() || string(v.Raw()) == "null" {
		return append(b, "{}"...)
	}
	return appendValue(b, v)
}

// Frame is the one field of an object that stands for a value that is none, or
// that says no more than if it were absent.
const Frame = "_value"

// data appends v, framed as an object so that it is known what it was.
func (f Form) data(b []byte, v matrix.Value) []byte {
	raw := bytes.TrimSpace(v.Raw())
	if len(raw) == 0 {
		return append(b, "{}"...)
	}
	if f == Plain {
		return appendValue(b, v)
	}
	if raw[0] == '{' {
		if in := bytes.TrimLeft(raw[1:], " \t\r\n"); in[0] != '}' && !bytes.HasPrefix(in, []byte(`"`+Frame+`"`)) {
			return appendValue(b, v)
		}
	}
	return append(appendValue(append(b, `{"`+Frame+`":`...), v), '}')
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
