package tool

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"matrix/internal/child"
	"matrix/internal/jsonschema"
	"matrix/internal/stopping"
)

// MCPConfig is a pool of the tools of a server that speaks the Model Context Protocol:
// a program (run), or a service (url).
type MCPConfig struct {
	Run         []string          `yaml:"run" doc:"Program and its arguments: a server that speaks over its stdin and stdout."`
	In          string            `yaml:"in" doc:"With run: name of a pool of sandboxes. The server runs in the sandbox that the task has there."`
	URL         string            `yaml:"url" doc:"Address of a server that speaks streamable HTTP."`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"With url: HTTP headers, such as Authorization: \"Bearer ${env:SEARCH_TOKEN}\"."`
	Only        []string          `yaml:"only" doc:"Tools that are taken. Default: all."`
	Keep        string            `yaml:"keep" doc:"With run, how long a process is kept: run, for all tasks; task, one for each task, whose state is its own; call, one for each call. Default: run, and with in task."`
	Workers     int               `yaml:"workers" free:"true" doc:"With run, processes at once. Of keep: task, where a task waits for a place, one that was not used for so long as park says is ended, if restore is replay." default:"4"`
	Concurrency int               `yaml:"concurrency" free:"true" doc:"Calls at once: at a url in all, otherwise at one process." default:"32"`
	Timeout     time.Duration     `yaml:"timeout" free:"true" doc:"How long one call may take. What takes longer is answered with an error for the model." default:"60s"`
	Retry       string            `yaml:"retry" free:"true" doc:"What becomes of a call under which the server was lost, so that nobody knows whether it was made: safe, it is made again where the server says that the tool only reads or may be called twice, and otherwise fails its task; idempotent, it is made again." default:"safe" enum:"safe,idempotent"`
	Restore     string            `yaml:"restore" doc:"Of keep: task, what becomes of a task whose process is gone: fresh, a new one goes on, and the trace of its calls says so; replay, the calls of the task are made again in a new one; none, the task fails." default:"fresh" enum:"fresh,replay,none"`
	Park        time.Duration     `yaml:"park" free:"true" doc:"Of keep: task and restore: replay, after how long without a call a process may be ended for one of a task that waits." default:"10s"`
	Output      int               `yaml:"output" doc:"Bytes of what a call answers; of more the middle is left out, and how much." default:"1048576"`
	Env         map[string]string `yaml:"env" secret:"named" doc:"Environment variables of the server. Of those of matrix itself it has PATH, HOME, the locale, those of proxies and the like, and no keys. What comes from ${env:NAME}, and what has a name like SERVICE_KEY, is not shown."`
	Files       []string          `yaml:"files" path:"true" free:"true" doc:"Files and folders that the program needs beside those that run names; globs are allowed. Workers on other machines get them."`
	Dir         string            `yaml:"dir" path:"here" doc:"Folder to run in. Default: that of the config."`
}

// Ways of MCPConfig.Keep, Restore and Retry.
const (
	keepCall, keepTask, keepRun = "call", "task", "run"

	restoreNone, restoreReplay = "none", "replay"
	retryIdempotent            = "idempotent"
)

// Inside runs a program in the sandbox of a task, and gives its stdin and stdout. Its
// Close ends the program.
type Inside func(ctx context.Context, t Task, run []string, env map[string]string) (io.ReadWriteCloser, error)

// MCP is the pool of an MCPConfig. Its tools are known after Check, but for servers in
// sandboxes: those are known with the first task.
type MCP struct {
	name   string
	config MCPConfig
	inside Inside
	hide   func(string) string
	log    func(string)
	spawn  child.Spawner
	client *mcp.Client
	http   *http.Client
	dir    string // of the run; empty: nothing is pinned
	accept bool

	slots  chan struct{}      // processes, of run
	spares chan *mcpSession   // processes that were started ahead
	shared []*sharedSession   // of keep: run, and of url
	turn   atomic.Int64       // which of shared is next
	end    context.Context    // of Close
	close  context.CancelFunc // of end
	work   sync.WaitGroup     // what Close waits for

	mu     sync.Mutex
	tools  map[string]*mcpTool
	order  []Definition
	leases map[string]*mcpLease
	closed bool
}

type mcpTool struct {
	Definition
	schema *jsonschema.Schema
	twice  bool // may be called again
}

// mcpSession is a connection to a server, and its process where it has one.
type mcpSession struct {
	*mcp.ClientSession
	process *child.Process
	up      atomic.Bool // it has answered
	lost    atomic.Bool
}

func (s *mcpSession) end() {
	if s.process != nil {
		s.process.In.Close()
	}
	s.Close()
	if s.process != nil {
		s.process.End()
	}
}

// sharedSession is one that tasks share, made when it is needed.
type sharedSession struct {
	mu    sync.Mutex // held while it is made
	now   *mcpSession
	calls chan struct{}
}

// mcpLease is the process of a task.
type mcpLease struct {
	mu         sync.Mutex // held while a call is made
	now        *mcpSession
	generation int
	restored   Restored
	used       time.Time // guarded by MCP.mu
	busy       bool      // likewise
	done       []mcpDone // what its state has seen
}

type mcpDone struct {
	key, name string
	arguments string
	result    Result
}

// passed are the environment variables of ours that a server has.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "TMPDIR", "TEMP", "TMP", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
	"http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE",
	"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "NVM_DIR", "NPM_CONFIG_REGISTRY", "npm_config_registry", "npm_config_cache", "UV_CACHE_DIR", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL",
	"SYSTEMROOT", "PYENV_ROOT", "PYENV_VERSION",
}

// NewMCP makes a pool and starts nothing. inside is for config.In. hide leaves out of a text
// what must not be shown; log takes what the servers write to stderr, a line at a time.
func NewMCP(name string, c MCPConfig, inside Inside, hide func(string) string, log func(string)) *MCP {
	p := &MCP{name: name, config: c, inside: inside, hide: hide, log: log, leases: map[string]*mcpLease{}}
	p.end, p.close = context.WithCancel(context.Background())
	switch {
	case c.Keep != "":
	case c.In != "":
		p.config.Keep = keepTask
	default:
		p.config.Keep = keepRun
	}
	workers := max(1, c.Workers)
	if c.URL != "" {
		workers = 1
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = max(1, c.Concurrency)
		p.http = &http.Client{Transport: &headers{base: transport, set: c.Headers}}
	}
	p.slots = make(chan struct{}, workers)
	p.spares = make(chan *mcpSession, 1)
	if p.config.Keep == keepRun {
		for range workers {
			p.shared = append(p.shared, &sharedSession{calls: make(chan struct{}, max(1, c.Concurrency))})
		}
	}
	// Of what a server may ask us, nothing is offered: no sampling, no elicitation, no roots.
	p.client = mcp.NewClient(&mcp.Implementation{Name: "matrix", Version: "1"}, &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{}, MultiRoundTrip: &mcp.MultiRoundTripOptions{Disabled: true},
	})
	return p
}

// headers sets headers, and tells who asks how the exchange went.
type headers struct {
	base http.RoundTripper
	set  map[string]string
}

type exchange struct{ failed, status atomic.Int32 }

type exchangeKey struct{}

// RoundTrip implements http.RoundTripper.
func (h *headers) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for k, v := range h.set {
		r.Header.Set(k, v)
	}
	res, err := h.base.RoundTrip(r)
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok && r.Method == http.MethodPost {
		if err != nil {
			x.failed.Add(1)
		} else if res.StatusCode >= 400 {
			x.status.Store(int32(res.StatusCode))
		}
	}
	return res, err
}

// Open implements agent.Opener: what the tools are is pinned in a folder of the run.
func (p *MCP) Open(_ context.Context, _, dir string) error {
	p.dir = dir
	return nil
}

// AcceptChanges says before Check that tools are taken which are others than those that the
// run began with.
func (p *MCP) AcceptChanges() { p.accept = true }

// Check implements Pool: it asks a server what tools it has.
func (p *MCP) Check(ctx context.Context) error {
	if p.config.In != "" {
		return nil // with the first task
	}
	s, err := p.connect(ctx, Task{})
	if err != nil {
		if lost := (*LostError)(nil); errors.As(err, &lost) {
			return &BrokenError{lost.Err}
		}
		return err
	}
	if err := p.list(ctx, s); err != nil {
		s.end()
		return err
	}
	if p.config.Keep == keepRun {
		at := p.shared[0]
		at.mu.Lock()
		at.now, s = s, at.now
		at.mu.Unlock()
		if s != nil {
			s.end()
		}
		return nil
	}
	p.spare(s)
	return nil
}

// spare keeps a process for who needs one next.
func (p *MCP) spare(s *mcpSession) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		select {
		case p.spares <- s:
			return
		default:
		}
	}
	p.work.Go(s.end)
}

// connect makes a session.
func (p *MCP) connect(ctx context.Context, t Task) (*mcpSession, error) {
	if p.end.Err() != nil {
		return nil, &LostError{errors.New("the pool is closed")}
	}
	ctx, stop := context.WithTimeout(ctx, max(p.config.Timeout, time.Minute))
	defer stop()
	x := &exchange{}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	s := &mcpSession{}
	var transport mcp.Transport
	var told func() string
	switch {
	case p.config.URL != "":
		transport = &mcp.StreamableClientTransport{Endpoint: p.config.URL, HTTPClient: p.http, MaxRetries: 1, DisableStandaloneSSE: true}
	case p.config.In != "":
		pipe, err := p.inside(ctx, t, p.config.Run, p.config.Env)
		if err != nil {
			return nil, err
		}
		transport = &mcp.IOTransport{Reader: pipe, Writer: pipe}
	default:
		cmd := exec.Command(p.config.Run[0], p.config.Run[1:]...)
		cmd.Dir = p.config.Dir
		for _, name := range os.Environ() {
			if key, _, _ := strings.Cut(name, "="); slices.Contains(passed, key) || strings.HasPrefix(key, "LC_") {
				cmd.Env = append(cmd.Env, name)
			}
		}
		for k, v := range p.config.Env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		slices.Sort(cmd.Env)
		// What a server says as it starts is told where it fails: many greet at length, and are
		// loud about being asked for a version of the protocol that they do not know.
		process, err := p.spawn.Start(cmd, child.Options{Hide: p.hide, Log: func(line string) {
			if s.up.Load() {
				p.log(p.name + ": " + line)
			}
		}})
		if err != nil {
			err = fmt.Errorf("cannot start %s: %w", p.config.Run[0], err)
			if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
				return nil, &BrokenError{err}
			}
			return nil, &LostError{err}
		}
		s.process, told = process, process.LastStderr
		in, out := io.Pipe()
		p.work.Go(func() {
			out.CloseWithError(messages(process, out, func(line string) { p.log(p.name + ": " + p.hide(line)) }))
		})
		transport = &mcp.IOTransport{Reader: in, Writer: process.In}
	}
	session, err := p.client.Connect(ctx, transport, nil)
	if err == nil {
		s.ClientSession = session
		s.up.Store(true)
		return s, nil
	}
	if s.process != nil {
		s.process.Kill()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil, cause
	}
	what := p.config.URL
	if what == "" {
		what = p.hide(strings.Join(p.config.Run, " "))
	}
	msg := p.hide(err.Error())
	if told != nil {
		msg += told()
	}
	switch status := int(x.status.Load()); status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, &BrokenError{fmt.Errorf("%s refuses us: %d %s; look at headers", what, status, http.StatusText(status))}
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, &BrokenError{fmt.Errorf("%s is no MCP server: %d %s; look at url", what, status, http.StatusText(status))}
	}
	return nil, &LostError{fmt.Errorf("%s does not answer as an MCP server: %s", what, msg)}
}

// messages passes on what a server writes to its stdout, a message a line. What is none was printed by
// something that does not know whose stdout it has, a library or an installer: it is logged.
func messages(p *child.Process, w io.Writer, log func(line string)) error {
	var err error
	for line := range p.Lines() {
		text := bytes.TrimSpace(line.Text)
		switch {
		case len(text) == 0 || err != nil:
		case text[0] == '{' || text[0] == '[':
			_, err = w.Write(append(text, '\n'))
		default:
			log(strings.ToValidUTF8(shorten(string(text), 1000), "\uFFFD"))
		}
	}
	return err
}

// list asks a server for its tools.
func (p *MCP) list(ctx context.Context, s *mcpSession) error {
	ctx, stop := context.WithTimeout(ctx, max(p.config.Timeout, time.Minute))
	defer stop()
	tools, order := map[string]*mcpTool{}, []Definition{}
	var all []string
	for found, err := range s.Tools(ctx, nil) {
		if err != nil {
			return &LostError{fmt.Errorf("the tools cannot be listed: %s", p.hide(err.Error()))}
		}
		all = append(all, found.Name)
		if len(p.config.Only) > 0 && !slices.Contains(p.config.Only, found.Name) {
			continue
		}
		d := Definition{Name: found.Name, Description: found.Description}
		raw, err := json.Marshal(found.InputSchema)
		x := &mcpTool{Definition: d}
		if err == nil {
			x.Parameters = raw
			x.schema, err = jsonschema.Compile(json.RawMessage(raw))
		}
		if err != nil {
			return &BrokenError{fmt.Errorf("the parameters of the tool %s are no JSON Schema: %w", found.Name, err)}
		}
		if a := found.Annotations; a != nil {
			x.twice = a.ReadOnlyHint || a.IdempotentHint
		}
		tools[x.Name], order = x, append(order, x.Definition)
	}
	for _, name := range p.config.Only {
		if tools[name] == nil {
			return &BrokenError{fmt.Errorf("only: there is no tool %q; the server has %s", name, strings.Join(all, ", "))}
		}
	}
	if len(order) == 0 {
		return &BrokenError{errors.New("the server has no tools")}
	}
	slices.SortFunc(order, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.order == nil {
		if err := pin(p.dir, p.name, p.accept, order); err != nil {
			return err
		}
	} else if fingerprint(p.order) != fingerprint(order) {
		return &ChangedError{Pool: p.name, Changes: changesOf(p.order, order)}
	}
	p.tools, p.order = tools, order
	return nil
}

// Tools implements Pool.
func (p *MCP) Tools(ctx context.Context, t Task) ([]Definition, error) {
	if err := p.listed(ctx, t); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.order), nil
}

// listed sees to it that the tools are known.
func (p *MCP) listed(ctx context.Context, t Task) error {
	p.mu.Lock()
	known := p.order != nil
	p.mu.Unlock()
	if known {
		return nil
	}
	if p.config.In == "" {
		return p.Check(ctx)
	}
	l, free, err := p.lease(ctx, t)
	if err != nil {
		return err
	}
	defer free()
	if err := p.live(ctx, t, l); err != nil {
		return err
	}
	return p.list(ctx, l.now)
}

// Call implements Pool.
func (p *MCP) Call(ctx context.Context, t Task, r Request) (Result, error) {
	if err := p.listed(ctx, t); err != nil {
		return Result{}, err
	}
	p.mu.Lock()
	x, order := p.tools[r.Name], p.order
	p.mu.Unlock()
	if x == nil {
		var names []string
		for _, d := range order {
			names = append(names, d.Name)
		}
		return Result{Content: fmt.Sprintf("there is no tool %s, only %s", r.Name, strings.Join(names, ", ")), IsError: true}, nil
	}
	if why := misfit(x.schema, r.Arguments); why != "" {
		return Result{Content: why, IsError: true}, nil
	}
	switch p.config.Keep {
	case keepCall:
		return p.callAlone(ctx, t, x, r)
	case keepTask:
		return p.callOfTask(ctx, t, x, r)
	}
	return p.callShared(ctx, x, r)
}

// Parallel reports whether calls of one task may be made side by side.
func (p *MCP) Parallel() bool { return p.config.Keep != keepTask }

// take waits for one of slots.
func take(ctx context.Context, slots chan struct{}) error {
	wait, free := stopping.Wait(ctx)
	defer free()
	select {
	case slots <- struct{}{}:
		return nil
	case <-wait.Done():
		return context.Cause(wait)
	}
}

// callShared makes a call at a server that all tasks share.
func (p *MCP) callShared(ctx context.Context, x *mcpTool, r Request) (Result, error) {
	began := time.Now()
	at := p.shared[int(p.turn.Add(1)-1)%len(p.shared)]
	if err := take(ctx, at.calls); err != nil {
		return Result{}, err
	}
	defer func() { <-at.calls }()
	waited := time.Since(began)
	at.mu.Lock()
	if at.now != nil && at.now.lost.Load() {
		p.work.Go(at.now.end)
		at.now = nil
	}
	var err error
	if at.now == nil {
		at.now, err = p.connect(ctx, Task{})
	}
	s := at.now
	at.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	result, err := p.ask(ctx, s, x, r)
	result.Trace.Wait, result.Trace.Restored = waited, Live
	return result, err
}

// callAlone makes a call in a process of its own.
func (p *MCP) callAlone(ctx context.Context, t Task, x *mcpTool, r Request) (Result, error) {
	began := time.Now()
	if err := take(ctx, p.slots); err != nil {
		return Result{}, err
	}
	defer func() { <-p.slots }()
	waited := time.Since(began)
	s, err := p.fresh(ctx, t)
	if err != nil {
		return Result{}, err
	}
	defer p.work.Go(s.end)
	result, err := p.ask(ctx, s, x, r)
	result.Trace.Wait, result.Trace.Restored, result.Trace.Generation = waited, Fresh, 1
	return result, err
}

// fresh is a process that nobody has asked anything: one that was started ahead, where
// there is one. The next one is started meanwhile: some take a second for it.
func (p *MCP) fresh(ctx context.Context, t Task) (*mcpSession, error) {
	if p.config.In != "" {
		return p.connect(ctx, t)
	}
	var s *mcpSession
	for s == nil {
		select {
		case s = <-p.spares:
			if s.process != nil && !alive(s.process) {
				p.work.Go(s.end)
				s = nil
			}
			continue
		default:
		}
		var err error
		if s, err = p.connect(ctx, t); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.work.Go(func() {
			if next, err := p.connect(p.end, Task{}); err == nil {
				p.spare(next)
			}
		})
	}
	return s, nil
}

func alive(p *child.Process) bool {
	select {
	case <-p.Gone():
		return false
	default:
		return true
	}
}

// ask makes a call. Where the server is lost under it, so that nobody knows whether it was made,
// the error is a *LostError if it may be made again, and a *TaskError if not.
func (p *MCP) ask(ctx context.Context, s *mcpSession, x *mcpTool, r Request) (Result, error) {
	began := time.Now()
	note := &exchange{}
	limited, stop := context.WithTimeout(context.WithValue(ctx, exchangeKey{}, note), p.config.Timeout)
	defer stop()
	out, err := s.CallTool(limited, &mcp.CallToolParams{Name: r.Name, Arguments: r.Arguments})
	trace := Trace{Took: time.Since(began)}
	var wire *jsonrpc.Error
	switch {
	case ctx.Err() != nil:
		return Result{}, context.Cause(ctx)
	case err != nil && limited.Err() != nil:
		return Result{Content: fmt.Sprintf("%s gave no answer within %v", r.Name, p.config.Timeout), IsError: true, Changed: !x.twice, Trace: trace}, nil
	case err == nil:
		result := p.result(out)
		result.Trace, result.Changed = trace, !x.twice
		return result, nil
	case errors.As(err, &wire) && note.failed.Load() == 0 && note.status.Load() == 0 && wire.Code != codeClosing && wire.Code != codeClientClosing && !errors.Is(err, mcp.ErrConnectionClosed):
		return Result{Content: p.hide(wire.Message), IsError: true, Trace: trace}, nil
	}
	s.lost.Store(true)
	msg := p.hide(err.Error())
	if s.process != nil {
		msg += s.process.LastStderr()
	}
	err = fmt.Errorf("the server was lost: %s", msg)
	switch status := note.status.Load(); {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Result{}, &BrokenError{fmt.Errorf("%s refuses us: %d %s; look at headers", p.config.URL, status, http.StatusText(int(status)))}
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable, status == http.StatusNotFound: // it was not made: a server that has no room, or has forgotten our session
		return Result{}, &LostError{err}
	case x.twice, p.config.Retry == retryIdempotent, p.config.Keep == keepTask && p.config.Restore == restoreReplay:
		return Result{}, &LostError{err}
	}
	return Result{}, &TaskError{Err: fmt.Errorf("%s may have been called, or not, and is not called again (retry: idempotent says that it may be): %w", r.Name, err)}
}

// Codes of JSON-RPC with which either side says that it is closing.
const (
	codeClientClosing = -32003
	codeClosing       = -32004
)

// result is what a server answered, for a model.
func (p *MCP) result(out *mcp.CallToolResult) (r Result) {
	r.IsError = out.IsError
	var parts []string
	for _, c := range out.Content {
		switch c := c.(type) {
		case *mcp.TextContent:
			parts = append(parts, c.Text)
		case *mcp.ImageContent:
			r.Images = append(r.Images, "data:"+c.MIMEType+";base64,"+base64.StdEncoding.EncodeToString(c.Data))
			parts = append(parts, fmt.Sprintf("[image %d]", len(r.Images)))
		case *mcp.AudioContent:
			parts = append(parts, fmt.Sprintf("[audio, %s, %d bytes]", c.MIMEType, len(c.Data)))
		case *mcp.ResourceLink:
			parts = append(parts, "["+c.Name+"]("+c.URI+")")
		case *mcp.EmbeddedResource:
			if c.Resource != nil && c.Resource.Text != "" {
				parts = append(parts, c.Resource.Text)
			} else if c.Resource != nil {
				parts = append(parts, fmt.Sprintf("[%s, %s, %d bytes]", c.Resource.URI, c.Resource.MIMEType, len(c.Resource.Blob)))
			}
		}
	}
	r.Content = strings.Join(parts, "\n")
	if out.StructuredContent != nil {
		if raw, err := json.Marshal(out.StructuredContent); err == nil {
			r.Structured = raw
			if len(parts) == 0 {
				r.Content = string(raw)
			}
		}
	}
	r.Content = shorten(r.Content, p.config.Output)
	return r
}

// shorten leaves out the middle of a text of more than so many bytes.
func shorten(s string, most int) string {
	if most <= 0 || len(s) <= most {
		return s
	}
	head, tail := strings.ToValidUTF8(s[:most/2], ""), strings.ToValidUTF8(s[len(s)-most/2:], "")
	return fmt.Sprintf("%s\n[%d bytes are left out here]\n%s", head, len(s)-len(head)-len(tail), tail)
}

// Release implements Pool.
func (p *MCP) Release(_ context.Context, task string) error {
	p.mu.Lock()
	l := p.leases[task]
	delete(p.leases, task)
	p.mu.Unlock()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.give(l)
	return nil
}

// Close implements Pool.
func (p *MCP) Close() error {
	p.close()
	p.mu.Lock()
	p.closed = true
	leases := p.leases
	p.leases = map[string]*mcpLease{}
	p.mu.Unlock()
	for {
		select {
		case s := <-p.spares:
			p.work.Go(s.end)
			continue
		default:
		}
		break
	}
	for _, at := range p.shared {
		at.mu.Lock()
		if at.now != nil {
			p.work.Go(at.now.end)
			at.now = nil
		}
		at.mu.Unlock()
	}
	for _, l := range leases {
		l.mu.Lock()
		p.give(l)
		l.mu.Unlock()
	}
	p.work.Wait()
	p.spawn.Close()
	if p.http != nil {
		p.http.CloseIdleConnections()
	}
	return nil
}
