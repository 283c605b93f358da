package dataset_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/dataset"
)

const (
	pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
	page    = "<!DOCTYPE html><html><body>Sign in</body></html>\n"
)

// wide is text in UTF-16, little end first; no character is beyond U+00FF.
func wide(text string) string {
	var b strings.Builder
	for _, c := range text {
		b.WriteByte(byte(c))
		b.WriteByte(0)
	}
	return b.String()
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"questions.jsonl": "{}", "answers.csv": "a,b\n", "README.rst": "# hello", "README.md": "# hello", "array.json": " [\n ] ", "page.warc": page, "text.wet": "a text", "paper.pdf": "%PDF-1.7", "paper.txt": "%PDF-1.7",
		"info.warc": warcRecord("warcinfo", "application/warc-fields", "", "software: test\r\n"), "twice.csv": "a,b,a\n",
		"unnamed.csv": ",x,\n", "open.csv": "a,\"b\n", "latin.csv": "\xe9,b\n", "not.jsonl.gz": "\x01\x02\x03 and so on", "empty.jsonl.gz": "", "not.parquet": "PAR1 but no more", "short.parquet": "",
		"empty.csv.zst": "", "nothing.jsonl.gz": packed(t, ".gz", ""), "blank.jsonl": "\n  \n\r\n\t", "mark.jsonl": "\xef\xbb\xbf", "header.csv": "a,b\r\n",
		"utf16.jsonl": "\xff\xfe" + wide("{\"id\":\"a\"}\n"), "utf16le.csv": wide("id,text\nr1,caf\u00e9\n"), "utf16be.csv": "\x00" + strings.TrimSuffix(wide("id,text\nr1,caf\u00e9\n"), "\x00"), "utf16.jsonl.gz": packed(t, ".gz", "\xff\xfe"+wide("{}\n")),
		"pointer.csv": pointer, "pointer.jsonl": pointer, "pointer.jsonl.zst": pointer, "pointer.parquet": pointer,
		"page.csv": page, "page.jsonl": " \n" + page, "page.parquet": page, "page.csv.gz": packed(t, ".gz", page), "rows.csv": "PK\x03\x04\x14\x00", "rows.jsonl": "\xfd7zXZ\x00\x00",
		"semi.csv": "id;text\n1;\"a, b\"\n", "tabs.csv": "id\ttext\n1\ta\n", "tabs.tsv": "id\ttext\n1\ta\n", "excel.csv": "sep=;\r\nid;text\r\n1;a\r\n",
		"answer.yaml": "a: 1", "p.parquet.gz": packed(t, ".gz", "x"), "sub/one.jsonl": "{}", "parts/a.csv.gz": packed(t, ".gz", "a\n"),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, name, text)
	}
	if err := os.MkdirAll(filepath.Join(dir, "void", "deep"), 0o777); err != nil {
		t.Fatal(err)
	}
	p := func(names ...string) []string {
		for i, n := range names {
			if n != "" {
				names[i] = filepath.Join(dir, n)
			}
		}
		return names
	}
	for _, test := range []struct {
		name  string
		paths []string
		want  string
	}{
		{"none", nil, "no path is given"},
		{"empty", p(""), "a path is empty"},
		{"folder", p("sub"), "sub is a folder: did you mean DIR/sub/*.jsonl?"},
		{"folder of csv", p("parts"), "did you mean DIR/parts/*.csv.gz?"},
		{"missing", p("question.jsonl"), "DIR/question.jsonl: no such file; did you mean DIR/questions.jsonl?"},
		{"other ending", p("answers.jsonl"), "did you mean DIR/answers.csv?"},
		{"other compression", p("questions.jsonl.zst"), "did you mean DIR/questions.jsonl?"},
		{"nothing near", p("elsewhere.jsonl"), "DIR/elsewhere.jsonl: no such file"},
		{"missing folder", p("sup/one.jsonl"), "there is no folder DIR/sup; did you mean DIR/sub/one.jsonl?"},
		{"deep missing folder", p("x/y/z/one.jsonl"), "there is no folder DIR/x"},
		{"below a file", p("README.md/one.jsonl"), "README.md/one.jsonl"},
		{"glob", p("*.jsonlines"), "DIR/*.jsonlines matches no file: the folder DIR holds "},
		{"glob in an empty folder", p("void/*.jsonl"), "holds no files"},
		{"glob in no folder", p("nowhere/*.jsonl"), "there is no folder DIR/nowhere"},
		{"glob of folders", p("v*"), "matches folders alone: did you mean DIR/v*/*?"},
		{"glob that is wrong", p("[.jsonl"), "syntax error in pattern"},
		{"double star", p("**/*.jsonl"), "** is not supported"},
		{"twice", p("questions.jsonl", "*.jsonl"), "questions.jsonl is named twice"},
		{"unknown", p("README.rst"), "does not say what kind of file it is; rename it to end in one of .jsonl"},
		{"empty array", p("array.json"), "there is no row in DIR/array.json: the array is empty"},
		{"not an archive", p("page.warc"), "page.warc is a web page"},
		{"text as archive", p("text.wet"), "text.wet is no web archive: it does not begin with WARC/"},
		{"no document in an archive", p("info.warc"), "there is no row in DIR/info.warc: none of its records is a text or a page"},
		{"PDF", p("paper.pdf"), "paper.pdf is a PDF: take its text out: pdftotext -layout FILE FILE.txt"},
		{"PDF as text", p("paper.txt"), "paper.txt is a PDF"},
		{"semicolons", p("semi.csv"), "semi.csv: header: semicolons separate the fields, and commas should: save it as CSV with commas, or convert it: python3 -c"},
		{"tabs", p("tabs.csv"), "tabs.csv: header: tabs separate the fields"},
		{"tabs by name", p("tabs.tsv"), "tabs.tsv: tabs separate the fields"},
		{"a line of Excel's", p("excel.csv"), "excel.csv: header: the first line is one of Excel's, not the header: delete it"},
		{"near, and no data", p("answer.csv"), "did you mean DIR/answers.csv?"},
		{"duplicate column", p("twice.csv"), `columns 1 and 3 are both named "a"`},
		{"two columns of no name", p("unnamed.csv"), `columns 1 and 3 are both named ""`},
		{"open header", p("open.csv"), "open.csv: header: a quote is never closed"},
		{"header not UTF-8", p("latin.csv"), "the name of column 1 is not valid UTF-8"},
		{"not gzip", p("not.jsonl.gz"), "not.jsonl.gz is neither text nor compressed as its name says"},
		{"empty gzip", p("empty.jsonl.gz"), "empty.jsonl.gz has no bytes: the file is not whole"},
		{"empty zstd", p("empty.csv.zst"), "empty.csv.zst has no bytes: the file is not whole"},
		{"gzip of nothing", p("nothing.jsonl.gz"), "there is no row in DIR/nothing.jsonl.gz: no line in it holds anything"},
		{"blank lines", p("blank.jsonl"), "there is no row in DIR/blank.jsonl: no line in it holds anything"},
		{"a byte order mark alone", p("mark.jsonl"), "there is no row in DIR/mark.jsonl"},
		{"header alone", p("header.csv"), "there is no row in DIR/header.csv: there is no record after the header"},
		{"no row in any", p("header.csv", "blank.jsonl"), "there is no row in any of the 2 files, such as DIR/blank.jsonl"},
		{"UTF-16", p("utf16.jsonl"), "utf16.jsonl is text in UTF-16: convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"},
		{"UTF-16 without a mark", p("utf16le.csv"), "is text in UTF-16LE: convert it: iconv -f UTF-16LE"},
		{"UTF-16, the other order", p("utf16be.csv"), "is text in UTF-16BE"},
		{"UTF-16 within gzip", p("utf16.jsonl.gz"), "is text in UTF-16:"},
		{"Git LFS, CSV", p("pointer.csv"), "pointer.csv is a pointer of Git LFS, not the file itself: fetch it: git lfs pull"},
		{"Git LFS, JSON Lines", p("pointer.jsonl"), "is a pointer of Git LFS"},
		{"Git LFS, compressed", p("pointer.jsonl.zst"), "is a pointer of Git LFS"},
		{"Git LFS, Parquet", p("pointer.parquet"), "is a pointer of Git LFS"},
		{"web page, CSV", p("page.csv"), "page.csv is a web page"},
		{"web page, JSON Lines", p("page.jsonl"), "is a web page"},
		{"web page, Parquet", p("page.parquet"), "is a web page"},
		{"web page, compressed", p("page.csv.gz"), "is a web page"},
		{"zip", p("rows.csv"), "rows.csv is a zip archive or a workbook of Excel"},
		{"xz", p("rows.jsonl"), "is compressed with xz: unpack it: unxz FILE"},
		{"not parquet", p("not.parquet"), "not a whole Parquet file"},
		{"empty parquet", p("short.parquet"), "short.parquet has no bytes: the file is not whole"},
		{"packed parquet", p("p.parquet.gz"), "decompress the file itself"},
		{"device", []string{os.DevNull}, "is not a regular file"},
	} {
		_, err := dataset.Open(dataset.Options{Paths: test.paths})
		want := strings.ReplaceAll(test.want, "DIR", dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", test.name, err, want)
		}
	}
	_, err := dataset.Open(dataset.Options{Paths: p("elsewhere.jsonl")})
	if err != nil && strings.Contains(err.Error(), "did you mean") {
		t.Errorf("nothing near: got %v", err)
	}
	for _, o := range []dataset.Options{{Skip: -1}, {Limit: -1}, {IDField: "a", ID: func(*matrix.Task) (any, error) { return nil, nil }}} {
		o.Paths = p("questions.jsonl")
		if _, err := dataset.Open(o); err == nil {
			t.Errorf("%+v: got no error", o)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root can read every file")
	}
	path := writeFile(t, t.TempDir(), "a.jsonl", "{}")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err := dataset.Open(dataset.Options{Paths: []string{path}})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path+": no permission to read it") {
		t.Errorf("got %v, want no permission", err)
	}
}

func TestFilesAndAddresses(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b/2.jsonl", "b/10.jsonl", "a/x.jsonl", "odd[1].jsonl"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, name, "{}\n")
	}
	for _, test := range []struct{ paths, want []string }{
		{[]string{"b/2.jsonl"}, []string{"2.jsonl:1"}},
		{[]string{"b/*.jsonl"}, []string{"10.jsonl:1", "2.jsonl:1"}},
		{[]string{"b/2.jsonl", "b/10.jsonl"}, []string{"2.jsonl:1", "10.jsonl:1"}},
		{[]string{"*/*.jsonl"}, []string{"a/x.jsonl:1", "b/10.jsonl:1", "b/2.jsonl:1"}},
		{[]string{"odd[1].jsonl", "b/2.jsonl"}, []string{"odd[1].jsonl:1", "b/2.jsonl:1"}},
	} {
		var o dataset.Options
		for _, p := range test.paths {
			o.Paths = append(o.Paths, filepath.Join(dir, p))
		}
		s := open(t, o)
		var got []string
		for _, r := range rowsOf(t, s, matrix.Position{}) {
			got = append(got, r.Address)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.paths, got, test.want)
		}
		if len(s.Files()) != len(test.want) {
			t.Errorf("%v: got files %v", test.paths, s.Files())
		}
	}
	t.Chdir(dir)
	if got := rowsOf(t, open(t, dataset.Options{Paths: []string{"b/2.jsonl", "./a/x.jsonl"}}), matrix.Position{}); got[0].Address != "b/2.jsonl:1" || got[1].Address != "a/x.jsonl:1" {
		t.Errorf("relative paths: got %v and %v", got[0].Address, got[1].Address)
	}
}

func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	base := bytes.Repeat([]byte("{\"a\":1}\n"), 40_000)
	path := writeFile(t, dir, "a.jsonl", string(base))
	other := writeFile(t, dir, "b.jsonl", "{}")
	fingerprint := func() string {
		s, err := open(t, dataset.Options{Paths: []string{path, other}}).Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := fingerprint()
	lines := strings.Split(first, "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "a.jsonl 320000 ") || !strings.HasPrefix(lines[1], "b.jsonl 2 ") {
		t.Errorf("got %q, want a line a file with name and size", first)
	}
	for name, change := range map[string]func([]byte) []byte{
		"appended":  func(b []byte) []byte { return append(b, '\n') },
		"shortened": func(b []byte) []byte { return b[:len(b)-1] },
		"head":      func(b []byte) []byte { b[5] = '2'; return b },
		"tail":      func(b []byte) []byte { b[len(b)-3] = '2'; return b },
	} {
		writeFile(t, dir, "a.jsonl", string(change(bytes.Clone(base))))
		if got := fingerprint(); got == first {
			t.Errorf("%s: the fingerprint is the same", name)
		}
	}
	writeFile(t, dir, "a.jsonl", string(base))
	if got := fingerprint(); got != first {
		t.Errorf("restored: got %q, want %q", got, first)
	}
}

// Rows that were appended, to the last file or in new ones behind it, are told
// from all else that may become of a dataset.
func TestExtends(t *testing.T) {
	base := strings.Repeat("{\"a\":1}\n", 40_000)
	for name, c := range map[string]struct {
		change func(dir string) []string // returns the paths
		want   bool
	}{
		"as it was":           {func(dir string) []string { return nil }, true},
		"appended":            {func(dir string) []string { writeFile(t, dir, "b.jsonl", base+"{}\n"); return nil }, true},
		"a file more":         {func(dir string) []string { return []string{"a.jsonl", "b.jsonl", writeFile(t, dir, "c.jsonl", "{}")} }, true},
		"a file before":       {func(dir string) []string { return []string{writeFile(t, dir, "0.jsonl", "{}"), "a.jsonl", "b.jsonl"} }, false},
		"a file less":         {func(dir string) []string { return []string{"a.jsonl"} }, false},
		"appended to another": {func(dir string) []string { writeFile(t, dir, "a.jsonl", base+"{}\n"); return nil }, false},
		"put before":          {func(dir string) []string { writeFile(t, dir, "b.jsonl", "{}\n"+base); return nil }, false},
		"shortened":           {func(dir string) []string { writeFile(t, dir, "b.jsonl", base[:len(base)-8]); return nil }, false},
		"other ends":          {func(dir string) []string { writeFile(t, dir, "b.jsonl", base[:len(base)-3]+"2}\n{}\n"); return nil }, false},
	} {
		dir := t.TempDir()
		t.Chdir(dir)
		writeFile(t, dir, "a.jsonl", base)
		writeFile(t, dir, "b.jsonl", base)
		paths := []string{"a.jsonl", "b.jsonl"}
		was, err := open(t, dataset.Options{Paths: paths}).Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		if other := c.change(dir); other != nil {
			paths = other
		}
		if got, err := open(t, dataset.Options{Paths: paths}).Extends(was); err != nil || got != c.want {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, c.want)
		}
	}
}

// A Parquet file is written anew for every row that it gets: its rows are not known
// to be the same, whether its first row groups are or not, and are read on behind
// those that were read.
func TestExtendsParquet(t *testing.T) {
	type row struct {
		ID int64 `parquet:"id"`
	}
	rows := make([]row, 60_000)
	for i := range rows {
		rows[i].ID = int64(i) * 0x9e3779b97f4a7c1 // so that it does not compress
	}
	for _, n := range []int{3, 20_000} { // smaller and larger than a fingerprint's samples
		path := writeParquet(t, rows[:n], n)
		was, err := open(t, dataset.Options{Paths: []string{path}}).Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		for name, group := range map[string]int{"a row group more": n, "other row groups": 3 * n} {
			more := writeParquet(t, rows[:2*n], group)
			got, err := open(t, dataset.Options{Paths: []string{more}}).Extends(was)
			if err != nil || got {
				t.Errorf("%d rows, %s: got %v, %v, want that it has changed", n, name, got, err)
			}
		}
	}
}

// Rows that were appended on the line of the last row are refused, in each kind of
// file that can be appended to.
func TestExtendsLastLine(t *testing.T) {
	text := func(s string) string { return s }
	gz := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write([]byte(s))
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		file, was, more string
		write           func(string) string
		want            string // the error; empty where rows were appended
	}{
		"JSON":                 {"a.jsonl", "{}\n{}", "{}\n", text, "a.jsonl:2: "},
		"a completed line":     {"a.jsonl", "{}\n{\"a\":", "1}\n", text, "a.jsonl:2: "},
		"CSV":                  {"a.csv", "a\n1\n2", "3\n", text, "a.csv:3: "},
		"gzip":                 {"a.jsonl.gz", "{}\n{}", "{}\n", gz, "a.jsonl.gz:2: "},
		"a line end before it": {"a.jsonl", "{}\n{}", "\n{}\n", text, ""},
		"gzip, with line ends": {"a.jsonl.gz", "{}\n", "{}\n", gz, ""},
		"a line end, in gzip":  {"a.csv.gz", "a\n1", "\r\n2\n", gz, ""},
		"nothing before":       {"a.jsonl", "", "{}\n", text, ""},
	} {
		path := writeFile(t, t.TempDir(), c.file, c.write(c.was))
		was, err := open(t, dataset.Options{Paths: []string{path}}).Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Dir(path), c.file, c.write(c.was)+c.write(c.more))
		got, err := open(t, dataset.Options{Paths: []string{path}}).Extends(was)
		if got != (c.want == "") || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", name, got, err, c.want)
		}
	}
}

func TestCountStopsWithContext(t *testing.T) {
	path := writeFile(t, t.TempDir(), "a.jsonl", "{}\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := open(t, dataset.Options{Paths: []string{path}}).Count(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %d, %v, want %v", n, err, context.Canceled)
	}
}

func TestIsField(t *testing.T) {
	for id, want := range map[string]bool{"id": true, "_id": true, "question_id2": true, "clé": true, "": false, "2id": false, "item.id": false, "a-b": false, "a b": false, `"x"`: false} {
		if got := dataset.IsField(id); got != want {
			t.Errorf("%q: got %v, want %v", id, got, want)
		}
	}
}

// Real data, where it is at hand.
func TestSharedData(t *testing.T) {
	for name, want := range map[string]int{"mmlu_pro/questions.jsonl": 700, "gsm8k/test.jsonl": 1319} {
		path := filepath.Join("..", "..", "shared", "data", name)
		if _, err := os.Stat(path); err != nil {
			t.Skipf("%s is not here", path)
		}
		s := open(t, dataset.Options{Paths: []string{path}})
		for _, r := range rowsOf(t, s, matrix.Position{}) {
			if r.Err != nil {
				t.Errorf("%s: %v", r.Address, r.Err)
			}
		}
		if n, err := s.Count(t.Context()); err != nil || n != int64(want) {
			t.Errorf("%s: got %d rows, %v, want %d", name, n, err, want)
		}
	}
}
