package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/internal/stats"
	"matrix/llm"
)

func newStatsCmd() *cobra.Command {
	var asJSON, plain, noPager bool
	cmd := &cobra.Command{
		Use:   "stats DIR",
		Short: "Sum a run up: ends, costs, lengths, metrics, duplicates",
		Long: `Stats reads the tasks of a run once and prints how they ended, what they took,
what each role called and what that cost, how long the final texts are, how the
metrics are spread, and how many final texts are exact copies of others.

It works while the run goes on, for what is finished. Quantiles of more than
10,000 values are those of a random sample of 10,000.`,
		Example: `  matrix stats runs/coral
  matrix stats runs/coral --json`,
		Args:              argsBetween(1, 1, "DIR, the folder of a run"),
		ValidArgsFunction: completeFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := openOutput(cmd, args)
			if err != nil {
				return err
			}
			defer d.Close()
			r, err := sumUp(cmd, d)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			col := colorFor(cmd.OutOrStdout(), plain)
			return paged(cmd, noPager, func(w io.Writer) error {
				printStats(w, d.Path, r, col)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all of it as JSON")
	pageFlags(cmd, &plain, &noPager)
	return cmd
}

// sumUp reads the tasks of a run.
func sumUp(cmd *cobra.Command, d *rundir.Dir) (*stats.Report, error) {
	s := stats.New()
	for t, err := range d.Ended(cmd.Context()) {
		if err != nil {
			return nil, err
		}
		s.Add(t)
	}
	r := s.Report()
	r.UnderWay = d.Busy()
	if all, ok := d.Total(); ok {
		r.Pending = new(max(0, all-r.Settled()))
	}
	return r, nil
}

// printStats prints a report as tables, those that hold nothing left out.
func printStats(w io.Writer, dir string, r *stats.Report, col color) {
	settled := r.Settled()
	fmt.Fprintf(w, "%s: %s\n", oneLine(dir), human.Plural(settled, "finished task"))
	if r.UnderWay {
		fmt.Fprintln(w, "The run is under way: this is about what has been finished so far.")
	}
	table := func(lines []string) {
		fmt.Fprintln(w)
		for _, l := range lines {
			fmt.Fprintln(w, l)
		}
	}
	table(col.head(align(ends(r, settled))))
	listed(w, "dropped, by reason", "other reasons", r.Reasons, col)
	causes(w, r.Causes, col)
	if len(r.By) > 0 {
		table(col.head(columns(callers(r), false, func(i int) bool { return i > 1 })))
	}
	if settled > 0 {
		table(col.head(columns(spreads(r), false, func(i int) bool { return i > 0 })))
	}
	if len(r.Texts.Histogram) > 0 {
		table(lengths(r, col))
	}
	if t := &r.Texts; t.Characters != nil {
		fmt.Fprintf(w, "\n%s\n", copies(t))
	}
}

// ends are rows of how tasks ended.
func ends(r *stats.Report, settled int64) [][]string {
	share := func(n, of int64) string {
		if of == 0 {
			return ""
		}
		return human.Decimal(100*float64(n)/float64(of)) + "%"
	}
	rows := [][]string{{"end", "tasks", "of finished"}, {"done", human.Commas(r.Done), share(r.Done, settled)}}
	for _, by := range byCount(r.Stopped) {
		rows = append(rows, []string{"  stopped: " + oneLine(cmp.Or(by, "others")), human.Commas(r.Stopped[by]), share(r.Stopped[by], settled)})
	}
	for _, end := range []struct {
		name string
		n    int64
	}{{"dropped", r.Dropped}, {"expanded", r.Expanded}} {
		if end.n > 0 {
			rows = append(rows, []string{end.name, human.Commas(end.n), share(end.n, settled)})
		}
	}
	rows = append(rows, []string{"failed", human.Commas(r.Failed), share(r.Failed, settled)})
	for _, f := range byCount(r.Faults) {
		rows = append(rows, []string{"  fault: " + oneLine(string(f)), human.Commas(r.Faults[f]), share(r.Faults[f], settled)})
	}
	pending := "not known yet"
	if r.Pending != nil {
		pending = human.Commas(*r.Pending)
	}
	rows = append(rows, []string{"pending", pending, ""})
	if r.Children > 0 {
		rows = append(rows, []string{"of these children", human.Commas(r.Children), share(r.Children, settled)})
	}
	return rows
}

// byCount are the keys, those of the largest counts first.
func byCount[K cmp.Ordered](m map[K]int64) []K {
	return slices.SortedFunc(maps.Keys(m), func(a, b K) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
}

// callers are rows of what each role called, and their sum.
func callers(r *stats.Report) [][]string {
	rows := [][]string{{"role", "calls of", "calls", "unused", "errors", "restored", "retries", "prompt tokens", "completion tokens", "cached", "reasoning", "USD", "median", "p95", "longest"}}
	count := func(n int64) string {
		if n == 0 {
			return ""
		}
		return human.Commas(n)
	}
	var sum stats.Calls
	for i := range r.By {
		c := &r.By[i]
		row := []string{oneLine(cmp.Or(c.Role, "others")), oneLine(cmp.Or(shortName(c.Name), "others"))}
		if c.Kind != matrix.KindModel && c.Kind != "" {
			row[1] = string(c.Kind) + " " + row[1]
		}
		row = append(row, human.Commas(c.Calls), count(c.Unused), count(c.Errors), count(c.Restored), count(c.Retries), count(int64(c.PromptTokens)), count(int64(c.CompletionTokens)),
			count(int64(c.CachedTokens)), count(int64(c.ReasoningTokens)), dollars(c.USD))
		if t := c.TookMS; t != nil {
			row = append(row, human.Duration(t.Median), human.Duration(t.P95), human.Duration(t.Max))
		}
		rows = append(rows, row)
		sum.Calls += c.Calls
		sum.Unused += c.Unused
		sum.Errors += c.Errors
		sum.Restored += c.Restored
		sum.Retries += c.Retries
		sum.Tokens.Add(c.Tokens, 1)
		sum.USD += c.USD
	}
	if len(r.By) > 1 {
		rows = append(rows, []string{"all", "", human.Commas(sum.Calls), count(sum.Unused), count(sum.Errors), count(sum.Restored), count(sum.Retries), count(int64(sum.PromptTokens)), count(int64(sum.CompletionTokens)),
			count(int64(sum.CachedTokens)), count(int64(sum.ReasoningTokens)), dollars(sum.USD)})
	}
	return rows
}

func dollars(usd float64) string {
	if usd == 0 {
		return ""
	}
	return llm.ShowUSD(usd)
}

// spreads are rows of how much each task took, of the lengths of final texts, and of
// metrics.
func spreads(r *stats.Report) [][]string {
	rows := [][]string{{"a task", "tasks", "missing", "mean", "sd", "min", "25%", "median", "75%", "95%", "max"}}
	add := func(name string, s *stats.Spread, missing int64, show func(float64) string) {
		none := ""
		if missing > 0 {
			none = human.Decimal(100*float64(missing)/float64(r.Done)) + "%"
		}
		if s == nil {
			rows = append(rows, []string{name, "0", none})
			return
		}
		rows = append(rows, []string{name, human.Commas(s.Count), none, show(s.Mean), show(s.SD), show(s.Min), show(s.Q1), show(s.Median), show(s.Q3), show(s.P95), show(s.Max)})
	}
	add("turns", r.Turns, 0, number)
	if r.Calls.Max > 0 {
		add("calls", r.Calls, 0, number)
	}
	if r.Tokens.Max > 0 {
		add("tokens", r.Tokens, 0, number)
	}
	if r.USD.Max > 0 {
		add("USD", r.USD, 0, llm.ShowUSD)
	}
	if t := &r.Texts; t.Characters != nil {
		add("final text, characters", t.Characters, t.None, number)
		if t.Tokens != nil {
			add("final text, tokens", t.Tokens, r.Done-t.Tokens.Count, number)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Metrics)) {
		m := r.Metrics[name]
		add("metric "+oneLine(cmp.Or(name, "others")), m.Spread, m.Missing, func(x float64) string { return fmt.Sprintf("%.4g", x) })
	}
	return rows
}

// number writes a whole number as one, and others with as many digits as say something.
func number(x float64) string {
	if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
		return human.Commas(int64(x))
	}
	return human.Decimal(x)
}

// lengths is a histogram of final texts.
func lengths(r *stats.Report, col color) []string {
	most := int64(1)
	for _, b := range r.Texts.Histogram {
		most = max(most, b.Count)
	}
	rows := [][]string{{"characters", "", "tasks"}}
	for _, b := range r.Texts.Histogram {
		span := fmt.Sprintf("%s-%s", human.Commas(b.From), human.Commas(b.To-1))
		switch b.To {
		case 0:
			span = human.Commas(b.From) + " and more"
		case b.From + 1:
			span = human.Commas(b.From)
		}
		rows = append(rows, []string{span, bar(col, b.Count, most, 40), human.Commas(b.Count)})
	}
	return col.head(columns(rows, true, func(i int) bool { return i != 1 }))
}

// copies says how many final texts stand several times.
func copies(t *stats.Texts) string {
	texts := t.Characters.Count
	if t.Copies == 0 {
		if t.Sampled < 1 {
			return fmt.Sprintf("No final text is the same as another one, in a sample of %.2g%% of them.", 100*t.Sampled)
		}
		return "No final text is the same as another one."
	}
	about, repeats := "", "repeat"
	if t.Sampled < 1 {
		about = "about "
	}
	if t.Copies == 1 {
		repeats = "repeats"
	}
	return fmt.Sprintf("Duplicates: %s%s of %s (%s%%) %s an earlier one. The most frequent one stands %s times, first in %s and %s.",
		about, human.Commas(t.Copies), human.Plural(texts, "final text"), human.Decimal(math.Min(100, 100*float64(t.Copies)/float64(texts))), repeats,
		human.Commas(t.Most), oneLine(t.Example[0]), oneLine(t.Example[1]))
}
