package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"matrix"
	"matrix/tool"
)

// Calls is an agent that answers the tool calls of the newest turn, one result for each,
// in their order. A tool that fails, that there is not, or whose arguments do not fit,
// answers so (is_error): that is for the model.
type Calls struct {
	Pool string `yaml:"pool" doc:"Name of the pool that answers all calls. Default: each call goes to the pool that its tool came from, by the tools of the chat that called."`
	As   string `yaml:"as" doc:"Who calls, for pools that tell it apart, such as user and assistant of an environment."`
}

type answerer struct {
	as    string
	name  string            // of pool
	pool  Pool              // nil: each from where it came
	tools map[string]*Tools // by role that calls
}

var (
	_ matrix.Agent  = (*answerer)(nil)
	_ Mentioner     = (*answerer)(nil)
	_ TurnDescriber = (*answerer)(nil)
)

// NewCalls makes the agent of a role. pool is that of c.Pool, or nil; tools are those of
// all chats, by role.
func NewCalls(c Calls, pool Pool, tools map[string]*Tools) (matrix.Agent, error) {
	var bad fieldErrors
	a := &answerer{as: c.As, name: c.Pool, pool: pool, tools: tools}
	bound := false
	for _, t := range tools {
		bound = bound || len(t.pools) > 0
	}
	switch pool.(type) {
	case nil:
		if c.Pool == "" && !bound {
			bad.addf("", "there is nothing to answer: no chat has tools of a pool, as tools: [{pool: NAME}]; name the pool that answers all calls with pool")
		}
	case tool.Pool:
	case *Sandboxes:
		bad.addf("pool", "%s is a pool of sandboxes, which has no tools by itself: give the chat tools: [{pool: %s, code: python}], and leave pool out here", c.Pool, c.Pool)
	}
	return a, bad.err()
}

// Mentions implements Mentioner.
func (*answerer) Mentions() []Mention { return nil }

// TurnInfo implements TurnDescriber.
func (*answerer) TurnInfo() TurnInfo {
	return TurnInfo{Data: &Shape{Fields: map[string]*Shape{"structured": nil, "images": nil}, Closed: true}}
}

// answer is what a call came to.
type answered struct {
	result matrix.ToolResult
	extra  tool.Result // Structured and Images
	calls  []matrix.Call
	err    error
}

// Act implements matrix.Agent.
func (a *answerer) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	last := t.Last()
	if last == nil || len(last.ToolCalls) == 0 {
		return matrix.Turn{Error: "there is nothing to answer: the newest turn calls no tool"}, nil
	}
	all := make([]answered, len(last.ToolCalls))
	counts := map[string]int{} // calls by pool: they have names that do not hang on which ends first
	var side sync.WaitGroup
	for i := range last.ToolCalls {
		call := &last.ToolCalls[i]
		at, err := a.find(ctx, t, call.Name)
		if err != nil {
			return matrix.Turn{}, err
		}
		if at == nil {
			all[i] = answered{result: wrong(call, a.unknown(ctx, t, call.Name))}
			continue
		}
		if why := at.misfit(call); why != "" { // no call of the pool comes of it, which would count
			all[i] = answered{result: wrong(call, why)}
			continue
		}
		n := counts[at.name]
		counts[at.name]++
		act := func() { all[i] = a.answer(ctx, t, call, at, n) }
		if at.parallel() {
			side.Go(act)
			continue
		}
		side.Wait()
		act()
		if all[i].err != nil {
			break
		}
	}
	side.Wait()
	turn := matrix.Turn{}
	structured, images := map[string]any{}, []any{}
	for i := range all {
		x := &all[i]
		if x.err != nil {
			return matrix.Turn{}, x.err
		}
		turn.ToolResults = append(turn.ToolResults, x.result)
		turn.Calls = append(turn.Calls, x.calls...)
		if len(x.extra.Structured) > 0 {
			v, err := matrix.ParseValue(x.extra.Structured)
			if err != nil {
				return turn, &matrix.FailError{Err: fmt.Errorf("%s: what it answered: %w", x.result.Name, err)}
			}
			structured[x.result.ID] = v.Any()
		}
		for _, image := range x.extra.Images {
			images = append(images, image)
		}
	}
	data := map[string]any{}
	if len(structured) > 0 {
		data["structured"] = structured
	}
	if len(images) > 0 {
		data["images"] = images
	}
	var err error
	if len(data) > 0 {
		turn.Data, err = matrix.NewValue(data)
	}
	return turn, err
}

// wrong is the answer to a call that nobody can answer.
func wrong(call *matrix.ToolCall, why string) matrix.ToolResult {
	return matrix.ToolResult{ID: call.ID, Name: call.Name, Content: why, IsError: true}
}

// find is where a call of a tool by the newest turn is answered; nil where there is no such
// tool.
func (a *answerer) find(ctx context.Context, t *matrix.Task, name string) (*poolTools, error) {
	if a.pool != nil {
		return &poolTools{name: a.name, pool: a.pool}, nil
	}
	if tools := a.tools[t.Last().Role]; tools != nil {
		return tools.from(ctx, t, name)
	}
	return nil, nil
}

// unknown tells a model that there is no tool of a name.
func (a *answerer) unknown(ctx context.Context, t *matrix.Task, name string) string {
	msg := fmt.Sprintf("there is no tool %q", name)
	if tools := a.tools[t.Last().Role]; tools != nil {
		if s, err := tools.toolsFor(ctx, t); err == nil && s != nil {
			msg += "; there are " + s.names()
		}
	}
	return msg
}

func (a *answerer) answer(ctx context.Context, t *matrix.Task, call *matrix.ToolCall, at *poolTools, n int) (x answered) {
	switch pool := at.pool.(type) {
	case *Sandboxes:
		return at.run(ctx, t, call, pool, n)
	case tool.Pool:
		return callTool(ctx, t, call, at.name, pool, a.as, n)
	}
	return answered{err: &matrix.StopError{Err: fmt.Errorf("pool %s has no tools", at.name)}}
}

// callTool has a pool answer a call, the n-th of its step.
func callTool(ctx context.Context, t *matrix.Task, call *matrix.ToolCall, name string, pool tool.Pool, as string, n int) (x answered) {
	args := []byte(call.Arguments.Raw())
	r, err := pool.Call(within(ctx, t), taskOf(t, name), tool.Request{Key: stepKey(len(t.Turns), n), As: as, Name: call.Name, Arguments: args})
	if err != nil {
		return answered{err: toolFate(name, err)}
	}
	params := map[string]any{"name": call.Name, "arguments": call.Arguments.Any()}
	if as != "" {
		params["as"] = as
	}
	v, err := matrix.NewValue(params)
	if err != nil {
		return answered{err: &matrix.FailError{Err: err}}
	}
	trace := &matrix.Trace{ID: call.ID, IsError: r.IsError, Tool: call.Name, Lease: r.Trace.Lease, Generation: r.Trace.Generation, Restored: string(r.Trace.Restored), Changed: r.Changed}
	return answered{
		result: matrix.ToolResult{ID: call.ID, Name: call.Name, Content: r.Content, IsError: r.IsError},
		extra:  tool.Result{Structured: r.Structured, Images: r.Images},
		calls:  []matrix.Call{{Kind: matrix.KindTool, Name: name, Params: v, WaitMS: milliseconds(r.Trace.Wait), TookMS: milliseconds(r.Trace.Took), Trace: trace}},
	}
}

// toolFate is an error of a tool.Pool as that of an agent.
func toolFate(pool string, err error) error {
	named := fmt.Errorf("pool %s: %w", pool, err)
	switch {
	case errors.As(err, new(*tool.LostError)):
		return &matrix.RetryError{Err: named, After: lostAfter, Free: true}
	case errors.As(err, new(*tool.BrokenError)), errors.As(err, new(*tool.ChangedError)):
		return &matrix.StopError{Err: named}
	case errors.As(err, new(*tool.TaskError)):
		return &matrix.FailError{Err: named}
	}
	return err
}

// taskOf is what a pool of tools may know of t.
func taskOf(t *matrix.Task, pool string) tool.Task {
	return tool.Task{ID: t.ID, Row: t.Item.Raw(), Seed: t.Seed, Past: func() []tool.Request { return toolPast(t, pool) }}
}

// toolPast are the calls of t at a pool of tools, with what they were answered.
func toolPast(t *matrix.Task, pool string) (past []tool.Request) {
	for i := range t.Turns {
		turn := &t.Turns[i]
		n := 0
		for k := range turn.Calls {
			call := &turn.Calls[k]
			if call.Kind != matrix.KindTool || call.Name != pool {
				continue
			}
			p, _ := call.Params.Any().(map[string]any)
			name, _ := p["name"].(string)
			if p["op"] != nil || name == "" { // no call of a tool: how its state was made
				continue
			}
			r := tool.Request{Key: stepKey(i, n), Name: name, Changed: call.Trace == nil || call.Trace.Changed}
			n++
			r.As, _ = p["as"].(string)
			if v, err := matrix.NewValue(p["arguments"]); err == nil {
				r.Arguments = v.Raw()
			}
			for _, result := range turn.ToolResults {
				if call.Trace != nil && result.ID == call.Trace.ID {
					r.Content, r.IsError = result.Content, result.IsError
				}
			}
			past = append(past, r)
		}
	}
	return past
}
