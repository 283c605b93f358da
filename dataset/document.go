package dataset

import (
	"bytes"
	"fmt"
	"io"
	"unicode/utf8"

	"matrix/internal/jsontext"
)

// documentReader reads a file as one row: its text, or of a web page its main
// text and title, and the name of the file as path. A file without bytes is no
// row.
type documentReader struct {
	b      *content
	name   string
	page   bool
	offset int64
	n      int64
	max    int
}

func newDocument(b *content, f *file) *documentReader {
	return &documentReader{b: b, name: f.name, page: f.format == pageDocument, max: maxRecord}
}

func (r *documentReader) place() (int64, int64) { return r.offset, r.n }
func (r *documentReader) Close() error          { return r.b.Close() }

func (r *documentReader) pass() error {
	n, err := io.Copy(io.Discard, r.b)
	return r.read(n, err)
}

// read notes that so many bytes were read to the end.
func (r *documentReader) read(n int64, err error) error {
	r.offset += n
	switch {
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	r.n++
	return nil
}

// seek moves to the end, which is the only place behind a row.
func (r *documentReader) seek(offset, n int64) (err error) {
	if r.offset, err = r.b.forward(offset); err != nil {
		return err
	}
	r.n = n
	if n, err := io.Copy(io.Discard, r.b); err != nil {
		return err
	} else if n > 0 {
		return fmt.Errorf("it is one row, and has become longer: restore the file, or start a new run")
	}
	return nil
}

func (r *documentReader) next() (record, error) {
	text, err := io.ReadAll(io.LimitReader(r.b, int64(r.max)))
	n := int64(len(text))
	if err == nil {
		var more int64
		more, err = io.Copy(io.Discard, r.b)
		n += more
	}
	if err := r.read(n, err); err != nil {
		return record{}, err
	}
	rec := record{line: 1, text: text}
	switch {
	case n > int64(len(text)):
		rec.err = fmt.Errorf("the file is larger than %d MiB, and is one row", r.max>>20)
	case r.page:
		p, err := readPage(text, "", "")
		if err != nil {
			rec.err = err
			break
		}
		rec.text = textObject("text", p.text, "title", p.title, "path", r.name)
	default:
		if text = bytes.TrimPrefix(text, bom); !utf8.Valid(text) {
			rec.err = notUTF8(text, 0)
			break
		}
		rec.text = textObject("text", string(text), "path", r.name)
	}
	return rec, nil
}

// textObject is a JSON object of names and texts in turn.
func textObject(fields ...string) []byte {
	n := 2
	for _, f := range fields {
		n += len(f) + 3
	}
	out := append(make([]byte, 0, n+n/16), '{')
	for i := 0; i < len(fields); i += 2 {
		out = append(jsontext.AppendString(jsontext.Separate(out, i), fields[i]), ':')
		out = jsontext.AppendString(out, fields[i+1])
	}
	return append(out, '}')
}
