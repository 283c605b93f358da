package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"matrix"
	"matrix/lang"
	"matrix/sandbox"
)

// Exec is an agent that runs a command in a sandbox. Its turn's data is what came of it:
// code, out, err, signal, timed_out, oom, cut (bytes of the output that were left out),
// files (by path; null of one that is not there) and tests. Whatever a command does to
// itself is data: an exit code, a time limit, too much memory.
type Exec struct {
	Pool    string            `yaml:"pool" required:"true" doc:"Name of the pool of sandboxes."`
	Run     []string          `yaml:"run" doc:"Program and arguments, each a template. One of run and shell is given."`
	Shell   string            `yaml:"shell" doc:"Template of a script for /bin/sh."`
	Stdin   string            `yaml:"stdin" doc:"Template of what the command reads."`
	Dir     string            `yaml:"dir" doc:"Template of the folder in which it runs. Default: the pool's."`
	Files   map[string]string `yaml:"files" doc:"Templates of what files hold, by their path: written before the command runs."`
	Get     []string          `yaml:"get" doc:"Templates of paths: files of the sandbox that stand in data.files once the command has run, null where one is not there."`
	Merge   bool              `yaml:"merge" doc:"Standard error goes where standard output goes, in the order in which it was written." default:"false"`
	Fresh   bool              `yaml:"fresh" doc:"Run in a sandbox of its own, made for this step, in which nothing of the task ran before, as grading should." default:"false"`
	JUnit   string            `yaml:"junit" doc:"Template of the path of a JUnit XML file that the command writes: data.tests has lists of names, passed, failed and skipped, and is null where there is no such file. A test of pytest is FILE::CLASS::NAME with junit_family=xunit1, else as CLASSNAME::NAME."`
	Show    string            `yaml:"show" doc:"Template of the turn's text; it also sees code, out, err, signal, timed_out, oom, cut, files and tests. Default: out and err, and how the command ended where that is not with code 0."`
	Timeout time.Duration     `yaml:"timeout" doc:"Time limit of the command, where that is less than the pool's. 0s for the pool's." default:"0s"`
}

// shown are what the template of show sees beside the task.
var shown = []string{"code", "out", "err", "signal", "timed_out", "oom", "cut", "files", "tests"}

type commander struct {
	config Exec
	pool   *Sandboxes
	all    []keyed // for checks
	run    []*lang.Template
	get    []*lang.Template
	files  map[string]*lang.Template
	one    map[string]*lang.Template // shell, stdin, dir, junit, show
}

var (
	_ matrix.Agent  = (*commander)(nil)
	_ Mentioner     = (*commander)(nil)
	_ TurnDescriber = (*commander)(nil)
)

// NewExec makes the agent of a role. pool is the one that c names.
func NewExec(c Exec, pool Pool, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	a := &commander{config: c, files: map[string]*lang.Template{}, one: map[string]*lang.Template{}}
	var ok bool
	if a.pool, ok = pool.(*Sandboxes); !ok && pool != nil {
		bad.addf("pool", "%s is a pool of tools, and a command needs one of sandboxes: of kind bwrap, podman, apptainer or plain", c.Pool)
	}
	compile := func(key, src string, extra ...string) *lang.Template {
		t, err := lang.CompileTemplate(src, p, extra...)
		bad.add(key, err)
		a.all = append(a.all, keyed{key, t})
		return t
	}
	if (len(c.Run) == 0) == (c.Shell == "") {
		bad.addf("", "an exec needs one of run and shell")
	}
	for i, src := range c.Run {
		a.run = append(a.run, compile(fmt.Sprintf("run.%d", i), src))
	}
	for i, src := range c.Get {
		a.get = append(a.get, compile(fmt.Sprintf("get.%d", i), src))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		a.files[name] = compile("files."+name, c.Files[name])
	}
	for _, one := range []struct {
		key, src string
		extra    []string
	}{{"shell", c.Shell, nil}, {"stdin", c.Stdin, nil}, {"dir", c.Dir, nil}, {"junit", c.JUnit, nil}, {"show", c.Show, shown}} {
		if one.src != "" {
			a.one[one.key] = compile(one.key, one.src, one.extra...)
		}
	}
	if c.Timeout < 0 {
		bad.addf("timeout", "got %v, want 0s or more", c.Timeout)
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *commander) Mentions() []Mention {
	var ms []Mention
	for _, x := range a.all {
		ms = append(ms, mention(x.key, x.t))
	}
	return ms
}

// TurnInfo implements TurnDescriber.
func (a *commander) TurnInfo() TurnInfo {
	s := &Shape{Fields: map[string]*Shape{}, Closed: true}
	for _, name := range shown {
		s.Fields[name] = nil
	}
	return TurnInfo{Text: true, Data: s}
}

// Act implements matrix.Agent.
func (a *commander) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	x, junit, err := a.asked(t)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: err}
	}
	r, call, err := a.pool.exec(ctx, t, 0, x)
	if doubt := (*sandbox.InDoubtError)(nil); errors.As(err, &doubt) {
		return matrix.Turn{Error: call.Error, Calls: []matrix.Call{call}}, nil
	}
	if err != nil {
		return matrix.Turn{}, err
	}
	data := map[string]any{
		"code": r.Code, "out": text(r.Out), "err": text(r.Err), "signal": r.Signal,
		"timed_out": r.TimedOut, "oom": r.OOM, "cut": int(r.Cut), "files": nil, "tests": nil,
	}
	if len(a.get) > 0 {
		files := map[string]any{}
		for _, path := range x.Get[:len(a.get)] {
			files[path] = nil
			if b, ok := r.Files[path]; ok {
				files[path] = text(b)
			}
		}
		data["files"] = files
	}
	if b, ok := r.Files[junit]; ok && junit != "" {
		tests, err := readJUnit(b)
		if err != nil {
			call.Error = fmt.Sprintf("junit: %s: %v", junit, err)
		} else {
			data["tests"] = tests
		}
	}
	turn := matrix.Turn{Text: account(&r), Calls: []matrix.Call{call}}
	if show := a.one["show"]; show != nil {
		if turn.Text, err = show.Render(t, data); err != nil {
			return turn, &matrix.FailError{Err: fmt.Errorf("show: %w", err)}
		}
	}
	if turn.Data, err = matrix.NewValue(data); err != nil {
		return turn, &matrix.FailError{Err: err}
	}
	return turn, nil
}

// asked renders what is run for t, and where its tests are.
func (a *commander) asked(t *matrix.Task) (x asked, junit string, err error) {
	var bad fieldErrors
	render := func(key string, tpl *lang.Template) string {
		if tpl == nil {
			return ""
		}
		s, err := tpl.Render(t, nil)
		bad.add(key, err)
		return s
	}
	x = asked{Merge: a.config.Merge, Fresh: a.config.Fresh}
	for i, tpl := range a.run {
		x.Run = append(x.Run, render(fmt.Sprintf("run.%d", i), tpl))
	}
	for i, tpl := range a.get {
		x.Get = append(x.Get, render(fmt.Sprintf("get.%d", i), tpl))
	}
	x.Shell, x.Stdin, x.Dir, junit = render("shell", a.one["shell"]), render("stdin", a.one["stdin"]), render("dir", a.one["dir"]), render("junit", a.one["junit"])
	if junit != "" && !slices.Contains(x.Get, junit) {
		x.Get = append(x.Get, junit)
	}
	for name, tpl := range a.files {
		if x.Files == nil {
			x.Files = map[string]string{}
		}
		x.Files[name] = render("files."+name, tpl)
	}
	if d := a.config.Timeout; d > 0 {
		x.Timeout = d.String()
	}
	return x, junit, bad.err()
}
