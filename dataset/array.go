package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"matrix"
)

// arrayReader reads the elements of one JSON array as rows. An element that is
// no object, or no valid JSON, is malformed where its brackets and quotes close:
// the next one can still be read.
type arrayReader struct {
	r      *bufio.Reader
	c      io.Closer
	offset int64 // bytes before the place
	n      int64 // elements before it
	begun  bool  // the place is within the brackets
	text   []byte
	max    int
}

func newArray(b *content) *arrayReader {
	return &arrayReader{r: bufio.NewReaderSize(b, bufferBytes), c: b, max: maxRecord}
}

func (r *arrayReader) place() (int64, int64) { return r.offset, r.n }
func (r *arrayReader) Close() error          { return r.c.Close() }

func (r *arrayReader) pass() error {
	_, err := r.element(false)
	return err
}

func (r *arrayReader) next() (record, error) {
	tooLong, err := r.element(true)
	if err != nil {
		return record{}, err
	}
	rec := record{line: r.n, text: r.text}
	switch {
	case tooLong:
		rec.err = fmt.Errorf("the element is larger than %d MiB", r.max>>20)
		return rec, nil
	case len(r.text) == 0:
		rec.err = errors.New("not valid JSON: there is nothing before the comma or bracket")
		return rec, nil
	}
	own := bytes.Clone(r.text)
	v, err := matrix.ParseValue(own)
	if err == nil && own[0] == '{' && utf8.Valid(own) {
		rec.text, rec.item = v.Raw(), v
		return rec, nil
	}
	if rec.err = checkObject(r.text, 0); rec.err == nil {
		rec.err = err
	}
	return rec, nil
}

// seek moves to a place behind an element.
func (r *arrayReader) seek(b *content, offset, n int64) (err error) {
	if r.offset, err = b.forward(offset); err != nil {
		return err
	}
	r.r.Reset(b)
	r.n, r.begun = n, true
	switch c, err := r.skipSpace(); {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case c != ',' && c != ']':
		return errTorn
	}
	return nil
}

// element reads the next element into text, at most max bytes of it, or over it.
func (r *arrayReader) element(keep bool) (tooLong bool, err error) {
	if cap(r.text) > 1<<20 {
		r.text = nil
	}
	r.text = r.text[:0]
	c, err := r.skipSpace()
	switch {
	case err == io.EOF && !r.begun:
		return false, io.EOF
	case err == nil && !r.begun:
		if c != '[' {
			return false, fmt.Errorf("not a JSON array: it begins with %q", c)
		}
		r.begun = true
		r.skip(1)
		c, err = r.skipSpace()
	case err == nil && r.n > 0 && c == ',':
		r.skip(1)
		if c, err = r.skipSpace(); err == nil && c == ']' { // nothing behind the comma
			r.n++
			return false, nil
		}
	case err == nil && r.n > 0 && c != ']':
		return false, fmt.Errorf("not valid JSON: %q where the array should go on with a comma or end", c)
	}
	switch {
	case err == io.EOF:
		return false, io.ErrUnexpectedEOF
	case err != nil:
		return false, err
	case c == ']':
		return false, r.end()
	}
	if tooLong, err = r.value(keep); err == nil {
		r.n++
	}
	return tooLong, err
}

// end looks behind the bracket at the end, which stays unread: it says io.EOF where
// nothing follows.
func (r *arrayReader) end() error {
	for at := 1; ; at++ {
		b, err := r.r.Peek(at + 1)
		if err == io.EOF {
			return io.EOF
		} else if err == bufio.ErrBufferFull {
			return errors.New("not valid JSON: more than space behind the end of the array")
		} else if err != nil {
			return err
		}
		if !isSpace(b[at]) {
			return fmt.Errorf("not valid JSON: %q behind the end of the array", b[at])
		}
	}
}

// value reads over one value.
func (r *arrayReader) value(keep bool) (tooLong bool, err error) {
	var s valueScan
	for {
		window, err := r.window()
		if err == io.EOF {
			if s.scalar() { // the array lacks its bracket, the value is whole
				return tooLong, nil
			}
			return false, fmt.Errorf("element %d does not end: a quote or bracket in it is never closed, or the array is cut short: %w", r.n+1, io.ErrUnexpectedEOF)
		} else if err != nil {
			return false, err
		}
		n, done := s.over(window)
		if keep && !tooLong {
			if len(r.text)+n > r.max {
				tooLong = true
				r.text = append(r.text, window[:min(n, max(0, 2*shownBytes-len(r.text)))]...)
				r.text = bytes.Clone(r.text[:min(len(r.text), 2*shownBytes)])
			} else {
				r.text = append(r.text, window[:n]...)
			}
		}
		r.skip(n)
		if done {
			return tooLong, nil
		}
	}
}

// window is what has been read and not yet gone over; at least a byte.
func (r *arrayReader) window() ([]byte, error) {
	if r.r.Buffered() == 0 {
		if _, err := r.r.Peek(1); err != nil {
			return nil, err
		}
	}
	return r.r.Peek(r.r.Buffered())
}

// skip goes over n bytes of the window.
func (r *arrayReader) skip(n int) {
	n, _ = r.r.Discard(n)
	r.offset += int64(n)
}

// skipSpace returns the next byte that is not space, which is not read yet.
func (r *arrayReader) skipSpace() (byte, error) {
	if r.offset == 0 {
		if b, err := r.r.Peek(len(bom)); err == nil && bytes.Equal(b, bom) {
			r.skip(len(bom))
		}
	}
	for {
		window, err := r.window()
		if err != nil {
			return 0, err
		}
		n := 0
		for n < len(window) && isSpace(window[n]) {
			n++
		}
		r.skip(n)
		if n < len(window) {
			return window[n], nil
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// valueScan finds where a JSON value ends, by its brackets and quotes alone.
type valueScan struct {
	depth                    int
	begun, quoted, backslash bool
}

// scalar reports whether a number or a name was begun.
func (s *valueScan) scalar() bool { return s.begun && s.depth == 0 && !s.quoted }

// over goes on through b: n bytes of it belong to the value, which is done then or
// goes on behind b.
func (s *valueScan) over(b []byte) (n int, done bool) {
	for i := 0; i < len(b); i++ {
		c := b[i]
		if s.quoted {
			switch {
			case s.backslash:
				s.backslash = false
			case c == '\\':
				s.backslash = true
			case c == '"':
				if s.quoted = false; s.depth == 0 {
					return i + 1, true
				}
			}
			continue
		}
		switch c {
		case '"':
			if s.scalar() {
				return i, true
			}
			s.quoted = true
		case '{', '[':
			if s.scalar() {
				return i, true
			}
			s.depth++
		case '}', ']':
			if s.depth == 0 {
				return i, true
			}
			if s.depth--; s.depth == 0 {
				return i + 1, true
			}
		case ',', ' ', '\t', '\n', '\r':
			if s.depth == 0 {
				return i, true
			}
		}
		s.begun = true
	}
	return len(b), false
}
