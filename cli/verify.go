package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/run"
	"matrix/session"
)

func newVerifyCmd() *cobra.Command {
	var asJSON, complete bool
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Prove that a run has lost nothing and doubled nothing",
		Long: `Verify reads the dataset, the ledger and the output of a run again, and proves
that every row is exactly one of done, failed and pending, and that each done or
failed task stands in the output exactly once. It exits 1 and names the culprits
where that does not hold. The run must not be under way.`,
		Example: `  matrix verify runs/coral
  matrix verify runs/coral --complete --json`,
		Args:              argsBetween(1, 1, "DIR, the folder of a run"),
		ValidArgsFunction: completeFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := rundir.Open(args[0])
			if err != nil {
				return err
			}
			return verify(cmd, r, asJSON, complete)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&complete, "complete", false, "also demand that no task is pending, and that no row may come")
	return cmd
}

// verify audits a run, prints what it finds, and closes it.
func verify(cmd *cobra.Command, r *rundir.Dir, asJSON, complete bool) error {
	defer r.Close()
	a, err := session.Verify(cmd.Context(), r)
	if err != nil {
		return err
	}
	damaged, grew := !a.OK, a.Grew && a.Faults == 1
	if complete && a.Pending > 0 {
		a.OK = false
		a.Faults++
		a.Culprits = append(a.Culprits, fmt.Sprintf("%s pending: the run is not complete", human.Plural(a.Pending, "task")+human.Is(a.Pending)))
	}
	if complete && a.Grows {
		a.OK = false
		a.Faults++
		a.Culprits = append(a.Culprits, "rows may still be appended to the dataset: the run is not complete")
	}
	if asJSON {
		if err := printJSON(cmd.OutOrStdout(), a); err != nil {
			return err
		}
	} else {
		printAudit(cmd.OutOrStdout(), r.Path, a)
		switch {
		case grew:
			fmt.Fprintln(cmd.OutOrStdout(), "Rows were appended, and the others are as they were: 'matrix run' with --accept-changes runs those that are new.")
		case damaged && a.Changed:
			fmt.Fprintln(cmd.OutOrStdout(), "Restore the dataset, and verify again: what is done of rows that are not there any more counts as lost, and a repair would drop it.")
		case damaged:
			fmt.Fprintf(cmd.OutOrStdout(), "Restore the files; or 'matrix repair %s' makes a state out of all that is still good.\n", shellWord(r.Path))
		}
	}
	if !a.OK {
		return errSilent
	}
	return nil
}

// completeFolder lets the shell complete the names of folders.
func completeFolder(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func printAudit(w io.Writer, dir string, a *run.Audit) {
	parts := append(ended(run.Totals{Done: a.Done, Dropped: a.Dropped, Expanded: a.Expanded, Failed: a.Failed}), human.Commas(a.Pending)+" pending")
	if a.Unused > 0 {
		parts = append(parts, human.Commas(a.Unused)+" unused")
	}
	kin := ""
	if a.Children > 0 {
		kin = fmt.Sprintf(" (%s of rows, %s of tasks that expanded)", human.Commas(a.Tasks-a.Children), human.Commas(a.Children))
	}
	fmt.Fprintf(w, "%s: %s%s = %s\n", dir, human.Plural(a.Tasks, "task"), kin, strings.Join(parts, " + "))
	if a.Tail > 0 {
		fmt.Fprintf(w, "%s written and not committed, as a kill or a full disk leaves them: the next run writes them again.\n", human.Plural(a.Tail, "line")+human.Is(a.Tail))
	}
	if a.OK {
		fmt.Fprintln(w, "OK: nothing is lost, nothing is doubled.")
		if a.Unproven {
			fmt.Fprintln(w, "Of the rows this says nothing: the run went on over others than it began with (--accept-changes).")
		}
		if a.Grows {
			fmt.Fprintln(w, "Rows may still be appended to the dataset (dataset.follow): this speaks of those that there are.")
		}
		return
	}
	fmt.Fprintf(w, "NOT OK: %s\n", human.Plural(a.Faults, "fault"))
	for _, c := range a.Culprits {
		fmt.Fprintln(w, "  "+oneLine(c))
	}
	if more := a.Faults - int64(len(a.Culprits)); more > 0 {
		fmt.Fprintf(w, "  and %s more\n", human.Commas(more))
	}
}
