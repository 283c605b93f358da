package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/cluster/natsnet"
	"matrix/internal/rundir"
	"matrix/session"
	"matrix/spec"
)

func newWorkerCmd(p Program) *cobra.Command {
	var join, metrics string
	var labels []string
	o := session.JoinOptions{}
	cmd := &cobra.Command{
		Use:   "worker --join LINE|FILE",
		Short: "Work for a run whose head is another process, here or on another machine",
		Long: `Worker joins a run that was begun with --serve, and acts for its roles until the
run has ended. It needs no files of the run: config, prompts and scripts come from
the head. Keys of models it takes from its own environment, and says which roles it
cannot serve for want of one.

Where the head is away, it waits for it and keeps what it did, for --head-timeout
at most: a worker whose run is over does not wait for ever. Ctrl-C and SIGTERM
drain it: what has not begun goes back at once, calls under way may land for the
grace period of the run; a second one ends it now, and what it had in hand is done
again elsewhere. The line to join by is secret. Without --join it is taken from
MATRIX_JOIN; --join - reads it from the first line of stdin, and the worker is
drained where stdin ends.

Exit codes: 0 the run has ended, or the worker was drained; 1 it could not join, or
cannot act any more; 2 usage.`,
		Example: `  matrix worker --join runs/coral/join
  matrix worker --join line.txt --roles judge --label gpu=h100 --slots 64`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("slots") && o.Slots < 1 {
				return flagErrorf("--slots %d: want 1 or more", o.Slots)
			}
			if o.Away < 0 {
				return flagErrorf("--head-timeout %v: want a time such as 1h, or 0 to wait for ever", o.Away)
			}
			var err error
			if o.Labels, err = session.Labels(labels); err != nil {
				return err
			}
			in := bufio.NewReader(p.In)
			if o.Line, err = readJoin(cmp.Or(join, os.Getenv("MATRIX_JOIN")), in); err != nil {
				return err
			}
			if file := openTo(cmp.Or(join, os.Getenv("MATRIX_JOIN"))); file != "" {
				warn(p.Err, fmt.Errorf("%s can be read by every user of this machine, and lets who has it act for the run: chmod 600 %s", file, shellWord(file)))
			}
			var ended <-chan struct{}
			if join == "-" {
				ended = atEnd(in)
			}
			return p.work(cmd, o, metrics, ended)
		},
	}
	f := cmd.Flags()
	f.StringVar(&join, "join", "", "a file with the line to join by, the folder of the run, - for stdin, or the line itself, which all users of this machine see then")
	f.StringSliceVar(&o.Roles, "roles", nil, "the roles to serve, as teacher,judge; all that this machine can by default")
	f.StringArrayVar(&labels, "label", nil, "KEY=VALUE of this machine, for where: of roles; may be given several times")
	f.IntVar(&o.Slots, "slots", 0, "steps at once, of all roles together; as many as the roles allow by default")
	f.DurationVar(&o.Away, "head-timeout", time.Hour, "end where the head was out of reach for so long; 0 waits for ever")
	f.StringVar(&o.Name, "name", "", "what people know it by (default the name of the machine)")
	f.StringVar(&o.Cache, "cache", "", "folder for files of runs (default matrix/worker in the user's cache folder)")
	metricsFlag(cmd, &metrics)
	return cmd
}

// openTo is the file with a line to join by that was given, where all users may read it.
func openTo(given string) string {
	info, err := os.Stat(given)
	if err == nil && info.IsDir() {
		given = filepath.Join(given, rundir.JoinFile)
		info, err = os.Stat(given)
	}
	if err != nil || info.Mode()&0o004 == 0 {
		return ""
	}
	return given
}

// readJoin finds the line to join a run by: given itself, in a file, in the folder of
// a run, or on stdin.
func readJoin(given string, in *bufio.Reader) (natsnet.Join, error) {
	if given == "" {
		return natsnet.Join{}, flagErrorf("--join is missing: the line that the head of the run wrote to DIR/%s, or that file", rundir.JoinFile)
	}
	line, place := given, "the line to join by"
	if given == "-" {
		text, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return natsnet.Join{}, err
		}
		line, place = text, "the first line of stdin"
	} else if !natsnet.IsJoin(given) {
		if info, err := os.Stat(given); err == nil && info.IsDir() {
			given = filepath.Join(given, rundir.JoinFile)
		}
		b, err := os.ReadFile(given)
		if errors.Is(err, fs.ErrNotExist) {
			return natsnet.Join{}, spec.Usagef("%s: no such file: a run has it while it is served ('matrix run CONFIG --serve'), until it has ended", given)
		}
		if err != nil {
			return natsnet.Join{}, err
		}
		line, place = string(b), given
	}
	j, err := natsnet.ParseJoin(line)
	if err != nil {
		return j, spec.Usagef("%s: %w", place, err)
	}
	return j, nil
}

// atEnd reads on, and tells when nothing comes any more.
func atEnd(in io.Reader) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in) // an error is an end, too
	}()
	return ended
}

// work joins a run and works for it until it has ended, or a person or ended says so.
func (p Program) work(cmd *cobra.Command, o session.JoinOptions, metrics string, ended <-chan struct{}) (err error) {
	signal.Ignore(syscall.SIGPIPE) // who read what it says may be gone
	var mu sync.Mutex
	say := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(p.Err, clean(line))
	}
	o.Version, o.Tell, o.Log = p.version(), say, say
	m, err := p.startMonitor(cmd, metrics, true)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	soft, drain := context.WithCancel(ctx)
	defer drain()
	interrupts := p.interrupts
	if interrupts == nil {
		interrupts = make(chan os.Signal, 4)
		signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(interrupts)
	}
	over := make(chan error, 1)
	var joined atomic.Bool
	go func() {
		j, err := session.Join(soft, p.Registry, o)
		if err == nil {
			joined.Store(true)
			m.Ready(j.Snapshot)
			err = j.Run(matrix.WithStopping(ctx, soft))
			j.Close()
		}
		over <- err
	}()
	var first time.Time
	var deaf <-chan time.Time
	draining := func(why string) {
		first = time.Now()
		defer drain()
		if !joined.Load() {
			say("Ending: it has not joined the run.")
			m.Stopping("Ending.")
			return
		}
		say(why + ": what has not begun goes back, and steps under way may land for the grace period of the run; Ctrl-C again ends now.")
		m.Stopping("Draining.")
	}
	for {
		select {
		case err := <-over:
			if soft.Err() != nil && errors.Is(err, context.Canceled) {
				err = nil // before it had joined
			}
			return err
		case <-ended:
			if ended = nil; first.IsZero() {
				draining("Draining, since stdin has ended")
			}
		case <-deaf:
			say("Ended while a step was computing: it is done again elsewhere.")
			os.Exit(exitOK)
		case <-interrupts:
			switch {
			case first.IsZero():
				draining("Draining")
			case p.interrupts == nil && time.Since(first) <= oneKey:
			default:
				say("Ending now: what is in hand is done again elsewhere.")
				cancel()
				deaf = time.After(deafFor)
				signal.Stop(interrupts)
				signal.Reset(syscall.SIGINT, syscall.SIGTERM) // a third one kills
			}
		}
	}
}

// joinOf is the line of a run to join by, for its readers.
func joinOf(given string) (natsnet.Join, error) {
	return readJoin(strings.TrimSpace(given), bufio.NewReader(strings.NewReader("")))
}
