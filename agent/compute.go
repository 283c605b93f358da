package agent

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

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
	pool  Draw // nil for none
	names []string
	heads [][]byte // the names as JSON, with what stands before them
	exprs []*lang.Expr
}

var (
	_ matrix.Agent = (*compute)(nil)
	_ Mentioner    = (*compute)(nil)

	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Draw is what compute agents may draw from.
type Draw interface {
	// Now is what there is now, lists by name. It is not changed.
	Now() map[string]any
}

// DrawName is the name of a Draw in the expressions of compute agents.
const DrawName = "pool"

// NewCompute makes the agent of a role. Of no pool its expressions know none.
func NewCompute(role string, c Compute, p lang.Params, pool Draw) (matrix.Agent, error) {
	var bad fieldErrors
	if len(c) == 0 {
		return nil, errors.New("compute has no field: write `field: expression`")
	}
	a := &compute{role: role, pool: pool}
	names := func() []string {
		if pool == nil {
			return locals(a.names)
		}
		return append([]string{DrawName}, locals(a.names)...)
	}
	for _, f := range c {
		switch {
		case f.Name == "":
			bad.addf("", "a field has no name")
			continue
		case pool != nil && f.Name == DrawName:
			bad.addf(f.Name, "this is what may be drawn from: give the field another name")
			continue
		case slices.Contains(a.names, f.Name):
			bad.addf(f.Name, "the field is there twice")
			continue
		}
		e, err := lang.CompileExpr(f.Expr, p, names()...)
		if err != nil && uses(f, c, p, pool != nil) {
			err = errors.New("the expression uses a field that comes later: fields are computed from top to bottom")
		}
		bad.add(f.Name, err)
		a.names = append(a.names, f.Name)
		a.exprs = append(a.exprs, e)
		head, err := appendJSON([]byte{"{,"[min(len(a.heads), 1)]}, f.Name)
		bad.add(f.Name, err)
		a.heads = append(a.heads, head)
	}
	return a, bad.err()
}

// locals are the names as expressions see them: a name that is not an identifier,
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

// uses reports whether f would compile if it could see all fields.
func uses(f Field, c Compute, p lang.Params, pool bool) bool {
	var all []string
	if pool {
		all = append(all, DrawName)
	}
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
		ms = append(ms, mention(a.names[i], e))
	}
	return ms
}

// Act implements matrix.Agent.
func (a *compute) Act(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	raw := make([]byte, 0, 128)
	values := make([]any, 0, len(a.exprs)+1)
	if a.pool != nil {
		values = append(values, a.pool.Now())
	}
	data := make(map[string]any, len(a.exprs))
	for i, e := range a.exprs {
		v, err := e.EvalLocals(t, values)
		if err == nil {
			raw = append(append(raw, a.heads[i]...), ':')
			raw, err = appendJSON(raw, v)
		}
		if err != nil {
			return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("cannot compute %s: %w", a.names[i], err)}
		}
		values = append(values, v)
		data[a.names[i]] = v
	}
	raw = append(raw, '}')
	return matrix.Turn{Data: matrix.DecodedValue(raw, data)}, nil
}

// appendJSON appends v, without the detour of an encoder where it is short.
func appendJSON(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case string:
		if plainText(v) {
			return append(append(append(b, '"'), v...), '"'), nil
		}
	}
	x, err := matrix.NewValue(v)
	return append(b, x.Raw()...), err
}

// plainText reports whether a text is itself between quotes in JSON.
func plainText(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
