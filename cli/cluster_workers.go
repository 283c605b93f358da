package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"matrix/cluster/natsnet"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/internal/workers"
	"matrix/session"
	"matrix/spec"
)

// settling is how long workers that were just started are watched at most, until they
// have joined or ended.
const settling = 10 * time.Second

func newClusterAddCmd() *cobra.Command {
	var on, labels []string
	var roles []string
	var program, image string
	var n, slots int
	cmd := &cobra.Command{
		Use:   "add DIR|FILE --on WHERE [--workers N]",
		Short: "Start workers for a run, on this machine or others",
		Long: `Add starts workers for the run in DIR, which serves them ('matrix run CONFIG
--serve'), or whose line to join by is in FILE. They stay when this command has
ended, until the run has, or 'matrix cluster down'. WHERE is one of

  local             processes on this machine
  ssh:FILE          the hosts that FILE lists, one a line: HOST [slots=N] [label KEY=VALUE].
                    It runs the program ssh, with your configuration, copies this
                    program to each host once, and starts one worker on each, or N in turns
  slurm:"OPTIONS"   a job array, by sbatch with these options, as "--partition=gpu"
  ray:ADDRESS       a job of the Ray cluster whose dashboard is at ADDRESS, spread over its
                    nodes; http://HOST:8265?CPU=4&GPU=1 says what a worker takes
  k8s:NAMESPACE     a Deployment, by kubectl in its current context; needs --image

A worker finds the keys of models in its own environment. What the workers can
join is the address that the head tells: they must reach it.`,
		Example: `  matrix cluster add runs/coral --on local --workers 2
  matrix cluster add runs/coral --on ssh:hosts.txt --slots 64
  matrix cluster add runs/coral --on slurm:"--partition=spot --gres=gpu:1" --workers 32 --label gpu=h100
  matrix cluster down runs/coral`,
		Args: argsBetween(1, 1, "DIR, the folder of a run that serves workers, or FILE with its line to join by"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(on) == 0:
				return flagErrorf("say where: --on local, ssh:FILE, slurm:OPTIONS, ray:ADDRESS or k8s:NAMESPACE")
			case cmd.Flags().Changed("workers") && n < 1:
				return flagErrorf("--workers %d: want 1 or more", n)
			case cmd.Flags().Changed("slots") && slots < 1:
				return flagErrorf("--slots %d: want 1 or more", slots)
			}
			if _, err := session.Labels(labels); err != nil {
				return err
			}
			join, folder, err := joinFileOf(args[0])
			if err != nil {
				return err
			}
			line, err := readJoin(join, nil)
			if err != nil {
				return err
			}
			launchers := make([]workers.Launcher, len(on))
			for i, where := range on {
				if launchers[i], err = workers.New(where); err != nil {
					return flagErrorf("--on %w", err)
				}
				if strings.HasPrefix(where, "k8s:") && image == "" {
					return flagErrorf("--on %s needs --image: a container image with this program", where)
				}
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			s := workers.Spec{
				Program: exe, Keeper: []string{exe, "cluster", "keep"}, Join: join, Image: image,
				Command: workerCommand(roles, labels, slots),
			}
			if program != "" {
				s.Program = program
			}
			if away := slices.IndexFunc(on, func(o string) bool { return o != "local" }); away >= 0 && !line.Elsewhere() {
				fmt.Fprintf(cmd.ErrOrStderr(), "Warning: the run can be joined at %s only, which is this machine itself: no worker elsewhere reaches it. Begin it with --serve :PORT.\n", strings.Join(line.Addresses, ", "))
			}
			var errs []error
			for i, l := range launchers {
				errs = append(errs, addWorkers(cmd.Context(), cmd.OutOrStdout(), folder, on[i], l, n, s, line))
			}
			return errors.Join(errs...)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&on, "on", nil, "where; may be given several times")
	f.IntVar(&n, "workers", 0, "how many on each; 0 is one on each host of ssh, and one elsewhere")
	f.StringSliceVar(&roles, "roles", nil, "the roles that they serve, as teacher,judge; all that they can by default")
	f.StringArrayVar(&labels, "label", nil, "KEY=VALUE, for where: of roles; may be given several times")
	f.IntVar(&slots, "slots", 0, "steps at once at each, of all roles together; as many as the roles allow by default")
	f.StringVar(&program, "program", "", "the program that is copied: this one, built for the other machines")
	f.StringVar(&image, "image", "", "the container image, for k8s")
	return cmd
}

// workerCommand is the command line of a worker behind the program. What a worker has of
// its own wins over what all have.
func workerCommand(roles []string, labels []string, slots int) func(workers.Worker) []string {
	return func(w workers.Worker) []string {
		args := []string{"worker", "--join", w.Join, "--name", w.Name}
		if len(roles) > 0 {
			args = append(args, "--roles", strings.Join(roles, ","))
		}
		own := map[string]bool{}
		for _, l := range w.Labels {
			key, _, _ := strings.Cut(l, "=")
			own[key] = true
		}
		for _, l := range slices.Concat(w.Labels, labels) {
			if key, _, _ := strings.Cut(l, "="); !own[key] || slices.Contains(w.Labels, l) {
				args = append(args, "--label", l)
			}
		}
		if w.Slots == 0 {
			w.Slots = slots
		}
		if w.Slots > 0 {
			args = append(args, "--slots", strconv.Itoa(w.Slots))
		}
		return args
	}
}

// addWorkers starts workers in one place, watches them for a moment, and says what came
// of it.
func addWorkers(ctx context.Context, out io.Writer, folder workers.Folder, on string, l workers.Launcher, n int, s workers.Spec, line natsnet.Join) error {
	g, err := folder.New(on)
	if err != nil {
		return err
	}
	err = l.Start(ctx, g, n, s)
	units, listed := l.List(ctx, g)
	if err != nil && listed == nil && len(units) == 0 {
		return errors.Join(err, folder.Remove(g))
	}
	fmt.Fprintf(out, "Started %s on %s.\n", g.ID, on)
	joined, began := 0, time.Now()
	watched, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	for listed == nil && watched.Err() == nil {
		waiting, running := 0, 0
		for _, u := range units {
			switch u.State {
			case workers.Waiting:
				waiting++
			case workers.Running:
				running++
			}
		}
		if running <= joined && (waiting == 0 || time.Since(began) > settling/4) {
			break
		}
		if v, err := session.Status(watched, line); err == nil {
			joined = joinedOf(v, g)
		}
		select {
		case <-watched.Done():
		case <-time.After(100 * time.Millisecond):
			units, listed = l.List(ctx, g)
		}
	}
	failed := printUnits(out, units)
	fmt.Fprintf(out, "%d of them joined so far; 'matrix cluster status' shows who works.\n", joined)
	if err == nil {
		err = listed
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%s of %s failed", human.Plural(int64(failed), "worker"), g.ID)
	}
	return err
}

// joinedOf counts the workers of a group that are there and work.
func joinedOf(v *session.Snapshot, g *workers.Group) int {
	n := 0
	for _, w := range v.Workers {
		if w.State == "working" && (strings.HasPrefix(w.ID, g.ID+"-") || strings.HasPrefix(w.ID, "matrix-"+g.ID+"-")) { // of pods
			n++
		}
	}
	return n
}

// printUnits says what workers are at, and why those that have failed did; it returns how
// many those are.
func printUnits(out io.Writer, units []workers.Unit) int {
	failed := 0
	for _, u := range units {
		line := "  " + u.Name
		if u.Where != "" {
			line += " on " + u.Where
		}
		line += "  " + string(u.State)
		if u.Text != "" && u.Text != string(u.State) {
			line += ": " + u.Text
		}
		fmt.Fprintln(out, clean(line))
		if u.State != workers.Failed {
			continue
		}
		failed++
		if tail := endOf(u.Log); tail != "" {
			fmt.Fprintf(out, "    its log ends with:\n      %s\n", strings.ReplaceAll(clean(tail), "\n", "\n      "))
		}
	}
	return failed
}

// endOf is the last lines of a log.
func endOf(file string) string {
	const most = 1000
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	return strings.TrimSpace(string(b))
}

// joinFileOf is the file with the line to join by that an argument names, and the folder of
// what was started for it.
func joinFileOf(arg string) (string, workers.Folder, error) {
	path, err := filepath.Abs(arg)
	if err != nil {
		return "", workers.Folder{}, err
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		join := filepath.Join(path, rundir.JoinFile)
		if _, err := os.Stat(join); errors.Is(err, fs.ErrNotExist) {
			return "", workers.Folder{}, spec.Usagef("%s has no line to join by: its run is not served, or has ended ('matrix run CONFIG --serve')", arg)
		} else if err != nil {
			return "", workers.Folder{}, err
		}
		return join, workers.Folder{Dir: filepath.Join(path, rundir.WorkersDir)}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", workers.Folder{}, spec.Usagef("there is no %s: want the folder of a run that serves workers, or a file with its line to join by", arg)
	}
	return path, workers.Folder{Dir: path + ".workers"}, err
}

func newClusterDownCmd() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "down DIR|FILE",
		Short: "End the workers that were started for a run",
		Long: `Down ends the workers that 'matrix cluster add' has started for a run. They land
what they have in hand, and give back the rest. The run goes on, and its tasks
wait for other workers where it has no hands of its own. Logs stay.`,
		Example: `  matrix cluster down runs/coral`,
		Args:    argsBetween(1, 1, "DIR, the folder of a run that serves workers, or FILE with its line to join by"),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := startedFor(args[0])
			if err != nil {
				return err
			}
			groups, err := folder.Groups()
			if err != nil {
				return err
			}
			started := len(groups)
			groups = slices.DeleteFunc(groups, func(g *workers.Group) bool { return !g.Down.IsZero() })
			switch {
			case started == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "Nothing was started.")
				return nil
			case len(groups) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "All that was started is down.")
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), grace)
			defer cancel()
			errs := make([]error, len(groups))
			var all sync.WaitGroup
			for i, g := range groups {
				all.Go(func() {
					l, err := workers.New(g.On)
					if err == nil {
						err = l.Stop(ctx, g)
					}
					errs[i] = err
				})
			}
			all.Wait()
			for i, g := range groups {
				if errs[i] == nil {
					errs[i] = folder.End(g)
				}
				if errs[i] == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s on %s is down.%s\n", g.ID, clean(g.On), logsOf(g))
				} else {
					errs[i] = fmt.Errorf("%s on %s: %w", g.ID, g.On, errs[i])
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", time.Minute, "how long they may take to land what they have in hand")
	return cmd
}

// logsOf says where a group has logs, if it has any.
func logsOf(g *workers.Group) string {
	if len(g.Logs()) == 0 {
		return ""
	}
	return " Its logs are in " + shellWord(g.Dir) + "."
}

// startedFor is the folder of what was started for a run, which may have lost its line
// to join by.
func startedFor(arg string) (workers.Folder, error) {
	if info, err := os.Stat(arg); err == nil && info.IsDir() {
		path, err := filepath.Abs(arg)
		return workers.Folder{Dir: filepath.Join(path, rundir.WorkersDir)}, err
	}
	path, err := filepath.Abs(arg)
	folder := workers.Folder{Dir: path + ".workers"}
	if err == nil {
		if _, gone := os.Stat(folder.Dir); gone != nil {
			_, _, err = joinFileOf(arg)
		}
	}
	return folder, err
}

func newClusterListCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list DIR|FILE",
		Short: "List the workers that were started for a run",
		Long: `List says what the systems know of the workers that 'matrix cluster add' has
started on them: which wait for a machine, which run and where, which have ended
and how, and what 'matrix cluster down' has ended, with its logs. Who works for the run says 'matrix cluster status'.`,
		Example: `  matrix cluster list runs/coral`,
		Args:    argsBetween(1, 1, "DIR, the folder of a run that serves workers, or FILE with its line to join by"),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := startedFor(args[0])
			if err != nil {
				return err
			}
			groups, err := folder.Groups()
			if err != nil {
				return err
			}
			type listed struct {
				*workers.Group
				Workers []workers.Unit `json:"workers"`
				Error   string         `json:"error,omitempty"`
			}
			all := make([]listed, len(groups))
			var errs []error
			for i, g := range groups {
				all[i].Group = g
				if !g.Down.IsZero() {
					continue
				}
				l, err := workers.New(g.On)
				if err == nil {
					all[i].Workers, err = l.List(cmd.Context(), g)
				}
				if err != nil {
					all[i].Error = err.Error()
					errs = append(errs, fmt.Errorf("%s on %s: %w", g.ID, g.On, err))
				}
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON:
				err = printJSON(out, all)
			case len(groups) == 0:
				fmt.Fprintln(out, "Nothing was started.")
			}
			for _, g := range all {
				if !asJSON {
					fmt.Fprintf(out, "%s on %s, started %s", g.ID, clean(g.On), g.Since.Format(time.DateTime))
					if !g.Down.IsZero() {
						fmt.Fprintf(out, ", ended %s.%s", g.Down.Format(time.DateTime), logsOf(g.Group))
					}
					fmt.Fprintln(out)
					printUnits(out, g.Workers)
				}
			}
			return errors.Join(append(errs, err)...)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newClusterJoinCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "join DIR",
		Short: "Print the line by which workers join a run",
		Long: `Join prints the line by which workers join the run in DIR, which serves them. It
is a secret: who has it may work for the run, and see its tasks.`,
		Example: `  ssh head matrix cluster join runs/coral > coral.join`,
		Args:    argsBetween(1, 1, "DIR, the folder of a run that serves workers"),
		RunE: func(cmd *cobra.Command, args []string) error {
			join, _, err := joinFileOf(args[0])
			if err != nil {
				return err
			}
			b, err := os.ReadFile(join)
			if err == nil {
				_, err = cmd.OutOrStdout().Write(b)
			}
			return err
		},
	}
}

// newClusterKeepCmd is the process that workers on this machine and over ssh hang on.
func newClusterKeepCmd() *cobra.Command {
	return &cobra.Command{
		Use: "keep", Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if workers.Keep(os.Stdin, os.Stdout) != 0 {
				return errSilent
			}
			return nil
		},
	}
}
