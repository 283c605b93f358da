package cli

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"matrix/internal/monitor"
	"matrix/spec"
)

// metricsFlag adds the flag for where a process tells how it stands.
func metricsFlag(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "metrics-addr", "", "serve /metrics (Prometheus), /healthz, /readyz and /status at `ADDR`: a port of this machine (0 for any), or HOST:PORT")
}

// startMonitor makes what tells how this process stands: over HTTP at an address,
// where one is given. The caller closes it.
func (p Program) startMonitor(cmd *cobra.Command, address string, worker bool) (*monitor.Server, error) {
	m := monitor.New(monitor.Options{Version: p.version(), Worker: worker})
	if !cmd.Flags().Changed("metrics-addr") {
		return m, nil
	}
	url, err := m.Listen(address)
	switch {
	case errors.As(err, new(*spec.UsageError)):
		return nil, flagErrorf("--metrics-addr: %w", err)
	case errors.As(err, new(*net.OpError)):
		return nil, spec.Usagef("--metrics-addr: %w\nChoose another port, or 0 for any that is free.", err)
	case err != nil:
		return nil, err
	}
	fmt.Fprintf(p.Err, "Metrics at %s/metrics\n", url)
	return m, nil
}

// monitored runs f, a whole run, which others may look at: over HTTP at an address,
// where one is given.
func (j *job) monitored(address string, f func() error) (err error) {
	if j.monitor, err = j.startMonitor(j.cmd, address, false); err != nil {
		return err
	}
	if address != "" {
		j.words = append(j.words, "--metrics-addr", shellWord(address))
		j.again = strings.Join(j.words, " ")
	}
	defer func() { _ = j.monitor.Close() }() // nothing of the run is in it
	return f()
}

// publish lets others on this machine look at the run, and stop it.
func (j *job) publish() {
	j.monitor.Ready(j.session.Snapshot)
	err := j.monitor.ListenIn(j.session.Folder.Path, j.ask)
	if err != nil {
		warn(j.Err, fmt.Errorf("no other process can look at this run or stop it: %w", err))
	}
}

// ask asks the run to stop.
func (j *job) ask(now bool) {
	select {
	case j.asked <- now:
	default: // asked already
	}
}

// say tells a person, and those who are attached, of something that happened.
func (j *job) say(line string) {
	j.display.say(line)
	j.monitor.Say(line)
}

// tellEnd tells those who are attached how the run ended, and then nobody can look at
// it any more: what its snapshots are made of is about to be closed.
func (j *job) tellEnd(code int, says string) {
	j.monitor.End(monitor.End{Code: code, Out: j.printed.String(), Err: says})
	_ = j.monitor.Close()
}
