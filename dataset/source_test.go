package dataset_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	"matrix"
	"matrix/dataset"
	"matrix/matrixtest"
)

func writeFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return p
}

// zstdEncoder is one for all tests: to make one takes longer than what it packs here.
var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return e
})

// packed compresses text as the name's ending says.
func packed(t testing.TB, name, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch filepath.Ext(name) {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".zst":
		return string(zstdEncoder().EncodeAll([]byte(text), nil))
	default:
		return text
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func open(t testing.TB, o dataset.Options) *dataset.Source {
	t.Helper()
	s, err := dataset.Open(o)
	if err != nil {
		t.Fatalf("open %v: %v", o.Paths, err)
	}
	return s
}

func rowsOf(t testing.TB, s matrix.Source, from matrix.Position) []matrix.Row {
	t.Helper()
	rows, err := rowsAndError(t, s, from)
	if err != nil {
		t.Fatalf("rows from %+v: %v", from, err)
	}
	return rows
}

func rowsAndError(t testing.TB, s matrix.Source, from matrix.Position) ([]matrix.Row, error) {
	t.Helper()
	var rows []matrix.Row
	err := s.Rows(t.Context(), from, func(r matrix.Row) error {
		rows = append(rows, r)
		return nil
	})
	return rows, err
}

func jsonl(t testing.TB, rows []map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	for _, r := range rows {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(raw, '\n'))
	}
	return b.String()
}

func TestSourceSuite(t *testing.T) {
	t.Parallel()
	suite := func(name string, text func(t *testing.T, rows []map[string]string) string) {
		t.Run(name, func(t *testing.T) {
			matrixtest.Source(t, func(t *testing.T, rows []map[string]string) matrix.Source {
				if len(rows) == 0 { // bytes without rows are refused
					return open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), "rows.csv", "")}, IDField: "id"})
				}
				path := writeFile(t, t.TempDir(), name, packed(t, name, text(t, rows)))
				return open(t, dataset.Options{Paths: []string{path}, IDField: "id"})
			})
		})
	}
	for _, end := range []string{"", ".gz", ".zst"} {
		suite("rows.jsonl"+end, func(t *testing.T, rows []map[string]string) string { return jsonl(t, rows) })
		suite("rows.csv"+end, func(t *testing.T, rows []map[string]string) string {
			var b strings.Builder
			w := csv.NewWriter(&b)
			w.Write([]string{"id", "text"})
			for _, r := range rows {
				w.Write([]string{r["id"], r["text"]})
			}
			w.Flush()
			return b.String()
		})
	}
	suite("rows.parquet", func(t *testing.T, rows []map[string]string) string {
		type row struct {
			Text string `parquet:"text"`
			ID   string `parquet:"id"`
		}
		var b bytes.Buffer
		w := parquet.NewGenericWriter[row](&b)
		for i, r := range rows {
			if _, err := w.Write([]row{{r["text"], r["id"]}}); err != nil {
				t.Fatal(err)
			}
			if i%100 == 99 { // a row group
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	})
	t.Run("files", func(t *testing.T) {
		matrixtest.Source(t, func(t *testing.T, rows []map[string]string) matrix.Source {
			dir := t.TempDir()
			os.Mkdir(filepath.Join(dir, "b"), 0o777)
			third := len(rows) / 3
			writeFile(t, dir, "a.jsonl", jsonl(t, rows[:third]))
			writeFile(t, dir, "b/empty.jsonl", "\n\n")
			if len(rows) == 0 {
				return open(t, dataset.Options{Paths: []string{writeFile(t, dir, "a.jsonl", ""), writeFile(t, dir, "b/c.csv", "")}, IDField: "id"})
			}
			writeFile(t, dir, "b/m.jsonl.gz", packed(t, ".gz", jsonl(t, rows[third:2*third])))
			writeFile(t, dir, "b/n.jsonl.zst", packed(t, ".zst", jsonl(t, rows[2*third:])))
			return open(t, dataset.Options{Paths: []string{filepath.Join(dir, "a.jsonl"), filepath.Join(dir, "b", "*")}, IDField: "id"})
		})
	})
}

// show is a row in short, for tables: its line, its id, and its item or what
// is wrong with it.
func show(r matrix.Row) string {
	_, line, _ := strings.Cut(r.Address, ":")
	if r.Err != nil {
		return fmt.Sprintf("%s ! %v", line, strings.TrimPrefix(r.Err.Error(), r.Address+": "))
	}
	return fmt.Sprintf("%s %s %s", line, r.ID, r.Item)
}

func TestRowsOfOddFiles(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for _, test := range []struct {
		name, file, text string
		o                dataset.Options
		want             []string // a prefix of each
	}{
		{name: "empty", file: "a.jsonl"},
		{name: "no newline at the end", file: "a.jsonl", text: "{}\n{\"a\":1}", want: []string{"1  {}", `2  {"a":1}`}},
		{name: "byte order mark", file: "a.jsonl", text: "\xef\xbb\xbf{\"a\":1}\n{}", want: []string{`1  {"a":1}`, "2  {}"}},
		{name: "CR", file: "a.jsonl", text: "{}\r{\"a\":1}\r\r{\"b\":2}", want: []string{"1  {}", `2  {"a":1}`, `4  {"b":2}`}},
		{name: "CR between tokens", file: "a.jsonl", text: "{\"a\":\r1}\n{}\n", want: []string{"1  {\"a\":\r1}", "2  {}"}},
		{name: "CRLF", file: "a.jsonl", text: "{}\r\n\r\n{\"a\":1}\r\n", want: []string{"1  {}", `3  {"a":1}`}},
		{name: "verbatim", file: "a.jsonl", text: " \t{ \"b\" : 1.50,\"a\":\"\\u00e9\" } \n", want: []string{`1  { "b" : 1.50,"a":"\u00e9" }`}},
		{name: "malformed", file: "a.jsonl", text: "{\"a\":1}\n{\"a\":1,}\n{\"a\":\n{\"a\":1} x\n{}\n", want: []string{
			`1  {"a":1}`, "2 ! not valid JSON at column 8: invalid character '}'", "3 ! not valid JSON at column 5: unexpected end", "4 ! not valid JSON at column 9: invalid character 'x'", "5  {}",
		}},
		{name: "column in characters", file: "a.jsonl", text: "  {\"é駅\":x}", want: []string{"1 ! not valid JSON at column 9: invalid character 'x'"}},
		{name: "not an object", file: "a.jsonl", text: "[1]\n\"a\"\n7\ntrue\nnull\n{}", want: []string{
			"1 ! a row must be a JSON object, and this is an array", "2 ! a row must be a JSON object, and this is a string", "3 ! a row must be a JSON object, and this is a number",
			"4 ! a row must be a JSON object, and this is a boolean", "5 ! a row must be a JSON object, and this is null", "6  {}",
		}},
		{name: "one column with a semicolon in its name", file: "a.csv", text: "\"a;b\"\n1;2\n", want: []string{`2  {"a;b":"1;2"}`}},
		{name: "not UTF-8", file: "a.jsonl", text: "{\"a\":\"é\xff\"}\n{}", want: []string{"1 ! not valid UTF-8 at column 8 (byte 0xff); if the file is Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW", "2  {}"}},
		{name: "zero bytes", file: "a.jsonl", text: "\x00\x00\n{}", want: []string{"1 ! not valid JSON at column 1", "2  {}"}},
		{name: "duplicate keys", file: "a.jsonl", text: `{"id":"a","id":"b"}`, o: dataset.Options{IDField: "id"}, want: []string{`1 b {"id":"b"}`}},
		{name: "duplicate keys renamed", file: "a.jsonl", text: `{"a":1,"x":{"b":1,"b":2},"a":3}`, o: dataset.Options{Rename: map[string]string{"c": "a"}}, want: []string{`1  {"c":3,"x":{"b":2}}`}},
		{name: "half a surrogate pair", file: "a.jsonl", text: `{"a":"\ud83d<","b":1.50, "c":"\ud83d\ude00"}`, want: []string{`1  {"a":"�<","b":1.50,"c":"😀"}`}},
		{name: "numbers", file: "a.jsonl", text: `{"a":123456789012345678901234567890,"b":1e-400}` + "\n" + `{"a":[{"b":1},-1e400]}` + "\n" + `{"a":` + strings.Repeat("9", 400) + `}`, want: []string{
			`1  {"a":123456789012345678901234567890,"b":1e-400}`, `2 ! "a" has the number -1e400, which is beyond the range of 64-bit floats`,
			`3 ! "a" has the number 9999999999999999999999999999999999999999..., which is beyond`,
		}},
		{name: "ids", file: "a.jsonl", o: dataset.Options{IDField: "id"},
			text: `{"id":"a"}` + "\n" + `{"id":7}` + "\n" + `{"id": 12345678901234567890 }` + "\n" + `{"x":{"id":1},"id":"\u00e9\n"}` + "\n" + `{"i\u0064":-1.50}` + "\n" +
				`{"id":null}` + "\n" + `{"id":""}` + "\n" + `{"Id":1,"b":2}` + "\n" + `{"id":true}` + "\n" + `{"id":{}}` + "\n" + `{"id":"` + long + `"}` + "\n{}",
			want: []string{"1 a", "2 7 ", "3 12345678901234567890", "4 é\n ", "5 -1.50", `6 ! id: field "id" is null`, `7 ! id: field "id" is an empty string`,
				`8 ! id: the row has no field "id" (it has Id, b)`, `9 ! id: field "id" is a boolean`, `10 ! id: field "id" is an object`, `11 ! id: field "id" is 2000 bytes long, and an id has at most 1024`, `12 ! id: the row has no field "id"`}},
		{name: "rename", file: "a.jsonl", o: dataset.Options{Rename: map[string]string{"text": "body", "n": "a\"b"}, IDField: "text"},
			text: `{"body": "B","x": [1, 2],"a\"b":1}` + "\n" + `{"x":1}` + "\n" + `{"text":"old","a\u0022b":{},"body":"new"}`,
			want: []string{`1 B {"text":"B","x":[1, 2],"n":1}`, `2 ! rename: the row has no field "a\"b" (it has x)`, `3 new {"n":{},"text":"new"}`}},
		{name: "rename swaps", file: "a.jsonl", o: dataset.Options{Rename: map[string]string{"a": "b", "b": "a"}}, text: `{"a":1,"b":2}`, want: []string{`1  {"b":1,"a":2}`}},
		{name: "rename to two", file: "a.jsonl", o: dataset.Options{Rename: map[string]string{"x": "a", "y": "a"}}, text: `{"a":1}`, want: []string{`1  {"x":1,"y":1}`}},
		{name: "skip and limit", file: "a.jsonl", o: dataset.Options{Skip: 1, Limit: 3}, text: "{\"n\":0}\n\nbad\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}", want: []string{"3 !", `4  {"n":2}`, `5  {"n":3}`}},
		{name: "skip all", file: "a.jsonl", o: dataset.Options{Skip: 9}, text: "{}\n{}"},
		{name: "csv", file: "a.csv", o: dataset.Options{IDField: "id"}, text: "id,text\n1,\"a,\"\"b\"\"\"\r\n\n2,\n", want: []string{`2 1 {"id":"1","text":"a,\"b\""}`, `4 2 {"id":"2","text":""}`}},
		{name: "csv: empty", file: "a.csv"},
		{name: "csv: byte order mark", file: "a.csv", text: "\xef\xbb\xbf\"a\",b\n1,2", want: []string{`2  {"a":"1","b":"2"}`}},
		{name: "csv: newlines in quotes", file: "a.csv", text: "a,\"b\nc\"\n\"1\n\n2\r\n3\",x\n4,y\n", want: []string{`3  {"a":"1\n\n2\r\n3","b\nc":"x"}`, `7  {"a":"4","b\nc":"y"}`}},
		{name: "csv: fields", file: "a.csv", text: "a,b\n1\n1,2,3\n1,2\n", want: []string{"2 ! the record has 1 fields, and the header has 2", "3 ! the record has 3 fields", `4  {"a":"1","b":"2"}`}},
		{name: "csv: quotes", file: "a.csv", text: "a,b\n5\" wide,\"x\"y\n1,2\n\"open\n3,4\n", want: []string{
			`2 ! line 2: text after a closing quote at column 12`, `3  {"a":"1","b":"2"}`, `4 ! a quote is never closed: the record goes on to the end of the file, line 5`,
		}},
		{name: "csv: quote in a bare field", file: "a.csv", text: "a\n5\" wide\n", want: []string{`2  {"a":"5\" wide"}`}},
		{name: "csv: not UTF-8", file: "a.csv", text: "a,b\n1,caf\xe9\nb,c", want: []string{`2 ! field "b" is not valid UTF-8 at column 4 (byte 0xe9); if the file is Latin-1 or Windows-1252, convert it: iconv`, `3  {"a":"b","b":"c"}`}},
		{name: "csv: CR", file: "a.csv", o: dataset.Options{IDField: "id"}, text: "id,text\rr1,one\rr2,two\r", want: []string{`2 r1 {"id":"r1","text":"one"}`, `3 r2 {"id":"r2","text":"two"}`}},
		{name: "csv: CR and no end", file: "a.csv", text: "a\r\"x\"\r\r\"y\rz\"", want: []string{`2  {"a":"x"}`, `4  {"a":"y\rz"}`}},
		{name: "csv: mixed ends", file: "a.csv", text: "text\none\rtwo\rthree\r\nfour\n\rfive\n", want: []string{`2  {"text":"one"}`, `3  {"text":"two"}`, `4  {"text":"three"}`, `5  {"text":"four"}`, `7  {"text":"five"}`}},
		{name: "csv: CR in quotes", file: "a.csv", text: "a,b\n\"1\r2\r\n3\",x\n4,5\n", want: []string{`2  {"a":"1\r2\r\n3","b":"x"}`, `5  {"a":"4","b":"5"}`}},
		{name: "csv: a bad quote in a field of lines", file: "a.csv", text: "id,text\nr1,\"He said \"hi\" to\nfoo,and then\nbar,left\"\nr2,ok\n", want: []string{"2 ! line 2: text after a closing quote at column 14: write a quote within a field as \"\"; the record is taken to end with line 4", `5  {"id":"r2","text":"ok"}`}},
		{name: "csv: a bad quote and a comma", file: "a.csv", text: "id,text\nr1,\"He said \"hi\", ok\" to\nfoo,and then\nbar,left\"\nr2,ok\n", want: []string{"2 ! line 2: text after a closing quote at column 14: write a quote within a field as \"\"; the record is taken to end with line 4", `5  {"id":"r2","text":"ok"}`}},
		{name: "csv: a bad quote on one line", file: "a.csv", text: "id,text\nr1,\"He said \"hi\" to\"\nr2,\"ok\"\n", want: []string{"2 ! line 2: text after a closing quote at column 14: write a quote within a field as \"\"", `3  {"id":"r2","text":"ok"}`}},
		{name: "csv: a bad quote and no other", file: "a.csv", text: "id,text\nr1,\"a\" b\nr2,ok\nr3,ok\n", want: []string{"2 ! line 2: text after a closing quote", `3  {"id":"r2","text":"ok"}`, `4  {"id":"r3","text":"ok"}`}},
		{name: "content says lines", file: "data.txt", text: "\n {\"a\":1}\n", want: []string{`2  {"a":1}`}},
		{name: "content says gzip", file: "data", text: packed(t, ".gz", "{}\n{}"), want: []string{"1  {}", "2  {}"}},
		{name: "content says zstd", file: "data.bin", text: packed(t, ".zst", "{}"), want: []string{"1  {}"}},
		{name: "gzip under another name", file: "a.jsonl", text: packed(t, ".gz", "{\"a\":1}\n"), want: []string{`1  {"a":1}`}},
		{name: "zstd under the name of gzip", file: "a.csv.gz", text: packed(t, ".zst", "a\n1\n"), want: []string{`2  {"a":"1"}`}},
		{name: "plain under the name of gzip", file: "a.jsonl.gz", text: "{\"a\":1}\n", want: []string{`1  {"a":1}`}},
		{name: "frames", file: "a.jsonl.zst", text: packed(t, ".zst", "{}\n{\"a\"") + packed(t, ".zst", ":1}\n"), want: []string{"1  {}", `2  {"a":1}`}},
		{name: "members", file: "a.jsonl.gz", text: packed(t, ".gz", "{}\n{\"a\"") + packed(t, ".gz", ":1}\n"), want: []string{"1  {}", `2  {"a":1}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := test.o
			o.Paths = []string{writeFile(t, t.TempDir(), test.file, test.text)}
			s := open(t, o)
			rows := rowsOf(t, s, matrix.Position{})
			var got []string
			for i, r := range rows {
				got = append(got, show(r))
				if r.Number != int64(i) || r.Next.Row != int64(i)+1 {
					t.Errorf("row %d has number %d, next %+v", i, r.Number, r.Next)
				}
				if (r.Err != nil) && (r.ID != "" || !json.Valid(r.Item.Raw()) || r.Item.Raw()[0] != '"') {
					t.Errorf("row %d: got id %q and item %s with an error, want the text as a string", i, r.ID, r.Item)
				}
			}
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			if n, err := s.Count(t.Context()); err != nil || n != int64(len(rows)) {
				t.Errorf("Count: got %d, %v, want %d", n, err, len(rows))
			}
			for i, r := range rows {
				rest := rowsOf(t, s, r.Next)
				for j, q := range rest {
					if w := rows[i+1+j]; show(q) != show(w) || q.Next != w.Next {
						t.Errorf("after row %d: got %q, next %+v, want %q, next %+v", i, show(q), q.Next, show(w), w.Next)
					}
				}
				if len(rest) != len(rows)-i-1 {
					t.Errorf("after row %d: got %d rows, want %d", i, len(rest), len(rows)-i-1)
				}
			}
		})
	}
}

func TestExpressions(t *testing.T) {
	get := func(field string) func(*matrix.Task) (any, error) {
		return func(t *matrix.Task) (any, error) {
			x, ok := t.Item.Any().(map[string]any)[field]
			if !ok {
				return nil, errors.New("no " + field)
			}
			return x, nil
		}
	}
	even := func(t *matrix.Task) (bool, error) {
		n, err := get("n")(t)
		if err != nil {
			return false, err
		}
		return n.(int)%2 == 0, nil
	}
	text := "{\"n\":0}\n{\"n\":1}\n{\"x\":1}\nbad\n{\"n\":2}\n{\"n\":4,\"id\":[]}\n{\"n\":6,\"id\":1e3}\n{\"n\":7}\n{\"n\":8,\"id\":2.5}"
	path := writeFile(t, t.TempDir(), "a.jsonl", text)
	for _, test := range []struct {
		name string
		o    dataset.Options
		want []string
	}{
		{"where", dataset.Options{Where: even}, []string{"1  ", "3 ! where: no n", "4 ! not valid", "5  ", "6  ", "7  ", "9  "}},
		{"skip and limit after where", dataset.Options{Where: even, Skip: 2, Limit: 2}, []string{"4 ! not valid", "5  "}},
		{"id", dataset.Options{ID: get("id"), Where: even, Skip: 3}, []string{"5 ! id: no id", "6 ! id: the expression gives []interface", "7 1000 ", "9 2.5 "}},
		{"renamed before", dataset.Options{Rename: map[string]string{"m": "n"}, ID: get("m"), Limit: 3}, []string{"1 0 ", "2 1 ", "3 ! rename: the row has no field \"n\""}},
	} {
		test.o.Paths = []string{path}
		s := open(t, test.o)
		rows := rowsOf(t, s, matrix.Position{})
		var got []string
		for _, r := range rows {
			got = append(got, show(r))
		}
		if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if n, err := s.Count(t.Context()); err != nil || n != int64(len(test.want)) {
			t.Errorf("%s: Count: got %d, %v, want %d", test.name, n, err, len(test.want))
		}
		for i, r := range rows {
			if rest := rowsOf(t, s, r.Next); len(rest) != len(rows)-i-1 || len(rest) > 0 && show(rest[0]) != show(rows[i+1]) {
				t.Errorf("%s: after row %d: got %d rows, want %d", test.name, i, len(rest), len(rows)-i-1)
			}
		}
	}
}

// A row of which the priority cannot be told fails as it is, under the id that it has
// whatever the priority.
func TestPriority(t *testing.T) {
	path := writeFile(t, t.TempDir(), "a.jsonl", "{\"id\":1}\n{\"id\":2}\nbad\n")
	of := func(t *matrix.Task) (matrix.Priority, error) {
		if string(t.Item.Raw()) == `{"id":2}` {
			return matrix.Urgent, errors.New("no level")
		}
		return matrix.Bulk, nil
	}
	for _, test := range []struct {
		name string
		o    dataset.Options
		want []string
	}{
		{"none", dataset.Options{}, []string{`1 {"id":1} normal <nil>`, `2 {"id":2} normal <nil>`, ` "bad" normal not valid JSON`}},
		{"one for all", dataset.Options{Priority: matrix.Urgent}, []string{`1 {"id":1} urgent <nil>`, `2 {"id":2} urgent <nil>`, ` "bad" urgent not valid`}},
		{"computed", dataset.Options{PriorityOf: of}, []string{`1 {"id":1} bulk <nil>`, `2 {"id":2} normal priority: no level`, ` "bad" normal not valid`}},
	} {
		test.o.Paths, test.o.IDField = []string{path}, "id"
		var got []string
		for _, r := range rowsOf(t, open(t, test.o), matrix.Position{}) {
			got = append(got, fmt.Sprint(r.ID, " ", r.Item, " ", r.Priority, " ", r.Err))
		}
		if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestLargeLines(t *testing.T) {
	mib := strings.Repeat("0123456789abcdef", 1<<16)
	huge := strings.Repeat(mib, 66)
	text := `{"id":1}` + "\n" + `{"id":2,"text":"` + strings.Repeat(mib, 20) + `"}` + "\n" + `{"id":3,"text":"` + huge + `"}` + "\n{\"id\":4}\n" + huge
	for _, name := range []string{"a.jsonl", "a.jsonl.zst"} {
		s := open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), name, packed(t, name, text))}, IDField: "id"})
		rows := rowsOf(t, s, matrix.Position{})
		if len(rows) != 5 {
			t.Fatalf("%s: got %d rows, want 5", name, len(rows))
		}
		if r := rows[1]; r.Err != nil || r.ID != "2" || len(r.Item.Raw()) < 20<<20 {
			t.Errorf("%s: row of 20 MiB: got id %q, %d bytes, %v", name, r.ID, len(r.Item.Raw()), r.Err)
		}
		for _, i := range []int{2, 4} {
			r := rows[i]
			if r.Err == nil || !strings.Contains(r.Err.Error(), "longer than 64 MiB") || len(r.Item.Raw()) > 4<<10+100 {
				t.Errorf("%s: row of 66 MiB: got %d bytes, %v", name, len(r.Item.Raw()), r.Err)
			}
		}
		if rows[3].ID != "4" || rows[4].Next.Offset != int64(len(text)) {
			t.Errorf("%s: after it: got %q, end at %d, want 4, %d", name, rows[3].ID, rows[4].Next.Offset, len(text))
		}
		if n, err := s.Count(t.Context()); err != nil || n != 5 {
			t.Errorf("%s: Count: got %d, %v, want 5", name, n, err)
		}
	}
}

func TestBadRowIsShortened(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 5000), strings.Repeat("駅", 2000), strings.Repeat("\xff", 5000), strings.Repeat("\"", 4096)} {
		s := open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), "a.jsonl", text)}})
		r := rowsOf(t, s, matrix.Position{})[0]
		var item string
		if err := json.Unmarshal(r.Item.Raw(), &item); err != nil || r.Err == nil {
			t.Fatalf("got %s, %v, %v", r.Item, r.Err, err)
		}
		if cut := len(text) > 4096; strings.HasSuffix(item, "…") != cut {
			t.Errorf("got %d bytes that end in %q, want them cut: %v", len(item), item[len(item)-3:], cut)
		}
		if !strings.HasPrefix(text, strings.TrimRight(item, "…\ufffd")) {
			t.Errorf("got %.20q, want the beginning of %.20q", item, text)
		}
	}
}

func TestTruncatedCompressedFiles(t *testing.T) {
	var b strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&b, "{\"id\":%d,\"text\":\"%x\"}\n", i, i*7919)
	}
	for _, name := range []string{"rows.jsonl.gz", "rows.jsonl.zst"} {
		whole := packed(t, name, b.String())
		path := writeFile(t, t.TempDir(), name, whole[:len(whole)*2/3])
		s := open(t, dataset.Options{Paths: []string{path}, IDField: "id"})
		rows, err := rowsAndError(t, s, matrix.Position{})
		if len(rows) < 10_000 || len(rows) >= 50_000 {
			t.Errorf("%s: got %d rows, want about 2 of 3", name, len(rows))
		}
		for i, r := range rows {
			if r.Err != nil || r.ID != fmt.Sprint(i) {
				t.Fatalf("%s: row %d: got %q, %v", name, i, r.ID, r.Err)
			}
		}
		want := fmt.Sprintf("%s: reading broke off after line %d, byte %d uncompressed: the file is cut short", path, len(rows), rows[len(rows)-1].Next.Offset)
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		if n, err := s.Count(t.Context()); err == nil {
			t.Errorf("%s: Count: got %d and no error", name, n)
		}
		// With the whole file back, reading goes on where it broke off.
		writeFile(t, filepath.Dir(path), name, whole)
		rest := rowsOf(t, s, rows[len(rows)-1].Next)
		if len(rows)+len(rest) != 50_000 || rest[0].ID != fmt.Sprint(len(rows)) {
			t.Errorf("%s: got %d rows, then %d from %q", name, len(rows), len(rest), rest[0].ID)
		}
		// Cut before the first byte that could be unpacked.
		writeFile(t, filepath.Dir(path), name, whole[:3])
		if _, err := dataset.Open(dataset.Options{Paths: []string{path}}); err == nil {
			_, err = rowsAndError(t, s, matrix.Position{})
			if err == nil {
				t.Errorf("%s: of 3 bytes: got no error", name)
			}
		}
	}
}

func TestShrunkFiles(t *testing.T) {
	for _, name := range []string{"a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.zst"} {
		text := "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n"
		dir := t.TempDir()
		path := writeFile(t, dir, name, packed(t, name, text))
		s := open(t, dataset.Options{Paths: []string{path}})
		rows := rowsOf(t, s, matrix.Position{})
		writeFile(t, dir, name, packed(t, name, text[:12]))
		_, err := rowsAndError(t, s, rows[len(rows)-1].Next)
		if err == nil || !strings.Contains(err.Error(), path+" has 12 bytes, and 27 were read before: the file has changed") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	path := writeFile(t, t.TempDir(), "a.jsonl", "{}\n")
	s := open(t, dataset.Options{Paths: []string{path}})
	if _, err := rowsAndError(t, s, matrix.Position{File: 2}); err == nil || !strings.Contains(err.Error(), "the dataset has changed") {
		t.Errorf("position in file 3 of 1: got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := rowsAndError(t, s, matrix.Position{}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("removed file: got %v", err)
	}
}

// Errors leave to others what they know better: an error of a row does not say
// where the row stands, and one of the dataset not that it is the dataset's.
func TestErrorsSayThingsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte("{\"q\": 1}\n{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := dataset.Open(dataset.Options{Paths: []string{path}, IDField: "id"})
	if err != nil {
		t.Fatal(err)
	}
	err = src.Rows(t.Context(), matrix.Position{}, func(r matrix.Row) error {
		if r.Err == nil || strings.Contains(r.Err.Error(), "rows.jsonl") || r.Address == "" {
			t.Errorf("row at %s: got %v", r.Address, r.Err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := dataset.Open(dataset.Options{Paths: []string{path + "x"}}); err == nil || strings.Contains(err.Error(), "dataset") {
		t.Errorf("got %v", err)
	}
}
