package run

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"matrix"
)

// A record of a task's log is a protobuf message, written by hand because it is
// written at every hop. Unknown fields are passed over, so that a record may
// gain fields.
//
//	message Record  { Head head = 1; repeated Turn turns = 2; Outcome outcome = 3; repeated Metric metrics = 4; }
//	message Head    { string row = 1; int64 trial = 2; int64 seed = 3; bytes item = 4; int64 fed_ns = 5; int64 hops = 6;
//	                  int64 priority = 7; } // -1 bulk, 1 urgent
//	message Turn    { string role = 1; string text = 2; bytes data = 3; repeated Sample samples = 4; string error = 5;
//	                  repeated Call calls = 6; int64 hop = 7; Timing timing = 8; string reasoning = 9; repeated ToolCall tool_calls = 10;
//	                  repeated ToolResult tool_results = 11; bytes logprobs = 12; bytes opaque = 13; }
//	message Sample  { string text = 1; bytes data = 2; string reasoning = 3; repeated ToolCall tool_calls = 4; bytes logprobs = 5;
//	                  bytes opaque = 6; }
//	message ToolCall   { string id = 1; string name = 2; bytes arguments = 3; }
//	message ToolResult { string id = 1; string name = 2; string content = 3; string error = 4; }
//	message Timing  { int64 at_ns = 1; double queued_ms = 2; double delay_ms = 3; double took_ms = 4; int64 attempts = 5; }
//	message Call    { string name = 1; string model = 2; string endpoint = 3; bytes params = 4; string prompt = 5;
//	                  string finish = 6; int64 retries = 8; int64 prompt_tokens = 9;
//	                  int64 completion_tokens = 10; double wait_ms = 11; double retry_ms = 12; string revision = 13;
//	                  int64 cached_tokens = 14; int64 reasoning_tokens = 15; double usd = 16; double first_ms = 17;
//	                  double took_ms = 18; int64 cache_write_tokens = 19; bool estimated = 20; bytes request = 21;
//	                  optional int64 seed = 22; string kind = 23; string error = 24; }
//	  In records of before, int64 calls = 7 said how many calls one Call was the sum of, and there was no kind.
//	message Outcome { string status = 1; bytes value = 2; string cause = 3; string fault = 4; string stopped = 5; }
//	message Metric  { string name = 1; double value = 2; } // NaN: it says nothing

// encodeSeed makes the first record of a task: its head, and the turns and the
// outcome that it may begin with.
func encodeSeed(t *matrix.Task) []byte {
	b := make([]byte, 0, 64+len(t.Row)+len(t.Item.Raw()))
	b, at := open(b, 1)
	b = text(b, 1, t.Row)
	b = integer(b, 2, int64(t.Trial))
	b = integer(b, 3, t.Seed)
	b = blob(b, 4, t.Item.Raw())
	b = integer(b, 5, t.Fed.UnixNano())
	b = integer(b, 6, int64(t.Hop)) // of a task that is tried again
	b = integer(b, 7, int64(t.Priority))
	b = shut(b, at)
	return appendStep(b, t, 0)
}

// encodeStep makes the record of a hop: the turns from the from-th on, and how
// the task ended if it did.
func encodeStep(t *matrix.Task, from int) []byte {
	n := 32
	for i := from; i < len(t.Turns); i++ {
		n += len(t.Turns[i].Text) + len(t.Turns[i].Data.Raw()) + len(t.Turns[i].Reasoning) + 128
	}
	return appendStep(make([]byte, 0, n), t, from)
}

func appendStep(b []byte, t *matrix.Task, from int) []byte {
	for i := from; i < len(t.Turns); i++ {
		b = appendTurn(b, &t.Turns[i])
	}
	var at int
	if o := t.Outcome; o != nil {
		b, at = open(b, 3)
		b = text(b, 1, string(o.Status))
		b = blob(b, 2, o.Value.Raw())
		b = text(b, 3, o.Cause)
		b = text(b, 4, string(o.Fault))
		b = text(b, 5, o.Stopped)
		b = shut(b, at)
	}
	for name, v := range t.Metrics {
		if v == nil {
			v = new(math.NaN())
		}
		b, at = open(b, 4)
		b = text(b, 1, name)
		b = float(b, 2, *v)
		b = shut(b, at)
	}
	return b
}

func appendTurn(b []byte, t *matrix.Turn) []byte {
	b, at := open(b, 2)
	b = text(b, 1, t.Role)
	b = text(b, 2, t.Text)
	b = blob(b, 3, t.Data.Raw())
	for i := range t.Samples {
		var at int
		b, at = open(b, 4)
		b = text(b, 1, t.Samples[i].Text)
		b = blob(b, 2, t.Samples[i].Data.Raw())
		b = text(b, 3, t.Samples[i].Reasoning)
		b = appendToolCalls(b, 4, t.Samples[i].ToolCalls)
		b = blob(b, 5, t.Samples[i].Logprobs.Raw())
		b = blob(b, 6, t.Samples[i].Opaque.Raw())
		b = shut(b, at)
	}
	b = text(b, 5, t.Error)
	for i := range t.Calls {
		var at int
		c := &t.Calls[i]
		b, at = open(b, 6)
		b = text(b, 1, c.Name)
		b = text(b, 2, c.Model)
		b = text(b, 3, c.Endpoint)
		b = blob(b, 4, c.Params.Raw())
		b = text(b, 5, c.Prompt)
		b = text(b, 6, c.Finish)
		b = integer(b, 8, int64(c.Retries))
		b = integer(b, 9, int64(c.PromptTokens))
		b = integer(b, 10, int64(c.CompletionTokens))
		b = float(b, 11, c.WaitMS)
		b = float(b, 12, c.RetryMS)
		b = text(b, 13, c.Revision)
		b = integer(b, 14, int64(c.CachedTokens))
		b = integer(b, 15, int64(c.ReasoningTokens))
		b = float(b, 16, c.USD)
		b = float(b, 17, c.FirstMS)
		b = float(b, 18, c.TookMS)
		b = integer(b, 19, int64(c.CacheWriteTokens))
		if c.Estimated {
			b = integer(b, 20, 1)
		}
		b = text(b, 21, c.Request)
		if c.Seed != nil { // also 0
			b = protowire.AppendTag(b, 22, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(*c.Seed))
		}
		b = text(b, 23, string(c.Kind))
		b = text(b, 24, c.Error)
		b = shut(b, at)
	}
	b = integer(b, 7, int64(t.Hop))
	if m := t.Timing; !m.At.IsZero() {
		var at int
		b, at = open(b, 8)
		b = integer(b, 1, m.At.UnixNano())
		b = float(b, 2, m.QueuedMS)
		b = float(b, 3, m.DelayMS)
		b = float(b, 4, m.TookMS)
		b = integer(b, 5, int64(m.Attempts))
		b = shut(b, at)
	}
	b = text(b, 9, t.Reasoning)
	b = appendToolCalls(b, 10, t.ToolCalls)
	for i := range t.ToolResults {
		var at int
		b, at = open(b, 11)
		b = text(b, 1, t.ToolResults[i].ID)
		b = text(b, 2, t.ToolResults[i].Name)
		b = text(b, 3, t.ToolResults[i].Content)
		b = text(b, 4, t.ToolResults[i].Error)
		b = shut(b, at)
	}
	b = blob(b, 12, t.Logprobs.Raw())
	b = blob(b, 13, t.Opaque.Raw())
	return shut(b, at)
}

func appendToolCalls(b []byte, num protowire.Number, calls []matrix.ToolCall) []byte {
	for i := range calls {
		var at int
		b, at = open(b, num)
		b = text(b, 1, calls[i].ID)
		b = text(b, 2, calls[i].Name)
		b = blob(b, 3, calls[i].Arguments.Raw())
		b = shut(b, at)
	}
	return b
}

// Decode reads a task back from its log. The task keeps parts of the log,
// which must not change. Of metrics and turns it holds what the records hold.
func Decode(id string, log [][]byte) (*matrix.Task, error) {
	t := &matrix.Task{ID: id, Hop: len(log) - 1}
	for i, record := range log {
		err := fields(record, func(num protowire.Number, v value) error {
			switch num {
			case 1:
				return decodeHead(t, v.bytes)
			case 2:
				t.Turns = append(t.Turns, matrix.Turn{})
				return decodeTurn(&t.Turns[len(t.Turns)-1], v.bytes)
			case 3:
				t.Outcome = &matrix.Outcome{}
				return decodeOutcome(t.Outcome, v.bytes)
			case 4:
				return decodeMetric(t, v.bytes)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("record %d of task %s: %w", i, id, err)
		}
	}
	return t, nil
}

func decodeHead(t *matrix.Task, b []byte) error {
	return fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			t.Row = v.text()
		case 2:
			t.Trial = int(v.int())
		case 3:
			t.Seed = v.int()
		case 4:
			t.Item = matrix.RawValue(v.bytes)
		case 5:
			t.Fed = time.Unix(0, v.int())
		case 6:
			t.Hop += int(v.int())
		case 7:
			t.Priority = matrix.Priority(v.int())
		}
		return nil
	})
}

func decodeTurn(t *matrix.Turn, b []byte) error {
	return fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			t.Role = v.text()
		case 2:
			t.Text = v.text()
		case 3:
			t.Data = matrix.RawValue(v.bytes)
		case 4:
			t.Samples = append(t.Samples, matrix.Sample{})
			return decodeSample(&t.Samples[len(t.Samples)-1], v.bytes)
		case 5:
			t.Error = v.text()
		case 6:
			return decodeCall(t, v.bytes)
		case 7:
			t.Hop = int(v.int())
		case 8:
			return decodeTiming(&t.Timing, v.bytes)
		case 9:
			t.Reasoning = v.text()
		case 10:
			return decodeToolCall(&t.ToolCalls, v.bytes)
		case 11:
			t.ToolResults = append(t.ToolResults, matrix.ToolResult{})
			return decodeToolResult(&t.ToolResults[len(t.ToolResults)-1], v.bytes)
		case 12:
			t.Logprobs = matrix.RawValue(v.bytes)
		case 13:
			t.Opaque = matrix.RawValue(v.bytes)
		}
		return nil
	})
}

func decodeSample(s *matrix.Sample, b []byte) error {
	return fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			s.Text = v.text()
		case 2:
			s.Data = matrix.RawValue(v.bytes)
		case 3:
			s.Reasoning = v.text()
		case 4:
			return decodeToolCall(&s.ToolCalls, v.bytes)
		case 5:
			s.Logprobs = matrix.RawValue(v.bytes)
		case 6:
			s.Opaque = matrix.RawValue(v.bytes)
		}
		return nil
	})
}

// decodeToolCall adds a call to those before it.
func decodeToolCall(calls *[]matrix.ToolCall, b []byte) error {
	var c matrix.ToolCall
	err := fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			c.ID = v.text()
		case 2:
			c.Name = v.text()
		case 3:
			c.Arguments = matrix.RawValue(v.bytes)
		}
		return nil
	})
	*calls = append(*calls, c)
	return err
}

func decodeToolResult(r *matrix.ToolResult, b []byte) error {
	return fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			r.ID = v.text()
		case 2:
			r.Name = v.text()
		case 3:
			r.Content = v.text()
		case 4:
			r.Error = v.text()
		}
		return nil
	})
}

// decodeCall adds a call to those before it, or the calls of which it is the sum.
func decodeCall(t *matrix.Turn, b []byte) error {
	t.Calls = append(t.Calls, matrix.Call{})
	c, n := &t.Calls[len(t.Calls)-1], 0
	err := fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			c.Name = v.text()
		case 2:
			c.Model = v.text()
		case 3:
			c.Endpoint = v.text()
		case 4:
			c.Params = matrix.RawValue(v.bytes)
		case 5:
			c.Prompt = v.text()
		case 6:
			c.Finish = v.text()
		case 7:
			n = int(v.int())
		case 8:
			c.Retries = int(v.int())
		case 9:
			c.PromptTokens = int(v.int())
		case 10:
			c.CompletionTokens = int(v.int())
		case 11:
			c.WaitMS = v.float()
		case 12:
			c.RetryMS = v.float()
		case 13:
			c.Revision = v.text()
		case 14:
			c.CachedTokens = int(v.int())
		case 15:
			c.ReasoningTokens = int(v.int())
		case 20:
			c.Estimated = v.int() != 0
		case 21:
			c.Request = v.text()
		case 22:
			seed := v.int()
			c.Seed = &seed
		case 16:
			c.USD = v.float()
		case 17:
			c.FirstMS = v.float()
		case 18:
			c.TookMS = v.float()
		case 19:
			c.CacheWriteTokens = int(v.int())
		case 23:
			c.Kind = matrix.CallKind(v.text())
		case 24:
			c.Error = v.text()
		}
		return nil
	})
	if c.Kind == "" {
		t.Calls = append(t.Calls[:len(t.Calls)-1], matrix.SummedCalls(*c, n)...)
	}
	return err
}

func decodeTiming(m *matrix.Timing, b []byte) error {
	return fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			m.At = time.Unix(0, v.int()).UTC()
		case 2:
			m.QueuedMS = v.float()
		case 3:
			m.DelayMS = v.float()
		case 4:
			m.TookMS = v.float()
		case 5:
			m.Attempts = int(v.int())
		}
		return nil
	})
}

func decodeOutcome(o *matrix.Outcome, b []byte) error {
	return fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			o.Status = matrix.Status(v.text())
		case 2:
			o.Value = matrix.RawValue(v.bytes)
		case 3:
			o.Cause = v.text()
		case 4:
			o.Fault = matrix.Fault(v.text())
		case 5:
			o.Stopped = v.text()
		}
		return nil
	})
}

func decodeMetric(t *matrix.Task, b []byte) error {
	var name string
	var x float64
	err := fields(b, func(num protowire.Number, v value) error {
		switch num {
		case 1:
			name = v.text()
		case 2:
			x = v.float()
		}
		return nil
	})
	if t.Metrics == nil {
		t.Metrics = map[string]*float64{}
	}
	if t.Metrics[name] = &x; math.IsNaN(x) {
		t.Metrics[name] = nil
	}
	return err
}

// The wire.

func text(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func blob(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func integer(b []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

func float(b []byte, num protowire.Number, v float64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, math.Float64bits(v))
}

// open begins a nested message whose length is not known yet, and shut ends it.
func open(b []byte, num protowire.Number) ([]byte, int) {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return append(b, 0), len(b)
}

func shut(b []byte, at int) []byte {
	n := len(b) - at - 1
	if n < 0x80 {
		b[at] = byte(n)
		return b
	}
	extra := protowire.SizeVarint(uint64(n)) - 1
	b = append(b, make([]byte, extra)...)
	copy(b[at+1+extra:], b[at+1:at+1+n])
	binary.PutUvarint(b[at:], uint64(n))
	return b
}

// value is a field's value: bytes for a length-delimited one, bits otherwise.
type value struct {
	bytes []byte
	bits  uint64
}

func (v value) text() string   { return unsafe.String(unsafe.SliceData(v.bytes), len(v.bytes)) }
func (v value) int() int64     { return int64(v.bits) }
func (v value) float() float64 { return math.Float64frombits(v.bits) }

func fields(b []byte, f func(num protowire.Number, v value) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v value
		switch typ {
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
			v.bytes = v.bytes[:len(v.bytes):len(v.bytes)]
		case protowire.VarintType:
			v.bits, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v.bits, n = protowire.ConsumeFixed64(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}
