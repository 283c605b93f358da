package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"matrix"
	"matrix/internal/jsontext"
)

// Options say which rows a dataset has. The order of work is: rename, where,
// sample, shuffle, skip, limit, id.
type Options struct {
	// Paths are files and globs, in order; the files of a glob are in order
	// of name. Formats: .jsonl, .ndjson and .json (a JSON object a line, or one
	// array of them), .csv (with a header), .txt, .md and .html (a file is a row),
	// .warc and .wet, each also with .gz or .zst; and .parquet. Those of other machines
	// begin with hf://, s3://, gs:// or https://, as remote.Find says.
	Paths []string

	// Format is what the files are, in place of what their names and first bytes say:
	// one of Formats.
	Format string

	// Stdin is the file that "-" stands for among the paths; empty where that is not allowed.
	Stdin string

	// IDField names the field that holds a row's id. ID computes it instead;
	// at most one of them is set. Without either, rows have no id.
	IDField string
	ID      func(*matrix.Task) (any, error) // such as (*lang.Expr).Eval

	// Priority is that of all rows, unless PriorityOf computes it. A row for which
	// that fails keeps its id.
	Priority   matrix.Priority
	PriorityOf func(*matrix.Task) (matrix.Priority, error)

	// Where leaves out the rows for which it is false. A row that cannot be
	// read is not asked.
	Where func(*matrix.Task) (bool, error) // such as (*lang.Expr).Bool

	// Sample leaves in so many of the rows that Where lets through, chosen at
	// random; 0 for all. Shuffle puts rows into a random order, which takes a pass over the
	// dataset before the first row, and where it is larger than 128 MiB a temporary
	// file. Both follow from Seed, and from where rows stand.
	Sample  int64
	Shuffle bool
	Seed    int64

	// Skip leaves out so many rows at the beginning, and Limit ends after so
	// many more; 0 is no limit. Both count what Where lets through, rows that
	// cannot be read included.
	Skip, Limit int64

	// Rename maps new field names to old ones. A new name replaces a field
	// that has it already.
	Rename map[string]string

	// Begun says that the records are tasks that a run has put out, which go on; nil:
	// they are rows. Their ids are those of the tasks. Rename is of no use then.
	Begun *Begun

	// Plain gives rows as they stand in their files: Rename then is for Where, ID and
	// PriorityOf alone, and a row for which one of these fails keeps its Item.
	Plain bool
}

// countable reports whether each record is a row.
func (o *Options) countable() bool { return o.Where == nil && o.Begun == nil }

// Source is a dataset in files. The error of a row that cannot be read does not
// say where the row stands: its address does. A Source holds no file open between calls, and may
// be used by several goroutines at once.
type Source struct {
	o     Options
	files []file

	mu   sync.Mutex
	most *uint64 // see chosen; nil where it is not known yet
}

var _ matrix.Source = (*Source)(nil)

// Open finds the files of o and checks that each can be opened and is of a
// kind it knows; headers of CSV and Parquet files are read. Files with bytes
// that have no row among them all are an error; files without bytes are an
// empty dataset.
func Open(o Options) (*Source, error) {
	if o.IDField != "" && o.ID != nil {
		return nil, errors.New("both an id field and an id expression are set")
	}
	if o.Skip < 0 || o.Limit < 0 || o.Sample < 0 {
		return nil, fmt.Errorf("skip (%d), limit (%d) and sample (%d) must not be negative", o.Skip, o.Limit, o.Sample)
	}
	files, err := resolve(context.Background(), o)
	if err != nil {
		return nil, err
	}
	for i := range files {
		if err := files[i].check(); err != nil {
			return nil, err
		}
	}
	if err := anyRow(files); err != nil {
		return nil, err
	}
	return &Source{o: o, files: files}, nil
}

// Files returns the paths that are read, in order.
func (s *Source) Files() []string {
	paths := make([]string, len(s.files))
	for i, f := range s.files {
		paths[i] = f.path
	}
	return paths
}

// Rows implements matrix.Source.
func (s *Source) Rows(ctx context.Context, from matrix.Position, f func(matrix.Row) error) error {
	return s.rows(ctx, from, true, f)
}

// errEnough ends a walk over rows that has reached the limit.
var errEnough = errors.New("enough rows")

func (s *Source) rows(ctx context.Context, from matrix.Position, withID bool, f func(matrix.Row) error) error {
	if from.File < 0 || from.Offset < 0 || from.File > len(s.files) || (from.File == len(s.files) && from.Offset > 0) {
		return fmt.Errorf("the saved position is in file %d, and there are %d files: the dataset has changed", from.File+1, len(s.files))
	}
	if s.o.Shuffle != (from.Line == shuffled) && from != (matrix.Position{}) {
		return errors.New("the saved position is of a dataset in another order: shuffle cannot be changed once a run has begun")
	}
	var err error
	switch w := s.walk(from, withID, f); {
	case s.o.Shuffle:
		err = w.inRandomOrder(ctx, from)
	default:
		if w.most, err = s.chosen(ctx); err == nil {
			_, err = w.on(ctx, from)
		}
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// walk begins a pass over the rows.
func (s *Source) walk(from matrix.Position, withID bool, f func(matrix.Row) error) *walk {
	w := &walk{s: s, most: math.MaxUint64, row: from.Row, withID: withID, f: f}
	w.emit = w.feed
	if from.Row == 0 {
		w.skip = s.o.Skip // a position behind a row is behind all that is skipped
	}
	return w
}

// walk is one pass over the rows.
type walk struct {
	s      *Source
	most   uint64                                 // rows with a larger rank are not in the sample
	emit   func(*admitted, matrix.Position) error // what becomes of a row
	one    admitted                               // the row at hand
	skip   int64                                  // rows still to leave out
	row    int64                                  // the number of the next row
	withID bool
	f      func(matrix.Row) error
}

// on reads on from a position to the end, and returns where that is. It returns
// errEnough at the limit.
func (w *walk) on(ctx context.Context, from matrix.Position) (at matrix.Position, err error) {
	if w.s.o.Limit > 0 && w.row >= w.s.o.Limit {
		return from, errEnough
	}
	for at = from; from.File < len(w.s.files); from = (matrix.Position{File: from.File + 1}) {
		if at, err = w.file(ctx, from); err != nil {
			return at, err
		}
	}
	return at, nil
}

// file reads a file on from a position to its end, and returns where that is.
func (w *walk) file(ctx context.Context, pos matrix.Position) (end matrix.Position, err error) {
	file := &w.s.files[pos.File]
	r, err := file.open(ctx, pos)
	if err != nil {
		return pos, err
	}
	defer r.Close()
	for {
		if err := ctx.Err(); err != nil {
			return pos, err
		}
		_, before := r.place()
		rank := w.s.rank(pos.File, before)
		var rec record
		out := rank > w.most
		pass := out || w.skip > 0 && w.s.o.countable()
		if pass {
			err = r.pass()
		} else {
			rec, err = r.next()
		}
		offset, lines := r.place()
		switch {
		case err == io.EOF:
			return matrix.Position{File: pos.File, Offset: offset, Line: lines, Row: w.row}, nil
		case err != nil:
			return pos, file.failed(ctx, r, err)
		case out:
			continue
		case pass:
			w.skip--
			continue
		}
		w.one = admitted{record: rec, file: pos.File, rank: rank}
		if !w.s.admit(&w.one) {
			continue
		}
		if err := w.emit(&w.one, matrix.Position{File: pos.File, Offset: offset, Line: lines}); err != nil {
			return pos, err
		}
	}
}

// admitted is a row that where lets through.
type admitted struct {
	record
	row  []byte // the text with fields renamed; nil where none are
	file int
	rank uint64

	begun *matrix.Task // that goes on; nil where none does
	task  *matrix.Task // as the expressions of a dataset see the row; nil where none has asked
}

// admit renames the fields of a row, or reads the task that it is, and asks where
// whether it is one.
func (s *Source) admit(row *admitted) bool {
	o := &s.o
	if row.err == nil && len(o.Rename) > 0 {
		if renamed, err := rename(row.text, o.Rename); err != nil {
			row.err = err
		} else {
			row.row, row.item = renamed, matrix.Value{}
		}
	}
	if row.err == nil && o.Begun != nil {
		if row.begun, row.err = o.Begun.task(row.text); row.begun != nil {
			row.item = row.begun.Item
		} else if row.err == nil {
			return false
		}
	}
	if row.err != nil || o.Where == nil {
		return true
	}
	row.ask(s)
	keep, err := o.Where(row.task)
	if err != nil {
		row.err = fmt.Errorf("where: %w", err)
	}
	return keep || err != nil
}

// fields are those of the row, under their new names.
func (a *admitted) fields() []byte {
	if a.row != nil {
		return a.row
	}
	return a.text
}

// ask makes the task that expressions see.
func (a *admitted) ask(s *Source) {
	if a.item.IsZero() {
		a.item = matrix.RawValue(a.fields())
	}
	if a.task == nil {
		a.task = &matrix.Task{Row: s.files[a.file].address(a.line), Item: a.item}
	}
}

// feed hands out a row, unless it is one to skip. Behind it, reading goes on at next.
func (w *walk) feed(a *admitted, next matrix.Position) error {
	if w.skip > 0 {
		w.skip--
		return nil
	}
	o, file := &w.s.o, &w.s.files[a.file]
	row := matrix.Row{Number: w.row, Address: file.address(a.line), Priority: o.Priority}
	if a.err == nil && w.withID {
		switch {
		case a.begun != nil:
			row.ID, row.Begun, row.Role = a.begun.ID, a.begun, o.Begun.Role
		case o.ID != nil:
			a.ask(w.s)
			row.ID, a.err = computedID(o.ID, a.task)
		case o.IDField != "":
			row.ID, a.err = fieldID(a.fields(), o.IDField, file.format == parquetRows)
		}
	}
	if a.err == nil && w.withID && o.PriorityOf != nil {
		a.ask(w.s)
		if row.Priority, row.Err = o.PriorityOf(a.task); row.Err != nil {
			row.Priority, row.Err = o.Priority, fmt.Errorf("priority: %w", row.Err)
		}
	}
	switch {
	case a.err != nil:
		row.ID, row.Item, row.Begun, row.Err = "", shortened(a.text), nil, a.err
		if o.Plain && len(a.text) > 0 && a.text[0] == '{' && json.Valid(a.text) { // it lacks a field that was asked for
			row.Item = matrix.RawValue(a.text)
		}
	case o.Plain && a.row != nil:
		row.Item = matrix.RawValue(a.text)
	case a.task != nil:
		row.Item = a.task.Item // with what was parsed on the way
	case a.item.IsZero():
		row.Item = matrix.RawValue(a.fields())
	default:
		row.Item = a.item
	}
	w.row++
	row.Next, row.Next.Row = next, w.row
	if err := w.f(row); err != nil {
		return err
	}
	if o.Limit > 0 && w.row >= o.Limit {
		return errEnough
	}
	return nil
}

// shownBytes is how much of a row that cannot be read is kept.
const shownBytes = 4 << 10

// shortened returns text as a JSON string of at most shownBytes bytes of text.
func shortened(text []byte) matrix.Value {
	s := text
	cut := len(s) > shownBytes
	if cut {
		s = s[:shownBytes-len("…")]
	}
	t := strings.ToValidUTF8(string(s), "\uFFFD")
	if cut {
		t = strings.TrimRight(t, "\uFFFD") + "…"
	}
	return matrix.RawValue(jsontext.AppendString(nil, t))
}

// Count implements matrix.Source. Without where it looks for the ends of rows
// alone, and in Parquet files at the metadata.
func (s *Source) Count(ctx context.Context) (int64, error) {
	most := int64(math.MaxInt64)
	if s.o.Limit > 0 {
		most = s.o.Skip + s.o.Limit
	}
	if s.o.Sample > 0 {
		most = min(most, s.o.Sample)
	}
	var n int64
	if !s.o.countable() {
		all := &Source{o: Options{Where: s.o.Where, Begun: s.o.Begun, Rename: s.o.Rename, Limit: most}, files: s.files}
		err := all.rows(ctx, matrix.Position{}, false, func(matrix.Row) error { n++; return nil })
		return max(n-s.o.Skip, 0), err
	}
	for i := 0; i < len(s.files) && n < most; i++ {
		m, err := s.files[i].count(ctx, most-n)
		if err != nil {
			return 0, err
		}
		n += m
	}
	return max(min(n, most)-s.o.Skip, 0), nil
}
