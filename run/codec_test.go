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
			Content: text.Draw(t, "content"), IsError: rapid.Bool().Draw(t, "error")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "samples") {
		x.Samples = append(x.Samples, matrix.Sample{Text: text.Draw(t, "sample"), Data: data(),
			Reasoning: rapid.String().Draw(t, "reasoning"), ToolCalls: calls(), Logprobs: data(), Opaque: data(), Finish: rapid.String().Draw(t, "sample finish")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "calls") {
		x.Calls = append(x.Calls, matrix.Call{
			Kind: rapid.SampledFrom([]matrix.CallKind{matrix.KindModel, matrix.KindTool}).Draw(t, "kind"), Error: rapid.String().Draw(t, "call error"),
			Name: rapid.String().Draw(t, "name"), Model: rapid.String().Draw(t, "model"), Endpoint: rapid.String().Draw(t, "endpoint"),
			Params: data(), Prompt: "p", Request: rapid.StringN(0, 9, -1).Draw(t, "request"), Seed: rapid.Ptr(rapid.Int64(), true).Draw(t, "call seed"), Finish: "stop", Retries: rapid.IntRange(0, 9).Draw(t, "retries"),
			Tokens: matrix.Tokens{PromptTokens: rapid.IntRange(0, 1e6).Draw(t, "tokens"), CompletionTokens: 3, CachedTokens: rapid.IntRange(0, 1e6).Draw(t, "cached"), CacheWriteTokens: 6, ReasoningTokens: 4},
			WaitMS: rapid.Float64Range(0, 1e6).Draw(t, "wait"), RetryMS: 0.25,
			Revision: rapid.String().Draw(t, "revision"), Estimated: rapid.Bool().Draw(t, "estimated"),
			USD: rapid.Float64Range(0, 1).Draw(t, "usd"), FirstMS: 1.5, TookMS: rapid.Float64Range(0, 1e6).Draw(t, "took"),
		})
		if rapid.Bool().Draw(t, "reused") {
			x.Calls[len(x.Calls)-1].Reused = &matrix.Reused{Run: rapid.String().Draw(t, "run"), Task: "1"}
		}
		if rapid.Bool().Draw(t, "traced") {
			x.Calls[len(x.Calls)-1].Trace = &matrix.Trace{Tool: rapid.String().Draw(t, "traced tool"), Generation: rapid.IntRange(0, 9).Draw(t, "generation"), OOM: true, CPUMS: 0.5}
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
			want.Outcome = &matrix.Outcome{Status: matrix.Done, Value: matrix.RawValue([]byte("true")), Cause: rapid.String().Draw(t, "cause"), Stopped: rapid.String().Draw(t, "stopped"),
				Signature: rapid.SampledFrom([][]byte{nil, {1, 2, 3}, make([]byte, 300)}).Draw(t, "signature")}
			want.Metrics = map[string]*float64{"m": rapid.Ptr(rapid.Float64(), true).Draw(t, "metric"), "zero": new(0.0)}
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
	key := ChildID(want.Row, want.Trial, want.Path...)
	want.ID, want.Parent, want.Hop = "text#7/7/7", "text#7/7", 1
	for i := range want.Children {
		want.Children[i].ID = want.ChildID(want.Children[i].Index)
	}
	seed := *want
	seed.Turns, seed.Outcome, seed.Metrics, seed.Hop, seed.Expansion, seed.Children = nil, nil, nil, 0, nil, nil
	got, err := Decode(key, [][]byte{encodeSeed(&seed), encodeStep(want, 0), encodeTold(want.Children, nil)})
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
	case *matrix.Priority:
		*x = matrix.Bulk
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
		if metrics := reflect.ValueOf(map[string]*float64{"none": nil, "m": new(2.5)}); metrics.Type().AssignableTo(v.Type()) { // else what no record has
			v.Set(metrics)
		}
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
		Calls:  []matrix.Call{{Kind: matrix.KindModel, Name: "m", Finish: "stop", Tokens: matrix.Tokens{PromptTokens: 1, CompletionTokens: 3}, WaitMS: 2.5}},
		Timing: matrix.Timing{At: time.Unix(0, 1).UTC()}}}}
	if err != nil || !cmp.Equal(want, got, cmp.Comparer(func(a, b matrix.Value) bool { return string(a.Raw()) == string(b.Raw()) })) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// TestCodecReadsSummedCalls checks that a record in which a turn has one call, the
// sum of several, reads as so many calls of which the last holds the sum, and that
// it is written on in the form of today.
func TestCodecReadsSummedCalls(t *testing.T) {
	var log [][]byte
	for _, record := range []string{
		"0a1d0a01371805220c7b2271223a227768793f227d288080a8b1e39fe7cb17",
		"12730a07746561636865721202736f32620a016d12056c6c616d611a0b687474703a2f2f782f7631220a7b2273656564223a337d2a03616263320473746f7038034002481e501459000000000000f83f70088101000000000000d03f91010000000000048940a00101aa010430663165b00100380112140a07657874726163741a077b2261223a317d380112170a056a7564676512014132090a016a3801480750013802",
	} {
		b, err := hex.DecodeString(record)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, b)
	}
	value := func(s string) matrix.Value { return matrix.RawValue([]byte(s)) }
	sum := matrix.Call{Kind: matrix.KindModel, Name: "m", Model: "llama", Endpoint: "http://x/v1", Params: value(`{"seed":3}`), Prompt: "abc", Request: "0f1e",
		Seed: new(int64), Finish: "stop", Retries: 2, Tokens: matrix.Tokens{PromptTokens: 30, CompletionTokens: 20, CachedTokens: 8}, USD: 0.25, WaitMS: 1.5, TookMS: 800.5, Estimated: true}
	before := matrix.Call{Kind: matrix.KindModel, Name: "m"}
	want := &matrix.Task{ID: "7", Row: "7", Seed: 5, Item: value(`{"q":"why?"}`), Fed: time.Unix(1700000000, 0), Hop: 1, Turns: []matrix.Turn{
		{Role: "teacher", Text: "so", Hop: 1, Calls: []matrix.Call{before, before, sum}},
		{Role: "extract", Data: value(`{"a":1}`), Hop: 1},
		{Role: "judge", Text: "A", Hop: 2, Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "j", Tokens: matrix.Tokens{PromptTokens: 7, CompletionTokens: 1}}}},
	}}
	same := cmp.Comparer(func(a, b matrix.Value) bool { return string(a.Raw()) == string(b.Raw()) })
	got, err := Decode("7", log)
	if err != nil || !cmp.Equal(want, got, same) {
		t.Fatalf("%v: %s", err, cmp.Diff(want, got, same))
	}
	if c := got.Turns[0].Call(); !cmp.Equal(c, &sum, same) {
		t.Errorf("the calls as one are %+v, want %+v", c, sum)
	}
	again, err := Decode("7", [][]byte{log[0], encodeStep(got, 0)})
	if err != nil || !cmp.Equal(want, again, same) {
		t.Errorf("%v: %s", err, cmp.Diff(want, again, same))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encodeSeed(&matrix.Task{Row: "r", Item: matrix.RawValue([]byte("{}"))}), []byte{0x12, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		_, _ = Decode("x", [][]byte{a, b}) // no panic
	})
}
