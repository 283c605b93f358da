package tool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"matrix/internal/stopping"
)

// lease is the lease of a task, for who makes a call: nobody else has it until free.
func (p *MCP) lease(ctx context.Context, t Task) (l *mcpLease, free func(), err error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, nil, &LostError{errors.New("the pool is closed")}
	}
	if l = p.leases[t.ID]; l == nil {
		l = &mcpLease{}
		p.leases[t.ID] = l
	}
	l.busy = true
	p.mu.Unlock()
	l.mu.Lock()
	return l, func() {
		l.mu.Unlock()
		p.mu.Lock()
		l.busy, l.used = false, time.Now()
		p.mu.Unlock()
	}, nil
}

// give gives up the process of a lease that nobody else has.
func (p *MCP) give(l *mcpLease) {
	if l.now != nil {
		p.work.Go(l.now.end)
		l.now, l.done = nil, nil
		if p.config.In == "" {
			<-p.slots
		}
	}
}

// room waits for a place for one more process.
func (p *MCP) room(ctx context.Context) error {
	if p.config.In != "" {
		return nil // its sandbox had to find one
	}
	wait, free := stopping.Wait(ctx)
	defer free()
	look := time.NewTicker(max(p.config.Park/4, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case p.slots <- struct{}{}:
			return nil
		case <-wait.Done():
			return context.Cause(wait)
		case <-look.C:
			p.park()
		}
	}
}

// park gives up a process that was not used for a while, and can be made again.
func (p *MCP) park() {
	if p.config.Restore != restoreReplay {
		return
	}
	var oldest *mcpLease
	p.mu.Lock()
	for _, l := range p.leases {
		if !l.busy && !l.used.IsZero() && time.Since(l.used) >= p.config.Park && (oldest == nil || l.used.Before(oldest.used)) {
			oldest = l
		}
	}
	if oldest != nil {
		oldest.used = time.Time{}
	}
	p.mu.Unlock()
	if oldest != nil {
		oldest.mu.Lock()
		p.give(oldest)
		oldest.mu.Unlock()
	}
}

// live sees to it that a task has a process whose state has seen the task's past.
func (p *MCP) live(ctx context.Context, t Task, l *mcpLease) error {
	var past []Request
	if t.Past != nil {
		past = t.Past()
	}
	if l.now != nil && (l.now.lost.Load() || l.now.process != nil && !alive(l.now.process) || !l.saw(past)) {
		p.give(l)
	}
	if l.now != nil {
		l.restored = Live
		return nil
	}
	again := l.generation > 0 || len(past) > 0
	if again && p.config.Restore == restoreNone {
		return &TaskError{Task: t.ID, Err: errors.New("the process that held its state is gone, and restore is none")}
	}
	if err := p.room(ctx); err != nil {
		return err
	}
	s, err := p.fresh(ctx, t)
	if err != nil {
		if p.config.In == "" {
			<-p.slots
		}
		return err
	}
	l.now, l.restored = s, Fresh
	l.generation++
	if l.generation == 1 && again {
		l.generation = 2 // an earlier one was elsewhere
	}
	if p.config.Restore != restoreReplay {
		for _, r := range past { // they are known of, if not to the server
			l.done = append(l.done, mcpDone{r.Key, r.Name, string(r.Arguments), Result{Content: r.Content, IsError: r.IsError}})
		}
		return nil
	}
	for _, r := range past {
		if err := p.replay(ctx, t, l, r); err != nil {
			p.give(l)
			return err
		}
	}
	if again {
		l.restored = Replay
	}
	return nil
}

// replay makes a call of the past again.
func (p *MCP) replay(ctx context.Context, t Task, l *mcpLease, r Request) error {
	p.mu.Lock()
	x := p.tools[r.Name]
	p.mu.Unlock()
	d := mcpDone{r.Key, r.Name, string(r.Arguments), Result{Content: r.Content, IsError: r.IsError}}
	if x == nil || misfit(x.schema, r.Arguments) != "" || !r.Changed {
		l.done = append(l.done, d) // it did nothing, and would do nothing again
		return nil
	}
	got, err := p.ask(ctx, l.now, x, r)
	if err != nil {
		return err
	}
	if got.IsError != r.IsError {
		return &TaskError{Task: t.ID, Err: fmt.Errorf("its state cannot be made again: %s, which was answered with error: %v, is now answered with error: %v (%s)", r.Name, r.IsError, got.IsError, shorten(got.Content, 200))}
	}
	l.done = append(l.done, d)
	return nil
}

// saw reports whether the state of l has seen past, and beyond it nothing but calls of the step
// that is under way.
func (l *mcpLease) saw(past []Request) bool {
	if len(l.done) < len(past) {
		return false
	}
	for i, r := range past {
		if d := l.done[i]; d.key != r.Key || d.name != r.Name || !sameJSON(d.arguments, string(r.Arguments)) {
			return false
		}
	}
	return true
}

// callOfTask makes a call in the process of a task, or answers it as before.
func (p *MCP) callOfTask(ctx context.Context, t Task, x *mcpTool, r Request) (Result, error) {
	began := time.Now()
	l, free, err := p.lease(ctx, t)
	if err != nil {
		return Result{}, err
	}
	defer free()
	for range 2 {
		if err := p.live(ctx, t, l); err != nil {
			return Result{}, err
		}
		i := l.find(r.Key)
		if i < 0 {
			break
		}
		if d := l.done[i]; d.name == r.Name && sameJSON(d.arguments, string(r.Arguments)) {
			return p.traced(t, l, d.result), nil
		}
		// The step that is under way asks for something else now than when it was begun
		// before: what its state has seen is not what is committed.
		p.give(l)
	}
	waited := time.Since(began)
	result, err := p.ask(ctx, l.now, x, r)
	if err != nil {
		return Result{}, err
	}
	l.done = append(l.done, mcpDone{r.Key, r.Name, string(r.Arguments), result})
	result.Trace.Wait = waited
	return p.traced(t, l, result), nil
}

func (l *mcpLease) find(key string) int {
	for i, d := range l.done {
		if d.key == key {
			return i
		}
	}
	return -1
}

func (p *MCP) traced(t Task, l *mcpLease, r Result) Result {
	r.Trace.Lease, r.Trace.Generation, r.Trace.Restored = p.name+"/"+t.ID, l.generation, l.restored
	return r
}
