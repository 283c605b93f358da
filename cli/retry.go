package cli

import (
	"cmp"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"matrix/internal/human"
	"matrix/run"
)

// retryOptions are those of `matrix run` that speak of failed tasks.
type retryOptions struct {
	begin bool
	where string
}

func (o *retryOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.begin, "retry-failed", false, "try failed tasks again, at the turn that failed; not those that the flow itself failed")
	f.StringVar(&o.where, "where", "", "of the failed tasks, only those for which this expression is true; it also knows cause and fault (step, limit, router, flow)")
}

func (o *retryOptions) check(cmd *cobra.Command, fresh bool) error {
	switch {
	case cmd.Flags().Changed("where") && !o.begin:
		return flagErrorf("--where says which failed tasks are tried again: give --retry-failed, too")
	case o.begin && fresh:
		return flagErrorf("--fresh deletes the failed tasks that --retry-failed would try again: give one of them")
	}
	return nil
}

// retried says what a retry came to.
func retried(w io.Writer, r run.Retried) {
	if r == (run.Retried{}) {
		return
	}
	fmt.Fprintf(w, "\nTried again: %s.", human.Plural(r.Tasks, "failed task"))
	for _, x := range []struct {
		n   int64
		why string
	}{
		{r.Flow, "which the flow itself failed (--where 'fault == \"flow\"' tries them, too)"},
		{r.Rows, "whose rows cannot be made tasks"},
		{r.Other, "which --where does not name, or whose role is gone"},
	} {
		if x.n > 0 {
			fmt.Fprintf(w, " Left: %s, %s.", human.Commas(x.n), x.why)
		}
	}
	fmt.Fprintln(w)
}

// causes prints why tasks have failed, by kind.
func causes(w io.Writer, all []run.CauseCount, col color) {
	listed(w, col.red("failed, by cause"), "other causes", all, col)
}

// listed prints kinds under a title, in the words of one task each, and the rest of them.
func listed(w io.Writer, title, others string, all []run.CauseCount, col color) {
	if len(all) == 0 {
		return
	}
	const most = 10
	fmt.Fprintf(w, "\n%s\n", title)
	rest := int64(0)
	var rows [][]string
	for i, c := range all {
		if i >= most || c.Cause == "" {
			rest += c.Count
			continue
		}
		text := oneLine(cmp.Or(c.Words, c.Cause))
		if c.Example != "" {
			text += col.dim("  (" + oneLine(c.Example) + ")")
		}
		rows = append(rows, []string{human.Commas(c.Count) + " x", text})
	}
	if rest > 0 {
		rows = append(rows, []string{human.Commas(rest) + " x", others})
	}
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(w, "  %*s %s\n", width, r[0], r[1])
	}
}
