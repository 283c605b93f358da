package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"
)

// TestMain is an MCP server where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "mcp-server" {
		if err := newServer().Run(context.Background(), &mcp.StdioTransport{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/modelcontextprotocol/go-sdk/mcp.(*streamableServerConn).Read")) // of servers whose client was refused
}

type (
	textIn struct {
		Text string `json:"text" jsonschema:"what to say"`
	}
	none    struct{}
	counted struct {
		N int `json:"n"`
	}
)

// newServer is a real server. Its state is a counter.
func newServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	var n atomic.Int64
	say := func(text string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "Says it again.", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, func(_ context.Context, _ *mcp.CallToolRequest, in textIn) (*mcp.CallToolResult, any, error) {
		return say(in.Text), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "count", Description: "Counts on."}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, counted, error) {
		return nil, counted{int(n.Add(1))}, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "look", Description: "A picture."}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{
			&mcp.TextContent{Text: "here:"}, &mcp.ImageContent{MIMEType: "image/png", Data: []byte("png")},
			&mcp.ResourceLink{Name: "more", URI: "file:///more"}, &mcp.EmbeddedResource{Resource: &mcp.ResourceContents{URI: "file:///x", Text: "inner"}},
		}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "print"}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		fmt.Println("added 31 packages in 2s")
		return say("printed"), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "fail"}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		return nil, nil, errors.New("no such row")
	})
	mcp.AddTool(s, &mcp.Tool{Name: "hang"}, func(ctx context.Context, _ *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	})
	mcp.AddTool(s, &mcp.Tool{Name: "die"}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		fmt.Fprintln(os.Stderr, "the s3cret of the end")
		os.Exit(3)
		return nil, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "die_once", Annotations: &mcp.ToolAnnotations{IdempotentHint: true}}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		if f, err := os.OpenFile(os.Getenv("ONCE"), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			f.Close()
			os.Exit(3)
		}
		return say("alive"), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "env"}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		return say(strings.Join(os.Environ(), "\n")), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "ask_us"}, func(ctx context.Context, r *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
		_, err := r.Session.CreateMessage(ctx, &mcp.CreateMessageParams{MaxTokens: 1, Messages: []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: "hi"}}}}) //nolint:staticcheck // servers of today ask
		_, err2 := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "who are you?"})
		return say(fmt.Sprintf("sampling refused: %v, elicitation refused: %v", err != nil, err2 != nil)), nil, nil
	})
	if name := os.Getenv("EXTRA"); name != "" {
		mcp.AddTool(s, &mcp.Tool{Name: name}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
			return say(name), nil, nil
		})
	}
	return s
}

// mcpPool is a pool of the server above, over stdio unless c says otherwise.
func mcpPool(t *testing.T, c MCPConfig) *MCP {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if c.URL == "" {
		c.Run = []string{self, "mcp-server"}
	}
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.Concurrency == 0 {
		c.Concurrency = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	if c.Park == 0 {
		c.Park = time.Hour
	}
	if c.Output == 0 {
		c.Output = 1 << 20
	}
	if c.Restore == "" {
		c.Restore = "fresh"
	}
	p := NewMCP("web", c, nil, func(s string) string { return strings.ReplaceAll(s, "s3cret", "***") }, func(line string) { t.Log(line) })
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// overHTTP is the server above on loopback, and what may be put before it.
func overHTTP(t *testing.T, before func(next http.Handler) http.Handler) string {
	t.Helper()
	server := newServer()
	h := http.Handler(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	if before != nil {
		h = before(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestMCP(t *testing.T) {
	for _, way := range []string{"stdio", "http", "stdio, keep: call", "stdio, keep: task"} {
		t.Run(way, func(t *testing.T) {
			c := MCPConfig{}
			if way == "http" {
				c.URL = overHTTP(t, nil)
			}
			if _, keep, ok := strings.Cut(way, "keep: "); ok {
				c.Keep = keep
			}
			p := mcpPool(t, c)
			if err := p.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			ds, err := p.Tools(t.Context(), Task{})
			if err != nil || len(ds) != 10 || ds[4].Name != "echo" || ds[4].Description != "Says it again." || !strings.Contains(string(ds[4].Parameters), `"what to say"`) {
				t.Fatalf("got %+v, %v", ds, err)
			}
			for _, test := range []struct {
				name, arguments, want string
				isError               bool
			}{
				{"echo", `{"text":"ö"}`, "ö", false},
				{"echo", `{"text":7}`, "the arguments do not fit the parameters: ", true},
				{"echo", `{}`, "the arguments do not fit the parameters: ", true},
				{"count", `{}`, `{"n":1}`, false},
				{"look", `{}`, "here:\n[image 1]\n[more](file:///more)\ninner", false},
				{"print", `{}`, "printed", false},
				{"fail", `{}`, "no such row", true},
				{"none", `{}`, "there is no tool none, only ask_us, count, die, ", true},
				{"ask_us", `{}`, "sampling refused: true, elicitation refused: true", false},
			} {
				r, err := p.Call(t.Context(), Task{ID: "r"}, Request{Key: "1/" + test.name + test.arguments, Name: test.name, Arguments: json.RawMessage(test.arguments)})
				if err != nil || r.IsError != test.isError || r.Content != test.want && (!test.isError || !strings.HasPrefix(r.Content, test.want)) {
					t.Errorf("%s(%s): got %q, error %v, %v; want %q, error %v", test.name, test.arguments, r.Content, r.IsError, err, test.want, test.isError)
				}
				if test.name == "count" && string(r.Structured) != `{"n":1}` {
					t.Errorf("count: got structured %s", r.Structured)
				}
				if test.name == "look" && (len(r.Images) != 1 || r.Images[0] != "data:image/png;base64,cG5n") {
					t.Errorf("look: got images %q", r.Images)
				}
			}
		})
	}
}

// A server has the environment that the config names, and none of our keys.
func TestMCPEnvironment(t *testing.T) {
	t.Setenv("SOME_API_KEY", "sk-123")
	p := mcpPool(t, MCPConfig{Env: map[string]string{"MINE": "1"}})
	got, _ := called(t, p, "env", "{}")
	if strings.Contains(got, "sk-123") || !strings.Contains(got, "MINE=1") || !strings.Contains(got, "PATH=") {
		t.Errorf("got %s", got)
	}
}

func TestMCPTimeout(t *testing.T) {
	for _, url := range []string{"", overHTTP(t, nil)} {
		p := mcpPool(t, MCPConfig{URL: url, Timeout: 300 * time.Millisecond})
		if got, isError := called(t, p, "hang", "{}"); !isError || got != "hang gave no answer within 300ms" {
			t.Errorf("got %q, error %v", got, isError)
		}
		if got, isError := called(t, p, "echo", `{"text":"on"}`); isError || got != "on" {
			t.Errorf("after it: got %q, error %v", got, isError)
		}
	}
}

// A server that is lost under a call is nobody's answer.
func TestMCPLost(t *testing.T) {
	call := func(p *MCP, name string) error {
		_, err := p.Call(t.Context(), Task{ID: "r"}, Request{Key: "1/0", Name: name, Arguments: json.RawMessage("{}")})
		return err
	}
	p := mcpPool(t, MCPConfig{Env: map[string]string{"ONCE": filepath.Join(t.TempDir(), "once")}})
	var doubt *TaskError
	if err := call(p, "die"); !errors.As(err, &doubt) || !strings.Contains(err.Error(), "may have been called, or not") || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "the *** of the end") {
		t.Errorf("die: got %v, want a TaskError without secrets", err)
	}
	var lost *LostError
	if err := call(p, "die_once"); !errors.As(err, &lost) {
		t.Errorf("die_once: got %v, want a LostError: it may be called again", err)
	}
	if err := call(p, "die_once"); err != nil {
		t.Errorf("die_once again: got %v", err)
	}
	p = mcpPool(t, MCPConfig{Retry: "idempotent"})
	if err := call(p, "die"); !errors.As(err, &lost) {
		t.Errorf("die, where it may be called again: got %v, want a LostError", err)
	}
}

func TestMCPBroken(t *testing.T) {
	refuse := func(status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "s3cret", status) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, test := range []struct {
		name string
		c    MCPConfig
		run  []string
		want string
	}{
		{"no program", MCPConfig{}, []string{"no-such-server"}, "cannot start no-such-server"},
		{"ends", MCPConfig{}, []string{"sh", "-c", "echo s3cret is missing >&2; exit 4"}, "does not answer as an MCP server"},
		{"stderr", MCPConfig{}, []string{"sh", "-c", "echo s3cret is missing >&2; exit 4"}, "*** is missing"},
		{"refused", MCPConfig{URL: refuse(401)}, nil, "refuses us: 401 Unauthorized; look at headers"},
		{"no server", MCPConfig{URL: refuse(404)}, nil, "is no MCP server: 404 Not Found; look at url"},
		{"nobody there", MCPConfig{URL: gone.URL}, nil, "connection refused"},
		{"only", MCPConfig{Only: []string{"echo", "ecco"}}, nil, `only: there is no tool "ecco"; the server has ask_us, count, `},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := mcpPool(t, test.c)
			if test.run != nil {
				p.config.Run = test.run
			}
			err := p.Check(t.Context())
			var broken *BrokenError
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, want a BrokenError with %q", err, test.want)
			}
		})
	}
}

// Headers go with each request; who takes them off is refused in the run, too.
func TestMCPHeaders(t *testing.T) {
	var shut atomic.Bool
	url := overHTTP(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer s3cret" || shut.Load() {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	p := mcpPool(t, MCPConfig{URL: url, Headers: map[string]string{"Authorization": "Bearer s3cret"}})
	if got, _ := called(t, p, "echo", `{"text":"in"}`); got != "in" {
		t.Errorf("got %q", got)
	}
	shut.Store(true)
	_, err := p.Call(t.Context(), Task{}, Request{Name: "echo", Arguments: json.RawMessage(`{"text":"x"}`)})
	var broken *BrokenError
	if !errors.As(err, &broken) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want a BrokenError", err)
	}
}

// A server that is away is waited for, and the run goes on with the one that comes.
func TestMCPServerAway(t *testing.T) {
	var away atomic.Bool
	url := overHTTP(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if away.Load() {
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	p := mcpPool(t, MCPConfig{URL: url})
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	var lost *LostError
	if _, err := p.Call(t.Context(), Task{}, Request{Name: "count", Arguments: json.RawMessage("{}")}); !errors.As(err, &lost) {
		t.Errorf("got %v, want a LostError", err)
	}
	away.Store(false)
	if got, _ := called(t, p, "count", "{}"); got != `{"n":1}` {
		t.Errorf("got %q, want the first count", got)
	}
}

// Tools that are others than those that the run began with are told of, and taken only where
// somebody says so.
func TestMCPPinned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pools", "web")
	check := func(extra string, accept bool) error {
		p := mcpPool(t, MCPConfig{Env: map[string]string{"EXTRA": extra}})
		if err := p.Open(t.Context(), "run", dir); err != nil {
			t.Fatal(err)
		}
		if accept {
			p.AcceptChanges()
		}
		return p.Check(t.Context())
	}
	if err := check("search", false); err != nil {
		t.Fatal(err)
	}
	if err := check("search", false); err != nil {
		t.Errorf("the same tools: %v", err)
	}
	var changed *ChangedError
	if err := check("find", false); !errors.As(err, &changed) || strings.Join(changed.Changes, ", ") != "search is gone, find is new" {
		t.Errorf("got %v, want a ChangedError with the difference", err)
	}
	if err := check("find", true); err != nil {
		t.Errorf("accepted: %v", err)
	}
	if err := check("find", false); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// journal is a task's past, as its turns would have it.
type journal struct{ calls []Request }

func (j *journal) task(id string) Task {
	return Task{ID: id, Past: func() []Request { return j.calls }}
}

func (j *journal) call(t *testing.T, p *MCP, id, name string) Result {
	t.Helper()
	r := Request{Key: fmt.Sprintf("%d/0", len(j.calls)+1), Name: name, Arguments: json.RawMessage("{}")}
	got, err := p.Call(t.Context(), j.task(id), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Content, r.IsError, r.Changed = got.Content, got.IsError, got.Changed
	j.calls = append(j.calls, r)
	return got
}

// Each task has a process of its own; one that is gone is made again as the pool says.
func TestMCPOfTask(t *testing.T) {
	for restore, want := range map[string]Trace{
		"replay": {Lease: "web/a", Generation: 2, Restored: Replay},
		"fresh":  {Lease: "web/a", Generation: 2, Restored: Fresh},
		"none":   {},
	} {
		t.Run(restore, func(t *testing.T) {
			p := mcpPool(t, MCPConfig{Keep: "task", Restore: restore})
			var a, b journal
			for i := 1; i <= 3; i++ {
				if got := a.call(t, p, "a", "count"); got.Content != fmt.Sprintf(`{"n":%d}`, i) || got.Trace.Generation != 1 {
					t.Fatalf("got %+v, want %d", got, i)
				}
			}
			if got := b.call(t, p, "b", "count"); got.Content != `{"n":1}` {
				t.Errorf("another task: got %q", got.Content)
			}
			again, err := p.Call(t.Context(), a.task("a"), a.calls[2])
			if err != nil || again.Content != `{"n":3}` {
				t.Errorf("the same call again: got %+v, %v, want the answer that it had", again, err)
			}
			p.leases["a"].now.process.Kill()
			got, err := p.Call(t.Context(), a.task("a"), Request{Key: "9/0", Name: "count", Arguments: json.RawMessage("{}")})
			if restore == "none" {
				var failed *TaskError
				if !errors.As(err, &failed) {
					t.Errorf("got %+v, %v, want a TaskError", got, err)
				}
				return
			}
			n := map[string]string{"replay": `{"n":4}`, "fresh": `{"n":1}`}[restore]
			got.Trace.Wait, got.Trace.Took = 0, 0
			if err != nil || got.Content != n || got.Trace != want {
				t.Errorf("got %+v, %v, want %s and %+v", got, err, n, want)
			}
			if err := p.Release(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A state that has seen what is not committed is no state of the task.
func TestMCPOtherPast(t *testing.T) {
	p := mcpPool(t, MCPConfig{Keep: "task", Restore: "replay"})
	var a journal
	a.call(t, p, "a", "count")
	ask := func(key, name string) Result {
		got, err := p.Call(t.Context(), a.task("a"), Request{Key: key, Name: name, Arguments: json.RawMessage("{}")})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask("2/0", "count"); got.Content != `{"n":2}` { // and is lost: the step was not committed
		t.Fatalf("got %q", got.Content)
	}
	if got := ask("2/0", "env"); got.IsError {
		t.Fatalf("got %q", got.Content)
	}
	if got := ask("2/1", "count"); got.Content != `{"n":2}` || got.Trace.Restored != Live || got.Trace.Generation != 2 {
		t.Errorf("got %+v, want the second count, of a state that was made again", got)
	}
}

// More tasks than processes: those that wait longest for their next call give up theirs.
func TestMCPParks(t *testing.T) {
	p := mcpPool(t, MCPConfig{Keep: "task", Restore: "replay", Workers: 2, Park: time.Millisecond})
	tasks := make([]journal, 6)
	for round := 1; round <= 2; round++ {
		var wg sync.WaitGroup
		for i := range tasks {
			wg.Go(func() {
				if got := tasks[i].call(t, p, fmt.Sprint(i), "count"); got.Content != fmt.Sprintf(`{"n":%d}`, round) {
					t.Errorf("task %d, round %d: got %q", i, round, got.Content)
				}
			})
		}
		wg.Wait()
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("aääb", 4); got != "a\n[4 bytes are left out here]\nb" {
		t.Errorf("got %q", got)
	}
}
