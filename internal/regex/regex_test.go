package regex

import (
	"strings"
	"testing"
)

func TestCompile(t *testing.T) {
	for expr, want := range map[string]string{
		`a(?=b)`: "RE2 has no lookahead", `a(?!b)`: "RE2 has no lookahead",
		`(?<=a)b`: "RE2 has no lookbehind", `(?<!a)b`: "RE2 has no lookbehind", `(?<!a>)b`: "RE2 has no lookbehind",
		`(a)\1`: "RE2 has no backreferences", `(?P<n>a)(?P=n)`: "RE2 has no backreferences", `(?<n>a)\k<n>`: "RE2 has no backreferences",
		`(?>a)`: "no atomic groups", `a++`: "leave out the last +", `(?x) a`: "RE2 has no flag x", `(?#a)b`: "no comments", `(?(1)a|b)`: "no conditions",
		`a\Z`: `write \z`, `\h`: `write [ \t]`, `\R`: `write (?:\r\n|\n)`, `\u20AC`: `write \x{20AC}`,
		`a{1001}`: "up to 1000 times", `a{2,1}`: "the larger number stands second",
		`(?P<a-b>a)`: "https://github.com/google/re2/wiki/Syntax",
		`\X`:         "https://github.com/google/re2/wiki/Syntax", `\p{Nope}`: "https://github.com/google/re2/wiki/Syntax", `(?R)`: "https://github.com/google/re2/wiki/Syntax",
		`(a`: "missing closing ): `(a`", `[a`: "missing closing ]: `[a`", `*`: "missing argument to repetition operator: `*`",
	} {
		_, err := Compile(expr)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "error parsing") {
			t.Errorf("%s: got %v, want %q in it", expr, err, want)
		}
	}
	if re, err := Compile(`(?<n>a)+`); err != nil || !re.MatchString("aa") {
		t.Errorf("got %v, %v", re, err)
	}
}
