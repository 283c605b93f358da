package lang

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
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

// builder makes the tokens that the library's parser is given: each expression
// is compiled here, and stands in a tag as the call of a function.
type builder struct {
	s     *scan
	out   []*tokens.Token
	calls map[string]any
}

func (s *scan) build() (*tokens.Stream, map[string]any, error) {
	b := &builder{s: s, calls: map[string]any{}}
	for i := 0; i < len(s.all); i++ {
		t := s.all[i]
		b.out = append(b.out, t)
		if t.Type != tokens.VariableBegin && t.Type != tokens.BlockBegin {
			continue
		}
		from := i
		for i++; i < len(s.all) && s.all[i].Type != tokens.VariableEnd && s.all[i].Type != tokens.BlockEnd; i++ {
		}
		p := &exprs{s: s, t: s.all[from:i], i: 1, end: s.ends[t]}
		if t.Type == tokens.VariableBegin {
			if len(p.t) == 1 {
				p.unexpected("a value")
			}
			b.output(p, p.whole(p.tuple))
		} else {
			b.tag(p)
		}
		if p.err != nil {
			return nil, nil, p.err
		}
		if i < len(s.all) {
			b.out = append(b.out, s.all[i])
		}
	}
	b.out = append(b.out, &tokens.Token{Type: tokens.EOF, Pos: len(s.src), Line: len(s.lines)})
	return tokens.NewStream(b.out), b.calls, nil
}

func (b *builder) token(like *tokens.Token, typ tokens.Type, val string) {
	b.out = append(b.out, &tokens.Token{Type: typ, Val: val, Pos: like.Pos, Line: like.Line, Col: like.Col})
}

// put stands for an expression: @n().
func (b *builder) put(p *exprs, e eval) {
	at := p.at(0)
	name := fmt.Sprintf("@%d", len(b.calls))
	b.calls[name] = func(x *exec.Evaluator, _ *exec.VarArgs) *exec.Value {
		v := e(x)
		if st := state(x.Environment); v.IsError() && st != nil && st.err == nil {
			st.err = v // some tags take an error for false
		}
		return v
	}
	b.token(at, tokens.Name, name)
	b.token(at, tokens.LeftParenthesis, "(")
	b.token(at, tokens.RightParenthesis, ")")
}

// output is an expression that is printed.
func (b *builder) output(p *exprs, e eval) {
	at := p.at(0)
	b.put(p, func(x *exec.Evaluator) *exec.Value {
		v := e(x)
		if v.IsError() || v.IsString() || v.IsNil() {
			return v
		}
		s, err := show(v.Interface())
		if isAbsent(v) {
			s, err = "", nil
		}
		if err != nil {
			return failure(at, err)
		}
		return exec.AsValue(s)
	})
}

func (b *builder) keep(p *exprs) {
	b.out = append(b.out, p.at(p.i))
	p.i++
}

// tag goes through a tag after its opening token.
func (b *builder) tag(p *exprs) {
	name := p.want(tokens.Name, "the name of a tag")
	if p.err != nil {
		return
	}
	if name.Val == "set" {
		b.set(p, name)
		return
	}
	b.out = append(b.out, name)
	switch name.Val {
	case "if", "elif", "do", "call":
		if name.Val == "call" && p.is(tokens.LeftParenthesis) {
			p.fail(p.at(p.i), "{% call(x) ... %} is not supported: the body is given no values")
		}
		b.put(p, p.whole(p.tuple))
	case "for":
		b.loop(p)
	case "with":
		for !p.is(tokens.EOF) {
			b.out = append(b.out, p.want(tokens.Name, "a name"), p.want(tokens.Assign, "="))
			b.put(p, p.expression())
			if !p.is(tokens.Comma) {
				break
			}
			b.keep(p)
		}
		p.whole(func() eval { return nil })
	case "macro":
		b.out = append(b.out, p.want(tokens.Name, "the name of the macro"), p.want(tokens.LeftParenthesis, "("))
		for p.err == nil && !p.is(tokens.RightParenthesis) {
			if p.is(tokens.Multiply, tokens.Power) {
				b.keep(p)
			}
			b.out = append(b.out, p.want(tokens.Name, "the name of an argument"))
			if p.is(tokens.Assign) {
				b.keep(p)
				b.put(p, p.expression())
			}
			if !p.is(tokens.Comma) {
				break
			}
			b.keep(p)
		}
		b.out = append(b.out, p.want(tokens.RightParenthesis, ")"))
		p.whole(func() eval { return nil })
	case "filter":
		b.filterTag(p)
	default:
		if !p.is(tokens.EOF) {
			p.unexpected("the end of the tag")
		}
	}
}

func (b *builder) loop(p *exprs) {
	brackets := p.take(tokens.LeftParenthesis)
	b.out = append(b.out, p.want(tokens.Name, "a name"))
	if p.is(tokens.Comma) {
		b.keep(p)
		b.out = append(b.out, p.want(tokens.Name, "a name"))
	}
	if p.is(tokens.Comma) {
		p.fail(p.at(p.i), "a loop has one name or two; take more apart with {% set a, b, c = x %}")
	}
	if brackets {
		p.want(tokens.RightParenthesis, ")")
	}
	at := p.want(tokens.In, "in")
	b.out = append(b.out, at)
	over := p.or()
	if p.is(tokens.Comma) {
		all := []eval{over}
		for p.take(tokens.Comma) {
			all = append(all, p.or())
		}
		over = list(all)
	}
	b.put(p, func(x *exec.Evaluator) *exec.Value { return iterable(at, over(x)) })
	if p.word("if") {
		b.keep(p)
		b.put(p, p.or())
	}
	if p.word("recursive") {
		p.fail(p.at(p.i), "recursive loops are not supported")
	}
	p.whole(func() eval { return nil })
}

// iterable is what a loop goes over: the characters of a text, not its bytes.
func iterable(at *tokens.Token, v *exec.Value) *exec.Value {
	if v.IsError() || isAbsent(v) {
		return v
	}
	if v.IsString() {
		return exec.AsValue(anyList(v.String()))
	}
	if v.IsList() || v.IsDict() {
		return v
	}
	return failure(at, fmt.Errorf("%s is nothing to loop over", operand(unwrap(v))))
}

// set passes {% set a, b = x %} on as one tag for x and one for each name.
func (b *builder) set(p *exprs, name *tokens.Token) {
	begin := b.out[len(b.out)-1]
	var targets []*tokens.Token
	i := p.i
	brackets := p.take(tokens.LeftParenthesis)
	for p.is(tokens.Name) && (p.at(p.i+1).Type == tokens.Comma || len(targets) > 0) {
		targets = append(targets, p.want(tokens.Name, "a name"))
		if !p.take(tokens.Comma) {
			break
		}
	}
	if brackets {
		p.want(tokens.RightParenthesis, ")")
	}
	if len(targets) == 0 {
		p.i = i
		b.out = append(b.out, name)
		for !p.is(tokens.Assign, tokens.EOF) {
			if p.is(tokens.Pipe) {
				p.fail(p.at(p.i), "{% set x | filter %} is not supported: use {% filter %} inside the block")
			}
			b.keep(p)
		}
		if p.is(tokens.Assign) {
			b.keep(p)
			b.put(p, p.whole(p.tuple))
		}
		return
	}
	p.want(tokens.Assign, "=")
	from := p.at(p.i)
	value := p.whole(p.tuple)
	hidden := fmt.Sprintf("@set%d", len(b.calls))
	b.token(name, tokens.Name, "set")
	b.token(name, tokens.Name, hidden)
	b.token(name, tokens.Assign, "=")
	b.put(p, func(x *exec.Evaluator) *exec.Value {
		v := value(x)
		if v.IsError() {
			return v
		}
		l := anyList(unwrap(v))
		if len(l) != len(targets) {
			return failure(from, fmt.Errorf("%d names cannot take %s of %d elements", len(targets), operand(unwrap(v)), len(l)))
		}
		return exec.AsValue(l)
	})
	for i, t := range targets {
		b.token(name, tokens.BlockEnd, "%}")
		b.token(begin, tokens.BlockBegin, "{%")
		b.token(name, tokens.Name, "set")
		b.token(t, tokens.Name, t.Val)
		b.token(t, tokens.Assign, "=")
		b.put(p, func(x *exec.Evaluator) *exec.Value {
			v, _ := x.Environment.Context.Get(hidden)
			return exec.ToValue(rowValue(bareOf(anyList(v)[i])))
		})
	}
}

func (b *builder) filterTag(p *exprs) {
	for {
		t := p.want(tokens.Name, "the name of a filter")
		if p.err == nil && !p.s.lang.env.Filters.Exists(t.Val) {
			p.fail(t, "unknown filter "+t.Val+didYouMean(t.Val, filterNames()))
		}
		b.out = append(b.out, t)
		var args arguments
		if p.is(tokens.LeftParenthesis) {
			b.keep(p)
			args = p.arguments()
			for _, e := range args.list {
				b.put(p, e)
				b.token(t, tokens.Comma, ",")
			}
			for _, n := range args.named {
				b.token(t, tokens.Name, n.name)
				b.token(t, tokens.Assign, "=")
				b.put(p, n.eval)
				b.token(t, tokens.Comma, ",")
			}
			if last := len(b.out) - 1; b.out[last].Type == tokens.Comma {
				b.out = b.out[:last]
			}
			b.token(t, tokens.RightParenthesis, ")")
		}
		if p.err == nil {
			if msg := filterArity(t.Val, &args); msg != "" {
				p.fail(t, msg)
			}
		}
		if !p.is(tokens.Pipe) {
			break
		}
		b.keep(p)
	}
	p.whole(func() eval { return nil })
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
