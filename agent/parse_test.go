package agent

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	schema := map[string]any{"type": "object", "required": []any{"score"}, "properties": map[string]any{"score": map[string]any{"type": "integer", "minimum": 1, "maximum": 5}}}
	for _, tt := range []struct {
		name string
		p    Parse
		text string
		want string
		err  string
	}{
		{"nothing", Parse{}, "x", "", ""},
		{"group", Parse{Regex: `answer is \(?([A-J])`}, "the answer is (C), the answer is (D)", `{"answer":"C"}`, ""},
		{"named", Parse{Regex: `(?P<a>\d+)-(?P<b>x)?(\d)`}, "1-2", `{"a":"1","b":null}`, ""},
		{"whole match", Parse{Regex: `\d+`, Field: "n"}, "a 12", `{"n":"12"}`, ""},
		{"exactly one", Parse{Regex: "(?s)```sh\\n(.*?)\\n```", Count: 1}, "So:\n```sh\nls\n```", `{"answer":"ls"}`, ""},
		{"two, one is wanted", Parse{Regex: `\d+`, Count: 1}, "1 2", "", `matches the regular expression \d+ 2 times, want 1`},
		{"none, one is wanted", Parse{Regex: `\d+`, Count: 1}, "a", "", "does not match the regular expression"},
		{"exactly two", Parse{Regex: `\d+`, Count: 2, Field: "n"}, "1 2", `{"n":["1","2"]}`, ""},
		{"all", Parse{Regex: `(?P<a>\d)(?P<b>x)?`, Count: allMatches}, "1 2x", `{"answer":[{"a":"1","b":null},{"a":"2","b":"x"}]}`, ""},
		{"all of none", Parse{Regex: `\d+`, Count: allMatches}, "a", `{"answer":[]}`, ""},
		{"named, exactly one", Parse{Regex: `(?P<a>\d)`, Count: 1}, "1", `{"a":"1"}`, ""},
		{"no match", Parse{Regex: `\d+`}, "a", "", "does not match the regular expression"},
		{"json", Parse{JSON: true}, ` {"b": 1, "a": [2]} `, `{"b":1,"a":[2]}`, ""},
		{"fenced", Parse{JSON: true}, "Here:\n```json\n{\"a\": 1}\n```\nand {\"b\": 2}", `{"a":1}`, ""},
		{"fenced, no newline", Parse{JSON: true}, "```{\"a\": 1}```", `{"a":1}`, ""},
		{"inside", Parse{JSON: true}, `I think {x} {"a": "}"} done`, `{"a":"}"}`, ""},
		{"scalar", Parse{JSON: true}, `"x"`, `"x"`, ""},
		{"half a pair", Parse{JSON: true}, `{"a":"\ud83d"}`, `{"a":"�"}`, ""},
		{"a key twice", Parse{JSON: true}, `{"a":1,"b":0,"a":12345678901234567890}`, `{"a":12345678901234567890,"b":0}`, ""},
		{"beyond floats", Parse{JSON: true}, `{"a":1,"b":[1e400]}`, "", `the JSON cannot be used: "b" has the number 1e400, which is beyond the range of 64-bit floats`},
		{"beyond floats, optional", Parse{JSON: true, Optional: true}, `[1e400]`, "", ""},
		{"cut", Parse{JSON: true}, `{"a": 1`, "", "JSON that is not valid or not complete"},
		{"prose", Parse{JSON: true}, `no [citation needed] json`, "", "no valid JSON"},
		{"schema", Parse{Schema: schema}, `{"score": 3}`, `{"score":3}`, ""},
		{"schema, wrong", Parse{Schema: schema}, `{"score": 9}`, "", "/score: maximum: got 9, want 5"},
		{"schema, missing", Parse{Schema: schema}, `{}`, "", "missing property 'score'"},
		{"schema as yaml", Parse{Schema: "type: object\nrequired: [a]\n"}, `{}`, "", "missing property 'a'"},
		{"schema as json", Parse{Schema: `{"type": "array"}`}, `{}`, "", "got object, want array"},
		{"schema float", Parse{Schema: schema}, `{"score": 3.5}`, "", "got number, want integer"},
		{"choice", Parse{Choice: []string{"yes", "no"}}, " Yes. ", `{"choice":"yes"}`, ""},
		{"choice bold", Parse{Choice: []string{"A", "B"}}, "**b**", `{"choice":"B"}`, ""},
		{"choice in prose", Parse{Choice: []string{"A", "B"}, Field: "x"}, "The best is B, a good one. B!", `{"x":"B"}`, ""},
		{"choice in other case", Parse{Choice: []string{"Yes", "No"}}, "well, yes, nobody knows", `{"choice":"Yes"}`, ""},
		{"choice ambiguous", Parse{Choice: []string{"A", "B"}}, "A or B", "", "names several of A, B: A, B"},
		{"choice none", Parse{Choice: []string{"A", "B"}}, "CAB", "", "names none of A, B"},
		{"choice longest", Parse{Choice: []string{"agree", "strongly agree"}}, "I strongly agree!", `{"choice":"strongly agree"}`, ""},
		{"choice of symbols", Parse{Choice: []string{"+1", "-1"}}, "So +1", `{"choice":"+1"}`, ""},
		{"choice, one letter more", Parse{Choice: []string{"C", "C++"}}, "I take C++.", `{"choice":"C++"}`, ""},
		{"grammar", Parse{Grammar: "root ::= [a-z]+ tail\ntail ::= \"\" | \", \" root"}, "a, bc", `{"answer":"a, bc"}`, ""},
		{"grammar, in part", Parse{Grammar: `root ::= [a-z]+`}, " a", "", `the reply does not match the grammar: line 1, character 1: got " ", want [a-z]`},
		{"grammar, cut", Parse{Grammar: `root ::= "a" "b"`, Field: "x"}, "a", "", `line 1, character 2: the text ends, want "b"`},
		{"grammar, beyond the limit", Parse{Grammar: `root ::= root root | "a"`}, strings.Repeat("a", 1e5), "", `the reply cannot be checked by the grammar: line 1, character `},
		{"grammar, optional", Parse{Grammar: `root ::= "a"`, Optional: true}, "b", "", ""},
		{"optional", Parse{Choice: []string{"A"}, Optional: true}, "x", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := newReader(tt.p)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.parse(tt.text)
			if got.String() != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("parse(%q): got %s, %v, want %s, %s", tt.text, got, err, tt.want, tt.err)
			}
		})
	}
}

func TestParseGrammarErrors(t *testing.T) {
	for _, tt := range []struct{ grammar, want string }{
		{"root ::= a\na ::= b", `parse.grammar: line 2, character 7 of the grammar: there is no rule "b"`},
		{"start: \"a\"", "this is Lark's notation (NAME: ...), want NAME ::= ...; extra_body sends what is not read here, without a check"},
		{"root ::= \"a", `line 1, character 10 of the grammar: this text has no end`},
	} {
		if _, err := newReader(Parse{Grammar: tt.grammar}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.grammar, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"A", "```json\n{}\n```", "{[}]", "the \xff answer is (B)", `{"a": "\u0000"}`, "é A", "```"} {
		f.Add(s)
	}
	var readers []reader
	for _, p := range []Parse{{Regex: `answer is \(?([A-J])`}, {JSON: true}, {Schema: map[string]any{"type": "object"}}, {Choice: []string{"A", "B", "é"}}, {Grammar: `root ::= [^a] | "a" root`}} {
		r, err := newReader(p)
		if err != nil {
			f.Fatal(err)
		}
		readers = append(readers, r)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range readers {
			if v, err := r.parse(s); err == nil && !isJSON(v.Raw()) {
				t.Errorf("parse(%q): got %s, which is not JSON", s, v)
			}
		}
	})
}
