package grammar

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

const jsonText = `root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
`

// read reads a grammar that is one.
func read(t testing.TB, text string) *Grammar {
	t.Helper()
	g, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return g
}

// drawn draws from a seed.
func drawn(seed uint64) func(int) int { return rand.New(rand.NewPCG(seed, 1)).IntN }

func TestMismatch(t *testing.T) {
	const sums = "root ::= sum \"\\n\" root | sum\nsum ::= number | sum [-+] number\nnumber ::= [0-9]+ | \"(\" sum \")\""
	for _, tt := range []struct{ name, grammar, text, want string }{
		{"the first character", `root ::= "a"`, "b", `line 1, character 1: got "b", want "a"`},
		{"no text", `root ::= "yes" | "no"`, "", `line 1, character 1: the text ends, want "yes" or "no"`},
		{"inside a text", `root ::= "Yes, " [a-z]+`, "Yes: x", `line 1, character 4: got ":", want ", "`},
		{"too long", `root ::= "a"`, "ab", `line 1, character 2: got "b", want the end`},
		{"too short", `root ::= "a" [0-9]`, "a", `line 1, character 2: the text ends, want [0-9]`},
		{"another line", sums, "1+2\n(3-4\n5", `line 2, character 5: got "\n", want [0-9], [-+] or ")"`},
		{"characters, not bytes", `root ::= "é" "é"`, "éa", `line 1, character 2: got "a", want "é"`},
		{"behind an empty rule", "root ::= a b \"c\"\na ::= \"a\"?\nb ::= \"b\"*", "x", `got "x", want "a", "c" or "b"`},
		{"in a row of calls", "root ::= \"a\" root | \"b\"", "aac", `character 3: got "c", want "a" or "b"`},
		{"many", `root ::= "a" | "b" | "c" | "d" | "e" | "f" | "g"`, "x", `want "a", "b", "c", "d", "e", "f" or others`},
		{"the end is one", `root ::= [a-z]*`, "ab1", `character 3: got "1", want the end or [a-z]`},
		{"JSON", jsonText, `{"a": [1, tru]}`, `character 14: got "]", want "e"`},
		{"not UTF-8", `root ::= "a"`, "\xff", `got "\xff", want "a"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := read(t, tt.grammar).Match(tt.text)
			var no *MismatchError
			if !errors.As(err, &no) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q: got %v, want %s", tt.text, err, tt.want)
			}
		})
	}
}

// ends are the places, as bits, where a part that begins at a place of s may
// end, by what is known of the rules so far: a second way to match, slow and
// plain.
func ends(n node, s []rune, at int, rules map[[2]int]uint64) (out uint64) {
	through := func(n node, from uint64) (to uint64) {
		for at := range len(s) + 1 {
			if from>>at&1 != 0 {
				to |= ends(n, s, at, rules)
			}
		}
		return to
	}
	switch n := n.(type) {
	case literal:
		if strings.HasPrefix(string(s[at:]), string(n)) {
			out = 1 << (at + len(n))
		}
	case *class:
		if at < len(s) && n.has(s[at]) {
			out = 1 << (at + 1)
		}
	case reference:
		out = rules[[2]int{n.rule, at}]
	case sequence:
		out = 1 << at
		for _, x := range n {
			out = through(x, out)
		}
	case choice:
		for _, x := range n {
			out |= ends(x, s, at, rules)
		}
	case repeat:
		now := uint64(1) << at
		for i := 0; i <= n.most || n.most < 0 && i <= n.least+len(s)+1; i++ {
			if i >= n.least {
				out |= now
			}
			now = through(n.of, now)
		}
	}
	return out
}

func matches(p *parser, text string) bool {
	s := []rune(text)
	known := map[[2]int]uint64{}
	for changed := true; changed; {
		changed = false
		for i, r := range p.rules {
			for at := range len(s) + 1 {
				key := [2]int{i, at}
				if now := ends(r.body, s, at, known); now != known[key] {
					known[key], changed = now, true
				}
			}
		}
	}
	return known[[2]int{p.index["root"], 0}]>>len(s)&1 != 0
}

// wild writes a small grammar of any kind over a and b.
func wild(r *rand.Rand) string {
	names := []string{"root", "s", "t", "u"}[:1+r.IntN(4)]
	var part func(depth int) string
	part = func(depth int) string {
		switch n := r.IntN(12); {
		case n < 3:
			return []string{`"a"`, `"b"`, `"ab"`, `[ab]`, `[^a]`}[r.IntN(5)]
		case n < 6:
			return names[r.IntN(len(names))]
		case n < 7 || depth == 0:
			return `""`
		case n < 9:
			return "(" + part(depth-1) + " " + part(depth-1) + ")"
		case n < 10:
			return "(" + part(depth-1) + " | " + part(depth-1) + ")"
		}
		return part(depth-1) + []string{"*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}"}[r.IntN(7)]
	}
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "%s ::= %s", n, part(3))
		for range r.IntN(3) {
			fmt.Fprintf(&b, " | %s %s", part(2), part(1))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Whatever the grammar, Match agrees with a plain reading of it, a mismatch is
// no earlier than any text of the grammar goes, and what Write writes matches.
func TestMatchAgrees(t *testing.T) {
	var texts []string
	for n := range 6 {
		for bits := range 1 << n {
			s := ""
			for i := range n {
				s += string("ab"[bits>>i&1])
			}
			texts = append(texts, s)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	count := 200
	if testing.Short() {
		count = 50
	}
	some := 0
	for range count {
		text := wild(r)
		p, err := parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		g, err := Parse(text)
		var yes []string
		for _, s := range texts {
			if matches(p, s) {
				yes = append(yes, s)
			}
		}
		if err != nil {
			if len(yes) > 0 || !strings.Contains(err.Error(), "never ends") {
				t.Errorf("%s: got %v, and %q are texts of it", text, err, yes)
			}
			continue
		}
		some += len(yes)
		is := map[string]bool{}
		for _, s := range yes {
			is[s] = true
		}
		for _, s := range texts {
			err := g.Match(s)
			if (err == nil) != is[s] {
				t.Fatalf("%s%q: got %v, want a match: %v", text, s, err, is[s])
			}
			no := (*MismatchError)(nil)
			if !errors.As(err, &no) {
				continue
			}
			for _, y := range yes {
				n := 0
				for n < len(y) && n < len(s) && y[n] == s[n] {
					n++
				}
				if n > no.Char-1 {
					t.Fatalf("%s%q: got %v, and %q goes further", text, s, err, y)
				}
			}
		}
		for seed := range uint64(5) {
			if s := g.Write(drawn(seed)); g.Match(s) != nil {
				t.Fatalf("%swrote %q: %v", text, s, g.Match(s))
			}
		}
	}
	if some < 10*count {
		t.Errorf("only %d texts matched: the grammars are too narrow", some)
	}
}

// Texts of 100 KB take time that grows with their length alone, for recursion on
// either side, nesting, and repetition; a text with too many readings is given up.
func TestLongTexts(t *testing.T) {
	const n = 100_000
	long := func(s string) string { return strings.Repeat(s, n/len(s)) }
	limit := (*LimitError)(nil)
	for _, tt := range []struct {
		name, grammar, text string
		limit               bool
	}{
		{"right recursion", "root ::= [a-z] root | \"\"", long("a"), false},
		{"right recursion through rules", "root ::= x\nx ::= [a-z] y | \".\"\ny ::= z\nz ::= x", long("a") + ".", false},
		{"left recursion", "root ::= root [a-z] | \"\"", long("a"), false},
		{"both", "root ::= list\nlist ::= item | list \",\" item\nitem ::= [a-z] item | [a-z]", long("abcdefg,") + "a", false},
		{"repetition", "root ::= ([a-z]+ \" \"?)* ", long("abcdefg "), false},
		{"repetition of nothing", "root ::= ((\"a\"*)*)* x*\nx ::= x x | \"\"", long("a"), false},
		{"counted", "root ::= ([a-z]{1,8} \" \"){0,13000}", long("abcdefg "), false},
		{"nested", "root ::= \"(\" root \")\" | \"\"", strings.Repeat("(", n/2) + strings.Repeat(")", n/2), false},
		{"nested in rules", "root ::= a\na ::= \"(\" b \")\" | \"\"\nb ::= a", strings.Repeat("(", n/2) + strings.Repeat(")", n/2), false},
		{"JSON", jsonText, `{"a": [` + long(`{"b": [1, -2.5e3, "x\u00e9y"]}, `) + "0]}", false},
		{"many words", "root ::= word (\" \" word)*\nword ::= " + words(3000), long("word2999 "), false},
		{"sums", "root ::= root \"+\" root | [0-9]", long("1+") + "1", true},
		{"any of all", "root ::= root root | \"a\" | \"\"", long("a"), true},
		{"blanks at the end of each", "root ::= \"a\" root ws | \"a\"\nws ::= [ ]*", long("a"), true},
		{"few blanks at the end of each", "root ::= \"a\" root ws | \"a\"\nws ::= [ ]*", long("a")[:2000], false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.text
			if tt.name == "many words" {
				text = strings.TrimSpace(text)
			}
			g := read(t, tt.grammar)
			if tt.limit && tt.name != "sums" {
				g.most /= 16
			}
			start := time.Now()
			err := g.Match(text)
			if tt.limit && !errors.As(err, &limit) || !tt.limit && err != nil {
				t.Errorf("got %v, want %v", err, tt.limit)
			}
			t.Log(time.Since(start))
			if s := text[:len(text)/2] + "\x00"; !tt.limit && g.Match(s) == nil {
				t.Errorf("%.20s... matches", s)
			}
		})
	}
}

func words(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"word%d"`, i)
	}
	return strings.Join(list, " | ")
}

// A grammar is used by many at once.
func TestMatchAtOnce(t *testing.T) {
	g := read(t, jsonText)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for seed := range uint64(20) {
				s := g.Write(drawn(seed + uint64(i)*100))
				if err := g.Match(s); err != nil {
					t.Errorf("%q: %v", s, err)
				}
				if err := g.Match(s + "x"); err == nil {
					t.Errorf("%q: got a match", s+"x")
				}
			}
		})
	}
	all.Wait()
}

func FuzzGrammar(f *testing.F) {
	for _, s := range []string{jsonText, `root ::= "a"{2,5} | [^\x00-\u00ff]+ | .`, "root ::= root root | \"a\" | x.y\nx.y ::= ()*", "start: /a/"} {
		f.Add(s, `{"a": [1]}`)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		f.Add(wild(r), "abab")
	}
	f.Fuzz(func(t *testing.T, grammar, text string) {
		if len(grammar) > 2000 || len(text) > 2000 {
			return
		}
		g, err := Parse(grammar)
		if err != nil {
			if bad := (*Error)(nil); !errors.As(err, &bad) || bad.Line < 1 || bad.Char < 1 {
				t.Errorf("got %v", err)
			}
			return
		}
		if err := g.Match(text); err != nil && err.Error() == "" {
			t.Errorf("%q: got an error that says nothing", text)
		}
		if g.Least() > 10_000 {
			return
		}
		for seed := range uint64(3) {
			s := g.Write(drawn(seed))
			if err := g.Match(s); err != nil {
				if limit := (*LimitError)(nil); !errors.As(err, &limit) {
					t.Errorf("wrote %q: %v", s, err)
				}
			}
		}
	})
}

func BenchmarkMatchJSON(b *testing.B) {
	g := read(b, jsonText)
	text := `{"a": [` + strings.Repeat(`{"b": [1, -2.5e3, "x\u00e9y"]}, `, 64) + "0]}"
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if err := g.Match(text); err != nil {
			b.Fatal(err)
		}
	}
}
