package export

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"matrix"
	"matrix/dataset"
)

// original is a row whose types JSON does not have.
type original struct {
	Zid   string                 `parquet:"zid"`
	Small int16                  `parquet:"small"`
	Half  float32                `parquet:"half,optional"`
	When  time.Time              `parquet:"when,timestamp(microsecond)"`
	Price int64                  `parquet:"price,decimal(2:18)"`
	Raw   []byte                 `parquet:"raw"`
	Tags  []string               `parquet:"tags,list"`
	Map   map[string]int32       `parquet:"map"`
	Deep  *struct{ A, B []int8 } `parquet:"deep,optional"`
}

func originals(n int) []original {
	all := make([]original, n)
	for i := range all {
		all[i] = original{
			Zid: fmt.Sprintf("r%d", i), Small: int16(i), Half: float32(i) / 3, When: time.UnixMicro(int64(i) * 1e12).UTC(), Price: int64(i) * 7,
			Raw: []byte{0xff, byte(i)}, Map: map[string]int32{"k": int32(i)},
		}
		for k := range i % 4 {
			all[i].Tags = append(all[i].Tags, fmt.Sprint("t", k))
		}
		if i%3 > 0 {
			all[i].Deep = &struct{ A, B []int8 }{A: []int8{int8(i)}}
		}
	}
	return all
}

// finished are done tasks of rows, the last one first, each of which has a value.
func finished(rows ...string) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		for _, row := range slices.Backward(rows) {
			v, _ := matrix.NewValue(map[string]any{"of": row})
			if !yield(&matrix.Task{ID: row, Row: row, Outcome: &matrix.Outcome{Status: matrix.Done, Value: v}}, nil) {
				return
			}
		}
	}
}

// Rows of Parquet files keep their columns, these their order and their types, and get
// others behind them; those without a task get nulls.
func TestJoinTyped(t *testing.T) {
	dir := t.TempDir()
	want := originals(1000)
	var paths, ids []string
	for i, part := range [][]original{want[:700], want[700:]} {
		path := filepath.Join(dir, fmt.Sprintf("%d.parquet", i))
		if err := parquet.WriteFile(path, part, parquet.MaxRowsPerRowGroup(90)); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	for i, row := range want {
		if i%10 != 3 {
			ids = append(ids, row.Zid)
		}
	}
	src, err := dataset.Open(dataset.Options{Paths: paths, IDField: "zid"})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.parquet")
	r, err := Run(t.Context(), finished(append(ids, "of nobody")...), Options{
		Out: out, Format: Columns, Columns: []Column{{"label", "value.of"}, {"many", "[[row], []]"}}, Join: &Join{Rows: src, Name: "rows"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Rows() != 1000 || r.Lone != 100 || r.Left["whose row is not in rows"] != 1 {
		t.Errorf("got %d rows, %d without a task, and %v left out, want 1000, 100 and 1", r.Rows(), r.Lone, r.Left)
	}
	type joinedRow struct {
		original
		Label *string    `parquet:"label,optional"`
		Many  [][]string `parquet:"-"`
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	file, err := parquet.OpenFile(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	before := parquet.SchemaOf(original{}).Fields()
	after := file.Schema().Fields()
	var names []string
	for i, field := range after {
		names = append(names, field.Name())
		if i < len(before) && (field.Name() != before[i].Name() || field.Leaf() && field.Type().String() != before[i].Type().String()) {
			t.Errorf("column %d is %s %v, want %s %v", i, field.Name(), field.Type(), before[i].Name(), before[i].Type())
		}
	}
	if len(names) != len(before)+2 || names[len(before)] != "label" {
		t.Errorf("got columns %v", names)
	}
	got, err := parquet.ReadFile[joinedRow](out)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range got {
		if fmt.Sprintf("%+v", plainly(row.original)) != fmt.Sprintf("%+v", plainly(want[i])) {
			t.Fatalf("row %d: got %+v, want %+v", i, plainly(row.original), plainly(want[i]))
		}
		switch {
		case i%10 == 3 && row.Label != nil:
			t.Fatalf("row %d has the label %s, want none", i, *row.Label)
		case i%10 != 3 && (row.Label == nil || *row.Label != row.Zid):
			t.Fatalf("row %d has the label %v, want %s", i, row.Label, row.Zid)
		}
	}
}

// plainly is a row without pointers, and nil for what is empty.
func plainly(o original) (p struct {
	original
	A, B []int8
}) {
	p.original = o
	if o.Deep != nil {
		p.A, p.B = o.Deep.A, o.Deep.B
	}
	p.Deep = nil
	if len(p.B) == 0 {
		p.B = nil
	}
	if len(p.Tags) == 0 {
		p.Tags = nil
	}
	return p
}

// A join says what it cannot do, and writes nothing.
func TestJoinRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rows.jsonl")
	if err := os.WriteFile(path, []byte("{\"zid\": \"a\", \"x\": 1}\n{\"zid\": \"b\", \"y\": 2}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	src, err := dataset.Open(dataset.Options{Paths: []string{path}, IDField: "zid"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tasks  iter.Seq2[*matrix.Task, error]
		change func(*Options)
		want   any
	}{
		"two tasks of a row":       {finished("a", "b", "a"), nil, new(*TwiceError)},
		"no task of any":           {finished("c", "d"), nil, new(*UsageError)},
		"a name that is there":     {finished("a"), func(o *Options) { o.Columns[0].Name = "y" }, new(*UsageError)},
		"splits":                   {finished("a"), func(o *Options) { o.Splits = []Split{{"train", 1}} }, new(*UsageError)},
		"another header in CSV":    {finished("a"), func(o *Options) { o.Out = filepath.Join(dir, "out.csv") }, new(*UsageError)},
		"a format that is no list": {finished("a"), func(o *Options) { o.Format = Tasks }, new(*UsageError)},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Out: filepath.Join(dir, "out.jsonl"), Format: Columns, Columns: []Column{{"label", "value.of"}}, Join: &Join{Rows: src, Name: "rows"}}
			if c.change != nil {
				c.change(&o)
			}
			if _, err := Run(t.Context(), c.tasks, o); !errors.As(err, c.want) {
				t.Errorf("got %v, want a %T", err, c.want)
			}
			if all, _ := os.ReadDir(dir); len(all) != 1 {
				t.Errorf("got %v in the folder, want the rows alone", all)
			}
		})
	}
}
