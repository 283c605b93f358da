package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"matrix/internal/config"
	"matrix/spec"
)

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	code, out, errs := command(t, "schema")
	if code != 0 {
		t.Fatalf("schema: exit code %d: %s", code, errs)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("matrix.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("matrix.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plainConfig is a config as the schema sees it.
func plainConfig(t *testing.T, path string) map[string]any {
	t.Helper()
	tree, err := config.Load(spec.Run{}, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := tree.Decode(&m); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v.(map[string]any)
}

func TestSchemaTakesTheExamples(t *testing.T) {
	s := compiledSchema(t)
	paths, err := filepath.Glob("../examples/*/config.yaml")
	if err != nil || len(paths) < 3 {
		t.Fatalf("got the examples %q (%v), want three or more", paths, err)
	}
	paths = append(paths, "../examples/coral/replay.yaml")
	for _, path := range paths {
		if err := s.Validate(plainConfig(t, path)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compiledSchema(t)
	for name, spoil := range map[string]func(c map[string]any){
		"unknown key":        func(c map[string]any) { c["rolse"] = 1 },
		"unknown agent":      func(c map[string]any) { c["roles"] = map[string]any{"a": map[string]any{"chatt": map[string]any{}}} },
		"unknown key inside": func(c map[string]any) { c["dataset"].(map[string]any)["pth"] = "x" },
		"wrong type":         func(c map[string]any) { c["live"] = "many" },
		"unknown kind":       func(c map[string]any) { c["models"] = map[string]any{"m": map[string]any{"kind": "oracle"}} },
		"an empty regex": func(c map[string]any) {
			c["roles"] = map[string]any{"a": map[string]any{"chat": map[string]any{"model": "m", "parse": map[string]any{"regex": ""}}}}
		},
		"rule with a bad key": func(c map[string]any) { c["flow"].(map[string]any)["start"] = []any{map[string]any{"too": "x"}} },
	} {
		c := plainConfig(t, "../examples/coral/config.yaml")
		spoil(c)
		if err := s.Validate(c); err == nil {
			t.Errorf("%s: the schema takes it", name)
		}
	}
}

// docs/config.md is made from the code. When this fails:
//
//	go run ./cmd/matrix reference > docs/config.md
func TestReferenceIsFresh(t *testing.T) {
	want, err := os.ReadFile("../docs/config.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("docs/config.md is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, got, _ := command(t, "reference"); got != string(want) {
		t.Error("docs/config.md is stale; run: go run ./cmd/matrix reference > docs/config.md")
	}
}

func TestGraph(t *testing.T) {
	for format, want := range map[string]string{"text": "start\n", "mermaid": "flowchart TD", "dot": "digraph flow {"} {
		code, out, errs := command(t, "graph", "../examples/coral", "--format", format)
		if code != 0 || !strings.Contains(out, want) || !strings.Contains(out, "teacher") {
			t.Errorf("graph --format %s: exit code %d, got\n%s%s", format, code, out, errs)
		}
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"../examples/coral", "--format", "mermiad"}, `did you mean "mermaid"?`},
		{[]string{"../examples/coral", "--format", "svg"}, "there are text, mermaid, dot"},
		{[]string{"../examples/coral", "flow.start=techer"}, "techer"},
		{nil, "needs CONFIG"},
	} {
		code, _, errs := command(t, append([]string{"graph"}, test.args...)...)
		if code != 2 || !strings.Contains(errs, test.want) {
			t.Errorf("graph %q: exit code %d and %q, want 2 and %q", test.args, code, errs, test.want)
		}
	}
}
