package lang

import (
	"errors"
	"fmt"
	"reflect"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/expr-lang/expr/checker"
	"github.com/expr-lang/expr/compiler"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/optimizer"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"matrix"
	"matrix/internal/regex"
	"matrix/lang/internal/calc"
)

const (
	maxExpr     = 64 << 10 // bytes of source
	regexpWork  = 8        // times that of a text, to search it by a regular expression
	patternWork = 1000     // times that of a text, to make a regular expression of it
)

// Expr is a compiled expression over a task. Its language is that of
// github.com/expr-lang/expr over these names:
//
//	item     the row. item.x is an error where the row has no field x, and so
//	         is item.x.y; item?.x is then nil, and item.x ?? 0 is then 0
//	turns    all turns, oldest first, each with role, text, data, error,
//	         samples (each with text, data, reasoning, tool_calls, logprobs),
//	         reasoning, tool_calls (each with id, name, arguments), tool_results
//	         (each with id, name, content, is_error), logprobs, and call, as in the
//	         output
//	last     the newest turn; an empty one before the first
//	params   the knobs of the config
//	id, row  of the task; trial and seed, its numbers
//	parent   of a task that is another's child: that one's id, index (which child this
//	         is, from 0) and count (how many there are); nil of others
//	children of a task that has waited for its own: each with id, index, status
//	         ("done", "dropped", "expanded" or "failed"), value and cause
//
// and these functions, beyond those of the language:
//
//	rounds(role)    turns that role has taken
//	turn(role)      the newest turn of role, or an empty one
//	first(role)     the oldest turn of role, or an empty one
//	turns_of(role)  all turns of role
//	lease(pool)     what the task's state in a pool says of itself, and the values that it
//	                shares with others; not in flows and over finished tasks
//	find(text, regex)        first group of the first match, or the match, or nil
//	findall(text, regex)     the same of every match; lists where there are more groups
//	sub(text, regex, by)     every match replaced; $1 is the first group, $$ a dollar
//	replace(text, old, new)  every old replaced
//	lower, upper, trim (text), split(text, separator), join(list, separator)
//	words(text)              the words, by white space
//	json(text)               the value that the text is; extract_json(text) the
//	                         JSON inside a reply, or nil where there is none,
//	                         or several that differ
//	to_json(v)               the text of a value
//	similarity(a, b)         0 to 1: Dice coefficient of the pairs of letters,
//	                         case and spacing apart
//	hash(v)                  16 hexadecimal digits; bucket(v, n) 0 to n-1
//	chunk(text, size, overlap, by)  pieces of at most size tokens, each with text,
//	                         start and end; lang(text) the language of a text
//	pick(list, weights), draw(list, n), gauss(mean, sd), date_between(from, to)  chosen at random,
//	                         the same each time for the same task and turn
//
// What an agent produced is never an error to look at: data without a field,
// an index beyond a list and a field of nil are nil. A condition that is nil is
// false; nil compared with <, <=, > or >= is false; nil as text is empty. Texts
// are indexed and sliced by characters. A number that is whole is an int in a
// result, as JSON has it.
//
// Arithmetic is that of templates: whole numbers have 64 bits and stay whole, but
// for /; what does not fit is an error.
//
// No expression does I/O, reads a clock, or runs for ever: its work, text and
// lists are bounded.
type Expr struct {
	src      string
	program  *vm.Program
	uses     uses
	fields   []string
	roles    []string
	leases   []string
	names    []string
	refs     []TurnRef
	compared map[string][]Text // by local
	fixed    bool
}

// uses says which parts of the environment an expression looks at.
type uses struct{ item, turns, last, tree bool }

// CompileExpr compiles src. Locals are further names, whose values EvalLocals
// brings. The error is an *Error.
func CompileExpr(src string, p Params, locals ...string) (e *Expr, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, &Error{Msg: fmt.Sprintf("cannot compile: %v", r)}
		}
	}()
	if strings.TrimSpace(src) == "" {
		return nil, &Error{Msg: "the expression is empty"}
	}
	if len(src) > maxExpr {
		return nil, &Error{Msg: fmt.Sprintf("the expression is longer than %d KiB", maxExpr>>10)}
	}
	if !utf8.ValidString(src) {
		return nil, &Error{Msg: "the expression is not valid UTF-8"}
	}
	cfg := exprConfig()
	tree, err := parser.ParseWithConfig(src, cfg)
	if err != nil {
		return nil, addHint(src, located(err))
	}
	n := &namer{src: tree.Source, params: p, locals: locals, functions: cfg.Functions, builtins: cfg.Builtins}
	n.node(&tree.Node, nil)
	if n.err != nil {
		return nil, n.err
	}
	if _, err := checker.Check(tree, cfg); err != nil {
		return nil, located(err)
	}
	l := &refFinder{src: tree.Source, locals: locals, fixed: len(n.used) == 0}
	l.node(tree.Node, refContext{})
	w := &rewriter{src: tree.Source}
	w.node(&tree.Node, place{})
	if w.err != nil {
		return nil, w.err
	}
	if _, err := checker.Check(tree, cfg); err != nil {
		return nil, located(err)
	}
	if err := optimizer.Optimize(&tree.Node, cfg); err != nil {
		return nil, located(err)
	}
	program, err := compiler.Compile(tree, cfg)
	if err != nil {
		return nil, located(err)
	}
	return &Expr{
		src: src, program: program, uses: n.uses,
		fields: w.fieldNames(n.tested), roles: sorted(w.roles), leases: sorted(w.leases), names: sorted(n.used),
		refs: l.refs, compared: l.compared, fixed: l.fixed,
	}, nil
}

func exprConfig() *conf.Config {
	c := conf.CreateNew()
	c.WithEnv(&env{})
	for _, name := range []string{"now", "timezone", "first", "last", "find", "toJSON", "fromJSON"} {
		delete(c.Builtins, name)
		c.Disabled[name] = true
	}
	addFunctions(c)
	return c
}

// String returns the source.
func (e *Expr) String() string { return e.src }

// Fields names the fields of the item without which the expression surely
// fails, sorted. Fields behind ?. or ??, tested with `in`, or looked at only
// under a condition are not among them.
func (e *Expr) Fields() []string { return e.fields }

// Roles names the roles that are given literally to rounds, turn, first and
// turns_of, sorted.
func (e *Expr) Roles() []string { return e.roles }

// Leases names the pools that are given literally to lease, sorted.
func (e *Expr) Leases() []string { return e.leases }

// Locals names the locals that the expression looks at, sorted.
func (e *Expr) Locals() []string { return e.names }

// Eval evaluates over t. The result is made of nil, bool, int, float64,
// string, []any and map[string]any. The error is an *Error.
func (e *Expr) Eval(t *matrix.Task) (any, error) { return e.EvalLocals(t, nil) }

// EvalLocals is Eval with the values of the locals, in the order in which they
// were named. Missing ones are nil.
func (e *Expr) EvalLocals(t *matrix.Task, locals []any) (any, error) {
	m := machines.Get().(*machine)
	defer m.release()
	out, err := m.run(e, t, locals)
	if err != nil {
		return nil, err
	}
	switch out := out.(type) {
	case nil, bool, int:
		return out, nil
	case string:
		return valid(out), nil
	}
	parts := calc.MaxParts
	out, err = plain(out, &parts)
	if err != nil {
		return nil, &Error{Msg: err.Error()}
	}
	return out, nil
}

// Bool evaluates a condition. nil is false; what is neither nil nor true nor
// false is an error.
func (e *Expr) Bool(t *matrix.Task) (bool, error) { return e.BoolLocals(t, nil) }

// BoolLocals is Bool with the values of the locals, as EvalLocals takes them.
func (e *Expr) BoolLocals(t *matrix.Task, locals []any) (bool, error) {
	m := machines.Get().(*machine)
	defer m.release()
	out, err := m.run(e, t, locals)
	if err != nil {
		return false, err
	}
	b, err := truth(out)
	if err != nil {
		return false, &Error{Msg: err.Error()}
	}
	return b, nil
}

// machine is what one evaluation needs.
type machine struct {
	vm  vm.VM
	env env
}

var machines = sync.Pool{New: func() any { return new(machine) }}

func (m *machine) run(e *Expr, t *matrix.Task, locals []any) (any, error) {
	m.env.fill(t, e.uses)
	m.env.Locals, m.env.src = locals, e.src
	out, err := m.vm.Run(e.program, &m.env)
	if err != nil {
		return nil, located(err)
	}
	return out, nil
}

// release drops what the evaluation held on to, but keeps the stack's memory.
func (m *machine) release() {
	m.env = env{Turns: m.env.Turns[:0]}
	clear(m.env.Turns[:cap(m.env.Turns)])
	clear(m.vm.Stack[:cap(m.vm.Stack)])
	clear(m.vm.Variables)
	if cap(m.env.Turns) > 256 || cap(m.vm.Stack) > 1024 {
		return
	}
	machines.Put(m)
}

// located turns an error of the expression library into an *Error.
func located(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var f *file.Error
	if !errors.As(err, &f) {
		return &Error{Msg: message(err.Error())}
	}
	e := &Error{Line: f.Line, Column: f.Column + 1, Msg: message(f.Message)}
	var v *reflect.ValueError
	if f.Prev != nil && errors.As(f.Prev, &v) {
		e.Msg = "this is not a list to loop over"
	}
	var s *syntax.Error
	if f.Prev != nil && errors.As(f.Prev, &s) {
		e.Msg = "not a regular expression: " + regex.Explain(s).Error()
	}
	return e
}

// message words a message of the library in the terms of this package.
var message = strings.NewReplacer(
	"*lang.turn", "turn", "lang.turn", "turn", "lang.sample", "sample",
	"interface conversion: interface {} is ", "wrong type: got ",
	"interface {}", "any", "<nil>", "nil",
	"memory budget exceeded", "the lists that it makes have more than 1,000,000 elements together",
).Replace

func sorted(set map[string]bool) []string {
	var s []string
	for k := range set {
		s = append(s, k)
	}
	slices.Sort(s)
	return s
}
