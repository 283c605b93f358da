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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/cluster/natsnet"
	"matrix/internal/human"
	"matrix/internal/monitor"
	"matrix/internal/standing"
	"matrix/session"
	"matrix/spec"
)

// clusterFlag adds the flag for which standing head a command asks.
func clusterFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "cluster", "", "the cluster: a `NAME` that 'matrix cluster connect' has noted, or a file with its line for clients (default $MATRIX_CLUSTER, or the only one noted)")
}

// clustersDir is where the lines of clusters are noted.
func clustersDir() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "matrix", "clusters"), err
}

// clusters are the names that are noted.
func clusters() ([]string, error) {
	dir, err := clustersDir()
	if err != nil {
		return nil, nil // nobody could note one
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// clusterOr is the cluster that a command asks: that of its flag, of the environment, or the
// only one; empty where none is said and there is not exactly one.
func clusterOr(flag string) (string, error) {
	if name := cmp.Or(flag, os.Getenv("MATRIX_CLUSTER")); name != "" {
		return name, nil
	}
	names, err := clusters()
	if err != nil || len(names) != 1 {
		return "", err
	}
	return names[0], nil
}

// clusterLine is the line for clients of a cluster.
func clusterLine(name string) (natsnet.Join, error) {
	if dir, err := clustersDir(); err == nil && standing.CheckName(name) == nil {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return natsnet.ParseJoin(string(b))
		}
	}
	file := name
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, standing.ClientsFile)
	}
	if _, err := os.Stat(file); err == nil {
		return joinOf(file)
	}
	names, err := clusters()
	switch {
	case err != nil:
		return natsnet.Join{}, err
	case name == "" && len(names) > 1:
		return natsnet.Join{}, spec.Usagef("say which cluster: --cluster %s", strings.Join(names, " or "))
	case name == "" || len(names) == 0:
		return natsnet.Join{}, spec.Usagef("no cluster is known here: 'matrix cluster connect NAME FILE' notes one, with the line that its head has in DIR/%s", standing.ClientsFile)
	}
	return natsnet.Join{}, spec.Usagef("there is no cluster %q; there are %s", name, strings.Join(names, ", "))
}

// client connects to a cluster, whose head answers within headWait.
func (p Program) client(ctx context.Context, name string) (*standing.Client, error) {
	name, err := clusterOr(name)
	if err != nil {
		return nil, err
	}
	line, err := clusterLine(name)
	if err != nil {
		return nil, err
	}
	return p.clientOf(ctx, line)
}

func (p Program) clientOf(ctx context.Context, line natsnet.Join) (*standing.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, headWait)
	defer cancel()
	c, err := standing.Dial(ctx, line, p.version())
	if err == nil {
		if _, _, err = c.Runs(ctx); err != nil {
			c.Close()
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("no head answers at %s: it was ended, this machine cannot reach it, or the line is not the one for clients (DIR/%s of the head)", strings.Join(line.Addresses, ", "), standing.ClientsFile)
	}
	return c, err
}

// asked runs f with a client of a cluster.
func (p Program) asked(cmd *cobra.Command, cluster string, f func(ctx context.Context, c *standing.Client) error) error {
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	c, err := p.client(ctx, cluster)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}

func newClusterConnectCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use:   "connect NAME FILE|-",
		Short: "Note a standing head by a name, for --cluster",
		Long: `Connect notes under NAME how to ask the head whose line for clients is in FILE, or
on stdin, once that has answered. The head has it in DIR/clients ('matrix head'). It is
secret: who has it may submit runs, see them, and end them. It is kept in
matrix/clusters/NAME in your folder for configs, readable by you alone.`,
		Example: `  ssh head cat runs/clients | matrix cluster connect lab -`,
		Args:    argsBetween(2, 2, "NAME, and FILE with the line for clients, or - for stdin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := standing.CheckName(args[0]); err != nil {
				return flagErrorf("%q cannot be the name of a cluster: want letters, digits, dots, - and _", args[0])
			}
			var line natsnet.Join
			var err error
			if args[1] == "-" {
				line, err = readJoin("-", bufio.NewReader(p.In))
			} else {
				line, err = clusterLine(args[1])
			}
			if err != nil {
				return err
			}
			c, err := p.clientOf(cmd.Context(), line)
			if err != nil {
				return err
			}
			c.Close()
			dir, err := clustersDir()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			file := filepath.Join(dir, args[0])
			if err := os.WriteFile(file+".new", []byte(line.String()+"\n"), 0o600); err != nil {
				return err
			}
			if err := os.Rename(file+".new", file); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Connected to %s as %s.\n", strings.Join(line.Addresses, ", "), args[0])
			return nil
		},
	}
}

func newRunsCmd(p Program) *cobra.Command {
	var cluster string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "runs",
		Short:   "List the runs of a cluster",
		Long:    `Runs lists the runs that were submitted to a standing head, and how they stand.`,
		Example: `  matrix runs --cluster lab`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.asked(cmd, cluster, func(ctx context.Context, c *standing.Client) error {
				runs, _, err := c.Runs(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), runs)
				}
				if len(runs) == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "No run was submitted.")
					return nil
				}
				printLines(cmd.OutOrStdout(), colorFor(cmd.OutOrStdout(), false).head(runTable(runs)))
				return nil
			})
		},
	}
	clusterFlag(cmd, &cluster)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// runTable lists runs: a head line, and one for each, with another where it has something
// to say.
func runTable(runs []standing.Info) []string {
	rows := [][]string{{"run", "state", "done", "failed", "pending", "live", "acting", "rows/s", "USD", "tokens", "workers", "weight", "priority"}}
	for i := range runs {
		r := &runs[i]
		pending := "-"
		if r.Pending >= 0 {
			pending = human.Commas(r.Pending)
		}
		rows = append(rows, []string{oneLine(r.Name), r.State, human.Commas(r.Done + r.Expanded), human.Commas(r.Failed), pending, human.Commas(r.Live),
			human.Commas(int64(r.Acting)), fmt.Sprintf("%.1f", r.Rate), fmt.Sprintf("%.2f", r.USD), human.Commas(r.Tokens), human.Commas(int64(r.Workers)), human.Commas(int64(r.Weight)), r.Priority.String()})
		if r.Why != "" {
			rows = append(rows, []string{oneLine(r.Why)})
		}
		if r.Waits != "" {
			rows = append(rows, []string{fmt.Sprintf("nobody who is there serves %s", oneLine(r.Waits))})
		}
	}
	return columns(rows, true, func(i int) bool { return i >= 2 && i < 12 })
}

func newTopCmd(p Program) *cobra.Command {
	var cluster string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the runs of a cluster and its workers, again and again",
		Long: `Top shows all runs of a standing head that go on, and the workers that are there,
every --every until Ctrl-C; to what is no terminal once.`,
		Example: `  matrix top --cluster lab`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return flagErrorf("--every %v: want 100ms or more", every)
			}
			return p.asked(cmd, cluster, func(ctx context.Context, c *standing.Client) error {
				screen := terminalOf(cmd.OutOrStdout()).live()
				for {
					runs, workers, err := c.Runs(ctx)
					if ctx.Err() != nil && cmd.Context().Err() == nil {
						return nil
					}
					if err != nil {
						return err
					}
					var b strings.Builder
					printTop(&b, cmd.OutOrStdout(), runs, workers)
					if screen {
						fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
					}
					fmt.Fprint(cmd.OutOrStdout(), b.String())
					if !screen {
						return nil
					}
					select {
					case <-ctx.Done():
						return nil
					case <-time.After(every):
					}
				}
			})
		},
	}
	clusterFlag(cmd, &cluster)
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often")
	return cmd
}

// printTop prints the runs that go on, and workers.
func printTop(w, screen io.Writer, runs []standing.Info, workers []session.WorkerState) {
	col := colorFor(screen, false)
	all := len(runs)
	runs = slices.DeleteFunc(runs, func(r standing.Info) bool {
		return r.State != standing.Running && r.State != standing.Starting && r.State != standing.Stopping
	})
	if len(runs) == 0 {
		fmt.Fprintf(w, "No run goes on, of %d.\n", all)
	} else {
		printLines(w, col.head(runTable(runs)))
	}
	fmt.Fprintln(w)
	printSeveral(w, screen, workers)
}

// printSeveral prints the workers of a standing head.
func printSeveral(w, screen io.Writer, workers []session.WorkerState) {
	if len(workers) == 0 {
		fmt.Fprintln(w, "No worker is there.")
		return
	}
	rows := [][]string{{"worker", "host", "state", "acting", "slots", "runs"}}
	for i := range workers {
		x := &workers[i]
		acting := 0
		for _, s := range x.Steps {
			if !s.Inline {
				acting += s.Acting
			}
		}
		slots := "-"
		if x.Slots > 0 {
			slots = human.Commas(int64(x.Slots))
		}
		rows = append(rows, []string{oneLine(x.ID), oneLine(x.Host), stateOf(x), human.Commas(int64(acting)), slots, oneLine(strings.Join(x.Runs, ","))})
		if x.Why != "" {
			rows = append(rows, []string{oneLine(x.Why)})
		}
	}
	printLines(w, colorFor(screen, false).head(columns(rows, true, func(i int) bool { return i == 3 || i == 4 })))
}

func newCancelCmd(p Program) *cobra.Command {
	var cluster string
	cmd := &cobra.Command{
		Use:   "cancel NAME",
		Short: "End a run of a cluster for good",
		Long: `Cancel ends the run NAME of a standing head: calls under way are not waited for, and
no command goes on with it but one with --fresh, which begins it anew. What is finished
stays in the head's folder of it. 'matrix stop' ends a run that is to go on later.`,
		Example: `  matrix cancel coral --cluster lab`,
		Args:    argsBetween(1, 1, "NAME, of a run of the cluster"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.asked(cmd, cluster, func(ctx context.Context, c *standing.Client) error {
				if err := c.Cancel(ctx, args[0]); err != nil {
					return err
				}
				end, err := c.Watch(ctx, 0, args[0], func(monitor.Event) {})
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), clean(end.Err))
				return nil
			})
		},
	}
	clusterFlag(cmd, &cluster)
	return cmd
}

func newLogsCmd(p Program) *cobra.Command {
	var cluster string
	var lines int
	cmd := &cobra.Command{
		Use:   "logs RUN|WORKER",
		Short: "Print what the process of a run of a cluster, or a worker, has said",
		Long: `Logs prints the last lines that the process of a run has said at its standing head, or
those of a worker, by its id or the beginning of it, as 'matrix top' shows it: who has
joined, what was lacking, and what command agents wrote to stderr. Some MiB are kept of a
run, and 1,000 lines by a worker, as long as it lives.`,
		Example: `  matrix logs coral --cluster lab
  matrix logs gpu01`,
		Args: argsBetween(1, 1, "RUN, of the cluster, or WORKER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lines < 1 {
				return flagErrorf("--lines %d: want 1 or more", lines)
			}
			return p.asked(cmd, cluster, func(ctx context.Context, c *standing.Client) error {
				said, err := c.Logs(ctx, args[0], lines)
				for _, line := range said {
					fmt.Fprintln(cmd.OutOrStdout(), clean(line))
				}
				return err
			})
		},
	}
	clusterFlag(cmd, &cluster)
	cmd.Flags().IntVarP(&lines, "lines", "n", 100, "how many at most")
	return cmd
}

// ofCluster reports whether what a person calls a run is one of a cluster, and of which.
func ofCluster(arg, flag string) (cluster string, is bool, err error) {
	if flag != "" {
		return flag, true, nil
	}
	if _, err := os.Stat(arg); err == nil || strings.ContainsRune(arg, filepath.Separator) || natsnet.IsJoin(arg) {
		return "", false, nil
	}
	cluster, err = clusterOr("")
	return cluster, cluster != "" && err == nil, err
}

// attachTo shows a run of a cluster until it ends.
func (p Program) attachTo(cmd *cobra.Command, c *standing.Client, name, cluster string) error {
	again := fmt.Sprintf("%s attach %s --cluster %s", self(), shellWord(name), shellWord(cluster))
	return p.view(cmd, fmt.Sprintf("%s, whose folder is on the head's machine", name), again, func(ctx context.Context, every time.Duration, f func(monitor.Event)) (*monitor.End, error) {
		return c.Watch(ctx, every, name, f)
	})
}

// stopAt stops a run of a cluster and waits until it has.
func (p Program) stopAt(cmd *cobra.Command, cluster, name string, now bool) error {
	return p.asked(cmd, cluster, func(ctx context.Context, c *standing.Client) error {
		if err := c.Stop(ctx, name, now); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "Stopping %s ...\n", name)
		end, err := c.Watch(ctx, 0, name, func(monitor.Event) {})
		switch {
		case err != nil && ctx.Err() != nil && cmd.Context().Err() == nil:
			return &stoppedError{"The run is stopping."}
		case err != nil:
			return err
		case end.Code != exitOK && end.Code != exitStopped:
			return &endedError{end.Code, end.Err}
		case end.Err != "":
			fmt.Fprintln(cmd.OutOrStdout(), clean(end.Err))
		default:
			fmt.Fprintf(cmd.OutOrStdout(), "%s had come to its end.\n", name)
		}
		return nil
	})
}
