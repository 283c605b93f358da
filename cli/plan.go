package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/estimate"
	"matrix/internal/human"
	"matrix/llm"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
)

func newPlanCmd(p Program) *cobra.Command {
	var n int
	var asJSON, random bool
	var reuse []string
	cmd := &cobra.Command{
		Use:   "plan CONFIG [key=value ...]",
		Short: "Estimate calls, tokens, cost, time and disk before spending anything",
		Long: `Plan counts the rows of a config and estimates what a run of it will cost.

Without --sample no call is made: prompts of the first rows are rendered, and
counted at 3 to 5 bytes a token; replies are taken to be between a quarter of
max_tokens and all of it. A role in a loop is taken to act once at least, and
at most as often as it does where no reply ever ends the loop. Of the tasks that
one becomes by expand, five stand for all; lists that replies bring are not known.

With --sample N the first N rows are run, as matrix preview does, at real cost
and within the budget. What they took is told, and taken for the rest. With
--random they come from anywhere in the dataset.

With --reuse, or reuse in the config, up to 10,000 tasks are walked, with the replies
that earlier runs have: it tells how many calls they have paid for. A sample makes
all of its calls.`,
		Example: `  matrix plan examples/coral
  matrix plan examples/coral --sample 5 dataset.limit=100
  matrix plan examples/coral --sample 20 --random
  matrix plan examples/coral --reuse runs/coral
  matrix plan examples/coral --json`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 || cmd.Flags().Changed("sample") && n == 0 {
				return flagErrorf("--sample is %d: want 1 or more", n)
			}
			if random && n == 0 {
				return flagErrorf("--random is for the rows of --sample N, which is missing")
			}
			return makePlan(p, cmd, args, n, random, asJSON, reuse)
		},
	}
	reuseFlag(cmd, &reuse)
	cmd.Flags().IntVar(&n, "sample", 0, "run the first N rows, for money, and extrapolate (5 tells much already)")
	cmd.Flags().BoolVar(&random, "random", false, "with --sample: rows from anywhere in the dataset, chosen by the config's seed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// makePlan prints the estimate of a config.
func makePlan(program Program, cmd *cobra.Command, args []string, n int, random, asJSON bool, reuse []string) (err error) {
	dry := &estimate.DryRun{}
	if n == 0 {
		kinds := *program.Registry
		kinds.Stub, kinds.Front = dry.Stub, dry.Front
		program.Registry = &kinds
	}
	p, err := program.loadPlan(args[0], args[1:], registry.ToCheck)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	var f *estimate.Estimate
	if n == 0 {
		past, over, wrong := session.Past(cmd.Context(), append(p.Run.Reuse, reuse...), func(err error) { warn(program.Err, err) })
		if wrong != nil {
			return wrong
		}
		defer func() { _ = over() }() // of a temporary folder
		dry.Past = past
		f, err = dry.Estimate(cmd.Context(), &p.Run, p.Plan)
	} else {
		f, err = sampleSome(cmd, p, n, random)
	}
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if asJSON {
		return printJSON(w, f)
	}
	printEstimate(w, f, p)
	return nil
}

// sampleSome runs the first n rows, or n of them at random, where there are any, and estimates by them.
func sampleSome(cmd *cobra.Command, p *session.Plan, n int, random bool) (*estimate.Estimate, error) {
	rows, err := p.Source.Count(cmd.Context())
	if err != nil {
		return nil, err
	}
	var tasks []*matrix.Task
	if rows != 0 { // -1: not known
		tasks, err = runSome(cmd, p, n, random)
	}
	switch {
	case errors.Is(err, run.ErrStopped):
		return nil, &stoppedError{fmt.Sprintf("Stopped. %s cost %s USD.", human.Plural(int64(len(tasks)), "row"), llm.ShowUSD(estimate.SampleOf(tasks).Cost.USD))}
	case err != nil:
		return nil, err
	}
	return estimate.FromSample(cmd.Context(), &p.Run, p.Plan, tasks)
}

// printEstimate writes an estimate for people.
func printEstimate(w io.Writer, f *estimate.Estimate, p *session.Plan) {
	col := colorFor(w, false)
	if f.Rows == 0 {
		fmt.Fprintf(w, "The dataset has no rows (%s): it is empty, or where, skip and limit leave nothing. There is nothing to plan.\n", strings.Join(p.Run.Dataset.Path, ", "))
		return
	}
	rows := human.Plural(f.Rows, "row")
	if f.Tasks != f.Rows {
		rows += fmt.Sprintf(", %s trials each: %s tasks", human.Commas(int(p.Run.Trials)), human.Commas(f.Tasks))
	}
	fmt.Fprintf(w, "%s: %s\n\n", oneLine(f.Name), rows)
	cells := [][]string{{"role", "model", "calls", "prompt tokens", "reply tokens", "USD"}}
	line := func(n estimate.Need, role string) []string {
		usd := "?"
		if n.USD != nil {
			usd = llm.ShowUSD(n.USD.Mid)
		}
		return []string{role, n.Model, count(n.Calls.Mid), count(n.Prompt.Mid), count(n.Reply.Mid), usd}
	}
	for _, r := range f.Roles {
		cells = append(cells, line(r, r.Role))
	}
	if len(f.Models) < len(f.Roles) {
		for _, m := range f.Models {
			cells = append(cells, line(m, "all"))
		}
	}
	for _, l := range col.head(align(cells)) {
		fmt.Fprintln(w, l)
	}
	fmt.Fprintln(w)
	var sum [][2]string
	if f.Children != nil {
		sum = append(sum, [2]string{"children", ranged(*f.Children, count)})
	}
	sum = append(sum, [2]string{"tokens", ranged(f.Tokens, count)})
	if f.USD != nil {
		sum = append(sum, [2]string{"cost", ranged(*f.USD, llm.ShowUSD) + " USD"})
	} else {
		sum = append(sum, [2]string{"cost", "not known: set price at " + strings.Join(f.Unpriced, ", ")})
	}
	if f.Seconds != nil {
		sum = append(sum, [2]string{"time", ranged(*f.Seconds, func(s float64) string { return human.Clock(time.Duration(s * float64(time.Second))) })})
	}
	sum = append(sum, [2]string{"disk", ranged(f.Disk, func(b float64) string { return human.Short(b) + "B" })})
	width := len("tokens ")
	if f.Children != nil {
		width = len("children")
	}
	for _, s := range sum {
		fmt.Fprintf(w, "%-*s %s\n", width, s[0], s[1])
	}
	if s := f.Sample; s != nil {
		kin := ""
		if s.Children > 0 {
			kin = " with " + children(s.Children)
		}
		fmt.Fprintf(w, "\nFrom a sample of %s%s (%d failed) that cost %s USD and %s tokens.\n", human.Plural(int64(s.Tasks), "task"), kin, s.Failed, llm.ShowUSD(s.Cost.USD), human.Commas(s.Cost.Tokens))
	} else {
		fmt.Fprintf(w, "\nNo call was made. Tokens are guessed from bytes, replies from max_tokens, and\ntime from 50 tokens a second; --sample 5 runs 5 rows, for money, and tells more.\n")
	}
	if r := f.Reused; r != nil {
		there := human.Commas(r.Calls)
		if r.Tasks < f.Tasks {
			there = "About " + there
		}
		line := fmt.Sprintf("%s of %s calls are there already, and cost nothing", there, count(allCalls(f)))
		if r.Tasks < f.Tasks {
			line += fmt.Sprintf(": %s of %s tasks were looked at", human.Commas(r.Tasks), human.Commas(f.Tasks))
		}
		fmt.Fprintln(w, line+".")
	}
	for _, n := range f.Notes {
		fmt.Fprintln(w, n)
	}
	if words := verdict(f); words != "" {
		fmt.Fprintln(w, words)
	}
}

// allCalls are the calls of all roles.
func allCalls(f *estimate.Estimate) (n float64) {
	for _, r := range f.Roles {
		n += r.Calls.Mid
	}
	return n
}

// count writes an estimate of a count.
func count(x float64) string {
	if x < 1e4 {
		return human.Commas(int64(x + 0.5))
	}
	return human.Short(x)
}

// verdict reports whether the budget will do.
func verdict(f *estimate.Estimate) string {
	if f.Budget == nil {
		return ""
	}
	judge := func(what string, e estimate.Range, limit float64) string {
		switch {
		case limit == 0:
			return ""
		case e.High <= limit:
			return fmt.Sprintf("The budget of %s covers it.", what)
		case e.Low > limit:
			return fmt.Sprintf("The budget of %s does not cover it: the run will stop at about %d%%.", what, int(100*limit/e.Mid))
		}
		return fmt.Sprintf("The budget of %s may not cover it.", what)
	}
	var says []string
	if f.USD != nil {
		says = append(says, judge(llm.ShowUSD(f.Budget.USD)+" USD", *f.USD, f.Budget.USD))
	}
	says = append(says, judge(human.Short(float64(f.Budget.Tokens))+" tokens", f.Tokens, float64(f.Budget.Tokens)))
	return strings.Join(slices.DeleteFunc(says, func(s string) bool { return s == "" }), "\n")
}

// ranged writes an estimate: 12 (8 to 20).
func ranged(e estimate.Range, show func(float64) string) string {
	low, mid, high := show(e.Low), show(e.Mid), show(e.High)
	if low == high {
		return mid
	}
	return fmt.Sprintf("%s (%s to %s)", mid, low, high)
}
