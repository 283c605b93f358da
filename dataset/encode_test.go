package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"matrix"
	"matrix/internal/jsontext"
)

// same reports whether a line means task: what ParseTask reads is what it was, and
// the line has all the fields that any other has.
func same(t interface {
	Helper()
	Fatalf(string, ...any)
}, line []byte, task *matrix.Task) {
	t.Helper()
	if bytes.IndexByte(line, '\n') >= 0 {
		t.Fatalf("got more than one line: %q", line)
	}
	if _, err := jsontext.Strict(line); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	got, err := ParseTask(line)
	if err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	plain := func(task *matrix.Task) string {
		b, err := json.Marshal(task)
		if err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		v, err := matrix.ParseValue(b) // texts that are not UTF-8, in one form
		if err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		again, _ := matrix.NewValue(v.Any())
		return string(again.Raw())
	}
	if g, w := plain(got), plain(task); g != w {
		t.Fatalf("got  %s\nwant %s\nline %s", g, w, line)
	}
	var shape any
	if err := json.Unmarshal(line, &shape); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	if g, w := keys(shape), keys(emptyLine()); g != w {
		t.Fatalf("got the fields %s, want %s, in %s", g, w, line)
	}
}

// keys are the fields of a line and of its first turn, without those that rows
// and replies bring.
func keys(line any) string {
	var all []string
	var walk func(at string, x any)
	walk = func(at string, x any) {
		switch x := x.(type) {
		case map[string]any:
			for k, v := range x {
				all = append(all, at+"."+k)
				if k == "outcome" {
					walk(at+"."+k, v)
				}
			}
		}
	}
	walk("", line)
	slices.Sort(all)
	return strings.Join(all, " ")
}

func emptyLine() (line any) {
	_ = json.Unmarshal(AppendTask(nil, &matrix.Task{}), &line)
	return line
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
			return matrix.RawValue([]byte(`{"a":{},"b":[],"c":null,"d":1.0}`))
		case 3:
			return matrix.RawValue([]byte(`{"_value":{"_value":[]}}`))
		}
		v, _ := matrix.NewValue(map[string]any{genText().Draw(t, "key"): genText().Draw(t, "value")})
		return v
	})
}

// genData is of any kind.
func genData() *rapid.Generator[matrix.Value] {
	return rapid.OneOf(genValue(), rapid.Map(rapid.SampledFrom([]string{`null`, `{}`, `[1,{"a":2}]`, `"x"`, `1.0`, `{"_value":1}`, `{"value":1}`}), func(s string) matrix.Value {
		return matrix.RawValue([]byte(s))
	}))
}

func genFloat() *rapid.Generator[float64] {
	return rapid.OneOf(rapid.Float64(), rapid.Just(0.0), rapid.SampledFrom([]float64{1e21, 1e-7, -1e-300, 123.456, math.MaxFloat64}))
}

func genTask() *rapid.Generator[*matrix.Task] {
	return rapid.Custom(func(t *rapid.T) *matrix.Task {
		task := &matrix.Task{
			ID: genText().Draw(t, "id"), Row: genText().Draw(t, "row"), Trial: rapid.Int().Draw(t, "trial"), Seed: rapid.Int64().Draw(t, "seed"),
			Item: rapid.OneOf(genValue(), rapid.Just(matrix.RawValue([]byte(`{}`)))).Filter(func(v matrix.Value) bool { return !v.IsZero() }).Draw(t, "item"),
		}
		task.Turns = rapid.SliceOfN(rapid.Custom(genTurn), 0, 4).Draw(t, "turns")
		if rapid.Bool().Draw(t, "ended") {
			task.Outcome = &matrix.Outcome{Status: rapid.SampledFrom([]matrix.Status{matrix.Done, matrix.Failed}).Draw(t, "status"), Value: genValue().Draw(t, "value"), Cause: genText().Draw(t, "cause"), Stopped: genText().Draw(t, "stopped"), Signature: rapid.SliceOf(rapid.Byte()).Draw(t, "signature")}
		}
		if rapid.Bool().Draw(t, "measured") {
			task.Metrics = map[string]*float64{"m": rapid.Ptr(genFloat(), true).Draw(t, "m"), strings.ToValidUTF8(genText().Draw(t, "name"), "?"): new(1.0)}
		}
		return task
	})
}

func genTurn(t *rapid.T) matrix.Turn {
	turn := matrix.Turn{
		Role: genText().Draw(t, "role"), Text: genText().Draw(t, "text"), Data: genData().Draw(t, "data"), Error: genText().Draw(t, "error"), Hop: rapid.Int().Draw(t, "hop"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "samples") {
		turn.Samples = append(turn.Samples, matrix.Sample{Text: genText().Draw(t, "sample"), Data: genData().Draw(t, "sample data"), Reasoning: genText().Draw(t, "sample reasoning")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "tool calls") {
		turn.ToolCalls = append(turn.ToolCalls, matrix.ToolCall{ID: genText().Draw(t, "id"), Name: genText().Draw(t, "tool"), Arguments: rapid.SampledFrom([]matrix.Value{matrix.RawValue([]byte(`"{\"a"`)), matrix.RawValue([]byte(`{"a":[1.0,null]}`)), matrix.RawValue([]byte(`[]`))}).Draw(t, "arguments")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "tool results") {
		turn.ToolResults = append(turn.ToolResults, matrix.ToolResult{ID: genText().Draw(t, "id"), Content: genText().Draw(t, "content"), IsError: rapid.Bool().Draw(t, "tool error")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "calls") {
		n := rapid.IntRange(0, 1000)
		turn.Calls = append(turn.Calls, matrix.Call{
			Kind: rapid.SampledFrom([]matrix.CallKind{matrix.KindModel, matrix.KindSandbox}).Draw(t, "kind"), Error: genText().Draw(t, "call error"),
			Name: "m" + genText().Draw(t, "name"), Model: genText().Draw(t, "model"), Endpoint: genText().Draw(t, "endpoint"), Params: genValue().Draw(t, "params"),
			Prompt: genText().Draw(t, "prompt"), Request: genText().Draw(t, "request"), Seed: rapid.Ptr(rapid.Int64(), true).Draw(t, "call seed"), Finish: genText().Draw(t, "finish"), Retries: n.Draw(t, "retries"),
			Tokens: matrix.Tokens{PromptTokens: n.Draw(t, "in"), CompletionTokens: n.Draw(t, "out")}, Estimated: rapid.Bool().Draw(t, "estimated"), WaitMS: genFloat().Draw(t, "wait"), RetryMS: genFloat().Draw(t, "retry"),
		})
		if rapid.Bool().Draw(t, "traced") {
			turn.Calls[len(turn.Calls)-1].Trace = &matrix.Trace{ID: genText().Draw(t, "traced id"), Tool: "f", IsError: true, Changed: rapid.Bool().Draw(t, "changed"), Lease: "l", Generation: n.Draw(t, "generation"), Restored: "disk",
				Code: 1, Signal: "SIGKILL", Cut: 7, TimedOut: true, OOM: true, CPUMS: 1.5, PeakBytes: 1 << 40}
		}
	}
	if rapid.Bool().Draw(t, "timed") {
		turn.Timing = matrix.Timing{QueuedMS: genFloat().Draw(t, "queued"), DelayMS: genFloat().Draw(t, "delay"), TookMS: genFloat().Draw(t, "took"), Attempts: rapid.IntRange(0, 3).Draw(t, "attempts")}
		if rapid.Bool().Draw(t, "at") {
			turn.Timing.At = time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "s"), rapid.Int64Range(0, 1e6-1).Draw(t, "us")*1000).UTC()
		}
	}
	return turn
}

func TestEncodeIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task := genTask().Draw(t, "task")
		same(t, AppendTask(nil, task), task)
	})
}

// A field that is added to the vocabulary must not be forgotten here.
func TestEncodeKnowsEveryField(t *testing.T) {
	task := &matrix.Task{}
	fill(reflect.ValueOf(task).Elem())
	same(t, AppendTask(nil, task), task)
}

func fill(v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *matrix.Value:
		*x = matrix.RawValue([]byte(`{"a":1}`))
		return
	case *matrix.Priority:
		*x = matrix.Bulk
		return
	case *time.Time:
		*x = time.Unix(1700000000, 5000).UTC()
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8:
		v.SetUint(7)
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
		if metrics := reflect.ValueOf(map[string]*float64{"m": new(2.0)}); metrics.Type().AssignableTo(v.Type()) { // else what no record has
			v.Set(metrics)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

func TestEncodeWhatJSONLacks(t *testing.T) {
	task := &matrix.Task{Metrics: map[string]*float64{"nan": new(math.NaN()), "inf": new(math.Inf(1)), "n": new(1.0), "none": nil}}
	want := `{"id":"","row":"","trial":0,"seed":0,"priority":"normal","parent":"","siblings":0,"waited":false,"item":{},"unread":"","turns":[],"outcome":{"status":"","value":null,"cause":"","fault":"","stopped":"","signature":""},"expanded":0,"children":[],"metrics":{"inf":null,"n":1.0,"nan":null,"none":null}}`
	if got := string(AppendTask(nil, task)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A field has one type whatever stands in it.
func TestEncodeFrames(t *testing.T) {
	v := func(s string) matrix.Value { return matrix.RawValue([]byte(s)) }
	for _, c := range []struct {
		name string
		task matrix.Task
		want string
	}{
		{"a row that could not be read", matrix.Task{Item: v(`"{\"id\": "`)}, `"item":{},"unread":"{\"id\": "`},
		{"a row", matrix.Task{Item: v(`{"a":1}`)}, `"item":{"a":1},"unread":""`},
		{"a list as data", matrix.Task{Turns: []matrix.Turn{{Data: v(`[{"q":1}]`)}}}, `"data":{"_value":[{"q":1}]}`},
		{"a text as data", matrix.Task{Turns: []matrix.Turn{{Data: v(` "x"`)}}}, `"data":{"_value": "x"}`},
		{"null as data", matrix.Task{Turns: []matrix.Turn{{Data: v(`null`)}}}, `"data":{"_value":null},`},
		{"data of a sample", matrix.Task{Turns: []matrix.Turn{{Samples: []matrix.Sample{{Data: v(`true`)}, {}}}}}, `"data":{"_value":true},"reasoning":"","tool_calls":[],"logprobs":null,"opaque":"","finish":""},{"text":"","data":{}`},
		{"arguments", matrix.Task{Turns: []matrix.Turn{{ToolCalls: []matrix.ToolCall{{Arguments: v(`{"a":"x"}`)}, {Arguments: v(`"{a"`)}, {}}}}}, `"arguments":"{\"a\":\"x\"}"},{"id":"","name":"","arguments":"{a"},{"id":"","name":"","arguments":""}`},
		{"opaque", matrix.Task{Turns: []matrix.Turn{{Opaque: v(`{"s":["a"]}`)}}}, `"opaque":"{\"s\":[\"a\"]}"`},
		{"what is not known", matrix.Task{Turns: []matrix.Turn{{Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m"}}}}}, `"usd":null,"wait_ms":0.0,"retry_ms":0.0,"first_token_ms":null,"took_ms":0.0,"trace":{"id":"","tool":"","is_error":false,"changed":false,"lease":"","generation":0,"restored":"","code":0,"signal":"","cut":0,"timed_out":false,"oom":false,"cpu_ms":0.0,"peak_bytes":0}}`},
		{"a second", matrix.Task{Turns: []matrix.Turn{{Timing: matrix.Timing{At: time.Unix(0, 0).UTC(), TookMS: 3}}}}, `"timing":{"at":"1970-01-01T00:00:00.000000Z","queued_ms":0.0,"delay_ms":0.0,"took_ms":3.0,"attempts":0}`},
		{"stopped", matrix.Task{Outcome: &matrix.Outcome{Status: matrix.Done, Stopped: "filter"}}, `"outcome":{"status":"done","value":null,"cause":"","fault":"","stopped":"filter","signature":""}`},
	} {
		if got := string(AppendTask(nil, &c.task)); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want %s in it", c.name, got, c.want)
		}
	}
}

// Lines of versions before have no more than what there is.
func TestParseTaskOfOldLines(t *testing.T) {
	task, err := ParseTask([]byte(`{"id":"a#1","row":"a","trial":1,"seed":7,"item":"{\"id\"","turns":[{"role":"r","text":"x","tool_calls":[{"id":"c","name":"f","arguments":{"a":1}},{"id":"d","name":"f","arguments":"{a"}],"opaque":{"w":1},"samples":[{"text":"x"}],"data":[1],"call":{"name":"m","params":{"seed":3},"calls":1,"prompt_tokens":1,"completion_tokens":2},"hop":1,"timing":{"at":"2026-11-20T15:50:21.69Z","queued_ms":0,"took_ms":3}},{"role":"s","hop":1}],"outcome":{"status":"done","value":{"stopped":"s"}},"metrics":{"m":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	x := &task.Turns[0]
	if string(task.Item.Raw()) != `"{\"id\""` || string(x.ToolCalls[0].Arguments.Raw()) != `{"a":1}` || string(x.ToolCalls[1].Arguments.Raw()) != `"{a"` || string(x.Opaque.Raw()) != `{"w":1}` ||
		string(x.Data.Raw()) != `[1]` || len(x.Calls) != 1 || len(task.Turns[1].Calls) != 0 || !task.Turns[1].Data.IsZero() || string(task.Outcome.Value.Raw()) != `{"stopped":"s"}` || *task.Metrics["m"] != 1 {
		t.Errorf("got %+v", task)
	}
}

// In lines of before a result of a tool had an error beside its content.
func TestParseTaskOfOldToolResults(t *testing.T) {
	task, err := ParseTask([]byte(`{"id":"7","turns":[{"role":"tools","tool_results":[{"id":"1","name":"f","content":"3","error":""},{"id":"2","name":"f","content":"","error":"no"},{"id":"3","name":"f","content":"x","error":"half"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []matrix.ToolResult{{ID: "1", Name: "f", Content: "3"}, {ID: "2", Name: "f", Content: "error: no", IsError: true}, {ID: "3", Name: "f", Content: "x\nerror: half", IsError: true}}
	if got := task.Turns[0].ToolResults; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// In lines of before a turn had one call, the sum of several.
func TestParseTaskOfSummedCalls(t *testing.T) {
	task, err := ParseTask([]byte(`{"id":"7","row":"7","trial":0,"seed":5,"item":{"q":"why?"},"unread":"","turns":[{"role":"teacher","text":"so","data":{},"samples":[],"error":"","reasoning":"","tool_calls":[],"tool_results":[],"logprobs":null,"opaque":"","call":{"name":"m","model":"llama","revision":"","endpoint":"http://x/v1","params":{"seed":3},"prompt":"abc","request":"0f1e","seed":0,"finish":"stop","calls":3,"retries":2,"prompt_tokens":30,"completion_tokens":20,"cached_tokens":8,"cache_write_tokens":0,"reasoning_tokens":0,"estimated":true,"usd":0.25,"wait_ms":1.5,"retry_ms":0.0,"first_token_ms":null,"took_ms":800.5},"hop":1,"timing":{"at":"0001-01-01T00:00:00.000000Z","queued_ms":0.0,"delay_ms":0.0,"took_ms":0.0,"attempts":0}},{"role":"extract","text":"","data":{"a":1},"samples":[],"error":"","reasoning":"","tool_calls":[],"tool_results":[],"logprobs":null,"opaque":"","call":{},"hop":1,"timing":{"at":"0001-01-01T00:00:00.000000Z","queued_ms":0.0,"delay_ms":0.0,"took_ms":0.0,"attempts":0}},{"role":"judge","text":"A","data":{},"samples":[],"error":"","reasoning":"","tool_calls":[],"tool_results":[],"logprobs":null,"opaque":"","call":{"name":"j","model":"","revision":"","endpoint":"","params":{},"prompt":"","request":"","seed":null,"finish":"","calls":1,"retries":0,"prompt_tokens":7,"completion_tokens":1,"cached_tokens":0,"cache_write_tokens":0,"reasoning_tokens":0,"estimated":false,"usd":null,"wait_ms":0.0,"retry_ms":0.0,"first_token_ms":null,"took_ms":0.0},"hop":2,"timing":{"at":"0001-01-01T00:00:00.000000Z","queued_ms":0.0,"delay_ms":0.0,"took_ms":0.0,"attempts":0}}],"outcome":{"status":"failed","value":null,"cause":"x","fault":"flow","stopped":""},"metrics":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	calls := task.Turns[0].Calls
	if len(calls) != 3 || calls[0].Kind != matrix.KindModel || calls[0].Name != "m" || calls[0].PromptTokens != 0 ||
		calls[2].PromptTokens != 30 || calls[2].Retries != 2 || calls[2].USD != 0.25 || calls[2].Finish != "stop" || *calls[2].Seed != 0 {
		t.Errorf("got %+v, want three calls, the last with the sum", calls)
	}
	if n, m := len(task.Turns[1].Calls), len(task.Turns[2].Calls); n != 0 || m != 1 {
		t.Errorf("got %d and %d calls, want 0 and 1", n, m)
	}
	same(t, AppendTask(nil, task), task)
}

func benchTask() *matrix.Task {
	t := &matrix.Task{ID: "q17", Row: "q17", Item: matrix.RawValue([]byte(`{"question":"` + strings.Repeat("why ", 100) + `"}`)), Outcome: &matrix.Outcome{Status: matrix.Done, Value: matrix.RawValue([]byte("true"))}}
	for i := range 10 {
		t.Turns = append(t.Turns, matrix.Turn{
			Role: "teacher", Text: strings.Repeat("It is said, \"so be it\".\nAnd so on and on. ", 25)[:1024], Hop: i,
			Calls:  []matrix.Call{{Kind: matrix.KindModel, Name: "teacher", Model: "llama-70b", Endpoint: "http://127.0.0.1:8000/v1", Params: matrix.RawValue([]byte(`{"temperature":0.7}`)), Prompt: "0123abcd", Finish: "stop", Tokens: matrix.Tokens{PromptTokens: 900, CompletionTokens: 250}}},
			Timing: matrix.Timing{At: time.Unix(1700000000, 123456789).UTC(), QueuedMS: 0.123, TookMS: 812.5},
		})
	}
	return t
}

func BenchmarkEncode(b *testing.B) {
	task, buf := benchTask(), []byte(nil)
	b.SetBytes(int64(len(AppendTask(nil, task))))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendTask(buf[:0], task)
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
		line := AppendTask(nil, task)
		back, err := ParseTask(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var got, want any
		again := AppendTask(nil, back)
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
