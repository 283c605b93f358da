package tool

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// realServers is a folder with servers of others, which make bin/mcp/.made makes.
func realServers(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("MATRIX_TEST_MCP")
	if dir == "" {
		t.Skip("MATRIX_TEST_MCP is not set: make bin/mcp/.made, then MATRIX_TEST_MCP=bin/mcp")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Servers that others wrote, in Python and Node, of npm and PyPI.
func TestMCPRealServers(t *testing.T) {
	dir, work := realServers(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "a.txt"), []byte("the text"), 0o600); err != nil {
		t.Fatal(err)
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/robots.txt" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body><article><h1>Herons</h1><p>Herons stand in shallow water and wait for a long time.</p></article></body></html>")
	}))
	t.Cleanup(page.Close)
	fast := written(t, "fast.py", `
from mcp.server.fastmcp import FastMCP
server = FastMCP("fast")
n = 0
@server.tool()
def add(a: int, b: int) -> int:
    "Adds."
    return a + b
@server.tool()
def count() -> int:
    "Counts on."
    global n
    n += 1
    return n
@server.tool()
def fail() -> str:
    raise ValueError("no such row")
server.run()
`)
	python := filepath.Join(dir, "bin", "python")
	type call struct {
		name, arguments, want string
		isError               bool
	}
	for _, test := range []struct {
		name  string
		run   []string
		calls []call
	}{
		{"FastMCP", []string{python, fast}, []call{
			{"add", `{"a":1,"b":2}`, "3", false}, {"count", `{}`, "1", false}, {"count", `{}`, "2", false}, {"fail", `{}`, "no such row", true},
			{"add", `{"a":"x","b":2}`, "do not fit", true}, {"none", `{}`, "there is no tool none, only add, count, fail", true},
		}},
		{"sqlite", []string{filepath.Join(dir, "bin", "mcp-server-sqlite"), "--db-path", filepath.Join(work, "x.db")}, []call{
			{"create_table", `{"query":"CREATE TABLE t (a INTEGER)"}`, "", false}, {"write_query", `{"query":"INSERT INTO t VALUES (7)"}`, "1", false}, {"read_query", `{"query":"SELECT a FROM t"}`, "7", false},
		}},
		{"fetch", []string{filepath.Join(dir, "bin", "mcp-server-fetch"), "--allow-private-ips"}, []call{{"fetch", `{"url":"` + page.URL + `/"}`, "shallow water", false}}},
		{"filesystem", []string{filepath.Join(dir, "node_modules", ".bin", "mcp-server-filesystem"), work}, []call{
			{"read_text_file", `{"path":"` + work + `/a.txt"}`, "the text", false}, {"read_text_file", `{"path":"/etc/passwd"}`, "denied", true},
		}},
	} {
		for _, keep := range []string{"run", "task"} {
			t.Run(test.name+", keep "+keep, func(t *testing.T) {
				began := time.Now()
				p := NewMCP("real", MCPConfig{Run: test.run, Keep: keep, Workers: 1, Concurrency: 8, Timeout: time.Minute, Restore: "fresh", Park: time.Second, Output: 1 << 20},
					nil, func(s string) string { return s }, func(line string) { t.Log(line) })
				t.Cleanup(func() { p.Close() })
				if err := p.Check(t.Context()); err != nil {
					t.Fatal(err)
				}
				t.Logf("started and listed in %v", time.Since(began))
				for i, c := range test.calls {
					if keep == "task" && c.name == "create_table" {
						continue // it is there since keep: run
					}
					r, err := p.Call(t.Context(), Task{ID: "t"}, Request{Key: fmt.Sprintf("1/%d", i), Name: c.name, Arguments: json.RawMessage(c.arguments)})
					if err != nil || r.IsError != c.isError || !strings.Contains(r.Content, c.want) {
						t.Errorf("%s(%s): got %q, error %v, %v; want %q, error %v", c.name, c.arguments, r.Content, r.IsError, err, c.want, c.isError)
					}
				}
			})
		}
	}
}
