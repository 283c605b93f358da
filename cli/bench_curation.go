package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"matrix/internal/bench"
	"matrix/internal/human"
)

func newBenchCurationCmd() *cobra.Command {
	var o bench.CurationOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "curation",
		Short: "Web documents filtered, scored and asked about: row by row, and in batches",
		Long: `Documents go through three roles that ask a simulated service: most of them fall at
the first, whose reply is one word; those that are left get a score, and then a
question, in long replies. A run does it row by row. A single orchestrator with the
same client does it in batches of as many documents as the run has under way: all of
a batch end a stage before the next begins. Calls and tokens are the same in both,
and so is the service.

Before that, a run takes documents through filters that ask no model, language and
length, and a quarter of them, to compare the memory.`,
		Example: `  matrix bench curation
  matrix bench curation --live 4000 --rows 8000 --documents 0
  matrix bench curation --documents 1000000`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Rows < 1 || o.Live < 1 || o.Slots < 1 || o.Bytes < 1 || o.Score <= 0 || o.Question <= 0 {
				return flagErrorf("rows, live, slots, document-bytes, score-tokens and question-tokens must be more than 0")
			}
			if o.Pass < 0 || o.Pass > 1 || o.Good < 0 || o.Good > 1 || o.Sigma < 0 || o.Documents < 0 {
				return flagErrorf("shares that pass must be from 0 to 1, and sigma and documents not negative")
			}
			var err error
			if o.Exe, err = os.Executable(); err != nil {
				return err
			}
			ctx, stop := benchCtx(cmd)
			defer stop()
			r, err := bench.Curation(ctx, o)
			if err != nil {
				return benchError(ctx, err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%-28s %14s %14s\n", "", "batches", "row by row")
			row := func(name string, of func(*bench.CurationRun) string) {
				fmt.Fprintf(w, "%-28s %14s %14s\n", name, of(&r.Batch), of(&r.Row))
			}
			row("tokens of replies/s", func(x *bench.CurationRun) string { return human.Commas(int64(x.TokensPerS)) })
			row("to those in batches", func(x *bench.CurationRun) string {
				return fmt.Sprintf("%.2f", x.TokensPerS/max(r.Batch.TokensPerS, 1e-9))
			})
			row("documents/s", func(x *bench.CurationRun) string { return fmt.Sprintf("%.0f", x.DocumentsPerS) })
			row("service used", func(x *bench.CurationRun) string { return fmt.Sprintf("%.0f%%", 100*x.Share) })
			row("seconds", func(x *bench.CurationRun) string { return fmt.Sprintf("%.1f", x.Seconds) })
			row("calls", func(x *bench.CurationRun) string { return human.Commas(x.Calls) })
			if r.Filters == nil {
				return nil
			}
			fmt.Fprintf(w, "\n%-28s %14s %14s\n", "filters without a model", "a quarter", "all")
			filters := func(name string, of func(*bench.FiltersRun) string) {
				fmt.Fprintf(w, "%-28s %14s %14s\n", name, of(r.Quarter), of(r.Filters))
			}
			filters("documents", func(x *bench.FiltersRun) string { return human.Commas(int64(x.Documents)) })
			filters("documents/s", func(x *bench.FiltersRun) string { return human.Commas(int64(x.DocumentsPerS)) })
			filters("CPU a document", func(x *bench.FiltersRun) string { return fmt.Sprintf("%.0f us", x.CPU) })
			filters("peak memory", func(x *bench.FiltersRun) string { return human.Commas(x.RSS>>20) + " MiB" })
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Rows, "rows", 4000, "documents that a model sees")
	f.IntVar(&o.Live, "live", 1000, "documents under way at once, and in a batch")
	f.IntVar(&o.Slots, "slots", 128, "calls that the service works on at once")
	f.StringVar(&o.Preset, "preset", "8b", "what serves: 8b or 70b, a model of that size")
	f.IntVar(&o.Bytes, "document-bytes", 4000, "length of a document, mean")
	f.Float64Var(&o.Score, "score-tokens", 600, "length of the reply that scores, mean")
	f.Float64Var(&o.Question, "question-tokens", 1000, "length of the reply that asks, mean")
	f.Float64Var(&o.Sigma, "sigma", 0.6, "spread of all lengths, sigma of a lognormal")
	f.Float64Var(&o.Pass, "pass-filter", 0.0545, "share of the documents that the first role lets through")
	f.Float64Var(&o.Good, "pass-score", 0.873, "share of those that the second one lets through")
	f.IntVar(&o.Documents, "documents", 100000, "documents through the filters that ask no model; 0 for none")
	f.Int64Var(&o.Seed, "seed", 1, "all that is drawn derives from it")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}
