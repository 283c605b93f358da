package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"matrix/internal/jsontext"
)

// csvReader reads the records of a CSV file (RFC 4180, comma) as objects of
// strings, named by the header. Differences to the RFC: lines end in LF or
// CRLF, empty lines between records are no rows, and a quote inside a field
// that does not begin with one stands for itself.
type csvReader struct {
	lines *lines
	c     io.Closer
	keys  [][]byte // of the header, as `"name":`

	raw    []byte // the beginning of the record as it stands in the file
	fields []byte // the fields' bytes, one after the other
	ends   []int  // where each ends
	size   int
}

func newCSV(l *lines, c io.Closer) (*csvReader, error) {
	r := &csvReader{lines: l, c: c}
	_, bad, err := r.record()
	if err == io.EOF {
		return r, nil // no header, no rows
	}
	if err == nil && bad != nil {
		err = fmt.Errorf("header: %w", bad)
	}
	if err != nil {
		return nil, err
	}
	first := map[string]int{}
	for i := range r.ends {
		name := r.field(i)
		if !utf8.Valid(name) {
			return nil, fmt.Errorf("header: the name of column %d is not valid UTF-8", i+1)
		}
		if j, ok := first[string(name)]; ok {
			return nil, fmt.Errorf("header: columns %d and %d are both named %q: rename one of them", j+1, i+1, name)
		}
		first[string(name)] = i
		r.keys = append(r.keys, append(jsontext.AppendString(nil, string(name)), ':'))
	}
	return r, nil
}

func (r *csvReader) place() (int64, int64) { return r.lines.offset, r.lines.n }
func (r *csvReader) Close() error          { return r.c.Close() }

func (r *csvReader) pass() error {
	_, _, err := r.record()
	return err
}

func (r *csvReader) next() (record, error) {
	line, bad, err := r.record()
	if err != nil {
		return record{}, err
	}
	switch {
	case bad != nil:
	case len(r.ends) != len(r.keys):
		bad = fmt.Errorf("the record has %d fields, and the header has %d", len(r.ends), len(r.keys))
	case !utf8.Valid(r.fields):
		bad = errors.New("not valid UTF-8")
	}
	if bad != nil {
		return record{line: line, text: r.raw, err: bad}, nil
	}
	n := 2
	for i, k := range r.keys {
		n += len(k) + len(r.field(i)) + 3
	}
	text := append(make([]byte, 0, n), '{')
	for i, k := range r.keys {
		if i > 0 {
			text = append(text, ',')
		}
		text = jsontext.AppendString(append(text, k...), r.field(i))
	}
	return record{line: line, text: append(text, '}')}, nil
}

func (r *csvReader) field(i int) []byte {
	begin := 0
	if i > 0 {
		begin = r.ends[i-1]
	}
	return r.fields[begin:r.ends[i]]
}

// record reads the fields of the next record, and says at which line it
// begins. bad says what is wrong with it; reading goes on at the next line.
func (r *csvReader) record() (at int64, bad, err error) {
	if cap(r.fields) > 1<<20 {
		r.fields = nil
	}
	r.raw, r.fields, r.ends, r.size = r.raw[:0], r.fields[:0], r.ends[:0], 0
	for {
		line, tooLong, err := r.lines.next()
		if err != nil {
			return 0, nil, err
		}
		if !tooLong && (len(line) == 0 || len(line) == 1 && line[0] == '\r') {
			continue
		}
		at = r.lines.n
		quoted := false
		for {
			r.keep(line)
			if tooLong || r.size > r.lines.max {
				return at, fmt.Errorf("the record is longer than %d MiB: is a quote never closed?", maxRecord>>20), nil
			}
			if quoted, bad = r.line(line, quoted); bad != nil {
				return at, fmt.Errorf("line %d: %w", r.lines.n, bad), nil
			}
			if !quoted {
				return at, nil, nil
			}
			line, tooLong, err = r.lines.next()
			if err == io.EOF {
				return at, fmt.Errorf("a quote is never closed: the record goes on to the end of the file, line %d", r.lines.n), nil
			}
			if err != nil {
				return 0, nil, err
			}
			r.fields = append(r.fields, '\n')
		}
	}
}

// keep remembers the beginning of the record's text.
func (r *csvReader) keep(line []byte) {
	r.size += len(line) + 1
	if len(r.raw) > 0 && len(r.raw) <= shownBytes {
		r.raw = append(r.raw, '\n')
	}
	if n := 2*shownBytes - len(r.raw); n > 0 {
		r.raw = append(r.raw, line[:min(n, len(line))]...)
	}
}

// line splits one line into fields, where quoted says that it begins within a
// quoted field, and returns whether it ends within one.
func (r *csvReader) line(line []byte, quoted bool) (bool, error) {
	rest := line
	for {
		if !quoted {
			if len(rest) == 0 || rest[0] != '"' {
				i := bytes.IndexByte(rest, ',')
				if i < 0 {
					r.end(bytes.TrimSuffix(rest, []byte("\r")))
					return false, nil
				}
				r.end(rest[:i])
				rest = rest[i+1:]
				continue
			}
			rest = rest[1:]
		}
		i := bytes.IndexByte(rest, '"')
		if i < 0 {
			r.fields = append(r.fields, rest...)
			return true, nil
		}
		r.fields = append(r.fields, rest[:i]...)
		rest = rest[i+1:]
		quoted = true
		switch {
		case len(rest) > 0 && rest[0] == '"':
			r.fields = append(r.fields, '"')
			rest = rest[1:]
		case len(rest) == 0 || len(rest) == 1 && rest[0] == '\r':
			r.end(nil)
			return false, nil
		case rest[0] == ',':
			r.end(nil)
			rest, quoted = rest[1:], false
		default:
			return false, fmt.Errorf("text after a closing quote at column %d: write a quote within a field as \"\"", columnAt(line, len(line)-len(rest), 0))
		}
	}
}

func (r *csvReader) end(b []byte) {
	r.fields = append(r.fields, b...)
	r.ends = append(r.ends, len(r.fields))
}
