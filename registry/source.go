package registry

import (
	"errors"

	"matrix/dataset"
	"matrix/lang"
	"matrix/spec"
)

// Source opens the dataset of a config, without the models and agents that it
// names beside it. An error is, or joins, a *lang.FieldError with the key at
// fault.
func Source(c *spec.Run) (*dataset.Source, error) {
	rows, err := describe(c)
	if err != nil {
		return nil, err
	}
	src, err := dataset.Open(rows.Options)
	if err != nil {
		return nil, &lang.FieldError{Field: "dataset.path", Err: err}
	}
	return src, nil
}

// described is the dataset of a config, compiled.
type described struct {
	dataset.Options
	where, id *lang.Expr // nil where there is no such expression, or it does not compile
}

// describe compiles what a config says of its dataset. Next to an error it
// returns what is well.
func describe(c *spec.Run) (described, error) {
	d := c.Dataset
	out := described{Options: dataset.Options{Paths: d.Path, Skip: max(0, d.Skip), Limit: max(0, d.Limit), Rename: d.Rename}}
	var errs []error
	compile := func(field, src string) *lang.Expr {
		e, err := lang.CompileExpr(src, lang.Params(c.Params))
		if err != nil {
			errs = append(errs, &lang.FieldError{Field: field, Err: err})
			return nil
		}
		return e
	}
	if d.Where != "" {
		if out.where = compile("dataset.where", d.Where); out.where != nil {
			out.Where = out.where.Bool
		}
	}
	if dataset.IsField(d.ID) {
		out.IDField = d.ID
	} else if d.ID != "" {
		if out.id = compile("dataset.id", d.ID); out.id != nil {
			out.ID = out.id.Eval
		}
	}
	return out, errors.Join(errs...)
}
