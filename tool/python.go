package tool

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"matrix/internal/child"
	"matrix/internal/jsonschema"
	"matrix/internal/near"
	"matrix/internal/stopping"
)

// PythonHow says how the functions of a Python file are run.
type PythonHow struct {
	Python      string            `yaml:"python" doc:"Interpreter, of Python 3.9 or newer, which needs no packages of ours: a program, or a file such as .venv/bin/python beside the config." default:"python3"`
	Workers     int               `yaml:"workers" free:"true" doc:"Processes at once. Each runs one function at a time, and beside it up to concurrency that are async." default:"1"`
	Concurrency int               `yaml:"concurrency" free:"true" doc:"Calls of async functions at once in one process." default:"64"`
	Timeout     time.Duration     `yaml:"timeout" free:"true" doc:"How long one call may take." default:"60s"`
	Env         map[string]string `yaml:"env" secret:"named" doc:"Environment variables, beyond those of matrix itself. What comes from ${env:NAME}, and what has a name like SERVICE_KEY, is not shown."`
	Files       []string          `yaml:"files" path:"true" free:"true" doc:"Files and folders that the file imports or reads; globs are allowed. Workers on other machines get them."`
}

// PythonConfig is a pool of the functions of a Python file. What a model is told of them
// comes from their type hints and docstrings; what they return is the answer, and what
// they raise is an answer that is an error.
type PythonConfig struct {
	File      string   `yaml:"file" required:"true" path:"true" doc:"Python file. Its folder is where it runs, and where it imports from."`
	Functions []string `yaml:"functions" doc:"Functions that are tools. Default: all that the file defines itself, but for those whose name begins with _."`
	PythonHow `yaml:",inline"`
}

// hostSource is what the interpreter runs: it loads the file and answers calls.
//
//go:embed host.py
var hostSource string

const (
	loadTimeout = 2 * time.Minute // for an import
	soloTries   = 2               // of a call under which a process ended, alone in one, before the call is blamed
	cancelled   = time.Second     // for an async function to end when it is told to
)

// Python is the pool of a PythonConfig. What its functions are is known after Check.
type Python struct {
	name   string
	config PythonConfig
	hide   func(string) string
	log    func(string)
	spawn  child.Spawner
	dir    string // of the run; empty: nothing is pinned
	accept bool

	all   []*interpreter
	sync  chan *interpreter // has each one that runs no function which is not async
	async chan *interpreter // has each one as often as it may still begin an async function
	solo  *interpreter      // for calls under which one has ended
	alone sync.Mutex        // held by who uses solo

	ids   atomic.Int64 // of calls
	wants []want

	mu        sync.Mutex
	functions map[string]*function
	order     []Definition
	closed    bool
}

var _ Pool = (*Python)(nil)

// function is one that was loaded.
type function struct {
	Definition
	Async  bool `json:"async"`
	schema *jsonschema.Schema
}

// FunctionError is what a function raised.
type FunctionError struct {
	Function string
	Line     int    // of its file; 0 where that is not known
	Msg      string // as Python words it
}

func (e *FunctionError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s: %s (line %d)", e.Function, e.Msg, e.Line)
	}
	return e.Function + ": " + e.Msg
}

// NewPython makes a pool and starts nothing. hide leaves out of a text what must not be
// shown; log takes what the functions print, a line at a time.
func NewPython(name string, c PythonConfig, hide func(string) string, log func(string)) *Python {
	n := max(1, c.Workers)
	p := &Python{name: name, config: c, hide: hide, log: log, sync: make(chan *interpreter, n), async: make(chan *interpreter, n*max(1, c.Concurrency))}
	p.solo = &interpreter{pool: p}
	for range n {
		i := &interpreter{pool: p}
		p.all = append(p.all, i)
		p.sync <- i
	}
	for range max(1, c.Concurrency) {
		for _, i := range p.all {
			p.async <- i
		}
	}
	return p
}

// want is a function that somebody calls by name.
type want struct {
	function string
	args     []string // those that it is called with; nil where that is not known
}

// Want says before Check that a function is called by name, with these arguments, where that is
// known. Check reports where it cannot be. Of a config that names no functions, those that
// are wanted are all that there are.
func (p *Python) Want(function string, args []string) {
	if !slices.Contains(p.config.Functions, function) {
		p.config.Functions = append(p.config.Functions, function)
	}
	p.wants = append(p.wants, want{function, args})
}

// wrong says why a function cannot be called with arguments of these names; empty where it can.
func (f *function) wrong(args []string) string {
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
		More       json.RawMessage            `json:"additionalProperties"`
	}
	_ = json.Unmarshal(f.Parameters, &schema) // ours
	known := slices.Sorted(maps.Keys(schema.Properties))
	for _, a := range args {
		if _, ok := schema.Properties[a]; !ok && string(schema.More) == "false" {
			return fmt.Sprintf("there is no parameter %s, only %s", a, strings.Join(known, ", "))
		}
	}
	for _, name := range schema.Required {
		if !slices.Contains(args, name) {
			return fmt.Sprintf("its parameter %s is not given: write %s under args", name, name)
		}
	}
	return ""
}

// interpreter is a place for a process, which is started when it is needed.
type interpreter struct {
	pool *Python

	mu    sync.Mutex // held while a process is started
	peer  *child.Peer
	calls int // under way; guarded by pool.mu
}

// Open implements agent.Opener: what the tools are is pinned in a folder of the run.
func (p *Python) Open(_ context.Context, _, dir string) error {
	p.dir = dir
	return nil
}

// AcceptChanges says before Check that tools are taken which are others than those that the
// run began with.
func (p *Python) AcceptChanges() { p.accept = true }

// Check implements Pool: it imports the file.
func (p *Python) Check(ctx context.Context) error {
	if err := p.imported(ctx); err != nil {
		return err
	}
	all, err := p.Tools(ctx, Task{})
	if err != nil {
		return err
	}
	return pin(p.dir, p.name, p.accept, all)
}

// imported sees to it that a process has imported the file.
func (p *Python) imported(ctx context.Context) error {
	i := <-p.sync
	defer func() { p.sync <- i }()
	_, err := i.started(ctx)
	return err
}

// Tools implements Pool.
func (p *Python) Tools(ctx context.Context, _ Task) ([]Definition, error) {
	if err := p.loaded(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.order), nil
}

// loaded sees to it that the functions are known.
func (p *Python) loaded(ctx context.Context) error {
	p.mu.Lock()
	known := p.functions != nil
	p.mu.Unlock()
	if known {
		return nil
	}
	return p.imported(ctx)
}

// Call implements Pool.
func (p *Python) Call(ctx context.Context, _ Task, r Request) (Result, error) {
	value, trace, err := p.Value(ctx, r.Name, r.Arguments)
	var raised *FunctionError
	if errors.As(err, &raised) {
		return Result{Content: raised.Msg, IsError: true, Trace: trace}, nil
	}
	if err != nil {
		return Result{}, err
	}
	result := Result{Content: string(value), Trace: trace}
	var text string
	switch {
	case json.Unmarshal(value, &text) == nil && string(value) != "null":
		result.Content = text
	case value[0] == '{' || value[0] == '[':
		result.Structured = value
	}
	return result, nil
}

// Value calls a function with arguments, a JSON object, and returns what it returns, as
// JSON. The error is a *FunctionError where the call is at fault.
func (p *Python) Value(ctx context.Context, name string, arguments json.RawMessage) (json.RawMessage, Trace, error) {
	trace := Trace{Generation: 1, Restored: Live}
	if err := p.loaded(ctx); err != nil {
		return nil, trace, err
	}
	p.mu.Lock()
	f := p.functions[name]
	p.mu.Unlock()
	if why := f.misfit(name, arguments, p.order); why != "" {
		return nil, trace, &FunctionError{Function: name, Msg: why}
	}
	began := time.Now()
	value, company, err := p.placed(ctx, f, arguments, &trace, began)
	var end *child.EndedError
	for n := 0; errors.As(err, &end) && (company || n < soloTries); n++ {
		company = false
		value, err = p.apart(ctx, f, arguments)
	}
	if errors.As(err, &end) {
		err = &FunctionError{Function: name, Msg: "the process ended while it ran this call, each time: " + end.Error()}
	}
	trace.Took = time.Since(began) - trace.Wait
	return value, trace, err
}

// misfit says why a function cannot be called with arguments; empty where it can.
func (f *function) misfit(name string, arguments json.RawMessage, all []Definition) string {
	if f == nil {
		var names []string
		for _, d := range all {
			names = append(names, d.Name)
		}
		return fmt.Sprintf("there is no tool %s, only %s", name, strings.Join(names, ", "))
	}
	return misfit(f.schema, arguments)
}

// misfit says why arguments do not fit a schema; empty where they do.
func misfit(s *jsonschema.Schema, arguments json.RawMessage) string {
	var object map[string]any
	if err := json.Unmarshal(arguments, &object); err != nil || object == nil {
		return "the arguments are no JSON object"
	}
	if s == nil {
		return ""
	}
	if err := s.Check(object); err != nil {
		return "the arguments do not fit the parameters: " + err.Error()
	}
	return ""
}

// placed makes a call where there is room. company says that other calls were under way in the
// same process.
func (p *Python) placed(ctx context.Context, f *function, arguments json.RawMessage, t *Trace, began time.Time) (v json.RawMessage, company bool, err error) {
	places := p.sync
	if f.Async {
		places = p.async
	}
	wait, free := stopping.Wait(ctx)
	defer free()
	select {
	case i := <-places:
		defer func() { places <- i }()
		t.Wait = time.Since(began)
		return i.call(ctx, f, arguments)
	case <-wait.Done():
		return nil, false, context.Cause(wait)
	}
}

// apart makes a call in a process of its own.
func (p *Python) apart(ctx context.Context, f *function, arguments json.RawMessage) (json.RawMessage, error) {
	p.alone.Lock()
	defer p.alone.Unlock()
	v, _, err := p.solo.call(ctx, f, arguments)
	return v, err
}

// call makes a call in the process of i.
func (i *interpreter) call(ctx context.Context, f *function, arguments json.RawMessage) (v json.RawMessage, company bool, err error) {
	peer, err := i.started(ctx)
	if err != nil {
		return nil, false, err
	}
	i.count(1)
	defer func() { company = i.count(-1) > 0 || company }()
	id := i.pool.ids.Add(1)
	question, err := json.Marshal(struct {
		Op        string          `json:"op"`
		ID        int64           `json:"id"`
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	}{"call", id, f.Name, arguments})
	if err != nil {
		return nil, false, &FunctionError{Function: f.Name, Msg: err.Error()}
	}
	limited, cancel := context.WithTimeout(ctx, i.pool.config.Timeout)
	defer cancel()
	raw, err := peer.Ask(limited, question)
	if err != nil && limited.Err() != nil {
		if !f.Async || !i.cancel(peer, id) { // it has no other end than that of its process
			peer.Process().Kill()
			<-peer.Ended()
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		return nil, false, &FunctionError{Function: f.Name, Msg: fmt.Sprintf("it did not return within %v", i.pool.config.Timeout)}
	}
	if err != nil {
		return nil, false, err
	}
	var out struct {
		Value  json.RawMessage `json:"value"`
		Error  *string         `json:"error"`
		Misfit *string         `json:"misfit"`
		Line   int             `json:"line"`
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, false, &LostError{fmt.Errorf("%s answered what is no answer: %w", i.pool.config.File, err)}
	}
	switch {
	case out.Misfit != nil:
		return nil, false, &FunctionError{Function: f.Name, Msg: "the arguments do not fit the parameters: " + *out.Misfit}
	case out.Error != nil:
		return nil, false, &FunctionError{Function: f.Name, Msg: i.pool.hide(*out.Error), Line: out.Line}
	}
	return out.Value, false, nil
}

// cancel has an async function end. It reports whether it has.
func (i *interpreter) cancel(peer *child.Peer, id int64) bool {
	ctx, stop := context.WithTimeout(context.Background(), cancelled)
	defer stop()
	_, err := peer.Ask(ctx, fmt.Appendf(nil, `{"op":"cancel","id":%d}`, id))
	return err == nil
}

// count counts calls under way in i.
func (i *interpreter) count(n int) int {
	i.pool.mu.Lock()
	defer i.pool.mu.Unlock()
	i.calls += n
	return i.calls
}

// started is the process of i, started where there is none.
func (i *interpreter) started(ctx context.Context) (*child.Peer, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.peer != nil {
		select {
		case <-i.peer.Ended():
			i.peer.Process().Kill()
			i.peer = nil
		default:
			return i.peer, nil
		}
	}
	peer, err := i.pool.start(ctx)
	if err != nil {
		return nil, err
	}
	i.peer = peer
	return peer, nil
}

// start starts an interpreter and has it load the file.
func (p *Python) start(ctx context.Context) (*child.Peer, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, &LostError{errors.New("the pool is closed")}
	}
	cmd := exec.Command(p.config.Python, "-X", "utf8", "-c", hostSource)
	cmd.Dir = filepath.Dir(p.config.File)
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	for k, v := range p.config.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	slices.Sort(cmd.Env[len(cmd.Env)-len(p.config.Env):])
	process, err := p.spawn.Start(cmd, child.Options{Hide: p.hide, Log: func(line string) { p.log(p.name + ": " + line) }})
	if err != nil {
		err = fmt.Errorf("cannot start %s: %w", p.config.Python, err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return nil, &BrokenError{err}
		}
		return nil, &LostError{err}
	}
	peer := child.NewPeer(process)
	if err := p.load(ctx, peer); err != nil {
		process.Kill()
		<-peer.Ended()
		return nil, err
	}
	return peer, nil
}

// load has a process import the file.
func (p *Python) load(ctx context.Context, peer *child.Peer) error {
	question, err := json.Marshal(struct {
		Op    string   `json:"op"`
		File  string   `json:"file"`
		Names []string `json:"names"`
	}{"load", p.config.File, p.config.Functions})
	if err != nil {
		return &BrokenError{err}
	}
	limited, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	raw, err := peer.Ask(limited, question)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case limited.Err() != nil:
		return &BrokenError{fmt.Errorf("%s was not imported within %v%s", p.config.File, loadTimeout, peer.Process().LastStderr())}
	case err != nil:
		return &BrokenError{fmt.Errorf("%s cannot load %s: it %w", p.config.Python, p.config.File, err)}
	}
	var out struct {
		Broken *struct {
			Message, File string
			Line          int
			Known         []string
		}
		Functions []*function
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return &BrokenError{fmt.Errorf("%s: what it has cannot be read: %w", p.config.File, err)}
	}
	if b := out.Broken; b != nil {
		at := b.File
		if b.Line > 0 {
			at = fmt.Sprintf("%s:%d", at, b.Line)
		}
		msg := p.hide(b.Message)
		if _, wanted, ok := strings.Cut(msg, "no function "); ok && len(b.Known) > 0 {
			if like := near.Name(wanted, b.Known); like != "" {
				msg += "; did you mean " + like + "?"
			} else {
				msg += ", only " + strings.Join(b.Known, ", ")
			}
		}
		return &BrokenError{fmt.Errorf("%s: %s", at, msg)}
	}
	return p.define(out.Functions)
}

// define notes what functions there are, and checks that a later process has the same.
func (p *Python) define(all []*function) error {
	functions, order := map[string]*function{}, []Definition{}
	for _, f := range all {
		var err error
		if f.schema, err = jsonschema.Compile(f.Parameters); err != nil {
			return &BrokenError{fmt.Errorf("%s: the parameters of %s: %w", p.config.File, f.Name, err)}
		}
		functions[f.Name], order = f, append(order, f.Definition)
	}
	for _, w := range p.wants {
		if why := functions[w.function].wrong(w.args); w.args != nil && why != "" {
			return &BrokenError{fmt.Errorf("%s: %s: %s", p.config.File, w.function, why)}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.functions != nil && fingerprint(order) != fingerprint(p.order) {
		return &BrokenError{fmt.Errorf("%s was changed while the run goes on: its functions have other parameters or descriptions now", p.config.File)}
	}
	p.functions, p.order = functions, order
	return nil
}

// Parallel reports that calls of one task may be made side by side.
func (p *Python) Parallel() bool { return true }

// Release implements Pool: nothing is kept for a task.
func (p *Python) Release(context.Context, string) error { return nil }

// Close implements Pool.
func (p *Python) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, i := range append(p.all, p.solo) {
		wg.Go(func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			if i.peer != nil {
				i.peer.Close()
				i.peer = nil
			}
		})
	}
	wg.Wait()
	p.spawn.Close()
	return nil
}
