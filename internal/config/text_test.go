package config_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"matrix/internal/config"
	"matrix/spec"
)

func TestLoadText(t *testing.T) {
	t.Setenv("CONFIG_TEST_KEY", "s3cret")
	write(t, "config.yaml", "models:\n  a:\n    api_key: ${env:CONFIG_TEST_KEY}\n    model: ${params.m}\n    n: 1\n    note: '\\${x}'\nparams: {m: big}\n")
	from := load(t)
	part := from.Root().Get("models.a")
	tree, err := config.LoadText(spec.Run{}, "the command", "name: ${models.model}\nmodels: lost\ndataset: {path: rows.jsonl}\n",
		map[string]*config.Section{"models": part}, []string{"models.n=2", "+models.more=x", "live=3"})
	if err != nil {
		t.Fatal(err)
	}
	own := m{"api_key": "s3cret", "model": "big", "n": 2, "note": "${x}", "more": "x"}
	want := m{"name": "big", "models": own, "dataset": m{"path": "rows.jsonl"}, "live": 3}
	if diff := cmp.Diff(any(want), plain(t, tree)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := part.Get("n"); n.Pos("").Line != 5 {
		t.Errorf("got %+v, want the part's own place", n.Pos(""))
	}
	var was int
	if err := part.Get("n").Decode(&was); err != nil || was != 1 || part.Get("more") != nil {
		t.Errorf("the section that was given: got n %d, more %v, error %v; want it as it was", was, part.Get("more"), err)
	}
	if pos := tree.Root().Pos("models.note"); filepath.Base(pos.File) != "config.yaml" || pos.Line != 6 {
		t.Errorf("got the place %+v, want where the part was written", pos)
	}
	if pos := tree.Root().Pos("dataset.path"); pos.File != "the command" || pos.Line != 3 {
		t.Errorf("got the place %+v, want the text's", pos)
	}
	if tree.File() != "the command" {
		t.Errorf("got the file %q", tree.File())
	}
}

// Paths in a text begin in the working directory.
func TestLoadTextPaths(t *testing.T) {
	write(t, "rows.jsonl", "{}\n")
	tree, err := config.LoadText(spec.Run{}, "text", `{"dataset": {"path": ["rows.jsonl"]}, "flow": ["a"], "roles": {}}`, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(wd, "rows.jsonl"); len(run.Dataset.Path) != 1 || run.Dataset.Path[0] != want {
		t.Errorf("got %q, want %q", run.Dataset.Path, want)
	}
}

func TestLoadTextErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		overrides  []string
		want       string
	}{
		{"no YAML", "a: [", nil, "the command:1"},
		{"no such reference", "name: ${nowhere}", nil, "the command:1:7: name: ${nowhere} refers to nothing"},
		{"an override that is none", "name: x", []string{"live"}, "command line"},
		{"an override of nothing", "name: x", []string{"nmae=y"}, "nmae"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.LoadText(spec.Run{}, "the command", tt.text, nil, tt.overrides)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A literal stands for itself, whatever is in it.
func TestLiteral(t *testing.T) {
	for _, text := range []string{"", "plain", "${a}", `\${a}`, `\\${a}`, "${", "$${x}${", "{{ item.a }} ${env:HOME}", "a\n b\t: #'\"", "\u2028é😀", "!x", "~", "012", "yes"} {
		raw, err := json.Marshal(config.Literal(text))
		if err != nil {
			t.Fatal(err)
		}
		tree, err := config.LoadText(spec.Run{}, "t", `{"name": `+string(raw)+`}`, nil, nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		var run struct {
			Name string `yaml:"name"`
		}
		if err := tree.Decode(&run); err != nil || run.Name != text {
			t.Errorf("got %q (%v), want %q", run.Name, err, text)
		}
	}
}

// Any struct can be the root of a config, not only a run.
func TestAnyRoot(t *testing.T) {
	type server struct {
		Port  int               `yaml:"port" default:"80"`
		Names map[string]string `yaml:"names"`
	}
	load := func(overrides ...string) (s server, err error) {
		tree, err := config.LoadText(s, "server", "names: {a: one}", nil, overrides)
		if err == nil {
			err = tree.Decode(&s)
		}
		return s, err
	}
	if s, err := load("port=8080", "+names.b=two"); err != nil || s.Port != 8080 || s.Names["a"] != "one" || s.Names["b"] != "two" {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := load("dataset.limit=3"); err == nil || !strings.Contains(err.Error(), "dataset") {
		t.Errorf("a key of a run alone: got %v", err)
	}
}
