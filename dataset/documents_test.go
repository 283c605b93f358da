package dataset_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"matrix"
	"matrix/dataset"
	"matrix/matrixtest"
)

// warcRecord is a record of a web archive.
func warcRecord(kind, media, url, content string) string {
	return fmt.Sprintf("WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: %s\r\nWARC-Date: 2020-03-29T09:04:10Z\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n", kind, url, media, len(content), content)
}

func response(status int, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d OK\r\n%s\r\n%s", status, header, body)
}

// item is the row as an object.
func item(t *testing.T, r matrix.Row) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(r.Item.Raw(), &m); err != nil || r.Err != nil {
		t.Fatalf("%s: got %s, %v, %v", r.Address, r.Item, r.Err, err)
	}
	return m
}

func TestArrays(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rows.json", "rows.json.gz", "rows.json.zst"} {
		t.Run(name, func(t *testing.T) {
			matrixtest.Source(t, func(t *testing.T, rows []map[string]string) matrix.Source {
				text := ""
				if len(rows) > 0 {
					b, err := json.MarshalIndent(rows, "", " ")
					if err != nil {
						t.Fatal(err)
					}
					text = packed(t, name, string(b)+"\n")
				}
				n := name
				if text == "" {
					n = "rows.json" // a compressed file has bytes
				}
				return open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), n, text)}, IDField: "id"})
			})
		})
	}
}

// Each element that is wrong is a row that fails alone, as far as brackets and quotes tell
// where it ends.
func TestArrayOfOddElements(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ text, want, err string }{
		{`[{"a":1},{"b":"]}\""}]`, `1 {"a":1} 2 {"b":"]}\""}`, ""},
		{"\xef\xbb\xbf [\r\n{\"a\":1}\r\n]\r\n", `1 {"a":1}`, ""},
		{`[{"a":1}, 5, "x,]", null,{"b":1}]`, `1 {"a":1} 2 !this is a number 3 !this is a string 4 !this is null 5 {"b":1}`, ""},
		{`[{"a":1}, {"b": x}, {"c":1}]`, `1 {"a":1} 2 !not valid JSON 3 {"c":1}`, ""},
		{`[{"a":1},]`, `1 {"a":1} 2 !nothing before the comma or bracket`, ""},
		{`[,{"a":1}]`, `1 !nothing before the comma or bracket 2 {"a":1}`, ""},
		{"[{\"a\":\"\xff\"}]", `1 !not valid UTF-8`, ""},
		{`[[1],{"a":1}]`, `1 !this is an array 2 {"a":1}`, ""},
		{`[{"a":1} {"b":1}]`, `1 {"a":1}`, "where the array should go on"},
		{`[{"a":1}] x`, `1 {"a":1}`, "behind the end of the array"},
		{`[{"a":1},{"b":`, `1 {"a":1}`, "element 2 does not end"},
		{`[{"a":1}`, `1 {"a":1}`, "cut short"},
		{`[{"a":1},`, `1 {"a":1}`, "cut short"},
	} {
		s := open(t, dataset.Options{Paths: []string{writeFile(t, dir, "a.json", test.text)}})
		var got []string
		err := s.Rows(t.Context(), matrix.Position{}, func(r matrix.Row) error {
			_, line, _ := strings.Cut(r.Address, ":")
			said := r.Item.String()
			if r.Err != nil {
				said = "!" + r.Err.Error()
			}
			got = append(got, line+" "+said)
			return nil
		})
		same := len(got) == strings.Count(test.want, " {")+strings.Count(test.want, " !")
		rest := test.want
		for _, g := range got {
			n, what, _ := strings.Cut(g, " ")
			if strings.HasPrefix(what, "!") {
				_, why, _ := strings.Cut(rest, n+" !")
				why, _, _ = strings.Cut(why, " "+fmt.Sprint(int(n[0]-'0')+1)+" ")
				same = same && why != "" && strings.Contains(what, why)
			} else {
				same = same && strings.Contains(test.want, g)
			}
		}
		if !same || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %q, %v, want %q, %q", test.text, got, err, test.want, test.err)
		}
	}
}

// only gives two fields of each row, under other names.
type only struct {
	matrix.Source
	id, text string
	trim     string
}

func (o only) Rows(ctx context.Context, from matrix.Position, f func(matrix.Row) error) error {
	return o.Source.Rows(ctx, from, func(r matrix.Row) error {
		var m map[string]any
		if err := json.Unmarshal(r.Item.Raw(), &m); err != nil {
			return err
		}
		id := strings.TrimSuffix(m[o.id].(string), o.trim)
		b, err := json.Marshal(map[string]any{"id": id, "text": m[o.text]})
		r.ID, r.Item = id, matrix.RawValue(b)
		if err != nil {
			return err
		}
		return f(r)
	})
}

func TestWET(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a.warc.wet", "a.warc.wet.gz", "a.wet.zst"} {
		t.Run(name, func(t *testing.T) {
			matrixtest.Source(t, func(t *testing.T, rows []map[string]string) matrix.Source {
				var b strings.Builder
				if len(rows) > 0 {
					b.WriteString(packed(t, name, warcRecord("warcinfo", "application/warc-fields", "", "software: test\r\n")))
				}
				for _, r := range rows {
					b.WriteString(packed(t, name, warcRecord("conversion", "text/plain", r["id"], r["text"])))
				}
				n := name
				if len(rows) == 0 {
					n = "a.wet"
				}
				return only{open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), n, b.String())}}), "url", "text", ""}
			})
		})
	}
}

func TestDocuments(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b/one.md": "# One\r\n\nžluťoučký kůň\n", "a.txt": "\xef\xbb\xbfplain", "c.txt.gz": packed(t, ".gz", "packed"), "d.txt": "", "e.txt": "caf\xe9",
		"f.html": "<html><head><title>Title &amp; more</title></head><body><nav>Menu Menu</nav><article><h1>Head</h1>" + strings.Repeat("<p>A sentence of the article, which has some words, and commas, too.</p>", 12) + "</article></body></html>",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, name, text)
	}
	o := dataset.Options{Paths: []string{filepath.Join(dir, "*"), filepath.Join(dir, "b", "*")}}
	s := open(t, o)
	got := rowsOf(t, s, matrix.Position{})
	var names []string
	for _, r := range got {
		names = append(names, r.Address)
	}
	if fmt.Sprint(names) != "[a.txt:1 c.txt.gz:1 e.txt:1 f.html:1 b/one.md:1]" {
		t.Fatalf("got %v", names)
	}
	if n, err := s.Count(t.Context()); n != 5 || err != nil {
		t.Errorf("Count: got %d, %v", n, err)
	}
	for i, want := range map[int]map[string]any{0: {"path": "a.txt", "text": "plain"}, 1: {"path": "c.txt.gz", "text": "packed"}, 4: {"path": "b/one.md", "text": "# One\r\n\nžluťoučký kůň\n"}} {
		if m := item(t, got[i]); fmt.Sprint(m) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", m, want)
		}
	}
	if got[2].Err == nil || !strings.Contains(got[2].Err.Error(), "not valid UTF-8 at column 4") {
		t.Errorf("got %v", got[2].Err)
	}
	if m := item(t, got[3]); m["title"] != "Title & more" || strings.Contains(m["text"].(string), "Menu") || strings.Count(m["text"].(string), "A sentence of the article") != 12 {
		t.Errorf("got %v", m)
	}
	for i, r := range got {
		rest := rowsOf(t, s, r.Next)
		if len(rest) != len(got)-i-1 {
			t.Errorf("behind %s: got %d rows", r.Address, len(rest))
		}
	}
	was, err := s.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "b/one.md", "# One\r\n\nžluťoučký kůň\nand more")
	if ok, err := open(t, o).Extends(was); ok || err != nil {
		t.Errorf("a document that became longer: got %v, %v", ok, err)
	}
	if err := s.Rows(t.Context(), got[4].Next, func(matrix.Row) error { return nil }); err == nil || !strings.Contains(err.Error(), "has become longer") {
		t.Errorf("got %v", err)
	}
}

const article = "<html lang=en><head><meta charset=windows-1252><title>Caf\xe9</title></head><body><div id=menu>Home About</div><article>%s</article></body></html>"

func TestWARC(t *testing.T) {
	text := strings.Repeat("<p>The caf\xe9 was open, as it is each day, until late at night.</p>", 12)
	page := fmt.Sprintf(article, text)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte(page))
	_ = w.Close()
	const html = "Content-Type: text/html\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(page), page)
	all := []string{
		warcRecord("warcinfo", "application/warc-fields", "", "software: test\r\n"),
		warcRecord("request", "application/http; msgtype=request", "http://a/", "GET / HTTP/1.1\r\n\r\n"),
		warcRecord("response", "application/http; msgtype=response", "http://a/plain", response(200, html, page)),
		warcRecord("response", "application/http; msgtype=response", "http://a/chunked", response(200, html+"Transfer-Encoding: chunked\r\n", chunked)),
		warcRecord("response", "application/http; msgtype=response", "http://a/dechunked", response(200, html+"Transfer-Encoding: chunked\r\n", page)),
		warcRecord("response", "application/http; msgtype=response", "http://a/gzip", response(200, html+"Content-Encoding: gzip\r\n", z.String())),
		warcRecord("response", "application/http; msgtype=response", "http://a/ungzip", response(200, html+"Content-Encoding: gzip\r\n", strings.ReplaceAll(page, "\xe9", "&eacute;"))),
		warcRecord("response", "application/http; msgtype=response", "http://a/cut", response(200, html+"Content-Length: 99999\r\n", page)),
		warcRecord("response", "application/http; msgtype=response", "http://a/h2", strings.Replace(response(200, html, page), "HTTP/1.1", "HTTP/2", 1)),
		warcRecord("response", "application/http; msgtype=response", "http://a/none", response(404, html, "<html><title>No</title><body>Not found")),
		warcRecord("response", "application/http; msgtype=response", "http://a/png", response(200, "Content-Type: image/png\r\n", "\x89PNG")),
		warcRecord("response", "application/http; msgtype=response", "http://a/text", response(200, "Content-Type: text/plain; charset=iso-8859-1\r\n", "caf\xe9")),
		warcRecord("resource", "text/html", "file:///a", page),
		warcRecord("metadata", "application/warc-fields", "http://a/", "a: b\r\n"),
	}
	for _, name := range []string{"a.warc", "a.warc.gz"} {
		var b strings.Builder
		for _, r := range all {
			b.WriteString(packed(t, name, r))
		}
		s := open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), name, b.String())}})
		got := rowsOf(t, s, matrix.Position{})
		if n, err := s.Count(t.Context()); n != 10 || err != nil || len(got) != 10 {
			t.Fatalf("%s: got %d rows, Count %d, %v", name, len(got), n, err)
		}
		for _, r := range got {
			m := item(t, r)
			text, status := m["text"].(string), m["status"]
			switch url := m["url"]; url {
			case "http://a/none":
				if status != 404.0 || text != "Not found" || m["title"] != "No" {
					t.Errorf("got %v", m)
				}
			case "http://a/text":
				if text != "café" || m["type"] != "text/plain" {
					t.Errorf("got %v", m)
				}
			default:
				if strings.Count(text, "The café was open") != 12 || strings.Contains(text, "About") || m["title"] != "Café" || m["language"] != "en" || m["date"] != "2020-03-29T09:04:10Z" {
					t.Errorf("%s: got %v", url, m)
				}
			}
		}
		for i, r := range got {
			if rest := rowsOf(t, s, r.Next); len(rest) != len(got)-i-1 || len(rest) > 0 && rest[0].Address != got[i+1].Address {
				t.Errorf("%s: got %d rows behind %s", name, len(rest), r.Address)
			}
		}
	}
}

// What is damaged in an archive is rows that fail alone, and what is cut off is one.
func TestDamagedWARC(t *testing.T) {
	wet := func(id string) string { return warcRecord("conversion", "text/plain", id, "text of "+id) }
	whole := wet("a") + wet("b") + wet("c")
	dir := t.TempDir()
	for _, test := range []struct{ name, text, want string }{
		{"cut in a text", whole[:len(whole)-6], "a b !cut short in this record: it has 7 of 9 bytes"},
		{"cut in a header", wet("a") + wet("b")[:40], "a !cut short in the header"},
		{"cut behind a text", strings.TrimRight(whole, "\r\n"), "a b c"},
		{"cut gzip", packed(t, ".gz", wet("a")) + packed(t, ".gz", wet("b"))[:90], "a !cut short"},
		{"cut between gzips", packed(t, ".gz", wet("a")) + packed(t, ".gz", wet("b"))[:5], "a !cut short here"},
		{"a length that is too small", wet("a") + strings.Replace(wet("b"), "Length: 9", "Length: 4", 1) + wet("c"), "a b !does not begin with WARC/ c"},
		{"a length that is none", wet("a") + strings.Replace(wet("b"), "Length: 9", "Length: x", 1) + wet("c"), `a !Content-Length "x" c`},
		{"rubbish between", wet("a") + "rubbish\n\n\nmore\n" + wet("b"), "a !does not begin b"},
		{"not UTF-8", wet("a") + warcRecord("conversion", "text/plain", "b", "caf\xe9") + wet("c"), "a !not valid UTF-8 c"},
	} {
		name := "a.wet"
		if strings.Contains(test.name, "gzip") {
			name += ".gz"
		}
		s := open(t, dataset.Options{Paths: []string{writeFile(t, dir, name, test.text)}})
		want := test.want
		rows := rowsOf(t, s, matrix.Position{})
		for _, r := range rows {
			if r.Err == nil {
				url := item(t, r)["url"].(string)
				if !strings.HasPrefix(want, url) {
					t.Errorf("%s: got %s, want %q", test.name, url, want)
				}
				want = strings.TrimSpace(strings.TrimPrefix(want, url))
				continue
			}
			why := strings.TrimPrefix(want, "!")
			rest := ""
			if n := len(why) - 2; n > 0 && why[n] == ' ' && why[n+1] == 'c' || n > 0 && strings.HasSuffix(why, " b") {
				why, rest = why[:n], why[n+1:]
			}
			if !strings.HasPrefix(want, "!") || !strings.Contains(r.Err.Error(), why) {
				t.Errorf("%s: got %v, want %q", test.name, r.Err, want)
			}
			want = rest
		}
		if want != "" {
			t.Errorf("%s: %q did not come", test.name, want)
		}
		if last := rows[len(rows)-1]; len(rowsOf(t, s, last.Next)) != 0 {
			t.Errorf("%s: rows behind the last one", test.name)
		}
	}
}

func FuzzWARC(f *testing.F) {
	f.Add([]byte(warcRecord("conversion", "text/plain", "a", "text")))
	f.Add([]byte(warcRecord("response", "application/http", "a", response(200, "Content-Type: text/html\r\n", "<p>x"))))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzFile(t, "a.wet", append([]byte("WARC/1.0\r\n"), b...)) })
}

func FuzzArray(f *testing.F) {
	f.Add([]byte(`[{"a":1},{"b":"]"},5,,]`))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzFile(t, "a.json", append([]byte("["), b...)) })
}

// fuzzFile reads a file through: each place behind a row is one to go on at.
func fuzzFile(t *testing.T, name string, b []byte) {
	s, err := dataset.Open(dataset.Options{Paths: []string{writeFile(t, t.TempDir(), name, string(b))}})
	if err != nil {
		return
	}
	read := func(from matrix.Position) (rows []matrix.Row, err error) {
		err = s.Rows(t.Context(), from, func(r matrix.Row) error {
			rows = append(rows, r)
			return nil
		})
		return rows, err
	}
	rows, err := read(matrix.Position{})
	if err == nil {
		if n, err := s.Count(t.Context()); n != int64(len(rows)) || err != nil {
			t.Errorf("Count: got %d, %v for %d rows", n, err, len(rows))
		}
	}
	for i, r := range rows {
		if !json.Valid(r.Item.Raw()) {
			t.Fatalf("row %d is %q", i, r.Item.Raw())
		}
		rest, again := read(r.Next)
		if len(rest) != len(rows)-i-1 || (again == nil) != (err == nil) {
			t.Fatalf("behind row %d of %d: got %d rows, %v, and %v before", i, len(rows), len(rest), again, err)
		}
	}
}
