package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/config"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/llm"
	"matrix/run"
	"matrix/spec"
)

// maxPoints is how many runs a sweep may have.
const maxPoints = 1000

// point is one run of a sweep.
type point struct {
	args   []string // of the command
	varied []string // the overrides that differ from run to run
	dir    string
}

// sweep gives the runs of a command whose overrides have several values, commas between
// them: each value with each of the others, the last one varied fastest. All configs
// are read. out is where their folders go; empty for runs/NAME-sweep.
func sweep(args []string, out string) ([]point, error) {
	points := []point{{args: args[:1:1]}}
	for _, a := range args[1:] {
		key, value, ok := strings.Cut(a, "=")
		choices := []string{value}
		if ok {
			choices = splitChoices(value)
		}
		if n := len(points) * len(choices); n > maxPoints {
			return nil, flagErrorf("--multirun: these overrides make %s runs, want %s at most", human.Commas(n), human.Commas(maxPoints))
		}
		var next []point
		for _, p := range points {
			for _, c := range choices {
				q, one := p, a
				if ok {
					one = key + "=" + c
				}
				q.args = append(slices.Clip(p.args), one)
				if len(choices) > 1 {
					q.varied = append(slices.Clip(p.varied), one)
				}
				next = append(next, q)
			}
		}
		points = next
	}
	if len(points) == 1 {
		return nil, flagErrorf("--multirun: no override has several values; write them with commas between: temperature=0.2,0.7")
	}
	for i := range points {
		c, err := spec.Load(points[i].args[0], points[i].args[1:])
		if err != nil {
			return nil, err
		}
		if out == "" {
			dir, err := rundir.For(c)
			if err != nil {
				return nil, err
			}
			out = dir + "-sweep"
		}
		points[i].dir = filepath.Join(out, strconv.Itoa(i))
	}
	return points, nil
}

// splitChoices splits a value at its commas, but for those in quotes and brackets. As in
// YAML a quote is one where a value begins: that of don't is a letter.
func splitChoices(value string) (all []string) {
	depth, quote, from, before := 0, rune(0), 0, ','
	for i, c := range value {
		begins := strings.ContainsRune(",[{(:=", before)
		if c != ' ' {
			before = c
		}
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case begins && (c == '"' || c == '\''):
			quote = c
		case strings.ContainsRune("[{(", c):
			depth++
		case strings.ContainsRune("]})", c):
			depth--
		case c == ',' && depth == 0:
			all, from = append(all, strings.TrimSpace(value[from:i])), i+1
		}
	}
	return append(all, strings.TrimSpace(value[from:]))
}

// sweeps runs the points one after the other, and prints what they came to. A run that
// does not end well ends the sweep: the same command goes on with it.
func sweeps(w, messages io.Writer, points []point, run func(p point) error) error {
	var fault error
	for i, p := range points {
		fmt.Fprintf(messages, "\nRun %d of %d: %s\n", i+1, len(points), hidden(p.varied))
		if fault = run(p); fault != nil {
			fmt.Fprintln(messages, "The sweep ends with this run: once that is put right, the same command goes on with it.")
			break
		}
	}
	return cmp.Or(fault, sweepTable(w, points))
}

// hidden are overrides for people: without secrets.
func hidden(overrides []string) string {
	shown := make([]string, len(overrides))
	for i, o := range overrides {
		shown[i] = config.Hide(o)
	}
	return oneLine(strings.Join(shown, " "))
}

// sweepTable prints a row for each run that has begun.
func sweepTable(w io.Writer, points []point) error {
	type outcome struct {
		Done, Failed, Dropped int64
		Metrics               map[string]run.MetricSum
		Usage                 map[string]run.Usage
	}
	outcomes := make([]*outcome, len(points))
	metrics := map[string]bool{}
	usd, dropped := 0.0, false
	for i, p := range points {
		b, err := os.ReadFile(filepath.Join(p.dir, rundir.SummaryFile))
		if err != nil {
			continue // not begun
		}
		outcomes[i] = &outcome{}
		if err := json.Unmarshal(b, outcomes[i]); err != nil {
			return fmt.Errorf("%s: %w", p.dir, err)
		}
		dropped = dropped || outcomes[i].Dropped > 0
		for name := range outcomes[i].Metrics {
			metrics[name] = true
		}
		for _, u := range outcomes[i].Usage {
			usd += u.USD
		}
	}
	names := slices.Sorted(maps.Keys(metrics))
	counts := []string{"run", "values", "done", "failed"}
	if dropped {
		counts = append(counts, "dropped")
	}
	rows := [][]string{append(counts, names...)}
	if usd > 0 {
		rows[0] = append(rows[0], "USD")
	}
	for i, o := range outcomes {
		if o == nil {
			continue
		}
		row := []string{points[i].dir, hidden(points[i].varied), human.Commas(o.Done), human.Commas(o.Failed)}
		if dropped {
			row = append(row, human.Commas(o.Dropped))
		}
		for _, name := range names {
			cell := ""
			if m := o.Metrics[name]; m.Mean != nil {
				cell = fmt.Sprintf("%.4g", *m.Mean)
			}
			row = append(row, cell)
		}
		if usd > 0 {
			cost := 0.0
			for _, u := range o.Usage {
				cost += u.USD
			}
			row = append(row, llm.ShowUSD(cost))
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(w)
	for _, l := range colorFor(w, false).head(columns(rows, true, func(i int) bool { return i > 1 })) {
		fmt.Fprintln(w, l)
	}
	return nil
}
