package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/dataset"
	"matrix/internal/human"
	"matrix/local"
	"matrix/run"
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
			r, err := openRun(args[0])
			if err != nil {
				return err
			}
			if err := repair(cmd, r); err != nil {
				return fmt.Errorf("repair %s: %w", r.dir, advised(err))
			}
			return verify(cmd, r, false, false)
		},
	}
}

// Names in the folder of a run that is being repaired.
const (
	newStateDir = "state.new"
	scratchDir  = "state.salvage"
	keptDir     = "before-repair"
)

// repair makes a state out of what a run's folder still holds.
func repair(cmd *cobra.Command, r *runFolder) (err error) {
	at := func(name string) string { return filepath.Join(r.dir, name) }
	if _, err := os.Lstat(at(stateDir)); errors.Is(err, fs.ErrNotExist) && local.Exists(at(newStateDir)) {
		// The last repair was killed between two renamings.
		return os.Rename(at(newStateDir), at(stateDir))
	}
	if local.Clearing(at(stateDir)) {
		return errors.New("--fresh had begun to clear it and was killed; type its command again")
	}
	if err := (dataset.OS{}).Mkdir(at(stateDir)); err != nil {
		return err
	}
	held, err := local.Hold(at(stateDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	source, err := r.Source()
	if err != nil {
		return err
	}
	kept, err := r.keep()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(at(newStateDir)); err != nil { // of a repair that was killed
		return err
	}
	old, err := local.Salvage(at(stateDir), at(scratchDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	made, err := local.Build(at(newStateDir))
	if err != nil {
		return err
	}
	marks, err := accountLeft(cmd.Context(), old)
	if err != nil {
		return errors.Join(err, made.Close())
	}
	c := run.Repairable{
		Source: source, Trials: max(1, r.cfg.Trials), Old: old, New: made, Marks: marks,
		Mend: func(output matrix.Status, keep func(line []byte) bool) (int64, error) {
			mark, _ := run.OutputMark(cmd.Context(), old, output) // as far as it can be read
			return dataset.MendParts(at(folders[output]), filepath.Join(kept, folders[output]), mark, keep)
		},
		Read: func(output matrix.Status) run.Output {
			return func(f func(matrix.Place, []byte) error) error {
				return dataset.ReadParts(at(folders[output]), func(part, line int, raw []byte) error {
					return f(matrix.Place{Part: part, Line: line}, raw)
				})
			}
		},
		Mark: func(output matrix.Status) ([]byte, error) { return dataset.MarkAt(at(folders[output])) },
	}
	found, err := c.Run(cmd.Context())
	if err = errors.Join(err, made.Close()); err != nil {
		return err
	}
	err = errors.Join(os.Rename(at(stateDir), filepath.Join(kept, stateDir)), os.Rename(at(newStateDir), at(stateDir)), dataset.OS{}.SyncDir(r.dir))
	if err != nil {
		return err
	}
	printRepair(cmd.OutOrStdout(), kept, old.Faults, found)
	if _, retrying, err := run.RetryOf(cmd.Context(), old); retrying && err == nil && found.Failed > 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "Failed tasks were being tried again: --retry-failed tries those that are left.")
	}
	return nil
}

// keep makes the folder that keeps what a repair replaces.
func (r *runFolder) keep() (string, error) {
	dir := filepath.Join(r.dir, keptDir)
	for n := 2; ; n++ {
		err := os.Mkdir(dir, 0o777)
		if !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
		dir = filepath.Join(r.dir, fmt.Sprintf("%s-%d", keptDir, n))
	}
}

// accountLeft is the account of a run as far as it can be read. That it is exact is not
// known any more: what the ledger knows of counts, too.
func accountLeft(ctx context.Context, old *local.Rest) (map[string][]byte, error) {
	b, err := old.Mark(ctx, budgetMark)
	var a account
	if err != nil || b == nil || json.Unmarshal(b, &a) != nil {
		return nil, nil
	}
	a.Exact = false
	b, err = json.Marshal(a)
	return map[string][]byte{budgetMark: b}, err
}

func printRepair(w io.Writer, kept string, faults []error, r *run.Repair) {
	for i, err := range faults {
		if i == 10 {
			fmt.Fprintf(w, "... and %s more\n", human.Plural(int64(len(faults)-i), "fault"))
			break
		}
		fmt.Fprintf(w, "Found: %s\n", oneLine(err.Error()))
	}
	fmt.Fprintf(w, "Kept: %s done, %s failed, %s under way with their turns", human.Commas(r.Done), human.Commas(r.Failed), human.Commas(r.Live))
	if r.Back > 0 {
		fmt.Fprintf(w, ", %s of them less the last ones", human.Commas(r.Back))
	}
	fmt.Fprintln(w, ".")
	if r.Dropped > 0 {
		fmt.Fprintf(w, "Left out: %s of the output not whole, not of this run, or there twice.\n", human.Plural(r.Dropped, "line")+human.Is(r.Dropped))
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
	fmt.Fprintf(w, "What was there before is in %s: delete it once nobody needs it.\n", kept)
}
