package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/local"
	"matrix/registry"
	"matrix/run"
	"matrix/rundir"
	"matrix/spend"
)

func newPreviewCmd(p Program) *cobra.Command {
	var n int
	var full bool
	cmd := &cobra.Command{
		Use:   "preview CONFIG [key=value ...]",
		Short: "Run a few rows in memory and print the dialogues",
		Long: `Preview runs the first rows of a config and prints what became of them. Nothing is
written: no output, no state, no recording of replies.`,
		Example: `  matrix preview examples/coral
  matrix preview examples/coral -n 1 rounds=4`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 {
				return cobraErrorf("-n is %d: want 1 or more", n)
			}
			return preview(p, cmd, args, n, full)
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 3, "how many rows")
	cmd.Flags().BoolVar(&full, "full", false, "unfold rows, data and samples")
	return cmd
}

func preview(program Program, cmd *cobra.Command, args []string, n int, full bool) (err error) {
	p, err := program.loadPlan(args[0], args[1:], registry.ToCheck)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	tasks, fault := runFirst(cmd, p, n)

	w := cmd.OutOrStdout()
	o := printOn(w, false, full)
	for i, t := range tasks {
		if i > 0 {
			fmt.Fprint(w, "\n\n")
		}
		if err := printTask(w, t, o); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(fault, run.ErrStopped):
		return &stoppedError{"Stopped."}
	case fault != nil:
		return fault
	case len(tasks) == 0:
		fmt.Fprintf(w, "The dataset has no rows: %s\n", strings.Join(p.Run.Dataset.Path, ", "))
	}
	return nil
}

// runFirst runs the first n rows in memory, within the budget of a whole run, and
// returns the tasks that ended, in the order in which they were fed.
func runFirst(cmd *cobra.Command, p *plan, n int) (tasks []*matrix.Task, err error) {
	store, err := local.Open(rundir.StateDir, local.Options{Memory: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	purse, err := spend.Open(cmd.Context(), store, p.Run.Budget, p.Bills, run.Progress{})
	if err != nil {
		return nil, err
	}
	var ended shelf
	c := engine(p)
	c.Source = &firstRows{Source: p.Source, n: int64(n)}
	c.Store = store
	c.Done = func([]byte) (matrix.Sink, error) { return &ended, nil }
	c.Failed = c.Done
	r, err := run.New(cmd.Context(), c)
	if err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	defer stop()
	over := make(chan error, 1)
	go func() { over <- r.Run(ctx) }()
	why, err := previewed(cmd.ErrOrStderr(), p, r, purse, over)
	if why != "" && errors.Is(err, run.ErrStopped) {
		err = &stoppedError{fmt.Sprintf("Stopped: %s. Fewer rows need less.", why)}
	}
	slices.SortFunc(ended.tasks, func(a, b *matrix.Task) int { return cmp.Compare(a.Fed.UnixNano(), b.Fed.UnixNano()) })
	return ended.tasks, err
}

// previewed waits for a preview to end, and says what it is waiting for. broke is
// why nothing more can be paid, where that has ended it.
func previewed(w io.Writer, p *plan, r *run.Run, purse *spend.Tracker, over <-chan error) (broke string, err error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := map[string]bool{}
	for {
		select {
		case err := <-over:
			return broke, err
		case why := <-purse.Spent:
			broke = cmp.Or(broke, why)
			r.Land()
			continue
		case <-tick.C:
		}
		for name, m := range p.Models {
			switch s := m.Stats(); {
			case said[name]:
			case s.Paused != nil:
				said[name] = true
				fmt.Fprintf(w, "%s is paused: %s. It is tried again; Ctrl-C gives up.\n", name, oneLine(s.Paused.String()))
			case s.Note != nil:
				said[name] = true
				fmt.Fprintf(w, "%s: %s. Ctrl-C gives up.\n", name, oneLine(s.Note.String()))
			}
		}
	}
}

// firstRows is the beginning of a dataset.
type firstRows struct {
	matrix.Source
	n int64
}

var errEnoughRows = errors.New("enough rows")

func (s *firstRows) Rows(ctx context.Context, from matrix.Position, f func(matrix.Row) error) error {
	seen := int64(0)
	err := s.Source.Rows(ctx, from, func(r matrix.Row) error {
		if seen == s.n {
			return errEnoughRows
		}
		seen++
		return f(r)
	})
	if errors.Is(err, errEnoughRows) {
		return nil
	}
	return err
}

// Count is not worth a walk over the dataset.
func (s *firstRows) Count(context.Context) (int64, error) { return s.n, nil }

// shelf is a sink that keeps tasks in memory.
type shelf struct{ tasks []*matrix.Task }

func (s *shelf) Write(_ context.Context, tasks []*matrix.Task) ([]matrix.Place, []byte, error) {
	places := make([]matrix.Place, len(tasks))
	for i := range tasks {
		places[i].Line = len(s.tasks) + i
	}
	s.tasks = append(s.tasks, tasks...)
	return places, []byte("{}"), nil
}

func (s *shelf) Close() error { return nil }
