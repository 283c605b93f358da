package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/bench"
	"matrix/internal/human"
)

// benchCtx is the context of a benchmark with processes of its own, which end with it.
func benchCtx(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	return ctx, stop
}

// benchError is what a benchmark that has failed, or was stopped, ends with.
func benchError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return &stoppedError{"Stopped."}
	}
	return err
}

func newBenchClusterCmd() *cobra.Command {
	var o bench.ClusterOptions
	var seconds float64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Hops acted on by workers in other processes: what a head and its network cost",
		Long: `Starts a head (a queue on disk, its owner, the NATS server) and workers, each as a
process of its own. Tasks go to and fro between two roles; each hop commits a
record and is durable before the task is seen again. First each worker serves both
roles, and a task goes on where it is; then each serves one, and a task is elsewhere
after each hop, so that its past goes over the network again.

With --idle a run's head is measured which so many workers have joined that have
nothing to do: each has a connection of its own, and all are in one process.

CPU is that of whole processes, user and system. KiB are those of the frames.`,
		Example: `  matrix bench cluster
  matrix bench cluster --workers 4 --hops 40
  matrix bench cluster --idle 1000
  matrix bench cluster --profile .     # and go tool pprof -top moved-head.prof`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.For = time.Duration(seconds * float64(time.Second))
			if o.For <= 0 || o.Record < 1 || o.Seed < 1 || o.Hops < 1 || o.Idle < 0 {
				return flagErrorf("seconds, record, seed and hops must be more than 0, and idle not negative")
			}
			if o.Workers < 2 || o.Live < o.Workers {
				return flagErrorf("workers must be 2 or more, and live at least as many")
			}
			var err error
			if o.Exe, err = os.Executable(); err != nil {
				return err
			}
			ctx, stop := benchCtx(cmd)
			defer stop()
			if o.Idle > 0 {
				r, err := bench.Idle(ctx, o)
				if err != nil {
					return benchError(ctx, err)
				}
				return printFigures(cmd.OutOrStdout(), asJSON, r, [][2]string{
					{"idle workers", human.Commas(r.Workers)},
					{"joined in", fmt.Sprintf("%.1f s", r.JoinedInS)},
					{"head alone", fmt.Sprintf("%.2f%% of a core", 100*r.Without)},
					{"head with them", fmt.Sprintf("%.2f%% of a core", 100*r.Head)},
					{"they themselves", fmt.Sprintf("%.2f%% of a core", 100*r.Fakes)},
					{"head's memory", human.Commas(r.HeadRSS>>20) + " MiB"},
				})
			}
			r, err := bench.Cluster(ctx, o)
			if err != nil {
				return benchError(ctx, err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			row := func(name, format string, of func(*bench.ClusterHops) float64, change bool) {
				stays, moved := of(&r.Stays), of(&r.Moved)
				less := ""
				if change {
					less = fmt.Sprintf("%+.0f%%", 100*(stays/max(moved, 1e-9)-1))
				}
				fmt.Fprintf(w, "%-22s %12s %12s %12s\n", name, fmt.Sprintf(format, moved), fmt.Sprintf(format, stays), less)
			}
			fmt.Fprintf(w, "%-22s %12s %12s %12s\n", "state of a task", "moves", "stays", "change")
			row("hops/s", "%.0f", func(h *bench.ClusterHops) float64 { return h.HopsPerS }, true)
			row("CPU a hop, head", "%.1f us", func(h *bench.ClusterHops) float64 { return h.HeadCPU }, true)
			row("CPU a hop, workers", "%.1f us", func(h *bench.ClusterHops) float64 { return h.WorkerCPU }, true)
			row("to workers a hop", "%.2f KiB", func(h *bench.ClusterHops) float64 { return h.To / 1024 }, true)
			row("from workers a hop", "%.2f KiB", func(h *bench.ClusterHops) float64 { return h.From / 1024 }, true)
			row("both ways a hop", "%.2f KiB", func(h *bench.ClusterHops) float64 { return (h.To + h.From) / 1024 }, true)
			row("past sent with", "%.1f%%", func(h *bench.ClusterHops) float64 { return 100 * h.Read }, false)
			row("head's memory", "%.0f MiB", func(h *bench.ClusterHops) float64 { return float64(h.RSS >> 20) }, false)
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Workers, "workers", 2, "worker processes")
	f.Float64Var(&seconds, "seconds", 10, "how long to measure, each of the two")
	f.IntVar(&o.Record, "record", 1843, "bytes that a hop adds to a task")
	f.IntVar(&o.Seed, "seed", 2048, "bytes that a task begins with")
	f.IntVar(&o.Hops, "hops", 10, "hops of a task")
	f.IntVar(&o.Live, "live", 1000, "tasks under way at once")
	f.IntVar(&o.Idle, "idle", 0, "instead: so many workers that have nothing to do")
	f.StringVar(&o.Profile, "profile", "", "folder that takes a CPU profile of each process")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}

// newBenchPartCmd is a process of one of the benchmarks.
func newBenchPartCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use: "part", Hidden: true, Args: noArgs,
		Short: "A process of 'matrix bench cluster', which tells it on stdin what it is",
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(syscall.SIGINT) // of the terminal: it ends with the process that began it
			return bench.Part(cmd.Context(), p.In, cmd.OutOrStdout(), p.Registry, p.version())
		},
	}
}
