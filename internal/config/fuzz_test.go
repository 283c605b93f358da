package config_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"matrix/internal/config"
	"matrix/spec"
)

func FuzzLoad(f *testing.F) {
	for _, s := range []string{full, "a: &x {b: *x}\n", "<<: [*a]\n? b\n: |\n c\n", "a: ${b}\nb: ${env:X,${a}}\n", "defaults: [config]\n",
		"a: !file config.yaml\n", "defaults: [_self_, {optional a@b: [c]}, {override /d: e}]\n", "\xef\xbb\xbf%YAML 1.2\n---\n'a': \"\\u00e9\"\r\n", "a: {b: '${.c}', c: '${..d}'}\nd: [1]\n", "a: {''}\nd: [1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		tree, err := config.Load(spec.Run{}, file, nil)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		check(t, tree, err)
	})
}

func FuzzOverride(f *testing.F) {
	for _, s := range []string{"name=x", "+a.b=[c, {d: 'e', \"f\\n\": ${g}}]", "~models.t", "++x={a: {{b}}}", "models.t.stop=[", "l[0]=1", "+db@x=y", "~a=${name}", "a=!file b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(full), 0o644); err != nil {
			t.Fatal(err)
		}
		tree, err := config.Load(spec.Run{}, file, []string{s})
		check(t, tree, err)
	})
}

// check does with a tree all that can be done.
func check(t *testing.T, tree *config.Tree, err error) {
	t.Helper()
	if err != nil {
		_ = err.Error()
		return
	}
	var run spec.Run
	if tree.Decode(&run) == nil {
		for _, s := range run.Models {
			_ = s.Decode(&openAI{})
		}
	}
	var walk func(s *config.Section)
	walk = func(s *config.Section) {
		_ = s.ErrorAt("", 2, 3, "x").Error()
		_ = s.Unknown("a").Error()
		for _, k := range s.Keys() {
			if c := s.Child(k); c != nil {
				walk(c)
			}
		}
		for _, i := range s.Items() {
			walk(i)
		}
	}
	walk(tree.Root())
	_ = tree.YAML(true)
	// What is printed loads again.
	file := filepath.Join(t.TempDir(), "again.yaml")
	if err := os.WriteFile(file, tree.YAML(false), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := config.Load(spec.Run{}, file, nil)
	if err != nil {
		var v any
		if tree.Decode(&v) == nil { // no variable is missing
			t.Fatalf("printed as %q: %v", tree.YAML(false), err)
		}
		return
	}
	_ = config.Diff(tree, again, "")
}
