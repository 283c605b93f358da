package export

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Endings are those of the files that can be written.
var Endings = []string{".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".csv", ".json"}

// EndingOf is the ending of a path that says what is written; empty where it has none
// of Endings.
func EndingOf(path string) string {
	for _, e := range Endings {
		if name := filepath.Base(path); strings.HasSuffix(name, e) && name != e {
			return e
		}
	}
	return ""
}

// file is one that is being written, under another name until it is whole.
type file struct {
	temp        string
	path, split string // once they are known
	rows, bytes int64  // bytes of the JSON of rows
	f           *os.File
	w           rowWriter
}

// rowWriter writes rows in the form of a file. close ends the content, not the file.
type rowWriter interface {
	write(id string, row []byte) error
	close(context.Context) error
	discard()
}

func newFile(temp string, o *Options, s *shape) (*file, error) {
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	x := &file{temp: temp, f: f}
	switch ending := o.ending(); ending {
	case ".parquet":
		var json []string
		if o.Tools == ToolsJSON {
			json = o.Format.keys()
		}
		x.w, err = newParquetFile(f, filepath.Dir(temp), s, json)
	case ".csv":
		x.w, err = newCSVFile(f, o.Columns)
	case ".json":
		x.w = &predictions{b: bufio.NewWriterSize(f, 1<<20), seen: map[string]bool{}}
	default:
		x.w, err = newLines(f, ending)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return x, nil
}

func (x *file) write(id string, row []byte) error {
	x.rows++
	x.bytes += int64(len(row))
	return x.w.write(id, row)
}

// close makes the file whole and durable.
func (x *file) close(ctx context.Context) error {
	if err := x.w.close(ctx); err != nil {
		return err
	}
	return errors.Join(x.f.Sync(), x.f.Close())
}

func (x *file) discard() {
	x.w.discard()
	_ = x.f.Close() // again, where it is whole
}

// lines writes JSON Lines.
type lines struct {
	b *bufio.Writer
	c io.WriteCloser // compresses into b; nil: none
	w io.Writer
}

func newLines(f *os.File, ending string) (*lines, error) {
	l := &lines{b: bufio.NewWriterSize(f, 1<<20)}
	l.w = l.b
	switch ending {
	case ".jsonl.gz":
		l.c = gzip.NewWriter(l.b)
	case ".jsonl.zst":
		z, err := zstd.NewWriter(l.b)
		if err != nil {
			return nil, err
		}
		l.c = z
	}
	if l.c != nil {
		l.w = l.c
	}
	return l, nil
}

func (l *lines) write(_ string, row []byte) error {
	_, err := l.w.Write(append(row, '\n'))
	return err
}

func (l *lines) close(context.Context) error {
	if l.c != nil {
		if err := l.c.Close(); err != nil {
			return err
		}
	}
	return l.b.Flush()
}

func (l *lines) discard() {}

// csvFile writes columns as CSV: null is an empty cell, a list or an object its JSON.
type csvFile struct {
	w     *csv.Writer
	names []string
}

func newCSVFile(f *os.File, columns []Column) (*csvFile, error) {
	c := &csvFile{w: csv.NewWriter(f)}
	for _, column := range columns {
		c.names = append(c.names, column.Name)
	}
	return c, c.w.Write(c.names)
}

func (c *csvFile) write(_ string, row []byte) error {
	var cells map[string]json.RawMessage
	if err := json.Unmarshal(row, &cells); err != nil {
		return err
	}
	record := make([]string, len(c.names))
	for i, name := range c.names {
		switch raw := cells[name]; {
		case string(raw) == "null":
		case raw[0] == '"':
			if err := json.Unmarshal(raw, &record[i]); err != nil {
				return err
			}
		default:
			record[i] = string(raw)
		}
	}
	return c.w.Write(record)
}

func (c *csvFile) close(context.Context) error {
	c.w.Flush()
	return c.w.Error()
}

func (c *csvFile) discard() {}
