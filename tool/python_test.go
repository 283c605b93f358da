package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// written writes a Python file.
func written(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// functions is a pool of the functions of a Python file with this text.
func functions(t *testing.T, c PythonConfig, text string) *Python {
	t.Helper()
	if c.File == "" {
		c.File = written(t, "tools.py", text)
	}
	if c.Python == "" {
		c.Python = "python3"
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.Concurrency == 0 {
		c.Concurrency = 64
	}
	p := NewPython("calc", c, func(s string) string { return strings.ReplaceAll(s, "s3cret", "***") }, func(line string) { t.Log(line) })
	t.Cleanup(func() { p.Close() })
	return p
}

// called is what a model is told.
func called(t *testing.T, p Pool, name, arguments string) (string, bool) {
	t.Helper()
	r, err := p.Call(t.Context(), Task{ID: "r"}, Request{Key: "1/0", Name: name, Arguments: json.RawMessage(arguments)})
	if err != nil {
		t.Fatalf("%s(%s): %v", name, arguments, err)
	}
	return r.Content, r.IsError
}

const typed = `
import dataclasses, enum, typing
from typing import Annotated, Dict, List, Literal, Optional, Tuple, Union

class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"

@dataclasses.dataclass
class Point:
    """A place.

    Attributes:
        x: How far across.
    """
    x: float
    y: float = 0.0

class Box(typing.TypedDict, total=False):
    w: Annotated[int, "How wide."]

def google(expression: str, digits: int = 2, unit: Optional[Unit] = None) -> float:
    """The value of an expression.
    It is rounded.

    A second paragraph.

    Args:
        expression (str): What to compute,
            in one line.
        digits: Digits after the point.

    Returns:
        float: the value.
    """
    return round(eval(expression), digits), unit.value if unit else None

def numpy(p: Point, b: Box, how: Literal["near", "far"] = "near", *, tags: Optional[List[str]] = None, w: Dict[str, int] = {}):
    """Places a box.

    Parameters
    ----------
    p : Point
        Where it is,
        exactly.
    how, tags
        Words for it.

    Returns
    -------
    list
    """
    return {"x": p.x, "type": type(p).__name__, "b": b, "how": how, "tags": tags, "w": w}

def rest(a: int, pair: Tuple[int, str] = (1, "x"), kind: Union[int, str, None] = None, **more: float):
    """Does it.

    :param a: the first,
        which counts
    :param int pair: two
    :returns: what it got
    """
    return [a, list(pair), kind, more]

async def slow(seconds):
    import asyncio
    await asyncio.sleep(seconds)
    return "late"
def _hidden(): pass
`

func TestPythonSchemas(t *testing.T) {
	p := functions(t, PythonConfig{}, typed)
	got, err := p.Tools(t.Context(), Task{})
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, d := range got {
		text = append(text, fmt.Sprintf("%s: %q\n%s", d.Name, d.Description, d.Parameters))
	}
	want := strings.TrimSpace(`
google: "The value of an expression. It is rounded.\n\nA second paragraph."
{"type": "object", "properties": {"expression": {"type": "string", "description": "What to compute, in one line."}, "digits": {"type": "integer", "description": "Digits after the point.", "default": 2}, "unit": {"anyOf": [{"type": "string", "enum": ["celsius", "fahrenheit"]}, {"type": "null"}], "default": null}}, "required": ["expression"], "additionalProperties": false}
numpy: "Places a box."
{"type": "object", "properties": {"p": {"type": "object", "properties": {"x": {"type": "number", "description": "How far across."}, "y": {"type": "number", "default": 0.0}}, "required": ["x"], "additionalProperties": false, "description": "Where it is, exactly."}, "b": {"type": "object", "additionalProperties": false, "properties": {"w": {"type": "integer", "description": "How wide."}}, "required": []}, "how": {"type": "string", "enum": ["near", "far"], "description": "Words for it.", "default": "near"}, "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "description": "Words for it.", "default": null}, "w": {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}}}, "required": ["p", "b"], "additionalProperties": false}
rest: "Does it."
{"type": "object", "properties": {"a": {"type": "integer", "description": "the first, which counts"}, "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false, "minItems": 2, "description": "two", "default": [1, "x"]}, "kind": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}], "default": null}}, "required": ["a"], "additionalProperties": {"type": "number"}}
slow: ""
{"type": "object", "properties": {"seconds": {}}, "required": ["seconds"], "additionalProperties": false}`)
	if s := strings.Join(text, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}

func TestPythonCalls(t *testing.T) {
	p := functions(t, PythonConfig{}, typed+`
def raises(): raise ValueError("the s3cret is out")
def nothing(): return None
def text() -> str: return "null"
def strange(): return object()
def nan(): return float("nan")
def leaves():
    import sys; sys.exit("bye")
def prints():
    import os, subprocess, sys
    print("to the log"); sys.stdout.flush(); os.write(1, b"raw\n"); subprocess.run(["echo", "child"])
    sys.__stdout__.write("old\n"); sys.__stdout__.flush()
    return sys.stdin.read() + "fine"
def where(): return __import__("os").path.basename(__file__)
def kinds():
    import datetime, pathlib
    return {1: {3, 2}, "d": datetime.date(2026, 1, 2), "p": pathlib.Path("a/b"), "u": Unit.C, "t": (1, Point(1)), Unit.F: None}
def deep():
    x = []
    for _ in range(5000): x = [x]
    return x
`)
	for _, test := range []struct {
		name, arguments, want string
		isError               bool
	}{
		{"google", `{"expression":"1/3","unit":"celsius"}`, `[0.33,"celsius"]`, false},
		{"google", `{"expression":"1/3","digits":1}`, `[0.3,null]`, false},
		{"google", `{"expression":"1/0"}`, "ZeroDivisionError: division by zero", true},
		{"numpy", `{"p":{"x":1},"b":{"w":2},"tags":["a"]}`, `{"x":1.0,"type":"Point","b":{"w":2},"how":"near","tags":["a"],"w":{}}`, false},
		{"rest", `{"a":1,"pair":[2,"y"],"kind":"k","more":1}`, `[1,[2,"y"],"k",{"more":1.0}]`, false},
		{"rest", `{}`, "the arguments do not fit the parameters: the whole: missing property 'a'", true},
		{"rest", `[]`, "the arguments are no JSON object", true},
		{"none", `{}`, "there is no tool none, only google, numpy, rest, slow, ", true},
		{"slow", `{"seconds":0.001}`, "late", false},
		{"raises", `{}`, "ValueError: the *** is out", true},
		{"nothing", `{}`, "null", false},
		{"text", `{}`, "null", false},
		{"strange", `{}`, "it returned what cannot be written as JSON: a object is not JSON", true},
		{"nan", `{}`, "it returned what cannot be written as JSON: Out of range float values are not JSON compliant", true},
		{"leaves", `{}`, "SystemExit: bye", true},
		{"prints", `{}`, "fine", false},
		{"where", `{}`, "tools.py", false},
		{"kinds", `{}`, `{"1":[2,3],"d":"2026-01-02","p":"a/b","u":"celsius","t":[1,{"x":1,"y":0.0}],"fahrenheit":null}`, false},
		{"deep", `{}`, "it returned what cannot be written as JSON: maximum recursion depth exceeded", true},
	} {
		got, isError := called(t, p, test.name, test.arguments)
		var b bytes.Buffer
		if !isError && json.Compact(&b, []byte(got)) == nil {
			got = b.String()
		}
		if isError != test.isError || got != test.want && (!isError || !strings.HasPrefix(got, test.want)) {
			t.Errorf("%s(%s): got %q, error %v; want %q, error %v", test.name, test.arguments, got, isError, test.want, test.isError)
		}
	}
}

// What is wrong with a file stops the run at once, with its place.
func TestPythonBroken(t *testing.T) {
	for _, test := range []struct {
		name, text string
		functions  []string
		want       string
	}{
		{"syntax", "x = 1\ndef f(:\n", nil, "tools.py:2: SyntaxError: "},
		{"import", "import os\n\nimport no_such_module_here\n", nil, "tools.py:3: ModuleNotFoundError: No module named 'no_such_module_here'"},
		{"raises", "def f(): g()\ndef g(): raise KeyError('s3cret')\nf()\n", nil, "tools.py:2: KeyError: '***'"},
		{"leaves", "import sys\nsys.exit(3)\n", nil, "tools.py:2: SystemExit: 3"},
		{"ends", "import os\nos._exit(3)\n", nil, "it ended without an answer: exit status 3"},
		{"empty", "x = 1\n", nil, "tools.py: it has no function whose name does not begin with _"},
		{"name", "def calculate(): pass\n", []string{"calculat"}, "tools.py: it has no function calculat; did you mean calculate?"},
		{"other name", "def calculate(): pass\n", []string{"zzz"}, "tools.py: it has no function zzz, only calculate"},
		{"type", "import threading\n\ndef f(x: threading.Thread): pass\n", nil, "tools.py:3: f: its parameter x: the type Thread cannot come from JSON"},
		{"hint", "def f(x: 'NoSuchType'): pass\n", nil, "tools.py:1: f: its type hints cannot be read: NameError: name 'NoSuchType' is not defined"},
		{"recursive", "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass T:\n    next: T\n\ndef f(x: T): pass\n", nil, "tools.py:7: f: its parameter x: the type T holds itself"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := functions(t, PythonConfig{Functions: test.functions}, test.text)
			err := p.Check(t.Context())
			var broken *BrokenError
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want a BrokenError with %q", err, test.want)
			}
		})
	}
	t.Run("no interpreter", func(t *testing.T) {
		err := functions(t, PythonConfig{PythonHow: PythonHow{Python: "no-such-python"}}, "").Check(t.Context())
		var broken *BrokenError
		if !errors.As(err, &broken) || !strings.Contains(err.Error(), "cannot start no-such-python") {
			t.Errorf("got %v, want a BrokenError", err)
		}
	})
}

// Async functions run at once in one process, and others beside them.
func TestPythonAsync(t *testing.T) {
	p := functions(t, PythonConfig{PythonHow: PythonHow{Concurrency: 50}}, `
import asyncio
n = 0
met = None
async def meet() -> int:
    "Returns once 50 are here."
    global n, met
    if met is None: met = asyncio.Event()
    n += 1
    if n == 50: met.set()
    await met.wait()
    return n
def count(): return n
`)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got, isError := called(t, p, "meet", "{}"); got != "50" || isError {
				t.Errorf("got %s, error %v", got, isError)
			}
		})
	}
	wg.Wait()
	if got, _ := called(t, p, "count", "{}"); got != "50" {
		t.Errorf("got %s calls, want 50", got)
	}
}

// What takes too long is an answer, and takes nobody along that it need not.
func TestPythonTimeout(t *testing.T) {
	p := functions(t, PythonConfig{PythonHow: PythonHow{Timeout: 300 * time.Millisecond}}, `
import asyncio, os, time
async def sleeps():
    await asyncio.sleep(1000)
def blocks():
    time.sleep(1000)
async def blocks_the_loop():
    time.sleep(1000)
def pid(): return os.getpid()
`)
	pid := func() string {
		got, _ := called(t, p, "pid", "{}")
		return got
	}
	before := pid()
	const want = "it did not return within 300ms"
	if got, isError := called(t, p, "sleeps", "{}"); got != want || !isError {
		t.Errorf("got %q, error %v, want %q", got, isError, want)
	}
	if now := pid(); now != before {
		t.Errorf("an async function that was told to end took its process along: %s is now %s", before, now)
	}
	for _, name := range []string{"blocks", "blocks_the_loop"} {
		if got, isError := called(t, p, name, "{}"); got != want || !isError {
			t.Errorf("%s: got %q, error %v, want %q", name, got, isError, want)
		}
		now := pid()
		if now == before {
			t.Errorf("%s: the process goes on", name)
		}
		before = now
	}
}

// A process that ends under calls is the fault of the one that ends another one, too, in which
// it is alone.
func TestPythonProcessEnds(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	p := functions(t, PythonConfig{PythonHow: PythonHow{Env: map[string]string{"ONCE": once}}}, `
import asyncio, os
async def innocent():
    await asyncio.sleep(0.2)
    return "fine"
async def guilty():
    await asyncio.sleep(0.05)
    os._exit(7)
def unlucky():
    try: os.close(os.open(os.environ["ONCE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError: return "again"
    os.kill(os.getpid(), 9)
`)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if got, isError := called(t, p, "innocent", "{}"); got != "fine" || isError {
				t.Errorf("innocent: got %q, error %v", got, isError)
			}
		})
	}
	wg.Go(func() {
		got, isError := called(t, p, "guilty", "{}")
		if !isError || !strings.HasPrefix(got, "the process ended while it ran this call, each time: ended without an answer: exit status 7") {
			t.Errorf("guilty: got %q, error %v", got, isError)
		}
	})
	wg.Wait()
	if got, isError := called(t, p, "unlucky", "{}"); got != "again" || isError {
		t.Errorf("unlucky: got %q, error %v", got, isError)
	}
}

func TestPythonGivesUp(t *testing.T) {
	p := functions(t, PythonConfig{}, "import time\ndef f(): time.sleep(1000)\n")
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Call(ctx, Task{}, Request{Name: "f", Arguments: json.RawMessage("{}")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want that of ctx", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	var lost *LostError
	if _, err := p.Call(t.Context(), Task{}, Request{Name: "f", Arguments: json.RawMessage("{}")}); !errors.As(err, &lost) {
		t.Errorf("after Close: got %v, want a LostError", err)
	}
}

// A file that is changed during a run is told of, not used.
func TestPythonChanged(t *testing.T) {
	p := functions(t, PythonConfig{}, "import os\ndef f(): os._exit(1)\n")
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.config.File, []byte("def f(x: int): return x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := p.Call(t.Context(), Task{}, Request{Name: "f", Arguments: json.RawMessage("{}")})
	var broken *BrokenError
	if !errors.As(err, &broken) || !strings.Contains(err.Error(), "was changed while the run goes on") {
		t.Errorf("got %v, want a BrokenError", err)
	}
}
