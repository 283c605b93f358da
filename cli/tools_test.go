package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const pythonTools = `
import asyncio

def calculate(expression: str, digits: int = 2) -> float:
    """The value of an arithmetic expression.

    Args:
        expression: What to compute.
        digits: Digits after the point.
    """
    return round(eval(expression), digits)

async def score(answer: str, least: int = 5):
    await asyncio.sleep(0)
    print("scoring")
    return {"score": len(answer), "long": len(answer) >= least}
`

// A function of Python is a tool of a chat, a pool, and a reward.
func TestPythonFunctions(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(5), "tools.py": pythonTools, "run.yaml": `
name: python
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "you said {{ prompt }}"}
pools:
  calc: {kind: python, file: tools.py, functions: [calculate]}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}", tools: [{python: "tools.py:calculate"}]}}
  more: {chat: {model: m, prompt: "{{ item.text }}", tools: [{pool: calc}]}}
  reward: {python: {call: "tools.py:score", args: {answer: turn("say").text, least: "3"}}}
flow: [say, more, reward]
metrics: {score: last.data.score}
`})
	config := filepath.Join(dir, "run.yaml")
	matrixCmd("tools", config).want(t, 0, "calculate (pool calc)", "calculate (pool tools.py:calculate)", "score (pool roles.reward.python)", "The value of an arithmetic expression.", `"Digits after the point."`)
	matrixCmd("tools", config, "calculate", "--call", `{"expression": "1/3"}`).want(t, 0, "0.33")
	matrixCmd("tools", config, "calculate", "--call", `{"expression": "1/0"}`).want(t, 1, "ZeroDivisionError: division by zero", "This is an error")
	matrixCmd("tools", config, "calculat").want(t, 1, `did you mean "calculate"?`)
	matrixCmd("tools", config, "calculate", "--call", `{`).want(t, 2, "is not JSON")
	matrixCmd("tools", config, "--call", `{}`).want(t, 2, "--call needs NAME")
	out := filepath.Join(dir, "runs", "python")
	matrixCmd("run", config, "-o", out).want(t, 0)
	matrixCmd("show", out, "q3", "--full").want(t, 0, `"score": 19`)
	matrixCmd("verify", out, "--complete").want(t, 0, "OK")
}

// What is wrong with a function stops the run at once.
func TestPythonFunctionsWrong(t *testing.T) {
	for name, test := range map[string]struct{ call, args, text, want string }{
		"no file":     {"tool.py:score", "{}", pythonTools, "roles.reward.python.call"},
		"no function": {"tools.py:scor", "{}", pythonTools, "it has no function scor; did you mean score?"},
		"no colon":    {"tools.py", "{}", pythonTools, "want FILE:FUNCTION"},
		"import":      {"tools.py:score", "{}", "import no_such_module\n", "tools.py:1: ModuleNotFoundError: No module named 'no_such_module'"},
		"argument":    {"tools.py:score", "{answer: last.text, lest: '1'}", pythonTools, "there is no parameter lest, only answer, least"},
		"missing":     {"tools.py:score", "{least: '1'}", pythonTools, "its parameter answer is not given"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"rows.jsonl": rows(1), "tools.py": test.text, "run.yaml": `
dataset: {path: rows.jsonl, id: id}
models: {m: {kind: scripted, reply: "x"}}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
  reward: {python: {call: "` + test.call + `", args: ` + test.args + `}}
flow: [say, reward]
`})
			matrixCmd("run", filepath.Join(dir, "run.yaml"), "-o", filepath.Join(dir, "out")).want(t, 2, test.want)
		})
	}
}

// A chat calls the tools of an MCP server, here this program's own; a server that has others in a
// later session is told of.
func TestMCPPool(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := files(t, map[string]string{"rows.jsonl": rows(4), "run.yaml": `
name: served
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, replies: [{text: "", tool_calls: [{name: validate, arguments: {config: none.yaml}}, {name: graph, arguments: {config: GRAPH}}]}, "done"]}
pools:
  own: {kind: mcp, run: [EXE, mcp], env: {MATRIX_TEST_BE_PROGRAM: "1"}, only: [validate, graph]}
roles:
  say: {chat: {model: m, sees: [user, say, tools], tools: [{pool: own}]}}
  tools: {calls: {}}
flow:
  open: [{role: user, text: "{{ item.text }}"}]
  start: say
  after: {say: [{when: len(last.tool_calls) > 0, to: tools}, {finish: true}], tools: say}
`, "graph.yaml": echo})
	config := filepath.Join(dir, "run.yaml")
	text := strings.NewReplacer("EXE", exe, "GRAPH", filepath.Join(dir, "graph.yaml")).Replace(read(t, config))
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	out := filepath.Join(dir, "out")
	matrixCmd("run", config, "-o", out).want(t, 0)
	matrixCmd("verify", out, "--complete").want(t, 0, "OK")
	matrixCmd("show", out, "q2", "--full").want(t, 0, "none.yaml", "(exit code 2)", "say", "done")

	pin := filepath.Join(out, "state.pools", "own", "tools.json")
	if err := os.WriteFile(pin, []byte(strings.Replace(read(t, pin), "Who acts after whom", "Who acts", 1)), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", config, "-o", out).want(t, 2, "pools.own", "graph has another description", "--accept-changes")
	matrixCmd("run", config, "-o", out, "--accept-changes").want(t, 0)
	matrixCmd("run", config, "-o", out).want(t, 0)

	for name, test := range map[string]struct{ pool, want string }{
		"nothing": {"{kind: mcp}", "needs run, a program and its arguments, or url"},
		"both":    {"{kind: mcp, run: [x], url: \"http://x/\"}", "pools.own.url: stands beside run"},
		"url":     {"{kind: mcp, url: nowhere}", "pools.own.url"},
		"program": {"{kind: mcp, run: [no-such-server]}", "pools.own.run: cannot run no-such-server"},
		"in":      {"{kind: mcp, run: [x], in: box}", "pools.own.in"},
		"keep":    {"{kind: mcp, run: [sh], keep: ever}", "pools.own.keep"},
		"headers": {"{kind: mcp, run: [sh], headers: {A: b}}", "pools.own.headers"},
		"restore": {"{kind: mcp, run: [sh], restore: all}", "restore"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := strings.Split(text, "\n")
			for i, l := range lines {
				if strings.HasPrefix(l, "  own:") {
					lines[i] = "  own: " + test.pool
				}
			}
			write(strings.Join(lines, "\n"))
			matrixCmd("plan", config).want(t, 2, test.want)
		})
	}
}

// A training set has the tools that a pool had, and what its states said of themselves, as the
// run's folder tells them: also when the file of the functions is gone.
func TestExportPools(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3")
	}
	dir := files(t, map[string]string{
		"tools.py": "def add(a: int, b: int) -> int:\n    \"\"\"Adds.\"\"\"\n    return a + b\n",
		"env.py": `import json, sys
for line in sys.stdin:
    q = json.loads(line)
    a = {"seq": q["seq"]}
    if q["op"] == "hello":
        a["data"] = {"name": "env", "version": "1", "leases": 4, "deterministic": True}
    if q["op"] == "open":
        a["data"], a["shared"] = {"who": q["lease"]}, {"policy": "p1"}
    if q["op"] == "get":
        a["data"] = "Be kind."
    print(json.dumps(a), flush=True)
`,
		"rows.jsonl": `{"id": "r"}` + "\n",
		"config.yaml": `
dataset: {path: rows.jsonl, id: id}
models: {m: {kind: scripted, replies: [{tool_calls: [{name: add, arguments: {a: 2, b: 3}}]}, "It is 5."]}}
pools: {env: {kind: process, run: [python3, env.py], dir: .}}
roles:
  ask: {chat: {model: m, system: "{{ lease('env').policy }}", prompt: "2 + 3?", sees: [ask, tool], tools: [{python: "tools.py:add"}]}}
  tool: {calls: {}}
flow: {start: ask, after: {ask: [{when: len(last.tool_calls) > 0, to: tool}, {finish: last.text}], tool: ask}}
output: {export: {format: messages}}
`})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	if err := os.Remove(filepath.Join(dir, "tools.py")); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "t.jsonl")
	matrixCmd("export", out, "-o", to, "--format", "messages").want(t, 0)
	for _, want := range []string{`"content":"Be kind."`, `"name":"add","description":"Adds."`, `"content":"It is 5."`} {
		if got := read(t, to); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s in it", got, want)
		}
	}
	whole, _ := filepath.Glob(filepath.Join(out, "export", "*", "*.jsonl"))
	if len(whole) != 1 || read(t, whole[0]) != read(t, to) {
		t.Errorf("got %q, want one file with what matrix export writes", whole)
	}
}
