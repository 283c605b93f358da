package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"matrix"
	"matrix/lang"
	"matrix/llm"
	"matrix/sandbox"
	"matrix/tool"
)

// Tools is where the tools of a chat come from: a list for all tasks, pools, or an
// expression that gives them.
type Tools struct {
	tools *toolSet     // functions of the list
	pools []*poolTools // entries of the list that stand for pools
	expr  *lang.Expr

	made atomic.Pointer[madeTools] // of the newest task: most have the same
}

// madeTools is a set and what it was made of.
type madeTools struct {
	from string
	set  *toolSet
}

// toolEntry is an entry of a list of tools that stands for those of a pool.
type toolEntry struct {
	Pool        string   `json:"pool"`
	Only        []string `json:"only"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Code        string   `json:"code"`
	Run         []string `json:"run"`
}

// NewTools reads the tools of a chat, of which pools are known by name. A nil value has none.
func NewTools(tools any, pools FindPool, p lang.Params) (*Tools, error) {
	if src, ok := tools.(string); ok {
		e, err := lang.CompileExpr(src, p)
		return &Tools{expr: e}, err
	}
	s := &Tools{}
	list, isList := tools.([]any)
	var functions []any
	for i, v := range list {
		m, _ := v.(map[string]any)
		if m["pool"] == nil {
			functions = append(functions, v)
			continue
		}
		x, err := newPoolTools(m, pools)
		if err != nil {
			return s, &lang.FieldError{Field: fmt.Sprint(i), Err: err}
		}
		s.pools = append(s.pools, x)
	}
	var err error
	switch {
	case !isList && tools != nil:
		_, err = newToolSet(tools) // says what is wrong
	case len(functions) > 0:
		s.tools, err = newToolSet(functions)
	}
	return s, err
}

func newPoolTools(entry map[string]any, pools FindPool) (*poolTools, error) {
	raw, err := json.Marshal(entry)
	if err != nil {
		return nil, err
	}
	var e toolEntry
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("want {pool, only} for the tools of a pool, or {pool, name, description, code} for code in a pool of sandboxes: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	pool, err := pools(e.Pool)
	if err != nil {
		return nil, err
	}
	x := &poolTools{name: e.Pool, pool: pool, only: e.Only}
	if _, ok := pool.(*Sandboxes); !ok {
		if e.Name != "" || e.Description != "" || e.Code != "" || e.Run != nil {
			return nil, fmt.Errorf("%s is a pool of tools, which have names and descriptions of their own: leave out all but pool and only", e.Pool)
		}
		return x, nil
	}
	switch {
	case len(e.Only) > 0:
		return nil, fmt.Errorf("%s is a pool of sandboxes: only picks from the tools of other pools", e.Pool)
	case (e.Code == "") == (len(e.Run) == 0):
		return nil, fmt.Errorf("%s is a pool of sandboxes, and its tool needs one of code (python or bash) and run (a program that is given the file with the code)", e.Pool)
	case e.Code == "python":
		x.program, x.what, x.about = []string{"python3"}, "Python program", "Runs a Python program in a sandbox and returns what it prints."
	case e.Code == "bash":
		x.program, x.what, x.about = []string{"bash"}, "bash script", "Runs a bash script in a sandbox and returns what it prints."
	case e.Code != "":
		return nil, fmt.Errorf("code is %q, want python or bash; for another program write run: [PROGRAM]", e.Code)
	default:
		x.program, x.what, x.about = e.Run, "code", "Runs code with "+e.Run[0]+" in a sandbox and returns what it prints."
	}
	x.tool, x.about = cmp.Or(e.Name, e.Code, x.program[0]), cmp.Or(e.Description, x.about)
	return x, nil
}

// toolsFor are the tools for t.
func (s *Tools) toolsFor(ctx context.Context, t *matrix.Task) (*toolSet, error) {
	switch {
	case s == nil:
		return nil, nil
	case s.expr != nil:
		v, err := s.expr.Eval(t)
		if err != nil {
			return nil, err
		}
		return s.make(v)
	case len(s.pools) == 0:
		return s.tools, nil
	}
	var list []any
	if s.tools != nil {
		for _, f := range s.tools.tools {
			list = append(list, f)
		}
	}
	for _, p := range s.pools {
		ds, err := p.definitions(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, d := range ds {
			list = append(list, llm.Tool{Name: d.Name, Description: d.Description, Parameters: d.Parameters})
		}
	}
	return s.make(list)
}

// make reads a list of tools, or finds what was made of it before.
func (s *Tools) make(list any) (*toolSet, error) {
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	if was := s.made.Load(); was != nil && was.from == string(raw) {
		return was.set, nil
	}
	set, err := newToolSet(json.RawMessage(raw))
	if err == nil {
		s.made.Store(&madeTools{string(raw), set})
	}
	return set, err
}

// from is the entry that answers calls of a name; nil where none does. A name that no
// entry has is for the one pool of tools that there is, which says so in its own words.
func (s *Tools) from(ctx context.Context, t *matrix.Task, name string) (*poolTools, error) {
	var others []*poolTools
	for _, p := range s.pools {
		ds, err := p.definitions(ctx, t)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(ds, func(d tool.Definition) bool { return d.Name == name }) {
			return p, nil
		}
		if p.tool == "" && len(p.only) == 0 {
			others = append(others, p)
		}
	}
	if len(others) == 1 && !s.tools.has(name) {
		return others[0], nil
	}
	return nil, nil
}

// poolTools is an entry of a chat's tools that stands for those of a pool, or for a
// pool of sandboxes that runs code.
type poolTools struct {
	name string // of the pool
	pool Pool
	only []string

	tool    string   // of sandboxes: what the model calls
	about   string   // its description
	program []string // runs the file that the code is in
	what    string   // the code is, for the model
}

// parallel reports whether calls of one task may be made side by side.
func (p *poolTools) parallel() bool {
	switch pool := p.pool.(type) {
	case *Sandboxes:
		return pool.parallel()
	case interface{ Parallel() bool }:
		return pool.Parallel()
	}
	return false
}

// definitions are the tools of the entry, as t may call them.
func (p *poolTools) definitions(ctx context.Context, t *matrix.Task) ([]tool.Definition, error) {
	if p.tool != "" {
		schema := fmt.Sprintf(`{"type":"object","properties":{"code":{"type":"string","description":%q}},"required":["code"]}`, "The "+p.what+" to run.")
		return []tool.Definition{{Name: p.tool, Description: p.about, Parameters: []byte(schema)}}, nil
	}
	pool, ok := p.pool.(tool.Pool)
	if !ok {
		return nil, &matrix.StopError{Err: fmt.Errorf("pool %s has no tools", p.name)}
	}
	all, err := pool.Tools(within(ctx, t), taskOf(t, p.name))
	if err != nil {
		return nil, toolFate(p.name, err)
	}
	if len(p.only) == 0 {
		return all, nil
	}
	kept := make([]tool.Definition, 0, len(p.only))
	for _, name := range p.only {
		i := slices.IndexFunc(all, func(d tool.Definition) bool { return d.Name == name })
		if i < 0 {
			var have []string
			for _, d := range all {
				have = append(have, d.Name)
			}
			return nil, &matrix.StopError{Err: fmt.Errorf("pool %s has no tool %q; it has %s", p.name, name, strings.Join(have, ", "))}
		}
		kept = append(kept, all[i])
	}
	return kept, nil
}

// code is what a call of a pool of sandboxes is to run.
func code(call *matrix.ToolCall) (text string, ok bool) {
	args, _ := call.Arguments.Any().(map[string]any)
	text, ok = args["code"].(string)
	return text, ok
}

// misfit says why the arguments of a call do not fit, where that is known before it is made.
func (p *poolTools) misfit(call *matrix.ToolCall) string {
	if _, ok := code(call); p.tool != "" && !ok {
		return "the arguments do not fit: want {\"code\": TEXT}"
	}
	return ""
}

// run runs the code of a call, the n-th of its step at the pool.
func (p *poolTools) run(ctx context.Context, t *matrix.Task, call *matrix.ToolCall, pool *Sandboxes, n int) (x answered) {
	code, _ := code(call)
	r, c, err := pool.exec(ctx, t, n, asked{Run: append(slices.Clone(p.program), pool.code), Files: map[string]string{pool.code: code}, call: call})
	if doubt := (*sandbox.InDoubtError)(nil); errors.As(err, &doubt) {
		return answered{result: wrong(call, doubt.Error()), calls: []matrix.Call{c}}
	}
	if err != nil {
		return answered{err: err}
	}
	c.Trace.IsError = c.Trace.Failed()
	return answered{
		result: matrix.ToolResult{ID: call.ID, Name: call.Name, Content: account(&r), IsError: c.Trace.IsError},
		calls:  []matrix.Call{c},
	}
}
