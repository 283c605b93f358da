package export

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"os"
	"reflect"
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"matrix"
)

// groupBytes is how much JSON goes into a row group.
const groupBytes = 32 << 20

// parquetFile writes rows as Parquet. A file has its columns before its rows, and
// those are known once all rows are: rows are put aside first.
type parquetFile struct {
	shape *shape   // of the rows of all files of the export, so that their columns are the same
	json  []string // fields in which tools and arguments are of the type JSON
	out   *os.File
	aside *os.File
	w     *bufio.Writer
	n     []byte
}

func newParquetFile(out *os.File, scratch string, s *shape, json []string) (*parquetFile, error) {
	aside, err := os.CreateTemp(scratch, "rows-")
	if err != nil {
		return nil, err
	}
	return &parquetFile{shape: s, json: json, out: out, aside: aside, w: bufio.NewWriterSize(aside, 1<<20)}, nil
}

func (p *parquetFile) write(id string, row []byte) error {
	v, err := matrix.ParseValue(row)
	if err != nil {
		return err
	}
	if err := p.shape.addRow(row, v.Any(), id); err != nil {
		return err
	}
	p.n = binary.AppendUvarint(p.n[:0], uint64(len(row)))
	if _, err := p.w.Write(p.n); err != nil {
		return err
	}
	_, err = p.w.Write(row)
	return err
}

func (p *parquetFile) close(ctx context.Context) error {
	if err := p.w.Flush(); err != nil {
		return err
	}
	if _, err := p.aside.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for _, name := range p.json {
		if f := p.shape.fields[name]; f != nil {
			f.markJSON(name, "")
		}
	}
	w := newParquetWriter(p.out, p.shape.columns())
	in := bufio.NewReaderSize(p.aside, 1<<20)
	columns := make([][]parquet.Value, p.shape.width())
	for {
		n, err := binary.ReadUvarint(in)
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		raw := make([]byte, n)
		if _, err := io.ReadFull(in, raw); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := matrix.ParseValue(raw)
		if err != nil {
			return err
		}
		for i := range columns {
			columns[i] = columns[i][:0]
		}
		fields, _ := v.Any().(map[string]any)
		at := 0
		for _, name := range p.shape.names() {
			f := p.shape.fields[name]
			f.shred(columns, at, fields[name], 0, 0, 0)
			at += f.width()
		}
		if err := w.write(slices.Concat(columns...), len(raw)); err != nil {
			return err
		}
	}
	return w.close()
}

func (p *parquetFile) discard() { p.aside.Close() }

// parquetWriter writes rows to a file: columns in zstd, in groups of groupBytes.
type parquetWriter struct {
	out  *bufio.Writer
	w    *parquet.GenericWriter[any]
	size int
}

func newParquetWriter(out io.Writer, columns []parquet.Field) *parquetWriter {
	b := bufio.NewWriterSize(out, 1<<20)
	return &parquetWriter{out: b, w: parquet.NewGenericWriter[any](b, parquet.NewSchema("schema", &ordered{fields: columns}), parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault}))}
}

// write writes a row of about so many bytes.
func (p *parquetWriter) write(row parquet.Row, size int) error {
	if _, err := p.w.WriteRows([]parquet.Row{row}); err != nil {
		return err
	}
	if p.size += size; p.size < groupBytes {
		return nil
	}
	p.size = 0
	return p.w.Flush()
}

func (p *parquetWriter) close() error {
	if err := p.w.Close(); err != nil {
		return err
	}
	return p.out.Flush()
}

// ordered is a group whose fields stand in an order of their own.
type ordered struct {
	parquet.Group
	fields []parquet.Field
}

func (g *ordered) Fields() []parquet.Field { return g.fields }

// field is a column of the schema.
type field struct {
	parquet.Node
	name string
}

func (f *field) Name() string { return f.name }

// Value implements parquet.Field. Rows are written as values of columns, and no Go value
// is looked into.
func (f *field) Value(base reflect.Value) reflect.Value { return reflect.Value{} }

// columns are the columns of rows of the shape, an object.
func (s *shape) columns() []parquet.Field {
	var all []parquet.Field
	for _, name := range s.names() {
		all = append(all, &field{node(s.fields[name]), name})
	}
	return all
}

// leaf reports whether values of the shape stand in one column; an object of which no
// field is known is null there.
func (s *shape) leaf() bool {
	return s.kind != list && (s.kind != object || len(s.fields) == 0)
}

// width is how many columns the shape has.
func (s *shape) width() int {
	switch {
	case s.leaf():
		return 1
	case s.kind == list:
		return s.elem.width()
	}
	n := 0
	for _, f := range s.fields {
		n += f.width()
	}
	return n
}

// node is the shape in a schema: all of it may be null.
func node(s *shape) parquet.Node {
	switch {
	case s.kind == list:
		return parquet.Optional(parquet.List(node(s.elem)))
	case !s.leaf():
		g := parquet.Group{}
		for name, f := range s.fields {
			g[name] = node(f)
		}
		return parquet.Optional(g)
	}
	switch s.kind {
	case boolean:
		return parquet.Optional(parquet.Leaf(parquet.BooleanType))
	case whole:
		return parquet.Optional(parquet.Int(64))
	case float:
		return parquet.Optional(parquet.Leaf(parquet.DoubleType))
	}
	if s.json {
		return parquet.Optional(parquet.JSON())
	}
	return parquet.Optional(parquet.String())
}

// shred appends v to the columns from at on. rep and def are its repetition and
// definition levels, and depth is how many lists it is in.
func (s *shape) shred(columns [][]parquet.Value, at int, v any, rep, def, depth int) {
	absent := func() {
		for i := at; i < at+s.width(); i++ {
			columns[i] = append(columns[i], parquet.NullValue().Level(rep, def, i))
		}
	}
	if v == nil {
		absent()
		return
	}
	if s.leaf() {
		x, ok := s.value(v)
		if ok {
			def++
		}
		columns[at] = append(columns[at], x.Level(rep, def, at))
		return
	}
	def++
	switch v := v.(type) {
	case []any:
		if len(v) == 0 {
			absent()
			return
		}
		for i, e := range v {
			if i > 0 {
				rep = depth + 1
			}
			s.elem.shred(columns, at, e, rep, def+1, depth+1)
		}
	case map[string]any:
		for _, name := range s.names() {
			f := s.fields[name]
			f.shred(columns, at, v[name], rep, def, depth)
			at += f.width()
		}
	}
}

// value is v in a column of one value; null where the shape has no type for it.
func (s *shape) value(v any) (parquet.Value, bool) {
	switch v := v.(type) {
	case bool:
		return parquet.BooleanValue(v), true
	case int:
		if s.kind == float {
			return parquet.DoubleValue(float64(v)), true
		}
		return parquet.Int64Value(int64(v)), true
	case float64:
		return parquet.DoubleValue(v), true
	case string:
		return parquet.ByteArrayValue([]byte(v)), true
	}
	return parquet.NullValue(), false
}
