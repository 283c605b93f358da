package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/cluster/natsnet"
	"matrix/internal/human"
	"matrix/internal/monitor"
	"matrix/internal/rundir"
	"matrix/run"
	"matrix/session"
)

func newAttachCmd(p Program) *cobra.Command {
	var cluster string
	cmd := &cobra.Command{
		Use:   "attach DIR|NAME",
		Short: "Show a run that another process drives",
		Long: `Attach shows the run in the folder DIR as 'matrix run' does, which may stand in
another terminal or under a job scheduler of this machine, until it ends. A NAME is that
of a run of a cluster, which is shown from any machine. Ctrl-C ends the showing and
stops nothing.

Exit codes: those of the run; 4 also after Ctrl-C, and where the run's process is
gone with tasks pending.`,
		Example: `  matrix attach runs/coral
  matrix attach coral --cluster lab`,
		Args: argsBetween(1, 1, "DIR, the folder of a run, or NAME of a run of a cluster"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, is, err := ofCluster(args[0], cluster)
			switch {
			case err != nil:
				return err
			case !is:
				return p.attach(cmd, args[0])
			}
			c, err := p.client(cmd.Context(), cluster)
			if err != nil {
				return err
			}
			defer c.Close()
			return p.attachTo(cmd, c, args[0], cluster)
		},
	}
	clusterFlag(cmd, &cluster)
	return cmd
}

// attach shows the run in dir until it ends.
func (p Program) attach(cmd *cobra.Command, dir string) error {
	c, err := monitor.Dial(dir)
	if errors.Is(err, monitor.ErrNotRunning) {
		return notRunning(cmd, dir)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return p.view(cmd, filepath.Clean(dir), "matrix attach "+shellWord(dir), c.Watch)
}

// view shows a run as watch tells of it, until it ends; again is the command that shows it again.
func (p Program) view(cmd *cobra.Command, name, again string, watch func(context.Context, time.Duration, func(monitor.Event)) (*monitor.End, error)) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	interrupts := p.interrupts
	if interrupts == nil {
		interrupts = make(chan os.Signal, 1)
		signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(interrupts)
	}
	d := newDisplay("auto", p.Err, p.every)
	d.say(fmt.Sprintf("Attached to %s; Ctrl-C leaves it running.", name))
	type ended struct {
		*monitor.End
		err error
	}
	events, over := make(chan monitor.Event, 16), make(chan ended, 1)
	go func() {
		end, err := watch(ctx, min(d.every(), changesEvery), func(e monitor.Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
		close(events)
		over <- ended{end, err}
	}()
	frames := time.NewTicker(d.every())
	defer frames.Stop()
	plain, _ := d.(*plainDisplay)
	var now *monitor.Status
	told := ""
	for {
		select {
		case e, more := <-events:
			switch {
			case !more:
				x := <-over
				if now != nil && now.Snapshot != nil {
					d.end(now.Snapshot)
				}
				return p.after(cmd, x.End, x.err)
			case e.Line != "":
				d.say(clean(e.Line))
			case e.Status == nil || e.Status.Snapshot == nil:
			default:
				if now == nil {
					d.show(e.Status.Snapshot, e.Status.Why)
				}
				now = e.Status
				if plain == nil {
					continue
				}
				if now.Why != told {
					told = now.Why
					d.say(clean(told))
				}
				if plain.tick > changesEvery {
					plain.printChanges(now.Snapshot)
				}
			}
		case <-frames.C:
			if now != nil {
				d.show(now.Snapshot, clean(now.Why))
			}
		case <-interrupts:
			if now != nil {
				d.end(now.Snapshot)
			}
			return &stoppedError{fmt.Sprintf("The run goes on; '%s' shows it again.", again)}
		}
	}
}

// after is what a command that watched a run comes to when the run's process ends.
func (p Program) after(cmd *cobra.Command, end *monitor.End, err error) error {
	switch {
	case errors.Is(err, monitor.ErrGone):
		return &stoppedError{fmt.Sprintf("%v. Nothing that was committed is lost; the command of the run goes on.", err)}
	case err != nil:
		return err
	}
	fmt.Fprint(cmd.OutOrStdout(), clean(end.Out))
	if end.Code == exitOK {
		return nil
	}
	return &endedError{end.Code, end.Err}
}

// notRunning says of a folder whose run no process drives how it stands.
func notRunning(cmd *cobra.Command, dir string) error {
	d, err := rundir.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var s struct {
		Done, Dropped, Expanded, Failed int64
		Finished                        bool
	}
	b, err := os.ReadFile(filepath.Join(dir, rundir.SummaryFile))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	so := strings.Join(ended(run.Totals{Done: s.Done, Dropped: s.Dropped, Expanded: s.Expanded, Failed: s.Failed}), ", ")
	switch {
	case err != nil:
		return &stoppedError{fmt.Sprintf("No process is running in %s, and it tells of no progress; the command of the run goes on.", dir)}
	case s.Finished:
		fmt.Fprintf(cmd.OutOrStdout(), "%s is finished: %s.\n", dir, so)
		return nil
	}
	return &stoppedError{fmt.Sprintf("No process is running in %s, and tasks are pending: %s. The command of the run goes on.", dir, so)}
}

func newStopCmd(p Program) *cobra.Command {
	var now bool
	var cluster string
	cmd := &cobra.Command{
		Use:   "stop DIR|FILE|NAME",
		Short: "Stop a run that other processes drive; its command goes on later",
		Long: `Stop does to the run in the folder DIR what Ctrl-C does in its terminal: nothing
new is begun, calls under way land for the grace period, and nothing is lost. It
waits until the process of the run has ended. Of a run with several heads it stops
all of them, from any machine that has the folder or, in FILE, the line to join by.
A NAME is that of a run of a cluster ('matrix head').`,
		Example: `  matrix stop runs/coral
  matrix stop runs/coral --now
  matrix stop coral --cluster lab`,
		Args: argsBetween(1, 1, "DIR, the folder of a run, FILE with its line to join by, or NAME of a run of a cluster"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cluster, is, err := ofCluster(args[0], cluster); err != nil {
				return err
			} else if is {
				return p.stopAt(cmd, cluster, args[0], now)
			}
			_, elsewhere, err := rundir.Elsewhere(args[0])
			if info, statErr := os.Stat(args[0]); elsewhere && err == nil || natsnet.IsJoin(args[0]) || statErr == nil && !info.IsDir() {
				return stopHeads(cmd, args[0], now)
			}
			return stopRun(cmd, args[0], now)
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for calls under way; they are made again later")
	clusterFlag(cmd, &cluster)
	return cmd
}

// stopHeads stops the run of a join line, in all its heads, and waits for its end.
func stopHeads(cmd *cobra.Command, given string, now bool) error {
	line, err := joinOf(given)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	fmt.Fprintf(cmd.ErrOrStderr(), "Stopping %s ...\n", filepath.Clean(given))
	v, err := session.StopRun(ctx, line, now, headWait)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return noHead(line)
	case ctx.Err() != nil && cmd.Context().Err() == nil:
		return &stoppedError{"The run is stopping."}
	case err != nil:
		return err
	case v == nil || v.Pending < 0:
		fmt.Fprintln(cmd.OutOrStdout(), "Stopped. Tasks may be pending.")
	default:
		fmt.Fprintf(cmd.OutOrStdout(), "Stopped. %s%s pending; the commands of its heads go on.\n", human.Plural(v.Pending, "task"), human.Is(v.Pending))
	}
	return nil
}

// stopRun stops the run in dir and waits for its end.
func stopRun(cmd *cobra.Command, dir string, now bool) error {
	c, err := monitor.Dial(dir)
	if errors.Is(err, monitor.ErrNotRunning) {
		if err := notRunning(cmd, dir); !errors.As(err, new(*stoppedError)) {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "No process is running in %s.\n", dir)
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	var failed error
	asked := false
	end, err := c.Watch(ctx, time.Second, func(e monitor.Event) { // watched from before, so that its end is not missed
		if !asked {
			asked = true
			if failed = c.Stop(ctx, now); failed != nil {
				cancel()
				return
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Stopping %s ...\n", filepath.Clean(dir))
		}
	})
	switch {
	case failed != nil && !errors.Is(failed, monitor.ErrGone):
		return failed
	case err != nil && ctx.Err() != nil && failed == nil:
		return &stoppedError{"The run is stopping."}
	case err != nil:
		return err
	}
	if end.Code != exitOK && end.Code != exitStopped {
		return &endedError{end.Code, end.Err}
	}
	if end.Err != "" {
		fmt.Fprintln(cmd.OutOrStdout(), clean(end.Err))
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s had come to its end.\n", dir)
	}
	return nil
}
