package cli

import (
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// where is echo with a role that acts on some machines alone.
const where = `
name: where
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
  judge: {chat: {model: m, sees: [say]}, where: gpu == "h100"}
flow: [say, judge]
`

// A role acts where its condition holds: its tasks wait for a worker of that kind, and
// everybody who asks is told. A run on one machine does not ask.
func TestWhere(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": where, "rows.jsonl": rows(5)})
	matrixCmd("run", dir, "-o", filepath.Join(dir, "alone")).want(t, 0, "done 5")

	out := filepath.Join(dir, "out")
	run := begin(t, `nobody serves judge, which acts where gpu == "h100": 5 tasks wait`, "run", dir, "-o", out, "--serve", "--metrics-addr", "0")
	begin(t, `nobody serves judge`, "attach", out).interrupts <- nil
	other := begin(t, `Serving say\.`, "worker", "--join", out, "--label", "gpu=l4", "--cache", t.TempDir())
	metrics := regexp.MustCompile(`Metrics at (http://\S+)\n`).FindStringSubmatch(run.stderr())[1]
	for _, want := range []string{`matrix_role_unserved{role="judge"} 1`, `matrix_role_tasks_waiting{role="judge"} 5`, `matrix_workers{state="working"} 1`} {
		for deadline := time.Now().Add(time.Minute); !strings.Contains(body(t, metrics), want); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("want %s in\n%s", want, body(t, metrics))
			}
		}
	}
	right := begin(t, `Serving say, judge\.`, "worker", "--join", out, "--label", "gpu=h100", "--cache", t.TempDir(), "--metrics-addr", "0")
	run.end(t).want(t, 0, "done 5")
	right.end(t).want(t, 0)
	other.end(t).want(t, 0)
	if r := matrixCmd("verify", out, "--complete").want(t, 0); strings.Contains(r.out, "unserved") {
		t.Errorf("got %v", r)
	}
	if s := summaryOf(t, out); s["unserved"] != nil {
		t.Errorf("the summary of a finished run: unserved is %v", s["unserved"])
	}

	// The head's own labels count for itself.
	head := filepath.Join(dir, "head")
	matrixCmd("run", dir, "-o", head, "--serve", "--label", "gpu=h100").want(t, 0, "done 5")
	for label, want := range map[string]string{"gpu": "key=value", "item=x": "something else"} {
		matrixCmd("run", dir, "-o", head, "--serve", "--label", label).want(t, 2, want)
		matrixCmd("worker", "--join", out, "--label", label).want(t, 2, want)
	}
	matrixCmd("run", dir, "-o", head, "--label", "gpu=h100").want(t, 2, "without --serve this is the only one")
}

// body is what an address answers.
func body(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
