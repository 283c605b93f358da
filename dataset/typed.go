package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding"
	"github.com/parquet-go/parquet-go/format"
)

// Typed reads the rows of a Parquet file with the types that they have there, to be
// written to another one. What is wrong with a row's text it does not see.
type Typed struct {
	path   string
	r      *parquetReader
	fields []parquet.Field
}

// OpenTyped opens the i-th of Files, from 0; ErrUntyped where it is not Parquet.
func (s *Source) OpenTyped(ctx context.Context, i int) (t *Typed, err error) {
	f := &s.files[i]
	if f.format != parquetRows {
		return nil, ErrUntyped
	}
	r, err := openParquet(ctx, f, 0)
	if err != nil {
		return nil, err
	}
	t = &Typed{path: f.path, r: r}
	if err := guarded(t.schema); err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return t, nil
}

// ErrUntyped says that the rows of a file have no types of their own.
var ErrUntyped = errors.New("the file is not Parquet")

// schema makes the fields of the file's schema.
func (t *Typed) schema() error {
	size, err := t.r.f.Size()
	if err != nil {
		return err
	}
	f, err := parquet.OpenFile(t.r.f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	t.fields = copied(f.Root().Fields())
	return nil
}

// Fields are the columns of the file, in order.
func (t *Typed) Fields() []parquet.Field { return t.fields }

// Width is how many columns of values they are.
func (t *Typed) Width() int { return len(t.r.leaves) }

// Next appends the values of the next row, by column; io.EOF after the last one. They
// are valid until the next call.
func (t *Typed) Next(row parquet.Row) (parquet.Row, error) {
	err := guarded(func() (err error) {
		if err = t.r.ready(); err == nil {
			row, err = t.read(row)
		}
		return err
	})
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: row %d: %w", t.path, t.r.n+1, err)
	}
	return row, err
}

func (t *Typed) read(row parquet.Row) (parquet.Row, error) {
	for i, l := range t.r.leaves {
		for rep := 0; ; {
			def, err := l.def()
			if err != nil {
				return row, err
			}
			raw, ok, err := l.take()
			if err != nil {
				return row, err
			}
			v := parquet.NullValue()
			if ok {
				v = typed(l.kind, raw)
			}
			row = append(row, v.Level(rep, def, i))
			if rep, err = l.rep(); err != nil {
				return row, err
			} else if rep == 0 {
				break
			}
		}
	}
	t.r.row++
	t.r.n++
	return row, nil
}

// typed is a value as it stands in a page.
func typed(kind format.Type, raw []byte) parquet.Value {
	switch kind {
	case format.Boolean:
		return parquet.BooleanValue(raw[0] != 0)
	case format.Int32:
		return parquet.Int32Value(int32(binary.LittleEndian.Uint32(raw)))
	case format.Int64:
		return parquet.Int64Value(int64(binary.LittleEndian.Uint64(raw)))
	case format.Int96:
		return parquet.Int96Value(deprecated.Int96{binary.LittleEndian.Uint32(raw), binary.LittleEndian.Uint32(raw[4:]), binary.LittleEndian.Uint32(raw[8:])})
	case format.Float:
		return parquet.FloatValue(math.Float32frombits(binary.LittleEndian.Uint32(raw)))
	case format.Double:
		return parquet.DoubleValue(math.Float64frombits(binary.LittleEndian.Uint64(raw)))
	case format.FixedLenByteArray:
		return parquet.FixedLenByteArrayValue(raw)
	}
	return parquet.ByteArrayValue(raw)
}

// Close closes the file.
func (t *Typed) Close() error { return t.r.Close() }

// copiedField is a column of a file that was read, as one to be written: how its values
// are encoded and compressed is the writer's choice.
type copiedField struct {
	parquet.Field
	fields []parquet.Field
}

func (f *copiedField) Fields() []parquet.Field     { return f.fields }
func (f *copiedField) Encoding() encoding.Encoding { return nil }
func (f *copiedField) Compression() compress.Codec { return nil }

func copied(fields []parquet.Field) []parquet.Field {
	out := make([]parquet.Field, len(fields))
	for i, f := range fields {
		out[i] = &copiedField{f, copied(f.Fields())}
	}
	return out
}
