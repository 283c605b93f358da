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

func newRepairCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "repair DIR",
		Short: "Bring a run with a damaged state or output back to what is still good",
		Long: `Repair makes a new state for a run whose state or output is damaged: bits that
have flipped, files that were cut, deleted, edited or restored from a backup.

It believes the output: each whole line of it that is a task of this run counts
as finished. Tasks that do not stand there go on where the old state still knows
of them, and begin again where it does not. It prints what is lost, keeps the old
state and each part that it changed in DIR/before-repair, and then verifies.
It needs the dataset as it was, and the run must not be under way.

Exit codes: 0 the run is whole again, 1 it is not.`,
		Example:           `  matrix repair runs/coral`,
		Args:              argsBetween(1, 1, "DIR, the folder of a run"),
		ValidArgsFunction: completeFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := rundir.Open(args[0])
			if err != nil {
				return err
			}
			found, err := session.Repair(cmd.Context(), r)
			if err != nil {
				return fmt.Errorf("repair %s: %w", r.Path, advised(err))
			}
			if found != nil {
				printRepair(cmd.OutOrStdout(), found)
			}
			return verify(cmd, r, false, false)
		},
	}
}

func printRepair(w io.Writer, r *rundir.Repaired) {
	for i, err := range r.Faults {
		if i == 10 {
			fmt.Fprintf(w, "... and %s more\n", human.Plural(int64(len(r.Faults)-i), "fault"))
			break
		}
		fmt.Fprintf(w, "Found: %s\n", oneLine(err.Error()))
	}
	fmt.Fprintf(w, "Kept: %s, %s under way with their turns",
		strings.Join(ended(run.Totals{Done: r.Done, Dropped: r.Dropped, Expanded: r.Expanded, Failed: r.Failed}), ", "), human.Commas(r.Live))
	if r.Back > 0 {
		fmt.Fprintf(w, ", %s of them less the last ones", human.Commas(r.Back))
	}
	fmt.Fprintln(w, ".")
	if r.LeftOut > 0 {
		fmt.Fprintf(w, "Left out: %s of the output not whole, not of this run, or there twice.\n", human.Plural(r.LeftOut, "line")+human.Is(r.LeftOut))
	}
	if r.Lost > 0 {
		names := make([]string, len(r.Examples))
		for i, id := range r.Examples {
			names[i] = oneLine(id)
		}
		more := ""
		if n := r.Lost - int64(len(names)); n > 0 {
			more = fmt.Sprintf(" and %s more", human.Commas(n))
		}
		fmt.Fprintf(w, "Lost: %s, which %s again: %s%s\n", human.Plural(r.Lost, "task"), map[bool]string{true: "begins", false: "begin"}[r.Lost == 1], strings.Join(names, ", "), more)
	}
	fmt.Fprintf(w, "What was there before is in %s: delete it once nobody needs it.\n", r.KeptIn)
	if r.Retrying && r.Failed > 0 {
		fmt.Fprintln(w, "Failed tasks were being tried again: --retry-failed tries those that are left.")
	}
}
