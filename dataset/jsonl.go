package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"matrix"
)

// jsonReader reads a JSON object a line. Blank lines are not rows.
type jsonReader struct {
	lines *lines
	c     io.Closer
}

func (r *jsonReader) place() (int64, int64) { return r.lines.offset, r.lines.n }
func (r *jsonReader) Close() error          { return r.c.Close() }

func (r *jsonReader) pass() error {
	_, _, _, err := r.line()
	return err
}

// line returns the next line that is not blank, without the space around it,
// and the number of bytes before it that it left out.
func (r *jsonReader) line() (text []byte, indent int, tooLong bool, err error) {
	for {
		line, tooLong, err := r.lines.next()
		if err != nil {
			return nil, 0, false, err
		}
		text := bytes.TrimLeft(line, " \t\r")
		if len(text) > 0 || tooLong {
			return bytes.TrimRight(text, " \t\r"), len(line) - len(text), tooLong, nil
		}
	}
}

func (r *jsonReader) next() (record, error) {
	text, indent, tooLong, err := r.line()
	if err != nil {
		return record{}, err
	}
	rec := record{line: r.lines.n, text: text}
	if tooLong {
		rec.err = fmt.Errorf("the line is longer than %d MiB", maxRecord>>20)
		return rec, nil
	}
	own := bytes.Clone(text)
	v, err := matrix.ParseValue(own)
	if err == nil && own[0] == '{' && utf8.Valid(own) {
		rec.text, rec.item = v.Raw(), v
		return rec, nil
	}
	if rec.err = checkObject(text, indent); rec.err == nil {
		rec.err = err
	}
	return rec, nil
}

// checkObject says what is wrong with text as a row; nil where it is a JSON
// object.
func checkObject(text []byte, indent int) error {
	if !utf8.Valid(text) {
		return notUTF8(text, indent)
	}
	if json.Valid(text) {
		if text[0] == '{' {
			return nil
		}
		return fmt.Errorf("a row must be a JSON object, and this is %s", kindOf(text))
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(text, new(json.RawMessage)); errors.As(err, &syntax) {
		at := max(int(syntax.Offset)-1, 0)
		return fmt.Errorf("not valid JSON at column %d: %w", columnAt(text, min(at, len(text)), indent), err)
	} else if err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	return errors.New("not valid JSON")
}

// notUTF8 says where text is not UTF-8.
func notUTF8(text []byte, indent int) error {
	at := 0
	for {
		r, n := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && n <= 1 {
			return fmt.Errorf("not valid UTF-8 at column %d (byte 0x%02x); if the file is Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW", columnAt(text, at, indent), text[at])
		}
		at += n
	}
}

// columnAt is the column, from 1 and in characters, of text[at].
func columnAt(text []byte, at, indent int) int {
	return indent + utf8.RuneCount(text[:at]) + 1
}

func kindOf(text []byte) string {
	switch text[0] {
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
