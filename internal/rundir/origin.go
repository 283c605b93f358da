package rundir

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/run"
)

// Origin is where a reply came from.
type Origin struct {
	Model    string // as the service called itself
	Endpoint string // its address
}

// Answered is the origin of the first reply of a model that the outputs have, as
// far as they can be read; its fields are empty where there is none.
func (o *Claim) Answered(ctx context.Context, model string) (r Origin) {
	const most = 1000 // tasks that are looked at
	enough := errors.New("enough")
	n := 0
	look := func(_, _ int, line []byte) error {
		if n++; n > most {
			return enough
		}
		t, err := dataset.ParseTask(line)
		if err != nil {
			return enough
		}
		for c := range t.Calls() {
			if c.Name == model && c.Model != "" && c.Reused == nil {
				r = Origin{c.Model, c.Endpoint}
				return enough
			}
		}
		return nil
	}
	for _, status := range []matrix.Status{matrix.Done, matrix.Dropped, matrix.Failed} {
		for k, q := range o.queues {
			if n = 0; r.Model == "" {
				// What a killed process left torn ends the search; whether it is a fault, the run tells.
				checkpoint, _ := run.OutputCheckpoint(ctx, q, status)
				_ = dataset.ReadOutput(dataset.OS{}, o.path(OutputDir(status)), dataset.Shard{K: k, Of: len(o.queues)}, checkpoint, look)
			}
		}
	}
	return r
}

// Done are the tasks that are done, as far as their lines can be read.
func (o *Claim) Done(ctx context.Context) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		enough := errors.New("enough")
		for k, q := range o.queues {
			checkpoint, err := run.OutputCheckpoint(ctx, q, matrix.Done)
			if err == nil {
				err = dataset.ReadOutput(dataset.OS{}, o.path(DataDir), dataset.Shard{K: k, Of: len(o.queues)}, checkpoint, func(_, _ int, line []byte) error {
					t, err := dataset.ParseTask(line)
					if err == nil && !yield(t, nil) { // whether what cannot be read is a fault, the run tells
						return enough
					}
					return ctx.Err()
				})
			}
			switch {
			case errors.Is(err, enough):
				return
			case err != nil && !errors.Is(err, fs.ErrNotExist):
				yield(nil, err)
				return
			}
		}
	}
}

// named reports whether key is the name of a model that was not named before, and
// is now as its service called itself.
func (o *Claim) named(ctx context.Context, key string, before, now *config.Tree) bool {
	path, ok := strings.CutSuffix(key, ".model")
	name, isModel := strings.CutPrefix(path, "models.")
	if !ok || !isModel || before.Root().Get(path).Text("model") != "" {
		return false
	}
	was := o.Answered(ctx, name)
	return was.Model != "" && was.Model == now.Root().Get(path).Text("model")
}
