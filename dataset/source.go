package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"matrix"
	"matrix/internal/jsontext"
)

// Options say which rows a dataset has. The order of work is: rename, where,
// skip, limit, id.
type Options struct {
	// Paths are files and globs, in order; the files of a glob are in order
	// of name. Formats: .jsonl, .ndjson and .json (a JSON object a line, or one
	// array of them), .csv (with a header), .txt, .md and .html (a file is a row),
	// .warc and .wet, each also with .gz or .zst; and .parquet.
	Paths []string

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

	// Skip leaves out so many rows at the beginning, and Limit ends after so
	// many more; 0 is no limit. Both count what Where lets through, rows that
	// cannot be read included.
	Skip, Limit int64

	// Rename maps new field names to old ones. A new name replaces a field
	// that has it already.
	Rename map[string]string

	// Plain gives rows as they stand in their files: Rename then is for Where, ID and
	// PriorityOf alone.
	Plain bool
}

// Source is a dataset in files. The error of a row that cannot be read does not
// say where the row stands: its address does. A Source holds no file open between calls, and may
// be used by several goroutines at once.
type Source struct {
	o     Options
	files []file
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
	if o.Skip < 0 || o.Limit < 0 {
		return nil, fmt.Errorf("skip (%d) and limit (%d) must not be negative", o.Skip, o.Limit)
	}
	files, err := resolve(o.Paths)
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
	_, err := s.walk(from, withID, f).on(ctx, from)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// walk begins a pass over the rows.
func (s *Source) walk(from matrix.Position, withID bool, f func(matrix.Row) error) *walk {
	w := &walk{s: s, row: from.Row, withID: withID, f: f}
	if from.Row == 0 {
		w.skip = s.o.Skip // a position behind a row is behind all that is skipped
	}
	return w
}

// walk is one pass over the rows.
type walk struct {
	s      *Source
	skip   int64 // rows still to leave out
	row    int64 // the number of the next row
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
		var rec record
		pass := w.skip > 0 && w.s.o.Where == nil
		if pass {
			err = r.pass()
		} else {
			rec, err = r.next()
		}
		switch {
		case err == io.EOF:
			offset, lines := r.place()
			return matrix.Position{File: pos.File, Offset: offset, Line: lines, Row: w.row}, nil
		case err != nil:
			return pos, file.failed(ctx, r, err)
		case pass:
			w.skip--
			continue
		}
		if err := w.record(file, pos.File, r, rec); err != nil {
			return pos, err
		}
	}
}

func (w *walk) record(file *file, n int, r reader, rec record) error {
	o := &w.s.o
	row := matrix.Row{Number: w.row}
	text, cause := rec.text, rec.err
	if cause == nil && len(o.Rename) > 0 {
		var renamed []byte
		if renamed, cause = rename(text, o.Rename); cause == nil {
			text = renamed
		}
	}
	var task *matrix.Task
	if cause == nil {
		if row.Item = rec.item; row.Item.IsZero() || len(o.Rename) > 0 {
			row.Item = matrix.RawValue(text)
		}
		if o.Where != nil || (o.ID != nil || o.PriorityOf != nil) && w.withID {
			task = &matrix.Task{Row: file.address(rec.line), Item: row.Item}
		}
		if o.Where != nil {
			keep, err := o.Where(task)
			if err == nil && !keep {
				return nil
			}
			if err != nil {
				cause = fmt.Errorf("where: %w", err)
			}
		}
	}
	if w.skip > 0 {
		w.skip--
		return nil
	}
	if cause == nil && w.withID {
		switch {
		case o.ID != nil:
			row.ID, cause = computedID(o.ID, task)
		case o.IDField != "":
			row.ID, cause = fieldID(text, o.IDField, file.format == parquetRows)
		}
	}
	row.Priority = o.Priority
	if cause == nil && w.withID && o.PriorityOf != nil {
		if row.Priority, row.Err = o.PriorityOf(task); row.Err != nil {
			row.Priority, row.Err = o.Priority, fmt.Errorf("priority: %w", row.Err)
		}
	}
	if task != nil {
		row.Item = task.Item // with what was parsed on the way
	}
	if o.Plain && len(o.Rename) > 0 {
		row.Item = matrix.RawValue(rec.text)
	}
	row.Address = file.address(rec.line)
	if cause != nil {
		row.ID, row.Item, row.Err = "", shortened(rec.text), cause
	}
	w.row++
	offset, lines := r.place()
	row.Next = matrix.Position{File: n, Offset: offset, Line: lines, Row: w.row}
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
	if s.o.Where != nil {
		var n int64
		err := s.rows(ctx, matrix.Position{}, false, func(matrix.Row) error { n++; return nil })
		return n, err
	}
	most := int64(math.MaxInt64)
	if s.o.Limit > 0 {
		most = s.o.Skip + s.o.Limit
	}
	var n int64
	for i := 0; i < len(s.files) && n < most; i++ {
		m, err := s.files[i].count(ctx, most-n)
		if err != nil {
			return 0, err
		}
		n += m
	}
	return max(min(n, most)-s.o.Skip, 0), nil
}
