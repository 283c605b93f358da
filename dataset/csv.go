package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"matrix/internal/jsontext"
)

// csvReader reads the records of a CSV file (RFC 4180, comma) as objects of
// strings, named by the header. Differences to the RFC: lines end in LF, CRLF
// or CR, empty lines between records are not rows, and a quote inside a field
// that does not begin with one stands for itself.
type csvReader struct {
	lines *lines
	c     io.Closer
	keys  [][]byte // of the header, as `"name":`

	ahead []csvLine // read, and not yet part of a record
	last  csvLine   // what line returned last
	stray bool      // the record has a quote within a field that does not begin with one

	bad    int    // where in its line the text after a closing quote begins
	raw    []byte // the beginning of the record as it stands in the file
	fields []byte // the fields' bytes, one after the other
	ends   []int  // where each ends
	size   int
}

// csvLine is a line, what ended it and where the next one begins, or the error
// that came in its place.
type csvLine struct {
	text      []byte
	sep       byte
	tooLong   bool
	offset, n int64
	err       error
}

func newCSV(l *lines, c io.Closer) (*csvReader, error) {
	l.cr = true
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
	if err := r.otherComma(); err != nil {
		return nil, err
	}
	first := map[string]int{}
	for i := range r.ends {
		name := r.field(i)
		if !utf8.Valid(name) {
			return nil, fmt.Errorf("header: the name of column %d is %w", i+1, notUTF8(name, 0))
		}
		if j, ok := first[string(name)]; ok {
			return nil, fmt.Errorf("header: columns %d and %d are both named %q: rename one of them", j+1, i+1, name)
		}
		first[string(name)] = i
		r.keys = append(r.keys, append(jsontext.AppendString(nil, string(name)), ':'))
	}
	return r, nil
}

// otherComma says what to do where the header shows that something else than a
// comma separates the fields.
func (r *csvReader) otherComma() error {
	if len(r.ends) == 0 {
		return nil
	}
	head := string(r.field(0))
	switch {
	case strings.HasPrefix(head, "sep="):
		return errors.New("header: the first line is one of Excel's, not the header: delete it (and have commas between the fields)")
	case len(r.ends) > 1 || bytes.HasPrefix(r.raw, []byte(`"`+head)): // a quoted name may hold anything
		return nil
	case strings.Contains(head, ";"):
		return fmt.Errorf("header: %w", &separatorError{";"})
	case strings.Contains(head, "\t"):
		return fmt.Errorf("header: %w", &separatorError{"\t"})
	}
	return nil
}

// separatorError is of a file whose fields are not separated by commas.
type separatorError struct{ by string }

func (e *separatorError) Error() string {
	name, by := "semicolons", e.by
	if by == "\t" {
		name, by = "tabs", `\t`
	}
	return fmt.Sprintf(`%s separate the fields, and commas should: save it as CSV with commas, or convert it: python3 -c "import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter='%s'))" < FILE > NEW`, name, by)
}

func (r *csvReader) place() (int64, int64) {
	if len(r.ahead) > 0 {
		return r.last.offset, r.last.n
	}
	return r.lines.offset, r.lines.n
}

func (r *csvReader) Close() error { return r.c.Close() }

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
		for i, k := range r.keys {
			if f := r.field(i); !utf8.Valid(f) {
				bad = fmt.Errorf("field %s is %w", bytes.TrimSuffix(k, []byte(":")), notUTF8(f, 0))
				break
			}
		}
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
		text = jsontext.AppendString(append(jsontext.Separate(text, i), k...), r.field(i))
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

// line returns the next line, until the next call.
func (r *csvReader) line() (csvLine, error) {
	if len(r.ahead) > 0 {
		r.last, r.ahead = r.ahead[0], r.ahead[1:]
	} else {
		r.last = r.read()
	}
	return r.last, r.last.err
}

func (r *csvReader) read() (l csvLine) {
	l.text, l.tooLong, l.err = r.lines.next()
	l.sep, l.offset, l.n = r.lines.sep, r.lines.offset, r.lines.n
	return l
}

// maxAhead is how much is read to find the end of a record with a bad quote.
const maxAhead = 1 << 20

// peek returns the line after the next i ones; ok is false beyond the end of
// the file, and too far ahead.
func (r *csvReader) peek(i int) (l csvLine, ok bool) {
	for len(r.ahead) <= i {
		if n := len(r.ahead); n > 0 && (r.ahead[n-1].err != nil || r.ahead[n-1].offset-r.ahead[0].offset > maxAhead) {
			return l, false
		}
		l := r.read()
		l.text = bytes.Clone(l.text)
		r.ahead = append(r.ahead, l)
	}
	l = r.ahead[i]
	return l, l.err == nil && !l.tooLong
}

var errUnclosed = errors.New("a quote is never closed")

// record reads the fields of the next record, and says at which line it
// begins. bad says what is wrong with it; reading goes on after it.
func (r *csvReader) record() (at int64, bad, err error) {
	if cap(r.fields) > 1<<20 {
		r.fields = nil
	}
	r.raw, r.fields, r.ends, r.size, r.stray = r.raw[:0], r.fields[:0], r.ends[:0], 0, false
	l, err := r.line()
	for err == nil && !l.tooLong && (len(l.text) == 0 || len(l.text) == 1 && l.text[0] == '\r') {
		l, err = r.line()
	}
	if err != nil {
		return 0, nil, err
	}
	at = l.n
	quoted := false
	for {
		r.keep(l.text)
		if l.tooLong || r.size > r.lines.max {
			return at, fmt.Errorf("the record is longer than %d MiB: is a quote never closed?", maxRecord>>20), nil
		}
		if quoted, bad = r.split(l.text, quoted, false); bad != nil {
			bad = fmt.Errorf("line %d: %w", l.n, bad)
			for range r.rest(l) {
				if l, err = r.line(); err != nil {
					return 0, nil, err
				}
				r.keep(l.text)
			}
			if r.last.n > at {
				bad = fmt.Errorf("%w; the record is taken to end with line %d", bad, r.last.n)
			}
			return at, bad, nil
		}
		if !quoted {
			return at, nil, nil
		}
		sep := l.sep
		l, err = r.line()
		if err == io.EOF {
			return at, fmt.Errorf("%w: the record goes on to the end of the file, line %d", errUnclosed, r.lines.n), nil
		}
		if err != nil {
			return 0, nil, err
		}
		r.fields = append(r.fields, sep)
	}
}

// rest is how many lines after l belong to the record that has a bad quote in
// l. Where its field goes on over lines, they must not be taken for records:
//
//   - Read as if the quotes within the field had been doubled, the record ends
//     at the end of a line and has as many fields as the header: it ends there.
//   - Else the next line with a quote tells. One that is a record, whole, says
//     that the bad record ended before; one that is not belongs to it.
func (r *csvReader) rest(l csvLine) int {
	from := len(r.ends) // of the record, before the field that is bad
	fields, ends := len(r.fields), from
	defer func() { r.fields, r.ends = r.fields[:fields], r.ends[:ends] }()
	quoted, _ := r.split(l.text[r.bad:], true, true)
	for i := 0; len(r.keys) > 0; i++ {
		if !quoted {
			if len(r.ends) == len(r.keys) {
				return i
			}
			break
		}
		next, ok := r.peek(i)
		if !ok {
			break
		}
		quoted, _ = r.split(next.text, true, true)
	}
	end := 0
	for i := 0; ; i++ {
		next, ok := r.peek(i)
		if !ok {
			return end
		}
		if bytes.IndexByte(next.text, '"') < 0 {
			continue
		}
		r.ends, r.stray = r.ends[:0], false
		quoted, err := r.split(next.text, false, false)
		if err == nil && !r.stray && (quoted || len(r.ends) == len(r.keys)) {
			return end
		}
		end = i + 1
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

// split splits one line into fields, where quoted says that it begins within a
// quoted field, and returns whether it ends within one. An error says that text
// follows a quote that should close its field; it stands at bad. With lenient
// such a quote is text itself.
func (r *csvReader) split(line []byte, quoted, lenient bool) (bool, error) {
	rest := line
	for {
		if !quoted {
			if len(rest) == 0 || rest[0] != '"' {
				i := bytes.IndexByte(rest, ',')
				field := rest
				if i >= 0 {
					field = rest[:i]
				}
				r.stray = r.stray || bytes.IndexByte(field, '"') >= 0
				if i < 0 {
					r.end(bytes.TrimSuffix(rest, []byte("\r")))
					return false, nil
				}
				r.end(field)
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
		case lenient:
			r.fields = append(r.fields, '"')
		default:
			r.bad = len(line) - len(rest)
			return false, fmt.Errorf("text after a closing quote at column %d: write a quote within a field as \"\"", columnAt(line, r.bad, 0))
		}
	}
}

func (r *csvReader) end(b []byte) {
	r.fields = append(r.fields, b...)
	r.ends = append(r.ends, len(r.fields))
}
