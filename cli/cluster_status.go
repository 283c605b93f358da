package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"matrix/cluster/natsnet"
	"matrix/internal/human"
	"matrix/session"
)

// headWait is how long a command waits for the head of a run to answer.
const headWait = 10 * time.Second

func newClusterStatusCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status DIR|FILE",
		Short: "Show who works for a run, and what waits where",
		Long: `Status asks the head of the run in DIR, or whose line to join by is in FILE, who
works for it: the head, where it acts, too, and workers, with their roles, labels and
steps under way, what waits for each role, and which of these roles nobody who is there
serves. Steps are those of each process since it began; a role's, those of all who are
or were there.`,
		Example: `  matrix cluster status runs/coral`,
		Args:    argsBetween(1, 1, "DIR, the folder of a run that is served, or FILE with its line to join by"),
		RunE: func(cmd *cobra.Command, args []string) error {
			line, err := joinOf(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), headWait)
			defer cancel()
			v, err := session.Status(ctx, line)
			if errors.Is(err, context.DeadlineExceeded) {
				return noHead(line)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			if v.Name == "" { // a standing head, of no run
				printSeveral(cmd.OutOrStdout(), cmd.OutOrStdout(), v.Workers)
				return nil
			}
			printCluster(cmd.OutOrStdout(), v)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// noHead says that nobody answers who leads the run of a join line.
func noHead(line natsnet.Join) error {
	if len(line.Addresses) > 1 {
		return fmt.Errorf("nobody who leads the run answers at %s: all or most heads were stopped or killed, or this machine cannot reach them; their commands begin them again", strings.Join(line.Addresses, ", "))
	}
	return fmt.Errorf("no head of the run answers at %s: it was stopped or killed, or this machine cannot reach it; its command begins it again", strings.Join(line.Addresses, ", "))
}

// printHeads prints which heads a run has, and how the logs of its shards stand.
func printHeads(w io.Writer, v *session.Snapshot) {
	if len(v.Heads) == 0 {
		return
	}
	rows := [][]string{{"head", "host", "state", "for", ""}}
	for _, h := range v.Heads {
		if h.Away != "" {
			rows = append(rows, []string{oneLine(h.Name), "-", "away", "-", oneLine(h.Away)})
			continue
		}
		rows = append(rows, []string{oneLine(h.Name), oneLine(h.Host), oneLine(h.State), human.Clock(time.Duration(h.For * float64(time.Second))), ""})
	}
	printLines(w, colorFor(w, false).head(columns(rows, true, func(i int) bool { return i == 3 })))
	fmt.Fprintln(w, logsLine(v.Logs))
	fmt.Fprintln(w)
}

// logsLine says whether all servers have all of what was committed.
func logsLine(logs []session.LogState) string {
	var size uint64
	var wrong []string
	of := 1
	for _, l := range logs {
		size += l.Bytes
		of = l.Of
		switch {
		case l.Leader == "" && l.Of > 1:
			wrong = append(wrong, fmt.Sprintf("that of shard %d has no leader", l.Shard))
		case len(l.Behind) > 0:
			wrong = append(wrong, fmt.Sprintf("that of shard %d is not whole at %s", l.Shard, oneLine(strings.Join(l.Behind, ", "))))
		}
	}
	switch {
	case len(logs) == 0:
		return "How the logs stand cannot be seen now."
	case len(wrong) > 0:
		return fmt.Sprintf("Logs: %s on each of %d servers; %s.", mib(size), of, strings.Join(wrong, "; "))
	}
	return fmt.Sprintf("Logs: %s, whole on %s.", mib(size), human.Plural(int64(of), "server"))
}

func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// printCluster prints who works for a run.
func printCluster(w io.Writer, v *session.Snapshot) {
	col := colorFor(w, false)
	pending := "some"
	if v.Pending >= 0 {
		pending = human.Commas(v.Pending)
	}
	fmt.Fprintf(w, "%s: %s, %s pending, %s under way\n\n", oneLine(v.Name), strings.Join(ended(v.Totals), ", "), pending, human.Commas(v.Live))
	printHeads(w, v)
	all := v.Workers
	if v.Head != nil {
		all = append([]session.WorkerState{*v.Head}, all...)
	}
	rows := [][]string{{"role", "waiting", "acting", "steps", "workers", ""}}
	for _, role := range v.Roles {
		if role.Inline {
			continue
		}
		n := 0
		for _, x := range all {
			if x.Silent == 0 && slices.Contains(x.Roles, role.Name) {
				n++
			}
		}
		note := ""
		if role.Unserved {
			note = "nobody who is there serves it"
		}
		rows = append(rows, []string{role.Name, human.Commas(int64(role.Waiting)), human.Commas(int64(role.Acting)), human.Commas(role.Hops), human.Commas(int64(n)), note})
	}
	printLines(w, col.head(columns(rows, true, func(i int) bool { return i > 0 && i < 5 })))
	fmt.Fprintln(w)
	if len(all) > 0 {
		printLines(w, col.head(workerTable(v, all)))
	}
	if len(v.Workers) == 0 {
		fmt.Fprintln(w, "No worker is there.")
	}
}

// workerTable lists who acts for a run: a head line, and one for each of all, with
// another where it has something to say. Inline roles, which have no steps of their own,
// are not counted.
func workerTable(v *session.Snapshot, all []session.WorkerState) []string {
	inline := map[string]bool{}
	for _, role := range v.Roles {
		inline[role.Name] = role.Inline
	}
	rows := [][]string{{"worker", "host", "state", "acting", "steps", "slots", "roles", "labels"}}
	for i := range all {
		x := &all[i]
		acting, hops := 0, int64(0)
		for name, s := range x.Steps {
			if inline[name] {
				continue
			}
			acting += s.Acting
			hops += s.Hops
		}
		slots := "-"
		if x.Slots > 0 {
			slots = human.Commas(int64(x.Slots))
		}
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(x.Labels)) {
			if k != "host" && k != "os" && k != "arch" {
				labels = append(labels, k+"="+x.Labels[k])
			}
		}
		rows = append(rows, []string{oneLine(x.ID), oneLine(x.Host), stateOf(x), human.Commas(int64(acting)), human.Commas(hops), slots, oneLine(strings.Join(x.Roles, ",")), oneLine(strings.Join(labels, " "))})
		if x.Why != "" {
			rows = append(rows, []string{oneLine(x.Why)})
		}
	}
	return columns(rows, true, func(i int) bool { return i >= 3 && i < 6 })
}

// stateOf is what a worker is at, and for how long where it is silent: "silent 6s".
func stateOf(w *session.WorkerState) string {
	if w.Silent > 0 {
		return fmt.Sprintf("%s %.0fs", oneLine(w.State), w.Silent)
	}
	return oneLine(w.State)
}

func printLines(w io.Writer, lines []string) {
	for _, l := range lines {
		fmt.Fprintln(w, l)
	}
}
