package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/human"
	"matrix/internal/sim"
	"matrix/llm"
	"matrix/spec"
)

// simOptions are the flags of `matrix sim` that are not the simulator's own.
type simOptions struct {
	reply  string
	faults []string
	file   string
	steps  []string
	report string
	log    string
	quiet  bool
	length time.Duration
}

func newSimCmd(p Program) *cobra.Command {
	c := sim.Config{Port: 8000, Replies: sim.Replies{Sigma: 0.6}}
	var o simOptions
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Serve the OpenAI API from a model of a model server, for work without a GPU",
		Long: `Serves the OpenAI API on loopback, over HTTP/1.1 and h2c on the same port, until
it is stopped: chat, completions, embeddings, models, health, metrics. Replies
are made up; the time they take is that of a batching engine with a model of 8B
or 70B parameters on one GPU, or of so many slots. It prints the base URL of
each replica on a line of its own, which is what "endpoints: {file: ...}" reads.

A fault is KIND:SHARE@FROM-UNTIL,key=value, where all but KIND may be left out.
Kinds: reject (429; retry_after), error (status), reset, stall, slow (factor),
truncate, garbage, down (nothing listens). Times count from the first call.

GET /sim/stats tells, as JSON, how much of the capacity was used and when, what
was refused, and which Idempotency-Keys were finished twice.`,
		Example: `  matrix sim
  matrix sim --preset slots --slots 200 --latency 2s --sigma 0.6 --step 400@20s
  matrix sim --replicas 4 --port 9000 > endpoints.txt
  matrix sim --fault reject:0.6@0s-20s,retry_after=1s --fault stall:0.01
  matrix sim --storm outage@10s --report stats.json
  matrix sim --reply 'template:You said: {{.Prompt}}'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"latency", "sigma"} {
				if cmd.Flags().Changed(name) && c.Preset != "slots" {
					return flagErrorf("--%s: is of preset slots alone; how long a call takes with %s follows from its engine: leave it out, or add --preset slots", name, c.Preset)
				}
			}
			return serveSim(p, cmd, c, o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.Port, "port", c.Port, "port of the first replica, the others behind it; 0 for any that are free")
	f.StringVar(&c.Host, "host", "127.0.0.1", "address to listen on")
	f.StringVar(&c.APIKey, "api-key", "", "key that every call must bring")
	f.StringVar(&c.Preset, "preset", "8b", "8b, 70b or slots")
	f.StringVar(&c.Model, "model", "", "name of the model (default sim-PRESET)")
	f.IntVar(&c.Replicas, "replicas", 1, "servers, each with an engine and a port of its own")
	f.IntVar(&c.Slots, "slots", 0, "calls that a replica works on at once; 0 for the preset's")
	f.IntVar(&c.Queue, "queue", 0, "calls that may wait at a replica, more get 429; 0 for no limit, -1 for none")
	f.StringArrayVar(&o.steps, "step", nil, "change of the slots, SLOTS@TIME; may be repeated")
	c.Latency.Mean = 2 * time.Second
	f.Var((*seconds)(&c.Latency.Mean), "latency", "of preset slots: mean time of a call; a bare number is seconds")
	f.Float64Var(&c.Latency.Sigma, "sigma", 0, "of preset slots: spread of that time, sigma of a lognormal")
	f.IntVar(&c.Engine.KV, "kv-tokens", 0, "tokens that the KV cache holds; 0 for the preset's")
	f.IntVar(&c.Engine.Batched, "max-num-batched-tokens", 0, "most tokens in a step; 0 for the preset's")
	f.IntVar(&c.Engine.Context, "max-model-len", 0, "most tokens of a prompt and its reply; 0 for the preset's")
	f.BoolVar(&c.Engine.NoPrefix, "no-prefix-cache", false, "prompts that begin alike are computed again")
	f.StringVar(&o.reply, "reply", "text", "text of drawn length, echo, template:TEMPLATE, or file:PATH of recorded replies")
	f.Float64Var(&c.Replies.Tokens, "reply-tokens", 128, "mean length of text, in tokens")
	f.Float64Var(&c.Replies.Sigma, "reply-sigma", c.Replies.Sigma, "spread of that length, sigma of a lognormal")
	f.Float64Var(&c.Replies.NoTool, "no-tool-share", 0, "share of calls that may ask for a tool and are answered with text")
	f.StringArrayVar(&o.faults, "fault", nil, "something that goes wrong; may be repeated")
	f.StringVar(&o.file, "faults", "", "YAML file with a list of faults")
	f.StringVar(&c.Storm, "storm", "", "faults by name: 429, outage, mixed, minute or half, from 5s on; NAME@TIME begins then")
	f.StringVar(&c.Clock, "clock", "first", "faults and steps count from the first call, or from start")
	f.Int64Var(&c.Seed, "seed", 0, "all that is drawn derives from it")
	f.StringVar(&o.report, "report", "", "file that takes the stats, as JSON, at the end")
	f.StringVar(&o.log, "log", "", "file that takes a line of JSON for every call, when it is over")
	f.Var((*seconds)(&o.length), "for", "end after so long; a bare number is seconds, 0s for never")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no summary at the end")
	return cmd
}

// seconds is the value of a flag: a duration, or a number of seconds.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }

// Type implements pflag.Value.
func (s *seconds) Type() string { return "duration" }

// Set implements pflag.Value.
func (s *seconds) Set(text string) error {
	if n, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(n) <= 1e9 {
		*s = seconds(n * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("got %q, want a duration, such as 500ms, or seconds", text)
	}
	*s = seconds(d)
	return nil
}

// serveSim serves until a signal or the end of the command's context.
func serveSim(p Program, cmd *cobra.Command, c sim.Config, o simOptions) error {
	if err := o.complete(&c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	defer stop()
	if o.report != "" { // found out now rather than at the end
		if err := os.WriteFile(o.report, nil, 0o644); err != nil {
			return spec.Usagef("--report: %w", err)
		}
	}
	if o.log != "" {
		l, err := os.Create(o.log)
		if err != nil {
			return spec.Usagef("--log: %w", err)
		}
		defer l.Close()
		c.Log = l
	}
	s, err := sim.Start(c)
	if err != nil {
		return simError(err)
	}
	defer s.Close()
	for _, u := range s.URLs() {
		fmt.Fprintln(cmd.OutOrStdout(), u)
	}
	var over <-chan time.Time
	if o.length > 0 {
		over = time.After(o.length)
	}
	select {
	case <-over:
	case <-ctx.Done():
	case <-p.interrupts:
	}
	stats := s.Stats()
	s.Close()
	if !o.quiet {
		printSim(cmd.ErrOrStderr(), stats)
	}
	if o.report == "" {
		return nil
	}
	b, err := json.MarshalIndent(stats, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.report, append(b, '\n'), 0o644)
}

// complete lays the flags over c.
func (o *simOptions) complete(c *sim.Config) error {
	if o.length < 0 {
		return flagErrorf("--for: got %v, want 0s or more", o.length)
	}
	kind, what, _ := strings.Cut(o.reply, ":")
	c.Replies.Kind = kind
	switch kind {
	case "template":
		c.Replies.Template = what
	case "file":
		c.Replies.Path = what
	default:
		if what != "" {
			return flagErrorf("--reply: %s takes nothing behind it, got %q", kind, what)
		}
	}
	for _, text := range o.steps {
		var s sim.Step
		if err := s.UnmarshalText([]byte(text)); err != nil {
			return flagErrorf("--step: %v", err)
		}
		c.Steps = append(c.Steps, s)
	}
	for _, text := range o.faults {
		var f sim.Fault
		if err := f.UnmarshalText([]byte(text)); err != nil {
			return flagErrorf("--fault: %v", err)
		}
		c.Faults = append(c.Faults, f)
	}
	if o.file != "" {
		list, err := sim.ReadFaults(o.file)
		if err != nil {
			return spec.Usagef("--faults: %w", err)
		}
		c.Faults = append(c.Faults, list...)
	}
	return nil
}

// simError says which flag is wrong.
func simError(err error) error {
	var f *llm.FieldError
	if !errors.As(err, &f) {
		return err
	}
	flag := map[string]string{
		"reply_tokens": "reply-tokens", "reply_sigma": "reply-sigma", "no_tool_share": "no-tool-share", "faults": "fault",
		"template": "reply", "replies": "reply", "steps": "step", "engine.kv_tokens": "kv-tokens",
		"engine.max_num_batched_tokens": "max-num-batched-tokens", "engine.max_model_len": "max-model-len",
	}[f.Field]
	return spec.Usagef("--%s: %w", cmp.Or(flag, f.Field), f.Err)
}

// printSim sums up what was served.
func printSim(w io.Writer, s sim.Stats) {
	sum := s.Sum()
	fmt.Fprintf(w, "%s calls in %s: %s done, %s given up by the client, %s refused as full, %s as wrong\n",
		human.Commas(sum.Calls), human.Clock(time.Duration(s.Seconds*float64(time.Second))), human.Commas(sum.Done), human.Commas(sum.GivenUp), human.Commas(sum.Full), human.Commas(sum.Refused))
	if sum.Done > 0 {
		fmt.Fprintf(w, "capacity used, but for the first and the last tenth of the calls: %.1f%%\n", 100*s.Share(0.1, 0.9))
	}
	fmt.Fprintf(w, "tokens: %s of prompts (%s from the prefix cache, %s computed), %s of replies; %s preemptions\n",
		human.Commas(sum.Prompt), human.Commas(sum.Cached), human.Commas(sum.Computed), human.Commas(sum.Completed), human.Commas(sum.Preemptions))
	if s.Distinct > 0 {
		fmt.Fprintf(w, "keys: %s seen, %s finished, %s of them more than once\n", human.Commas(s.Distinct), human.Commas(s.Paid), human.Commas(s.Twice))
	}
	for _, kind := range []string{sim.Reject, sim.Error, sim.Reset, sim.Stall, sim.Slow, sim.Truncate, sim.Garbage, sim.Down} {
		n := sum.Faults[kind]
		switch {
		case n > 0 && kind == sim.Down && sum.Cut > 0:
			fmt.Fprintf(w, "fault %s: %s, which cut %s\n", kind, human.Commas(n), human.Plural(sum.Cut, "call"))
		case n > 0:
			fmt.Fprintf(w, "fault %s: %s\n", kind, human.Commas(n))
		}
	}
	if sum.Calls > 0 {
		fmt.Fprintf(w, "CPU of the simulator: %.2f s, %.0f us a call\n", s.CPU, 1e6*s.CPU/float64(sum.Calls))
	}
}
