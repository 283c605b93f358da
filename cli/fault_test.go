package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/klauspost/compress/zstd"

	"matrix/internal/rundir"
)

// service is an OpenAI-compatible server that answers by f.
func service(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

// reply answers a call.
func reply(w http.ResponseWriter, text string) {
	b, _ := json.Marshal(map[string]any{
		"model":   "test",
		"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": text}, "finish_reason": "stop"}},
		"usage":   map[string]any{"prompt_tokens": 3, "completion_tokens": 2},
	})
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// asked is the last message of a call.
func asked(r *http.Request) string {
	var c struct{ Messages []struct{ Content string } }
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil || len(c.Messages) == 0 {
		return ""
	}
	return c.Messages[len(c.Messages)-1].Content
}

// over is echo with a model at a URL.
func over(url string) string {
	return strings.Replace(echo, `{kind: scripted, reply: "you said {{ prompt }}"}`,
		fmt.Sprintf(`{base_url: %q, model: test, api_key: "sk-test-secret"}`, url), 1)
}

func TestRunInterrupted(t *testing.T) {
	var mu sync.Mutex
	var calls int
	interrupts := make(chan os.Signal, 2)
	landing := make(chan struct{})
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls++
		n := calls
		mu.Unlock()
		if n == 3 {
			interrupts <- os.Interrupt
			close(landing)
		}
		if n < 3 {
			select { // in flight until somebody has typed Ctrl-C
			case <-landing:
			case <-r.Context().Done():
				return
			}
		}
		reply(w, "fine")
	})
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(40)})
	out := filepath.Join(dir, "out")
	program(Program{interrupts: interrupts}, "run", dir, "-o", out, "live=3").
		want(t, 4, "Stopping; nothing is lost. Steps under way may take up to 30s more", "Stopped.", "pending; the same command goes on", "run "+dir+" live=3 -o "+out)
	c := counts(t, out)
	if c[0] < 3 || c[2] == 0 || c[0]+c[2] != 40 {
		t.Errorf("done, failed, pending: got %v, want at least 3 done, some pending, 40 in all", c)
	}
	s := summaryOf(t, out)
	if s["finished"] != false || s["owed"] != float64(c[2]) {
		t.Errorf("summary: got %v, want %d pending and not finished", s, c[2])
	}
	matrixCmd("verify", out, "--complete").want(t, 1, "pending: the run is not complete", "!repair")
	matrixCmd("run", dir, "-o", out).want(t, 0, "Going on with", "done 40")
	matrixCmd("verify", out, "--complete").want(t, 0)
}

func TestRunInterruptedTwice(t *testing.T) {
	interrupts := make(chan os.Signal, 2)
	var deaf atomic.Bool
	deaf.Store(true)
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		if deaf.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			interrupts <- os.Interrupt
			interrupts <- os.Interrupt
			<-r.Context().Done()
			return
		}
		reply(w, "fine")
	})
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	program(Program{interrupts: interrupts}, "run", dir, "-o", out, "live=1").want(t, 4, "Stopping now.", "5 tasks are pending")
	deaf.Store(false)
	matrixCmd("run", dir, "-o", out).want(t, 0)
	matrixCmd("verify", out, "--complete").want(t, 0)
}

func TestRunSignals(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			called := make(chan struct{}, 100)
			url := service(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				called <- struct{}{}
				<-r.Context().Done()
			})
			dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
			out := filepath.Join(dir, "out")
			cmd := process(t, "run", dir, "-o", out, "grace=10ms")
			var errs strings.Builder
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-called
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != 4 {
				t.Errorf("exit code: got %d, want 4\n%s", got, errs.String())
			}
			if got, want := counts(t, out), [3]int64{0, 0, 5}; got != want {
				t.Errorf("done, failed, pending: got %v, want %v", got, want)
			}
		})
	}
}

func TestRunWrongKey(t *testing.T) {
	var ok atomic.Bool
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		if !ok.Load() {
			w.WriteHeader(401)
			fmt.Fprint(w, `{"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}`)
			return
		}
		reply(w, "fine")
	})
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 1, "401", "Incorrect API key", "5 tasks are pending; the same command goes on", "!sk-test-secret")
	if got, want := counts(t, out), [3]int64{0, 0, 5}; got != want {
		t.Errorf("done, failed, pending: got %v, want %v", got, want)
	}
	if strings.Contains(read(t, out, rundir.ConfigFile), "sk-test-secret") {
		t.Error("the key stands in config.yaml")
	}
	ok.Store(true)
	matrixCmd("run", dir, "-o", out, "models.m.api_key=another").want(t, 0, "done 5")
}

// A model that has not answered yet may be replaced by another one; one that has
// may not.
func TestRunAnotherModel(t *testing.T) {
	var right atomic.Value
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Model string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		if body.Model != right.Load() {
			w.WriteHeader(404)
			fmt.Fprint(w, `{"error": {"message": "no such model", "code": "model_not_found"}}`)
			return
		}
		reply(w, "fine")
	})
	dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	run := func(more ...string) result {
		return matrixCmd(append([]string{"run", dir, "-o", out, "live=1"}, more...)...)
	}
	right.Store("good")
	run("models.m.model=bad").want(t, 1, "no such model", "5 tasks are pending")
	run("models.m.model=bad", "seed=7").want(t, exitUsage, "seed", "--accept-changes")
	run("models.m.model=good", "dataset.limit=2").want(t, exitUsage, "dataset.limit")
	run("models.m.model=good", "models.m.temperature=0.5").want(t, 0, "done 5")

	out = filepath.Join(dir, "other")
	var n atomic.Int64
	turning := service(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 2 {
			w.WriteHeader(401)
			return
		}
		reply(w, "fine")
	})
	run("models.m.base_url="+turning).want(t, 1, "pending")
	run("models.m.base_url="+url, "models.m.model=good").want(t, exitUsage, "models.m.model", "--accept-changes")
	run("models.m.base_url="+url, "models.m.model=good", "--accept-changes").want(t, 0, "done 5")
}

// What a service may do instead of answering well: the run finishes all the
// same, and verify holds.
func TestRunReplies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bad        func(w http.ResponseWriter, r *http.Request) // instead of the first reply to q2
		done, fail int64
	}{
		"empty": {func(w http.ResponseWriter, _ *http.Request) { reply(w, "") }, 5, 0},
		"huge":  {func(w http.ResponseWriter, _ *http.Request) { reply(w, strings.Repeat("long ", 2<<20)) }, 5, 0},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<html>the proxy is tired</html>")
		}, 5, 0},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5000")
			fmt.Fprint(w, `{"choices": [{"mess`)
		}, 5, 0},
		"never comes": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 5, 0},
		"overloaded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
		}, 5, 0},
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"error": {"message": "no such talk here"}}`)
		}, 4, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var once atomic.Bool
			url := service(t, func(w http.ResponseWriter, r *http.Request) {
				text := asked(r)
				if text == "question 2" && once.CompareAndSwap(false, true) {
					c.bad(w, r)
					return
				}
				reply(w, "fine: "+text)
			})
			dir := files(t, map[string]string{"config.yaml": over(url), "rows.jsonl": rows(5)})
			out := filepath.Join(dir, "out")
			matrixCmd("run", dir, "-o", out, "models.m.timeout=300ms", "live=1").want(t, 0)
			if got, want := counts(t, out), [3]int64{c.done, c.fail, 0}; got != want {
				t.Errorf("done, failed, pending: got %v, want %v", got, want)
			}
			if c.fail > 0 && !strings.Contains(read(t, out, "failed/part-00000.jsonl"), "no such talk here") {
				t.Errorf("the failed row does not say why: %s", read(t, out, "failed/part-00000.jsonl"))
			}
		})
	}
}

// What may be wrong with a dataset: the rows that are well are done, the others
// fail with a cause, none is lost.
func TestRunDatasets(t *testing.T) {
	t.Parallel()
	good := func(id string) string { return fmt.Sprintf("{\"id\":%q,\"text\":\"hi\",\"n\":1}\n", id) }
	for name, c := range map[string]struct {
		rows       string
		done, fail int64
		cause      string
	}{
		"malformed line":   {good("a") + "{\"id\": \"b\", \n" + good("c"), 2, 1, "JSON"},
		"line of 20 MB":    {good("a") + `{"id":"b","text":"hi","n":1,"x":"` + strings.Repeat("x", 20<<20) + "\"}\n" + good("c"), 3, 0, ""},
		"invalid UTF-8":    {good("a") + "{\"id\":\"b\",\"text\":\"\xff\xfe\",\"n\":1}\n" + good("c"), 2, 1, "UTF-8"},
		"missing field":    {good("a") + "{\"id\":\"b\",\"n\":1}\n" + good("c"), 2, 1, "text"},
		"null":             {good("a") + "null\n" + good("c"), 2, 1, "null"},
		"null for a field": {good("a") + "{\"id\":\"b\",\"text\":null,\"n\":1}\n" + good("c"), 2, 1, "the prompt is empty"},
		"two of one id":    {good("a") + good("a") + good("c"), 2, 1, "already that of an earlier row"},
		"no rows":          {"", 0, 0, ""},
		"BOM":              {"\ufeff" + good("a") + good("b"), 2, 0, ""},
		"CRLF":             {strings.ReplaceAll(good("a")+good("b"), "\n", "\r\n"), 2, 0, ""},
		"no last newline":  {good("a") + strings.TrimSpace(good("b")), 2, 0, ""},
		"empty lines":      {good("a") + "\n\n" + good("b"), 2, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": c.rows})
			out := filepath.Join(dir, "out")
			r := matrixCmd("run", dir, "-o", out).want(t, 0, "verify")
			if got, want := strings.Contains(r.out, "matrix show"), c.done+c.fail > 0; got != want {
				t.Errorf("suggests show: got %v, want %v\n%s", got, want, r.out)
			}
			if got, want := counts(t, out), [3]int64{c.done, c.fail, 0}; got != want {
				t.Errorf("done, failed, pending: got %v, want %v\n%s", got, want, lines(t, out, "failed/part-00000.jsonl"))
			}
			if c.cause != "" && !strings.Contains(read(t, out, "failed/part-00000.jsonl"), c.cause) {
				t.Errorf("cause: got %s, want %q in it", read(t, out, "failed/part-00000.jsonl"), c.cause)
			}
			matrixCmd("run", dir, "-o", out).want(t, 0, "is finished")
		})
	}
}

func TestRunLargerLimit(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "dataset.limit=2").want(t, 0, "done 2")
	matrixCmd("run", dir, "-o", out, "dataset.limit=4").want(t, 2, "dataset.limit", "--accept-changes")
	matrixCmd("run", dir, "-o", out, "dataset.limit=4", "--accept-changes").want(t, 0, "done 4")
	matrixCmd("verify", out, "--complete").want(t, 0, "4 done")
}

func TestRunDatasetChanged(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	// Two rows are fed, three are not.
	stopped(t, dir, out, "live=2")
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(rows(4)), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 1, "the dataset is not the one this run began with", "--accept-changes")
	matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, 0, "done 4")
	matrixCmd("verify", out, "--complete").want(t, 0)

	if err := os.Remove(filepath.Join(dir, "rows.jsonl")); err != nil {
		t.Fatal(err)
	}
	matrixCmd("verify", out).want(t, 1, "rows.jsonl")
}

// Rows that were appended are told from rows that were put before those that
// were read, and run; the others are not taken apart.
func TestRunRowsJoined(t *testing.T) {
	for name, c := range map[string]struct {
		change string   // the rows of now
		refuse []string // what run and verify say of them
		code   int
		accept []string // what comes of --accept-changes
		verify []string
	}{
		"appended": {rows(7), []string{"Rows were appended, and the others are as they were", "--accept-changes"}, 0,
			[]string{"done 7"}, []string{"7 tasks = 7 done", "!Of the rows"}},
		"put before": {`{"id":"new","n":9}` + "\n" + rows(7), []string{"in the middle of a line", "Nothing was changed", "!--accept-changes", "!were appended"}, 1,
			[]string{"in the middle of a line", "append rows at its end"}, nil},
		"fewer": {rows(4), []string{"were read before", "!--accept-changes"}, 1, []string{"were read before", "Nothing was changed", "!pending"}, nil},
		"put before, as long as a row": {`{"id":"q9","text":"question 9","n":9}` + "\n" + rows(7), []string{"Rows put in before them are never run"}, 0,
			[]string{"failed 1", "is already that of an earlier row"}, []string{"OK: nothing is lost", "Of the rows this says nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
			out := filepath.Join(dir, "out")
			matrixCmd("run", dir, "-o", out).want(t, 0, "done 5")
			if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(c.change), 0o666); err != nil {
				t.Fatal(err)
			}
			r := matrixCmd("run", dir, "-o", out).want(t, 1, append(c.refuse, "the dataset is not the one this run began with")...)
			if n := strings.Count(r.err, "--accept-changes"); n > 1 {
				t.Errorf("what to do is said %d times:\n%s", n, r.err)
			}
			if name == "appended" {
				matrixCmd("verify", out).want(t, 1, "Rows were appended", "--accept-changes", "!repair")
			}
			matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, c.code, c.accept...)
			if c.verify != nil {
				matrixCmd("verify", out, "--complete").want(t, 0, c.verify...)
				return
			}
			if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(rows(5)), 0o666); err != nil { // as it was
				t.Fatal(err)
			}
			matrixCmd("verify", out, "--complete").want(t, 0, "5 done", "!Of the rows")
		})
	}
}

// Rows that were appended on the line of the last row are not rows that joined.
func TestRunRowsJoinedInALine(t *testing.T) {
	whole, more := strings.TrimSuffix(rows(5), "\n"), `{"id":"q6","text":"question 6","n":6}`+"\n"
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": whole})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 5")
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(whole + more)
	for _, args := range [][]string{nil, {"--accept-changes"}, {"--retry-failed", "--accept-changes"}} {
		matrixCmd(append([]string{"run", dir, "-o", out}, args...)...).want(t, 1, "rows.jsonl:5: the last line had no line end", "Nothing was changed", "!were appended")
	}
	matrixCmd("verify", out).want(t, 1, "rows.jsonl:5: the last line had no line end", "Restore the dataset", "!matrix repair")
	write(whole + "\n" + more)
	matrixCmd("run", dir, "-o", out).want(t, 1, "Rows were appended, and the others are as they were")
	matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, 0, "done 6")
	matrixCmd("verify", out, "--complete").want(t, 0, "6 done", "!Of the rows")
}

// Where other rows are left out than before, verify says so, and calls no row lost.
func TestVerifyOtherRows(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(9)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "dataset.limit=5").want(t, 0, "done 5")
	matrixCmd("run", dir, "-o", out, `+dataset.where=item.id != "q3"`, "--accept-changes").want(t, 0, "done 9")
	matrixCmd("verify", out, "--complete").want(t, 0, "OK: nothing is lost", "Of the rows this says nothing")
}

// What is removed from under a run ends it, in words.
func TestRunRemoved(t *testing.T) {
	t.Parallel()
	for what, said := range map[string][]string{
		".":                     {"the folder of the run was removed while it went on", "begins the run anew", "!pending;", "!goroutine"},
		"data":                  {"part-00000.jsonl was removed or replaced", "matrix repair", "!pending;"},
		"data/part-00000.jsonl": {"part-00000.jsonl was removed or replaced", "matrix repair", "!pending;"},
		"state":                 {"queue store", "no such file", "matrix repair", "!goroutine", "!pending;"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(100)})
			out := filepath.Join(dir, "out")
			some := regexp.MustCompile(`\([1-9]\d?%\)`)
			var once sync.Once
			var b strings.Builder
			p := Program{every: time.Millisecond, In: strings.NewReader(""), Out: io.Discard}
			p.Err = writerFunc(func(text []byte) (int, error) {
				b.Write(text)
				if some.Match(text) {
					once.Do(func() {
						if err := os.RemoveAll(filepath.Join(out, what)); err != nil {
							t.Error(err)
						}
					})
				}
				return len(text), nil
			})
			code := p.Main([]string{"run", dir, "-o", out, "live=2", "models.m.delay=10ms"})
			result{code, "", b.String()}.want(t, 1, said...)
			if what == "." {
				matrixCmd("run", dir, "-o", out).want(t, 0, "done 100")
				return
			}
			matrixCmd("run", dir, "-o", out).want(t, 1, "matrix repair")
			matrixCmd("repair", out).want(t, 0)
			matrixCmd("run", dir, "-o", out).want(t, 0)
			matrixCmd("verify", out, "--complete").want(t, 0, "100 done")
		})
	}
}

// A process that was killed as it wrote leaves a torn line: it is told apart from
// faults, and cut off.
func TestRunTornOutput(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	stopped(t, dir, out)
	if err := os.WriteFile(filepath.Join(out, "data/part-00000.jsonl"), []byte(`{"id":"q1","row":"q1","tri`), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("verify", out).want(t, 0, "0 done + 0 failed + 5 pending", "1 line is written and not committed")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 5")
	matrixCmd("verify", out, "--complete").want(t, 0, "!killed")
}

func TestRunNoisyCommand(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"rows.jsonl": rows(3), "config.yaml": `
name: noise
dataset: {path: rows.jsonl, id: id}
roles:
  a: {command: {run: [sh, -c, 'while read -r line; do echo "debug: hello"; echo "{\"text\": \"fine\"}"; done']}}
flow: [a]
`})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 1, "debug: hello", "print diagnostics to stderr", "no task is done", "--retry-failed")
	if got, want := counts(t, out), [3]int64{0, 3, 0}; got != want {
		t.Errorf("done, failed, pending: got %v, want %v", got, want)
	}
}

// TestRunBadRowsFirst: rows that break a command agent fail alone, though they
// are the first that it is given in a session.
func TestRunBadRowsFirst(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"rows.jsonl": rows(8), "config.yaml": `
name: crash
dataset: {path: rows.jsonl, id: id}
roles:
  a: {command: {run: [sh, -c, 'while read -r line; do case "$line" in *"\"id\":\"q"[0-4]*) exit 3;; esac; echo "{\"text\": \"fine\"}"; done']}}
flow: [a]
`})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0, "exit status 3", "!not at fault")
	if got, want := counts(t, out), [3]int64{3, 5, 0}; got != want {
		t.Errorf("done, failed, pending: got %v, want %v", got, want)
	}
}

func TestRunTruncatedZstd(t *testing.T) {
	t.Parallel()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	full := e.EncodeAll([]byte(rows(20000)), nil)
	dir := files(t, map[string]string{"config.yaml": strings.Replace(echo, "rows.jsonl", "rows.jsonl.zst", 1), "rows.jsonl.zst": string(full[:len(full)/2])})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 1, "rows.jsonl.zst")
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl.zst"), full, 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out, "--accept-changes").want(t, 0, "done 20,000")
	matrixCmd("verify", out, "--complete").want(t, 0)
}

func TestRunNewerState(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(2)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	db, err := pebble.Open(filepath.Join(out, rundir.StateDir), &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Set([]byte("v"), []byte{99}, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run", dir, "-o", out}, {"verify", out}} {
		matrixCmd(args...).want(t, 1, "format 99", "newer Matrix")
	}
}

// silent is a logger of Pebble's that says nothing.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

func TestRunReadOnlyOut(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(2)})
	ro := filepath.Join(dir, "ro")
	if err := os.Mkdir(ro, 0o555); err != nil {
		t.Fatal(err)
	}
	cmd := process(t, "run", dir, "-o", filepath.Join(ro, "out"))
	if os.Getuid() == 0 { // who may write anywhere
		asNobody(t, cmd, dir)
	}
	b, _ := cmd.CombinedOutput()
	result{cmd.ProcessState.ExitCode(), string(b), ""}.want(t, 1, "permission denied", ro)
}

// asNobody lets a command run as a user who may read dir and write nothing.
func asNobody(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	exe := filepath.Join(dir, "program")
	b, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Path, cmd.Dir = exe, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func TestRunFullDisk(t *testing.T) {
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "none", disk).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small disk here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(4000)})
	out := filepath.Join(disk, "out")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := process(t, "run", dir, "-o", out)
	long := exec.CommandContext(ctx, cmd.Path, append(cmd.Args[1:], "models.m.reply={{ 'x' * 5000 }}")...)
	long.Env = cmd.Env
	b, _ := long.CombinedOutput()
	result{long.ProcessState.ExitCode(), string(b), ""}.want(t, 1, "no space left on device", "The disk is full", "pending; the same command goes on")

	// There is room again.
	if b, err := exec.Command("mount", "-o", "remount,size=400m", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	matrixCmd("run", dir, "-o", out, "models.m.reply={{ 'x' * 5000 }}").want(t, 0, "done 4,000")
	matrixCmd("verify", out, "--complete").want(t, 0)
}

func TestVerifyFindsFaults(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(8)})
	for name, c := range map[string]struct {
		change func(l []string) []string
		want   string
	}{
		"line deleted":           {func(l []string) []string { return slices.Delete(l, 2, 3) }, "does not stand there: lost"},
		"last line deleted":      {func(l []string) []string { return l[:7] }, "does not stand there: lost"},
		"line doubled":           {func(l []string) []string { return append(l, l[3]) }, "doubled"},
		"line replaced":          {func(l []string) []string { l[5] = l[4]; return l }, "doubled"},
		"line of nobody":         {func(l []string) []string { return append(l, `{"id":"zz"}`) }, "zz is not in the ledger"},
		"line that is not a row": {func(l []string) []string { l[1] = "hello"; return l }, "part-00000.jsonl"},
		"torn last line":         {func(l []string) []string { l[7] = l[7][:20]; return l }, "part-00000.jsonl"},
		"lines swapped":          {func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }, "by the ledger"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			matrixCmd("run", dir, "-o", out).want(t, 0)
			part := filepath.Join(out, "data/part-00000.jsonl")
			changed := strings.Join(c.change(lines(t, part)), "\n") + "\n"
			if err := os.WriteFile(part, []byte(changed), 0o666); err != nil {
				t.Fatal(err)
			}
			matrixCmd("verify", out).want(t, 1, "NOT OK", c.want)
			r := matrixCmd("verify", out, "--json").want(t, 1)
			var a struct {
				OK       bool
				Culprits []string
				Faults   int
			}
			if err := json.Unmarshal([]byte(r.out), &a); err != nil || a.OK || a.Faults == 0 || len(a.Culprits) == 0 {
				t.Errorf("--json: got %s (%v), want culprits", r.out, err)
			}
		})
	}
	t.Run("the lost one first", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		matrixCmd("run", dir, "-o", out, "live=1").want(t, 0)
		part := filepath.Join(out, "data/part-00000.jsonl")
		if err := os.WriteFile(part, []byte(strings.Join(slices.Delete(lines(t, part), 2, 3), "\n")+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		r := matrixCmd("verify", out).want(t, 1, "q2 is done by the ledger and does not stand there: lost", "data part 0 line 3: 5 lines, the first of them q3, stand one line off")
		if strings.Index(r.out, "q2") > strings.Index(r.out, "one line off") || strings.Count(r.out, "moved or doubled") != 1 {
			t.Errorf("what is lost is not told first, or what moved not at once:\n%s", r.out)
		}
	})
	t.Run("part deleted", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		matrixCmd("run", dir, "-o", out, "output.rows_per_part=3").want(t, 0)
		if err := os.Remove(filepath.Join(out, "data/part-00001.jsonl")); err != nil {
			t.Fatal(err)
		}
		matrixCmd("verify", out).want(t, 1, "part 1 is missing")
	})
	t.Run("state deleted", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		matrixCmd("run", dir, "-o", out).want(t, 0)
		if err := os.RemoveAll(filepath.Join(out, rundir.StateDir)); err != nil {
			t.Fatal(err)
		}
		matrixCmd("verify", out).want(t, 1, "state is gone", "matrix repair")
	})
}

// A filter that is not a condition is a fault of the config, and one that some rows
// cannot answer is theirs.
func TestWhereIsNoCondition(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(5)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "dataset.where=item.text").want(t, 2, "dataset.where", "a condition must be true or false")
	if _, err := os.Stat(out); err == nil {
		t.Error("a run was begun")
	}
	matrixCmd("run", dir, "-o", out, "dataset.where=item.id == 'q0' ? item.text : true").want(t, 0, "done 4", "failed 1")
}

// TestRunInterruptedTwiceWhileComputing checks that the second signal ends a run
// whose step computes for minutes, and that nothing is lost by it.
func TestRunInterruptedTwiceWhileComputing(t *testing.T) {
	t.Parallel()
	var fields strings.Builder
	for i := range 100 {
		fmt.Fprintf(&fields, "      f%d: 'let l = 1..100000; sum(map(1..150, sum(l)))'\n", i)
	}
	dir := files(t, map[string]string{
		"rows.jsonl":  rows(3),
		"config.yaml": "dataset: {path: rows.jsonl, id: id}\ngrace: 1s\nroles:\n  busy:\n    compute:\n" + fields.String() + "flow: [busy]\n",
	})
	out := filepath.Join(dir, "out")
	cmd := process(t, "run", dir, "-o", out, "display=plain")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for lines := bufio.NewScanner(said); lines.Scan(); {
		line := lines.Text()
		fmt.Fprintln(&all, line)
		if strings.HasPrefix(line, "Running ") { // it minds signals soon after
			until(t, "steps under way", func() bool { // a summary is written every 2 s
				b, _ := os.ReadFile(filepath.Join(out, rundir.SummaryFile))
				return strings.Contains(string(b), `"live": 3`)
			})
		}
		if strings.HasPrefix(line, "Stopping; ") {
			time.Sleep(100 * time.Millisecond) // as a person does: what comes at once counts as the same key
		}
		if strings.HasPrefix(line, "Running ") || strings.HasPrefix(line, "Stopping; ") {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 4 || !strings.Contains(all.String(), "Stopping now.") || !strings.Contains(all.String(), "Stopped while a step was computing") {
		t.Fatalf("got exit code %d, want 4 and what was stopped:\n%s", code, all.String())
	}
	matrixCmd("verify", out).want(t, 0, "pending")
}
