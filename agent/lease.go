package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"matrix"
	"matrix/tool"
)

// Leases knows what lease("NAME") is: what the state of a task in a pool says of itself,
// and the values that it shares with others. What a state says is a call of the turn
// before which it was made, with the params {"op": "open", "data", "shared"}: it is in
// the task from then on, and the values, of which each may be large, are not.
type Leases struct {
	constants sync.Map // hash to the value, parsed
}

// Wrap gives an agent the states of pools.
func (l *Leases) Wrap(next matrix.Agent, pools map[string]tool.Stateful) matrix.Agent {
	return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		with := *t
		var opened []matrix.Call
		var err error
		if with.Leases, opened, err = l.Of(ctx, t, pools); err != nil {
			return matrix.Turn{}, err
		}
		turn, err := next.Act(ctx, &with)
		turn.Calls = append(opened, turn.Calls...)
		return turn, err
	})
}

// Of are the states of t in pools, and the calls that they took, of which the task does not
// tell yet.
func (l *Leases) Of(ctx context.Context, t *matrix.Task, pools map[string]tool.Stateful) (map[string]any, []matrix.Call, error) {
	states := make(map[string]any, len(pools))
	var opened []matrix.Call
	for name, pool := range pools {
		call, err := l.opened(ctx, t, name, pool)
		if err != nil {
			return nil, nil, toolFate(name, err)
		}
		if call.TookMS >= 0 {
			opened = append(opened, *call)
		}
		if states[name], err = l.value(ctx, t, name, pool, call); err != nil {
			return nil, nil, toolFate(name, err)
		}
	}
	return states, opened, nil
}

const openOp = "open"

// opened is the call that tells what the state of t says of itself. One that the task
// has already is marked by a negative time.
func (l *Leases) opened(ctx context.Context, t *matrix.Task, name string, pool tool.Stateful) (*matrix.Call, error) {
	for c := range t.Calls() {
		if c.Kind == matrix.KindTool && c.Name == name {
			if p, _ := c.Params.Any().(map[string]any); p["op"] == openOp {
				return &matrix.Call{Params: c.Params, TookMS: -1}, nil
			}
		}
	}
	o, trace, err := pool.State(ctx, taskOf(t, name))
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(struct {
		Op string `json:"op"`
		tool.Opened
	}{openOp, o})
	if err != nil {
		return nil, err
	}
	params, err := matrix.ParseValue(raw)
	if err != nil {
		return nil, &tool.TaskError{Task: t.ID, Err: fmt.Errorf("what its state says of itself: %w", err)}
	}
	return &matrix.Call{Kind: matrix.KindTool, Name: name, Params: params, WaitMS: milliseconds(trace.Wait), TookMS: milliseconds(trace.Took)}, nil
}

// value is what lease(name) is.
func (l *Leases) value(ctx context.Context, t *matrix.Task, name string, pool tool.Stateful, call *matrix.Call) (any, error) {
	p, _ := call.Params.Any().(map[string]any)
	out := map[string]any{}
	data, ok := p["data"].(map[string]any)
	if !ok && p["data"] != nil {
		return nil, &tool.TaskError{Task: t.ID, Err: errors.New("what its state says of itself is no object")}
	}
	for k, v := range data {
		out[k] = v
	}
	shared, _ := p["shared"].(map[string]any)
	for k, hash := range shared {
		hash, _ := hash.(string)
		v, ok := l.constants.Load(name + "/" + hash)
		if !ok {
			raw, err := pool.Constant(ctx, taskOf(t, name), hash)
			if err != nil {
				return nil, err
			}
			parsed, err := matrix.ParseValue(raw)
			if err != nil {
				return nil, &tool.TaskError{Task: t.ID, Err: fmt.Errorf("the shared value %s: %w", k, err)}
			}
			v, _ = l.constants.LoadOrStore(name+"/"+hash, parsed.Any())
		}
		out[k] = v
	}
	return out, nil
}
