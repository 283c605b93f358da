package registry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/registry"
	"matrix/spec"
)

func TestServed(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := t.TempDir()
	load := func(models string) (*config.Tree, *spec.Run) {
		file := filepath.Join(dir, "config.yaml")
		text := "dataset: {path: rows.jsonl}\nroles: {a: {compute: {x: '1'}}}\nflow: [a]\nmodels:\n" + models
		for name, text := range map[string]string{file: text, filepath.Join(dir, "rows.jsonl"): "{\"a\":1}\n"} {
			if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		tree, err := config.Load(spec.Run{}, file, nil)
		if err != nil {
			t.Fatal(err)
		}
		var run spec.Run
		if err := tree.Decode(&run); err != nil {
			t.Fatal(err)
		}
		return tree, &run
	}
	r := registry.New()

	tree, run := load("  t: {model: org/m, serve: {engine: vllm, replicas: 2}}\n  s: {kind: scripted, reply: x}\n")
	all, err := r.Served(tree, run)
	if err != nil || len(all) != 1 || all[0].Name != "t" || all[0].Is != "org/m" || all[0].Dir != dir || all[0].Serve.Replicas != 2 {
		t.Fatalf("got %+v and %v, want t with 2 replicas in %s", all, err, dir)
	}
	plan, err := r.Build(tree, run, registry.ToCheck) // needs no base_url
	if err != nil {
		t.Fatal(err)
	}
	plan.Close()
	if _, err := launch.StateOf(tree.File()); err != nil {
		t.Error(err)
	}

	tree, run = load("  t: {serve: {engine: vllm, command: [x], replicas: -1}}\n  u: {serve: {engin: vllm}}\n  v: {serve: {command: [x, --at, '{prot}']}}\n  w: {serve: {engine: vllm, replicas: 0}}\n")
	_, err = r.Served(tree, run)
	for _, want := range []string{"models.t.serve.command: goes with engine command only", "models.u.serve.engin: unknown key",
		"models.v.serve.command: there is no {prot} (did you mean {port}?)", "models.w.serve.replicas: got 0, want 1 or more"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Served: got %v, want %q in it", err, want)
		}
		if _, err := r.Build(tree, run, registry.ToCheck); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Build: got %v, want %q in it", err, want)
		}
	}
}
