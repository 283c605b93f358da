package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/compare"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/llm"
)

func newCompareCmd() *cobra.Command {
	var n int
	var metric string
	var asJSON, plain, noPager bool
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Set two runs beside each other, row by row",
		Long: `Compare joins the tasks of two runs by their ids and prints what each metric says of the
same tasks: its mean in A and in B, the difference with the interval in which it lies
with 95% confidence (a paired bootstrap; of more than 20,000 tasks by the normal
distribution), and of how many tasks it is larger in B, smaller, equal. Then come
ends, calls, tokens and costs, and the tasks that are farthest apart, side by side.

Metrics are compared of tasks that are done in both runs. It works while runs go
on, for what is finished.`,
		Example: `  matrix compare runs/coral runs/coral-hot
  matrix compare runs/coral runs/coral-hot --metric agreement -n 5
  matrix compare runs/coral runs/coral-hot --json`,
		Args: argsBetween(2, 2, "A and B, the folders of two runs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 {
				return flagErrorf("-n is %d: want 0 or more", n)
			}
			var dirs [2]*rundir.Dir
			for i := range dirs {
				d, err := openOutput(cmd, args[i:i+1])
				if err != nil {
					return err
				}
				defer d.Close()
				dirs[i] = d
			}
			r, err := compare.Compare(dirs[0].Ended(cmd.Context()), dirs[1].Ended(cmd.Context()), compare.Options{By: metric, Most: n})
			if err != nil {
				return err
			}
			if metric != "" && !slices.ContainsFunc(r.Metrics, func(m compare.Metric) bool { return m.Name == metric }) {
				return flagErrorf("--metric %s: no task that both runs have done has it%s", metric, named(r.Metrics))
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return paged(cmd, noPager, func(w io.Writer) error { return printComparison(cmd, w, dirs, r, printOn(w, plain, false)) })
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 3, "how many tasks to show side by side")
	cmd.Flags().StringVar(&metric, "metric", "", "by which tasks are apart (default the first by name)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	pageFlags(cmd, &plain, &noPager)
	return cmd
}

// named lists the metrics that there are, for a message.
func named(all []compare.Metric) string {
	if len(all) == 0 {
		return "; there is no metric"
	}
	names := make([]string, len(all))
	for i, m := range all {
		names[i] = m.Name
	}
	return "; there are " + strings.Join(names, ", ")
}

func printComparison(cmd *cobra.Command, w io.Writer, dirs [2]*rundir.Dir, r *compare.Report, o printOptions) error {
	table := func(rows [][]string) {
		fmt.Fprintln(w)
		for _, l := range o.Color.head(align(rows)) {
			fmt.Fprintln(w, l)
		}
	}
	fmt.Fprintf(w, "A: %s\nB: %s\n", oneLine(dirs[0].Path), oneLine(dirs[1].Path))
	rows := [][]string{{"", "A", "B"}, {"tasks", human.Commas(r.A.Tasks), human.Commas(r.B.Tasks)}, {"that the other has not", human.Commas(r.A.Alone), human.Commas(r.B.Alone)}}
	for _, s := range matrix.Ends() {
		if r.A.Ends[s]+r.B.Ends[s] > 0 {
			rows = append(rows, []string{string(s), human.Commas(r.A.Ends[s]), human.Commas(r.B.Ends[s])})
		}
	}
	rows = append(rows, []string{"calls", human.Commas(r.A.Calls), human.Commas(r.B.Calls)}, []string{"tokens", human.Commas(r.A.Tokens), human.Commas(r.B.Tokens)})
	if r.A.USD+r.B.USD > 0 {
		rows = append(rows, []string{"USD", llm.ShowUSD(r.A.USD), llm.ShowUSD(r.B.USD)})
	}
	table(rows)
	if r.Both == 0 {
		fmt.Fprintln(w, "\nNo task of the one has the id of one of the other: there is nothing to compare.")
		return nil
	}
	if len(r.Metrics) > 0 {
		rows := [][]string{{"metric", "tasks", "A", "B", "B - A", "95% from", "to", "B larger", "smaller", "equal"}}
		for _, m := range r.Metrics {
			rows = append(rows, []string{m.Name, human.Commas(m.Count), fmt.Sprintf("%.4g", m.A), fmt.Sprintf("%.4g", m.B), fmt.Sprintf("%+.4g", m.Diff),
				fmt.Sprintf("%+.4g", m.Low), fmt.Sprintf("%+.4g", m.High), human.Commas(m.Larger), human.Commas(m.Less), human.Commas(m.Ties)})
		}
		table(rows)
	}
	fmt.Fprintf(w, "\n%s of %s done in both end with the same text.\n", human.Commas(r.Same), human.Plural(r.Done, "task"))
	for _, p := range r.Apart {
		if err := printApart(cmd, w, dirs, r.By, p, o); err != nil {
			return err
		}
	}
	return nil
}

// printApart prints how a task ended in each of the runs, side by side.
func printApart(cmd *cobra.Command, w io.Writer, dirs [2]*rundir.Dir, by string, p compare.Pair, o printOptions) error {
	fmt.Fprintf(w, "\n%s\n", o.Color.bold(oneLine(p.ID)))
	width := 100
	if o.Width > 0 {
		width = min(width, o.Width)
	}
	column := max(20, (width-3)/2)
	var sides [2][]string
	for i, v := range []*float64{p.A, p.B} {
		r, err := dirs[i].Find(cmd.Context(), p.ID)
		if err != nil {
			return err
		}
		if v != nil {
			sides[i] = append(sides[i], fmt.Sprintf("%s %.4g", by, *v))
		}
		if t := compare.Final(r.Task); t != nil {
			lines := strings.Split(ansi.Wrap(clean(t.Text), column, ""), "\n")
			if most := 12; len(lines) > most {
				lines = append(lines[:most-1], "…")
			}
			sides[i] = append(sides[i], lines...)
		}
	}
	for i := range max(len(sides[0]), len(sides[1])) {
		var cells [2]string
		for k := range cells {
			if i < len(sides[k]) {
				cells[k] = strings.ReplaceAll(sides[k][i], "\t", " ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(cells[0]+strings.Repeat(" ", max(0, column-displayWidth(cells[0])))+" | "+cells[1], " "))
	}
	return nil
}
