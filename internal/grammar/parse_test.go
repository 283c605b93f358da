package grammar

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseErrors(t *testing.T) {
	foreign := []string{"too many times", "too large", "too deep", "tokens", "another token", "lookahead", "a macro", "attributes", "Lark", "Lark with options"}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", `line 1, character 1: there is no rule "root"`},
		{"no root", "a ::= \"x\"", `line 1, character 1: there is no rule "root", which is the whole reply`},
		{"no rule of that name", "root ::= a\na ::= b-c", `line 2, character 7: there is no rule "b-c"`},
		{"a rule twice", "root ::= \"a\"\nroot ::= \"b\"", `line 2, character 1: there is a rule "root" already`},
		{"no sign", "root = \"a\"", `line 1, character 1: want NAME ::= ...`},
		{"what begins no rule", "\"a\" root ::= \"a\"", `line 1, character 1: want NAME ::= ...`},
		{"a text without end", "root ::= \"a\n b", `line 1, character 10: this text has no end: want "`},
		{"a class without end", `root ::= [a-z`, `character 10: this class has no end: want ]`},
		{"a group without end", `root ::= ("a" ("b"`, `character 15: this group has no end: want )`},
		{"an end without group", "root ::= \"a\" )", `character 14: this ) ends no group`},
		{"an empty class", `root ::= []`, `character 10: no character is in the class []`},
		{"a class of nothing", `root ::= [^\U00000000-\U0010FFFF]`, `no character is in the class`},
		{"a range backwards", `root ::= [a-fz-w]`, `character 14: the range z-w is none`},
		{"nothing to repeat", `root ::= * "a"`, `character 10: there is nothing to repeat before '*'`},
		{"braces", `root ::= "a"{}`, `character 13: want {m}, {m,}, {m,n} or {,n}`},
		{"an open brace", `root ::= "a"{2`, `character 13: want {m}`},
		{"times backwards", `root ::= "a"{3,2}`, `character 13: the repetition is from 3 to 2 times`},
		{"too many times", `root ::= "a"{99999999999999999999}`, `the repetition is of more than 1048576 times`},
		{"too large", "root ::= a{1000}\na ::= \"x\"\nb ::= ((\"x\"{1000}){1000}){1000}", `line 3, character 1: the grammar is too large: up to the end of "b"`},
		{"too deep", `root ::= ` + strings.Repeat("(", 2000), `more than 1000 groups inside each other`},
		{"too many repetitions", `root ::= "a"` + strings.Repeat("*", 1<<20), `more than 1000 repetitions of each other`},
		{"no such escape", "root ::= \"é\\q\"", `character 12: there is no escape \q`},
		{"no such escape of a letter", `root ::= "\é"`, `there is no escape \é`},
		{"a class in a text", `root ::= "\d"`, `character 11: no server reads \d: want its characters, as [0-9]`},
		{"a class in a class", `root ::= [a-z\S]`, `character 14: no server reads \S`},
		{"an escape at the end", `root ::= "\`, `character 11: there is nothing behind the \`},
		{"hexadecimal", `root ::= "\x4"`, `want 2 hexadecimal digits of a character behind \x`},
		{"signed hexadecimal", `root ::= "\u+041"`, `want 4 hexadecimal digits`},
		{"more digits", `root ::= "\x1F600"`, `character 11: servers do not agree on how many digits belong to \x1F6: want \uHHHH or \UHHHHHHHH`},
		{"more digits in a class", `root ::= [\x41a-f]`, `digits belong to \x41a`},
		{"a surrogate", `root ::= "\uD800"`, `\uD800 is not a character`},
		{"beyond Unicode", `root ::= [\UFFFFFFFF]`, `\UFFFFFFFF is not a character`},
		{"single quotes", `root ::= 'a'`, `character 10: a text stands in double quotes`},
		{"tokens", `root ::= <think> "a"`, `character 10: tokens, as <...>, are not understood`},
		{"lookahead", `root ::= "a" (= "b")`, `character 14: a lookahead (= ...) is not understood`},
		{"a macro", `root ::= TagDispatch("a")`, `there is no rule "TagDispatch"`},
		{"another token", `root ::= !</think>* "a"`, `character 10: tokens, as <...>, are not understood`},
		{"attributes", "root ::= a\na[temperature=0.7] ::= \"a\"", `line 2, character 2: attributes of a rule`},
		{"what is not a sign", `root ::= "a" & "b"`, `character 14: cannot read '&'`},
		{"no end", "root ::= a\na ::= \"(\" a \")\"", `line 1, character 1: no text is one of this grammar: "root" never ends`},
		{"not UTF-8", "root ::= \"a\xff\"", `character 12: the grammar is not valid UTF-8`},
		{"Lark", "// numbers\nstart: NUMBER\nNUMBER: /[0-9]+/", `line 2, character 1: this is Lark's notation`},
		{"Lark with options", "%llguidance {}\n?start.2 : \"a\"", `line 2, character 1: this is Lark's notation`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text)
			var bad *Error
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%.80s: got %v, want %s", tt.text, err, tt.want)
			}
			if want := slices.Contains(foreign, tt.name); bad.Foreign != want {
				t.Errorf("%.80s: got foreign %v, want %v", tt.text, bad.Foreign, want)
			}
		})
	}
}

func TestNotation(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		yes, no    []string
	}{
		{"a text", `root ::= "ab"`, []string{"ab"}, []string{"", "a", "abc", "AB"}},
		{"no text", `root ::= ""`, []string{""}, []string{"a"}},
		{"nothing at all", `root ::=`, []string{""}, []string{"a"}},
		{"escapes", `root ::= "\n\r\t\b\f\v\a\e\0\\\"\[\]\'\?\x41\u00e9\U0001F600"`, []string{"\n\r\t\b\f\v\a\x1b\x00\\\"[]'?Aé😀"}, nil},
		{"signs in a class", `root ::= [\]\[\\^\-"]+`, []string{`]`, `[`, `\`, `^`, `-`, `"`}, []string{"a"}},
		{"a dash at either end", `root ::= [-a] [a-]`, []string{"--", "aa", "-a"}, []string{"b-"}},
		{"ranges", `root ::= [a-cx\x30-\x39\u0430-\u044f]`, []string{"a", "c", "x", "0", "9", "я"}, []string{"d", "", "A", "aa"}},
		{"not in a class", `root ::= [^a-c\n]`, []string{"d", "é", "\u00ff", "\U0010ffff"}, []string{"a", "\n", ""}},
		{"not in nothing", `root ::= [^]`, []string{"d", "\n"}, []string{""}},
		{"any", `root ::= . "." .`, []string{"a.b", "\n..", "é.😀"}, []string{"ab", "a.", "a..."}},
		{"alternatives", `root ::= "a" | "b" | "c" "d"`, []string{"a", "b", "cd"}, []string{"", "c", "ab"}},
		{"many texts", `root ::= "a" | "abc" | "abd" | "" | ("x" | "abe") | "b" | "c" | "d" | "e" | "f" | "é" | "abc" | "h" | "i" | "j" | "k" | "l" | [m-n] | "o" "p" | "qrs"`,
			[]string{"a", "abc", "abd", "", "x", "abe", "é", "l", "m", "op", "qrs"}, []string{"ab", "abcd", "o", "qr", "aa", "è"}},
		{"an empty alternative", `root ::= "a" | | "b"`, []string{"a", "", "b"}, []string{"ab"}},
		{"an empty alternative at the end", "root ::= x \".\"\nx ::= \"a\" |\n", []string{"a.", "."}, []string{"a"}},
		{"an empty group", `root ::= "a" () "b"`, []string{"ab"}, nil},
		{"groups", `root ::= ("a" | "b" ("c" | "d"))* "e"`, []string{"e", "abce", "bdae"}, []string{"be", "ce"}},
		{"star", `root ::= "ab"*`, []string{"", "ab", "abab"}, []string{"a", "aba", "abb"}},
		{"plus", `root ::= "ab"+`, []string{"ab", "abab"}, []string{"", "aba"}},
		{"perhaps", `root ::= "a"? "b"`, []string{"b", "ab"}, []string{"aab", "a"}},
		{"so many", `root ::= "a"{3}`, []string{"aaa"}, []string{"aa", "aaaa"}},
		{"at least", `root ::= "a"{2,}`, []string{"aa", "aaaaa"}, []string{"a", ""}},
		{"from at least none", `root ::= "a"{0,}`, []string{"", "aaaaa"}, []string{"b"}},
		{"from to", `root ::= [a-b] {1 , 3} "b"`, []string{"ab", "bbb", "abab"}, []string{"b", "aaaab", "aaaa"}},
		{"at most", `root ::= "a"{,2}`, []string{"", "aa"}, []string{"aaa"}},
		{"never", `root ::= "a"{0} "b"`, []string{"b"}, []string{"ab"}},
		{"repetitions of each other", `root ::= ("a"{2}){1,2}?`, []string{"", "aa", "aaaa"}, []string{"a", "aaa", "aaaaaa"}},
		{"rules over lines", "# comment\nroot ::= # here\n  a-1 | # \"there\"\n  b_2\n\na-1 ::= \"x\"\n  \"y\"\r\nb_2 ::= [#] \"#\"\n", []string{"xy", "##"}, []string{"x", "#"}},
		{"root comes last", "a ::= \"x\" root ::= a a", []string{"xx"}, []string{"x"}},
		{"names with dots", "root ::= a.b a.\na.b ::= \"x\"\na ::= \"y\"", []string{"xy!"}, []string{"y!x", "xyy!"}},
		{"dots beside names", "root ::= a.b\na ::= \"y\"\nb ::= \"z\"", []string{"y!z", "y.z"}, []string{"yz"}},
		{"a rule that never ends", "root ::= \"a\" | \"b\" x\nx ::= \"c\" x", []string{"a"}, []string{"b", "bc"}},
		{"bytes that are not text", `root ::= [^a]`, []string{"\xff"}, []string{"\xff\xff"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := read(t, tt.text)
			for _, s := range tt.yes {
				if err := g.Match(s); err != nil {
					t.Errorf("%q: got %v, want a match", s, err)
				}
			}
			for _, s := range tt.no {
				if err := g.Match(s); err == nil {
					t.Errorf("%q: got a match, want none", s)
				}
			}
		})
	}
}
