package lang

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// filter is one of ours, over plain values, in the place of the library's, which
// takes nulls and texts for numbers, or knows other arguments than Jinja2.
type filter struct {
	min, max int // arguments
	names    []string
	f        func(in any, g *given) (any, error)
}

// arities are those of the library's filters that are kept, and of those above
// that are no filter.
var arities = map[string]struct {
	min, max int
	names    []string
}{
	"attr":     {1, 1, []string{"name"}},
	"default":  {0, 2, []string{"default_value", "boolean"}},
	"d":        {0, 2, []string{"default_value", "boolean"}},
	"dictsort": {0, 3, []string{"case_sensitive", "by", "reverse"}},
	"e":        {}, "escape": {}, "safe": {}, "random": {}, "striptags": {},
	"groupby":   {1, 3, []string{"attribute", "default", "case_sensitive"}},
	"sort":      {0, 3, []string{"reverse", "case_sensitive", "attribute"}},
	"tojson":    {0, 1, []string{"indent"}},
	"unique":    {0, 2, []string{"case_sensitive", "attribute"}},
	"urlencode": {},
	"xmlattr":   {0, 1, []string{"autospace"}},
}

// filterArity says what is wrong with the arguments of a filter, as far as their
// number tells.
func filterArity(name string, a *arguments) string {
	least, most, names := 0, -1, []string(nil)
	if f, ok := strictFilters[name]; ok {
		least, most, names = f.min, f.max, f.names
	} else if f, ok := arities[name]; ok {
		least, most, names = f.min, f.max, f.names
	}
	if most < 0 || name == "format" {
		return ""
	}
	for _, n := range a.named {
		if !slices.Contains(names, n.name) {
			return fmt.Sprintf("the filter %s takes no argument named %s%s", name, n.name, didYouMean(n.name, names))
		}
	}
	if n := len(a.list) + len(a.named); n < least || n > most {
		return fmt.Sprintf("the filter %s %s", name, takes(least, most, n))
	}
	return ""
}

var oneArgumentTests = []string{"divisibleby", "eq", "equalto", "ne", "ge", "gt", "greaterthan", "le", "lt", "lessthan", "in", "sameas"}

func testArity(name string, a *arguments) string {
	want := 0
	if slices.Contains(oneArgumentTests, name) {
		want = 1
	}
	if n := len(a.list) + len(a.named); n != want {
		return fmt.Sprintf("the test %s %s", name, takes(want, want, n))
	}
	return ""
}

func filters() *exec.FilterSet {
	set := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	put := func(name string, f exec.FilterFunction) {
		if err := set.Replace(name, f); err != nil {
			panic(err) // the library has these filters
		}
	}
	for name, f := range map[string]exec.FilterFunction{
		"default": filterDefault, "d": filterDefault, "tojson": filterToJSON, "random": filterRandom, "format": filterFormat,
		"map": filterMap, "select": filterSelect(true, false), "reject": filterSelect(false, false),
		"selectattr": filterSelect(true, true), "rejectattr": filterSelect(false, true),
	} {
		put(name, f)
	}
	for name, f := range strictFilters {
		put(name, f.call)
	}
	for _, name := range []string{"length", "count", "first", "last", "list", "items", "reverse", "join", "sum", "min", "max",
		"batch", "slice", "indent", "truncate", "wordcount", "wordwrap", "filesizeformat"} {
		inner := strictFilters[name]
		put(name, func(e *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
			if in.IsNil() {
				return exec.AsValue(errNone)
			}
			if l, ok := in.Interface().([]any); ok && (name == "length" || name == "count") {
				return exec.AsValue(len(l)) // whatever it holds
			}
			return inner.call(e, in, va)
		})
	}
	for _, name := range []string{"e", "escape"} {
		put(name, func(e *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
			if in.Safe {
				return in
			}
			return strictFilters["forceescape"].call(e, in, va)
		})
	}
	for _, name := range []string{"attr", "dictsort", "groupby", "sort", "unique", "striptags", "urlencode", "urlize", "xmlattr"} {
		inner, _ := builtins.Filters.Get(name)
		put(name, func(e *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
			if in.IsNil() {
				return exec.AsValue(errNone)
			}
			if _, ok := in.Interface().(*exec.Dict); ok { // some of them take it to be empty
				in = exec.AsValue(unwrap(in))
			}
			if err := bounded(name, in, va); err != nil {
				return exec.AsValue(err)
			}
			switch in.Interface().(type) {
			case string, bool, int, float64:
				if name == "urlencode" { // the library leaves & and its like as they are
					return exec.AsValue(strings.ReplaceAll(strings.ReplaceAll(url.QueryEscape(in.String()), "+", "%20"), "%2F", "/"))
				}
			}
			return inner(e, in, va)
		})
	}
	return set
}

// bounded says what is too large for a filter of the library, which does not ask.
func bounded(name string, in *exec.Value, va *exec.VarArgs) error {
	switch name {
	case "attr":
		return nil
	case "dictsort", "groupby", "sort", "unique":
		if in.IsString() {
			_, err := partsOf(in.String())
			return err
		}
		return nil
	}
	s, err := show(unwrap(in))
	if err != nil {
		return err
	}
	each, n := 5, len(s) // the longest that one byte becomes: &#34;
	switch name {
	case "striptags":
		each = 1
	case "urlize":
		n = strings.Count(s, ".") + strings.Count(s, ":") + strings.Count(s, "@")
		each = 100 // of tags around a link, and what stands in them
		for _, a := range va.Args {
			each += len(a.String())
		}
		for _, a := range va.KwArgs {
			each += len(a.String())
		}
		return fits(2*len(s), n, each)
	}
	return fits(0, n, each)
}

var errNone = errors.New("there is nothing (none); give a value for it: x | default(...)")

func (f filter) call(_ *exec.Evaluator, in *exec.Value, va *exec.VarArgs) *exec.Value {
	g := &given{}
	for _, a := range va.Args {
		g.args = append(g.args, unwrap(a))
	}
	if err := bind(g, va, f.names, f.min, f.max); err != nil {
		return exec.AsValue(err)
	}
	out, err := f.f(unwrap(in), g)
	if err == nil {
		err = g.err
	}
	if err != nil {
		return exec.AsValue(err)
	}
	return exec.ToValue(out)
}

var strictFilters = func() map[string]filter {
	all := maps.Clone(valueFilters)
	maps.Copy(all, layoutFilters)
	return all
}()

var valueFilters = map[string]filter{
	"abs": {f: func(in any, _ *given) (any, error) {
		n, ok := numeral(in)
		if !ok {
			return nil, notNumber(in)
		}
		if f, _ := float(n); f < 0 {
			return signed("-", n)
		}
		return n, nil
	}},
	"int":   {0, 2, []string{"default", "base"}, toInt},
	"float": {0, 1, []string{"default"}, toFloat},
	"round": {0, 2, []string{"precision", "method"}, func(in any, g *given) (any, error) {
		n, ok := numeral(in)
		if !ok {
			return nil, notNumber(in)
		}
		f, _ := float(n)
		scale := math.Pow10(g.number(0, 0))
		method := g.text(1, "common")
		switch method {
		case "common":
			if i, ok := n.(int); ok {
				return roundWhole(i, g.number(0, 0))
			}
			return roundEven(f, g.number(0, 0)), nil
		case "ceil":
			f = math.Ceil(f*scale) / scale
		case "floor":
			f = math.Floor(f*scale) / scale
		default:
			return nil, fmt.Errorf("rounds common, ceil or floor, not %q", method)
		}
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, errLarge
		}
		return f + 0, nil // which is never -0
	}},
	"sum": {0, 2, []string{"attribute", "start"}, func(in any, g *given) (any, error) {
		var total any = 0
		if len(g.args) > 1 {
			total = g.args[1]
		}
		l, err := elements(in, g, 0)
		if err != nil {
			return nil, err
		}
		for _, v := range l {
			if _, ok := numeral(v); !ok {
				if _, isList := v.([]any); !isList {
					return nil, notNumber(v)
				}
			}
			if total, err = operate("+", total, v); err != nil {
				return nil, err
			}
		}
		return total, nil
	}},
	"min":    {0, 2, []string{"case_sensitive", "attribute"}, func(in any, g *given) (any, error) { return extreme(in, g, -1) }},
	"max":    {0, 2, []string{"case_sensitive", "attribute"}, func(in any, g *given) (any, error) { return extreme(in, g, 1) }},
	"length": {f: length},
	"count":  {f: length},
	"first":  {f: func(in any, g *given) (any, error) { return endOf(in, func(l []any) any { return l[0] }) }},
	"last":   {f: func(in any, g *given) (any, error) { return endOf(in, func(l []any) any { return l[len(l)-1] }) }},
	"list": {f: func(in any, _ *given) (any, error) {
		l, err := partsOf(in)
		if err == nil && l == nil && in != nil {
			err = fmt.Errorf("%s is no list", operand(in))
		}
		return append([]any{}, l...), err
	}},
	"items": {f: func(in any, g *given) (any, error) {
		m, ok := in.(map[string]any)
		if !ok && in != nil {
			return nil, fmt.Errorf("want an object, got %s", operand(in))
		}
		return callDict(m, "items", g, exec.NewVarArgs(), nil)
	}},
	"reverse": {f: func(in any, _ *given) (any, error) {
		if s, ok := in.(string); ok {
			r := []rune(s)
			slices.Reverse(r)
			return string(r), nil
		}
		l := slices.Clone(anyList(in))
		slices.Reverse(l)
		return append([]any{}, l...), nil
	}},
	"join": {0, 2, []string{"d", "attribute"}, func(in any, g *given) (any, error) {
		sep := ""
		if len(g.args) > 0 && g.args[0] != nil {
			var err error
			if sep, err = show(g.args[0]); err != nil {
				return nil, err
			}
		}
		l, err := elements(in, g, 1)
		if err != nil {
			return nil, err
		}
		var b strings.Builder
		for i, v := range l {
			s, err := show(v)
			if err != nil {
				return nil, err
			}
			if i > 0 {
				b.WriteString(sep)
			}
			if b.Len()+len(s) > maxText {
				return nil, errTooLong
			}
			b.WriteString(s)
		}
		return b.String(), nil
	}},
	"string":     ofText(0, 0, nil, func(s string, _ *given) any { return s }),
	"lower":      ofText(0, 0, nil, func(s string, _ *given) any { return strings.ToLower(s) }),
	"upper":      ofText(0, 0, nil, func(s string, _ *given) any { return upper(s) }),
	"capitalize": ofText(0, 0, nil, func(s string, _ *given) any { return capitalize(s) }),
	"trim":       ofText(0, 1, []string{"chars"}, func(s string, g *given) any { return stripLeft(stripRight(s, g), g) }),
	"replace":    ofText(2, 3, []string{"old", "new", "count"}, textMethods["replace"].f),
}

// ofText is a filter that takes anything that can be printed.
func ofText(least, most int, names []string, f func(s string, g *given) any) filter {
	return filter{least, most, names, func(in any, g *given) (any, error) {
		s, err := show(in)
		if err != nil {
			return nil, err
		}
		return f(s, g), g.err
	}}
}

func notNumber(v any) error { return fmt.Errorf("want a number, got %s", operand(v)) }

func length(in any, _ *given) (any, error) {
	switch v := in.(type) {
	case nil:
		return 0, nil
	case string:
		return utf8.RuneCountInString(v), nil
	case map[string]any:
		return len(v), nil
	}
	if l := anyList(in); l != nil {
		return len(l), nil
	}
	return nil, fmt.Errorf("%s has no length", operand(in))
}

func endOf(in any, pick func([]any) any) (any, error) {
	if s, ok := in.(string); ok && len(s) > 2*utf8.UTFMax { // its ends will do
		in = head(s, 1) + s[lastRune(s):]
	}
	l := anyList(in)
	if len(l) == 0 {
		return absent{}, nil
	}
	return rowValue(bareOf(pick(l))), nil
}

func lastRune(s string) int {
	_, n := utf8.DecodeLastRuneInString(s)
	return len(s) - n
}
