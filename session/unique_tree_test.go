package session

import (
	"os"
	"path/filepath"
	"testing"

	"matrix/internal/rundir"
	"matrix/registry"
	"matrix/run"
	"matrix/spec"
)

// The index of a run whose kept tasks are children is not made anew when the run is opened
// again: it is whole without the output.
func TestIndexOfChildrenStays(t *testing.T) {
	dir := t.TempDir()
	const text = `
dataset: {path: rows.jsonl, id: id}
roles:
  split: {compute: {parts: "['one', 'two', 'three']"}}
  say: {compute: {text: item.part}}
flow:
  start: split
  after:
    split: {expand: last.data.parts, as: part, to: say}
    say: {finish: last.data.text}
unique: {on: last.data.text, method: exact}
`
	for name, content := range map[string]string{"config.yaml": text, "rows.jsonl": `{"id":"a"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	c, err := spec.Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	s, err := Open(t.Context(), registry.New(), c, Options{Dir: out})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := s.Progress(); p.Done != 3 {
		t.Fatalf("got %+v", p.Totals)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	p, err := Build(registry.New(), c, registry.ToRun)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	folder, err := rundir.NewClaim(out, rundir.ClaimOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	if err := folder.Open(t.Context(), c, registry.New().Parts()); err != nil {
		t.Fatal(err)
	}
	folder.Configure(new(run.Config), c.Run.Output)
	if err := os.RemoveAll(filepath.Join(out, rundir.DataDir)); err != nil {
		t.Fatal(err)
	}
	u, err := openUnique(t.Context(), folder, p.Unique, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}
