package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/config"
	"matrix/internal/human"
	"matrix/internal/launch"
	"matrix/spec"
)

// downPatience is how long servers and who keeps them have to end.
const downPatience = 30 * time.Second

func newUpCmd(p Program) *cobra.Command {
	var detach, report bool
	cmd := &cobra.Command{
		Use:   "up CONFIG [NAME ...] [key=value ...]",
		Short: "Start the servers of the models that have serve",
		Long: `Up starts the servers that the models of a config declare by their key serve, all
of them or those named, waits until they are ready, and keeps them up: one that
ends is started again. Ctrl-C ends them; so does the end of this process, however
it comes.

With --detach they stay, until 'matrix models down'. A run, and any other command
on the same config, finds them.`,
		Example: `  matrix models up coral.yaml
  matrix models up coral.yaml teacher --detach
  matrix models down coral.yaml`,
		Args: modelArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, overrides := namesOf(args[1:])
			l, err := spec.Load(args[0], overrides)
			if err != nil {
				return err
			}
			models, err := p.Registry.ToServe(l, names)
			if err != nil {
				return err
			}
			state, err := launch.StateOf(l.Tree.File())
			if err != nil {
				return err
			}
			if detach {
				return detached(cmd, state, args)
			}
			out := cmd.OutOrStdout()
			var told *os.File
			if report {
				told = os.NewFile(3, "report")
				out = told
			}
			s, err := startServers(cmd.Context(), state, models, out)
			if err != nil {
				if report {
					fmt.Fprintln(told, detachedFault+err.Error())
				}
				return err
			}
			if report {
				fmt.Fprintln(told, detachedReady)
				told.Close()
			} else {
				fmt.Fprintln(out, "All are ready. Ctrl-C ends them.")
			}
			return keepUp(cmd.Context(), s)
		},
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "let them stay when this command has ended")
	cmd.Flags().BoolVar(&report, "report", false, "")
	_ = cmd.Flags().MarkHidden("report")
	return cmd
}

func newDownCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use:     "down CONFIG [NAME ...]",
		Short:   "End the servers of models",
		Long:    `Down ends the servers that 'matrix models up' or 'matrix run --up' has started for a config, of all models or of those named.`,
		Example: `  matrix models down coral.yaml`,
		Args:    modelArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, overrides := namesOf(args[1:])
			l, err := spec.Load(args[0], overrides)
			if err != nil {
				return err
			}
			state, err := launch.StateOf(l.Tree.File())
			if err != nil {
				return err
			}
			known := state.Models()
			for _, name := range names {
				if _, ok := l.Run.Models[name]; !ok && !slices.Contains(known, name) {
					return spec.Usagef("%s has no model %q", l.Path, name)
				}
			}
			if len(names) == 0 {
				names = known
			}
			var errs []error
			ended := 0
			for _, name := range names {
				up, err := state.Down(cmd.Context(), name, downPatience)
				if err != nil {
					errs = append(errs, err)
				} else if up {
					ended++
					fmt.Fprintln(cmd.OutOrStdout(), oneLine(name)+" is down.")
				}
			}
			if ended == 0 && len(errs) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "Nothing was up.")
			}
			return errors.Join(errs...)
		},
	}
}

// newSuperviseCmd is what stands between this program and a server that it started.
func newSuperviseCmd() *cobra.Command {
	return &cobra.Command{
		Use: "keep", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if launch.Supervise(os.Stdin) != 0 {
				return errSilent
			}
			return nil
		},
	}
}

// modelArgs wants a config, then names of models and overrides.
func modelArgs(cmd *cobra.Command, args []string) error {
	return configArgs(cmd, args[:min(1, len(args))])
}

func namesOf(args []string) (names, overrides []string) {
	for _, a := range args {
		if config.IsOverride(a) {
			overrides = append(overrides, a)
		} else {
			names = append(names, a)
		}
	}
	return names, overrides
}

// startServers starts the servers of models and returns when all are ready. A
// signal in the meantime ends them.
func startServers(ctx context.Context, state launch.State, models []launch.Model, out io.Writer) (*launch.Fleet, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l, err := launch.NewLocal([]string{exe, "models", "keep"}, state, models)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var mu sync.Mutex
	starting, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	f, err := launch.Up(starting, &launch.Group{Launcher: l, State: state, Models: models, Event: func(e launch.Event) {
		mu.Lock()
		defer mu.Unlock()
		printServerEvent(out, e, began)
	}})
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return nil, &stoppedError{"Stopped before all were ready."}
	}
	return f, err
}

// printServerEvent says what happened to a server.
func printServerEvent(w io.Writer, e launch.Event, began time.Time) {
	name := fmt.Sprintf("%s/%d", oneLine(e.Model), e.Replica)
	switch e.Kind {
	case launch.Started:
		fmt.Fprintf(w, "%s  starting; log: %s\n", name, e.Log)
	case launch.Ready:
		fmt.Fprintf(w, "%s  ready at %s after %s\n", name, e.URL, human.Clock(time.Since(began)))
	case launch.Died:
		fmt.Fprintf(w, "%s  %s; its log ends with:\n  %s\n", name, e.Text, strings.ReplaceAll(e.Tail, "\n", "\n  "))
	case launch.GaveUp:
		fmt.Fprintf(w, "%s  given up: %s\n", name, e.Text)
	case launch.Ended:
		fmt.Fprintf(w, "%s  ended\n", name)
	}
}

// keepUp keeps servers up until a signal comes, or they are told to end.
func keepUp(ctx context.Context, f *launch.Fleet) error {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(interrupts)
	select {
	case <-interrupts:
	case <-f.Over:
	case <-ctx.Done():
	}
	return f.End()
}

// What a process that outlives this one reports, among lines for people.
const (
	detachedReady = "ready"
	detachedFault = "fault: " // and all that follows
)

// detached runs `models up` as a process that outlives this one, and returns
// when its servers are ready.
func detached(cmd *cobra.Command, state launch.State, args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(state.Dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(state.Dir, "up.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	c := exec.Command(exe, append([]string{"models", "up", "--report", "--"}, args...)...)
	c.Stdout, c.Stderr, c.ExtraFiles = log, log, []*os.File{out}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.Start()
	out.Close()
	if err != nil {
		return err
	}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(interrupts)
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	ready := false
	var fault []string // lines of it
	for more := true; more; {
		var line string
		select {
		case <-interrupts:
			_ = c.Process.Signal(syscall.SIGTERM)
		case line, more = <-lines:
			text, bad := strings.CutPrefix(line, detachedFault)
			switch {
			case bad || fault != nil && more:
				fault = append(fault, text)
			case line == detachedReady:
				ready = true
			case more:
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
		}
	}
	if !ready {
		_ = c.Wait()
		switch {
		case c.ProcessState.ExitCode() == exitStopped:
			return &stoppedError{strings.Join(fault, "\n")}
		case fault == nil:
			return fmt.Errorf("process %d, which was to keep the servers, ended without a word; see %s", c.Process.Pid, log.Name())
		}
		return errors.New(strings.Join(fault, "\n"))
	}
	pid := c.Process.Pid
	_ = c.Process.Release()
	fmt.Fprintf(cmd.OutOrStdout(), "All are ready, kept by process %d. To end them: %s models down %s\n", pid, self(), shellWord(args[0]))
	return nil
}

// remindOfServers says which models have no servers yet: the run waits for them.
func (j *job) remindOfServers() {
	models, err := j.Registry.Served(j.config.Tree, &j.config.Run)
	state, serr := launch.StateOf(j.config.Tree.File())
	if err != nil || serr != nil {
		return // the run says it better
	}
	var down []string
	for _, m := range models {
		_, up := state.Owner(m.Name)
		elsewhere := j.config.Run.Models[m.Name].Text("base_url")+j.config.Run.Models[m.Name].Text("endpoints") != ""
		if !up && !elsewhere {
			down = append(down, oneLine(m.Name))
		}
	}
	if len(down) > 0 {
		fmt.Fprintf(j.Err, "The servers of %s are not up, and the run waits for them: %s models up %s, or this command with --up.\n",
			strings.Join(down, ", "), self(), shellWord(j.config.Path))
	}
}

// aside writes lines to stderr: through the display of the run while that is on.
type aside struct{ *job }

func (a aside) Write(b []byte) (int, error) {
	if !a.shown.Load() {
		return a.Err.Write(b)
	}
	for line := range strings.Lines(string(b)) {
		select {
		case a.spoken <- strings.TrimSuffix(line, "\n"):
		default: // as with agents
		}
	}
	return len(b), nil
}

// served runs f, a whole run, with the servers of its models up where up is
// set. Those that are up already are used as they are.
func (j *job) served(up bool, f func() error) (err error) {
	if !up {
		j.remindOfServers()
		return f()
	}
	j.words = append(j.words, "--up")
	j.again = strings.Join(j.words, " ")
	models, err := j.Registry.ToServe(j.config, nil)
	if err != nil {
		return err
	}
	state, err := launch.StateOf(j.config.Tree.File())
	if err != nil {
		return err
	}
	models = slices.DeleteFunc(models, func(m launch.Model) bool {
		k, up := state.Owner(m.Name)
		if up {
			fmt.Fprintf(j.Err, "%s is up already, kept by process %d.\n", oneLine(m.Name), k.PID)
		}
		return up
	})
	if len(models) == 0 {
		return f()
	}
	s, err := startServers(j.cmd.Context(), state, models, aside{j})
	if err != nil {
		return err
	}
	j.down = s.Over
	err = f()
	fault := s.End()
	if fault != nil && err != nil {
		return fmt.Errorf("%w\n%v", fault, err) //nolint:errorlint // that the run was stopped is what follows
	}
	return cmp.Or(fault, err)
}
