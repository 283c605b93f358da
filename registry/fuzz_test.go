package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix/internal/config"
	"matrix/spec"
)

// Whatever stands in a flow, building it gives a plan or errors that say where.
func FuzzFlow(f *testing.F) {
	for _, s := range []string{
		"[a, b]", "[a, {role: b, stop: last.text == 'x', finish: 1}]", "a", "[]", "{}", "null", "[[a]]", "{kind: graph}", "{kind: [x]}",
		"{start: a, after: {a: b, b: [{finish: true}]}}",
		"{start: [{when: trial > 0, to: a}, {to: b}], after: {a: b, b: [{when: item.id, fail: '{{ id }}'}, {to: a}]}, on_error: {a: b}}",
		"{open: [{role: user, text: '{{ item.x }}'}], start: a, after: {a: [{}, {to: a, finish: 1}], b: }}",
		"{start: {to: a}, after: {a: {b: c}, '': a, 'a.b': b}}",
	} {
		f.Add(s)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(rows), 0o600); err != nil {
		f.Fatal(err)
	}
	r := testRegistry()
	f.Fuzz(func(t *testing.T, flow string) {
		if strings.Contains(flow, "!file") || strings.Contains(flow, "dataset") {
			t.Skip()
		}
		file := filepath.Join(t.TempDir(), "config.yaml")
		text := "name: x\ndataset: {path: " + filepath.Join(dir, "rows.jsonl") + "}\nroles: {a: {note: {say: hi}}, b: {note: {say: hi}}}\nflow: " + flow + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err := config.Load(spec.Run{}, file, nil)
		if err != nil {
			t.Skip()
		}
		var run spec.Run
		if err := tree.Decode(&run); err != nil {
			t.Skip()
		}
		plan, err := r.Build(tree, &run, ToCheck)
		if err == nil {
			if plan.Router == nil || plan.Flow.Text() == "" {
				t.Errorf("%s: got a plan without a router", flow)
			}
			if err := plan.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		var es config.Errors
		if !errors.As(err, &es) {
			t.Fatalf("%s: got a %T: %v", flow, err, err)
		}
		for _, e := range es {
			if e.File == "" || e.Line == 0 || e.Msg == "" {
				t.Errorf("%s: got an error without a place: %v", flow, e)
			}
		}
	})
}
