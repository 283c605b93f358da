package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/internal/export"
	"matrix/internal/human"
	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/session"
)

// exporting is a `matrix export` command.
type exporting struct {
	export.Options
	format  string
	as      string
	columns []string
	splits  []string
	join    []string
	license string
	version string
}

func newExportCmd(p Program) *cobra.Command {
	x := &exporting{version: p.version()}
	var formats []string
	for _, f := range export.Formats {
		formats = append(formats, string(f))
	}
	cmd := &cobra.Command{
		Use:   "export DIR -o FILE|FOLDER",
		Short: "Write a training set of a run's finished tasks",
		Long: `Write a training set of the tasks of a run that are done: a file, or a folder
that datasets.load_dataset and the hub read, with data/train-00000-of-00001 and
so on and a dataset card that says how the rows were made. It works while the
run goes on, for what has been finished.

Formats:
  messages           what a role was asked for its last turn, and its reply, as
                     messages of role and content, with tools where there are some
  sharegpt           the same as conversations of from and value
  prompt-completion  the same as two parts
  alpaca             the same as instruction, output, system and history
  dpo                of several replies (n) the best and the worst by --score
  kto                each reply, and whether it is good by --label
  tasks              whole tasks, as in data/
  atif               trajectories of a role, in the Agent Trajectory Interchange
                     Format of Harbor
  mini-swe           trajectories of a role, as mini-swe-agent writes them
  swebench-preds     the patch of each instance, as SWE-bench's graders read it:
                     value.submission or value.model_patch; one object in a .json
  columns            columns of your own: --column name=EXPR; with --join beside
                     those of the rows of a file, in its order

Expressions are those of flows. They also see value (of finish), metrics and
stopped; --score and --label see sample, a reply with text, data, reasoning and
logprobs, and index, its number from 0.`,
		Example: `  matrix export runs/coral -o train.jsonl --assistant teacher --where 'metrics.agreement_correct == 1'
  matrix export runs/coral -o set --assistant teacher --split train=0.98,test=0.02 --shuffle
  matrix export runs/best -o pairs.parquet --format dpo --score 'turn("judge").data.scores[index]'
  matrix export runs/labels -o labels.csv --format columns --column id=id --column label=last.data.choice
  matrix export runs/labels -o labelled.parquet --join rows.parquet --column label=value`,
		Args: argsBetween(1, 1, "DIR, the folder of a run"),
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&x.Out, "out", "o", "", "file ("+strings.Join(export.Endings, ", ")+") or folder to write")
	f.StringVar(&x.format, "format", string(export.Messages), "what a row holds: "+strings.Join(formats, ", "))
	f.StringVar(&x.Role, "assistant", "", "role whose replies are learnt; may be left out where only one asks a model")
	f.StringArrayVar(&x.join, "join", nil, "files of rows, all of which are written as they are, with the --columns of their tasks or null beside; by dataset.id; may be given several times")
	f.StringVar((*string)(&x.Tools), "tools", "", "how tools and arguments of their calls stand: object, text (JSON as text) or json (of Parquet, which newer readers make objects of); object by default, text in Parquet")
	f.BoolVar(&x.UserFirst, "user-first", false, "leave out what the assistant says before the first message of the user, which some chat templates refuse")
	f.StringArrayVar(&x.columns, "column", nil, "name=EXPR: a column, also beside those of a format; may be given several times")
	f.StringVar(&x.Score, "score", "", "expression for the score of a reply, nil leaves it out: dpo has the best and the worst, other dialogues learn the best")
	f.Float64Var(&x.MinMargin, "min-margin", 0, "of dpo: leave out pairs whose scores are less apart")
	f.StringVar(&x.Label, "label", "", "of kto: expression that says whether a reply is good; nil leaves the reply out")
	f.StringVar(&x.Where, "where", "", "only tasks for which this expression is true")
	f.StringSliceVar(&x.splits, "split", nil, "name=share,...: splits by the row's id, so that a row stays in its split when there are more; they add up to 1")
	f.StringVar(&x.Sort, "sort", "", "order by this expression, smallest first")
	f.BoolVar(&x.Shuffle, "shuffle", false, "order at random, the same each time")
	f.Int64Var(&x.Seed, "seed", 0, "another order of --shuffle")
	f.StringVar(&x.as, "as", "jsonl", "form of the files in a folder: jsonl, jsonl.gz, jsonl.zst, parquet or csv")
	f.StringVar(&x.license, "license", "", "licence for the dataset card of a folder, as the hub names it, such as apache-2.0")
	f.Var((*bytesValue)(&x.MaxBytes), "max-shard-size", "of a folder: begin a next file of a split behind so much JSON, such as 500MB")
	f.BoolVar(&x.Force, "force", false, "replace files that are there, in a folder all that an export wrote")
	return cmd
}

func (x *exporting) run(cmd *cobra.Command, dir string) error {
	x.Format = export.Format(x.format)
	if len(x.join) > 0 && !cmd.Flags().Changed("format") {
		x.Format = export.Columns
	}
	if err := x.check(cmd); err != nil {
		return err
	}
	d, err := rundir.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := x.outside(dir); err != nil {
		return err
	}
	many := (*registry.ManyAskers)(nil)
	switch err := registry.ExportOf(&d.Config.Run, &x.Options, filepath.Join(d.Path, rundir.PoolsDir)); {
	case errors.As(err, &many):
		return flagErrorf("%w, such as --assistant %s", many, many.Roles[0])
	case err != nil:
		return flagErrorf("--assistant: %w", err)
	}
	x.Options.Version = x.version
	if x.Ending != "" {
		x.Recipe = session.Recipe(d.Path, d.Config, x.version, x.license)
	}
	if len(x.join) > 0 {
		rows, err := registry.Rows(&d.Config.Run, x.join)
		if err != nil {
			return flagErrorf("--join: %w", err)
		}
		x.Join = &export.Join{Rows: rows, Name: strings.Join(x.join, ", ")}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := export.Run(ctx, doneTasks(ctx, d), x.Options)
	var usage *export.UsageError
	var exists *export.ExistsError
	var empty *export.EmptyError
	switch {
	case errors.As(err, &usage):
		return flagErrorf("%w", usage)
	case errors.As(err, &exists):
		return flagErrorf("%w: --force replaces the files of an export; or give another -o", exists)
	case errors.As(err, &empty):
		return x.nothing(d, &empty.Result)
	case ctx.Err() != nil:
		return errors.New("interrupted: nothing was written")
	case err != nil:
		return err
	}
	w := cmd.OutOrStdout()
	for _, f := range r.Files {
		fmt.Fprintf(w, "%s  %s\n", f.Path, human.Plural(f.Rows, "row"))
	}
	x.notes(cmd.ErrOrStderr(), d, r)
	return nil
}

// check reads the flags.
func (x *exporting) check(cmd *cobra.Command) error {
	if !slices.Contains(export.Formats, x.Format) {
		return flagErrorf("--format is %q: want one of %s", x.format, strings.Trim(fmt.Sprint(export.Formats), "[]"))
	}
	if x.Out == "" {
		return flagErrorf("-o is missing: name a file, such as train.jsonl, or a folder")
	}
	if export.EndingOf(x.Out) == "" || isFolder(x.Out) {
		if ext := filepath.Ext(strings.TrimRight(x.Out, "/")); ext != "" && ext != "." && ext != ".." && !strings.HasSuffix(x.Out, "/") && !isFolder(x.Out) {
			return flagErrorf("-o %s: the ending of a file is one of %s; a folder ends with a slash, or has no dot in its name", x.Out, strings.Join(export.Endings, ", "))
		}
		x.Ending = "." + strings.TrimPrefix(x.as, ".")
		if !slices.Contains(export.Endings, x.Ending) {
			return flagErrorf("--as is %q: want jsonl, jsonl.gz, jsonl.zst, parquet or csv", x.as)
		}
	} else {
		for _, only := range []string{"as", "license", "max-shard-size"} {
			if cmd.Flags().Changed(only) {
				return flagErrorf("--%s is for a folder, and %s is a file", only, x.Out)
			}
		}
	}
	if x.UserFirst && !x.Format.Asks() {
		return flagErrorf("--user-first is for conversations, and %s has none", x.Format)
	}
	for _, c := range x.columns {
		name, expr, ok := strings.Cut(c, "=")
		if !ok || name == "" || expr == "" || strings.HasPrefix(expr, "=") {
			return flagErrorf("--column %s: want name=EXPR, such as score=turn(\"judge\").data.score", c)
		}
		x.Columns = append(x.Columns, export.Column{Name: name, Expr: expr})
	}
	for _, s := range x.splits {
		name, share, _ := strings.Cut(s, "=")
		f, err := strconv.ParseFloat(share, 64)
		if err != nil {
			return flagErrorf("--split %s: want name=share, such as train=0.98,test=0.02", s)
		}
		x.Splits = append(x.Splits, export.Split{Name: name, Share: f})
	}
	if cmd.Flags().Changed("seed") && !x.Shuffle {
		return flagErrorf("--seed is for --shuffle")
	}
	return nil
}

// outside refuses to write among the files of the run.
func (x *exporting) outside(dir string) error {
	out, err := filepath.Abs(x.Out)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	in, err := filepath.Rel(dir, out)
	if err != nil {
		return nil //nolint:nilerr // they have nothing in common
	}
	first, _, _ := strings.Cut(in, string(filepath.Separator))
	if in == "." || slices.Contains([]string{rundir.DataDir, rundir.DroppedDir, rundir.ExpandedDir, rundir.FailedDir, rundir.StateDir, rundir.FormatsDir, rundir.ExportDir}, first) {
		return flagErrorf("-o %s is a place of the run's own: choose another", x.Out)
	}
	return nil
}

// nothing says why there is no row.
func (x *exporting) nothing(d *rundir.Dir, r *export.Result) error {
	if r.Tasks == 0 {
		yet := ""
		if d.Busy() {
			yet = " yet"
		}
		return fmt.Errorf("no task of %s is done%s: nothing was written", d.Path, yet)
	}
	return fmt.Errorf("none of %s gives a row, and nothing was written. Left out: %s", human.Plural(r.Tasks, "finished task"), leftOut(r))
}

// leftOut says which rows were left out, the most frequent reason first.
func leftOut(r *export.Result) string {
	var parts []string
	for _, c := range r.LeftBy() {
		parts = append(parts, human.Commas(c.N)+" "+c.What)
	}
	return strings.Join(parts, "; ")
}

// notes says what somebody who trains on the rows should know.
func (x *exporting) notes(w io.Writer, d *rundir.Dir, r *export.Result) {
	if len(r.Left) > 0 {
		fmt.Fprintf(w, "Left out of %s: %s.\n", human.Plural(r.Tasks, "finished task"), leftOut(r))
	}
	if r.Lone > 0 {
		fmt.Fprintf(w, "Of %s of %s no finished task is exported: their columns are null.\n", human.Plural(r.Lone, "row"), x.Join.Name)
	}
	if d.Busy() {
		fmt.Fprintln(w, "The run is under way: these are the tasks that were done by now.")
	} else if pending := unfinished(d.Path); pending != "" {
		fmt.Fprintf(w, "The run is not finished: %s.\n", pending)
	}
	if r.Stale > 0 {
		fmt.Fprintf(w, "Warning: the templates of %s have changed since %s: these have the replies of then, and the prompts of now.\n", x.Role, human.Plural(r.Stale, "row"))
	}
	if r.Mute > 0 {
		fmt.Fprintf(w, "Of %s what was said beside calls of tools is left out, which sharegpt does not hold; messages does.\n", human.Plural(r.Mute, "row"))
	}
}

// unfinished says how much of a run is left, as its summary tells; empty where it is
// finished, or that is not known.
func unfinished(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, rundir.SummaryFile))
	if err != nil {
		return ""
	}
	var s struct {
		Finished bool   `json:"finished"`
		Pending  *int64 `json:"owed"`
	}
	switch err := json.Unmarshal(b, &s); {
	case err != nil || s.Finished:
		return ""
	case s.Pending == nil:
		return "tasks are pending"
	}
	return human.Plural(*s.Pending, "task") + human.Is(*s.Pending) + " pending"
}

// doneTasks are the tasks of a run that are done.
func doneTasks(ctx context.Context, d *rundir.Dir) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		for r, err := range d.Tasks(ctx, matrix.Done) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(r.Task, nil) {
				return
			}
		}
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// exportedLine tells of the training set that a run has made.
func exportedLine(w io.Writer, s *session.Session) {
	r := s.Exported()
	if r == nil {
		return
	}
	dir := filepath.Join(s.Folder.Path, rundir.ExportDir)
	switch {
	case r.Tasks == 0:
		fmt.Fprintln(w, "\ntraining set: none, since no task is done")
		return
	case r.Rows() == 0:
		fmt.Fprintf(w, "\ntraining set: none of %s gives a row. Left out: %s\n", human.Plural(r.Tasks, "finished task"), leftOut(r))
		return
	}
	var parts []string
	for _, n := range r.BySplit() {
		parts = append(parts, n.What+" "+human.Commas(n.N))
	}
	fmt.Fprintf(w, "\ntraining set: %s  %s (%s)\n", dir, human.Plural(r.Rows(), "row"), strings.Join(parts, ", "))
	if len(r.Left) > 0 {
		fmt.Fprintf(w, "  left out of %s: %s\n", human.Plural(r.Tasks, "finished task"), leftOut(r))
	}
}

// bytesValue is a flag for a number of bytes, such as 500MB; units are decimal.
type bytesValue int64

func (b *bytesValue) Set(s string) error {
	digits := strings.TrimRight(strings.ToUpper(strings.TrimSpace(s)), "KMGTB ")
	unit, ok := map[string]float64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[strings.TrimSpace(strings.ToUpper(strings.TrimSpace(s))[len(digits):])]
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(n*unit >= 1 && n*unit < 1<<62) {
		return errors.New("want bytes with a unit, such as 500MB or 2GB")
	}
	*b = bytesValue(n * unit)
	return nil
}

func (b *bytesValue) String() string {
	if *b == 0 {
		return "500MB"
	}
	return strconv.FormatInt(int64(*b), 10)
}

func (*bytesValue) Type() string { return "bytes" }
