package lang

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/tokens"
)

// scan is what the tokens of a template tell: the library's tree hides what
// stands inside tags.
type scan struct {
	src    string
	lines  []int // offset of each line
	params Params
	known  map[string]bool // names that the template may use
	sets   map[string]bool // those that its tags and methods may set
	given  map[string]bool // those that are given beyond the environment
	fields map[string]bool // of the item, surely read
	tested map[string]bool // with `"x" in item`
	roles  map[string]bool
	looks  []Look
	varies bool // what it renders hangs on the task
	lang   *language
	all    []*tokens.Token       // the whole template
	ends   map[*tokens.Token]int // where the tag that begins with a token ends
	tag    []*tokens.Token
	depth  int  // tags around that may not run
	maybe  bool // inside this tag: what follows may not be evaluated
}

var constants = []string{"true", "True", "false", "False", "none", "None", "nil"}

// refused are the tags of Jinja2 that templates do without.
var refused = map[string]string{
	"include": "a template cannot read other files", "import": "a template cannot read other files",
	"from": "a template cannot read other files", "extends": "a template cannot read other files",
	"block": "blocks need a parent template, and a template cannot read other files",
	"trans": "it is not supported", "autoescape": "prompts are no HTML, nothing is escaped",
}

func scanTemplate(src string, p Params, extra []string, l *language) (*scan, error) {
	s := &scan{src: src, params: p, lang: l, known: map[string]bool{}, sets: map[string]bool{}, given: map[string]bool{},
		fields: map[string]bool{}, tested: map[string]bool{}, roles: map[string]bool{}, ends: map[*tokens.Token]int{}}
	for i, line := 0, 0; ; i++ {
		s.lines = append(s.lines, line)
		next := strings.IndexByte(src[line:], '\n')
		if next < 0 {
			break
		}
		line += next + 1
	}
	for _, n := range extra {
		s.given[n] = true
	}
	for _, names := range [][]string{environment, roleFunctions, extra, constants, {"range", "dict", "namespace", "joiner", "cycler"}} {
		for _, n := range names {
			s.known[n] = true
		}
	}
	for _, table := range []map[string]function{textFunctions(), valueFunctions()} {
		for n := range table {
			s.known[n] = true
		}
	}
	if err := s.hazards(); err != nil {
		return nil, err
	}
	tags, err := s.split()
	if err != nil {
		return nil, err
	}
	for _, t := range tags {
		s.define(t)
	}
	for _, t := range tags {
		if err := s.check(t); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// split lexes the source into its tags, opening tokens included.
func (s *scan) split() ([][]*tokens.Token, error) {
	stream := tokens.LexAll(s.src, s.lang.config)
	var tags [][]*tokens.Token
	var open []*tokens.Token
	for ; !stream.End(); stream.Next() {
		t := stream.Current()
		s.all = append(s.all, t)
		switch t.Type {
		case tokens.VariableBegin, tokens.BlockBegin:
			open = []*tokens.Token{t}
		case tokens.VariableEnd, tokens.BlockEnd:
			if open == nil {
				continue
			}
			if t.Pos-open[0].Pos > maxTag {
				return nil, s.errorAt(open[0], fmt.Sprintf("the tag is longer than %d KiB", maxTag>>10))
			}
			if err := s.strange(open, t); err != nil {
				return nil, err
			}
			tags = append(tags, open)
			s.ends[open[0]] = t.Pos
			if open = nil; len(tags) > maxTags {
				return nil, s.errorAt(t, fmt.Sprintf("the template has more than %d tags", maxTags))
			}
		default:
			if open != nil {
				s.trim(t)
				keyword(t, open[len(open)-1])
				open = append(open, t)
			}
		}
	}
	if t := stream.Current(); t != nil && t.Type == tokens.Error {
		if open != nil && strings.Count(s.src[open[0].Pos:min(t.Pos, len(s.src))], "\"")+strings.Count(s.src[open[0].Pos:min(t.Pos, len(s.src))], "'") > 0 && t.Pos >= len(s.src) {
			return nil, s.errorAt(open[0], "a text in this tag has no closing quote")
		}
		if t.Val == "" {
			t.Val = "not understood from here on"
		}
		return nil, s.errorAt(t, lexing.Replace(t.Val))
	}
	if open != nil {
		return nil, s.errorAt(open[0], fmt.Sprintf("%s is never closed", open[0].Val))
	}
	return tags, nil
}

func (s *scan) errorAt(t *tokens.Token, msg string) *Error {
	line, column := s.position(t.Pos)
	return &Error{Line: line, Column: column, Msg: msg}
}

func (s *scan) position(offset int) (line, column int) {
	offset = min(max(offset, 0), len(s.src))
	line, found := slices.BinarySearch(s.lines, offset)
	if !found {
		line--
	}
	return line + 1, utf8.RuneCountInString(s.src[s.lines[line]:offset]) + 1
}

func (s *scan) fieldNames() []string {
	for f := range s.tested {
		delete(s.fields, f)
	}
	return sorted(s.fields)
}

// define notes the names that a tag gives to the template, and those that a
// method in it may change.
func (s *scan) define(t []*tokens.Token) {
	for i := 1; i+3 < len(t); i++ {
		if t[i].Type == tokens.Name && t[i+1].Type == tokens.Dot && t[i+3].Type == tokens.LeftParenthesis {
			s.sets[t[i].Val] = true
		}
	}
	if t[0].Type != tokens.BlockBegin || len(t) < 2 {
		return
	}
	names := func(from, to int) {
		for _, x := range t[from:to] {
			if x.Type == tokens.Name {
				s.known[x.Val], s.sets[x.Val] = true, true
			}
		}
	}
	params := func(i int) { // of a macro, from their bracket on
		for _, name := range []string{"caller", "varargs", "kwargs"} {
			s.known[name], s.sets[name] = true, true
		}
		for depth := 0; i+1 < len(t); i++ {
			switch t[i].Type {
			case tokens.LeftParenthesis, tokens.LeftBracket, tokens.LeftBrace:
				depth++
			case tokens.RightParenthesis, tokens.RightBracket, tokens.RightBrace:
				depth--
				continue
			case tokens.Comma, tokens.Multiply, tokens.Power:
			default:
				if depth == 0 {
					return
				}
				continue
			}
			if depth == 1 {
				names(i+1, i+2)
			}
		}
	}
	switch t[1].Val {
	case "for":
		s.known["loop"], s.sets["loop"] = true, true
		if in := slices.IndexFunc(t, func(x *tokens.Token) bool { return x.Type == tokens.In }); in > 0 {
			names(2, in)
		}
	case "set":
		for i := 2; i < len(t) && (t[i].Type == tokens.Name || t[i].Type == tokens.Comma || t[i].Type == tokens.LeftParenthesis); i++ {
			if i+1 == len(t) || t[i+1].Type != tokens.Dot && t[i+1].Type != tokens.LeftBracket {
				names(i, i+1)
			}
		}
	case "macro":
		names(2, min(3, len(t)))
		params(3)
	case "call":
		params(2)
	case "with":
		for i := 2; i+1 < len(t); i++ {
			if t[i+1].Type == tokens.Assign {
				names(i, i+1)
			}
		}
	}
}

// check goes through one tag.
func (s *scan) check(t []*tokens.Token) error {
	s.tag, s.maybe = t, false
	if t[0].Type == tokens.VariableBegin {
		s.maybe = slices.ContainsFunc(t, func(x *tokens.Token) bool { return x.Type == tokens.Name && x.Val == "if" })
		return s.expression(1)
	}
	if len(t) < 2 || t[1].Type != tokens.Name {
		return nil // the parser says so
	}
	name := t[1].Val
	if why, ok := refused[name]; ok {
		return s.errorAt(t[1], fmt.Sprintf("{%% %s %%}: %s", name, why))
	}
	if !slices.Contains(tagNames, name) {
		return s.errorAt(t[1], "unknown tag "+name+didYouMean(name, tagNames))
	}
	from := 2
	switch name {
	case "if":
		defer func() { s.depth++ }()
	case "for", "macro", "call":
		defer func() { s.depth++ }()
	case "endif", "endfor", "endmacro", "endcall":
		s.depth--
	case "filter":
		from = 3
		if len(t) > 2 && !s.lang.filters.Exists(t[2].Val) {
			return s.unknownFilter(t[2])
		}
	case "set":
		if len(t) > 3 && (t[3].Type == tokens.Dot || t[3].Type == tokens.LeftBracket) && !s.sets[t[2].Val] {
			return s.errorAt(t[2], fmt.Sprintf("cannot set a field of %s: only a namespace can change, {%% set ns = namespace(x=1) %%}", t[2].Val))
		}
	}
	return s.expression(from)
}

func (s *scan) at(i int) *tokens.Token {
	if i < 0 || i >= len(s.tag) {
		return &tokens.Token{Type: tokens.EOF}
	}
	return s.tag[i]
}

// expression goes through the tokens of a tag from one on.
func (s *scan) expression(from int) error {
	parens := 0
	for i := from; i < len(s.tag); i++ {
		t := s.tag[i]
		switch t.Type {
		case tokens.LeftParenthesis, tokens.LeftBracket, tokens.LeftBrace:
			if parens++; parens > maxNesting {
				return s.errorAt(t, fmt.Sprintf("brackets are nested more than %d deep", maxNesting))
			}
		case tokens.RightParenthesis, tokens.RightBracket, tokens.RightBrace:
			parens--
		case tokens.And, tokens.Or:
			s.maybe = true
		case tokens.Name:
			if err := s.name(i, parens); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scan) name(i, parens int) error {
	t, before, after := s.at(i), s.at(i-1), s.at(i+1)
	switch {
	case before.Type == tokens.Dot:
		return nil
	case before.Type == tokens.Pipe:
		if !s.lang.filters.Exists(t.Val) {
			return s.unknownFilter(t)
		}
		return s.named(i)
	case before.Type == tokens.Is, before.Type == tokens.Not && s.at(i-2).Type == tokens.Is:
		if !s.lang.tests.Exists(t.Val) {
			return s.unknownTest(t)
		}
		return nil
	case after.Type == tokens.Assign && parens > 0:
		return nil // a named argument
	case t.Val == "if" || t.Val == "else" || t.Val == "recursive":
		s.maybe = s.maybe || t.Val != "recursive"
		return nil
	}
	if !s.known[t.Val] {
		names := make([]string, 0, len(s.known))
		for n := range s.known {
			names = append(names, n)
		}
		slices.Sort(names)
		msg := unknownName(t.Val, names)
		if after.Type == tokens.LeftParenthesis {
			filter := map[string]string{"len": "length", "size": "length", "str": "string", "sorted": "sort", "reversed": "reverse"}[t.Val]
			if filter == "" && s.lang.filters.Exists(t.Val) {
				filter = t.Val
			}
			if filter != "" {
				msg = fmt.Sprintf("unknown function %s, did you mean x | %s?", t.Val, filter)
			}
		}
		e := s.errorAt(t, msg)
		e.Name = t.Val
		return e
	}
	if isRoleFunction(t.Val) && after.Type == tokens.LeftParenthesis && s.at(i+2).Type == tokens.String {
		s.roles[s.at(i+2).Val] = true
	}
	if slices.Contains(environment, t.Val) && t.Val != "params" || isRoleFunction(t.Val) || s.given[t.Val] {
		s.varies = true
	}
	if !s.sets[t.Val] {
		s.look(i)
	}
	if t.Val == "item" && s.at(i-1).Type == tokens.In && s.at(i-2).Type == tokens.String && after.Type != tokens.Dot {
		s.tested[s.at(i-2).Val] = true
	}
	return s.access(i)
}

// access looks at the first field taken of the name at i.
func (s *scan) access(i int) error {
	var field *tokens.Token
	var end int
	switch {
	case s.at(i+1).Type == tokens.Dot && s.at(i+2).Type == tokens.Name:
		field, end = s.at(i+2), i+3
	case s.at(i+1).Type == tokens.LeftBracket && s.at(i+2).Type == tokens.String && s.at(i+3).Type == tokens.RightBracket:
		field, end = s.at(i+2), i+4
	default:
		return nil
	}
	if s.at(end).Type == tokens.LeftParenthesis {
		return nil // a method
	}
	guarded := s.guarded(end)
	switch s.at(i).Val {
	case "item":
		if !guarded && !s.maybe && s.depth == 0 {
			s.fields[field.Val] = true
		}
	case "params":
		if _, ok := s.params[field.Val]; !ok && !guarded {
			have := make([]string, 0, len(s.params))
			for k := range s.params {
				have = append(have, k)
			}
			slices.Sort(have)
			return s.errorAt(field, "params has no "+field.Val+didYouMean(field.Val, have))
		}
	case "turns":
		return s.errorAt(field, turnsField(field.Val))
	case "last":
		if !slices.Contains(turnFields, field.Val) && !guarded {
			return s.errorAt(field, noTurnField(field.Val))
		}
	}
	return nil
}

// guarded reports whether the access that ends before i copes with what is
// missing.
func (s *scan) guarded(i int) bool {
	for {
		switch {
		case s.at(i).Type == tokens.Dot && s.at(i+1).Type == tokens.Name:
			i += 2
			continue
		case s.at(i).Type == tokens.LeftBracket && s.at(i+2).Type == tokens.RightBracket:
			i += 3
			continue
		}
		break
	}
	if s.at(i).Type == tokens.Pipe {
		return s.at(i+1).Val == "default" || s.at(i+1).Val == "d"
	}
	if s.at(i).Type != tokens.Is {
		return false
	}
	if s.at(i+1).Type == tokens.Not {
		i++
	}
	return s.at(i+1).Val == "defined" || s.at(i+1).Val == "undefined"
}

// named checks the filter or the test that a filter, the token at i, is given by
// name: map('upper'), selectattr('x', 'defined').
func (s *scan) named(i int) error {
	at := i + 2
	switch s.at(i).Val {
	case "map", "select", "reject":
	case "selectattr", "rejectattr":
		if s.at(at).Type != tokens.String || s.at(at+1).Type != tokens.Comma {
			return nil
		}
		at += 2
	default:
		return nil
	}
	switch t := s.at(at); {
	case s.at(i+1).Type != tokens.LeftParenthesis || t.Type != tokens.String:
	case s.at(at+1).Type != tokens.Comma && s.at(at+1).Type != tokens.RightParenthesis: // more is made of the text
	case s.at(i).Val == "map" && !s.lang.filters.Exists(t.Val):
		return s.unknownFilter(t)
	case s.at(i).Val != "map" && !s.lang.tests.Exists(t.Val):
		return s.unknownTest(t)
	}
	return nil
}

func (s *scan) unknownTest(t *tokens.Token) error {
	return s.errorAt(t, "unknown test "+t.Val+didYouMean(t.Val, testNames()))
}

func (s *scan) unknownFilter(t *tokens.Token) error {
	return s.errorAt(t, "unknown filter "+t.Val+didYouMean(t.Val, filterNames()))
}
