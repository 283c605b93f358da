package cli

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/dataset"
	"matrix/internal/human"
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
				return cobraErrorf("an ID names one task: leave out -n and --failed")
			}
			if n < 0 {
				return cobraErrorf("-n is %d: want 1 or more, or 0 for all", n)
			}
			a, err := openArchive(args[0])
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
			r, err := a.find(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			dataset.RestoreFormats(filepath.Join(a.dir, formatsDir), r.task)
			return showRecord(w, r, o)
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 3, "how many tasks; 0 for all")
	cmd.Flags().BoolVar(&failed, "failed", false, "failed tasks instead of finished ones")
	cmd.Flags().BoolVar(&full, "full", false, "unfold rows, data and samples; show the parameters of calls")
	cmd.Flags().BoolVar(&plain, "no-color", false, "no colours, in a terminal too (as NO_COLOR in the environment)")
	return cmd
}

// showFirst prints the first n tasks of a status.
func showFirst(cmd *cobra.Command, a *archive, status matrix.Status, n int, o printOptions) error {
	w := cmd.OutOrStdout()
	shown, more := 0, false
	err := a.each(cmd.Context(), status, func(l line) error {
		if more = n > 0 && shown == n; more {
			return errFound
		}
		r, err := l.record()
		if err != nil {
			return err
		}
		dataset.RestoreFormats(filepath.Join(a.dir, formatsDir), r.task)
		if shown > 0 {
			fmt.Fprint(w, "\n\n")
		}
		if err := showRecord(w, r, o); err != nil {
			return err
		}
		shown++
		return nil
	})
	if more && err == nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "There are more: -n 0 shows all, an ID one of them.")
	}
	if err != nil || shown > 0 {
		return err
	}
	what := "finished"
	if status == matrix.Failed {
		what = "failed"
	}
	yet := ""
	if a.busy {
		yet = " yet"
	} else if status == matrix.Done && a.has(cmd, matrix.Failed) {
		yet = fmt.Sprintf("; some have failed: matrix show %s --failed", a.dir)
	}
	_, err = fmt.Fprintf(w, "No task of %s has %s%s.\n", a.dir, what, yet)
	return err
}

// has reports whether there is a task of a status.
func (a *archive) has(cmd *cobra.Command, status matrix.Status) bool {
	found := false
	err := a.each(cmd.Context(), status, func(line) error {
		found = true
		return errFound
	})
	return err == nil && found
}

// showRecord prints a task and, under it, what it waits for where it is not
// finished.
func showRecord(w io.Writer, r *record, o printOptions) error {
	if err := printTask(w, r.task, o); err != nil {
		return err
	}
	if r.live == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s\n", o.Ink.dim(waits(r, "")))
	return err
}

// waits says where a task under way stands, and since when.
func waits(r *record, since string) string {
	if r.task.Outcome != nil {
		return "waits to be written to the output"
	}
	s := "waits for " + oneLine(r.live.Role) + since
	if r.live.Attempt > 0 {
		s += fmt.Sprintf(", %s spent at this step", human.Plural(int64(r.live.Attempt), "attempt"))
	}
	return s + "; goes on when the run does"
}
