package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"matrix"
	"matrix/lang"
	"matrix/sandbox"
)

// Sandboxes is a Pool of sandboxes, one for each task or each command.
type Sandboxes struct {
	name     string
	keep     sandbox.Keep
	code     string // as of SandboxContents
	open     func(run, dir string) (sandbox.Pool, error)
	contents contents
	shared   matrix.Semaphore // commands at once in the one sandbox of keep: run; else nil

	run  string
	pool sandbox.Pool // nil until it is opened
}

// SandboxContents is what tasks may say of their sandboxes.
type SandboxContents struct {
	sandbox.Contents
	Image, Root string // templates
	Code        string // path of the file that has the code which a tool is to run; empty for /tmp/code
}

// contents are the templates of a sandbox.
type contents struct {
	all    []keyed // for checks
	setup  []*lang.Template
	files  map[string]*lang.Template
	env    map[string]*lang.Template
	single map[string]*lang.Template // dir, image, root
}

type keyed struct {
	key string
	t   *lang.Template
}

// NewSandboxes makes the pool of a name. open is called once, by Open.
func NewSandboxes(name string, keep sandbox.Keep, c SandboxContents, p lang.Params, open func(run, dir string) (sandbox.Pool, error)) (*Sandboxes, error) {
	var bad fieldErrors
	x := contents{files: map[string]*lang.Template{}, env: map[string]*lang.Template{}, single: map[string]*lang.Template{}}
	compile := func(key, src string) *lang.Template {
		t, err := lang.CompileTemplate(src, p)
		bad.add(key, err)
		if err == nil && keep == sandbox.KeepRun && !t.Fixed() { // one task's would end that of the others
			bad.addf(key, "with keep: run all tasks have one sandbox, and this says something of each task: leave out what depends on the task, or write keep: task")
		}
		x.all = append(x.all, keyed{key, t})
		return t
	}
	for i, src := range c.Setup {
		x.setup = append(x.setup, compile(fmt.Sprintf("setup.%d", i), src))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		x.files[name] = compile("files."+name, c.Files[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		x.env[name] = compile("env."+name, c.Env[name])
	}
	for _, one := range []struct{ key, src string }{{"dir", c.Dir}, {"image", c.Image}, {"root", c.Root}} {
		if one.src != "" {
			x.single[one.key] = compile(one.key, one.src)
		}
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	s := &Sandboxes{name: name, keep: keep, code: cmp.Or(c.Code, "/tmp/code"), open: open, contents: x}
	if keep == sandbox.KeepRun {
		s.shared = matrix.Slots(sharedSlots * runtime.GOMAXPROCS(0))
	}
	return s, nil
}

// sharedSlots is how many commands for each core run at once in a sandbox that all tasks
// share: it has so many files and processes and no more.
const sharedSlots = 4

var (
	_ Opener    = (*Sandboxes)(nil)
	_ Mentioner = (*Sandboxes)(nil)
)

// Mentions implements Mentioner.
func (s *Sandboxes) Mentions() []Mention {
	var ms []Mention
	for _, x := range s.contents.all {
		ms = append(ms, mention(x.key, x.t))
	}
	return ms
}

// Open implements Opener.
func (s *Sandboxes) Open(_ context.Context, run, dir string) error {
	s.run = run
	var err error
	s.pool, err = s.open(run, dir)
	return err
}

// Check implements Pool.
func (s *Sandboxes) Check(ctx context.Context) error { return s.pool.Check(ctx) }

// Warnings are promises that are not kept on this machine and need not be. They are
// known once Check has returned.
func (s *Sandboxes) Warnings() []string { return s.pool.Warnings() }

// Stats counts; ok is false of a pool that is not open.
func (s *Sandboxes) Stats() (stats sandbox.Stats, ok bool) {
	if s.pool == nil {
		return stats, false
	}
	return s.pool.Stats(), true
}

// Release implements Pool.
func (s *Sandboxes) Release(ctx context.Context, task string) error {
	if s.pool == nil || s.keep != sandbox.KeepTask {
		return nil
	}
	return s.pool.Release(ctx, s.key(task))
}

// Sweep removes what an earlier process has left of tasks of which live is false; of
// all where live is nil. It returns how many sandboxes that were.
func (s *Sandboxes) Sweep(ctx context.Context, live func(task string) bool) (int, error) {
	if live == nil {
		return s.pool.Sweep(ctx, nil)
	}
	return s.pool.Sweep(ctx, func(k sandbox.Key) bool { return live(k.Task) })
}

// Close implements Pool.
func (s *Sandboxes) Close() error {
	if s.pool == nil {
		return nil
	}
	return s.pool.Close()
}

func (s *Sandboxes) key(task string) sandbox.Key {
	return sandbox.Key{Run: s.run, Pool: s.name, Task: task}
}

// parallel reports whether the commands of one task may run side by side.
func (s *Sandboxes) parallel() bool { return s.keep == sandbox.KeepCall }

// spec is what the sandbox of a task is made of.
func (s *Sandboxes) spec(t *matrix.Task) (spec sandbox.Spec, err error) {
	t = &matrix.Task{ID: t.ID, Row: t.Row, Trial: t.Trial, Parent: t.Parent, Seed: t.Seed, Item: t.Item} // the same whenever it is made
	var bad fieldErrors
	render := func(key string, tpl *lang.Template) string {
		if tpl == nil {
			return ""
		}
		text, err := tpl.Render(t, nil)
		bad.add("pools."+s.name+"."+key, err)
		return text
	}
	c := &s.contents
	spec = sandbox.Spec{Files: map[string][]byte{}, Env: map[string]string{}}
	spec.Image, spec.Root, spec.Dir = render("image", c.single["image"]), render("root", c.single["root"]), render("dir", c.single["dir"])
	for i, tpl := range c.setup {
		spec.Setup = append(spec.Setup, render(fmt.Sprintf("setup.%d", i), tpl))
	}
	for name, tpl := range c.files {
		spec.Files[name] = []byte(render("files."+name, tpl))
	}
	for name, tpl := range c.env {
		spec.Env[name] = render("env."+name, tpl)
	}
	return spec, bad.err()
}

// Lease is the sandbox of t, whose calls at the pool are those that its turns tell of.
// fresh names a sandbox of its own, which holds nothing of the task's; empty for the
// task's. Whoever has it calls done. Its errors are those of an agent.
func (s *Sandboxes) Lease(ctx context.Context, t *matrix.Task, fresh string) (l sandbox.Lease, done func(), err error) {
	spec, err := s.spec(t)
	if err != nil {
		return nil, nil, &matrix.FailError{Err: err}
	}
	key, past := s.key(t.ID), sandbox.Past{}
	switch {
	case fresh != "":
		key.Task += freshMark + fresh
	case s.keep == sandbox.KeepTask:
		if past, err = s.past(t); err != nil {
			return nil, nil, &matrix.FailError{Err: err}
		}
	}
	l, err = s.pool.Lease(matrix.Stopping(ctx), key, spec, past)
	if err != nil {
		return nil, nil, s.fate(err, false)
	}
	if fresh == "" {
		return l, l.Done, nil
	}
	return l, func() {
		l.Done()
		_ = s.pool.Release(context.WithoutCancel(ctx), key) // what it leaves is swept
	}, nil
}

// freshMark stands behind the id of a task in the key of a sandbox that is not the
// task's own.
const freshMark = "\x00"

// fate is err as that of an agent. ran says that it is of a command: one under which
// sandboxes are lost again and again is not tried for ever.
func (s *Sandboxes) fate(err error, ran bool) error {
	var (
		full   *sandbox.FullError
		lost   *sandbox.LostError
		fenced *sandbox.FencedError
		image  *sandbox.ImageError
		setup  *sandbox.SetupError
	)
	named := fmt.Errorf("pool %s: %w", s.name, err)
	switch {
	case errors.As(err, &full):
		return &matrix.RetryError{Err: named, After: max(full.After, matrix.FreeRetry), Free: true}
	case errors.As(err, &fenced):
		return &matrix.RetryError{Err: named, Free: true}
	case errors.As(err, &lost) && lost.Final:
		return &matrix.FailError{Err: named}
	case errors.As(err, &lost):
		return &matrix.RetryError{Err: named, After: lostAfter, Free: !ran}
	case errors.As(err, &setup):
		return &matrix.FailError{Err: named}
	case errors.As(err, &image):
		if s.own() {
			return &matrix.FailError{Err: named}
		}
		return &matrix.StopError{Err: named}
	}
	return err
}

// lostAfter is how long a task waits whose sandbox was lost.
const lostAfter = time.Second

// own reports whether what sandboxes are made of hangs on the task.
func (s *Sandboxes) own() bool {
	for _, key := range []string{"image", "root"} {
		if t := s.contents.single[key]; t != nil && !t.Fixed() {
			return true
		}
	}
	return false
}

// asked is a command as the call of a turn has it: all that is needed to run it again.
type asked struct {
	Run     []string          `json:"run,omitempty"`
	Shell   string            `json:"shell,omitempty"`
	Stdin   string            `json:"stdin,omitempty"`
	Dir     string            `json:"dir,omitempty"`
	Files   map[string]string `json:"files,omitempty"`
	Get     []string          `json:"get,omitempty"`
	Merge   bool              `json:"merge,omitempty"`
	Timeout string            `json:"timeout,omitempty"` // a duration
	Fresh   bool              `json:"fresh,omitempty"`   // it ran in a sandbox of its own

	call *matrix.ToolCall // that it answers; nil: it is a step of its own
}

func (a *asked) command(key string) (sandbox.Command, error) {
	c := sandbox.Command{Key: key, Args: a.Run, Shell: a.Shell, Dir: a.Dir, Get: a.Get, Merge: a.Merge}
	if a.Stdin != "" {
		c.Stdin = []byte(a.Stdin)
	}
	if len(a.Files) > 0 {
		c.Files = make(map[string][]byte, len(a.Files))
		for name, text := range a.Files {
			c.Files[name] = []byte(text)
		}
	}
	var err error
	if a.Timeout != "" {
		c.Timeout, err = time.ParseDuration(a.Timeout)
	}
	return c, err
}

// stepKey names the n-th call of the turn that a task is at, the same whoever makes it.
// The number of turns only grows, where hops begin anew for a task that is tried again.
func stepKey(turns, n int) string { return fmt.Sprintf("%d/%d", turns+1, n) }

// past are the commands that ran in the sandbox of t.
func (s *Sandboxes) past(t *matrix.Task) (p sandbox.Past, err error) {
	for i := range t.Turns {
		n := 0
		for k := range t.Turns[i].Calls {
			call := &t.Turns[i].Calls[k]
			if call.Kind != matrix.KindSandbox || call.Name != s.name {
				continue
			}
			var a asked
			if err := json.Unmarshal(call.Params.Raw(), &a); err != nil {
				return p, fmt.Errorf("turn %d, by %s, has a call of pool %s that cannot be read: %w", i+1, t.Turns[i].Role, s.name, err)
			}
			n++
			if a.Fresh {
				continue
			}
			c, err := a.command(stepKey(i, n-1))
			if err != nil {
				return p, err
			}
			p.Calls = append(p.Calls, c)
		}
	}
	return p, nil
}

// keptText is how many bytes of a file the call of a fresh sandbox keeps: what ran there
// is never run again.
const keptText = 4 << 10

// exec runs a command in the sandbox of t, as the n-th call of its step, and returns
// what came of it and the call of the turn. Its errors are those of an agent; in doubt
// says that the command may have run, and is no such error.
func (s *Sandboxes) exec(ctx context.Context, t *matrix.Task, n int, a asked) (r sandbox.Result, call matrix.Call, err error) {
	key := stepKey(len(t.Turns), n)
	fresh := ""
	if a.Fresh {
		fresh = key
	}
	c, err := a.command(key)
	if err != nil {
		return r, call, &matrix.FailError{Err: err}
	}
	asking := time.Now()
	if s.shared != nil && !a.Fresh {
		if _, err := s.shared.Acquire(matrix.Stopping(ctx), 1); err != nil {
			return r, call, err
		}
		defer s.shared.Release(1)
	}
	waited := time.Since(asking)
	l, done, err := s.Lease(ctx, t, fresh)
	if err != nil {
		return r, call, err
	}
	defer done()
	at := time.Now()
	r, err = l.Exec(ctx, c)
	info := l.Info()
	info.Waited += waited
	call = s.call(&a, info, &r, time.Since(at))
	if doubt := (*sandbox.InDoubtError)(nil); errors.As(err, &doubt) {
		call.Error = doubt.Error()
		return r, call, err
	}
	if err != nil {
		return r, call, s.fate(err, true)
	}
	return r, call, nil
}

// call is a command as a call of a turn.
func (s *Sandboxes) call(a *asked, info sandbox.Info, r *sandbox.Result, took time.Duration) matrix.Call {
	tool, id := "", ""
	if a.call != nil {
		tool, id = a.call.Name, a.call.ID
	}
	if a.Fresh || s.keep != sandbox.KeepTask {
		cut := *a
		cut.Fresh, cut.Files = true, map[string]string{}
		for name, text := range a.Files {
			if len(text) > keptText {
				text = fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(text[:keptText], ""), len(text))
			}
			cut.Files[name] = text
		}
		a = &cut
	}
	params, _ := matrix.NewValue(a) // strings
	return matrix.Call{
		Kind: matrix.KindSandbox, Name: s.name, Params: params, WaitMS: milliseconds(info.Waited), TookMS: milliseconds(took),
		Trace: &matrix.Trace{
			Tool: tool, ID: id, Lease: info.Name, Generation: info.Generation, Restored: string(info.Restored), Changed: !a.Fresh,
			Code: r.Code, Signal: r.Signal, Cut: r.Cut, TimedOut: r.TimedOut, OOM: r.OOM, CPUMS: milliseconds(r.CPU), PeakBytes: r.Peak,
		},
	}
}

// text is bytes as a text of a turn.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

// account is what a command came to, in words: what it wrote, and how it ended where that
// is not with exit code 0.
func account(r *sandbox.Result) string {
	parts := []string{}
	for _, b := range [][]byte{r.Out, r.Err} {
		if s := strings.TrimRight(text(b), "\n"); s != "" {
			parts = append(parts, s)
		}
	}
	switch {
	case r.TimedOut:
		parts = append(parts, "(ran into the time limit)")
	case r.OOM:
		parts = append(parts, "(ran out of memory)")
	case r.Code != 0:
		parts = append(parts, fmt.Sprintf("(exit code %d)", r.Code))
	case len(parts) == 0:
		parts = append(parts, "(no output)")
	}
	return strings.Join(parts, "\n")
}
