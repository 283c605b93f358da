package dataset

import (
	"bytes"
	"encoding/json"

	"matrix"
	"matrix/internal/taskjson"
)

// AppendTask appends t as one line of JSON without the newline. It is made for
// readers that infer a schema from the first lines they see, so that every line
// has the same fields, of the same types: a text that is not there is "", a list
// [], an object {}, and null a number or a value of any type. What has a type of
// its own from line to line is put in a frame: a row that could not be read
// stands in unread, data that is not an object in {"_value": ...}, and the arguments
// of a tool call and what is opaque are JSON as text. A number that JSON does not
// have (NaN, an infinity) is null. ParseTask reads it back.
func AppendTask(b []byte, t *matrix.Task) []byte { return taskjson.AppendTask(b, t) }

// ParseTask reads a line that AppendTask wrote, in this version or one before.
func ParseTask(line []byte) (*matrix.Task, error) {
	var t struct {
		matrix.Task
		Turns []struct {
			matrix.Turn
			Call struct { // in lines of before: the sum of so many calls
				matrix.Call
				Calls int `json:"calls"`
			} `json:"call"`
		} `json:"turns"`
		Unread string `json:"unread"`
	}
	if err := json.Unmarshal(line, &t); err != nil {
		return nil, err
	}
	t.Path = matrix.PathOf(t.ID, t.Row, t.Trial)
	if len(t.Children) == 0 {
		t.Children = nil
	}
	for i := range t.Children {
		t.Children[i].Value = present(t.Children[i].Value)
	}
	if t.Unread != "" {
		t.Item, _ = matrix.NewValue(t.Unread) // a text can be encoded
	}
	if t.Turns != nil {
		t.Task.Turns = make([]matrix.Turn, len(t.Turns))
	}
	for i := range t.Turns {
		x := &t.Task.Turns[i]
		*x = t.Turns[i].Turn
		if c := &t.Turns[i].Call; c.Name != "" {
			x.Calls = matrix.SummedCalls(c.Call, c.Calls)
		}
		x.Data, x.Logprobs, x.Opaque = data(x.Data), present(x.Logprobs), unframed(x.Opaque)
		parseToolCalls(x.ToolCalls)
		for k := range x.Samples {
			s := &x.Samples[k]
			s.Data, s.Logprobs, s.Opaque = data(s.Data), present(s.Logprobs), unframed(s.Opaque)
			parseToolCalls(s.ToolCalls)
		}
		for k := range x.Calls {
			c := &x.Calls[k]
			if c.Params = filled(c.Params); c.Reused != nil && c.Reused.Run == "" {
				c.Reused = nil
			}
			if c.Trace != nil && *c.Trace == (matrix.Trace{}) {
				c.Trace = nil
			}
		}
	}
	if o := t.Outcome; o != nil {
		if o.Value = present(o.Value); o.Status == "" {
			t.Outcome = nil
		}
	}
	return &t.Task, nil
}

func parseToolCalls(calls []matrix.ToolCall) {
	for i := range calls {
		if v := unframed(calls[i].Arguments); !v.IsZero() {
			calls[i].Arguments = v
		}
	}
}

// present is v, absent where it is null.
func present(v matrix.Value) matrix.Value {
	if string(v.Raw()) == "null" {
		return matrix.Value{}
	}
	return v
}

// filled is v, absent where it is null or an empty object.
func filled(v matrix.Value) matrix.Value {
	if string(v.Raw()) == "{}" {
		return matrix.Value{}
	}
	return present(v)
}

// data is what AppendTask wrote as data.
func data(v matrix.Value) matrix.Value {
	if v = filled(v); bytes.HasPrefix(v.Raw(), []byte(`{"`+taskjson.Frame+`":`)) {
		eachField(v.Raw(), func(_, value []byte) { v = matrix.RawValue(value) })
	}
	return v
}

// unframed is what the text v is the JSON of, or v itself. Nothing is absent.
func unframed(v matrix.Value) matrix.Value {
	if v = present(v); v.IsZero() {
		return v
	}
	text, ok := v.Any().(string)
	if !ok {
		return v
	}
	if text == "" {
		return matrix.Value{}
	}
	if in, err := matrix.ParseValue([]byte(text)); err == nil {
		return in
	}
	return v
}
