package registry

import (
	"errors"
	"fmt"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/lang"
	"matrix/spec"
)

// Source opens the dataset of a config, without the models and agents that it
// names beside it. An error is, or joins, a *lang.FieldError with the key at
// fault.
func Source(c *spec.Run) (matrix.Source, error) {
	rows, err := describe(c)
	if err != nil {
		return nil, err
	}
	return rows.open(c.Dataset.Follow)
}

// open opens the dataset. An error is a *lang.FieldError.
func (d *described) open(follow bool) (matrix.Source, error) {
	src, err := dataset.Open(d.Options)
	if err != nil && d.Begun != nil {
		return nil, &lang.FieldError{Field: "from.run", Err: err}
	}
	if err != nil {
		return nil, &lang.FieldError{Field: "dataset.path", Err: err}
	}
	if !follow {
		return src, nil
	}
	g, err := dataset.Follow(src)
	if err != nil {
		return nil, &lang.FieldError{Field: "dataset.follow", Err: err}
	}
	return g, nil
}

// described is the dataset of a config, compiled.
type described struct {
	dataset.Options
	where, id, priority *lang.Expr // nil where there is no such expression, or it does not compile
}

// describe compiles what a config says of its dataset. Next to an error it
// returns what is well.
func describe(c *spec.Run) (described, error) {
	d := c.Dataset
	out := described{Options: dataset.Options{Paths: d.Path, Skip: max(0, d.Skip), Limit: max(0, d.Limit), Rename: d.Rename,
		Format: d.Format, Stdin: d.Stdin, Sample: max(0, d.Sample), Shuffle: d.Shuffle, Seed: c.Seed}}
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
	switch p := strings.TrimSpace(d.Priority); {
	case p == "", out.Priority.UnmarshalText([]byte(p)) == nil:
	case dataset.IsField(p):
		errs = append(errs, &lang.FieldError{Field: "dataset.priority", Err: unknown("priority", p, matrix.Priorities())})
	default:
		if out.priority = compile("dataset.priority", p); out.priority != nil {
			out.PriorityOf = priorityBy(out.priority)
		}
	}
	if c.From != (spec.From{}) {
		errs = append(errs, out.from(c))
	}
	return out, errors.Join(errs...)
}

// priorityBy is the class that an expression names.
func priorityBy(e *lang.Expr) func(*matrix.Task) (matrix.Priority, error) {
	return func(t *matrix.Task) (p matrix.Priority, err error) {
		switch x, err := e.Eval(t); x := x.(type) {
		case string:
			return p, p.UnmarshalText([]byte(x))
		case nil:
			if err == nil {
				err = errors.New("the expression gives null, want bulk, normal or urgent")
			}
			return p, err
		default:
			return p, fmt.Errorf("the expression gives %v, want bulk, normal or urgent", x)
		}
	}
}

// Rows opens other files than those of a config's dataset, with the ids that its rows
// have: all rows, each as it stands there.
func Rows(c *spec.Run, paths []string) (*dataset.Source, error) {
	only := *c
	only.Dataset = spec.Dataset{ID: c.Dataset.ID, Rename: c.Dataset.Rename}
	rows, err := describe(&only)
	if err != nil {
		return nil, err
	}
	rows.Paths, rows.Plain = paths, true
	return dataset.Open(rows.Options)
}
