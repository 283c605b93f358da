package dataset

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// Lines come out whole whatever pieces they come in, and those over the limit
// do not disturb the next.
func TestLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOf(rapid.StringOfN(rapid.RuneFrom([]rune("ab\r ")), 0, 60, -1)).Draw(t, "lines")
		end := rapid.SampledFrom([]string{"", "\n"}).Draw(t, "end")
		text := strings.Join(texts, "\n")
		if len(texts) > 0 {
			text += end
		}
		var r io.Reader = strings.NewReader(text)
		if rapid.Bool().Draw(t, "byte by byte") {
			r = iotest.OneByteReader(r)
		}
		l := newLines(r)
		l.buf = make([]byte, rapid.IntRange(1, 40).Draw(t, "buffer"))
		l.max = rapid.IntRange(1, 50).Draw(t, "max")
		want := strings.SplitAfter(text, "\n")
		if l.cr = rapid.Bool().Draw(t, "CR"); l.cr {
			l.buf = make([]byte, max(len(l.buf), 2))
			want = append(regexp.MustCompile(`[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$`).FindAllString(text, -1), "")
		}
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		offset := 0
		for i, w := range want {
			offset += len(w)
			if w = strings.TrimSuffix(w, "\n"); l.cr && len(w) == len(want[i]) {
				w = strings.TrimSuffix(w, "\r")
			}
			got, tooLong, err := l.next()
			if err != nil || tooLong != (len(w) > l.max) {
				t.Fatalf("line %d of %q: got %q, too long %v, %v", i, text, got, tooLong, err)
			}
			if !tooLong && string(got) != w || tooLong && !strings.HasPrefix(w, string(got)) {
				t.Fatalf("line %d of %q: got %q, want %q", i, text, got, w)
			}
			if l.offset != int64(offset) || l.n != int64(i+1) {
				t.Fatalf("after line %d of %q: got offset %d, line %d, want %d, %d", i, text, l.offset, l.n, offset, i+1)
			}
		}
		if got, _, err := l.next(); err != io.EOF {
			t.Fatalf("after the last of %q: got %q, %v", text, got, err)
		}
	})
}

func TestObjectFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.MapOf(rapid.String(), genAny(3)).Draw(t, "object")
		raw, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "spaced") {
			var b bytes.Buffer
			if err := json.Indent(&b, raw, " ", "\t"); err != nil {
				t.Fatal(err)
			}
			raw = b.Bytes()
		}
		got := map[string]json.RawMessage{}
		eachField(raw, func(key, value []byte) { got[unquote(key)] = value })
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(fields) {
			t.Fatalf("%s: got %d fields, want %d", raw, len(got), len(fields))
		}
		for k, v := range fields {
			if !bytes.Equal(got[k], v) {
				t.Fatalf("%s: field %q: got %q, want %q", raw, k, got[k], v)
			}
		}
	})
}

func genAny(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch n := rapid.IntRange(0, 6).Draw(t, "kind"); {
		case n == 0:
			return nil
		case n == 1:
			return rapid.Bool().Draw(t, "bool")
		case n == 2:
			return rapid.Float64Range(-1e9, 1e9).Draw(t, "number")
		case n == 3 && depth > 0:
			return rapid.SliceOfN(genAny(depth-1), 0, 4).Draw(t, "list")
		case n == 4 && depth > 0:
			return rapid.MapOfN(rapid.String(), genAny(depth-1), 0, 4).Draw(t, "object")
		}
		return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{`\`, `"`, `\"`, `\\`, `{[`, `]},:`})).Draw(t, "string")
	})
}

// Whatever a file holds: each line that is not blank is one row, good or bad,
// Count agrees, and a good row is what encoding/json takes for an object.
func FuzzJSONL(f *testing.F) {
	for _, s := range []string{"", "{}\n{\"id\":1}", "\xef\xbb\xbf{}\r\n", "{\"id\":\"\\ud800\"}", "[]\n\n{", "{\"a\":{\"id\":1},\"id\":\"x\"}", "\x00\n\xff", " {\"id\" : -0.5e7 } \t\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := &jsonReader{lines: newLines(strings.NewReader(text)), c: io.NopCloser(nil)}
		passed := &jsonReader{lines: newLines(strings.NewReader(text)), c: io.NopCloser(nil)}
		rows := 0
		for {
			rec, err := r.next()
			if passErr := passed.pass(); passErr != err {
				t.Fatalf("%q: next says %v, pass %v", text, err, passErr)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			rows++
			var m map[string]json.RawMessage
			if good := json.Unmarshal(rec.text, &m) == nil && m != nil; good != (rec.err == nil) && bytes.Equal(bytes.ToValidUTF8(rec.text, nil), rec.text) {
				t.Fatalf("%q: got %v, encoding/json says good is %v", rec.text, rec.err, good)
			}
			if rec.err == nil {
				id, err := fieldID(rec.text, "id", false)
				if raw, ok := m["id"]; ok != (err == nil) && ok && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9') && len(raw) <= maxID {
					t.Fatalf("%q: got id %q, %v", rec.text, id, err)
				}
				renamed, err := rename(rec.text, map[string]string{"new": "id"})
				if _, ok := m["id"]; ok != (err == nil) {
					t.Fatalf("%q: rename: %v", rec.text, err)
				}
				if err == nil && !json.Valid(renamed) {
					t.Fatalf("%q: renamed to %q", rec.text, renamed)
				}
			} else if !json.Valid(shortened(rec.text).Raw()) {
				t.Fatalf("%q: shown as %s", rec.text, shortened(rec.text))
			}
		}
		blank := 0
		lines := strings.SplitAfter(strings.TrimPrefix(text, "\xef\xbb\xbf"), "\n")
		for _, l := range lines {
			if strings.Trim(l, " \t\r\n") == "" {
				blank++
			}
		}
		if rows != len(lines)-blank {
			t.Fatalf("%q: got %d rows, want %d", text, rows, len(lines)-blank)
		}
		if offset, _ := r.place(); offset != int64(len(text)) {
			t.Fatalf("%q: got end %d, want %d", text, offset, len(text))
		}
	})
}

// CSV: whatever the file holds, reading ends, and passing over agrees.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"a,b\n1,2\n", "a\n\"", "\"a\nb\",c\r\n1,\"2\"\"\"\r\n\r\n", "a\n\"x\"y\n\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := newCSV(newLines(strings.NewReader(text)), io.NopCloser(nil))
		passed, passErr := newCSV(newLines(strings.NewReader(text)), io.NopCloser(nil))
		if (err == nil) != (passErr == nil) {
			t.Fatalf("%q: %v, %v", text, err, passErr)
		}
		for err == nil {
			var rec record
			rec, err = r.next()
			if passErr := passed.pass(); passErr != err {
				t.Fatalf("%q: next says %v, pass %v", text, err, passErr)
			}
			if err == nil && rec.err == nil && !json.Valid(rec.text) {
				t.Fatalf("%q: got %q", text, rec.text)
			}
		}
	})
}

// Reading goes on between two lines and nowhere else, whether the reader can
// jump or not. The last line of a file may have got its end since.
func TestSeek(t *testing.T) {
	for text, want := range map[string]string{ // from offset 3 on; o: goes on; x: in the middle of a line; -: there is less
		"ab\ncd\n":      "oxoo-",
		"ab\r\ncd":      "ooxo-",
		"ab\rcd\r":      "oxoo-",
		"ab\n\ncd\ne\n": "ooxoooo-",
	} {
		for _, jump := range []bool{true, false} {
			got := ""
			for offset := 3; offset <= len(text)+1; offset++ {
				var r io.Reader = strings.NewReader(text)
				if !jump {
					r = iotest.OneByteReader(r)
				}
				l := newLines(r)
				switch err := l.seek(int64(offset), 1); err {
				case nil:
					got += "o"
					if rest, err := io.ReadAll(io.MultiReader(bytes.NewReader(l.buf[l.start:l.end]), r)); err != nil || string(rest) != text[offset:] {
						t.Errorf("%q at %d: got %q, %v", text, offset, rest, err)
					}
				case errTorn:
					got += "x"
				case io.EOF:
					got += "-"
				default:
					t.Errorf("%q at %d: got %v", text, offset, err)
				}
			}
			if got != want {
				t.Errorf("%q, jump %v: got %s, want %s", text, jump, got, want)
			}
		}
	}
}
