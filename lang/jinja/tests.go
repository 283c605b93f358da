package jinja

import (
	"fmt"
	"strings"

	"matrix/lang/internal/calc"
)

// predicate is what stands behind `is`: whether it holds of a value, with one bare
// argument where it takes one.
type predicate struct {
	takes int
	f     func(r *rendering, in, arg any) (bool, error)
}

func testNamed(name string) (predicate, bool) {
	switch name {
	case "filter":
		return is(func(v any) bool { s, _ := v.(string); _, ok := filterNamed(s); return ok }), true
	case "test":
		return is(func(v any) bool { s, _ := v.(string); _, ok := testNamed(s); return ok }), true
	}
	t, ok := tests[name]
	return t, ok
}

func testNames() []string { return append(keysOf(tests), "filter", "test") }

var tests = map[string]predicate{
	"defined":   {f: func(_ *rendering, in, _ any) (bool, error) { return in != Absent, nil }},
	"undefined": {f: func(_ *rendering, in, _ any) (bool, error) { return in == Absent, nil }},
	"none":      is(func(v any) bool { return v == nil }),
	"true":      is(func(v any) bool { return v == true }),
	"false":     is(func(v any) bool { return v == false }),
	"boolean":   isA[bool](), "integer": isA[int](), "float": isA[float64](), "string": isA[string](), "callable": isA[callable](),
	"number":   is(func(v any) bool { _, ok := calc.Number(v); return ok }),
	"mapping":  is(func(v any) bool { _, _, ok := fieldsOf(v); return ok }),
	"sequence": is(isCollection),
	"iterable": is(isCollection),
	"lower":    is(func(v any) bool { s, _ := show(v); return s == strings.ToLower(s) && s != calc.Upper(s) }),
	"upper":    is(func(v any) bool { s, _ := show(v); return s == calc.Upper(s) && s != strings.ToLower(s) }),
	"escaped":  {f: func(_ *rendering, in, _ any) (bool, error) { _, ok := in.(safe); return ok, nil }},
	"odd":      divides(0, func(n, _ int) bool { return n%2 != 0 }),
	"even":     divides(0, func(n, _ int) bool { return n%2 == 0 }), "divisibleby": divides(1, func(n, by int) bool { return n%by == 0 }),
	"sameas": {1, func(r *rendering, in, arg any) (bool, error) {
		return fmt.Sprintf("%T", bare(in)) == fmt.Sprintf("%T", arg) && r.equal(in, arg), nil
	}},
	"eq": relation("=="), "==": relation("=="), "equalto": relation("=="), "ne": relation("!="), "!=": relation("!="),
	"lt": relation("<"), "<": relation("<"), "lessthan": relation("<"), "le": relation("<="), "<=": relation("<="),
	"gt": relation(">"), ">": relation(">"), "greaterthan": relation(">"), "ge": relation(">="), ">=": relation(">="),
	"in": relation("in"),
}

func isCollection(v any) bool {
	_, _, object := fieldsOf(v)
	_, isText := v.(string)
	return object || isText || isList(v)
}

// is is a test of a bare value.
func is(f func(v any) bool) predicate {
	return predicate{f: func(_ *rendering, in, _ any) (bool, error) { return f(bare(in)), nil }}
}

func isA[T any]() predicate { return is(func(v any) bool { _, ok := v.(T); return ok }) }

// relation is a comparison as a test.
func relation(op string) predicate {
	return predicate{1, func(r *rendering, in, arg any) (bool, error) { return r.related(op, bare(in), arg) }}
}

// divides is a test of a whole number.
func divides(takes int, f func(n, by int) bool) predicate {
	return predicate{takes, func(_ *rendering, in, arg any) (bool, error) {
		n, ok := bare(in).(int)
		if !ok {
			return false, fmt.Errorf("want a whole number, got %s", calc.Operand(bare(in)))
		}
		by, ok := arg.(int)
		if takes > 0 && (!ok || by == 0) {
			return false, fmt.Errorf("want a whole number other than 0, got %s", calc.Operand(arg))
		}
		return f(n, by), nil
	}}
}

// test parses a test from behind `is` on.
func (p *parser) test(in eval) eval {
	negate := p.takeWord("not")
	t := p.wantName("the name of a test")
	f, ok := testNamed(t.val)
	if !ok && p.err == nil {
		p.fail(t.at, "%s", unknown("test", t.val, testNames()))
	}
	var args arguments
	switch next := p.now(); {
	case p.take("("):
		args = p.arguments()
	case next.kind == text, next.kind == integer, next.kind == decimal, next.is("[", "{"),
		next.kind == name && !next.word("if", "else", "recursive", "and", "or", "not", "in", "is"):
		args.list = []argument{{eval: p.operand()}}
	}
	if n := len(args.list) + len(args.named); n != f.takes && !args.open && p.err == nil {
		p.fail(t.at, "the test %s %s", t.val, takes(f.takes, f.takes, n))
	}
	lenient := t.word("defined", "undefined")
	return func(r *rendering) (any, error) {
		v, a, err := r.operands(in, &args, lenient)
		if err != nil {
			return nil, err
		}
		var arg any
		if len(a.List) > 0 {
			arg = bare(a.List[0])
		} else if len(a.Named) > 0 {
			arg = bare(a.Named[0].Value)
		}
		if err := r.spend(cost(arg)); err != nil {
			return nil, placed(t.at, err)
		}
		holds, err := f.f(r, v, arg)
		if err != nil && !isFatal(err) {
			err = fmt.Errorf("invalid call to test '%s': %s", t.val, err.Error())
		}
		if err != nil {
			return nil, placed(t.at, err)
		}
		return holds != negate, nil
	}
}
