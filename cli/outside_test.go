package cli

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/pflag"

	"matrix/internal/rundir"
)

// What comes from the environment, and what has the name of a secret, stands in no
// file that a run writes and in nothing that it prints; the run goes on all the
// same, and a change of what is not a secret is noticed.
func TestEnvironmentStaysOut(t *testing.T) {
	const (
		key     = "sk-/api\"key-0123456789"
		vendor  = "vendor-secret-0123456789"
		literal = "literal-secret-0123456789"
		serp    = "serp-secret-0123456789"
	)
	t.Setenv("MATRIX_TEST_API", key)
	t.Setenv("MATRIX_TEST_VENDOR", vendor)
	t.Setenv("MATRIX_TEST_SERP", serp)
	t.Setenv("MATRIX_TEST_TIER", "gold")
	t.Setenv("MATRIX_TEST_STYLE", "brief")
	broken := true
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(body), vendor) || !strings.Contains(string(body), literal) || !strings.Contains(string(body), `"tier":"gold"`) {
			t.Errorf("the service got %s, want what the config says", body)
		}
		quoted, _ := json.Marshal(key)
		escaped := strings.ReplaceAll(string(quoted[1:len(quoted)-1]), "/", `\/`)
		if broken {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"%s%s is not a key, %s neither","code":"%s"}}`, strings.Repeat("x", 990), escaped, vendor, escaped)
			return
		}
		fmt.Fprintf(w, `{"model":"m-%s","system_fingerprint":"%s","choices":[{"message":{"content":"fine"},"finish_reason":"stop"}]}`, escaped, vendor)
	}))
	defer service.Close()
	dir := files(t, map[string]string{"rows.jsonl": rows(2), "agent.sh": "while read -r line; do echo '{\"data\":{}}'; done\n", "config.yaml": `
name: kept
dataset: {path: rows.jsonl, id: id}
models:
  m:
    base_url: ` + service.URL + `
    model: any
    api_key: "${env:MATRIX_TEST_API}"
    extra_body: {vendor_key: "${env:MATRIX_TEST_VENDOR}", other_token: ` + literal + `, tier: "${env:MATRIX_TEST_TIER}", headers: {x: ` + literal + `}}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}", system: "Be ${env:MATRIX_TEST_STYLE}."}}
  run: {command: {run: [sh, agent.sh], env: {SERPAPI_API_KEY: "${env:MATRIX_TEST_SERP}", PLAIN: seen}}}
flow: [say, run]
display: plain
`})
	t.Chdir(dir)
	out := filepath.Join(dir, "out")
	hidden := func(r result) {
		t.Helper()
		texts := map[string]string{"the terminal": r.out + r.err}
		_ = filepath.Walk(out, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				texts[path] = read(t, path)
			}
			return nil
		})
		for where, text := range texts {
			for _, secret := range []string{key, `sk-\/api\"key`, `sk-/api\"key`, vendor, literal, serp} {
				if strings.Contains(text, secret) {
					t.Errorf("%s shows %s:\n%s", where, secret, text)
				}
			}
		}
	}
	hidden(matrixCmd("config", ".").want(t, 0, "${env:MATRIX_TEST_SERP}", "${env:MATRIX_TEST_VENDOR}", "${env:MATRIX_TEST_TIER}", "PLAIN: seen"))
	override := "roles.run.command.env.EXTRA_KEY=" + literal
	hidden(matrixCmd("run", ".", "-o", out, override).want(t, 1, "401", "EXTRA_KEY=***"))
	broken = false
	hidden(matrixCmd("run", ".", "-o", out, override).want(t, 0))
	line := lines(t, out, "data", "part-00000.jsonl")[0]
	for _, want := range []string{`"tier":"${env:MATRIX_TEST_TIER}"`, `"vendor_key":"${env:MATRIX_TEST_VENDOR}"`, `"other_token":"***"`, `"headers":{"x":"***"}`} {
		if !strings.Contains(line, want) {
			t.Errorf("the output has no %s:\n%s", want, line)
		}
	}
	if c := counts(t, out); c != [3]int64{2, 0, 0} {
		t.Errorf("got %v, want two tasks done", c)
	}
	t.Setenv("MATRIX_TEST_STYLE", "verbose")
	matrixCmd("run", ".", "-o", out, override).want(t, 2, "roles.say.chat.system")
	t.Setenv("MATRIX_TEST_STYLE", "brief")
	t.Setenv("MATRIX_TEST_VENDOR", "another-secret-0123456789")
	matrixCmd("run", ".", "-o", out, override).want(t, 0, "is finished")
}

// A config.yaml that holds the values themselves, as runs wrote it before, is the
// same as one with references.
func TestEnvironmentOfOlderRuns(t *testing.T) {
	t.Setenv("MATRIX_TEST_LIMIT", "2")
	dir := files(t, map[string]string{"rows.jsonl": rows(3), "config.yaml": strings.Replace(echo, "id: id}", `id: id, limit: "${env:MATRIX_TEST_LIMIT}"}`, 1)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	saved := read(t, out, rundir.ConfigFile)
	if !strings.Contains(saved, `limit: "${env:MATRIX_TEST_LIMIT}"`) {
		t.Fatalf("got %s, want the reference in it", saved)
	}
	older := strings.Split(strings.Replace(saved, `"${env:MATRIX_TEST_LIMIT}"`, "2", 1), "# from the environment")[0]
	if err := os.WriteFile(filepath.Join(out, rundir.ConfigFile), []byte(older), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 0, "is finished")
	t.Setenv("MATRIX_TEST_LIMIT", "3")
	matrixCmd("run", dir, "-o", out).want(t, 2, "dataset.limit")
}

// Nothing that a service or a row says steers the terminal, or forges a line.
func TestTerminalIsSafe(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":{"message":"\u001b]52;c;AAAA\u0007\u001b[2J \u202eko si gnihtyreve\u2028OK: nothing is lost"}}`)
	}))
	defer service.Close()
	forged := "a\nOK: nothing is lost, nothing is doubled.\u202e\u001b[2J"
	id, _ := json.Marshal(forged)
	dir := files(t, map[string]string{
		"rows.jsonl":  `{"id":` + string(id) + `,"text":"x","n":1}` + "\n",
		"config.yaml": echo,
		"bad.yaml":    strings.Replace(echo, `kind: scripted, reply: "you said {{ prompt }}"`, "base_url: "+service.URL+", model: x", 1),
		"fails.yaml":  strings.Replace(echo, `flow: [say]`, `flow: {start: say, after: {say: {fail: "no\nOK: {{ id }}"}}}`, 1),
	})
	safe := func(r result) {
		t.Helper()
		for _, c := range r.out + r.err {
			if c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 || c == 0x202e || c == 0x2028 {
				t.Errorf("%U is printed:\n%q", c, r.out+r.err)
				break
			}
		}
		for _, l := range strings.Split(r.out+r.err, "\n") {
			if strings.HasPrefix(l, "OK: ") && l != "OK: nothing is lost, nothing is doubled." {
				t.Errorf("the line %q is forged:\n%s", l, r.out+r.err)
			}
		}
	}
	safe(matrixCmd("run", filepath.Join(dir, "bad.yaml"), "-o", filepath.Join(dir, "bad")).want(t, 1, "401"))
	safe(matrixCmd("chat", service.URL+"/v1", "--model", "x", "hello"))
	out := filepath.Join(dir, "out")
	safe(matrixCmd("run", filepath.Join(dir, "config.yaml"), "-o", out).want(t, 0))
	for _, args := range [][]string{{"show", out}, {"show", out, "nothing"}, {"show", out, forged}, {"explain", out, forged}, {"explain", out, "lost"}} {
		r := matrixCmd(args...)
		safe(r)
		if strings.Contains(r.out+r.err, "\nOK: ") {
			t.Errorf("%q forges a line:\n%s", args, r)
		}
	}
	failed := filepath.Join(dir, "failed-run")
	safe(matrixCmd("run", filepath.Join(dir, "fails.yaml"), "-o", failed))
	for _, args := range [][]string{{"show", failed, "--failed"}, {"explain", failed, forged}} {
		if r := matrixCmd(args...); strings.Contains(r.out+r.err, "\nOK: ") {
			t.Errorf("%q forges a line:\n%s", args, r)
		}
	}
	// A line that the ledger does not know is named by verify.
	f, err := os.OpenFile(filepath.Join(out, rundir.DataDir, "part-00000.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(lines(t, out, rundir.DataDir, "part-00000.jsonl")[0] + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if r := matrixCmd("verify", out); strings.Count(r.out, "\nOK: ") > 1 {
		t.Errorf("verify forges a line:\n%s", r)
	}
}

// Errors that a person can do something about come with what to do, once.
func TestAdvice(t *testing.T) {
	for err, want := range map[error]string{
		syscall.EMFILE: "ulimit -n", syscall.ENFILE: "ulimit -n", syscall.ENOSPC: "make room", syscall.EROFS: "another folder",
		syscall.EACCES: "permissions there", syscall.ENOTDIR: "A file stands where a folder is named",
	} {
		once := advised(fmt.Errorf("open x: %w", err))
		if got := once.Error(); !strings.Contains(got, want) || advised(once).Error() != got {
			t.Errorf("%v: got %q, and then %q, want %q in it once", err, got, advised(once), want)
		}
	}
}

// Packages that a program of one's own uses say what is wrong without the words of
// the command line.
func TestOnlyHereAreFlags(t *testing.T) {
	var commands, flags []string
	for _, c := range (Program{}).root().Commands() {
		commands = append(commands, c.Name())
		c.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	}
	ours := regexp.MustCompile(`--(` + strings.Join(flags, "|") + `)\b|matrix (` + strings.Join(commands, "|") + `) `)
	engines := regexp.MustCompile(`^"--[a-z-]+"$`) // arguments of what launch and workers start
	for _, dir := range []string{"session", "run", "local", "route", "lang", "agent", "spec", "registry", "internal/rundir", "internal/spend", "internal/estimate", "internal/export", "internal/infer", "internal/launch", "internal/monitor", "internal/stats"} {
		names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			files := token.NewFileSet()
			f, err := parser.ParseFile(files, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if f, ok := n.(*ast.Field); ok {
					f.Tag = nil // what it says of a key is for the reference
				}
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && ours.MatchString(lit.Value) && !((dir == "internal/launch" || dir == "internal/workers") && engines.MatchString(lit.Value)) {
					t.Errorf("%s: %s", files.Position(lit.Pos()), lit.Value)
				}
				return true
			})
		}
	}
}

// A config that is likely to be wrong is run all the same, and says so.
func TestWarnings(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(1), "config.yaml": strings.Replace(echo, "{{ item.text }}", "Say {item.text}", 1)})
	for _, args := range [][]string{{"run", dir, "-o", filepath.Join(dir, "out")}, {"preview", dir}, {"plan", dir}, {"config", dir}} {
		r := matrixCmd(args...).want(t, 0)
		for _, want := range []string{"Warning: ", "config.yaml:7:", "roles.say.chat.prompt: {item.text} is plain text; {{ item.text }} is replaced"} {
			if !strings.Contains(r.err, want) {
				t.Errorf("%q: got %q on the error output, want %q in it", args, r.err, want)
			}
		}
	}
}
