package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"matrix"
)

// TestCommandNeverAnswered: a program that cannot begin stops the run at once,
// with what it said, and one that answers only when its stdin ends after a few
// tasks; one that rows break does not, though they are the first and many.
func TestCommandNeverAnswered(t *testing.T) {
	t.Parallel()
	exe := pythonPath()
	if exe == "" {
		t.Skip("python3 is not there")
	}
	ask := func(program string) []string { return []string{exe, "-c", program} }
	loop := "import sys, json, time\nfor line in sys.stdin:\n  task = json.loads(line)\n  "
	for _, tt := range []struct {
		name  string
		run   []string
		tasks int    // that got an error before the one that stops
		want  string // of the stop; empty: there is none
	}{
		{"cannot import", ask("import no_such_module_here"), 0, "No module named 'no_such_module_here'"},
		{"no script", []string{exe, filepath.Join(t.TempDir(), "nothere.py")}, 0, "nothere.py"},
		{"ends well at once", []string{"true"}, 0, "ended without an answer: exit status 0, before it was asked anything"},
		{"a banner, then an import that fails", ask("import time; print('hello', flush=True); import no_such_module_here"), 0, "before it was asked anything"},
		{"ends at each question", ask(loop + "raise SystemExit('bad row')"), 6, ""},
		{"garbage for each question", ask(loop + "print('I am no JSON', flush=True)"), 6, ""},
		{"silent", ask(loop + "pass"), 6, ""},
		{"silent: does not flush", ask(loop + "print(json.dumps({'text': 'x'}))"), 2, "gave it once its stdin was closed: it should answer each line of its input before it reads the next, and flush"},
		{"silent: reads all first", ask("import sys, json\nall = [json.loads(l) for l in sys.stdin]\nprint(json.dumps({'text': 'x'}))"), 2, "gave it once its stdin was closed"},
		{"ends at the first questions", ask(loop + "assert task['id'] > 't3'\n  print(json.dumps({'text': 'x'}), flush=True)"), 4, ""},
		{"ends at one question", ask(loop + "assert task['id'] != 't0'\n  print(json.dumps({'text': 'x'}), flush=True)"), 1, ""},
		{"ends at each question but one", ask(loop + "assert task['id'] == 't1'\n  print(json.dumps({'text': 'x'}), flush=True)"), 5, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Command{Run: tt.run}
			if strings.HasPrefix(tt.name, "silent") {
				c.Timeout, c.Env = time.Second, map[string]string{"PYTHONUNBUFFERED": ""}
			}
			a := command(t, c, nil)
			failed := 0
			for i := range 6 {
				_, err := a.Act(t.Context(), &matrix.Task{ID: fmt.Sprint("t", i), Item: value(t, `{}`)})
				var stop *matrix.StopError
				if errors.As(err, &stop) {
					if tt.want == "" || !strings.Contains(err.Error(), tt.want) {
						t.Errorf("task %d: got the stop %v, want %q", i, err, tt.want)
					}
					if failed != tt.tasks {
						t.Errorf("stopped after %d tasks that got an error, want %d", failed, tt.tasks)
					}
					return
				}
				if err != nil {
					failed++
				}
			}
			if tt.want != "" || failed != tt.tasks {
				t.Errorf("%d of 6 tasks got an error and nothing stopped; want %d, and %q", failed, tt.tasks, tt.want)
			}
		})
	}
}

// TestCommandPersists: where the run is to go on whatever fails, only a program that
// cannot begin stops it.
func TestCommandPersists(t *testing.T) {
	t.Parallel()
	exe := pythonPath()
	if exe == "" {
		t.Skip("python3 is not there")
	}
	for program, want := range map[string]bool{
		"import sys\nfor line in sys.stdin: print('{\"text\": \"x\"}')": false,
		"import no_such_module_here":                                    true,
	} {
		c := Command{Run: []string{exe, "-c", program}, Env: map[string]string{"PYTHONUNBUFFERED": ""}}
		if !want {
			c.Timeout = time.Second
		}
		a := command(t, c, nil)
		a.Persist()
		stops := false
		for i := range 4 {
			_, err := a.Act(t.Context(), &matrix.Task{ID: fmt.Sprint("t", i), Item: value(t, `{}`)})
			var stop *matrix.StopError
			stops = stops || errors.As(err, &stop)
		}
		if stops != want {
			t.Errorf("%q stops the run: got %v, want %v", program, stops, want)
		}
	}
}

// TestCommandOneTask: a row that breaks the program, again and again, is the
// row's fault.
func TestCommandOneTask(t *testing.T) {
	exe := pythonPath()
	if exe == "" {
		t.Skip("python3 is not there")
	}
	a := command(t, Command{Run: []string{exe, "-c", "import sys\nfor line in sys.stdin: sys.exit(3)"}}, nil)
	for range 5 {
		_, err := a.Act(t.Context(), &matrix.Task{ID: "x", Item: value(t, `{}`)})
		var stop *matrix.StopError
		if err == nil || errors.As(err, &stop) {
			t.Fatalf("got %v, want an error that stops nothing", err)
		}
	}
}
