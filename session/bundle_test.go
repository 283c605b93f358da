package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"matrix"
	"matrix/internal/bundle"
	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// wire carries what a worker asks within this process, and keeps it.
type wire struct {
	mu     sync.Mutex
	answer func([]byte) []byte
	frames [][]byte
}

func (*wire) MaxFrame() int { return 64 << 10 }

func (w *wire) Answer(_ string, f func([]byte) []byte) (func(), error) {
	w.answer = f
	return func() {}, nil
}

func (w *wire) Request(_ context.Context, _ string, ask []byte) ([]byte, error) {
	a := w.answer(ask)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = append(w.frames, ask, slices.Clone(a))
	return a, nil
}

// said reports whether any frame has text in it.
func (w *wire) said(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.frames, func(f []byte) bool { return bytes.Contains(f, []byte(text)) })
}

// limits are those of runs here, which are not always those of the config.
var limits = matrix.Limits{Rounds: 17, Hops: 100, Seconds: 2.5, Finish: true}

// head builds the plan of a config as its run does, and serves its bundle.
func head(t *testing.T, path string, overrides ...string) (*session.Plan, *wire) {
	t.Helper()
	c, err := spec.Load(path, overrides)
	if err != nil {
		t.Fatal(err)
	}
	p, err := session.Build(registry.New(), c, registry.ToRun)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	b, err := p.Bundle(limits, 3, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Bundle(limits, 3, nil)
	if err != nil || again.Sum() != b.Sum() {
		t.Errorf("the same bundle is %s and then %s, %v", b.Sum(), again.Sum(), err)
	}
	w := &wire{}
	if _, err := b.Serve(w); err != nil {
		t.Fatal(err)
	}
	return p, w
}

// worker opens a worker of what w has, in another folder than the head stands in.
func worker(t *testing.T, w *wire, o session.WorkerOptions) (*session.Worker, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	o.From, o.Cache = w, t.TempDir()
	x, err := session.OpenWorker(t.Context(), registry.New(), o)
	if err == nil {
		t.Cleanup(func() {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return x, err
}

// play has the agents of a plan act for a row, and returns the turns and how it ended.
func play(t *testing.T, p *session.Plan, row matrix.Row) string {
	t.Helper()
	task := &matrix.Task{ID: row.ID, Row: row.ID, Seed: 7, Item: row.Item}
	d := p.Router.Start(task)
	task.Turns = append(task.Turns, d.Open...)
	for n := 0; d.Outcome == nil && n < 100; n++ {
		agent := p.Roles[d.Role].Agent
		if agent == nil {
			t.Fatalf("role %s has no agent", d.Role)
		}
		turn, err := agent.Act(t.Context(), task)
		if err != nil {
			return fmt.Sprintf("%v", err)
		}
		turn.Role = d.Role
		for i := range turn.Calls {
			c := &turn.Calls[i]
			c.WaitMS, c.RetryMS, c.FirstMS, c.TookMS = 0, 0, 0, 0
		}
		task.Turns = append(task.Turns, turn)
		d = p.Router.Next(task)
	}
	b, err := json.MarshalIndent(struct {
		Turns   []matrix.Turn
		Outcome *matrix.Outcome
	}{task.Turns, d.Outcome}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func rowsOf(t *testing.T, p *session.Plan, most int) (rows []matrix.Row) {
	t.Helper()
	enough := errors.New("enough")
	err := p.Source.Rows(t.Context(), matrix.Position{}, func(row matrix.Row) error {
		if rows = append(rows, row); len(rows) == most {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		t.Fatal(err)
	}
	return rows
}

// TestSameSteps: a worker's plan, made of what it is sent in another folder, acts as
// the head's.
func TestSameSteps(t *testing.T) {
	examples, err := filepath.Abs("../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"coral", "coral/replay.yaml", "command", "tools", "curation"} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath("python3"); err != nil && (name == "command" || name == "tools") {
				t.Skip("no python3")
			}
			p, w := head(t, filepath.Join(examples, name))
			x, err := worker(t, w, session.WorkerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if lacks := x.Lacks(); len(lacks) > 0 || len(x.Serves()) != len(p.Roles) || x.Plan.Run.Name != p.Run.Name {
				t.Errorf("run %s lacks %v, serves %v; want %s, and all of %v", x.Plan.Run.Name, lacks, x.Serves(), p.Run.Name, p.RoleOrder())
			}
			if x.Plan.Limits != limits || x.Shards != 3 {
				t.Errorf("limits %+v, %d shards; want %+v and 3", x.Plan.Limits, x.Shards, limits)
			}
			for _, row := range rowsOf(t, p, 3) {
				want, got := play(t, p, row), play(t, x.Plan, row)
				if got != want || strings.Count(got, `"role"`) == 0 {
					t.Errorf("row %s: got\n%s\nwant\n%s", row.ID, got, want)
				}
			}
		})
	}
}

// files writes files below a new folder, which it returns.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o666)
		if strings.HasPrefix(text, "#!") {
			mode = 0o777
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestWhereverTheConfigIs: however the config is named, and from wherever, workers find
// programs, their scripts and their files as the head does, and of their own.
func TestWhereverTheConfigIs(t *testing.T) {
	const answer = `while read -r line; do seq=${line#*\"seq\":}; echo "{\"seq\": ${seq%%[,\}]*}, \"data\": {\"n\": \"$(cat "${1#--table=}") $(one)\"}}"; done` + "\n"
	const inside, above = "#!/bin/sh\n. ./lib/f.sh\n" + answer, "#!/bin/sh\n. ../shared/lib/f.sh\n" + answer
	up := strings.Repeat("../", 40)
	for _, from := range []struct{ dir, path string }{
		{"b", "."}, {"b", "config.yaml"}, {"b", "./c.yaml"}, {"b", "../b"}, {"b", "ABOVE/b/c.yaml"},
		{".", "b"}, {".", "b/c.yaml"}, {".", "a/../b/c.yaml"},
		{"a", "../b"}, {"a", "../b/c.yaml"}, {"a/deep", "../../b/c.yaml"}, {"a", "ABOVE/b"},
		{"b/lib", ".."}, {"/", "ABOVE/b/c.yaml"}, {"/", ".ABOVE/b"},
		{"else/link", "linked.yaml"}, {"else", "link/linked.yaml"}, {"a", "ABOVE/else/link/linked.yaml"},
	} {
		t.Run(from.dir+" "+from.path, func(t *testing.T) {
			top := files(t, map[string]string{
				"b/agent.sh": inside, "b/lib/f.sh": "one() { echo inside; }\n", "b/lib/t.txt": "table", "b/rows.jsonl": rows,
				"shared/tool.sh": above, "shared/lib/f.sh": "one() { echo above; }\n", "shared/lone.sh": "one() { echo lone; }\n" + answer,
				"a/deep/none": "", "else/none": "",
			})
			top, err := filepath.EvalSymlinks(top)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(top, "b"), filepath.Join(top, "else/link")); err != nil {
				t.Fatal(err)
			}
			const begin = "dataset: {path: rows.jsonl}\nroles:\n"
			text := begin + `
  a: {command: {run: [sh, agent.sh, --table=lib/t.txt], files: [lib/*.sh]}}
  b: {command: {run: [./agent.sh, TOP/b/lib/t.txt], files: [lib]}}
  c: {command: {run: [sh, ../shared/tool.sh, ../b/lib/t.txt], files: [../shared/lib/f.sh]}}
  d: {command: {run: [../shared/tool.sh, --table=lib/t.txt], files: [../shared]}}
  e: {command: {run: [sh, UPTOP/shared/tool.sh, UPTOP/b/lib/t.txt], files: [TOP/shared/lib]}}
  f: {command: {run: [sh, ../b/agent.sh, ../b/lib/t.txt], dir: ../b, files: [lib]}}
flow: [a, b, c, d, e, f]
`
			with := strings.NewReplacer("UPTOP", up+strings.TrimPrefix(top, "/"), "TOP", top, "ABOVE", top)
			for name, text := range map[string]string{"config.yaml": text, "c.yaml": text,
				"linked.yaml": begin + "  a: {command: {run: [sh, ../shared/lone.sh, ../b/lib/t.txt]}}\nflow: [a]\n"} {
				if err := os.WriteFile(filepath.Join(top, "b", name), []byte(with.Replace(text)), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if from.dir != "/" {
				from.dir = filepath.Join(top, from.dir)
			}
			t.Chdir(from.dir)
			p, w := head(t, with.Replace(from.path))
			row := rowsOf(t, p, 1)[0]
			want := play(t, p, row)
			x, err := worker(t, w, session.WorkerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if lacks := x.Lacks(); len(lacks) > 0 || len(x.Serves()) != len(p.Roles) {
				t.Fatalf("lacks %v, serves %v", lacks, x.Serves())
			}
			if err := os.Rename(top, top+"-away"); err != nil { // the worker has its own
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(top + "-away") })
			if got := play(t, x.Plan, row); got != want || strings.Count(got, `"n": "table `) != len(p.Roles) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func pngOf(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 40, 30))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// service answers chats, and keeps what it was asked and with which keys.
type service struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	keys   []string
}

func newService(t *testing.T) *service {
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies, s.keys = append(s.bodies, string(body)), append(s.keys, r.Header.Get("Authorization"))
		s.mu.Unlock()
		fmt.Fprint(w, `{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}`)
	}))
	t.Cleanup(s.Close)
	return s
}

const everything = `
defaults: [models: live, _self_]
params: {tone: "${env:TONE,plain}", limit: 3}
dataset: {path: data/rows.jsonl, id: id}
roles:
  look:
    chat:
      model: seer
      system: !file prompts/look.txt
      prompt: "{{ item.text }}, {{ params.tone }}, \\${not} a reference"
      images: [item.image]
      image_max_side: 16
  ask: {request: {model: seer, messages: item.messages, image_dir: data/pictures}}
  count: {command: {run: [./tools/count.sh, --table=tools/table.txt, "${env:WORDS_DIR,data}/more.txt"], files: ["tools/lib*"], env: {MODE: "${env:MODE,fast}"}}}
  sum: {compute: {n: 'turn("count").data.n'}}
flow: [look, ask, count, sum]
`

const live = `
seer:
  base_url: ${env:SEER_URL,http://127.0.0.1:1}/v1
  model: ${env:SEER_MODEL,small}
  api_key: ${env:SEER_CRED}
  temperature: 0.5
  extra_body: {user_tag: "${env:TAG}"}
`

const countScript = `#!/bin/sh
. ./tools/lib.sh
while read -r line; do
  echo "{\"data\": {\"n\": \"$(one)\", \"args\": \"$1 $(cat "${1#--table=}") $(cat "$2") $MODE\"}}"
done
`

// all writes a config that names files in every way there is.
func all(t *testing.T, s *service) string {
	t.Helper()
	t.Setenv("SEER_URL", s.URL)
	t.Setenv("SEER_MODEL", "large")
	t.Setenv("SEER_CRED", "sk-very-secret-key-of-the-head")
	t.Setenv("TAG", "tag-of-the-environment")
	t.Setenv("TONE", "loud")
	return files(t, map[string]string{
		"config.yaml": everything, "models/live.yaml": live, "prompts/look.txt": "Look, {{ params.limit }} times: {{ item.text }}\n",
		"data/rows.jsonl":     `{"id":"a","text":"one","image":"pictures/a.png","messages":[{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image_url","image_url":{"url":"b.png"}}]}]}` + "\n",
		"data/pictures/a.png": pngOf(t), "data/pictures/b.png": pngOf(t) + "tail", "data/more.txt": "more",
		"tools/count.sh": countScript, "tools/lib.sh": "one() { echo 1; }\n", "tools/table.txt": "table",
	})
}

// TestSameRequests: with all ways to name files, images and the environment, a service
// is asked the same by both.
func TestSameRequests(t *testing.T) {
	s := newService(t)
	dir := all(t, s)
	p, w := head(t, dir)
	want := play(t, p, rowsOf(t, p, 1)[0])
	if strings.Contains(want, `"error"`) || !strings.Contains(want, "--table=tools/table.txt table more fast") {
		t.Fatalf("the head's turns:\n%s", want)
	}
	bodies := slices.Clone(s.bodies)
	if len(bodies) != 2 || !strings.Contains(bodies[0], "loud") || !strings.Contains(bodies[1], "image/png;base64") {
		t.Fatalf("the head asked %d times: %.300s", len(bodies), bodies)
	}
	for name, value := range map[string]string{"SEER_URL": "http://127.0.0.1:9", "SEER_MODEL": "other", "TONE": "other", "SEER_CRED": "sk-key-of-the-worker", "MODE": "fast"} {
		t.Setenv(name, value)
	}
	x, err := worker(t, w, session.WorkerOptions{Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	if lacks := x.Lacks(); len(lacks) > 0 {
		t.Fatalf("lacks %v", lacks)
	}
	if got := play(t, x.Plan, rowsOf(t, p, 1)[0]); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !slices.Equal(s.bodies[2:], bodies) {
		t.Errorf("the worker asked\n%s\nthe head\n%s", s.bodies[2:], bodies)
	}
	if !slices.Equal(s.keys, []string{"Bearer sk-very-secret-key-of-the-head", "Bearer sk-very-secret-key-of-the-head", "Bearer sk-key-of-the-worker", "Bearer sk-key-of-the-worker"}) {
		t.Errorf("keys were %q", s.keys)
	}
	for _, secret := range []string{"sk-very-secret-key-of-the-head", "tag-of-the-environment"} {
		if w.said(secret) {
			t.Errorf("%q of the head's environment was sent", secret)
		}
	}
	if w.said(`"item"`) || w.said("what?") {
		t.Error("rows of the dataset were sent")
	}
}

// TestLacks: what a machine has not is named by role, and the others are served.
func TestLacks(t *testing.T) {
	s := newService(t)
	dir := all(t, s)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	bin := files(t, map[string]string{"an-interpreter": "#!/bin/sh\ncat\n"})
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	write("models/live.yaml", live+"other: {base_url: 'http://127.0.0.1:1/v1', model: m, api_key: sk-written-in-the-config, headers: {X-Tag: EMPTY}}\n")
	for _, tt := range []struct {
		name      string
		overrides []string
		unset     []string
		options   session.WorkerOptions
		lacks     map[string]string // by role: a part of the first sentence
		serves    []string
		err       string
	}{
		{"nothing", nil, nil, session.WorkerOptions{}, nil, []string{"look", "ask", "count", "sum"}, ""},
		{"a key", nil, []string{"SEER_CRED"}, session.WorkerOptions{}, map[string]string{"look": "models.seer.api_key: environment variable SEER_CRED is not set", "ask": "models.seer.api_key: environment"}, []string{"count", "sum"}, ""},
		{"a variable of the body", nil, []string{"TAG"}, session.WorkerOptions{}, map[string]string{"look": "models.seer.extra_body.user_tag: environment variable TAG is not set", "ask": "models.seer.extra_body"}, []string{"count", "sum"}, ""},
		{"what the config does not say is secret", nil, []string{"SEER_URL", "TONE", "SEER_MODEL"}, session.WorkerOptions{}, nil, []string{"look", "ask", "count", "sum"}, ""},
		{"a program", []string{"roles.count.command.run=[an-interpreter, tools/count.sh]"}, []string{"PATH"}, session.WorkerOptions{}, map[string]string{"count": "roles.count.command.run: cannot run an-interpreter"}, []string{"look", "ask", "sum"}, ""},
		{"a program in a folder of its own", []string{"roles.count.command.run=[" + bin + "/an-interpreter, tools/count.sh]"}, []string{bin}, session.WorkerOptions{}, map[string]string{"count": "roles.count.command.run: cannot run " + bin}, []string{"look", "ask", "sum"}, ""},
		{"a key that is written in the config", []string{"roles.ask.request.model=other"}, nil, session.WorkerOptions{}, map[string]string{"ask": "models.other.api_key: is a secret that is written in the config"}, []string{"look", "count", "sum"}, ""},
		{"roles that are asked for", nil, nil, session.WorkerOptions{Roles: []string{"ask"}}, nil, []string{"ask", "sum"}, ""},
		{"labels", []string{"+roles.look.where=gpu == \"h100\""}, nil, session.WorkerOptions{Labels: map[string]string{"gpu": "l4"}}, nil, []string{"ask", "count", "sum"}, ""},
		{"a role that there is not", nil, nil, session.WorkerOptions{Roles: []string{"asks"}}, nil, nil, `the run has no role "asks"; it has look, ask, count, sum`},
		{"all that is asked for", nil, []string{"SEER_CRED"}, session.WorkerOptions{Roles: []string{"ask", "look"}}, nil, nil, "this machine can serve no role of the run:\n  role ask: models.seer.api_key: environment variable SEER_CRED is not set"},
		{"slots", nil, nil, session.WorkerOptions{Slots: -1}, nil, nil, "slots: got -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, w := head(t, dir, tt.overrides...)
			for _, name := range tt.unset {
				if filepath.IsAbs(name) {
					if err := os.Rename(name, name+".gone"); err != nil {
						t.Fatal(err)
					}
					defer os.Rename(name+".gone", name)
					continue
				}
				value := os.Getenv(name)
				t.Setenv(name, strings.TrimPrefix(value, bin+":"))
				if name != "PATH" {
					os.Unsetenv(name)
				}
			}
			x, err := worker(t, w, tt.options)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(x.Serves(), tt.serves) {
				t.Errorf("serves %v, want %v", x.Serves(), tt.serves)
			}
			if len(x.Lacks()) != len(tt.lacks) {
				t.Errorf("lacks %v, want %v", x.Lacks(), tt.lacks)
			}
			for role, want := range tt.lacks {
				if got := x.Lacks()[role]; len(got) == 0 || !strings.HasPrefix(got[0], want) {
					t.Errorf("%s lacks %q, want %q", role, got, want)
				}
			}
			for name, role := range x.Plan.Roles {
				if (role.Agent != nil) != slices.Contains(tt.serves, name) {
					t.Errorf("role %s has agent %v", name, role.Agent)
				}
			}
			if w.said("sk-written-in-the-config") || w.said("sk-very-secret") {
				t.Error("a secret was sent")
			}
		})
	}
}

// TestNotForWorkers: what other processes cannot do is told before any of them joins,
// and before anything is written.
func TestNotForWorkers(t *testing.T) {
	path := config(t, echo, rows)
	recording := filepath.Join(path, "r.jsonl")
	c, err := spec.Load(path, []string{"++models.m.record=" + recording, "++cluster.serve=127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = session.Build(registry.New(), c, registry.ToRun)
	if usage := (*spec.UsageError)(nil); !errors.As(err, &usage) || !strings.Contains(err.Error(), "models.m.record") || !strings.Contains(err.Error(), "cannot record") {
		t.Errorf("got %v, want that a run with workers cannot record", err)
	}
	if _, err := os.Stat(recording); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a recording was made for a run that is refused: %v", err)
	}
}

// TestImageLater: a task whose image cannot be asked for now comes back; one whose
// image is not there fails.
func TestImageLater(t *testing.T) {
	s := newService(t)
	p, w := head(t, all(t, s))
	x, err := worker(t, w, session.WorkerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	row := rowsOf(t, p, 1)[0]
	task := &matrix.Task{ID: row.ID, Row: row.ID, Item: row.Item}
	answer := w.answer
	w.answer = func([]byte) []byte { return []byte("?") }
	_, err = x.Plan.Roles["look"].Agent.Act(t.Context(), task)
	if later := (*matrix.RetryError)(nil); !errors.As(err, &later) || !later.Free || errors.As(err, new(*matrix.FailError)) {
		t.Errorf("got %v, want a free RetryError", err)
	}
	w.answer = answer
	if _, err := x.Plan.Roles["look"].Agent.Act(t.Context(), task); err != nil {
		t.Error(err)
	}
	for _, image := range []string{"../config.yaml", "pictures/none.png", "rows.jsonl"} {
		item, err := matrix.NewValue(map[string]any{"text": "x", "image": image})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Plan.Roles["look"].Agent.Act(t.Context(), &matrix.Task{ID: "b", Item: item}); !errors.As(err, new(*matrix.FailError)) {
			t.Errorf("%s: got %v, want a FailError", image, err)
		}
	}
}

// TestFilesOverTheNetwork: a worker acts with scripts and images that are at the head
// alone, and asks what the run asks without workers.
func TestFilesOverTheNetwork(t *testing.T) {
	s := newService(t)
	dir, out := all(t, s), filepath.Join(t.TempDir(), "out")
	alone := open(t, dir, filepath.Join(t.TempDir(), "alone"))
	if err := alone.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(s.bodies)
	head := serveRun(t, dir, out)
	t.Chdir(t.TempDir())
	told, over := joinRun(t, lineOf(t, out), session.JoinOptions{})
	if err := head.end(t); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the worker", over); err != nil {
		t.Fatal(err)
	}
	told.wait(t, "Serving look, ask, count, sum.")
	if got := s.bodies[len(want):]; len(want) != 2 || !slices.Equal(got, want) {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
	b, err := os.ReadFile(filepath.Join(out, "data", "part-00000.jsonl"))
	if err != nil || !strings.Contains(string(b), "--table=tools/table.txt table more fast") {
		t.Errorf("got %s, %v", b, err)
	}
}

var _ bundle.Asker = (*wire)(nil)
