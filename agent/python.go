package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"matrix"
	"matrix/lang"
	"matrix/tool"
)

// Python is an agent that calls a function of a Python file: a reward, a filter, whatever
// an expression is too small for. What the function returns, as JSON, is the turn's data.
// What it raises fails the task.
type Python struct {
	Call string            `yaml:"call" required:"true" doc:"FILE:FUNCTION; the file beside the config, in whose folder it runs and from where it imports."`
	Args map[string]string `yaml:"args" doc:"Expressions over the task: the arguments, by the names of the function's parameters."`

	tool.PythonHow `yaml:",inline"`
}

type pythonCall struct {
	role  string
	name  string // FILE:FUNCTION
	pool  *tool.Python
	call  string
	names []string
	exprs []*lang.Expr
}

var (
	_ matrix.Agent = (*pythonCall)(nil)
	_ Mentioner    = (*pythonCall)(nil)
)

// NewPython makes the agent of a role. pool has the function.
func NewPython(role string, c Python, function string, pool *tool.Python, p lang.Params) (matrix.Agent, error) {
	a := &pythonCall{role: role, name: c.Call, pool: pool, call: function, names: slices.Sorted(maps.Keys(c.Args))}
	var bad fieldErrors
	for _, name := range a.names {
		e, err := lang.CompileExpr(c.Args[name], p)
		bad.add("args."+name, err)
		a.exprs = append(a.exprs, e)
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	pool.Want(function, append([]string{}, a.names...))
	return a, nil
}

// Mentions implements Mentioner.
func (a *pythonCall) Mentions() []Mention {
	var ms []Mention
	for i, e := range a.exprs {
		ms = append(ms, mention("args."+a.names[i], e))
	}
	return ms
}

// Act implements matrix.Agent.
func (a *pythonCall) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	arguments := []byte{'{'}
	for i, e := range a.exprs {
		if i > 0 {
			arguments = append(arguments, ',')
		}
		v, err := e.Eval(t)
		if err == nil {
			arguments, err = appendJSON(arguments, a.names[i])
		}
		if err == nil {
			arguments, err = appendJSON(append(arguments, ':'), v)
		}
		if err != nil {
			return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("args.%s: %w", a.names[i], err)}
		}
	}
	arguments = append(arguments, '}')
	value, trace, err := a.pool.Value(ctx, a.call, json.RawMessage(arguments))
	call := matrix.Call{Kind: matrix.KindTool, Name: a.name, WaitMS: milliseconds(trace.Wait), TookMS: milliseconds(trace.Took)}
	var raised *tool.FunctionError
	if errors.As(err, &raised) {
		call.Error = raised.Msg
		return matrix.Turn{Calls: []matrix.Call{call}}, &matrix.FailError{Err: err}
	}
	if err != nil {
		return matrix.Turn{}, toolFate(a.name, err)
	}
	data, err := matrix.ParseValue(value)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("%s: what it returned cannot be used: %w", a.name, err)}
	}
	return matrix.Turn{Data: data, Calls: []matrix.Call{call}}, nil
}
