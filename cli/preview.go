package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/llm"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
)

func newPreviewCmd(p Program) *cobra.Command {
	var n int
	var full, random bool
	cmd := &cobra.Command{
		Use:   "preview CONFIG [key=value ...]",
		Short: "Run a few rows in memory and print the dialogues",
		Long: `Preview runs the first rows of a config and prints what became of them. Nothing is
written: no output, no state, no recording of replies.`,
		Example: `  matrix preview examples/coral
  matrix preview examples/coral -n 1 rounds=4
  matrix preview examples/coral --random seed=2`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 {
				return flagErrorf("-n is %d: want 1 or more", n)
			}
			return preview(p, cmd, args, n, full, random)
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 3, "how many rows")
	cmd.Flags().BoolVar(&random, "random", false, "rows from anywhere in the dataset, chosen by the config's seed, in place of the first")
	cmd.Flags().BoolVar(&full, "full", false, "unfold rows, data and samples")
	return cmd
}

func preview(program Program, cmd *cobra.Command, args []string, n int, full, random bool) (err error) {
	p, err := program.loadPlan(args[0], args[1:], registry.ToCheck)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	tasks, fault := runSome(cmd, p, n, random)

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

// runSome runs the first n rows, or n of them at random, in memory, and says meanwhile what it waits for.
// A signal ends it.
func runSome(cmd *cobra.Command, p *session.Plan, n int, random bool) ([]*matrix.Task, error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	defer stop()
	ended := make(chan struct{})
	var said sync.WaitGroup
	said.Go(func() { printPauses(cmd.ErrOrStderr(), p.Models, ended) })
	tasks, err := p.Sample(ctx, n, random)
	close(ended)
	said.Wait()
	var spent *session.OutOfBudget
	if errors.As(err, &spent) {
		err = &stoppedError{fmt.Sprintf("Stopped: %s. Fewer rows need less.", spent.Why)}
	}
	return tasks, err
}

// printPauses says once of each model that it is in trouble, until ended.
func printPauses(w io.Writer, models map[string]llm.Model, ended <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := map[string]bool{}
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		for name, m := range models {
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
