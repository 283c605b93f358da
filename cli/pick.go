package cli

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"matrix"
	"matrix/internal/near"
	"matrix/internal/rundir"
	"matrix/lang"
	"matrix/route"
	"matrix/run"
)

// pick says which tasks of a run are wanted, and in which order.
type pick struct {
	where  *lang.Expr // nil: all
	by     *lang.Expr // nil: in the order of the output, or by metric
	metric string     // by it, where it is not empty
	desc   bool

	metrics []string // names of metrics that expressions may use by themselves
}

// newPick compiles expressions over the tasks of a run; where and sort are as the user
// gave them, empty for none. A - before what is sorted by says that the largest come first.
func newPick(ctx context.Context, d *rundir.Dir, where, sort string) (*pick, error) {
	p := &pick{}
	if where == "" && sort == "" {
		return p, nil
	}
	var params lang.Params
	var roles []string // nil: not known
	known := map[string]bool{}
	if r, err := rundir.Open(d.Path); err == nil { // the tasks can be read without it
		params = r.Config.Run.Params
		roles = slices.Sorted(maps.Keys(r.Config.Run.Roles))
		for name := range r.Config.Run.Metrics {
			known[name] = true
		}
	}
	for r, err := range d.Tasks(ctx, matrix.Done) {
		if err == nil { // else it is met again
			for name := range r.Task.Metrics {
				known[name] = true
			}
		}
		break
	}
	names := append(lang.FinishedLocals(), "cause", "fault") // and behind them those of metrics
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, err := lang.CompileExpr(name, nil); err != nil && !slices.Contains(names, name) { // no name of the language
			p.metrics = append(p.metrics, name)
		}
	}
	compile := func(flag, src string) (*lang.Expr, error) {
		e, err := lang.CompileExpr(src, params, append(slices.Clip(names), p.metrics...)...)
		if err == nil {
			err = checkRoles(e, roles)
		}
		if err != nil {
			return nil, flagErrorf("--%s %s: %w", flag, src, err)
		}
		return e, nil
	}
	var err error
	if where != "" {
		if p.where, err = compile("where", where); err != nil {
			return nil, err
		}
	}
	sort, p.desc = strings.CutPrefix(sort, "-")
	switch {
	case known[sort]:
		p.metric = sort
	case sort != "":
		p.by, err = compile("sort", sort)
	case p.desc:
		err = flagErrorf("--sort is -: want the name of a metric or an expression behind it")
	}
	return p, err
}

// checkRoles returns an error where e asks for a role that there is not.
func checkRoles(e *lang.Expr, roles []string) error {
	for _, name := range e.Roles() {
		if roles != nil && !slices.Contains(roles, name) && name != route.User {
			meant := ""
			if n := near.Name(name, roles); n != "" {
				meant = fmt.Sprintf(" (did you mean %q?)", n)
			}
			return fmt.Errorf("there is no role %q%s", name, meant)
		}
	}
	return nil
}

// sorts reports whether all tasks must be seen before the first is shown.
func (p *pick) sorts() bool { return p.by != nil || p.metric != "" }

// locals are the values of what is known of a finished task beyond its turns.
func (p *pick) locals(t *matrix.Task) []any {
	fault := ""
	if t.Outcome.Status == matrix.Failed {
		fault = string(run.FaultOf(t))
	}
	all := append(lang.Finished(t), t.Outcome.Cause, fault)
	metrics, _ := all[0].(map[string]any)
	for _, name := range p.metrics {
		all = append(all, metrics[name])
	}
	return all
}

// wants reports whether a task is one of those wanted.
func (p *pick) wants(r *rundir.Record) (bool, error) {
	if p.where == nil {
		return true, nil
	}
	ok, err := p.where.BoolLocals(r.Task, p.locals(r.Task))
	if err != nil {
		return false, p.failed("where", p.where, r, err)
	}
	return ok, nil
}

func (p *pick) failed(flag string, e *lang.Expr, r *rundir.Record, err error) error {
	return fmt.Errorf("--%s %s: of task %s: %w", flag, e, oneLine(r.Task.ID), err)
}

// key is what a task is sorted by: a float64, a string, or nil, which comes last.
func (p *pick) key(r *rundir.Record) (any, error) {
	if p.metric != "" {
		if v := r.Task.Metrics[p.metric]; v != nil && !math.IsNaN(*v) {
			return *v, nil
		}
		return nil, nil
	}
	v, err := p.by.EvalLocals(r.Task, p.locals(r.Task))
	if err != nil {
		return nil, p.failed("sort", p.by, r, err)
	}
	switch v := v.(type) {
	case nil, string:
		return v, nil
	case bool:
		if v {
			return 1.0, nil
		}
		return 0.0, nil
	case int:
		return float64(v), nil
	case float64:
		if math.IsNaN(v) {
			return nil, nil
		}
		return v, nil
	}
	return nil, p.failed("sort", p.by, r, errors.New("want a number, a text, or true or false"))
}

// keyed is a task with what it is sorted by.
type keyed struct {
	key any
	n   int // of all, in the order of the output
	*rundir.Record
}

// compare orders tasks: those without a key last, numbers before texts, and in the order
// of the output where keys are equal.
func (p *pick) compare(a, b keyed) int {
	kind := func(k any) int {
		switch k.(type) {
		case float64:
			return 0
		case string:
			return 1
		}
		return 2
	}
	way := 1
	if p.desc {
		way = -1
	}
	c := cmp.Compare(kind(a.key), kind(b.key))
	switch x := a.key.(type) {
	case float64:
		if y, ok := b.key.(float64); ok {
			c = way * cmp.Compare(x, y)
		}
	case string:
		if y, ok := b.key.(string); ok {
			c = way * cmp.Compare(x, y)
		}
	}
	return cmp.Or(c, cmp.Compare(a.n, b.n))
}

// first returns the first n tasks of a status in the order that is wanted, and whether there
// are more. It reads all and holds n.
func (p *pick) first(ctx context.Context, d *rundir.Dir, status matrix.Status, n int) ([]*rundir.Record, bool, error) {
	h := &last{p: p}
	seen := 0
	for r, err := range d.Tasks(ctx, status) {
		if err != nil {
			return nil, false, err
		}
		if ok, err := p.wants(r); err != nil {
			return nil, false, err
		} else if !ok {
			continue
		}
		key, err := p.key(r)
		if err != nil {
			return nil, false, err
		}
		x := keyed{key, seen, r}
		if seen++; h.Len() < n {
			heap.Push(h, x)
		} else if p.compare(x, h.all[0]) < 0 {
			h.all[0] = x
			heap.Fix(h, 0)
		}
	}
	slices.SortFunc(h.all, p.compare)
	found := make([]*rundir.Record, h.Len())
	for i := range h.all {
		found[i] = h.all[i].Record
	}
	return found, seen > n, nil
}

// last is a heap with what comes last on top.
type last struct {
	p   *pick
	all []keyed
}

func (h *last) Len() int           { return len(h.all) }
func (h *last) Less(i, j int) bool { return h.p.compare(h.all[i], h.all[j]) > 0 }
func (h *last) Swap(i, j int)      { h.all[i], h.all[j] = h.all[j], h.all[i] }
func (h *last) Push(x any)         { h.all = append(h.all, x.(keyed)) }
func (h *last) Pop() any {
	x := h.all[len(h.all)-1]
	h.all = h.all[:len(h.all)-1]
	return x
}
