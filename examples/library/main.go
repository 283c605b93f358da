// Command library runs Matrix as a library: two agents and a router in Go look
// for the secret number of each row. Run it twice, and it resumes.
//
//	go run ./examples/library examples/library/numbers.jsonl runs/library
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/run"
)

// guess halves what is left. All that it knows stands in the task.
func guess(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	low, high, n := 1, 100, 0
	for _, turn := range t.Turns {
		switch turn.Text {
		case "higher":
			low = n + 1
		case "lower":
			high = n - 1
		default:
			n, _ = strconv.Atoi(turn.Text)
		}
	}
	return matrix.Turn{Text: strconv.Itoa((low + high) / 2)}, nil
}

// keep compares the guess with the row's secret.
func keep(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	var row struct{ Secret int }
	if err := json.Unmarshal(t.Item.Raw(), &row); err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: err}
	}
	n, err := strconv.Atoi(t.Last().Text)
	return matrix.Turn{Text: []string{"lower", "yes", "higher"}[cmp.Compare(row.Secret, n)+1]}, err
}

// game is the router: it decides from the task alone.
type game struct{}

func (game) Start(*matrix.Task) matrix.Decision { return matrix.To("guesser") }

func (game) Next(t *matrix.Task) matrix.Decision {
	switch guesses := t.Rounds("guesser"); {
	case t.Last().Role == "guesser":
		return matrix.To("keeper")
	case t.Last().Text == "yes":
		return matrix.Finish(matrix.RawValue([]byte(strconv.Itoa(guesses))))
	case guesses == 8:
		return matrix.Fail("not found in 8 guesses")
	}
	return matrix.To("guesser")
}

// within gives each step of an agent a second, before it is tried again. So can
// any agent be watched, limited or answered for by what stands around it.
func within(role string, next matrix.Agent) matrix.Agent {
	late := fmt.Errorf("%s took longer than a second", role)
	return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, time.Second, late)
		defer cancel()
		return next.Act(ctx, t)
	})
}

// tell shows how each task ended as soon as that is durable.
func tell(e run.Event) {
	if e.Kind == run.TaskSettled {
		fmt.Fprintf(os.Stderr, "%s  %s %s\n", e.Task, e.Fate.Status, e.Why)
	}
}

// play runs the rows of a file to an end in dir. on is told of what happens.
func play(ctx context.Context, file, dir string, on func(run.Event)) (totals run.Totals, err error) {
	rows, err := dataset.Open(dataset.Options{Paths: []string{file}, IDField: "id"})
	if err != nil {
		return totals, err
	}
	queue, err := local.Open(filepath.Join(dir, "state"), local.Options{})
	if err != nil {
		return totals, err
	}
	defer func() { err = errors.Join(err, queue.Close()) }()
	output := func(name string) run.OpenSink {
		return func(checkpoint []byte) (matrix.Sink, error) {
			return dataset.OpenSink(dataset.OS{}, filepath.Join(dir, name), dataset.SinkOptions{}, checkpoint)
		}
	}
	r, err := run.New(ctx, run.Config{
		Source: rows, Shards: []run.Shard{{Store: queue, Outputs: map[matrix.Status]run.OpenSink{matrix.Done: output("data"), matrix.Failed: output("failed")}}},
		Router: game{},
		Roles: map[string]matrix.Role{
			"guesser": {Agent: matrix.AgentFunc(guess)},
			"keeper":  {Agent: matrix.AgentFunc(keep), Inline: true},
		},
		Middleware: []run.Middleware{within}, On: on,
		Metrics: map[string]matrix.Metric{
			"guesses": func(t *matrix.Task) (any, error) { return t.Rounds("guesser"), nil },
		},
	})
	if err != nil {
		return totals, err
	}
	err = r.Run(ctx)
	return r.Totals(), err
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: library ROWS.jsonl DIR")
	}
	totals, err := play(context.Background(), os.Args[1], os.Args[2], tell)
	if err != nil {
		log.Fatal(err)
	}
	guesses := totals.Metrics["guesses"]
	fmt.Printf("%d found, in %.1f guesses each; %d not found\n", totals.Done, guesses.Sum/float64(guesses.Count), totals.Failed)
}
