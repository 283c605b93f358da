package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"matrix"
	"matrix/internal/near"
	"matrix/lang"
	"matrix/run"
	"matrix/spec"
)

// retry is what the run tries again: what was asked for, or what a session before
// began and did not end.
func (s *Session) retry(ctx context.Context, o Options) (*run.Retry, error) {
	r := &run.Retry{Begin: o.Retry, Where: o.Where}
	if !o.Retry {
		where, on, err := run.RetryOf(ctx, s.Folder.Stores()...)
		if err != nil || !on {
			return nil, err
		}
		r.Where = where
	}
	if r.Where == "" {
		return r, nil
	}
	e, err := lang.CompileExpr(r.Where, lang.Params(s.Plan.Run.Params), "cause", "fault")
	if err == nil && o.Retry { // what was begun goes on
		err = errors.Join(s.Plan.Check(e), checkFaults(e))
	}
	if err != nil {
		return nil, &spec.UsageError{Err: &WhereError{r.Where, err}}
	}
	r.Select = selects(e, s.Plan.Run.Params)
	return r, nil
}

// checkFaults returns an error where e asks for a fault that there is not.
func checkFaults(e *lang.Expr) error {
	faults := []string{string(matrix.FaultStep), string(matrix.FaultLimit), string(matrix.FaultRouter), string(matrix.FaultFlow), string(matrix.FaultRow)}
	var errs []error
	for _, t := range e.Compared("fault") {
		if slices.Contains(faults, t.Text) {
			continue
		}
		meant := ""
		if n := near.Name(t.Text, faults); n != "" {
			meant = fmt.Sprintf(" (did you mean %q?)", n)
		}
		errs = append(errs, fmt.Errorf("fault is never %q%s; it is one of %s", t.Text, meant, strings.Join(faults, ", ")))
	}
	return errors.Join(errs...)
}

// selects is an expression over a failed task, which also knows the cause and the
// fault. What the flow itself failed is selected by one that names them.
func selects(e *lang.Expr, params map[string]any) func(*matrix.Task) (bool, error) {
	_, err := lang.CompileExpr(e.String(), lang.Params(params))
	named := err != nil
	return func(t *matrix.Task) (bool, error) {
		fault := run.FaultOf(t)
		if fault == matrix.FaultFlow && !named {
			return false, nil
		}
		ok, err := e.BoolLocals(t, []any{t.Outcome.Cause, string(fault)})
		if err != nil {
			return false, &WhereError{e.String(), err}
		}
		return ok, nil
	}
}

// WhereError is a fault of Options.Where.
type WhereError struct {
	Where string
	Err   error
}

func (e *WhereError) Error() string { return "where " + e.Where + ": " + e.Err.Error() }
func (e *WhereError) Unwrap() error { return e.Err }
