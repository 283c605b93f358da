package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	"matrix"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/llm"
	"matrix/run"
)

// table is what a run prints at its end. Metrics and usage are of all tasks
// that are settled, over all sessions.
func table(w io.Writer, p run.Progress) {
	col := colorFor(w, false)
	if p.Finished && p.Total == 0 {
		fmt.Fprintln(w, "The dataset has no row: it is empty, or where, skip and limit leave nothing.")
	}
	rows := [][]string{{"done", human.Commas(p.Done)}}
	if p.Dropped > 0 {
		rows = append(rows, []string{"dropped", human.Commas(p.Dropped)})
	}
	if p.Expanded > 0 {
		rows = append(rows, []string{"expanded", human.Commas(p.Expanded)})
	}
	failed := len(rows)
	rows = append(rows, []string{"failed", human.Commas(p.Failed)})
	if p.Pending >= 0 {
		rows = append(rows, []string{"pending", human.Commas(p.Pending)})
	}
	if p.Begun > 0 {
		rows = append(rows, []string{"of these children", human.Commas(p.Begun)})
	}
	if p.Unused > 0 {
		rows = append(rows, []string{"unused", human.Commas(p.Unused)})
	}
	rows = append(rows, []string{"seconds", fmt.Sprintf("%.1f", p.Seconds)})
	if p.Seconds > 0 {
		rows = append(rows, []string{"tasks/s", human.Decimal(float64(p.Settled()) / p.Seconds)})
	}
	print := func(lines []string) {
		fmt.Fprintln(w)
		for _, l := range lines {
			fmt.Fprintln(w, l)
		}
	}
	lines := align(rows)
	if p.Failed > 0 {
		lines[failed] = col.red(lines[failed])
	}
	print(lines)
	if p.Met {
		fmt.Fprintf(w, "\nThe goal is met: %s kept. %s\n", human.Commas(p.Done), accepted(p))
	}
	var silent []string // metrics
	if len(p.Metrics) > 0 {
		rows := [][]string{{"metric", "count", "mean"}}
		for _, name := range slices.Sorted(maps.Keys(p.Metrics)) {
			m := p.Metrics[name]
			mean := ""
			if m.Mean != nil {
				mean = fmt.Sprintf("%.4g", *m.Mean)
			}
			rows = append(rows, []string{name, human.Commas(m.Count), mean})
			if m.Count == 0 && p.Done > 0 {
				silent = append(silent, name)
			}
		}
		print(col.head(align(rows)))
	}
	if len(p.Usage) > 0 {
		rows := [][]string{{"model", "calls", "retries", "prompt tokens", "completion tokens"}}
		var all run.Usage
		for _, u := range p.Usage {
			all.Tokens.Add(u.Tokens, 1)
			all.USD += u.USD
			all.Reused += u.Reused
		}
		more := func(row []string, cached, written, reasoning, usd, reused string) []string { // where there is any
			for _, c := range []struct {
				any  bool
				cell string
			}{{all.CachedTokens > 0, cached}, {all.CacheWriteTokens > 0, written}, {all.ReasoningTokens > 0, reasoning}, {all.USD > 0, usd}, {all.Reused > 0, reused}} {
				if c.any {
					row = append(row, c.cell)
				}
			}
			return row
		}
		rows[0] = more(rows[0], "cached", "cache writes", "reasoning", "USD", "of them reused")
		for _, name := range slices.Sorted(maps.Keys(p.Usage)) {
			u := p.Usage[name]
			row := []string{cmp.Or(name, "other names"), human.Commas(u.Calls), human.Commas(u.Retries), human.Commas(u.PromptTokens), human.Commas(u.CompletionTokens)}
			rows = append(rows, more(row, human.Commas(u.CachedTokens), human.Commas(u.CacheWriteTokens), human.Commas(u.ReasoningTokens), llm.ShowUSD(u.USD), human.Commas(u.Reused)))
		}
		print(col.head(align(rows)))
	}
	for _, name := range silent {
		fmt.Fprintf(w, "\nWarning: the metric %s says nothing of any of the %s that are done: its expression gives neither a number nor true or false there, or fails\n", name, human.Plural(p.Done, "task"))
	}
	listed(w, "dropped, by reason", "other reasons", p.DroppedBy(), col)
	causes(w, p.FailedBy(), col)
}

// accepted says how many of the tasks that have ended were kept, of a run that is to end with so
// many.
func accepted(p run.Progress) string {
	ended := p.Settled() - p.Expanded - p.Reasons[run.Surplus].Count
	if ended <= 0 {
		return "No task came to an end."
	}
	return fmt.Sprintf("%s of %s that ended were kept.", human.Percent(p.Done, ended), human.Plural(ended, "task"))
}

// ended says how many tasks have ended how: of what none is dropped and expanded are left
// out.
func ended(t run.Totals) []string {
	parts := []string{human.Commas(t.Done) + " done"}
	if t.Dropped > 0 {
		parts = append(parts, human.Commas(t.Dropped)+" dropped")
	}
	if t.Expanded > 0 {
		parts = append(parts, human.Commas(t.Expanded)+" expanded")
	}
	return append(parts, human.Commas(t.Failed)+" failed")
}

// next says where the rows are, and names the commands to type after a run. again is
// that of the run; empty: it is not named.
func next(w io.Writer, dir string, p run.Progress, again string) {
	if rows := rundir.Rows(dir); rows != "" {
		fmt.Fprintf(w, "\nrows: %s\n", rows)
	}
	dir = shellWord(dir)
	var rows [][]string
	if p.Done > 0 {
		rows = append(rows, []string{self() + " show " + dir, " # read the dialogues"})
	}
	if p.Dropped > 0 {
		rows = append(rows, []string{self() + " show " + dir + " --dropped", " # read those that were dropped, and why"})
	}
	if p.Failed > 0 {
		rows = append(rows, []string{self() + " show " + dir + " --failed", " # read those that failed, and why"})
		if again != "" && p.Retryable() > 0 {
			rows = append(rows, []string{again + " --retry-failed", " # try those again, once the cause is fixed"})
		}
		if again != "" && p.Faults[matrix.FaultRow] > 0 {
			rows = append(rows, []string{again + " --accept-changes", " # run rows that could not be read, once they are appended, repaired, to the dataset"})
		}
	}
	rows = append(rows, []string{self() + " verify " + dir, " # prove that nothing is lost or doubled"})
	fmt.Fprintln(w, "\nNext:")
	for _, l := range columns(rows, true, left) {
		fmt.Fprintln(w, "  "+l)
	}
}
