package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/llm"
)

func newExplainCmd() *cobra.Command {
	var plain bool
	cmd := &cobra.Command{
		Use:   "explain DIR ID",
		Short: "Print one task's journey: who acted when, what it waited for, what it cost",
		Long: `Print one task's journey, a line for each step, and below one that made several
calls, a line for each: of a model, a tool or a sandbox:

  hop      the commit that holds the step; steps without one acted inline
  at       when the agent began, since the task was fed
  queue    waited for a free worker
  delay    waited for retries of the step to fall due (attempts spent)
  slot     waited for a free slot at the model
  retry    lost to failed tries of the call and the pauses between (tries)
  took     in the agent itself, slot and retry left out; of a call, at the service
  tokens   of prompt and reply, of all calls of the step
  USD      what these cost, where the model has a price
  model    its name in the config, or the pool's; behind it which server answered,
           where not always the same one did

A call of a tool or a sandbox has a line on how it went: the tool, the lease and its
generation where that was made again, exit code, time-out, CPU time, memory, and how
much output was left out.

Of a task that others were made of, by expand in its flow, the first 20 of these
follow, with their ends. Of one that is such a child, the first line says whose.

A task under way can only be explained once its run has stopped: until then
another process holds its state.`,
		Example: `  matrix explain runs/coral 17`,
		Args:    argsBetween(2, 2, "DIR, the folder of a run, and the ID of a task"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := openOutput(cmd, args)
			if err != nil {
				return err
			}
			defer a.Close()
			r, err := a.Find(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			col := colorFor(w, plain)
			if err := explain(w, r, col); err != nil || r.Task.Expanded == 0 {
				return err
			}
			kin, err := a.Children(cmd.Context(), r.Task, explainChildren)
			if err != nil {
				return err
			}
			return explainBrood(w, r.Task, kin, col)
		},
	}
	cmd.Flags().BoolVar(&plain, "no-color", false, "no colours, in a terminal too (as NO_COLOR in the environment)")
	return cmd
}

// explain prints a task's journey.
func explain(w io.Writer, r *rundir.Record, col color) error {
	t := r.Task
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", col.bold(oneLine(t.ID)), col.outcome(t))
	if path := matrix.PathOf(t.ID, t.Row, t.Trial); t.Parent != "" && len(path) > 0 {
		goesOn := ""
		if t.Waited {
			goesOn = " and goes on once all have ended"
		}
		fmt.Fprintf(&b, "%s\n", col.dim(fmt.Sprintf("child %s of %s, which has %s%s", human.Commas(path[len(path)-1]), oneLine(t.Parent), human.Commas(t.Siblings), goesOn)))
	}
	began := fedAt(t)
	if !began.IsZero() {
		fmt.Fprintf(&b, "%s\n", col.dim("fed "+began.UTC().Format("2006-01-02 15:04:05.000 MST")))
	}
	b.WriteString("\n")
	where := servers(t)
	if len(t.Turns) > 0 {
		journey(t, began, where, col).print(&b, col)
		b.WriteString("\n")
	}
	for _, name := range slices.Sorted(maps.Keys(where)) {
		if where[name] != "" {
			fmt.Fprintf(&b, "%s is %s\n", oneLine(name), where[name])
		}
	}
	ending(&b, r, began, col)
	_, err := io.WriteString(w, b.String())
	return err
}

// explainChildren is how many children are listed.
const explainChildren = 20

// explainBrood lists the children of a task, of which kin are the first, and counts how
// those ended of which the task was told.
func explainBrood(w io.Writer, t *matrix.Task, kin []*rundir.Record, col color) error {
	var b strings.Builder
	told := map[matrix.Status]int{}
	for i := range t.Children {
		told[t.Children[i].Status]++
	}
	var parts []string
	for _, s := range matrix.Ends() {
		if told[s] > 0 {
			parts = append(parts, human.Commas(told[s])+" "+string(s))
		}
	}
	head := children(t.Expanded)
	if len(t.Children) > 0 {
		of := ""
		if len(t.Children) < t.Expanded {
			of = fmt.Sprintf("of %s ", human.Commas(len(t.Children)))
		}
		head += ": " + of + strings.Join(parts, ", ")
	}
	fmt.Fprintf(&b, "\n%s\n", head)
	var rows [][]string
	for _, r := range kin {
		row := []string{"  " + oneLine(r.Task.ID)}
		switch o := r.Task.Outcome; {
		case o == nil:
			row = append(row, "pending", "waits for "+waitsFor(r))
		case o.Cause != "":
			row = append(row, string(o.Status), ansi.Truncate(oneLine(o.Cause), 100, "…"))
		case !o.Value.IsZero():
			row = append(row, string(o.Status), ansi.Truncate(oneLine(string(o.Value.Raw())), 100, "…"))
		case r.Task.Expanded > 0:
			row = append(row, string(o.Status), children(r.Task.Expanded))
		default:
			row = append(row, string(o.Status), "")
		}
		rows = append(rows, row)
	}
	for _, l := range columns(rows, true, left) {
		b.WriteString(l + "\n")
	}
	if more := t.Expanded - explainChildren; more > 0 {
		fmt.Fprintf(&b, "  and %s more, to %s/%d\n", human.Commas(more), oneLine(t.ID), t.Expanded-1)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fedAt is when the task was fed, as well as its turns tell; a task that was
// read from its queue knows. It is zero where nothing tells.
func fedAt(t *matrix.Task) time.Time {
	if !t.Fed.IsZero() {
		return t.Fed
	}
	for i := range t.Turns {
		if m := &t.Turns[i].Timing; !m.At.IsZero() {
			return m.At.Add(-span(m.QueuedMS + m.DelayMS))
		}
	}
	return time.Time{}
}

func span(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// servers says of each model which one answered, and where. Of a model whose
// calls went to several it says nothing: each line of the table does.
func servers(t *matrix.Task) map[string]string {
	where := map[string]string{}
	for c := range t.Calls() {
		s := server(c)
		if was, ok := where[c.Name]; ok && was != s {
			s = ""
		}
		where[c.Name] = s
	}
	return where
}

// server says which model answered a call, and where: llama-70b at
// http://127.0.0.1:8000/v1.
func server(c *matrix.Call) string {
	var parts []string
	if c.Model != "" && c.Model != c.Name {
		parts = append(parts, c.Model)
	}
	if c.Endpoint != "" {
		parts = append(parts, "at "+c.Endpoint)
	}
	return oneLine(strings.Join(parts, " "))
}

// journey makes the table: a line for each turn, for each call of those that made
// several, and their sum. where is what
// is said below it of each model.
func journey(t *matrix.Task, began time.Time, where map[string]string, col color) *grid {
	g := &grid{
		head: []string{"hop", "at", "role", "queue", "delay", "slot", "retry", "took", "tokens", "USD", "model"},
	}
	sum := costOf(t)
	var queue, delay, slot, retry, took float64
	var attempts, hop int
	for i := range t.Turns {
		turn := &t.Turns[i]
		m := &turn.Timing
		row := make([]string, len(g.head))
		if turn.Hop > hop {
			row[0], hop = strconv.Itoa(turn.Hop), turn.Hop
		}
		if !m.At.IsZero() {
			row[1] = "+" + human.Duration(max(0, m.At.Sub(began).Seconds()*1e3))
		}
		row[2] = col.role(turn.Role)
		if turn.Hop == 0 {
			row[10] = col.dim("(opening)")
			g.rows = append(g.rows, row)
			continue
		}
		own := m.TookMS
		if c := turn.Call(); c != nil {
			own = max(0, own-c.WaitMS-c.RetryMS)
			slot, retry = slot+c.WaitMS, retry+c.RetryMS
			if fillCells(row, c, where); len(turn.Calls) > 1 {
				row[10] = human.Plural(int64(len(turn.Calls)), "call")
			} else if c.Kind != matrix.KindModel {
				row[10] = string(c.Kind) + " " + row[10]
			}
		}
		row[3], queue = some(m.QueuedMS, 0), queue+m.QueuedMS
		row[4], delay = some(m.DelayMS, m.Attempts), delay+m.DelayMS
		row[7], took = human.Duration(own), took+own
		attempts += m.Attempts
		g.rows = append(g.rows, row)
		if len(turn.Calls) > 1 {
			g.calls(turn.Calls, where, col)
		} else if c := turn.Call(); c != nil {
			g.trace(c, col)
		}
		if note := toolNote(turn); note != "" {
			g.note(col.dim(note))
		}
		if turn.Error != "" {
			g.note(col.red("error: " + oneLine(turn.Error)))
		}
	}
	g.foot = []string{strconv.Itoa(hop), "", "total", some(queue, 0), some(delay, attempts), some(slot, 0), some(retry, sum.retries), human.Duration(took), "", "", ""}
	if sum.usd > 0 {
		g.foot[9] = llm.ShowUSD(sum.usd)
	}
	if sum.calls > 0 {
		g.foot[8], g.foot[10] = tokens(sum.prompt, sum.completion), human.Plural(int64(sum.calls), "call")
	}
	return g
}

// calls adds a line for each call of a turn that made several.
func (g *grid) calls(calls []matrix.Call, where map[string]string, col color) {
	for i := range calls {
		c := &calls[i]
		row := make([]string, len(g.head))
		row[2] = col.dim("· " + oneLine(string(c.Kind)))
		row[7] = some(c.TookMS, 0)
		fillCells(row, c, where)
		g.rows = append(g.rows, row)
		g.trace(c, col)
		if c.Error != "" {
			g.note(col.red("error: " + oneLine(c.Error)))
		}
	}
}

// trace adds a line on how a call of a tool or a sandbox went.
func (g *grid) trace(c *matrix.Call, col color) {
	if note := traceNote(c.Trace); note != "" {
		g.note(col.dim(note))
	}
}

// fillCells fills the cells of a call: slot, retry, tokens, USD, model.
func fillCells(row []string, c *matrix.Call, where map[string]string) {
	row[5], row[6] = some(c.WaitMS, 0), some(c.RetryMS, c.Retries)
	if c.Kind == matrix.KindModel || c.PromptTokens+c.CompletionTokens > 0 {
		row[8] = tokens(c.PromptTokens, c.CompletionTokens)
	}
	if c.Estimated {
		row[8] = "~" + row[8]
	}
	if c.USD > 0 {
		row[9] = llm.ShowUSD(c.USD)
	}
	row[10] = oneLine(c.Name)
	if where[c.Name] == "" {
		short := *c
		short.Model = shortName(c.Model)
		row[10] = strings.TrimSpace(row[10] + " " + server(&short))
	}
}

// some is a span, with a number behind it where there is one, and nothing where
// there was none worth the name.
func some(ms float64, n int) string {
	switch {
	case n > 0:
		return fmt.Sprintf("%s (%d)", human.Duration(ms), n)
	case ms < 0.01:
		return ""
	}
	return human.Duration(ms)
}

// ending says how the task ended and where it stands, or what it waits for.
func ending(b *strings.Builder, r *rundir.Record, began time.Time, col color) {
	t := r.Task
	var end time.Time
	if n := len(t.Turns); n > 0 && !t.Turns[n-1].Timing.At.IsZero() {
		m := &t.Turns[n-1].Timing
		end = m.At.Add(span(m.TookMS))
	}
	after := ""
	if !end.IsZero() && !began.IsZero() && end.After(began) {
		after = " after " + human.Duration(end.Sub(began).Seconds()*1e3)
	}
	switch o := t.Outcome; {
	case o == nil:
		since := ""
		if !end.IsZero() {
			since = " since " + end.UTC().Format("2006-01-02 15:04:05.000 MST")
		}
		fmt.Fprintf(b, "%s\n", waits(r, since))
		return
	case o.Status == matrix.Failed:
		fmt.Fprintf(b, "%s%s: %s\n", col.red("failed"), after, strings.ReplaceAll(clean(o.Cause), "\n", "\n  "))
	case o.Status == matrix.Dropped:
		fmt.Fprintf(b, "dropped%s: %s\n", after, strings.ReplaceAll(clean(o.Cause), "\n", "\n  "))
	default:
		how := ""
		if !o.Value.IsZero() {
			how = " with the value " + ansi.Truncate(oneLine(string(o.Value.Raw())), 200, "…")
		}
		if o.Stopped != "" {
			how += ", stopped: " + oneLine(o.Stopped)
		}
		fmt.Fprintf(b, "%s%s%s\n", col.green(string(o.Status)), after, how)
	}
	if r.Where != "" {
		fmt.Fprintf(b, "stands in %s\n", r.Where)
	} else {
		fmt.Fprintf(b, "%s\n", waits(r, ""))
	}
}

// grid is a table for a terminal.
type grid struct {
	head []string
	rows [][]string // as columns takes them
	foot []string
}

func (g *grid) note(text string) { g.rows = append(g.rows, []string{text}) }

// print writes the columns that hold something.
func (g *grid) print(b *strings.Builder, col color) {
	paint := func(cells []string, by func(string) string) []string {
		painted := make([]string, len(cells))
		for i, c := range cells {
			painted[i] = by(c)
		}
		return painted
	}
	rows := slices.Concat([][]string{paint(g.head, col.dim)}, g.rows, [][]string{paint(g.foot, col.bold)})
	for _, l := range columns(rows, false, func(i int) bool { return i != 2 && i != 10 }) {
		b.WriteString(l + "\n")
	}
}
