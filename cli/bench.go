package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/bench"
	"matrix/internal/human"
)

func newBenchCmd(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what Matrix itself costs",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchHopCmd(), newBenchCoralCmd(), newBenchModelsCmd(), newBenchClusterCmd(), newBenchScaleCmd(), newBenchCurationCmd(), newBenchSandboxCmd(), newBenchPartCmd(p))
	return cmd
}

func newBenchHopCmd() *cobra.Command {
	var o bench.HopOptions
	var seconds float64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hop",
		Short: "Hops of one queue: commit, dispatch, nothing else",
		Long: `Tasks go to and fro between two roles. Each hop commits state-bytes/turns bytes
and is durable before the task is seen again; a task lives for so many turns,
at least 16, and is then settled and replaced by a new one.`,
		Example: `  matrix bench hop
  matrix bench hop --memory
  matrix bench hop --turns 200 --state-bytes 409600   # a long history: each hop still writes its own turn`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.For = time.Duration(seconds * float64(time.Second))
			if o.StateBytes < 1 || o.Turns < 1 || o.Live < 1 || o.For <= 0 {
				return flagErrorf("state-bytes, turns, live and seconds must be more than 0")
			}
			r, err := bench.Hop(cmd.Context(), o)
			if err != nil {
				return err
			}
			return printFigures(cmd.OutOrStdout(), asJSON, r, [][2]string{
				{"hops/s", human.Commas(int64(r.HopsPerS))},
				{"CPU a hop", fmt.Sprintf("%.1f us", r.CPUPerHop)},
				{"durable", fmt.Sprint(r.Durable)},
				{"state", human.Commas(r.State) + " B"},
				{"written a hop", human.Commas(int64(r.PerHop)) + " B"},
				{"live tasks", human.Commas(r.Live)},
				{"peak memory", human.Commas(r.RSS>>20) + " MiB"},
			})
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.StateBytes, "state-bytes", 4096, "content of a task when it is complete")
	f.IntVar(&o.Turns, "turns", 1, "hops in which it gets there")
	f.IntVar(&o.Live, "live", 1000, "tasks under way at once")
	f.BoolVar(&o.Memory, "memory", false, "in memory instead of on disk")
	f.Float64Var(&seconds, "seconds", 10, "how long")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}

func newBenchCoralCmd() *cobra.Command {
	var o bench.CoralOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "coral",
		Short: "Dialogues of the shape of Coral, through the whole engine",
		Long: `Teacher and student take turns, an extractor reads each answer and a matcher
compares the last two, each in a durable hop of its own. Models answer at once,
with 1,024 characters give or take a fifth; the matcher agrees at 10% of the
first two rated turns and at 90% from the third on. Feeder, queue, router,
ledger and output are those of a real run. A message is a delivery to an agent
or to the sink.`,
		Example: `  matrix bench coral
  matrix bench coral --tasks 100000 --live 10000 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Tasks < 1 || o.Live < 1 || o.Workers < 0 {
				return flagErrorf("tasks and live must be more than 0, and workers not negative")
			}
			r, err := bench.Coral(cmd.Context(), o)
			if err != nil {
				return err
			}
			return printFigures(cmd.OutOrStdout(), asJSON, r, [][2]string{
				{"tasks/s", human.Commas(int64(r.TasksPerS))},
				{"hops/s", human.Commas(int64(r.HopsPerS))},
				{"messages a task", fmt.Sprintf("%.2f", r.Messages)},
				{"CPU a task", fmt.Sprintf("%.0f us", r.CPUPerTask)},
				{"durable", fmt.Sprint(r.Durable)},
				{"first row after", fmt.Sprintf("%.0f ms", r.FirstRowMS)},
				{"peak memory", human.Commas(r.RSS>>20) + " MiB"},
			})
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Tasks, "tasks", 20000, "tasks in all")
	f.IntVar(&o.Live, "live", 1000, "tasks under way at once")
	f.IntVar(&o.Workers, "workers", 0, "steps of one role at once; 0 for as many as are live")
	f.BoolVar(&o.Memory, "memory", false, "the queue in memory instead of on disk")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}

func benchFlags(cmd *cobra.Command, dir *string, asJSON *bool) {
	cmd.Flags().StringVar(dir, "dir", "", "folder to work in: its disk is measured (default the system's temporary folder)")
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

// printFigures prints a result as JSON, or as rows of name and figure.
func printFigures(w io.Writer, asJSON bool, result any, rows [][2]string) error {
	if asJSON {
		return printJSON(w, result)
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-16s %12s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}
