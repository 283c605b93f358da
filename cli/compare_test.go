package cli

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"matrix/internal/compare"
)

func TestCompare(t *testing.T) {
	const config = `
dataset: {path: rows.jsonl, id: id}
params: {more: 0}
models:
  m: {kind: scripted, reply: "{{ item.text }} {{ params.more }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
flow: [say]
metrics: {size: "len(item.id) + params.more * (item.id == 'q7' ? 100 : 1)", none: "nil"}
`
	dir := files(t, map[string]string{"config.yaml": config, "rows.jsonl": rows(30)})
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	matrixCmd("run", dir, "-o", a).want(t, 0)
	matrixCmd("run", dir, "-o", b, "more=2", "dataset.limit=20").want(t, 0)
	matrixCmd("compare", a, b).want(t, 0, "A: "+a, "that the other has not 10 0", "done 30 20", "metric tasks A B B - A 95% from to B larger smaller equal", "size 20", "20 0 0",
		"0 of 20 tasks done in both end with the same text.", "| size")
	var r compare.Report
	if err := json.Unmarshal([]byte(matrixCmd("compare", a, b, "--json", "-n", "2").want(t, 0).out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Both != 20 || len(r.Metrics) != 1 || r.Metrics[0].Diff < 2 || r.Metrics[0].Low < 2 || r.Metrics[0].Larger != 20 || len(r.Apart) != 2 {
		t.Errorf("got %+v", r)
	}
	matrixCmd("compare", a, b, "--metric", "sise").want(t, exitUsage, "--metric sise: no task that both runs have done has it; there are size")
	matrixCmd("compare", a).want(t, exitUsage, "A and B, the folders of two runs")
	matrixCmd("compare", a, dir).want(t, exitUsage, "is not the folder of a run")
}
