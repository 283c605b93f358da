package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"matrix/internal/python"
	"matrix/internal/rundir"
)

// load has the field's readers load the outputs of a run. MATRIX_READERS names
// other readers than those that `make venv` installs.
func load(t *testing.T, dir string) {
	t.Helper()
	if out, err := loaded(t, cmp.Or(os.Getenv("MATRIX_READERS"), "pyarrow,polars,duckdb,pandas"), dir); err != nil {
		t.Errorf("%v: %s", err, out)
	} else if strings.HasPrefix(out, "0 ") {
		t.Errorf("%s holds no rows", dir)
	}
}

// loaded has readers load the outputs of a run, and returns what they say.
func loaded(t *testing.T, readers, dir string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python.Readers(t), "testdata/readers.py", readers, dir)
	cmd.Env = append(os.Environ(), "HF_HOME="+t.TempDir(), "HF_HUB_OFFLINE=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// What a plan warns of is what readers refuse.
func TestReadersRefuseWhatPlanWarnsOf(t *testing.T) {
	if os.Getenv("MATRIX_READERS") != "" {
		t.Skip("those that refuse it are others")
	}
	for _, c := range []struct{ reader, row, half string }{
		{"pyarrow", `"n":"x"`, "1.5"},
		{"duckdb", `"N":1`, "1.5"},
		{"pyarrow", `"n":2`, "'a half'"},
	} {
		dir := files(t, map[string]string{"rows.jsonl": `{"id":"a","n":1}` + "\n" + `{"id":"b",` + c.row + "}\n", "config.yaml": `
dataset: {path: rows.jsonl, id: id}
roles:
  one: {compute: {half: "0.5"}}
  two: {compute: {half: "` + c.half + `"}}
flow: [one, two]
`})
		out := filepath.Join(dir, "out")
		matrixCmd("run", dir, "-o", out).want(t, 0)
		matrixCmd("plan", dir).want(t, 0, "\nWarning: ")
		if said, err := loaded(t, c.reader, out); err == nil || !strings.Contains(said, c.reader+" of ") {
			t.Errorf("%s and %s: %s says %v %s, want it refused", c.row, c.half, c.reader, err, said)
		}
	}
}

// What the examples write, the field's readers load.
func TestReadersLoadExamples(t *testing.T) {
	t.Parallel()
	python.Readers(t)
	for _, name := range []string{"coral", "curation", "tools", "command"} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			if code, _, errs := command(t, "run", "../examples/"+name, "-o", out, "output.rows_per_part=7"); code != 0 {
				t.Fatalf("exit code %d: %s", code, errs)
			}
			load(t, out)
		})
	}
}

// What a run writes, the field's readers load: over parts whose content differs,
// with rows, replies and failures of all kinds. MATRIX_READERS_RUNS says how many
// runs are made.
func TestReadersLoadAnything(t *testing.T) {
	t.Parallel()
	python.Readers(t)
	runs, err := strconv.Atoi(cmp.Or(os.Getenv("MATRIX_READERS_RUNS"), "2"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range runs {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			g := &fuzzed{Rand: rand.New(rand.NewPCG(uint64(n), 9))}
			dir := t.TempDir()
			out := filepath.Join(dir, "out")
			g.write(t, dir)
			if code, _, errs := command(t, "run", filepath.Join(dir, "config.yaml"), "-o", out); code != 0 {
				t.Fatalf("exit code %d: %s", code, errs)
			}
			load(t, out)
			for _, folder := range []string{rundir.DataDir, rundir.FailedDir} {
				parts, _ := filepath.Glob(filepath.Join(out, folder, "part-*.jsonl"))
				if len(parts) < 2 {
					t.Errorf("%s has %d parts, want several", folder, len(parts))
				}
			}
		})
	}
}

// fuzzed makes runs up.
type fuzzed struct {
	*rand.Rand
	full bool // no value is null, no list empty
}

var oddTexts = []string{"", " ", "A", "null", "1", "1.0", "2024-01-01", "2024-01-01T00:00:00Z", "žluť 駅 🐎", "a\x00b", "\u2028\u2029", "\u202e", "\ufeff", "line\r\nline\ttab", `{"a": 1}`, "[]", `"`, `\`, "\ufffd", "</s>", "=1+1"}

func (g *fuzzed) text() string {
	if g.IntN(50) == 0 {
		return strings.Repeat(oddTexts[g.IntN(len(oddTexts))]+"x", g.IntN(5000))
	}
	return oddTexts[g.IntN(len(oddTexts))] + oddTexts[g.IntN(len(oddTexts))]
}

// whole is a number of 64 bits: polars reads none that is longer beside one that is negative.
func (g *fuzzed) whole() any {
	return []any{0, 1, -1, 1 << 53, -1 << 62, 9223372036854775807, g.Int64()}[g.IntN(7)]
}

func (g *fuzzed) float() json.Number {
	return json.Number([]string{"0.0", "1.0", "-0.0", "2.5", "1e300", "5e-324", "1e21", "0.1", "123456789.0"}[g.IntN(9)])
}

// value is one of a kind, or null; a list may be empty.
func (g *fuzzed) value(kind int) any {
	if !g.full && g.IntN(4) == 0 {
		return nil
	}
	list := func(kind int) any {
		n := g.IntN(3)
		if g.full {
			n = 2
		}
		l := make([]any, n)
		for i := range l {
			l[i] = g.value(kind)
			for i == 0 && l[i] == nil { // pyarrow is wrong about lists that begin with null: apache/arrow#51305
				l[i] = g.value(kind)
			}
		}
		return l
	}
	switch kind {
	case 0:
		return g.text()
	case 1:
		return g.whole()
	case 2:
		return g.float()
	case 3:
		return g.IntN(2) == 0
	case 4:
		return list(0)
	case 5:
		return list(2)
	case 6:
		return list(7)
	case 7:
		return map[string]any{"in": g.value(0), "deep": g.value(2), "list": list(1)}
	}
	return list(5)
}

const kinds = 9

// write writes rows, replies to them, and a config whose flow goes through all of
// it: opening turns, samples, tool calls, data of all sorts, stops, failures.
func (g *fuzzed) write(t *testing.T, dir string) {
	t.Helper()
	var rows, replies strings.Builder
	put := func(b *strings.Builder, v any) {
		line, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	const n = 400
	for i := range n {
		if i%40 == 39 {
			rows.WriteString(`{"id": "torn` + "\n")
			continue
		}
		row := map[string]any{"id": fmt.Sprintf("r%d", i), "f": g.float(), "n": g.IntN(9), "t": g.text()}
		for k := range kinds {
			// Polars cannot read a field that is [] or null in every line.
			g.full = i%4 == 0
			if !g.full && (i < n/2 && k%2 == 1 || g.IntN(3) == 0) {
				continue
			}
			row[fmt.Sprintf("c%d", k)] = g.value(k)
		}
		put(&rows, row)
		for range 4 {
			reply := map[string]any{"id": row["id"], "text": []string{`{"score": 1.0, "why": "so"}`, `{"score": 4, "why": "é"}`, "no JSON", g.text()}[g.IntN(4)]}
			if g.IntN(2) == 0 {
				reply["reasoning"] = g.text()
			}
			if g.IntN(3) == 0 {
				reply["tool_calls"] = []any{map[string]any{"name": "add", "arguments": []any{map[string]any{"a": 1}, map[string]any{"a": "x", "b": []any{}}, "{a"}[g.IntN(3)]}}
			}
			reply["logprobs"] = map[string]any{"content": []any{map[string]any{"token": g.text(), "logprob": g.float(), "bytes": []any{1, 2}, "top_logprobs": []any{}}}}
			if g.IntN(20) == 0 {
				reply["finish"] = "length"
			}
			put(&replies, reply)
		}
	}
	config := `
dataset: {path: rows.jsonl, id: id}
output: {rows_per_part: 60}
models:
  m: {kind: replay, path: replies.jsonl}
  s: {kind: scripted, reply: "{{ prompt }} {{ nth }}"}
roles:
  ask:
    chat:
      model: m
      prompt: "{{ item.t }} ?"
      reask: 1
      logprobs: 2
      temperature: 1
      stop: ["\n\n"]
      tools: [{name: add, description: adds, parameters: {type: object, properties: {a: {}}}}]
      parse: {schema: {type: object, properties: {score: {type: number}, why: {type: string}}, required: [score, why]}}
  many: {chat: {model: s, prompt: "{{ item.f }}{{ item.n }}", n: 3}}
  sum: {compute: {half: "float(item.n) / 2", whole: "item.n", f: "item.f", list: "[item.f, 1.0]", said: "len(turns)", none: "nil"}}
  label: {chat: {model: s, prompt: "A", parse: {regex: "(?P<letter>[A-Z])"}}}
metrics: {half: turn("sum").data.half, odd: "item.n % 2 == 1 ? nil : 1"}
flow:
  open: [{role: user, text: "{{ item.t }}!"}]
  start: [{when: item.n == 8, fail: "it is 8"}, {to: ask}]
  after:
    ask: [{when: item.n == 7, to: label}, {to: many}]
    many: sum
    sum: [{when: item.n > 4, finish: turn("sum").data.half}, {when: item.n == 4, finish: ""}, {to: label}]
    label: {finish: "1.0"}
  on_error:
    ask: [{when: item.n < 4, to: label}, {fail: "{{ last.error }}"}]
`
	for name, text := range map[string]string{"rows.jsonl": rows.String(), "replies.jsonl": replies.String(), "config.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
