package session

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"matrix"
	"matrix/dataset"
	"matrix/internal/rundir"
	"matrix/internal/spend"
	"matrix/local"
	"matrix/run"
	"matrix/spec"
)

// Sample runs the first n rows, or n of them at random, in memory, within the budget of a whole run, and
// returns the tasks that ended, in the order in which they were fed. Nothing is
// written. It ends with a run.ErrStopped when ctx ends, and with an OutOfBudget.
func (p *Plan) Sample(ctx context.Context, n int, random bool) (tasks []*matrix.Task, err error) {
	store, err := local.Open(rundir.StateDir, local.Options{Memory: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	money, err := spend.Open(ctx, store, store, p.Run.Budget, p.Bills, run.Progress{})
	if err != nil {
		return nil, err
	}
	var ended memorySink
	c := p.engine()
	c.Until = nil // all n
	if p.Run.Trials == spec.TrialsUntil {
		c.Trials = 1
	}
	c.Source = dataset.First(p.Source, int64(n))
	if random {
		c.Source = dataset.Draw(p.Source, n, p.Run.Seed)
	}
	output := func([]byte) (matrix.Sink, error) { return &ended, nil }
	outputs := map[matrix.Status]run.OpenSink{}
	for _, status := range matrix.Ends() {
		outputs[status] = output
	}
	if p.judges() {
		j, err := p.openJudge(ctx, nil, 0)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, j.Close()) }()
		c.Judge = func([]byte) (run.Judge, error) { return j, nil }
	}
	c.Shards = []run.Shard{{Store: store, Outputs: outputs}}
	r, err := run.New(ctx, c)
	if err != nil {
		return nil, err
	}
	over := make(chan error, 1)
	go func() { over <- r.Run(ctx) }()
	spent := ""
	for running := true; running; {
		select {
		case err = <-over:
			running = false
		case why := <-money.Spent:
			spent = cmp.Or(spent, why)
			r.Drain()
		}
	}
	if spent != "" && errors.Is(err, run.ErrStopped) {
		err = &OutOfBudget{Why: spent}
	}
	slices.SortFunc(ended.tasks, func(a, b *matrix.Task) int { return cmp.Compare(a.Fed.UnixNano(), b.Fed.UnixNano()) })
	return ended.tasks, err
}

// memorySink is a sink that keeps tasks in memory.
type memorySink struct{ tasks []*matrix.Task }

func (s *memorySink) Write(_ context.Context, tasks []*matrix.Task) ([]matrix.Place, []byte, error) {
	places := make([]matrix.Place, len(tasks))
	for i := range tasks {
		places[i].Line = len(s.tasks) + i
	}
	s.tasks = append(s.tasks, tasks...)
	return places, []byte("{}"), nil
}

func (s *memorySink) Close() error { return nil }
