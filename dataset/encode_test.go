package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"matrix"
)

// same says whether two texts mean the same JSON. null for turns is [].
func same(t interface {
	Helper()
	Fatalf(string, ...any)
}, got []byte, task *matrix.Task) bool {
	t.Helper()
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	if err := e.Encode(task); err != nil {
		t.Fatalf("encoding/json: %v", err)
	}
	if bytes.IndexByte(got, '\n') >= 0 {
		t.Fatalf("got more than one line: %q", got)
	}
	decode := func(b []byte) map[string]any {
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			t.Fatalf("%v in %q", err, b)
		}
		if m["turns"] == nil {
			m["turns"] = []any{}
		}
		return m
	}
	g, w := decode(got), decode(want.Bytes())
	if !reflect.DeepEqual(numbers(g), numbers(w)) {
		t.Fatalf("got  %s\nwant %s", got, want.Bytes())
	}
	return true
}

// numbers makes 1e+06 and 1000000 the same.
func numbers(x any) any {
	switch x := x.(type) {
	case json.Number:
		if strings.ContainsAny(string(x), ".eE") {
			f, _ := x.Float64()
			return f
		}
		return x
	case []any:
		for i := range x {
			x[i] = numbers(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = numbers(x[k])
		}
	}
	return x
}

func genText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{"", "\xff", "a\xe2\x80", "\u2028\u2029", "<&>", "\x00\x1f\x7f", "\ufffd", "🐎", "\xed\xa0\x80"}),
	)
}

func genValue() *rapid.Generator[matrix.Value] {
	return rapid.Custom(func(t *rapid.T) matrix.Value {
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return matrix.Value{}
		case 1:
			return matrix.RawValue([]byte("{ \"a\" :\n[1,\r\n2.50 ], \"b\": \"x\\n\" }"))
		case 2:
			return matrix.RawValue([]byte(`null`))
		case 3:
			v, err := matrix.NewValue(rapid.Float64().Draw(t, "float"))
			if err != nil {
				return matrix.Value{}
			}
			return v
		}
		v, _ := matrix.NewValue(map[string]any{genText().Draw(t, "key"): genText().Draw(t, "value")})
		return v
	})
}

func genFloat() *rapid.Generator[float64] {
	return rapid.OneOf(rapid.Float64(), rapid.Just(0.0), rapid.SampledFrom([]float64{1e21, 1e-7, -1e-300, 123.456, math.MaxFloat64}))
}

func genTask() *rapid.Generator[*matrix.Task] {
	return rapid.Custom(func(t *rapid.T) *matrix.Task {
		task := &matrix.Task{
			ID: genText().Draw(t, "id"), Row: genText().Draw(t, "row"), Trial: rapid.Int().Draw(t, "trial"), Seed: rapid.Int64().Draw(t, "seed"),
			Item: genValue().Draw(t, "item"),
		}
		task.Turns = rapid.SliceOfN(rapid.Custom(genTurn), 0, 4).Draw(t, "turns")
		if rapid.Bool().Draw(t, "ended") {
			task.Outcome = &matrix.Outcome{Status: matrix.Status(genText().Draw(t, "status")), Value: genValue().Draw(t, "value"), Cause: genText().Draw(t, "cause")}
		}
		if rapid.Bool().Draw(t, "measured") {
			task.Metrics = map[string]float64{"m": genFloat().Draw(t, "m"), strings.ToValidUTF8(genText().Draw(t, "name"), "?"): 1}
		}
		return task
	})
}

func genTurn(t *rapid.T) matrix.Turn {
	turn := matrix.Turn{
		Role: genText().Draw(t, "role"), Text: genText().Draw(t, "text"), Data: genValue().Draw(t, "data"), Error: genText().Draw(t, "error"), Hop: rapid.Int().Draw(t, "hop"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "samples") {
		turn.Samples = append(turn.Samples, matrix.Sample{Text: genText().Draw(t, "sample"), Data: genValue().Draw(t, "sample data"), Reasoning: genText().Draw(t, "sample reasoning")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "tool calls") {
		turn.ToolCalls = append(turn.ToolCalls, matrix.ToolCall{ID: genText().Draw(t, "id"), Name: genText().Draw(t, "tool"), Arguments: genValue().Draw(t, "arguments")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "tool results") {
		turn.ToolResults = append(turn.ToolResults, matrix.ToolResult{ID: genText().Draw(t, "id"), Content: genText().Draw(t, "content"), Error: genText().Draw(t, "tool error")})
	}
	if rapid.Bool().Draw(t, "called") {
		n := rapid.IntRange(0, 1000)
		turn.Call = &matrix.Call{
			Name: genText().Draw(t, "name"), Model: genText().Draw(t, "model"), Endpoint: genText().Draw(t, "endpoint"), Params: genValue().Draw(t, "params"),
			Prompt: genText().Draw(t, "prompt"), Finish: genText().Draw(t, "finish"), Calls: n.Draw(t, "calls"), Retries: n.Draw(t, "retries"),
			PromptTokens: n.Draw(t, "in"), CompletionTokens: n.Draw(t, "out"), Estimated: rapid.Bool().Draw(t, "estimated"), WaitMS: genFloat().Draw(t, "wait"), RetryMS: genFloat().Draw(t, "retry"),
		}
	}
	if rapid.Bool().Draw(t, "timed") {
		turn.Timing = matrix.Timing{QueuedMS: genFloat().Draw(t, "queued"), DelayMS: genFloat().Draw(t, "delay"), TookMS: genFloat().Draw(t, "took"), Attempts: rapid.IntRange(0, 3).Draw(t, "attempts")}
		if rapid.Bool().Draw(t, "at") {
			turn.Timing.At = time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "s"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns")).UTC()
		}
	}
	return turn
}

func TestEncodeMeansWhatEncodingJSONSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task := genTask().Draw(t, "task")
		same(t, appendTask(nil, task), task)
	})
}

// A field that is added to the vocabulary must not be forgotten here.
func TestEncodeKnowsEveryField(t *testing.T) {
	task := &matrix.Task{}
	fill(reflect.ValueOf(task).Elem())
	same(t, appendTask(nil, task), task)
}

func fill(v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *matrix.Value:
		*x = matrix.RawValue([]byte(`{"a":1}`))
		return
	case *time.Time:
		*x = time.Unix(1700000000, 5).UTC()
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]float64{"m": 2}))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

func TestEncodeWhatJSONLacks(t *testing.T) {
	task := &matrix.Task{Metrics: map[string]float64{"nan": math.NaN(), "inf": math.Inf(1)}}
	want := `{"id":"","row":"","trial":0,"seed":0,"item":null,"turns":[],"metrics":{"inf":null,"nan":null}}`
	if got := string(appendTask(nil, task)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func benchTask() *matrix.Task {
	t := &matrix.Task{ID: "q17", Row: "q17", Item: matrix.RawValue([]byte(`{"question":"` + strings.Repeat("why ", 100) + `"}`)), Outcome: &matrix.Outcome{Status: matrix.Done, Value: matrix.RawValue([]byte("true"))}}
	for i := range 10 {
		t.Turns = append(t.Turns, matrix.Turn{
			Role: "teacher", Text: strings.Repeat("It is said, \"so be it\".\nAnd so on and on. ", 25)[:1024], Hop: i,
			Call:   &matrix.Call{Name: "teacher", Model: "llama-70b", Endpoint: "http://127.0.0.1:8000/v1", Params: matrix.RawValue([]byte(`{"temperature":0.7}`)), Prompt: "0123abcd", Finish: "stop", Calls: 1, PromptTokens: 900, CompletionTokens: 250},
			Timing: matrix.Timing{At: time.Unix(1700000000, 123456789).UTC(), QueuedMS: 0.123, TookMS: 812.5},
		})
	}
	return t
}

func BenchmarkEncode(b *testing.B) {
	task, buf := benchTask(), []byte(nil)
	b.SetBytes(int64(len(appendTask(nil, task))))
	b.ReportAllocs()
	for b.Loop() {
		buf = appendTask(buf[:0], task)
	}
}

func BenchmarkEncodeEncodingJSON(b *testing.B) {
	task, buf := benchTask(), bytes.Buffer{}
	for b.Loop() {
		buf.Reset()
		if err := json.NewEncoder(&buf).Encode(task); err != nil {
			b.Fatal(err)
		}
	}
}

// A failed task that is tried again is read back from its line: nothing is lost
// or made up on the way.
func TestLinesAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task := genTask().Draw(t, "task")
		line := appendTask(nil, task)
		var back matrix.Task
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var got, want any
		again := appendTask(nil, &back)
		if err := errors.Join(json.Unmarshal(again, &got), json.Unmarshal(line, &want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %s\nwant %s", again, line)
		}
		for i := range task.Turns {
			if got, want := back.Turns[i].Data.IsZero(), task.Turns[i].Data.IsZero(); got != want {
				t.Errorf("turn %d: data is absent: got %v, want %v: %s", i, got, want, line)
			}
		}
	})
}
