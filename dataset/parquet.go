package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// parquetReader reads the rows of a Parquet file as JSON objects; see
// columns.go for what becomes of each type, and pages.go for how values are
// read. Of each column one page is held at a time.
//
// The structures of the format are parquet-go's. The values are decoded here:
// neither parquet-go nor the 12 MB larger arrow-go refuses every page that does
// not hold what its header says.
type parquetReader struct {
	f      blob
	size   int64 // where the metadata begins
	meta   metadata
	object *column
	leaves []*leaf

	group int   // the next row group
	have  int64 // rows in the one before it, being read
	row   int64 // rows of it that were returned or passed over
	n     int64 // rows of the file before the next
}

// metadata is what is needed of a file's; the rest, such as statistics, is not
// decoded.
type metadata struct {
	Schema    thrift.Slice[format.SchemaElement] `thrift:"2,required"`
	RowGroups thrift.Slice[rowGroup]             `thrift:"4,required"`

	rows int64 // of all row groups: that which the file says is not always right
}

type rowGroup struct {
	Columns thrift.Slice[columnChunk] `thrift:"1,required"`
	NumRows int64                     `thrift:"3,required"`
}

type columnChunk struct {
	FilePath string                      `thrift:"1,optional"`
	MetaData columnMeta                  `thrift:"3,optional"`
	Crypto   format.ColumnCryptoMetaData `thrift:"8,optional"`
}

type columnMeta struct {
	Type                 format.Type                   `thrift:"1,required"`
	Encoding             thrift.Slice[format.Encoding] `thrift:"2,required"`
	Codec                format.CompressionCodec       `thrift:"4,required"`
	NumValues            int64                         `thrift:"5,required"`
	DataPageOffset       int64                         `thrift:"9,required"`
	DictionaryPageOffset int64                         `thrift:"11,optional"`
}

// openParquet starts reading after the first skip rows. A file that cannot be
// read because of how it was written is refused here.
func openParquet(ctx context.Context, in *file, skip int64) (r *parquetReader, err error) {
	path := in.path
	f, err := in.blob(ctx)
	if err != nil {
		return nil, err
	}
	r = &parquetReader{f: f}
	if err = guarded(r.open); err == nil && skip > r.meta.rows {
		err = fmt.Errorf("has %d rows, and %d were read before: the file has changed; restore the one the run began with, or start a new run", r.meta.rows, skip)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for r.n < skip {
		rows := r.meta.RowGroups[r.group].NumRows
		if r.n+rows <= skip {
			r.group++
			r.n += rows
			continue
		}
		if err := r.begin(); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		r.row, r.n = skip-r.n, skip
	}
	return r, nil
}

// maxFooter is the largest metadata that is read.
const maxFooter = 1 << 30

func (r *parquetReader) open() error {
	size, err := r.f.Size()
	if err != nil {
		return err
	}
	tail := make([]byte, 8)
	if _, err := r.f.ReadAt(tail, max(size-8, 0)); errors.Is(err, io.EOF) {
		return errors.New("not a whole Parquet file: it is too short")
	}
	if err != nil {
		return err
	}
	switch string(tail[4:]) {
	case "PAR1":
	case "PARE":
		return errors.New("the Parquet file is encrypted: decrypt it, and run again")
	default:
		return errors.New("not a whole Parquet file: it does not end as one; if it is being written or downloaded, wait for the end")
	}
	n := int64(binary.LittleEndian.Uint32(tail))
	r.size = size - 8 - n
	if n > maxFooter || r.size < 4 {
		return errors.New("not a whole Parquet file: its metadata has a size that cannot be")
	}
	footer := make([]byte, n)
	if _, err := r.f.ReadAt(footer, r.size); err != nil {
		return err
	}
	var protocol thrift.CompactProtocol
	if err := thrift.NewDecoder(protocol.NewReaderFromBytes(footer)).Decode(&r.meta); err != nil {
		return fmt.Errorf("not a whole Parquet file: its metadata: %w", err)
	}
	if r.object, r.leaves, err = columnsOf(r.meta.Schema); err != nil {
		return err
	}
	return r.check()
}

// check finds what makes the file unreadable as far as its metadata tell.
func (r *parquetReader) check() error {
	for i := range r.meta.RowGroups {
		g := &r.meta.RowGroups[i]
		if g.NumRows < 0 || len(g.Columns) != len(r.leaves) {
			return damagef("row group %d has %d columns, and the schema %d", i+1, len(g.Columns), len(r.leaves))
		}
		r.meta.rows += g.NumRows
		for j := range g.Columns {
			c, l := &g.Columns[j], r.leaves[j]
			switch m := &c.MetaData; {
			case c.FilePath != "":
				return fmt.Errorf("column %q stands in another file (%s): that is not supported; write the dataset to files that are whole", l.name, c.FilePath)
			case c.Crypto.Value != nil:
				return fmt.Errorf("column %q is encrypted: decrypt the file, and run again", l.name)
			case m.Type != l.kind:
				return damagef("column %q is of two types, %s and %s", l.name, l.kind, m.Type)
			case m.Codec == format.LZO || m.Codec < 0 || m.Codec > format.Lz4Raw:
				return fmt.Errorf("column %q is compressed with %s, which cannot be read: write the file again with zstd, snappy or gzip", l.name, m.Codec)
			default:
				for _, e := range m.Encoding {
					if !decodes(e) {
						return fmt.Errorf("column %q has the encoding %s, which cannot be read: write the file again without it", l.name, e)
					}
				}
			}
		}
	}
	return nil
}

// guarded turns a panic over a damaged file into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = damagef("the file is damaged: %v", p)
		}
	}()
	return f()
}

// begin opens the next row group.
func (r *parquetReader) begin() error {
	g := &r.meta.RowGroups[r.group]
	for i, l := range r.leaves {
		if err := l.open(r.f, r.size, &g.Columns[i].MetaData); err != nil {
			return err
		}
	}
	r.group++
	r.have, r.row = g.NumRows, 0
	return nil
}

func (r *parquetReader) count() int64 { return r.meta.rows }

// place counts rows as lines; there are no bytes to speak of.
func (r *parquetReader) place() (int64, int64) { return 0, r.n }

func (r *parquetReader) Close() error { return r.f.Close() }

// ready makes the next row of the group that which is read next; io.EOF after
// the last row.
func (r *parquetReader) ready() error {
	for r.row == r.have {
		if r.group > 0 {
			for _, l := range r.leaves {
				if err := l.finish(r.row); err != nil {
					return err
				}
				if ok, err := l.more(); err != nil {
					return err
				} else if ok {
					return damagef("column %q has more values than the row group has rows", l.name)
				}
			}
		}
		if r.group == len(r.meta.RowGroups) {
			return io.EOF
		}
		if err := r.begin(); err != nil {
			return err
		}
	}
	return nil
}

// pass leaves the values unread until a later row is wanted.
func (r *parquetReader) pass() error {
	if err := guarded(r.ready); err != nil {
		return err
	}
	r.row++
	r.n++
	return nil
}

func (r *parquetReader) next() (rec record, err error) {
	err = guarded(func() error {
		rec, err = r.read()
		return err
	})
	return rec, err
}

func (r *parquetReader) read() (record, error) {
	if err := r.ready(); err != nil {
		return record{}, err
	}
	for _, l := range r.leaves {
		if err := l.finish(r.row); err != nil {
			return record{}, err
		}
	}
	text, bad := r.object.append(nil)
	if broken := (damage{}); errors.As(bad, &broken) {
		return record{}, bad
	}
	for _, l := range r.leaves {
		rows := l.rows
		if err := l.finish(r.row + 1); err != nil {
			return record{}, err
		}
		if bad == nil && rows != r.row+1 {
			return record{}, damagef("column %q does not fit the others", l.name)
		}
	}
	r.row++
	r.n++
	return record{line: r.n, text: text, err: bad}, nil
}
