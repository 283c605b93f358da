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

func newBenchModelsCmd() *cobra.Command {
	o := bench.ModelsOptions{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "models",
		Short: "A run against a simulated model service: how well it is used, and at what cost",
		Long: `Starts a simulated service and a run against it, each as a process of its own.
Each row is asked for 1 to ROUNDS times, one call after the other; nothing is
tuned. The replies are checked: each must be the service's to its prompt.

share       part of the service's capacity that was used, from the first to the
            last tenth of the completions
at least    what the same tries take in the same order where each begins once
            the row's try before is over (one that hangs: at its timeout) and a
            slot is free that takes calls; of preset slots
CPU a call  of the whole process that runs: engine, ledger, client, output`,
		Example: `  matrix bench models
  matrix bench models --batch                              # the same work, in batches with a barrier each
  matrix bench models --step 400@20s --change 20s --rows 4000
  matrix bench models --storm 429@10s --change 30s
  matrix bench models --kill 15s
  matrix bench models --slots 256 --latency 40ms --sigma 0.3 --rows 60000 --rounds 1   # CPU a call
  matrix bench models --stream --slots 128 --latency 5s --sigma 0 --reply-bytes 1000 --rows 1000 --rounds 1   # CPU a token`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Rows < 1 || o.Rounds < 1 || o.Live < 1 || o.Slots < 1 || o.Replicas < 1 || o.Prompt < 0 || o.Reply < 0 {
				return flagErrorf("rows, rounds, live, slots and replicas must be more than 0, and bytes not negative")
			}
			var err error
			if o.Exe, err = os.Executable(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			context.AfterFunc(ctx, stop) // a second signal kills
			defer stop()
			r, err := bench.Models(ctx, o)
			switch {
			case err != nil && ctx.Err() != nil:
				return &stoppedError{"Stopped."}
			case err != nil:
				return err
			}
			rows := [][2]string{
				{"calls", human.Commas(r.Calls)},
				{"share", fmt.Sprintf("%.1f%%", 100*r.Share)},
				{"wall", fmt.Sprintf("%.1f s", r.Seconds)},
				{"at least", fmt.Sprintf("%.1f s", r.Possible)},
				{"wall by that", fmt.Sprintf("%.2f", r.Seconds/max(r.Possible, 1e-9))},
				{"CPU a call", fmt.Sprintf("%.0f us", r.CPUPerCall)},
				{"CPU a token", fmt.Sprintf("%.1f us", r.CPUPerToken)},
				{"simulator's", fmt.Sprintf("%.0f us", r.SimCPU)},
				{"rows done", fmt.Sprintf("%s of %s", human.Commas(r.Done), human.Commas(o.Rows))},
				{"wrong replies", human.Commas(r.Wrong)},
				{"retries", human.Commas(r.Retries)},
				{"paid twice", human.Commas(r.Twice)},
			}
			if o.Change > 0 {
				rows = append(rows, [2]string{"full again in", fmt.Sprintf("%.1f s", r.Recover)})
			}
			if o.Kill > 0 {
				rows = append(rows, [2]string{"in flight then", human.Commas(r.InFlight)})
			}
			if o.Replicas > 1 {
				rows = append(rows, [2]string{"busiest replica", fmt.Sprintf("%.2f of the mean", r.Uneven)})
			}
			if r.Computed > 0 && o.Preset != "slots" {
				rows = append(rows, [2]string{"prefill computed", human.Commas(r.Computed)}, [2]string{"from the cache", human.Commas(r.Cached)})
			}
			if r.RSS > 0 {
				rows = append(rows, [2]string{"peak memory", human.Commas(r.RSS>>20) + " MiB"})
			}
			return printFigures(cmd.OutOrStdout(), asJSON, r, rows)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Rows, "rows", 1500, "rows of the dataset")
	f.IntVar(&o.Rounds, "rounds", 3, "calls of a row, one after the other, at most")
	f.IntVar(&o.Least, "least-rounds", 1, "and at least")
	f.IntVar(&o.Live, "live", 1000, "tasks under way at once")
	f.IntVar(&o.Prompt, "prompt-bytes", 2048, "length of a prompt")
	f.IntVar(&o.Reply, "reply-bytes", 400, "length of a reply")
	f.StringVar(&o.Preset, "preset", "slots", "what serves: slots, 8b or 70b")
	f.IntVar(&o.Slots, "slots", 200, "calls that a replica works on at once")
	f.DurationVar(&o.Latency, "latency", 2*time.Second, "of preset slots: mean time of a call")
	f.Float64Var(&o.Sigma, "sigma", 0.6, "of preset slots: spread of that time, sigma of a lognormal")
	f.IntVar(&o.Replicas, "replicas", 1, "servers")
	f.StringArrayVar(&o.Steps, "step", nil, "change of the slots, SLOTS@TIME; may be repeated")
	f.StringVar(&o.Storm, "storm", "", "faults by name: 429, outage, mixed, minute or half, from 5s on; NAME@TIME begins then")
	f.StringArrayVar(&o.Faults, "fault", nil, "a fault, as matrix sim takes it; may be repeated")
	f.DurationVar(&o.Change, "change", 0, "when the last step or fault is over: the time to full use counts from there")
	f.DurationVar(&o.Timeout, "timeout", 20*time.Second, "longest wait for a reply")
	f.BoolVar(&o.HTTP2, "http2", false, "over h2c")
	f.BoolVar(&o.Stream, "stream", false, "have replies streamed")
	f.BoolVar(&o.Scattered, "scatter", false, "calls of a row go to any replica")
	f.DurationVar(&o.Kill, "kill", 0, "kill -9 the run after so long, and start it again")
	f.IntVar(&o.Workers, "workers", 0, "processes beside the run's own that act for it")
	f.DurationVar(&o.Joining, "joining", 0, "time between two of them")
	f.BoolVar(&o.Batch, "batch", false, "instead of a run: rows in batches, with a barrier after each round")
	f.Int64Var(&o.Seed, "seed", 1, "all that is drawn derives from it")
	f.StringVar(&o.Log, "log", "", "file that takes a line of JSON for every call, as of matrix sim --log")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}
