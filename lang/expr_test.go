package lang

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"matrix"
)

func value(t testing.TB, s string) matrix.Value {
	t.Helper()
	v, err := matrix.ParseValue([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// debate is a task in the middle of a discussion.
func debate(t testing.TB) *matrix.Task {
	return &matrix.Task{
		ID: "q70#1", Row: "q70", Trial: 1, Seed: 42,
		Item: value(t, `{"id":70,"question":"What is 2+2?","options":["3","4"],"answer":"B","ok":true,
			"none":null,"score":7.5,"meta":{"lang":"en"},"people":[{"name":"Ann"},{"name":"Bob"}]}`),
		Turns: []matrix.Turn{
			{Role: "student", Text: "I think the answer is (A)."},
			{Role: "teacher", Text: "No, the answer is (B).", Samples: []matrix.Sample{
				{Text: "No, the answer is (B).", Data: value(t, `{"answer":"B"}`)}, {Text: "It is B"}}},
			{Role: "match", Data: value(t, `{"agreed":false,"answer":"B","list":[1,2,3],"deep":{"x":1}}`)},
		},
	}
}

func TestEval(t *testing.T) {
	params := Params{"rounds": 3, "names": []any{"a", "b"}, "deep": map[string]any{"x": 1.5}, "label": "hi"}
	for _, tt := range []struct {
		src  string
		want any
	}{
		{`item.id`, 70},
		{`item["question"]`, "What is 2+2?"},
		{`item.meta.lang`, "en"},
		{`item.options[1]`, "4"},
		{`item.options[-1]`, "4"},
		{`item?.missing`, nil},
		{`item?.missing.x`, nil},
		{`item.missing ?? 3`, 3},
		{`item.meta.missing ?? "x"`, "x"},
		{`"missing" in item`, false},
		{`"id" in item && item.id == 70`, true},
		{`id + row`, "q70#1q70"},
		{`trial + seed`, 43},
		{`last.role`, "match"},
		{`last.data.agreed`, false},
		{`last.data.missing`, nil},
		{`last.data.missing == "A"`, false},
		{`last.data.missing.x.y`, nil},
		{`last.data.answer.x`, nil},
		{`last.data.list[7]`, nil},
		{`last.data.list[-1]`, 3},
		{`last.data.missing >= 20`, false},
		{`last.data.missing < 20`, false},
		{`last.data.list[0] < 2.5`, true},
		{`not last.data.missing`, true},
		{`last.data.missing || false`, false},
		{`last.data.missing ? 1 : 2`, 2},
		{`last.data.agreed || rounds('match') >= 20`, false},
		{`turns[0].data.x`, nil},
		{`turns[-1].data.answer`, "B"},
		{`len(turns)`, 3},
		{`turn("teacher").text`, "No, the answer is (B)."},
		{`turn("teacher").samples[0].data.answer`, "B"},
		{`turn("nobody").text`, ""},
		{`turn("nobody").data.x`, nil},
		{`first("student").text contains "(A)"`, true},
		{`len(turns_of("student"))`, 1},
		{`rounds("student") % 2 == 1`, true},
		{`filter(turns, .role == "match")[0].data.answer`, "B"},
		{`map(turns, .role)`, []any{"student", "teacher", "match"}},
		{`turns | filter(.text != "") | map(.role) | join("-")`, "student-teacher"},
		{`any(turns, .data.agreed)`, false},
		{`all(turns, .data.missing)`, false},
		{`count(turns, .role == "student")`, 1},
		{`map(item.people, .name)`, []any{"Ann", "Bob"}},
		{`find(turns[0].text, "answer is \\(?([A-J])\\)?")`, "A"},
		{`find(turns[0].text, "(?i)THINK")`, "think"},
		{`find(last.data.missing, "x")`, nil},
		{`find(item.id, "7.")`, "70"},
		{`findall("a1b22", "[0-9]+")`, []any{"1", "22"}},
		{`findall("a=1;b=2", "(.)=(.)")`, []any{[]any{"a", "1"}, []any{"b", "2"}}},
		{`sub("a<t>x</t>b", "(?s)<t>.*?</t>", "")`, "ab"},
		{`sub("John Smith", "(\\w+) (\\w+)", "$2 $1")`, "Smith John"},
		{`lower("ABC") + upper("d") + trim("  e ")`, "abcDe"},
		{`replace("a.b.c", ".", "-")`, "a-b-c"},
		{`split("a,b", ",")`, []any{"a", "b"}},
		{`join(params.names, "+")`, "a+b"},
		{`words(" two  words ")`, []any{"two", "words"}},
		{`json('{"a": [1, 2.5]}').a`, []any{1, 2.5}},
		{`to_json({"b": 1, "a": "<"})`, `{"a":"<","b":1}`},
		{"extract_json(\"Sure!\\n```json\\n{\\\"a\\\": 1}\\n```\").a", 1},
		{`extract_json("nothing")`, nil},
		{`similarity("abc", "ABC")`, 1.0},
		{`similarity("night", "nacht")`, 0.25},
		{`hash("x")`, "2d711642b726b044"},
		{`bucket("x", 10)`, 6},
		{`params.rounds + 1`, 4},
		{`params.deep.x`, 1.5},
		{`params?.nope`, nil},
		{`params.nope ?? 1`, 1},
		{`rounds("student") >= params.rounds`, false},
		{`let x = item.id; x + 1`, 71},
		{`{"a": item.id, "b": [true, nil]}`, map[string]any{"a": 70, "b": []any{true, nil}}},
		{`last`, map[string]any{"role": "match", "text": "", "error": "",
			"data": map[string]any{"agreed": false, "answer": "B", "list": []any{1, 2, 3}, "deep": map[string]any{"x": 1}}}},
		{`item.score > 7`, true},
		{`item.none > 7`, false},
		{`item.answer in ["A", "B"]`, true},
		{`last.data.missing in ["A", "B"]`, false},
		{`last.data.missing contains "A"`, false},
		{`10 / 4`, 2.5},
		{`sum(map(1..3, # * 2))`, 12},
		{`reduce(1..4, #acc + #, 0)`, 10},
		{`1..3`, []any{1, 2, 3}},
		{`type(item.id)`, "int"},
		{`len(map(1..10, map(1..10, #)))`, 10},
		{`all(1..3, any(1..3, # > 2))`, true},
		{`item.ok and not last.data.agreed`, true},
		{`item.question[:4]`, "What"},
		{`"aébc"[1:3]`, "éb"},
		{`last.data.missing[1:]`, nil},
		{`item.options[-1:]`, []any{"4"}},
		{`len(turns[1:])`, 2},
		{`last.data.list[5:]`, []any{}},
		{`10 / 5`, 2.0},
		{`[1.0, 0.5]`, []any{1.0, 0.5}},
		{`if item.ok { 1 } else { 2 }`, 1},
	} {
		e, err := CompileExpr(tt.src, params)
		if err != nil {
			t.Errorf("CompileExpr(%q): %v", tt.src, err)
			continue
		}
		got, err := e.Eval(debate(t))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Eval(%q): got %#v, %v, want %#v", tt.src, got, err, tt.want)
		}
	}
}

func TestCompileExprErrors(t *testing.T) {
	for _, tt := range []struct {
		src    string
		line   int
		column int
		want   string
	}{
		{`itm.x == 1`, 1, 1, "unknown name itm, did you mean item?"},
		{`1 + lats.text`, 1, 5, "unknown name lats, did you mean last?"},
		{"true &&\n  foo", 2, 3, "unknown name foo"},
		{`last.txt`, 1, 6, "a turn has no txt, did you mean text?, it has role, text, data, error, samples, reasoning, tool_calls, tool_results, logprobs, call and calls"},
		{`turn("x").dta`, 1, 11, "a turn has no dta, did you mean data?"},
		{`filter(turns, .rolle == "x")`, 1, 16, "turn has no field rolle"},
		{`fnd("x", "y")`, 1, 1, "unknown function fnd, did you mean find?"},
		{`params.ruonds`, 1, 8, "params has no ruonds, did you mean rounds?"},
		{`find("x", "(")`, 1, 11, "not a regular expression: missing closing )"},
		{`item.question matches "a(?=b)"`, 1, 23, "not a regular expression: invalid or unsupported Perl syntax: `(?=`; RE2 has no lookahead"},
		{`sub("aa", "(a)\\1", "")`, 1, 11, "not a regular expression: invalid escape sequence: `\\1`; RE2 has no backreferences"},
		{`item.x.foo()`, 1, 0, "values have no methods"},
		{`1 +`, 1, 0, "unexpected token EOF"},
		{`rounds()`, 1, 0, "not enough arguments"},
		{`rounds == 3`, 1, 1, "rounds is a function, call it: rounds(...)"},
		{`rounds("x") > "a"`, 1, 0, "mismatched types int and string"},
		{`$env`, 1, 1, "unknown name $env"},
		{`now()`, 1, 1, "unknown function now"},
		{``, 0, 0, "the expression is empty"},
		{"\xff", 0, 0, "not valid UTF-8"},
		{strings.Repeat("(", 70000), 0, 0, "longer than 64 KiB"},
		{`1 +` + strings.Repeat("(", 60000), 1, 0, "unexpected token EOF"},
	} {
		_, err := CompileExpr(tt.src, Params{"rounds": 3})
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("CompileExpr(%.40q): got %v, want an *Error", tt.src, err)
			continue
		}
		if !strings.Contains(e.Msg, tt.want) || e.Line != tt.line || (tt.column > 0 && e.Column != tt.column) {
			t.Errorf("CompileExpr(%.40q): got %d:%d %s, want %d:%d %s", tt.src, e.Line, e.Column, e.Msg, tt.line, tt.column, tt.want)
		}
	}
}

func TestEvalErrors(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{`item.questoin`, `item has no field "questoin", did you mean "question"?`},
		{`item.zzz`, `item has no field "zzz", it has answer, id, meta, none, ok, options, people, question, score`},
		{`item.meta.zzz`, `item.meta has no field "zzz", it has lang`},
		{`item.id.x`, `item.id is the number 70, it has no field "x"`},
		{`item.options[5]`, `item.options has no element 5, it has 2 elements`},
		{`turns[9]`, `index out of range: 9`},
		{`item.id && true`, `a condition must be true or false, this is the number 70`},
		{`item.id < item.question`, `cannot compare the number 70 with the text "What is 2+2?"`},
		{`last.data.missing + 1`, `cannot add nil and the number 1`},
		{`lower(item.options)`, `lower: want a text, got a list`},
		{`json("{")`, `json: not JSON`},
		{`filter(item.none, true)`, `not a list to loop over`},
		{`1 / 0`, `divide by zero`},
		{`reduce(1..60, #acc + #acc, "x")`, `longer than 64 MiB`},
		{`let r = 1..1000; all(r, all(r, all(r, all(r, true))))`, `computes too much`},
		{`map(1..10000000, #)`, `have more than 1,000,000 elements`},
		{`let a = repeat("x", 100000); len(replace(a, "x", a))`, `longer than 64 MiB`},
		{`let a = repeat("x", 100000); len(sub(a, "x", a))`, `longer than 64 MiB`},
		{`reduce(1..40, [#acc, #acc], 1)`, `more than 1048576 parts`},
		{`to_json(reduce(1..40, [#acc, #acc], 1))`, `more than 1048576 parts`},
		{`find("x", item.question + "(")`, `find: not a regular expression`},
		{`"x" matches (item.question + "(?=a)")`, "not a regular expression: invalid or unsupported Perl syntax: `(?=`; RE2 has no lookahead"},
	} {
		e, err := CompileExpr(tt.src, nil)
		if err != nil {
			t.Errorf("CompileExpr(%q): %v", tt.src, err)
			continue
		}
		start := time.Now()
		got, err := e.Eval(debate(t))
		var own *Error
		if !errors.As(err, &own) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Eval(%q): got %v, %v, want an *Error with %s", tt.src, got, err, tt.want)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("Eval(%q) took %v", tt.src, d)
		}
	}
}

func TestBool(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want bool
		err  string
	}{
		{`last.data.agreed`, false, ""},
		{`last.data.correct`, false, ""},
		{`item.ok`, true, ""},
		{`item.question`, false, "a condition must be true or false"},
		{`item.gone`, false, "no field"},
	} {
		e, err := CompileExpr(tt.src, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Bool(debate(t))
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("Bool(%q): got %v, %v, want %v, %q", tt.src, got, err, tt.want, tt.err)
		}
	}
}

func TestEmptyTask(t *testing.T) {
	for src, want := range map[string]any{
		`last.text`: "", `last.data.x`: nil, `len(turns)`: 0, `item?.x`: nil, `rounds("a")`: 0, `turn("a").data.b`: nil,
	} {
		e, err := CompileExpr(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range []*matrix.Task{nil, {}} {
			if got, err := e.Eval(task); err != nil || got != want {
				t.Errorf("Eval(%q) of %v: got %v, %v, want %v", src, task, got, err, want)
			}
		}
	}
}

func TestLocals(t *testing.T) {
	e, err := CompileExpr(`answer == item.answer && words != nil && words[0] == "x" && words.y == nil`, nil, "answer", "words")
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.EvalLocals(debate(t), []any{"B", []any{"x"}})
	if err != nil || got != true {
		t.Errorf("got %v, %v, want true", got, err)
	}
	if got := e.Locals(); !reflect.DeepEqual(got, []string{"answer", "words"}) {
		t.Errorf("Locals: got %v", got)
	}
}

func TestFieldsAndRoles(t *testing.T) {
	for _, tt := range []struct {
		src           string
		fields, roles []string
	}{
		{`item.a + item["b"] + item.c.d`, []string{"a", "b", "c"}, nil},
		{`item?.a`, nil, nil},
		{`item.a ?? item.b`, nil, nil},
		{`"a" in item && item.a == 1 && item.b`, nil, nil},
		{`item.a == 1 && item.b == 2`, []string{"a"}, nil},
		{`item.a ? item.b : item.c`, []string{"a"}, nil},
		{`filter(item.list, .x == item.y)`, []string{"list"}, nil},
		{`rounds("a") + len(turns_of("b")) + len(turn("c").text)`, nil, []string{"a", "b", "c"}},
	} {
		e, err := CompileExpr(tt.src, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Fields(); !reflect.DeepEqual(got, tt.fields) {
			t.Errorf("Fields(%q): got %v, want %v", tt.src, got, tt.fields)
		}
		if got := e.Roles(); !reflect.DeepEqual(got, tt.roles) {
			t.Errorf("Roles(%q): got %v, want %v", tt.src, got, tt.roles)
		}
	}
}

func TestEvalConcurrently(t *testing.T) {
	e, err := CompileExpr(`join(map(turns, .role), ",") + to_json(params.list)`, Params{"list": []any{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan string)
	for range 8 {
		go func() {
			task := debate(t)
			for range 200 {
				if got, err := e.Eval(task); err != nil || got != "student,teacher,match[1,2]" {
					done <- "got " + got.(string)
					return
				}
			}
			done <- ""
		}()
	}
	for range 8 {
		if msg := <-done; msg != "" {
			t.Error(msg)
		}
	}
}

func FuzzCompileExpr(f *testing.F) {
	for _, s := range []string{`item.a ?? 1`, `last.data.x[0]?.y`, `filter(turns, .role == "x") | map(.data.y)`,
		`let x = 1; x + 2`, `{"a": 1}`, `find(item.a, "(x")`, `params.x`, `turn("a").text[1:2]`, `#`, `$env`, `a?.b?.c ?? d`,
		`reduce(1..9, #acc + #)`, `"\u00e9" matches "x"`, `sortBy(turns, .text)`, `local + 1`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		defer time.AfterFunc(10*time.Second, func() { panic("hangs: " + src) }).Stop()
		e, err := CompileExpr(src, Params{"x": 1}, "local")
		if err != nil {
			var own *Error
			if !errors.As(err, &own) || own.Msg == "" {
				t.Fatalf("got %#v, want an *Error", err)
			}
			return
		}
		task := debate(t)
		before, _ := json.Marshal(task)
		out, err := e.EvalLocals(task, []any{1})
		if err == nil {
			v, err := matrix.NewValue(out)
			if err != nil {
				t.Fatalf("the result of %q is no JSON: %v", src, err)
			}
			if again := value(t, v.String()); !reflect.DeepEqual(again.Any(), out) {
				t.Fatalf("the result of %q: got %#v, and %#v once written and read", src, out, again.Any())
			}
		}
		if after, _ := json.Marshal(task); string(before) != string(after) {
			t.Fatalf("%q changed the task", src)
		}
	})
}

func BenchmarkEval(b *testing.B) {
	for _, src := range []string{
		`rounds('match') >= 20`,
		`last.data.agreed || rounds('match') >= 20`,
		`item.answer == last.data.answer`,
		`find(last.text, "answer is \\(?([A-J])\\)?")`,
	} {
		b.Run(src, func(b *testing.B) {
			e, err := CompileExpr(src, nil)
			if err != nil {
				b.Fatal(err)
			}
			task := debate(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Eval(task); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestSub(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{`sub("a1b2", "([a-z])([0-9])", "$1x")`, "axbx"},
		{`sub("a1b2", "([a-z])([0-9])", "$2$1")`, "1a2b"},
		{`sub("a1", "([a-z])", "<$0>")`, "<a>1"},
		{`sub("a1", "[0-9]", "$$")`, "a$"},
		{`sub("a1", "[0-9]", "$x ${1} $")`, "a$x ${1} $"},
		{`sub("ab", "(x)?b", "[$1]")`, "a[]"},
	} {
		e, err := CompileExpr(tt.src, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if got, err := e.Eval(debate(t)); err != nil || got != tt.want {
			t.Errorf("%s: got %v, %v, want %s", tt.src, got, err, tt.want)
		}
	}
	for _, src := range []string{`sub(item.question, "(a)", "$2")`, `sub(item.question, "a", "$1")`, `toJSON(item)`, `fromJSON("1")`} {
		var own *Error
		if _, err := CompileExpr(src, nil); !errors.As(err, &own) || own.Column == 0 {
			t.Errorf("%s: got %v, want an error with its place", src, err)
		} else {
			t.Log(own)
		}
	}
}
