package registry

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/bundle"
	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/spec"
)

// lay lays out what a plan's bundle has as a copy does, less what is mirrored, and
// builds it there.
func lay(t *testing.T, r *Registry, c bundle.Contents) (*Plan, *spec.Run, error) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	for _, name := range c.Folders {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range c.Files {
		if f.Mirrored {
			continue
		}
		b, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(at), 0o777); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o666)
		if f.Exec {
			mode = 0o777
		}
		if err := os.WriteFile(at, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "config.yaml", string(c.Config))
	tree, err := config.Load(spec.Run{}, dir, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, c.Config)
	}
	run := &spec.Run{}
	if err := tree.Decode(run); err != nil {
		t.Fatalf("%v in\n%s", err, c.Config)
	}
	p, err := r.Build(tree, run, ToWork)
	if err == nil {
		t.Cleanup(func() { _ = p.Close() })
	}
	return p, run, err
}

// contents builds a config with files beside it and says what goes to workers.
func contents(t *testing.T, r *Registry, yaml string, beside map[string]string) (c bundle.Contents, withheld []string, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "config.yaml", yaml)
	write(t, dir, "rows.jsonl", rows)
	for name, text := range beside {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, text)
		if strings.HasPrefix(text, "#!") {
			if err := os.Chmod(filepath.Join(dir, name), 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	tree, err := config.Load(spec.Run{}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	p, err := r.Build(tree, &run, ToCheck)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	c, withheld, err = p.Contents()
	return c, withheld, dir, err
}

func TestContents(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "shared.py", "x = 1\n")
	write(t, outside, "bin", "#!/bin/sh\ncat\n")
	if err := os.Chmod(filepath.Join(outside, "bin"), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OUTSIDE", outside)
	for _, tt := range []struct {
		name  string
		roles string
		files string // that go along, by name in the folder of the config, or in OUTSIDE
		there string // part of the config there
	}{
		{"a script", "{run: [python3, agent.py]}", "agent.py", ""},
		{"a lone text", "{run: cat}", "", ""},
		{"a script of a lone text", "{run: ./own.sh}", "own.sh!", ""},
		{"a program in the folder", "{run: [./own.sh, lib]}", "own.sh!", ""},
		{"by its whole path", "{run: ['${env:DIR}/own.sh']}", "own.sh!", "./own.sh"},
		{"a program elsewhere", "{run: ['${env:OUTSIDE}/bin', agent.py]}", "agent.py", "OUTSIDE/bin"},
		{"a link to one elsewhere", "{run: [./link, agent.py]}", "agent.py", "DIR/link"},
		{"a script elsewhere", "{run: [python3, '${env:OUTSIDE}/shared.py']}", "OUTSIDE/shared.py", "../"},
		{"in a flag", "{run: [python3, agent.py, --table=lib/a.txt, '--more=${env:OUTSIDE}/shared.py', --none=none.txt]}", "OUTSIDE/shared.py agent.py lib/a.txt", "--more=../"},
		{"the same twice", "{run: [python3, agent.py, agent.py], files: [agent.py]}", "agent.py", ""},
		{"files", "{run: [python3, agent.py], files: [lib, '*.txt']}", "agent.py lib/a.txt lib/deep/b.txt top.txt", ""},
		{"a folder to run in", "{run: [python3, a.txt], dir: lib}", "lib/a.txt", "dir: filesDIR/lib"},
		{"words", "{run: [python3, -c, 'print(1)', '', '-', '=', --, 'a=b']}", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DIR", dir)
			for name, text := range map[string]string{"agent.py": "", "own.sh": "#!/bin/sh\ncat\n", "lib/a.txt": "a", "lib/deep/b.txt": "b", "top.txt": "t", "rows.jsonl": rows,
				"config.yaml": "dataset: {path: rows.jsonl}\nroles: {a: {command: " + tt.roles + "}}\nflow: [a]\n"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
					t.Fatal(err)
				}
				write(t, dir, name, text)
			}
			if err := os.Chmod(filepath.Join(dir, "own.sh"), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(outside, "bin"), filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			tree, err := config.Load(spec.Run{}, dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			var run spec.Run
			if err := tree.Decode(&run); err != nil {
				t.Fatal(err)
			}
			p, err := New().Build(tree, &run, ToCheck)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			c, withheld, err := p.Contents()
			if err != nil || len(withheld) > 0 {
				t.Fatal(err, withheld)
			}
			short := strings.NewReplacer(dir+"/", "", outside, "OUTSIDE", dir, "DIR")
			var names []string
			for _, f := range c.Files {
				name := short.Replace(f.Path)
				if f.Exec {
					name += "!"
				}
				names = append(names, name)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != tt.files {
				t.Errorf("got files %q, want %q", got, tt.files)
			}
			if text := strings.NewReplacer(outside, "OUTSIDE", dir, "DIR").Replace(string(c.Config)); !strings.Contains(text, tt.there) {
				t.Errorf("got\n%s\nwant %s in it", text, tt.there)
			}
			w, _, err := lay(t, New(), c)
			if err != nil || len(w.Lacks()) > 0 || w.Roles["a"].Agent == nil {
				t.Errorf("there: %v, lacks %v", err, w.Lacks())
			}
		})
	}
}

// TestServedElsewhere: where servers are is told to workers as it changes.
func TestServedElsewhere(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c, _, dir, err := contents(t, New(), `
dataset: {path: rows.jsonl}
models:
  started: {model: m, serve: {command: [serve, "{port}"], env: {TOKEN: sk-a-long-secret}}}
  listed: {model: m, endpoints: {file: urls.txt, every: 1s}}
  several: {model: m, endpoints: [{url: "http://a/v1"}, {file: urls.txt}]}
  fixed: {model: m, base_url: "http://a/v1", serve: {command: [serve]}}
roles:
  a: {chat: {model: started, prompt: p}}
  b: {chat: {model: listed, prompt: p}}
  c: {chat: {model: several, prompt: p}}
  d: {chat: {model: fixed, prompt: p}}
flow: [a, b, c, d]
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	state, err := launch.StateOf(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range c.Files {
		if !f.Mirrored {
			t.Errorf("%s is not mirrored", f.Path)
		}
		paths = append(paths, f.Path)
	}
	if want := []string{dir + "/urls.txt", state.Endpoints("started")}; !slices.Equal(paths, want) {
		t.Errorf("got %v, want %v", paths, want)
	}
	if text := string(c.Config); strings.Contains(text, "serve") || strings.Contains(text, "sk-a-long-secret") {
		t.Errorf("how servers are started goes along:\n%s", text)
	}
	p, _, err := lay(t, New(), c)
	if err != nil || len(p.Lacks()) > 0 {
		t.Errorf("got %v, lacks %v", err, p.Lacks())
	}
}

// TestListedByProgram: a program that says where servers are has to be there.
func TestListedByProgram(t *testing.T) {
	c, _, _, err := contents(t, New(), `
dataset: {path: rows.jsonl}
models:
  one: {model: m, endpoints: {command: [no-such-program, -v]}}
  two: {model: m, endpoints: [{url: "http://a/v1"}, {command: [no-such-program]}]}
  three: {model: m, endpoints: [{command: [sh, -c, "echo http://a/v1"]}]}
roles:
  a: {chat: {model: one, prompt: p}}
  b: {chat: {model: two, prompt: p}}
  c: {chat: {model: three, prompt: p}}
flow: [a, b, c]
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := lay(t, New(), c)
	if err != nil {
		t.Fatal(err)
	}
	lacks, _ := json.Marshal(p.Lacks())
	if want := `{"a":["models.one.endpoints.command: cannot run no-such-program: executable file not found in $PATH"],"b":["models.two.endpoints.1.command: cannot run no-such-program: executable file not found in $PATH"]}`; string(lacks) != want {
		t.Errorf("lacks %s, want %s", lacks, want)
	}
}

// asker is an agent kind of the tests' own: it asks a model, and reads a file.
type asker struct {
	Model string `yaml:"model"`
	File  string `yaml:"file" path:"true"`
}

// TestOwnKindsElsewhere: kinds that a program adds have their files sent, too, and miss a model
// that cannot be made.
func TestOwnKindsElsewhere(t *testing.T) {
	kinds := func() *Registry {
		r := New()
		Agent(r, "asker", func(b Build, c asker) (matrix.Agent, error) {
			if _, ok := b.Models[c.Model]; !ok {
				return nil, errors.New("no model")
			}
			if b, err := os.ReadFile(c.File); err != nil || string(b) != "text" {
				return nil, errors.New("no file")
			}
			return matrix.AgentFunc(nil), nil
		})
		return r
	}
	t.Setenv("OWN_CRED", "a-secret-of-the-head")
	c, withheld, _, err := contents(t, kinds(), `
dataset: {path: rows.jsonl}
models: {m: {base_url: "http://a/v1", model: m, api_key: "${env:OWN_CRED}"}, n: {kind: scripted, reply: a}, o: {kind: openrouter, model: m/n, api_key: a-written-secret}}
roles:
  a: {asker: {model: m, file: f.txt}}
  b: {asker: {model: n, file: f.txt}}
  c: {chat: {model: o, prompt: p}}
  d: {compute: {x: "1"}}
flow: [a, b, c, d]
`, map[string]string{"f.txt": "text"})
	if err != nil || !slices.Equal(withheld, []string{"models.o.api_key"}) {
		t.Fatal(err, withheld)
	}
	os.Unsetenv("OWN_CRED")
	r := kinds()
	r.Lacking = map[string]error{"models.o.api_key": errors.New("is not sent"), "models.other": errors.New("x"), "roles.dd": errors.New("y")}
	p, run, err := lay(t, r, c)
	if err != nil {
		t.Fatal(err)
	}
	lacks, _ := json.Marshal(p.Lacks())
	if want := `{"a":["roles.a.asker: no model"],"c":["models.o.api_key: is not sent"]}`; string(lacks) != want {
		t.Errorf("lacks %s, want %s", lacks, want)
	}
	if p.Roles["a"].Agent != nil || p.Roles["b"].Agent == nil || p.Source != nil || p.Roles["a"].Kind != "asker" || run.Roles["a"].Attempts != p.Roles["a"].Attempts {
		t.Errorf("got %+v", p.Roles)
	}
	r.Lacking = map[string]error{"roles.b.asker.file": errors.New("is too large")}
	if p, _, err = lay(t, r, c); err != nil || !strings.Contains(strings.Join(p.Lacks()["b"], ""), "roles.b.asker.file: is too large") {
		t.Errorf("got %v, %v", p.Lacks(), err)
	}
}

// TestImageFolders: only where rows may name images are they read for workers.
func TestImageFolders(t *testing.T) {
	c, _, dir, err := contents(t, New(), `
dataset: {path: rows.jsonl}
models: {m: {kind: scripted, reply: a}}
roles:
  a: {chat: {model: m, prompt: p}}
  b: {chat: {model: m, prompt: p, images: [item.id]}}
  c: {chat: {model: m, prompt: p, images: [item.id], image_dir: pics}}
  d: {request: {model: m, messages: item.question, image_dir: /}}
flow: [a, b, c, d]
`, nil)
	if want := []string{dir, dir + "/pics", "/"}; err != nil || !slices.Equal(c.Images, want) || len(c.Files) > 0 {
		t.Errorf("got %v, %v, files %v, want %v", c.Images, err, c.Files, want)
	}
}
