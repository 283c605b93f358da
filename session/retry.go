package session

import (
	"context"
	"errors"

	"matrix"
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
		err = s.Plan.Check(e)
	}
	if err != nil {
		return nil, &spec.UsageError{Err: &WhereError{r.Where, err}}
	}
	r.Select = selects(e, s.Plan.Run.Params)
	return r, nil
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
		v, err := e.EvalLocals(t, []any{t.Outcome.Cause, string(fault)})
		if err != nil {
			return false, &WhereError{e.String(), err}
		}
		switch v := v.(type) {
		case bool:
			return v, nil
		case nil:
			return false, nil
		}
		return false, &WhereError{e.String(), errors.New("want true or false, such as 'fault == \"step\"'")}
	}
}

// WhereError is a fault of Options.Where.
type WhereError struct {
	Where string
	Err   error
}

func (e *WhereError) Error() string { return "where " + e.Where + ": " + e.Err.Error() }
func (e *WhereError) Unwrap() error { return e.Err }
