package run

import (
	"encoding/hex"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"matrix"
)

func genTurn(t *rapid.T) matrix.Turn {
	text := rapid.OneOf(rapid.String(), rapid.StringN(120, 140, -1), rapid.StringN(17000, 17010, -1))
	data := func() matrix.Value {
		if rapid.Bool().Draw(t, "has data") {
			b, _ := json.Marshal(rapid.MapOf(rapid.String(), rapid.Int()).Draw(t, "data"))
			return matrix.RawValue(b)
		}
		return matrix.Value{}
	}
	x := matrix.Turn{
		Role: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "role"), Text: text.Draw(t, "text"), Data: data(),
		Error: rapid.String().Draw(t, "error"), Hop: rapid.IntRange(0, 1000).Draw(t, "hop"),
		Reasoning: text.Draw(t, "reasoning"), Logprobs: data(), Opaque: data(),
	}
	calls := func() (calls []matrix.ToolCall) {
		for range rapid.IntRange(0, 3).Draw(t, "tool calls") {
			calls = append(calls, matrix.ToolCall{ID: rapid.String().Draw(t, "id"), Name: rapid.String().Draw(t, "tool"), Arguments: data()})
		}
		return calls
	}
	x.ToolCalls = calls()
	for range rapid.IntRange(0, 3).Draw(t, "tool results") {
		x.ToolResults = append(x.ToolResults, matrix.ToolResult{ID: rapid.String().Draw(t, "id"), Name: "f",
			Content: text.Draw(t, "content"), Error: rapid.String().Draw(t, "error")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "samples") {
		x.Samples = append(x.Samples, matrix.Sample{Text: text.Draw(t, "sample"), Data: data(),
			Reasoning: rapid.String().Draw(t, "reasoning"), ToolCalls: calls(), Logprobs: data(), Opaque: data()})
	}
	if rapid.Bool().Draw(t, "has a call") {
		x.Call = &matrix.Call{
			Name: rapid.String().Draw(t, "name"), Model: rapid.String().Draw(t, "model"), Endpoint: rapid.String().Draw(t, "endpoint"),
			Params: data(), Prompt: "p", Request: rapid.StringN(0, 9, -1).Draw(t, "request"), Seed: rapid.Ptr(rapid.Int64(), true).Draw(t, "call seed"), Finish: "stop", Calls: 1, Retries: rapid.IntRange(0, 9).Draw(t, "retries"),
			PromptTokens: rapid.IntRange(0, 1e6).Draw(t, "tokens"), CompletionTokens: 3, WaitMS: rapid.Float64Range(0, 1e6).Draw(t, "wait"), RetryMS: 0.25,
			Revision: rapid.String().Draw(t, "revision"), CachedTokens: rapid.IntRange(0, 1e6).Draw(t, "cached"), CacheWriteTokens: 6, ReasoningTokens: 4, Estimated: rapid.Bool().Draw(t, "estimated"),
			USD: rapid.Float64Range(0, 1).Draw(t, "usd"), FirstMS: 1.5, TookMS: rapid.Float64Range(0, 1e6).Draw(t, "took"),
		}
	}
	if rapid.Bool().Draw(t, "has times") {
		x.Timing = matrix.Timing{
			At: time.Unix(0, rapid.Int64Range(1, 1<<60).Draw(t, "at")).UTC(), QueuedMS: 0.5,
			DelayMS: rapid.Float64Range(0, 9).Draw(t, "delay"), TookMS: 7, Attempts: 2,
		}
	}
	return x
}

func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &matrix.Task{
			ID: "x", Row: rapid.String().Draw(t, "row"), Trial: rapid.IntRange(0, 9).Draw(t, "trial"), Seed: rapid.Int64().Draw(t, "seed"),
			Item: matrix.RawValue([]byte(`{"a":1}`)), Fed: time.Unix(0, rapid.Int64Range(1, 1<<60).Draw(t, "fed")),
		}
		log := [][]byte{encodeSeed(want)}
		for range rapid.IntRange(0, 4).Draw(t, "hops") {
			from := len(want.Turns)
			for range rapid.IntRange(0, 3).Draw(t, "turns") {
				want.Turns = append(want.Turns, genTurn(t))
			}
			want.Hop++
			log = append(log, encodeStep(want, from))
		}
		if rapid.Bool().Draw(t, "ends") {
			want.Outcome = &matrix.Outcome{Status: matrix.Done, Value: matrix.RawValue([]byte("true")), Cause: rapid.String().Draw(t, "cause"), Stopped: rapid.String().Draw(t, "stopped")}
			want.Metrics = map[string]float64{"m": rapid.Float64().Draw(t, "metric"), "zero": 0}
			want.Hop++
			log = append(log, encodeStep(want, len(want.Turns)))
		}
		got, err := Decode("x", log)
		if err != nil {
			t.Fatal(err)
		}
		same := cmp.Comparer(func(a, b matrix.Value) bool { return string(a.Raw()) == string(b.Raw()) })
		if d := cmp.Diff(want, got, same); d != "" {
			t.Fatalf("decoded differs (-want +got):\n%s", d)
		}
	})
}

// A field that is added to the vocabulary must not be forgotten here.
func TestCodecKnowsEveryField(t *testing.T) {
	want := &matrix.Task{}
	fill(reflect.ValueOf(want).Elem())
	want.ID, want.Hop = "x", 1
	got, err := Decode("x", [][]byte{encodeSeed(&matrix.Task{Row: want.Row, Trial: want.Trial, Seed: want.Seed, Item: want.Item, Fed: want.Fed}), encodeStep(want, 0)})
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b matrix.Value) bool { return string(a.Raw()) == string(b.Raw()) })
	if d := cmp.Diff(want, got, same); d != "" {
		t.Errorf("decoded differs (-want +got):\n%s", d)
	}
}

// fill puts something into every field of v.
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
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]float64{"m": 2.5}))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

// TestCodecReadsOldRecords checks that a record from before turns had tool calls
// reads as ever.
func TestCodecReadsOldRecords(t *testing.T) {
	old, err := hex.DecodeString("12320a077465616368657212076265636175736532180a016d320473746f70380148015003590000000000000440380142020801")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode("x", [][]byte{nil, old})
	want := &matrix.Task{ID: "x", Hop: 1, Turns: []matrix.Turn{{Role: "teacher", Text: "because", Hop: 1,
		Call:   &matrix.Call{Name: "m", Finish: "stop", Calls: 1, PromptTokens: 1, CompletionTokens: 3, WaitMS: 2.5},
		Timing: matrix.Timing{At: time.Unix(0, 1).UTC()}}}}
	if err != nil || !cmp.Equal(want, got, cmp.Comparer(func(a, b matrix.Value) bool { return string(a.Raw()) == string(b.Raw()) })) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encodeSeed(&matrix.Task{Row: "r", Item: matrix.RawValue([]byte("{}"))}), []byte{0x12, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		_, _ = Decode("x", [][]byte{a, b}) // no panic
	})
}
