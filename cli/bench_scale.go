package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/bench"
	"matrix/internal/human"
)

func newBenchScaleCmd() *cobra.Command {
	var o bench.ScaleOptions
	var seconds float64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Dialogues of the shape of Coral over several worker processes, over one, and in batches",
		Long: `Starts a simulated service that has a place for every dialogue under way, a run's
head that acts on nothing itself, and worker processes with so many steps at once
each. Teacher and student take turns until they agree; the longer one is measured
with one worker, with several, and by a single orchestrator with the same client:
it takes as many dialogues into a batch as the service has places, and all of a
batch end a turn before the next begins. Of a batch whole turns are measured, from
the first one on: that flatters it, since dialogues that end leave its later turns
smaller.

A worker's steps at once are its limit here, as those of a machine with its own
replicas of a model are. What is shown is that head and network are none. Steps
wait for the service, and all processes share this machine's cores: where these are
busy, they are the limit.`,
		Example: `  matrix bench scale
  matrix bench scale --live 1000 --latency 1s --seconds 10`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.For = time.Duration(seconds * float64(time.Second))
			if o.For <= 0 || o.Latency <= 0 || o.Sigma < 0 || o.Reply < 0 || o.Slots < 0 {
				return flagErrorf("seconds and latency must be more than 0, and sigma, reply-bytes and slots not negative")
			}
			if o.Workers < 1 || o.Live < o.Workers {
				return flagErrorf("workers must be more than 0, and live at least as many")
			}
			var err error
			if o.Exe, err = os.Executable(); err != nil {
				return err
			}
			ctx, stop := benchCtx(cmd)
			defer stop()
			r, err := bench.Scale(ctx, o)
			if err != nil {
				return benchError(ctx, err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%-28s %14s %14s %14s\n", "", "batches", "1 worker", fmt.Sprint(o.Workers, " workers"))
			row := func(name string, of func(*bench.ScaleRun) string) {
				fmt.Fprintf(w, "%-28s %14s %14s %14s\n", name, of(&r.Batch), of(&r.One), of(&r.Many))
			}
			us := func(x float64) string {
				if x == 0 {
					return "-"
				}
				return fmt.Sprintf("%.0f us", x)
			}
			row("calls/s", func(x *bench.ScaleRun) string { return fmt.Sprintf("%.0f", x.CallsPerS) })
			row("to those in batches", func(x *bench.ScaleRun) string {
				return fmt.Sprintf("%.2f", x.CallsPerS/max(r.Batch.CallsPerS, 1e-9))
			})
			row("to those of 1 worker", func(x *bench.ScaleRun) string {
				return fmt.Sprintf("%.2f", x.CallsPerS/max(r.One.CallsPerS, 1e-9))
			})
			row("dialogues/s", func(x *bench.ScaleRun) string { return fmt.Sprintf("%.0f", x.TasksPerS) })
			row("calls at the service, mean", func(x *bench.ScaleRun) string { return human.Commas(int64(x.InFlight)) })
			row("dialogues under way", func(x *bench.ScaleRun) string { return human.Commas(x.Live) })
			row("measured", func(x *bench.ScaleRun) string { return fmt.Sprintf("%.1f s", x.Seconds) })
			row("CPU a call, head", func(x *bench.ScaleRun) string { return us(x.HeadCPU) })
			row("CPU a call, who asks", func(x *bench.ScaleRun) string { return us(x.WorkerCPU) })
			row("CPU a call, simulator", func(x *bench.ScaleRun) string { return us(x.SimCPU) })
			fmt.Fprintln(w, "Both runs are verified: nothing is lost, nothing doubled.")
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Live, "live", 12400, "dialogues under way at once, and places of the service")
	f.IntVar(&o.Workers, "workers", 4, "worker processes, beside one alone")
	f.IntVar(&o.Slots, "slots", 0, "steps at once of a worker; 0 for a part of live by the number of workers")
	f.DurationVar(&o.Latency, "latency", 6*time.Second, "mean time of a call")
	f.Float64Var(&o.Sigma, "sigma", 0.6, "spread of that time, sigma of a lognormal")
	f.IntVar(&o.Reply, "reply-bytes", 400, "length of a reply")
	f.Float64Var(&seconds, "seconds", 15, "how long to measure each")
	f.Int64Var(&o.Seed, "seed", 1, "all that is drawn derives from it")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}
