package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// agentOf is a coding agent with the tools of `matrix mcp`, a process that works in dir.
func agentOf(t *testing.T, dir string, args ...string) *mcp.ClientSession {
	t.Helper()
	cmd := process(t, append([]string{"mcp"}, args...)...)
	cmd.Dir = dir
	c := mcp.NewClient(&mcp.Implementation{Name: "agent"}, nil)
	s, err := c.Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// use calls a tool, and wants texts in its answer.
func use(t *testing.T, s *mcp.ClientSession, name, arguments string, isError bool, texts ...string) string {
	t.Helper()
	r, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: name, Arguments: json.RawMessage(arguments)})
	if err != nil {
		t.Fatalf("%s(%s): %v", name, arguments, err)
	}
	got := ""
	for _, c := range r.Content {
		got += c.(*mcp.TextContent).Text
	}
	if r.IsError != isError {
		t.Fatalf("%s(%s): got error %v, want %v\n%s", name, arguments, r.IsError, isError, got)
	}
	for _, text := range texts {
		if !strings.Contains(got, text) {
			t.Fatalf("%s(%s): want %q in\n%s", name, arguments, text, got)
		}
	}
	return got
}

func toolNames(t *testing.T, s *mcp.ClientSession) string {
	t.Helper()
	var names []string
	for tool, err := range s.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tool.Name)
	}
	return strings.Join(names, " ")
}

func TestMCPReads(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(5), "run.yaml": echo})
	matrixCmd("run", filepath.Join(dir, "run.yaml"), "-o", filepath.Join(dir, "runs", "echo")).want(t, 0)
	s := agentOf(t, dir)
	if got := toolNames(t, s); got != "compare explain graph plan runs show stats status validate verify" {
		t.Errorf("got tools %s", got)
	}
	use(t, s, "runs", `{}`, false, "runs/echo: finished: 5 done, 0 dropped, 0 failed")
	use(t, s, "status", `{"run":"runs/echo"}`, false, `"done": 5`)
	use(t, s, "verify", `{"run":"runs/echo"}`, false, "OK: nothing is lost")
	use(t, s, "show", `{"run":"runs/echo","id":"q3"}`, false, "you said question 3")
	use(t, s, "show", `{"run":"runs/echo","where":"item.n >= 4"}`, false, "question 4")
	use(t, s, "show", `{"run":"runs/echo","where":"--full"}`, true, "exit code 2")
	use(t, s, "show", `{"run":"runs/echo","which":"all"}`, true, "want done, failed, dropped or expanded")
	use(t, s, "explain", `{"run":"runs/echo","id":"q3"}`, false, "q3")
	use(t, s, "stats", `{"run":"runs/echo"}`, false, "5")
	use(t, s, "compare", `{"a":"runs/echo","b":"runs/echo"}`, false, "5")
	use(t, s, "validate", `{"config":"run.yaml","overrides":["live=7"]}`, false, "live: 7")
	use(t, s, "validate", `{"config":"run.yaml","overrides":["liv=7"]}`, true, "live", "exit code 2")
	use(t, s, "validate", `{"config":"run.yaml","overrides":["--help"]}`, true, "is not an override")
	use(t, s, "plan", `{"config":"run.yaml"}`, false, "5")
	use(t, s, "graph", `{"config":"run.yaml"}`, false, "say")
	use(t, s, "verify", `{"run":"runs/none"}`, true, "runs/none")
	use(t, s, "verify", `{"run":"--help"}`, true, "--help")
	if _, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "run", Arguments: json.RawMessage(`{"config":"run.yaml"}`)}); err == nil {
		t.Error("run: got an answer, want none without --allow run")
	}
}

func TestMCPActs(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(5), "run.yaml": echo})
	s := agentOf(t, dir, "--allow", "run")
	if got := toolNames(t, s); got != "compare explain graph plan preview run runs show sim stats status stop validate verify" {
		t.Errorf("got tools %s", got)
	}
	use(t, s, "preview", `{"config":"run.yaml","number":1}`, false, "you said question 0")
	use(t, s, "run", `{"config":"run.yaml"}`, false, "5")
	use(t, s, "verify", `{"run":"runs/echo"}`, false, "OK")
	url := strings.TrimSpace(use(t, s, "sim", `{"reply":"echo"}`, false, "http://127.0.0.1:"))
	res, err := http.Get(url + "/models")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s/models: %v, %v", url, res, err)
	}
	res.Body.Close()
	// A run that goes on is told of, and ends with the server, to be gone on with.
	slow := strings.Replace(echo, "m: {kind: scripted, reply: \"you said {{ prompt }}\"}", "m: {base_url: \""+url+"\", model: sim-8b}", 1)
	more := files(t, map[string]string{"rows.jsonl": rows(5000), "run.yaml": slow})
	use(t, s, "run", `{"config":"`+more+`/run.yaml","out":"runs/slow","wait_seconds":1}`, false, "The run goes on")
	use(t, s, "status", `{"run":"runs/slow"}`, false, `"state": "running"`)
	use(t, s, "runs", `{}`, false, "runs/slow: under way")
	use(t, s, "stop", `{"run":"runs/slow"}`, false)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	matrixCmd("verify", filepath.Join(dir, "runs", "slow")).want(t, 0, "OK")
}

func TestMCPOverHTTP(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(5), "run.yaml": echo})
	cmd := process(t, "mcp", "--http", "0")
	cmd.Dir = dir
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	in := bufio.NewScanner(errs)
	in.Scan()
	c := mcp.NewClient(&mcp.Implementation{Name: "agent"}, nil)
	s, err := c.Connect(context.Background(), &mcp.StreamableClientTransport{Endpoint: in.Text()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	use(t, s, "validate", `{"config":"run.yaml"}`, false, "name: echo")
}

func TestMCPUsage(t *testing.T) {
	matrixCmd("mcp", "--allow", "all").want(t, 2, "want run")
	for _, addr := range []string{"0.0.0.0:80", "example.org:80", "nowhere", ":80"} {
		matrixCmd("mcp", "--http", addr).want(t, 2, "loopback")
	}
}

func TestBounded(t *testing.T) {
	b := &bounded{}
	for range 100 {
		if _, err := b.Write([]byte(strings.Repeat("x", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	if s := b.String(); len(s) > maxHead+maxTail+100 || !strings.Contains(s, "[34464 bytes are left out here") {
		t.Errorf("got %d bytes, %q", len(s), s[maxHead:maxHead+80])
	}
}
