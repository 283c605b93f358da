package registry

import (
	"strings"
	"testing"
)

func TestPythonPool(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "tools.py", "def calculate(expression: str): return eval(expression)\n")
	for _, test := range []struct {
		name, pool string
		want       []string // in the error; none: it is well
	}{
		{"well", "{kind: python, file: tools.py, functions: [calculate]}", nil},
		{"no file", "{kind: python}", []string{"pools.calc", "file"}},
		{"file is not there", "{kind: python, file: tool.py}", []string{"config.yaml:6", "pools.calc.file", "tool.py"}},
		{"a folder", "{kind: python, file: .}", []string{"pools.calc.file", "is a folder"}},
		{"no interpreter", "{kind: python, file: tools.py, python: no-such-python}", []string{"pools.calc.python", "cannot run no-such-python"}},
		{"no interpreter in a file", "{kind: python, file: tools.py, python: .venv/bin/python}", []string{"pools.calc.python", "cannot run", ".venv/bin/python"}},
		{"numbers", "{kind: python, file: tools.py, workers: 0, concurrency: -1, timeout: 0s}", []string{"pools.calc.workers", "pools.calc.concurrency", "pools.calc.timeout"}},
		{"files", "{kind: python, file: tools.py, files: [nothing*.py]}", []string{"pools.calc.files.0", "nothing*.py"}},
		{"typing error", "{kind: python, file: tools.py, function: [calculate]}", []string{"function", "functions"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := build(t, pooled+"  calc: "+strings.ReplaceAll(test.pool, "tools.py", dir+"/tools.py")+"\n")
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
}
