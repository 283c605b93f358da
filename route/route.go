// Package route holds the ready-made routers: a Sequence of roles, and a Graph
// of roles with rules. Both are built from typed configs, checked as a whole
// when they are built, and draw themselves.
//
// A router is pure: the same task always gets the same decision, and the task
// stays as it was. The package does not know who the agents are, where tasks
// wait, or what a config file looks like.
package route

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/internal/near"
	"matrix/lang"
)

// Env is what a flow is compiled against.
type Env struct {
	Roles   map[string]Role // the roles of the run, by name
	Params  lang.Params     // what expressions and templates see as params
	Limited bool            // the run cuts long tasks short: a flow may loop without an end of its own
}

// Role is what a flow knows of a role: what its drawing shows.
type Role struct {
	Kind   string // chat, compute, command, ...
	Inline bool   // acts in the hop of the agent before
}

// RoleError says what is wrong with a role rather than with a line of the
// flow: nobody leads to it.
type RoleError struct {
	Role string
	Err  error
}

func (e *RoleError) Error() string { return fmt.Sprintf("role %s: %v", e.Role, e.Err) }
func (e *RoleError) Unwrap() error { return e.Err }

// User is the one speaker that an opening turn may have without there being a
// role of that name.
const User = "user"

// Source is an expression or a template of a flow.
type Source struct {
	lang.Source
	Last   string // whose turn is the newest when it is asked; empty where that is not known
	Failed bool   // that turn has an error
	First  bool   // it is asked before anybody acts: only turns that open the task are there
}

// checker compiles the parts of a flow and gathers what is wrong with them.
type checker struct {
	env      Env
	speakers []string // who may have turns: roles, and who opens
	sources  map[string]Source
	when     Source // when what is compiled now is asked
	errs     []error
	lost     bool // a name led nowhere: what follows from that is not reported too
}

func newChecker(env Env) *checker {
	c := &checker{env: env, sources: map[string]Source{}}
	for name := range env.Roles {
		c.speakers = append(c.speakers, name)
	}
	slices.Sort(c.speakers)
	return c
}

// err is all that was found, or nil.
func (c *checker) err() error { return errors.Join(c.errs...) }

// at reports err at a field of the flow, or of the flow as a whole.
func (c *checker) at(field string, err error) {
	if field == "" {
		c.errs = append(c.errs, err)
		return
	}
	c.errs = append(c.errs, &lang.FieldError{Field: field, Err: err})
}

// role checks that a role of that name exists.
func (c *checker) role(field, name string) bool {
	if _, ok := c.env.Roles[name]; ok {
		return true
	}
	c.lost = true
	if name == "" {
		c.at(field, errors.New("a role's name is missing"))
		return false
	}
	c.at(field, fmt.Errorf("there is no role %q%s", name, instead(name, c.env.Roles)))
	return false
}

// expr compiles an expression; nil when it does not.
func (c *checker) expr(field, src string) *lang.Expr {
	e, err := lang.CompileExpr(src, c.env.Params)
	if err != nil {
		c.at(field, err)
		return nil
	}
	c.asked(field, e.Roles())
	c.pure(field, e.Leases())
	c.note(field, e)
	return e
}

// note keeps what was compiled, and when it is asked.
func (c *checker) note(field string, src lang.Source) {
	s := c.when
	s.Source = src
	c.sources[field] = s
}

// template compiles a template; nil when it does not.
func (c *checker) template(field, src string) *lang.Template {
	t, err := lang.CompileTemplate(src, c.env.Params)
	if err != nil {
		c.at(field, err)
		return nil
	}
	c.asked(field, t.Roles())
	c.pure(field, t.Leases())
	c.note(field, t)
	return t
}

// pure refuses what a decision may not hang on.
func (c *checker) pure(field string, pools []string) {
	if len(pools) > 0 {
		c.at(field, fmt.Errorf("lease(%q) is known to roles alone, since a flow asks nobody: have a compute role say what the flow needs of it", pools[0]))
	}
}

// asked checks the roles that an expression asks for, as in rounds('judge').
func (c *checker) asked(field string, roles []string) {
	for _, name := range roles {
		if !slices.Contains(c.speakers, name) {
			c.at(field, fmt.Errorf("no role %q ever takes a turn%s", name, instead(name, c.env.Roles)))
		}
	}
}

// ending is how a task ends: with a value, or with a reason or cause.
type ending struct {
	path    string         // of the rule, for causes
	stopped string         // the role at which it ends the task early; empty: the flow is over
	finish  *lang.Expr     // gives the value; nil: there is none
	drop    *lang.Template // gives the reason
	fail    *lang.Template // gives the cause
}

func (e *ending) decide(t *matrix.Task) matrix.Decision {
	switch {
	case e.fail != nil:
		cause, err := e.why("fail", "cause", e.fail, t)
		if err != nil {
			return matrix.FailBy(matrix.FaultRouter, err.Error())
		}
		return matrix.Fail(cause)
	case e.drop != nil:
		reason, err := e.why("drop", "reason", e.drop, t)
		if err != nil {
			return matrix.FailBy(matrix.FaultRouter, err.Error())
		}
		return matrix.Drop(reason)
	case e.finish != nil:
		v, err := value(e.finish, t)
		if err != nil {
			return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("%s.finish: %v", e.path, err))
		}
		return matrix.Stop(e.stopped, v)
	case e.stopped != "":
		d := matrix.Drop("stopped at " + e.stopped)
		d.Outcome.Stopped = e.stopped
		return d
	}
	return matrix.Finish(matrix.Value{})
}

// why renders the reason or the cause that key gives.
func (e *ending) why(key, what string, text *lang.Template, t *matrix.Task) (string, error) {
	s, err := text.Render(t, nil)
	if err != nil {
		return "", fmt.Errorf("%s.%s: %w", e.path, key, err)
	}
	if strings.TrimSpace(s) == "" {
		s = fmt.Sprintf("%s.%s gave an empty %s", e.path, key, what)
	}
	return s, nil
}

// value evaluates e to a JSON value; nil is null.
func value(e *lang.Expr, t *matrix.Task) (matrix.Value, error) {
	x, err := e.Eval(t)
	if err != nil {
		return matrix.Value{}, err
	}
	return matrix.NewValue(x)
}

// failed is the decision over a turn with an error that no rule judges.
func failed(last *matrix.Turn) matrix.Decision {
	return matrix.FailBy(matrix.FaultStep, last.Role+": "+last.Error)
}

// instead is ` (did you mean "x"?)` for the name nearest to name, or which
// names there are where none is near.
func instead[V any](name string, known map[string]V) string {
	names := slices.Sorted(maps.Keys(known))
	switch best := near.Name(name, names); {
	case best != "":
		return fmt.Sprintf(" (did you mean %q?)", best)
	case len(names) > 0 && len(names) <= 20:
		return "; there are " + strings.Join(names, ", ")
	}
	return ""
}
