package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"matrix/internal/rundir"
)

// beProgram makes the test binary the program itself, so that tests can send
// signals to a process or run it as another user.
const beProgram = "MATRIX_TEST_BE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		os.Exit(Program{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// result is what a command printed and returned.
type result struct {
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout:\n%s\nstderr:\n%s", r.code, r.out, r.err)
}

// matrixCmd runs a command in this process.
func matrixCmd(args ...string) result {
	return program(Program{}, args...)
}

func program(p Program, args ...string) result {
	var out, errs bytes.Buffer
	p.In, p.Out, p.Err = strings.NewReader(""), &out, &errs
	code := p.Main(args)
	return result{code, out.String(), errs.String()}
}

// process makes a command that is a process of its own.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), beProgram+"=1")
	return cmd
}

// want checks exit code and texts: those that begin with "!" must not be there.
// Runs of blanks count as one.
func (r result) want(t *testing.T, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("got exit code %d, want %d\n%v", r.code, code, r)
	}
	got := blanks.ReplaceAllString(r.out+r.err, " ")
	for _, text := range texts {
		no := strings.HasPrefix(text, "!")
		text = strings.TrimPrefix(text, "!")
		if strings.Contains(got, text) == no {
			t.Fatalf("%q is there: got %v, want %v\n%v", text, no, !no, r)
		}
	}
	return r
}

var blanks = regexp.MustCompile(` +`)

// files writes files into a folder of the test, and gives the folder.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rows are n rows with the ids q0, q1, ...
func rows(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"id\":\"q%d\",\"text\":\"question %d\",\"n\":%d}\n", i, i, i)
	}
	return b.String()
}

// echo is a config whose only role repeats the text of its row.
const echo = `
name: echo
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
flow: [say]
metrics: {long: len(last.text) > 19, n: item.n}
`

// read reads a file of the test.
func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lines reads the lines of a file; none where there is no file.
func lines(t *testing.T, path ...string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// ids reads the ids of an output, in its order.
func ids(t *testing.T, path ...string) []string {
	t.Helper()
	var all []string
	for _, l := range lines(t, path...) {
		if l == "" {
			continue
		}
		var x struct{ ID string }
		if err := json.Unmarshal([]byte(l), &x); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
		all = append(all, x.ID)
	}
	return all
}

// summaryOf reads the summary of a run.
func summaryOf(t *testing.T, dir string) map[string]any {
	t.Helper()
	var s map[string]any
	if err := json.Unmarshal([]byte(read(t, dir, rundir.SummaryFile)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// counts are done, failed and pending of a run, which verify must confirm.
func counts(t *testing.T, dir string) [3]int64 {
	t.Helper()
	r := matrixCmd("verify", dir, "--json").want(t, 0)
	var a struct{ Done, Failed, Owed int64 }
	if err := json.Unmarshal([]byte(r.out), &a); err != nil {
		t.Fatal(err)
	}
	return [3]int64{a.Done, a.Failed, a.Owed}
}
