package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/bundle"
	"matrix/internal/standing"
	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// submitOptions are the flags of a run that a standing head is given.
type submitOptions struct {
	cluster  string
	weight   int
	priority string
	detach   bool
}

func (o *submitOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.cluster, "cluster", "", "submit the run to a standing head ('matrix head'), and show it: the `NAME` that 'matrix cluster connect' has noted, or a file with its line for clients")
	f.IntVar(&o.weight, "weight", 0, "with --cluster: its share of the slots of workers, beside that of other runs (default 1)")
	f.StringVar(&o.priority, "priority", "", "with --cluster: urgent, normal or bulk; a run of a higher class has slots before the others, which keep one each (default normal)")
	f.BoolVar(&o.detach, "detach", false, "with --cluster: do not show it")
}

// alone are the flags that are for a process of this machine.
var alone = []string{"out", "up", "multirun", "serve", "advertise", "no-work", "label", "peers", "nats", "store", "metrics-addr"}

func (o *submitOptions) check(cmd *cobra.Command) error {
	f := cmd.Flags()
	if !f.Changed("cluster") {
		for _, name := range []string{"weight", "priority", "detach"} {
			if f.Changed(name) {
				return flagErrorf("--%s is for a run of a cluster: --cluster NAME", name)
			}
		}
		return nil
	}
	for _, name := range alone {
		if f.Changed(name) {
			return flagErrorf("--%s is for a run of this machine, and with --cluster a head elsewhere has it", name)
		}
	}
	if o.cluster == "" {
		return flagErrorf("--cluster is empty: name a cluster")
	}
	if f.Changed("weight") && (o.weight < 1 || o.weight > 1000) {
		return flagErrorf("--weight %d: want 1 to 1,000", o.weight)
	}
	if f.Changed("priority") {
		var p matrix.Priority
		if err := p.UnmarshalText([]byte(o.priority)); err != nil {
			return flagErrorf("--priority: %v", err)
		}
	}
	return nil
}

// submit gives the run to a standing head, and shows it.
func (j *job) submit(o submitOptions, fresh, accept bool, retry retryOptions) error {
	if err := standing.CheckName(j.config.Run.Name); err != nil {
		return &spec.UsageError{Err: err}
	}
	plan, err := session.Build(j.Registry, j.config, registry.ToSend)
	if err != nil {
		return err
	}
	defer func() { _ = plan.Close() }() // nothing was asked
	for _, e := range plan.Warnings {
		warn(j.Err, e)
	}
	contents, told, err := plan.Sent(&j.config.Run)
	if err != nil {
		return &spec.UsageError{Err: err}
	}
	for _, line := range told {
		warn(j.Err, errors.New(line))
	}
	contents.Warn = func(err error) { warn(j.Err, err) }
	b, err := bundle.New(contents)
	if err != nil {
		return &spec.UsageError{Err: err}
	}
	ctx, cancel := signal.NotifyContext(j.cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	c, err := j.client(ctx, o.cluster)
	if err != nil {
		return err
	}
	defer c.Close()
	words := append(j.words, "--cluster", shellWord(o.cluster))
	s := standing.Submission{Name: j.config.Run.Name, Weight: o.weight, Fresh: fresh}
	if o.weight > 0 {
		words = append(words, "--weight", strconv.Itoa(o.weight))
	}
	if o.priority != "" {
		s.Priority = &o.priority
		words = append(words, "--priority", o.priority)
	}
	s.Words = words
	if accept {
		s.Flags = append(s.Flags, "--accept-changes")
	}
	if retry.begin {
		s.Flags = append(s.Flags, "--retry-failed")
		if retry.where != "" {
			s.Flags = append(s.Flags, "--where", retry.where)
		}
	}
	says, err := c.Submit(ctx, s, b)
	if ctx.Err() != nil && j.cmd.Context().Err() == nil {
		return &stoppedError{"Nothing was submitted, or nobody knows of it: 'matrix runs' tells."}
	}
	if err != nil {
		return err
	}
	cancel() // from now on Ctrl-C is the viewer's
	fmt.Fprintln(j.Err, clean(says))
	if o.detach {
		return nil
	}
	return j.attachTo(j.cmd, c, s.Name, o.cluster)
}

// lockFD is where the process of a run has the lock by which its head knows that it lives.
const lockFD = 3

// sit takes the place at a standing head that a file tells of.
func (j *job) sit(file string) error {
	syscall.CloseOnExec(lockFD) // programs that it begins may live longer
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s standing.Seat
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	j.seat, j.words, j.again = &s.Seat, s.Words, strings.Join(s.Words, " ")
	return nil
}
