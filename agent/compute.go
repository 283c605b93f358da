package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"matrix"
	"matrix/lang"
)

// Field is a field of a turn's data and the expression that gives its value.
type Field struct {
	Name string
	Expr string
}

// Compute is an agent that evaluates expressions: the turn's data is an object
// of the fields, in their order. An expression may name an earlier field, and
// then means its value. An expression that fails, fails the task.
type Compute []Field

type compute struct {
	role  string
	names []string
	exprs []*lang.Expr
}

var (
	_ matrix.Agent = (*compute)(nil)
	_ Mentioner    = (*compute)(nil)

	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// NewCompute makes the agent of a role.
func NewCompute(role string, c Compute, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	if len(c) == 0 {
		return nil, errors.New("compute has no field: write `field: expression`")
	}
	a := &compute{role: role}
	for _, f := range c {
		switch {
		case f.Name == "":
			bad.addf("", "a field has no name")
			continue
		case slices.Contains(a.names, f.Name):
			bad.addf(f.Name, "the field is there twice")
			continue
		}
		e, err := lang.CompileExpr(f.Expr, p, locals(a.names)...)
		if err != nil && uses(f, c, p) {
			err = errors.New("the expression uses a field that comes later: fields are computed from top to bottom")
		}
		bad.add(f.Name, err)
		a.names = append(a.names, f.Name)
		a.exprs = append(a.exprs, e)
	}
	return a, bad.err()
}

// locals are the names as expressions see them: a name that is no identifier,
// or that the language gives to something else, cannot be seen.
func locals(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		if identifier.MatchString(n) && !lang.Reserved(n) {
			out[i] = n
		}
	}
	return out
}

// uses says whether f would compile if it could see all fields.
func uses(f Field, c Compute, p lang.Params) bool {
	var all []string
	for _, other := range c {
		all = append(all, other.Name)
	}
	_, err := lang.CompileExpr(f.Expr, p, locals(all)...)
	return err == nil
}

// Mentions implements Mentioner.
func (a *compute) Mentions() []Mention {
	var ms []Mention
	for i, e := range a.exprs {
		ms = append(ms, Mention{Key: a.names[i], Fields: e.Fields(), Roles: e.Roles()})
	}
	return ms
}

// Act implements matrix.Agent.
func (a *compute) Act(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	write := func(v any) error {
		err := enc.Encode(v)
		if n := b.Len(); n > 0 && b.Bytes()[n-1] == '\n' {
			b.Truncate(n - 1)
		}
		return err
	}
	values := make([]any, 0, len(a.exprs))
	for i, e := range a.exprs {
		v, err := e.EvalLocals(t, values)
		if err == nil {
			b.WriteByte("{,"[min(i, 1)])
			if err = write(a.names[i]); err == nil {
				b.WriteByte(':')
				err = write(v)
			}
		}
		if err != nil {
			return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("%s: cannot compute %s: %w", a.role, a.names[i], err)}
		}
		values = append(values, v)
	}
	b.WriteByte('}')
	return matrix.Turn{Role: a.role, Data: matrix.RawValue(b.Bytes())}, nil
}
