package run

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"matrix"
)

// A record of a task's log is a protobuf message, written by hand because it is
// written at every hop. Unknown fields are passed over, so that a record may
// gain fields.
//
//	message Record  { Head head = 1; repeated Turn turns = 2; Outcome outcome = 3; repeated Metric metrics = 4;
//	                  Expansion expansion = 8; int64 expanded = 9; repeated Child children = 10; }
//	message Head    { string row = 1; int64 trial = 2; int64 seed = 3; bytes item = 4; int64 fed_ns = 5; int64 hops = 6;
//	                  int64 priority = 7; int64 siblings = 8; bool waited = 9; } // -1 bulk, 1 urgent
//	message Expansion { repeated Item items = 1; string as = 2; repeated Name omit = 3; repeated Name carry = 4; string role = 5; string then = 6;
//	                    int64 first = 7; } // Item: bytes value = 1; Name: string name = 1
//	message Child   { int64 index = 1; string status = 2; bytes value = 3; string cause = 4; int64 omitted = 5; }
//	message Turn    { string role = 1; string text = 2; bytes data = 3; repeated Sample samples = 4; string error = 5;
//	                  repeated Call calls = 6; int64 hop = 7; Timing timing = 8; string reasoning = 9; repeated ToolCall tool_calls = 10;
//	                  repeated ToolResult tool_results = 11; bytes logprobs = 12; bytes opaque = 13; }
//	message Sample  { string text = 1; bytes data = 2; string reasoning = 3; repeated ToolCall tool_calls = 4; bytes logprobs = 5;
//	                  bytes opaque = 6; string finish = 7; }
//	message ToolCall   { string id = 1; string name = 2; bytes arguments = 3; }
//	message ToolResult { string id = 1; string name = 2; string content = 3; bool is_error = 5; }
//	  In records of before, string error = 4 stood beside the content.
//	message Timing  { int64 at_ns = 1; double queued_ms = 2; double delay_ms = 3; double took_ms = 4; int64 attempts = 5; }
//	message Call    { string name = 1; string model = 2; string endpoint = 3; bytes params = 4; string prompt = 5;
//	                  string finish = 6; int64 retries = 8; int64 prompt_tokens = 9;
//	                  int64 completion_tokens = 10; double wait_ms = 11; double retry_ms = 12; string revision = 13;
//	                  int64 cached_tokens = 14; int64 reasoning_tokens = 15; double usd = 16; double first_ms = 17;
//	                  double took_ms = 18; int64 cache_write_tokens = 19; bool estimated = 20; bytes request = 21;
//	                  optional int64 seed = 22; string kind = 23; string error = 24; Reused reused = 25;
//	                  Trace trace = 26; }
//	message Trace   { string id = 1; string tool = 2; bool is_error = 3; bool changed = 4; string lease = 5; int64 generation = 6;
//	                  string restored = 7; int64 code = 8; string signal = 9; int64 cut = 10; bool timed_out = 11; bool oom = 12;
//	                  double cpu_ms = 13; int64 peak_bytes = 14; }
//	message Reused  { string run = 1; string task = 2; }
//	  In records of before, int64 calls = 7 said how many calls one Call was the sum of, and there was no kind.
//	message Outcome { string status = 1; bytes value = 2; string cause = 3; string fault = 4; string stopped = 5;
//	                  bytes signature = 6; }
//	message Metric  { string name = 1; double value = 2; } // NaN: it says nothing

// encodeSeed makes the first record of a task: its head, and the turns and the
// outcome that it may begin with.
func encodeSeed(t *matrix.Task) []byte {
	c := &codec{b: make([]byte, 0, 64+len(t.Row)+len(t.Item.Raw()))}
	c.message(1, func(c *codec) { c.head(t) })
	c.step(t, 0)
	integer(c, 9, &t.Expanded) // of a task that is tried again
	list(c, 10, &t.Children, 0, (*codec).child)
	return c.b
}

// encodeStep makes the record of a hop: the turns from the from-th on, and how
// the task ended if it did.
func encodeStep(t *matrix.Task, from int) []byte {
	n := 32
	for i := from; i < len(t.Turns); i++ {
		n += len(t.Turns[i].Text) + len(t.Turns[i].Data.Raw()) + len(t.Turns[i].Reasoning) + 128
	}
	if t.Expansion != nil {
		for i := range t.Expansion.Items {
			n += len(t.Expansion.Items[i].Raw()) + 8
		}
	}
	c := &codec{b: make([]byte, 0, n)}
	c.step(t, from)
	return c.b
}

// encodeBegun makes the record of a task that has so many children in all now, and
// how it ended if it did.
func encodeBegun(t *matrix.Task) []byte {
	c := &codec{}
	c.outcome(t)
	integer(c, 9, &t.Expanded)
	return c.b
}

// encodeTold makes the record of a task that is told of children that have ended, and
// how it ended if it did.
func encodeTold(children []matrix.Child, o *matrix.Outcome) []byte {
	t := &matrix.Task{Children: children, Outcome: o}
	c := &codec{}
	c.outcome(t)
	list(c, 10, &t.Children, 0, (*codec).child)
	return c.b
}

// Decode reads a task back from its log, by the key under which a ledger has it. The
// task keeps parts of the log, which must not change. Of metrics and turns it holds
// what the records hold.
func Decode(key string, log [][]byte) (*matrix.Task, error) {
	t := &matrix.Task{}
	place(t, key)
	for i, record := range log {
		expansion, expanded, told := t.Expansion, t.Expanded, len(t.Children)
		err := decode(record, func(c *codec) {
			if c.num == 1 {
				c.message(1, func(c *codec) { c.head(t) })
			}
			c.step(t, 0)
		})
		if err != nil {
			return nil, fmt.Errorf("record %d of task %s: %w", i, t.ID, err)
		}
		switch {
		case i == 0 || t.Expansion == expansion && (t.Expanded != expanded || len(t.Children) != told): // it tells of children
		case t.Expansion == expansion:
			t.Expansion = nil // all of it has been told
			t.Hop++
		default:
			t.Hop++
		}
	}
	slices.SortFunc(t.Children, func(a, b matrix.Child) int { return a.Index - b.Index })
	for i := range t.Children {
		t.Children[i].ID = t.ChildID(t.Children[i].Index)
	}
	return t, nil
}

// The messages. Each function goes through the fields of one, in the order in which
// they are written, and writes or reads them.

func (c *codec) head(t *matrix.Task) {
	text(c, 1, &t.Row)
	integer(c, 2, &t.Trial)
	integer(c, 3, &t.Seed)
	c.value(4, &t.Item)
	c.moment(5, &t.Fed)
	integer(c, 6, &t.Hop) // of a task that is tried again
	integer(c, 7, &t.Priority)
	integer(c, 8, &t.Siblings)
	c.flag(9, &t.Waited)
}

// step is what a record has beside its head. Turns before the from-th are not written.
func (c *codec) step(t *matrix.Task, from int) {
	list(c, 2, &t.Turns, from, (*codec).turn)
	c.outcome(t)
	c.metrics(4, &t.Metrics)
	if c.num == 8 {
		t.Expansion, t.Children = &matrix.Expansion{}, nil
	}
	if x := t.Expansion; c.has(8, x != nil) {
		c.message(8, func(c *codec) { c.expansion(x) })
	}
	if c.reading {
		integer(c, 9, &t.Expanded)
		list(c, 10, &t.Children, 0, (*codec).child)
	}
}

func (c *codec) outcome(t *matrix.Task) {
	if c.num == 3 {
		t.Outcome = &matrix.Outcome{}
	}
	if o := t.Outcome; c.has(3, o != nil) {
		c.message(3, func(c *codec) {
			text(c, 1, &o.Status)
			c.value(2, &o.Value)
			text(c, 3, &o.Cause)
			text(c, 4, &o.Fault)
			text(c, 5, &o.Stopped)
			c.blob(6, &o.Signature)
		})
	}
}

func (c *codec) expansion(x *matrix.Expansion) {
	list(c, 1, &x.Items, 0, func(c *codec, v *matrix.Value) { c.value(1, v) })
	text(c, 2, &x.As)
	name := func(c *codec, s *string) { text(c, 1, s) }
	list(c, 3, &x.Omit, 0, name)
	list(c, 4, &x.Carry, 0, name)
	text(c, 5, &x.Role)
	text(c, 6, &x.Then)
	integer(c, 7, &x.First)
}

func (c *codec) child(x *matrix.Child) {
	integer(c, 1, &x.Index)
	text(c, 2, &x.Status)
	c.value(3, &x.Value)
	text(c, 4, &x.Cause)
	integer(c, 5, &x.Omitted)
}

func (c *codec) turn(t *matrix.Turn) {
	text(c, 1, &t.Role)
	text(c, 2, &t.Text)
	c.value(3, &t.Data)
	list(c, 4, &t.Samples, 0, func(c *codec, s *matrix.Sample) {
		text(c, 1, &s.Text)
		c.value(2, &s.Data)
		text(c, 3, &s.Reasoning)
		list(c, 4, &s.ToolCalls, 0, (*codec).toolCall)
		c.value(5, &s.Logprobs)
		c.value(6, &s.Opaque)
		text(c, 7, &s.Finish)
	})
	text(c, 5, &t.Error)
	list(c, 6, &t.Calls, 0, func(c *codec, x *matrix.Call) {
		c.call(x)
		if c.read() && x.Kind == "" {
			t.Calls = append(t.Calls[:len(t.Calls)-1], matrix.SummedCalls(*x, c.sum)...)
		}
	})
	integer(c, 7, &t.Hop)
	if m := &t.Timing; c.has(8, !m.At.IsZero()) {
		c.message(8, func(c *codec) {
			c.moment(1, &m.At)
			c.float(2, &m.QueuedMS)
			c.float(3, &m.DelayMS)
			c.float(4, &m.TookMS)
			integer(c, 5, &m.Attempts)
		})
	}
	text(c, 9, &t.Reasoning)
	list(c, 10, &t.ToolCalls, 0, (*codec).toolCall)
	list(c, 11, &t.ToolResults, 0, func(c *codec, r *matrix.ToolResult) {
		text(c, 1, &r.ID)
		text(c, 2, &r.Name)
		text(c, 3, &r.Content)
		if c.num == 4 {
			var cause string
			text(c, 4, &cause)
			r.Fail(cause)
		}
		c.flag(5, &r.IsError)
	})
	c.value(12, &t.Logprobs)
	c.value(13, &t.Opaque)
}

func (c *codec) toolCall(x *matrix.ToolCall) {
	text(c, 1, &x.ID)
	text(c, 2, &x.Name)
	c.value(3, &x.Arguments)
}

func (c *codec) call(x *matrix.Call) {
	text(c, 1, &x.Name)
	text(c, 2, &x.Model)
	text(c, 3, &x.Endpoint)
	c.value(4, &x.Params)
	text(c, 5, &x.Prompt)
	text(c, 6, &x.Finish)
	integer(c, 7, &c.sum)
	integer(c, 8, &x.Retries)
	integer(c, 9, &x.PromptTokens)
	integer(c, 10, &x.CompletionTokens)
	c.float(11, &x.WaitMS)
	c.float(12, &x.RetryMS)
	text(c, 13, &x.Revision)
	integer(c, 14, &x.CachedTokens)
	integer(c, 15, &x.ReasoningTokens)
	c.float(16, &x.USD)
	c.float(17, &x.FirstMS)
	c.float(18, &x.TookMS)
	integer(c, 19, &x.CacheWriteTokens)
	c.flag(20, &x.Estimated)
	text(c, 21, &x.Request)
	c.optional(22, &x.Seed)
	text(c, 23, &x.Kind)
	text(c, 24, &x.Error)
	if c.num == 25 {
		x.Reused = &matrix.Reused{}
	}
	if r := x.Reused; c.has(25, r != nil) {
		c.message(25, func(c *codec) {
			text(c, 1, &r.Run)
			text(c, 2, &r.Task)
		})
	}
	if c.num == 26 {
		x.Trace = &matrix.Trace{}
	}
	if t := x.Trace; c.has(26, t != nil) {
		c.message(26, func(c *codec) {
			text(c, 1, &t.ID)
			text(c, 2, &t.Tool)
			c.flag(3, &t.IsError)
			c.flag(4, &t.Changed)
			text(c, 5, &t.Lease)
			integer(c, 6, &t.Generation)
			text(c, 7, &t.Restored)
			integer(c, 8, &t.Code)
			text(c, 9, &t.Signal)
			integer(c, 10, &t.Cut)
			c.flag(11, &t.TimedOut)
			c.flag(12, &t.OOM)
			c.float(13, &t.CPUMS)
			integer(c, 14, &t.PeakBytes)
		})
	}
}

func (c *codec) metrics(num protowire.Number, all *map[string]*float64) {
	var name string
	var x float64
	metric := func(c *codec) {
		text(c, 1, &name)
		c.float(2, &x)
	}
	if !c.reading {
		for key, v := range *all {
			if name, x = key, math.NaN(); v != nil {
				x = *v
			}
			c.message(num, metric)
		}
	}
	for c.num == num {
		name, x = "", 0
		c.message(num, metric)
		if *all == nil {
			*all = map[string]*float64{}
		}
		if (*all)[name] = nil; !math.IsNaN(x) {
			(*all)[name] = new(x)
		}
	}
}

// The wire.

// codec writes the fields of a message, or reads them.
type codec struct {
	b       []byte // what has been written, or is still to be read
	reading bool
	num     protowire.Number // of the field that is read next; 0 where none is
	bytes   []byte           // of that field, where its length is told
	bits    uint64           // of one of another type
	err     error
	sum     int // of a call in a record of before: how many it is the sum of
}

// decode reads a message.
func decode(b []byte, fields func(c *codec)) error {
	c := &codec{b: b, reading: true}
	c.readAll(fields)
	return c.err
}

// readAll has fields read all fields of a message. It is called again as long as there
// are some in another order than its own; those that it does not know are passed over.
func (c *codec) readAll(fields func(c *codec)) {
	for c.next(); ; {
		left := len(c.b)
		fields(c)
		if c.num == 0 {
			return
		}
		if len(c.b) == left {
			c.next()
		}
	}
}

// next goes on to the next field.
func (c *codec) next() {
	c.num, c.bytes, c.bits = 0, nil, 0
	if len(c.b) == 0 || c.err != nil {
		return
	}
	num, typ, n := protowire.ConsumeTag(c.b)
	if n >= 0 {
		c.b = c.b[n:]
		switch typ {
		case protowire.BytesType:
			c.bytes, n = protowire.ConsumeBytes(c.b)
			c.bytes = c.bytes[:len(c.bytes):len(c.bytes)]
		case protowire.VarintType:
			c.bits, n = protowire.ConsumeVarint(c.b)
		case protowire.Fixed64Type:
			c.bits, n = protowire.ConsumeFixed64(c.b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, c.b)
		}
	}
	if n < 0 {
		c.err = protowire.ParseError(n)
		return
	}
	c.num, c.b = num, c.b[n:]
}

// read reports whether all of the message has been read.
func (c *codec) read() bool { return c.reading && c.num == 0 }

// has reports whether a message comes next: to be written, where there is one, or to
// be read.
func (c *codec) has(num protowire.Number, there bool) bool {
	return c.num == num || !c.reading && there
}

// message goes through a message within this one, whose length is not known before.
func (c *codec) message(num protowire.Number, fields func(c *codec)) {
	if c.reading {
		outer := *c
		c.b, c.sum = c.bytes, 0
		if c.readAll(fields); c.err == nil {
			*c = outer
			c.next()
		}
		return
	}
	c.b = protowire.AppendTag(c.b, num, protowire.BytesType)
	c.b = append(c.b, 0)
	from := len(c.b)
	fields(c)
	n := len(c.b) - from
	if n < 0x80 {
		c.b[from-1] = byte(n)
		return
	}
	extra := protowire.SizeVarint(uint64(n)) - 1
	c.b = append(c.b, make([]byte, extra)...)
	copy(c.b[from+extra:], c.b[from:from+n])
	binary.PutUvarint(c.b[from-1:], uint64(n))
}

// list goes through messages that are repeated. Those before the from-th are not
// written; those that are read are added.
func list[T any](c *codec, num protowire.Number, all *[]T, from int, fields func(c *codec, x *T)) {
	if !c.reading {
		for i := from; i < len(*all); i++ {
			c.message(num, func(c *codec) { fields(c, &(*all)[i]) })
		}
	}
	for c.num == num {
		*all = append(*all, *new(T))
		x := &(*all)[len(*all)-1]
		c.message(num, func(c *codec) { fields(c, x) })
	}
}

func text[S ~string](c *codec, num protowire.Number, s *S) {
	if c.num == num {
		*s = S(unsafe.String(unsafe.SliceData(c.bytes), len(c.bytes)))
		c.next()
	} else if !c.reading && *s != "" {
		c.b = protowire.AppendString(protowire.AppendTag(c.b, num, protowire.BytesType), string(*s))
	}
}

func (c *codec) value(num protowire.Number, v *matrix.Value) {
	if c.num == num {
		*v = matrix.RawValue(c.bytes)
		c.next()
	} else if !c.reading && !v.IsZero() {
		c.b = protowire.AppendBytes(protowire.AppendTag(c.b, num, protowire.BytesType), v.Raw())
	}
}

func (c *codec) blob(num protowire.Number, b *[]byte) {
	if c.num == num {
		*b = c.bytes
		c.next()
	} else if !c.reading && len(*b) > 0 {
		c.b = protowire.AppendBytes(protowire.AppendTag(c.b, num, protowire.BytesType), *b)
	}
}

func integer[I ~int | ~int8 | ~int64](c *codec, num protowire.Number, x *I) {
	if v, ok := c.varint(num, int64(*x)); ok {
		*x = I(v)
	}
}

func (c *codec) flag(num protowire.Number, x *bool) {
	var n int64
	if *x {
		n = 1
	}
	if v, ok := c.varint(num, n); ok {
		*x = v != 0
	}
}

func (c *codec) moment(num protowire.Number, at *time.Time) {
	if v, ok := c.varint(num, at.UnixNano()); ok {
		*at = time.Unix(0, v).UTC()
	}
}

// optional is written also where it is 0, unless it is nil.
func (c *codec) optional(num protowire.Number, x **int64) {
	if c.num == num {
		*x = new(int64(c.bits))
		c.next()
	} else if !c.reading && *x != nil {
		c.b = protowire.AppendVarint(protowire.AppendTag(c.b, num, protowire.VarintType), uint64(**x))
	}
}

func (c *codec) float(num protowire.Number, x *float64) {
	if c.num == num {
		*x = math.Float64frombits(c.bits)
		c.next()
	} else if !c.reading && *x != 0 {
		c.b = protowire.AppendFixed64(protowire.AppendTag(c.b, num, protowire.Fixed64Type), math.Float64bits(*x))
	}
}

// varint writes an integer, unless it is 0, or returns the one that is read.
func (c *codec) varint(num protowire.Number, x int64) (v int64, ok bool) {
	if c.num == num {
		v = int64(c.bits)
		c.next()
		return v, true
	}
	if !c.reading && x != 0 {
		c.b = protowire.AppendVarint(protowire.AppendTag(c.b, num, protowire.VarintType), uint64(x))
	}
	return 0, false
}
