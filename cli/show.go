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
		n                         int
		failed, dropped, expanded bool
		plain, full, noPager      bool
		where, sort               string
	)
	cmd := &cobra.Command{
		Use:   "show DIR [ID]",
		Short: "Print dialogues of a run as a person would read them",
		Long: `Print the first finished tasks of a run, or the one with an ID wherever it is:
done, dropped, failed, or under way in a run that has stopped. Data is folded to one
line each. It works while the run goes on, for what has been finished.

--where picks tasks by an expression as in flows, which also knows the metrics by
their names (and as metrics), value, stopped, cause and fault. --sort orders them by a
metric or such an expression, the smallest first; a - before it puts the largest
first. Tasks of which it says nothing come last.`,
		Example: `  matrix show runs/coral            # the first three
  matrix show runs/coral 17         # one task
  matrix show runs/coral 17 --full  # with its row, all data, samples and parameters
  matrix show runs/coral --failed   # those that failed, with their cause
  matrix show runs/coral --dropped  # those that the flow did not want, and why
  matrix show runs/coral --sort score -n 5      # the five worst
  matrix show runs/coral --sort '-len(turns)' --where 'value == true'`,
		Args: argsBetween(1, 2, "DIR, the folder of a run, and at most one ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && (failed || dropped || expanded || where != "" || sort != "" || cmd.Flags().Changed("number")) {
				return flagErrorf("an ID names one task: leave out -n, --failed, --dropped, --expanded, --where and --sort")
			}
			for name, text := range map[string]string{"where": where, "sort": sort} {
				if text == "" && cmd.Flags().Changed(name) {
					return flagErrorf("--%s is empty: want an expression, or leave it out", name)
				}
			}
			if n < 0 {
				return flagErrorf("-n is %d: want 1 or more, or 0 for all", n)
			}
			if n == 0 && sort != "" {
				return flagErrorf("-n is 0: --sort holds what it shows in memory, say how many")
			}
			a, err := openOutput(cmd, args)
			if err != nil {
				return err
			}
			defer a.Close()
			o := printOn(cmd.OutOrStdout(), plain, full)
			if len(args) == 1 {
				status := matrix.Done
				for s, wanted := range map[matrix.Status]bool{matrix.Failed: failed, matrix.Dropped: dropped, matrix.Expanded: expanded} {
					if wanted {
						status = s
					}
				}
				p, err := newPick(cmd.Context(), a, where, sort)
				if err != nil {
					return err
				}
				return showFirst(cmd, a, p, status, n, o, noPager)
			}
			r, err := a.Find(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			return paged(cmd, noPager, func(w io.Writer) error { return showRecord(w, r, o) })
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 3, "how many tasks; 0 for all")
	cmd.Flags().BoolVar(&failed, "failed", false, "failed tasks instead of finished ones")
	cmd.Flags().BoolVar(&dropped, "dropped", false, "tasks that were dropped instead")
	cmd.Flags().BoolVar(&expanded, "expanded", false, "tasks that became others instead")
	cmd.MarkFlagsMutuallyExclusive("failed", "dropped", "expanded")
	cmd.Flags().BoolVar(&full, "full", false, "unfold rows, data and samples; show the parameters of calls")
	cmd.Flags().StringVar(&where, "where", "", "only tasks for which the expression holds")
	cmd.Flags().StringVar(&sort, "sort", "", "by a metric or an expression, the smallest first; with a - before it the largest")
	pageFlags(cmd, &plain, &noPager)
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

// showFirst prints the first n tasks of a status that p wants.
func showFirst(cmd *cobra.Command, a *rundir.Dir, p *pick, status matrix.Status, n int, o printOptions, noPager bool) error {
	var found []*rundir.Record
	shown, more := 0, false
	if p.sorts() {
		var err error
		if found, more, err = p.first(cmd.Context(), a, status, n); err != nil {
			return err
		}
	}
	err := paged(cmd, noPager, func(w io.Writer) error {
		show := func(r *rundir.Record) error {
			if shown++; shown > 1 {
				fmt.Fprint(w, "\n\n")
			}
			return showRecord(w, r, o)
		}
		for _, r := range found {
			if err := show(r); err != nil {
				return err
			}
		}
		if p.sorts() {
			return nil
		}
		for r, err := range a.Tasks(cmd.Context(), status) {
			full := n > 0 && shown == n
			if err != nil && full { // of what is not shown
				more = true
				break
			} else if err != nil {
				return err
			}
			if ok, err := p.wants(r); err != nil {
				return err
			} else if !ok {
				continue
			}
			if more = full; more {
				break
			}
			if err := show(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if more {
		fmt.Fprintln(cmd.ErrOrStderr(), moreOf(p))
	}
	if shown > 0 {
		return nil
	}
	w := cmd.OutOrStdout()
	what := map[matrix.Status]string{matrix.Done: "finished", matrix.Dropped: "been dropped", matrix.Expanded: "become others", matrix.Failed: "failed"}[status]
	yet := ""
	if p.where != nil && has(cmd, a, status) {
		_, err := fmt.Fprintf(w, "Of the tasks of %s that have %s none is such that %s.\n", a.Path, what, p.where)
		return err
	}
	if a.Busy() {
		yet = " yet"
	} else if status == matrix.Done && has(cmd, a, matrix.Dropped) {
		yet = fmt.Sprintf("; some were dropped: matrix show %s --dropped", a.Path)
	} else if status == matrix.Done && has(cmd, a, matrix.Failed) {
		yet = fmt.Sprintf("; some have failed: matrix show %s --failed", a.Path)
	}
	_, err = fmt.Fprintf(w, "No task of %s has %s%s.\n", a.Path, what, yet)
	return err
}

// moreOf says how more tasks are shown.
func moreOf(p *pick) string {
	if p.sorts() {
		return "There are more: a larger -n shows them, an ID one of them."
	}
	return "There are more: -n 0 shows all, an ID one of them."
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

// waitsFor is whom, or what, a task under way waits for.
func waitsFor(r *rundir.Record) string {
	x := r.Task.Expansion
	if x == nil || r.Live.Role == x.Then {
		return oneLine(r.Live.Role)
	}
	all := human.Commas(len(x.Items))
	if begun := r.Task.Expanded - x.First; begun < len(x.Items) {
		return fmt.Sprintf("its children to begin (%s of %s have)", human.Commas(begun), all)
	}
	return fmt.Sprintf("its children to end (%s of %s have)", human.Commas(len(r.Task.Children)), all)
}

// waits says where a task under way stands, and since when.
func waits(r *rundir.Record, since string) string {
	if r.Task.Outcome != nil {
		return "waits to be written to the output"
	}
	s := "waits for " + waitsFor(r) + since
	if r.Live.Attempt > 0 {
		s += fmt.Sprintf(", %s spent at this step", human.Plural(int64(r.Live.Attempt), "attempt"))
	}
	return s + "; goes on when the run does"
}
