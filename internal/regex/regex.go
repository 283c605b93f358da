// Package regex compiles regular expressions that people wrote, and says what they
// can do about one that cannot be. It knows nothing of what they are for.
package regex

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Compile is regexp.Compile, with errors as Explain has them.
func Compile(s string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(s)
	return re, Explain(err)
}

// Explain words an error of regexp.Compile, which may be wrapped, for whoever knows
// the notation of Perl or Python: this one is RE2's, linear in time, and lacks some
// of theirs. Any other error it returns as it is.
func Explain(err error) error {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return err
	}
	if advice := hint(e); advice != "" {
		return fmt.Errorf("%s: `%s`; %s", e.Code, e.Expr, advice)
	}
	return fmt.Errorf("%s: `%s`", e.Code, e.Expr)
}

// habits are what RE2 has not, by how it begins, and what to write.
var habits = []struct{ begins, write string }{
	{`(?<=`, lookbehind}, {`(?<!`, lookbehind}, {`(?=`, lookahead}, {`(?!`, lookahead},
	{`\1`, backreference}, {`\2`, backreference}, {`\3`, backreference}, {`\4`, backreference}, {`\5`, backreference},
	{`\6`, backreference}, {`\7`, backreference}, {`\8`, backreference}, {`\9`, backreference}, {`\k`, backreference}, {`\g`, backreference},
	{`(?>`, `RE2 has no atomic groups, and needs none, since it never goes back: write (?: for (?>`},
	{`(?#`, "RE2 has no comments"},
	{`(?(`, "RE2 has no conditions: write one alternative for each, as in (?:a|b)"},
	{`(?x`, "RE2 has no flag x: write the expression without blanks and comments"},
	{`\Z`, `write \z for the end of the text`},
	{`\h`, `write [ \t] for \h`},
	{`\R`, `write (?:\r\n|\n) for \R`},
	{`\u`, `write \x{20AC} for \u20AC`},
}

const (
	lookahead     = "RE2 has no lookahead: have the expression match what follows, too, and put what you want in a group; for what must not follow, make a second test"
	lookbehind    = "RE2 has no lookbehind: have the expression match what stands before, too, and put what you want in a group; for what must not stand there, make a second test"
	backreference = "RE2 has no backreferences: put each in a group of its own and compare the groups"
	elsewhere     = "the notation is RE2's: https://github.com/google/re2/wiki/Syntax"
)

func hint(e *syntax.Error) string {
	if e.Expr == "(?P" { // and =name
		return backreference
	}
	for _, h := range habits {
		if strings.HasPrefix(e.Expr, h.begins) {
			return h.write
		}
	}
	switch e.Code {
	case syntax.ErrInvalidRepeatOp:
		if strings.HasSuffix(e.Expr, "+") {
			return "RE2 has no possessive repetition, and needs none, since it never goes back: leave out the last +"
		}
	case syntax.ErrInvalidRepeatSize:
		return "RE2 repeats up to 1000 times, and the larger number stands second"
	case syntax.ErrInvalidPerlOp, syntax.ErrInvalidEscape, syntax.ErrInvalidNamedCapture, syntax.ErrInvalidCharRange:
		return elsewhere
	}
	return ""
}
