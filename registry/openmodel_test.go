package registry

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix/internal/config"
	"matrix/llm"
	"matrix/spec"
)

func TestOpenModel(t *testing.T) {
	tree, err := config.LoadText(spec.Run{}, "talk.yaml", `
params: {word: so}
models:
  a: {kind: scripted, reply: "{{ params.word }} {{ prompt }}", record: never.jsonl}
  b: {kind: nothing}
  c: {kind: scripted, replay: x}
  d: {base_url: "gpu1:8000"}
  e: {kind: 7}
`, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for _, tt := range []struct{ name, want string }{
		{"b", `talk.yaml:5:13: models.b.kind: there is no kind of model "nothing"`},
		{"c", "talk.yaml:6:23: models.c.replay: unknown key"},
		{"d", "has no scheme; write http://gpu1:8000"},
		{"e", "models.e.kind"},
	} {
		m, err := New().OpenModel(tree, tt.name, tree.Root().Get("models."+tt.name))
		if m != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v and error %v, want %q", tt.name, m, err, tt.want)
		}
	}
	m, err := New().OpenModel(tree, "a", tree.Root().Get("models.a"))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := m.Do(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "it is"}}})
	if err != nil || rep.Choices[0].Text != "so it is" {
		t.Errorf("got %+v, %v", rep, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if found, _ := filepath.Glob("*"); len(found) > 0 {
		t.Errorf("got the files %v: a model that is opened by itself records nothing", found)
	}
	if kinds := New().ModelKinds(); !slices.IsSorted(kinds) || !slices.Contains(kinds, "openai") || !slices.Contains(kinds, "sim") {
		t.Errorf("got the kinds %v", kinds)
	}
}
