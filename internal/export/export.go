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
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/lang"
)

// Options say what is exported, and where to. All but Out and Format may be left
// out.
type Options struct {
	Out      string // a file, or a folder where Ending is given
	Ending   string // of the files in a folder: one of Endings
	Force    bool   // replace files that are there, in a folder all of the export before
	MaxBytes int64  // of the JSON of rows in one file of a folder, before there is a next one; 0 for 500 MB

	Format    Format
	Asker     agent.Asker // whose replies are learnt; for the formats that say so
	Role      string      // of Asker
	Leases    Leases      `json:"-"` // of Asker; nil: it asks for none
	Params    lang.Params // what expressions see as params
	Columns   []Column    // of the format Columns; of the others, what rows have besides
	Score     string      // expression over a sample: of DPO for the pair, of other dialogues for the reply that is learnt
	MinMargin float64     // of DPO: pairs whose scores are less apart are left out
	Label     string      // of KTO: expression over a sample
	Tools     ToolsAs     // how the tools of a dialogue and the arguments of calls stand in rows
	UserFirst bool        // conversations begin with the user, whoever began them: many chat templates refuse others

	Where   string // rows for which this expression is not true are left out
	Sort    string // expression, smallest first; what is nil stands last
	Shuffle bool
	Seed    int64   // of Shuffle
	Splits  []Split // one file each or more, in a folder; none: train

	Version string // of this program, which trajectories tell

	Join *Join // of Columns: these stand beside those of the rows of other files

	Recipe *Recipe // of a folder: for its dataset card; nil: it gets none
}

// Leases are what lease("POOL") is for a task of a run, by pool.
type Leases func(ctx context.Context, t *matrix.Task) (map[string]any, error)

// Column is a column with an expression.
type Column struct{ Name, Expr string }

// Split is a part of the rows, which stands in a file of its own.
type Split struct {
	Name  string
	Share float64 // all add up to 1
}

// File is a file that was written.
type File struct {
	Path  string
	Split string
	Rows  int64
	Bytes int64
}

// Result is what was written.
type Result struct {
	Files []File
	Tasks int64            // that were looked at
	Left  map[string]int64 // rows left out, by why
	Stale int64            // rows whose templates were other ones than those of the config
	Mute  int64            // rows in which a text beside tool calls could not be told
	Lone  int64            // of a join: rows without a task, whose columns are null
	Made  Made             // what made the rows
}

// Rows is the sum over all files.
func (r *Result) Rows() int64 {
	n := int64(0)
	for _, f := range r.Files {
		n += f.Rows
	}
	return n
}

// LeftBy are the rows that were left out, by why, the most frequent reason first.
func (r *Result) LeftBy() (all []Count) {
	for why, n := range r.Left {
		all = append(all, Count{why, n})
	}
	slices.SortFunc(all, func(a, b Count) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.What, b.What)) })
	return all
}

// BySplit are the rows of each split.
func (r *Result) BySplit() (all []Count) {
	for _, s := range r.splits() {
		all = append(all, Count{s.Split, s.Rows})
	}
	return all
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
	o.Splits = byName(o.Splits)
	r, err := newRows(o)
	if err != nil {
		return nil, err
	}
	s, err := newSet(o)
	if err != nil {
		return nil, err
	}
	defer s.discard()
	if o.Join != nil {
		err = join(ctx, tasks, r, s)
	} else {
		err = write(ctx, r.of(ctx, tasks), s)
	}
	if err != nil {
		return nil, err
	}
	return &r.result, s.finish(ctx, &r.result)
}

// write writes rows in their order, which is that of their keys where they have any.
func write(ctx context.Context, rows iter.Seq2[entry, error], s *set) error {
	if s.Sort != "" || s.Shuffle {
		sorted := newSorter(s.scratch, 0)
		defer sorted.Close()
		for e, err := range rows {
			if err == nil {
				err = sorted.add(e)
			}
			if err != nil {
				return err
			}
		}
		rows = sorted.all()
	}
	for e, err := range rows {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = s.write(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rows makes the rows of tasks, and counts what becomes of them.
type rows struct {
	Options
	where  *lang.Expr
	sort   *lang.Expr
	make   *maker
	sortIs string // type of the values sorted by
	sortID string // of the first task
	result Result
}

func newRows(o Options) (x *rows, err error) {
	x = &rows{Options: o, result: Result{Left: map[string]int64{}}}
	if o.Sort != "" && o.Shuffle {
		return nil, usagef("rows are sorted or shuffled, not both")
	}
	if o.Join != nil && (o.Format != Columns || o.Sort != "" || o.Shuffle || len(o.Splits) > 0) {
		return nil, usagef("rows that are joined keep their order and their columns: they take the format %s, and are not sorted, shuffled or split", Columns)
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
	x.make.text = o.toolsAs() != ToolsObject
	return x, nil
}

// of are the rows of tasks, in their order. An error ends them.
func (x *rows) of(ctx context.Context, tasks iter.Seq2[*matrix.Task, error]) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for t, err := range tasks {
			if err == nil {
				err = ctx.Err()
			}
			var rows []entry
			if err == nil {
				rows, err = x.task(ctx, t)
			}
			if err != nil {
				yield(entry{}, err)
				return
			}
			for _, e := range rows {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// task is the rows of a task.
func (x *rows) task(ctx context.Context, t *matrix.Task) ([]entry, error) {
	x.result.Tasks++
	fail := func(err error) error { return &TaskError{t.ID, err} }
	if x.where != nil {
		ok, err := x.where.BoolLocals(t, lang.Finished(t))
		if err != nil {
			return nil, fail(fmt.Errorf("where %s: %w", x.Where, err))
		}
		if !ok {
			x.result.Left["for which where is not true"]++
			return nil, nil
		}
	}
	rows, err := x.make.rows(ctx, t)
	if why := leftOut(""); errors.As(err, &why) {
		x.result.Left[string(why)]++
		return nil, nil
	} else if changed := (*TypeError)(nil); errors.As(err, &changed) {
		return nil, err
	} else if err != nil {
		return nil, fail(err)
	}
	if x.make.stale {
		x.result.Stale += int64(len(rows))
	}
	if x.make.mute {
		x.result.Mute += int64(len(rows))
	}
	key, err := x.key(t)
	if err != nil {
		return nil, err
	}
	x.result.Made.add(t)
	split := x.splitOf(t.Row)
	entries := make([]entry, len(rows))
	for i, row := range rows {
		entries[i] = entry{key: key, split: split, id: t.ID, row: row}
	}
	return entries, nil
}

// key is what the rows of a task are ordered by; empty where they are not, and of a
// join its row.
func (x *rows) key(t *matrix.Task) (string, error) {
	switch {
	case x.Join != nil:
		return t.Row, nil
	case x.Shuffle:
		sum := sha256.Sum256(fmt.Appendf(nil, "shuffle\x00%d\x00%s", x.Seed, t.ID))
		return string(sum[:16]), nil
	case x.sort == nil:
		return "", nil
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

// splitOf is the split of a row: the same in every export with these shares, whatever
// rows there are besides, and for all trials of the row.
func (o *Options) splitOf(row string) int {
	sum := sha256.Sum256([]byte("split\x00" + row))
	at := float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
	for i, s := range o.Splits {
		if at -= s.Share; at < 0 {
			return i
		}
	}
	return max(0, len(o.Splits)-1)
}

// byName are splits in the order of their names, train first: which rows they have is not
// to depend on the order in which somebody named them.
func byName(splits []Split) []Split {
	return slices.SortedFunc(slices.Values(splits), func(a, b Split) int {
		switch {
		case a.Name == b.Name:
			return 0
		case a.Name == "train" || b.Name != "train" && a.Name < b.Name:
			return -1
		}
		return 1
	})
}

// splits are the names of the splits.
func (o *Options) splits() []string {
	names := []string{"train"}
	if len(o.Splits) > 0 {
		names = names[:0]
	}
	for _, s := range o.Splits {
		names = append(names, s.Name)
	}
	return names
}

// ending is that of the files.
func (o *Options) ending() string { return cmp.Or(o.Ending, EndingOf(o.Out)) }

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
