package dataset_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"matrix"
	"matrix/dataset"
	"matrix/matrixtest"
)

func follow(t *testing.T, o dataset.Options) *dataset.Growing {
	t.Helper()
	g, err := dataset.Follow(open(t, o))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func journal(t *testing.T, path string) *dataset.Journal {
	t.Helper()
	j, err := dataset.OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func TestGrower(t *testing.T) {
	t.Parallel()
	matrixtest.Grower(t, func(t *testing.T) (matrix.Grower, func([]map[string]string), func()) {
		path := filepath.Join(t.TempDir(), "rows.jsonl")
		j := journal(t, path)
		add := func(rows []map[string]string) {
			all := make([]any, len(rows))
			for i := range rows {
				all[i] = rows[i]
			}
			if err := j.Append(all...); err != nil {
				t.Fatal(err)
			}
		}
		end := func() {
			if err := j.End(); err != nil {
				t.Fatal(err)
			}
		}
		return follow(t, dataset.Options{Paths: []string{path}, IDField: "id"}), add, end
	})
}

// Any program may write the file. A line that has no end is not written yet, unless
// the file has ended; what options leave out is not waited for twice.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	first := writeFile(t, dir, "a.jsonl", `{"n":1}`+"\n"+`{"n":2}`)
	path := writeFile(t, dir, "b.jsonl", `{"n":3}`+"\n"+`{"n":`)
	even := func(t *matrix.Task) (bool, error) { return t.Item.Any().(map[string]any)["n"].(int)%2 == 0, nil }
	g := follow(t, dataset.Options{Paths: []string{first, path}})
	evens := follow(t, dataset.Options{Paths: []string{first, path}, Where: even, Skip: 1, Limit: 2})
	check := func(s matrix.Source, want ...string) (next matrix.Position) {
		t.Helper()
		var got []string
		for _, r := range rowsOf(t, s, matrix.Position{}) {
			got, next = append(got, string(r.Item.Raw())), r.Next
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		return next
	}
	appendTo := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	check(g, `{"n":1}`, `{"n":2}`, `{"n":3}`)
	check(evens)
	print, err := g.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	appendTo("4}\n" + `{"n":6`)
	check(g, `{"n":1}`, `{"n":2}`, `{"n":3}`, `{"n":4}`)
	if ok, err := g.Extends(print); err != nil || !ok {
		t.Errorf("got %v, %v, want that it extends what it was while a line was half written", ok, err)
	}
	at := check(evens, `{"n":4}`)
	found := make(chan string, 1)
	go func() {
		ok, err := evens.More(t.Context(), at)
		found <- fmt.Sprint(ok, err)
	}()
	appendTo("1}\n" + strings.Repeat(`{"n":7}`+"\n", 10000)) // 61, and many that are left out
	appendTo(`{"n":8}` + "\n" + `{"n":10}`)
	if got := <-found; got != "true <nil>" {
		t.Errorf("got %s, want that there is a row", got)
	}
	at = check(evens, `{"n":4}`, `{"n":8}`)
	if ok, err := evens.More(t.Context(), at); err != nil || ok {
		t.Errorf("at the limit: got %v, %v, want no more", ok, err)
	}
	writeFile(t, dir, "b.jsonl"+dataset.EndSuffix, "")
	if n, err := g.Count(t.Context()); err != nil || n != 10007 {
		t.Errorf("got %d rows, %v, want 10,007 with the last one, which has no line end", n, err)
	}

	for name, text := range map[string]string{"a.csv": "n\n1\n", "a.jsonl.gz": packed(t, ".gz", "{}\n")} {
		if _, err := dataset.Follow(open(t, dataset.Options{Paths: []string{path, writeFile(t, t.TempDir(), name, text)}})); err == nil || !strings.Contains(err.Error(), name+" cannot grow") {
			t.Errorf("%s: got %v, want that it cannot grow", name, err)
		}
	}
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	j := journal(t, path)
	if _, err := dataset.OpenJournal(path); err == nil || !strings.Contains(err.Error(), "one process") {
		t.Errorf("got %v, want that it is open elsewhere", err)
	}
	for _, bad := range [][]any{{map[string]int{"a": 1}, []int{1}}, {nil}, {json.RawMessage(`{"a"`)}, {make(chan int)}} {
		if err := j.Append(bad...); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	type row struct {
		ID   string `json:"id"`
		Text string `json:"text"`
	}
	if err := j.Append(row{"a", "<1>\n"}, json.RawMessage("{\n\"id\": \"b\"}")); err != nil || j.Rows() != 2 {
		t.Fatalf("got %v and %d rows, want 2", err, j.Rows())
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != `{"id":"a","text":"<1>\n"}`+"\n"+`{"id":"b"}`+"\n" {
		t.Errorf("got %s, %v", b, err)
	}
	if err := j.Close(); err != nil || j.Append(row{}) == nil {
		t.Errorf("got %v, and rows are taken that nothing keeps", err)
	}
	for _, c := range []struct {
		tail string
		rows int64
	}{{`{"id":"c"`, 2}, {`{"id":"c"} `, 3}, {"\n  ", 3}, {"\x00\x00", 3}} { // what a kill leaves, and people
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(c.tail)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		j := journal(t, path)
		if j.Rows() != c.rows {
			t.Errorf("behind %q: got %d rows, want %d", c.tail, j.Rows(), c.rows)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j = journal(t, path)
	if err := errors.Join(j.Append(row{ID: "d"}), j.End()); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(row{}); !errors.Is(err, dataset.ErrEnded) {
		t.Errorf("got %v, want %v", err, dataset.ErrEnded)
	}
	if _, err := dataset.OpenJournal(path); !errors.Is(err, dataset.ErrEnded) || !strings.Contains(err.Error(), "without "+path+dataset.EndSuffix+" it goes on") {
		t.Errorf("got %v, want %v, and how it goes on", err, dataset.ErrEnded)
	}
	if rows := rowsOf(t, follow(t, dataset.Options{Paths: []string{path}, IDField: "id"}), matrix.Position{}); len(rows) != 4 || rows[3].ID != "d" {
		t.Errorf("got %d rows, want 4", len(rows))
	}
}

// A file that is no journal is left as it is, and none is made that no run could follow.
func TestJournalOfAnotherKind(t *testing.T) {
	const object = `{"id":1}`
	for name, text := range map[string]string{
		"precious.txt":  "one line of prose",
		"prose.jsonl":   "one line of prose",
		"behind.jsonl":  object + "\n7",
		"array.json":    "[" + object + "," + object + "]",
		"array.jsonl":   "[" + object + "," + object + "]",
		"indented.json": "{\n\"id\": 1\n}",
		"rows.jsonl.gz": packed(t, ".gz", object+"\n"),
		"rows-gz.jsonl": packed(t, ".gz", object+"\n"),
		"picture.png":   "\x89PNG\r\n\x1a\n\x00\x00\x00",
		"rows.csv":      "id\n1",
		"returns.jsonl": object + "\r" + object,
		"large.jsonl":   `{"a":"` + strings.Repeat("x", 64<<20),
		"new.csv":       "",
		"new.jsonl.gz":  "",
		"new.parquet":   "",
		"new":           "",
	} {
		path := filepath.Join(t.TempDir(), name)
		if text != "" {
			path = writeFile(t, filepath.Dir(path), name, text)
		}
		if j, err := dataset.OpenJournal(path); err == nil {
			t.Errorf("%s is opened", name)
			_ = j.Close()
		}
		if b, err := os.ReadFile(path); string(b) != text || (err != nil) != (text == "") {
			t.Errorf("%s: %d bytes, %v, and it was %d", name, len(b), err, len(text))
		}
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.Mkdir(path+dataset.EndSuffix, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := dataset.OpenJournal(path); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("got %v, want that a folder ends nothing", err)
	}
}

// Nobody has a journal open that has ended, also who came as it did.
func TestJournalEndsMeanwhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 300 {
		path := filepath.Join(dir, fmt.Sprint(i, ".jsonl"))
		j := journal(t, path)
		var others sync.WaitGroup
		for range 3 {
			others.Go(func() {
				for {
					switch j, err := dataset.OpenJournal(path); {
					case errors.Is(err, dataset.ErrEnded):
						return
					case err == nil:
						if j.Append(map[string]int{"late": i}) == nil {
							t.Error("a row was taken behind the end")
						}
						_ = j.Close()
						return
					}
				}
			})
		}
		if err := j.End(); err != nil {
			t.Error(err)
		}
		others.Wait()
	}
}

// A row that was accepted is there after a kill at any moment, once, and the program
// goes on behind it.
func TestJournalKilled(t *testing.T) {
	const name = "JOURNAL_TO_FILL"
	if path := os.Getenv(name); path != "" { // the program
		j, err := dataset.OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := j.Rows(); ; i += 3 {
			rows := []any{map[string]int64{"n": i}, map[string]int64{"n": i + 1}, map[string]int64{"n": i + 2}}
			if err := j.Append(rows...); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("accepted %d\n", j.Rows())
		}
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestJournalKilled$")
		cmd.Env = append(os.Environ(), name+"="+path)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		accepted := 0
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if _, err := fmt.Sscanf(lines.Text(), "accepted %d", &accepted); err == nil && n == 20 {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		j := journal(t, path)
		if j.Rows() < int64(accepted) {
			t.Fatalf("%d rows were accepted, and %d are there", accepted, j.Rows())
		}
		for i, r := range rowsOf(t, follow(t, dataset.Options{Paths: []string{path}}), matrix.Position{}) {
			if want := fmt.Sprintf(`{"n":%d}`, i); string(r.Item.Raw()) != want {
				t.Fatalf("row %d is %s, want %s", i, r.Item, want)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Of what a full disk takes in part, whole rows stay, since they may have been read,
// and once there is room the journal goes on.
func TestJournalFull(t *testing.T) {
	const name = "JOURNAL_WITHOUT_ROOM"
	path := os.Getenv(name)
	if path == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestJournalFull$")
		cmd.Env = append(os.Environ(), name+"="+filepath.Join(t.TempDir(), "rows.jsonl"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	var room syscall.Rlimit // of this process, for any file
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &room); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	j := journal(t, path)
	row := json.RawMessage(`{"n":0}`) // 8 bytes with its line end
	little := room
	little.Cur = 30
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &little); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(row, row, row, row, row); err == nil || j.Rows() != 3 {
		t.Errorf("got %v and %d rows, want 3 of 5", err, j.Rows())
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 24 {
		t.Errorf("got %q, %v, want three whole rows", b, err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &room); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(row); err != nil || j.Rows() != 4 {
		t.Errorf("got %v and %d rows, want 4", err, j.Rows())
	}
	if rows := rowsOf(t, follow(t, dataset.Options{Paths: []string{path}}), matrix.Position{}); len(rows) != 4 || rows[3].Err != nil {
		t.Errorf("got %d rows", len(rows))
	}
}
