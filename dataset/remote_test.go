package dataset_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"matrix"
	"matrix/dataset"
	"matrix/internal/remote"
	"matrix/matrixtest"
)

// web serves files, and ends each answer after cut bytes, if cut is not 0.
type web struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]string
	cut   int
}

func newWeb(t *testing.T) *web {
	s := &web{files: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		text, ok := s.files[r.URL.Path]
		cut := s.cut
		s.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		sum := 0
		for _, c := range []byte(text) {
			sum = sum*31 + int(c)
		}
		w.Header().Set("Etag", fmt.Sprintf(`"%x"`, uint64(sum)))
		if cut > 0 {
			w = &cutWriter{w, cut}
		}
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(text))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *web) put(name, text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files["/"+name] = text
	return s.URL + "/" + name
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestRemoteSource(t *testing.T) {
	s := newWeb(t)
	for _, name := range []string{"rows.jsonl", "rows.jsonl.gz"} {
		t.Run(name, func(t *testing.T) {
			matrixtest.Source(t, func(t *testing.T, rows []map[string]string) matrix.Source {
				var b strings.Builder
				for _, r := range rows {
					line, err := json.Marshal(r)
					if err != nil {
						t.Fatal(err)
					}
					b.Write(append(line, '\n'))
				}
				n := name
				if len(rows) == 0 {
					n = "rows.jsonl"
				}
				dir := strings.NewReplacer("/", "_", "#", "_").Replace(t.Name())
				return open(t, dataset.Options{Paths: []string{s.put(dir+"/"+n, packed(t, n, b.String())) + "?secret"}, IDField: "id"})
			})
		})
	}
}

// Over a connection that is cut again and again all rows come, of each format.
func TestRemoteFormats(t *testing.T) {
	s := newWeb(t)
	var lines strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&lines, "{\"id\":%d,\"text\":%q}\n", i, strings.Repeat("x", i%100))
	}
	array := "[" + strings.ReplaceAll(strings.TrimSpace(lines.String()), "\n", ",") + "]"
	rows := make([]small, 20_000)
	for i := range rows {
		rows[i] = small{ID: int64(i)}
	}
	whole, err := os.ReadFile(writeParquet(t, rows, 3000))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a.jsonl": lines.String(), "a.json": array, "a.jsonl.zst": packed(t, ".zst", lines.String()), "a.parquet": string(whole)} {
		path := s.put(name, text)
		src := open(t, dataset.Options{Paths: []string{path}})
		s.cut = max(len(text)/7, 1000)
		got := rowsOf(t, src, matrix.Position{})
		if len(got) != 20_000 {
			t.Errorf("%s: got %d rows", name, len(got))
		}
		rest := rowsOf(t, src, got[15_000].Next)
		if len(rest) != 4_999 || rest[0].Address != got[15_001].Address || !strings.HasPrefix(rest[0].Address, name+":") {
			t.Errorf("%s: got %d rows behind the 15,000th", name, len(rest))
		}
		s.cut = 0
	}
}

func TestRemoteFileChanges(t *testing.T) {
	s := newWeb(t)
	lines := func(n int) string { return strings.Repeat("{\"text\":\""+strings.Repeat("x", 90)+"\"}\n", n) }
	path := s.put("a.jsonl", lines(20_000))
	o := dataset.Options{Paths: []string{path}}
	src := open(t, o)
	was, err := src.Fingerprint()
	if err != nil || !strings.HasPrefix(was, "a.jsonl 2040000 ") {
		t.Fatalf("got %q, %v", was, err)
	}
	n := 0
	err = src.Rows(t.Context(), matrix.Position{}, func(matrix.Row) error {
		if n++; n == 100 {
			s.put("a.jsonl", lines(20_001))
		}
		return nil
	})
	var changed *remote.ChangedError
	if !errors.As(err, &changed) || !strings.Contains(err.Error(), "a.jsonl: reading broke off after line ") || n >= 20_000 {
		t.Errorf("got %v after %d rows", err, n)
	}
	if now, err := src.Fingerprint(); err != nil || now == was {
		t.Errorf("got %q, %v", now, err)
	}
	if ok, err := open(t, o).Extends(was); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
	s.put("a.jsonl", lines(20_000))
	if ok, err := open(t, o).Extends(was); !ok || err != nil {
		t.Errorf("the same again: got %v, %v", ok, err)
	}
	for path, want := range map[string]string{s.URL + "/none.jsonl": "none.jsonl: the server says 404 Not Found", s.put("page.jsonl", page): "is a web page", s.put("b", "text"): "does not say what kind of file it is"} {
		if _, err := dataset.Open(dataset.Options{Paths: []string{path}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if src := open(t, dataset.Options{Paths: []string{s.put("b", "id,text\n1,a\n"), filepath.Join(writeFolder(t), "c.csv")}, Format: "csv"}); len(rowsOf(t, src, matrix.Position{})) != 2 {
		t.Error("a format that is given")
	}
}

func writeFolder(t *testing.T) string {
	dir := t.TempDir()
	writeFile(t, dir, "c.csv", "id,text\n2,b\n")
	return dir
}
