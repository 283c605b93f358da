package jinja

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"matrix/lang/internal/calc"
)

const (
	maxRounds = 200_000
	maxMacros = 100
	maxPage   = 1 << 20 // bytes of text whose memory is kept for the next rendering
)

// Env is what a template is rendered over.
type Env interface {
	// Lookup returns what a name stands for that no tag has set. It is called
	// whenever the template looks at it.
	Lookup(name string) (any, bool)
	// Seed is that of what the template picks at random.
	Seed() (uint64, uint64)
}

// step does a part of a rendering. Its error ends the rendering, but for that
// of break and continue, which ends a round of a loop.
type step func(*rendering) error

// eval is a compiled expression.
type eval func(*rendering) (any, error)

// rendering is one call of Render: what expressions and steps see, and the text
// that they have made.
type rendering struct {
	env       Env
	names     scope // that tags have set, outside of all scopes
	scope     *scope
	page      bytes.Buffer
	out       *bytes.Buffer
	before    int // bytes of text that blocks around it have made
	rounds    int // of loops
	work      calc.Work
	depth     int      // of macros and recursive loops
	caller    *closure // of the macro that is called next; nil where it has none
	blockText string   // that filters are given
	rand      *rand.Rand
}

var renderings = sync.Pool{New: func() any { return new(rendering) }}

// scope holds the names that tags have set. There are few of them in each.
type scope struct {
	outer *scope
	vars  []variable
}

// variable is a name, by its number in the template, and what it stands for: an
// error where it has no value.
type variable struct {
	name  int
	value any
}

func (s *scope) get(name int) (any, bool) {
	for ; s != nil; s = s.outer {
		for i := range s.vars {
			if s.vars[i].name == name {
				return s.vars[i].value, true
			}
		}
	}
	return nil, false
}

func (s *scope) set(name int, v any) {
	for i := range s.vars {
		if s.vars[i].name == name {
			s.vars[i].value = v
			return
		}
	}
	s.vars = append(s.vars, variable{name, v})
}

// change puts another value in the place of a name, wherever that was set.
func (r *rendering) change(name int, v any) {
	for s := r.scope; s != nil; s = s.outer {
		for i := range s.vars {
			if s.vars[i].name == name {
				s.vars[i].value = v
				return
			}
		}
	}
	r.names.set(name, v)
}

func (r *rendering) inner() *scope { return &scope{outer: r.scope} }

func (r *rendering) begin(env Env) {
	r.env, r.out, r.scope = env, &r.page, &r.names
}

// release drops what the rendering held on to, but keeps the memory of its text.
func (r *rendering) release() {
	if r.page.Cap() > maxPage {
		return
	}
	page, vars := r.page, r.names.vars
	clear(vars)
	page.Reset()
	*r = rendering{page: page, names: scope{vars: vars[:0]}}
	renderings.Put(r)
}

func (r *rendering) random(n int) int {
	if r.rand == nil {
		r.rand = rand.New(rand.NewPCG(r.env.Seed()))
	}
	return r.rand.IntN(n)
}

func (r *rendering) run(steps []step) error {
	for _, s := range steps {
		if err := s(r); err != nil {
			return err
		}
	}
	return nil
}

// within runs the steps in a scope of their own.
func (r *rendering) within(s *scope, steps []step) error {
	outer := r.scope
	r.scope = s
	err := r.run(steps)
	r.scope = outer
	return err
}

// captured is the text that f writes, instead of adding it to the page.
func (r *rendering) captured(f func() error) (string, error) {
	outer, before := r.out, r.before
	r.out, r.before = new(bytes.Buffer), before+outer.Len()
	err := f()
	text := r.out.String()
	r.out, r.before = outer, before
	return text, err
}

// capture is the text that the steps write in a scope of their own.
func (r *rendering) capture(s *scope, steps []step) (string, error) {
	return r.captured(func() error { return r.within(s, steps) })
}

// valueIn is that of an expression in a scope of its own.
func (r *rendering) valueIn(s *scope, e eval) (any, error) {
	outer := r.scope
	r.scope = s
	v, err := e(r)
	r.scope = outer
	return v, err
}

func (r *rendering) write(s string) error {
	if r.before+r.out.Len()+len(s) > calc.MaxText {
		return fatal(calc.ErrTooLong)
	}
	if err := r.spend(textCost(s)); err != nil {
		return err
	}
	r.out.WriteString(s)
	return nil
}

// print writes a value as templates do.
func (r *rendering) print(at int, v any) error {
	s, err := show(v)
	if err != nil {
		return placed(at, err)
	}
	return r.write(s)
}

func (r *rendering) countRound() error {
	if r.rounds++; r.rounds > maxRounds {
		return fatal(fmt.Errorf("the loops take more than %d rounds", maxRounds))
	}
	return r.spend(calc.RoundWork)
}

// spend counts work.
func (r *rendering) spend(n int) error { return fatal(r.work.Spend(n)) }

// placedError is an error with its place in the source. Where column is false, only
// the line of the place counts, and only where no other is known.
type placedError struct {
	at     int // offset
	column bool
	err    error
}

func (e *placedError) Error() string { return e.err.Error() }
func (e *placedError) Unwrap() error { return e.err }

// placed gives an error its place, where it has none; nil stays nil.
func placed(at int, err error) error {
	if err == nil {
		return nil
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if p, ok := inner.(*placedError); ok && p.column { //nolint:errorlint // walks itself
			return err
		}
	}
	return &placedError{at, true, err}
}

// failure words an error of rendering: the cause, at the innermost place that is
// known.
func (t *Template) failure(err error) *Error {
	e := &Error{}
	exact := false
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		e.Msg = inner.Error()
		if p, ok := inner.(*placedError); ok { //nolint:errorlint // walks itself
			if line, column := t.lexer.position(p.at); p.column {
				e.Line, e.Column, exact = line, column, true
			} else if !exact {
				e.Line = line
			}
		}
	}
	return e
}

// fatalError ends a rendering: nothing in a template guards against it.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func fatal(err error) error {
	if err == nil {
		return nil
	}
	return fatalError{err}
}

func isFatal(err error) bool {
	var f fatalError
	return errors.As(err, &f)
}
