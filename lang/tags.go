package lang

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

var tagNames = []string{"if", "elif", "else", "endif", "for", "endfor", "break", "continue", "set", "endset", "with", "endwith",
	"macro", "endmacro", "call", "endcall", "filter", "endfilter", "do", "raw", "endraw"}

func filterNames() []string {
	m := map[string]any{}
	for n := range strictFilters {
		m[n] = nil
	}
	for n := range arities {
		m[n] = nil
	}
	for _, n := range []string{"format", "map", "select", "reject", "selectattr", "rejectattr", "urlize"} {
		m[n] = nil
	}
	return sortedKeys(m)
}

func testNames() []string {
	var names []string
	for _, n := range []string{"boolean", "callable", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "gt", "greaterthan",
		"in", "integer", "iterable", "le", "lower", "lt", "lessthan", "mapping", "ne", "none", "number", "odd", "sameas", "sequence", "string",
		"true", "undefined", "upper"} {
		if builtins.Tests.Exists(n) {
			names = append(names, n)
		}
	}
	return names
}

var lexing = strings.NewReplacer("Unexpected delimiter", "unexpected", "Unbalanced delimiters, expected", "the brackets do not match: want",
	"got EOF", "the template ends here", "Unable to find raw closing controlStructure", "{% raw %} is never closed by {% endraw %}",
	"unclosed comment", "the comment {# is never closed by #}")

var hazard = regexp.MustCompile(`\p{Nd}\.[^\x00-\x7f]`)

// hazards finds a number and a dot with a letter beyond ASCII behind them, in a
// tag and outside of texts: the library's lexer never ends there.
func (s *scan) hazards() error {
	if !hazard.MatchString(s.src) {
		return nil
	}
	var end string
	var quote byte
	for i := 0; i < len(s.src); i++ {
		c, rest := s.src[i], s.src[i:]
		switch {
		case end == "" && strings.HasPrefix(rest, "{{"):
			end = "}}"
			i++
		case end == "" && strings.HasPrefix(rest, "{%"):
			end = "%}"
			i++
		case end == "" && strings.HasPrefix(rest, "{#"):
			end = "#}"
			i++
		case end == "":
		case end == "#}":
			if strings.HasPrefix(rest, end) {
				end = ""
				i++
			}
		case quote != 0:
			if c == '\\' {
				i++
			} else if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case strings.HasPrefix(rest, end):
			end = ""
			i++
		default:
			if at := hazard.FindStringIndex(rest[:min(len(rest), 1+2*utf8.UTFMax)]); at != nil && at[0] == 0 {
				return s.errorAt(&tokens.Token{Pos: i + 2}, "unexpected character behind a number")
			}
		}
	}
	return nil
}

// trim takes off the line ends that the library's lexer leaves before a token.
func (s *scan) trim(t *tokens.Token) {
	for t.Pos < len(s.src) && strings.IndexByte(" \t\n", s.src[t.Pos]) >= 0 {
		t.Pos++
	}
	if t.Type != tokens.String {
		t.Val = strings.TrimSpace(t.Val)
	}
}

// keyword gives words the type that they have where the library's lexer does
// not see it: it wants a space behind them.
func keyword(t, before *tokens.Token) {
	if t.Type != tokens.Name || before.Type == tokens.Dot {
		return
	}
	if typ, ok := map[string]tokens.Type{"in": tokens.In, "is": tokens.Is, "and": tokens.And, "or": tokens.Or, "not": tokens.Not}[t.Val]; ok {
		t.Type = typ
	}
}

var word = regexp.MustCompile(`^[\pL_][\pL\d_]*$`)

// strange finds characters that the library's lexer drops.
func (s *scan) strange(tag []*tokens.Token, end *tokens.Token) error {
	at := tag[0].Pos + len(tag[0].Val)
	for _, t := range append(tag[1:len(tag):len(tag)], end) {
		if at >= 0 && at <= t.Pos && t.Pos <= len(s.src) {
			if gap := strings.TrimSpace(s.src[at:t.Pos]); gap != "" {
				return s.errorAt(&tokens.Token{Pos: at + strings.Index(s.src[at:], gap)}, fmt.Sprintf("unexpected %.10q", gap))
			}
		}
		if t.Type == tokens.Name && !word.MatchString(t.Val) {
			return s.errorAt(t, fmt.Sprintf("unexpected %.40q", t.Val))
		}
		at = t.Pos + len(t.Val)
		if t.Type == tokens.String {
			at = -1 // its escapes are gone
		}
	}
	return nil
}

// unclosed says which tag it is that lacks its end: the last of those that are
// open when the template ends.
func (s *scan) unclosed(want string) *Error {
	var open []*tokens.Token
	for i, t := range s.all {
		if t.Type != tokens.BlockBegin || i+1 >= len(s.all) {
			continue
		}
		name := s.all[i+1]
		switch {
		case strings.HasPrefix(name.Val, "end") && len(open) > 0:
			open = open[:len(open)-1]
		case strings.Contains(" for if with macro call filter ", " "+name.Val+" "), name.Val == "set" && !s.assigns(i):
			open = append(open, name)
		}
	}
	want = "{% " + strings.ReplaceAll(want, " or ", " %} or {% ") + " %}"
	if len(open) == 0 {
		return &Error{Line: len(s.lines), Msg: "the template ends, but " + want + " is missing"}
	}
	last := open[len(open)-1]
	e := s.errorAt(last, fmt.Sprintf("{%% %s %%} is never closed: %s is missing", last.Val, want))
	return e
}

func (s *scan) assigns(i int) bool {
	for ; i < len(s.all) && s.all[i].Type != tokens.BlockEnd; i++ {
		if s.all[i].Type == tokens.Assign {
			return true
		}
	}
	return false
}
