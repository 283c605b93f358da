// Package export makes a training set of the finished tasks of a run: what a row
// of each format holds, in which order the rows stand, which file each is in, and
// how files are written. It knows no commands, and not where the tasks come from.
package export

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/lang"
)

// Options say what is exported, and where to. All but Out and Format may be left
// out.
type Options struct {
	Out    string // a file, or a folder where Ending is given
	Ending string // of the files in a folder: one of Endings
	Force  bool   // replace files that are there

	Format    Format
	Asker     agent.Asker // whose replies are learnt; for the formats that say so
	Role      string      // of Asker
	Params    lang.Params // what expressions see as params
	Columns   []Column    // of the format Columns; of the others, what rows have besides
	Score     string      // of DPO: expression over a sample
	Label     string      // of KTO: expression over a sample
	UserFirst bool        // conversations begin with the user, whoever began them: many chat templates refuse others

	Where   string // rows for which this expression is not true are left out
	Sort    string // expression, smallest first; what is nil stands last
	Shuffle bool
	Seed    int64   // of Shuffle
	Splits  []Split // one file each, in a folder; none: one file
}

// Column is a column with an expression.
type Column struct{ Name, Expr string }

// Split is a part of the rows, which stands in a file of its own.
type Split struct {
	Name  string
	Share float64 // all add up to 1
}

// File is a file that was written.
type File struct {
	Path string
	Rows int64
}

// Result is what was written.
type Result struct {
	Files []File
	Tasks int64            // that were looked at
	Left  map[string]int64 // rows left out, by why
	Stale int64            // rows whose templates were other ones than those of the config
	Mute  int64            // rows in which a text beside tool calls could not be told
}

// Rows is the sum over all files.
func (r *Result) Rows() int64 {
	n := int64(0)
	for _, f := range r.Files {
		n += f.Rows
	}
	return n
}

// UsageError is something wrong with Options; nothing was done.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// ExistsError is a file or a folder in the way of Options.Out.
type ExistsError struct{ Path string }

func (e *ExistsError) Error() string {
	if info, err := os.Stat(e.Path); err == nil && info.IsDir() {
		return e.Path + " is a folder that is not empty"
	}
	return e.Path + " is there already"
}

// EmptyError says that there was no row to write. Nothing was written.
type EmptyError struct{ Result Result }

func (e *EmptyError) Error() string { return "there is no row to write" }

// TaskError is what is wrong with one task.
type TaskError struct {
	ID  string
	Err error
}

func (e *TaskError) Error() string { return fmt.Sprintf("task %q: %v", e.ID, e.Err) }
func (e *TaskError) Unwrap() error { return e.Err }

// TypeError is a column that is of one type in a row and of another in a later one.
type TypeError struct {
	Column          string
	First, Then     string // types
	FirstID, ThenID string // tasks
}

func (e *TypeError) Error() string {
	return fmt.Sprintf("column %s is %s in task %q, and %s in task %q: a column has one type", e.Column, e.First, e.FirstID, e.Then, e.ThenID)
}

// leftOut is why a task gives no row.
type leftOut string

func (e leftOut) Error() string { return string(e) }

// Run writes the rows of tasks. Files appear under their names once all are whole; an
// error leaves what was there before.
func Run(ctx context.Context, tasks iter.Seq2[*matrix.Task, error], o Options) (*Result, error) {
	x, err := newExporter(o)
	if err != nil {
		return nil, err
	}
	defer x.discard()
	for t, err := range tasks {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if err := x.task(ctx, t); err != nil {
			return nil, err
		}
	}
	return x.finish(ctx)
}

// exporter is an export under way.
type exporter struct {
	Options
	where   *lang.Expr
	sort    *lang.Expr
	make    *maker
	sorter  *sorter // nil: rows go to their files as they come
	sortIs  string  // type of the values sorted by
	sortID  string  // of the first task
	files   []*file // by split
	shape   shape   // of rows, where files have typed columns
	scratch string  // folder of what is thrown away
	made    bool    // the folder Out was made for the export
	result  Result
}

func newExporter(o Options) (x *exporter, err error) {
	x = &exporter{Options: o, result: Result{Left: map[string]int64{}}}
	if len(x.Splits) == 0 {
		x.Splits = []Split{{"train", 1}}
	} else if x.Ending == "" {
		return nil, usagef("%s is one file, and several are to be written: name a folder", o.Out)
	}
	if err := checkSplits(x.Splits); err != nil {
		return nil, err
	}
	if o.Sort != "" && o.Shuffle {
		return nil, usagef("rows are sorted or shuffled, not both")
	}
	if x.where, err = compile("where", o.Where, o.Params); err != nil {
		return nil, err
	}
	if x.sort, err = compile("sort", o.Sort, o.Params); err != nil {
		return nil, err
	}
	if x.make, err = newMaker(o); err != nil {
		return nil, err
	}
	ending := cmp.Or(o.Ending, EndingOf(o.Out))
	switch {
	case !slices.Contains(Endings, ending):
		return nil, usagef("%s: the ending of a file says what is written: %s", o.Out, strings.Join(Endings, ", "))
	case ending == ".csv" && o.Format != Columns:
		return nil, usagef("CSV holds columns alone, not %s: write %s or .parquet", o.Format, Endings[0])
	}
	x.make.typed = ending == ".parquet"
	if err := x.vacant(); err != nil {
		return nil, err
	}
	return x, x.open(ending)
}

// vacant reports what is in the way.
func (x *exporter) vacant() error {
	info, err := os.Stat(x.Out)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case x.Ending == "" && info.IsDir():
		return usagef("%s is a folder", x.Out)
	case x.Ending != "" && !info.IsDir():
		return usagef("%s is a file, and a folder is to be written", x.Out)
	case x.Force:
		return nil
	case x.Ending == "":
		return &ExistsError{x.Out}
	}
	entries, err := os.ReadDir(x.Out)
	if err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !strings.HasPrefix(e.Name(), ".") }) {
		err = &ExistsError{x.Out}
	}
	return err
}

// open begins the files, beside their names so that a rename is all that is left.
func (x *exporter) open(ending string) (err error) {
	dir := filepath.Dir(x.Out)
	if x.Ending != "" {
		dir = x.Out
	}
	defer func() {
		if err != nil {
			x.discard()
		}
	}()
	_, err = os.Stat(dir)
	x.made = os.IsNotExist(err) && x.Ending != ""
	if err = os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if x.scratch, err = os.MkdirTemp(dir, ".export-"); err != nil {
		return err
	}
	for _, s := range x.Splits {
		path := x.Out
		if x.Ending != "" {
			path = filepath.Join(x.Out, s.Name+ending)
		}
		f, err := newFile(path, x.scratch, ending, x.Columns, &x.shape)
		if err != nil {
			return err
		}
		x.files = append(x.files, f)
	}
	if x.sort != nil || x.Shuffle {
		x.sorter = &sorter{dir: x.scratch}
	}
	return nil
}

// task writes the rows of a task.
func (x *exporter) task(ctx context.Context, t *matrix.Task) error {
	x.result.Tasks++
	fail := func(err error) error { return &TaskError{t.ID, err} }
	if x.where != nil {
		ok, err := x.where.BoolLocals(t, lang.Finished(t))
		if err != nil {
			return fail(fmt.Errorf("where %s: %w", x.Where, err))
		}
		if !ok {
			x.result.Left["for which where is not true"]++
			return nil
		}
	}
	rows, err := x.make.rows(ctx, t)
	if why := leftOut(""); errors.As(err, &why) {
		x.result.Left[string(why)]++
		return nil
	} else if changed := (*TypeError)(nil); errors.As(err, &changed) {
		return err
	} else if err != nil {
		return fail(err)
	}
	if x.make.stale {
		x.result.Stale += int64(len(rows))
	}
	if x.make.mute {
		x.result.Mute += int64(len(rows))
	}
	split := x.splitOf(t.Row)
	if x.sorter == nil {
		for _, row := range rows {
			if err := x.files[split].write(t.ID, row); err != nil {
				return err
			}
		}
		return nil
	}
	key, err := x.key(t)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := x.sorter.add(entry{key: key, split: split, id: t.ID, row: row}); err != nil {
			return err
		}
	}
	return nil
}

// key is what the rows of a task are ordered by.
func (x *exporter) key(t *matrix.Task) (string, error) {
	if x.sort == nil {
		sum := sha256.Sum256(fmt.Appendf(nil, "shuffle\x00%d\x00%s", x.Seed, t.ID))
		return string(sum[:16]), nil
	}
	v, err := x.sort.EvalLocals(t, lang.Finished(t))
	if err != nil {
		return "", &TaskError{t.ID, fmt.Errorf("sort by %s: %w", x.Sort, err)}
	}
	key, is, err := sortKey(v)
	if err != nil {
		return "", &TaskError{t.ID, fmt.Errorf("sort by %s: %w", x.Sort, err)}
	}
	switch {
	case is == "":
	case x.sortIs == "":
		x.sortIs, x.sortID = is, t.ID
	case x.sortIs != is:
		return "", &TypeError{"to sort by", x.sortIs, is, x.sortID, t.ID}
	}
	return key, nil
}

// finish writes what was ordered, and gives all files their names.
func (x *exporter) finish(ctx context.Context) (*Result, error) {
	if x.sorter != nil {
		for e, err := range x.sorter.all() {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = x.files[e.split].write(e.id, e.row)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	for _, f := range x.files {
		x.result.Files = append(x.result.Files, File{f.path, f.rows})
	}
	if x.result.Rows() == 0 {
		return nil, &EmptyError{x.result}
	}
	for _, f := range x.files {
		if err := f.close(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	for _, f := range x.files {
		if err := os.Rename(f.temp, f.path); err != nil {
			return nil, err
		}
	}
	return &x.result, nil
}

// discard removes what is not part of the export, and a folder that was made for it
// and holds nothing.
func (x *exporter) discard() {
	if x.sorter != nil {
		x.sorter.close()
	}
	for _, f := range x.files {
		f.discard()
	}
	if x.scratch != "" {
		os.RemoveAll(x.scratch)
	}
	if x.made {
		os.Remove(x.Out) // where nothing is in it
	}
}

// splitOf is the split of a row: the same in every export with these shares, whatever
// rows there are besides, and for all trials of the row.
func (x *exporter) splitOf(row string) int {
	sum := sha256.Sum256([]byte("split\x00" + row))
	at := float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
	for i, s := range x.Splits {
		if at -= s.Share; at < 0 {
			return i
		}
	}
	return len(x.Splits) - 1
}

// checkSplits checks names and shares.
func checkSplits(splits []Split) error {
	sum, names := 0.0, map[string]bool{}
	for _, s := range splits {
		switch {
		case s.Name == "" || strings.Trim(strings.ToLower(s.Name), "abcdefghijklmnopqrstuvwxyz0123456789_") != "":
			return usagef("%q is not a name for a split: use letters, digits and _", s.Name)
		case names[s.Name]:
			return usagef("split %s is there twice", s.Name)
		case !(s.Share > 0 && s.Share <= 1):
			return usagef("the share of split %s is %v, want more than 0 and at most 1", s.Name, s.Share)
		}
		names[s.Name] = true
		sum += s.Share
	}
	switch rest := math.Round((1-sum)*1e9) / 1e9; {
	case rest > 0:
		return usagef("the shares of the splits add up to %v: name the rest, such as rest=%v", 1-rest, rest)
	case rest < 0:
		return usagef("the shares of the splits add up to %v, which is more than 1", 1-rest)
	}
	return nil
}
