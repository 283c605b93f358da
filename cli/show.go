package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/human"
	"matrix/internal/rundir"
)

func newShowCmd() *cobra.Command {
	var (
		n                   int
		failed, plain, full bool
	)
	cmd := &cobra.Command{
		Use:   "show DIR [ID]",
		Short: "Print dialogues of a run as a person would read them",
		Long: `Print the first finished tasks of a run, or the one with an ID wherever it is:
finished, failed, or under way in a run that has stopped. Data is folded to one
line each. It works while the run goes on, for what has been finished.`,
		Example: `  matrix show runs/coral            # the first three
  matrix show runs/coral 17         # one task
  matrix show runs/coral 17 --full  # with its row, all data, samples and parameters
  matrix show runs/coral --failed   # those that failed, with their cause`,
		Args: argsBetween(1, 2, "DIR, the folder of a run, and at most one ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && (failed || cmd.Flags().Changed("number")) {
				return flagErrorf("an ID names one task: leave out -n and --failed")
			}
			if n < 0 {
				return flagErrorf("-n is %d: want 1 or more, or 0 for all", n)
			}
			a, err := openOutput(cmd, args)
			if err != nil {
				return err
			}
			defer a.Close()
			w := cmd.OutOrStdout()
			o := printOn(w, plain, full)
			if len(args) == 1 {
				status := matrix.Done
				if failed {
					status = matrix.Failed
				}
				return showFirst(cmd, a, status, n, o)
			}
			r, err := a.Find(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			return showRecord(w, r, o)
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 3, "how many tasks; 0 for all")
	cmd.Flags().BoolVar(&failed, "failed", false, "failed tasks instead of finished ones")
	cmd.Flags().BoolVar(&full, "full", false, "unfold rows, data and samples; show the parameters of calls")
	cmd.Flags().BoolVar(&plain, "no-color", false, "no colours, in a terminal too (as NO_COLOR in the environment)")
	return cmd
}

// openOutput opens the folder of a run that args name, DIR and perhaps ID.
func openOutput(cmd *cobra.Command, args []string) (*rundir.Dir, error) {
	a, err := rundir.OpenOutput(cmd.Context(), args[0])
	if err != nil && len(args) == 2 && !isFile(args[0]) && isFile(args[1]) {
		return nil, flagErrorf("the folder comes first: write\n  %s %s %s", cmd.CommandPath(), shellWord(args[1]), shellWord(args[0]))
	}
	return a, err
}

// showFirst prints the first n tasks of a status.
func showFirst(cmd *cobra.Command, a *rundir.Dir, status matrix.Status, n int, o printOptions) error {
	w := cmd.OutOrStdout()
	shown, more := 0, false
	for r, err := range a.Tasks(cmd.Context(), status) {
		if more = n > 0 && shown == n; more {
			break
		}
		if err != nil {
			return err
		}
		if shown > 0 {
			fmt.Fprint(w, "\n\n")
		}
		if err := showRecord(w, r, o); err != nil {
			return err
		}
		shown++
	}
	if more {
		fmt.Fprintln(cmd.ErrOrStderr(), "There are more: -n 0 shows all, an ID one of them.")
	}
	if shown > 0 {
		return nil
	}
	what := "finished"
	if status == matrix.Failed {
		what = "failed"
	}
	yet := ""
	if a.Busy() {
		yet = " yet"
	} else if status == matrix.Done && has(cmd, a, matrix.Failed) {
		yet = fmt.Sprintf("; some have failed: matrix show %s --failed", a.Path)
	}
	_, err := fmt.Fprintf(w, "No task of %s has %s%s.\n", a.Path, what, yet)
	return err
}

// has reports whether there is a task of a status.
func has(cmd *cobra.Command, a *rundir.Dir, status matrix.Status) bool {
	for _, err := range a.Tasks(cmd.Context(), status) {
		return err == nil
	}
	return false
}

// showRecord prints a task and, under it, what it waits for where it is not
// finished.
func showRecord(w io.Writer, r *rundir.Record, o printOptions) error {
	if err := printTask(w, r.Task, o); err != nil {
		return err
	}
	if r.Live == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s\n", o.Color.dim(waits(r, "")))
	return err
}

// waits says where a task under way stands, and since when.
func waits(r *rundir.Record, since string) string {
	if r.Task.Outcome != nil {
		return "waits to be written to the output"
	}
	s := "waits for " + oneLine(r.Live.Role) + since
	if r.Live.Attempt > 0 {
		s += fmt.Sprintf(", %s spent at this step", human.Plural(int64(r.Live.Attempt), "attempt"))
	}
	return s + "; goes on when the run does"
}
