// Package docs_test runs what README.md and docs/*.md tell a person to type.
//
// Each page gets a folder of its own, with examples/ in it and matrix on PATH,
// and its fenced blocks are taken in order:
//
//	```sh                     each line is a command that must exit with 0,
//	                          or as its comment says: matrix run x.yaml  # exit 2
//	```console                the lines that begin with "$ " are commands; the
//	                          other lines must be among what they print, numbers
//	                          and times aside, and "..." stands for any lines
//	```console sample         the output differs from run to run: not compared
//	```sh no-test="reason"    not run
//	```sh needs=python3       not run where there is no such program
//	```yaml file=qa.yaml      any language: the block is written to a file
//	```yaml config            a whole config: it must load
//	```python readers         run where `make venv` has made an environment
//
// `go run ./DIR` runs a program of this repository; where a Go block has a file
// DIR/..., the program is made of that. MATRIX_BASE_URL names a server that
// speaks the OpenAI API and always gives the same answer.
package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/parser"

	"matrix/internal/python"
)

const (
	repository = ".."
	patience   = time.Minute // for one command
)

// block is a fenced block of a page.
type block struct {
	line int // of the fence, from 1
	lang string
	info map[string]string // what stands behind the language
	text string
}

// page is a Markdown file, taken apart.
type page struct {
	path     string // below the repository
	blocks   []block
	links    []link
	headings []string // as anchors
}

type link struct {
	line   int
	target string
}

var (
	fence   = regexp.MustCompile("^```([A-Za-z]*) *(.*)$")
	info    = regexp.MustCompile(`([a-z-]+)(?:=("[^"]*"|\S+))?`)
	linked  = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`^#+ +(.*)$`)
	code    = regexp.MustCompile("`[^`]*`")
)

func readPage(t *testing.T, path string) page {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(repository, path))
	if err != nil {
		t.Fatal(err)
	}
	p := page{path: path}
	var open *block
	for i, l := range strings.Split(string(b), "\n") {
		m := fence.FindStringSubmatch(l)
		switch {
		case open != nil && l == "```":
			p.blocks = append(p.blocks, *open)
			open = nil
		case open != nil:
			open.text += l + "\n"
		case m != nil:
			open = &block{line: i + 1, lang: m[1], info: map[string]string{}}
			for _, kv := range info.FindAllStringSubmatch(m[2], -1) {
				open.info[kv[1]] = strings.Trim(kv[2], `"`)
			}
		default:
			for _, m := range linked.FindAllStringSubmatch(code.ReplaceAllString(l, ""), -1) {
				p.links = append(p.links, link{i + 1, m[1]})
			}
			if m := heading.FindStringSubmatch(l); m != nil {
				p.headings = append(p.headings, anchor(m[1]))
			}
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block does not end", path, open.line)
	}
	return p
}

// anchor is how GitHub names a heading.
func anchor(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

// pages are the files that glob patterns below the repository match.
func pages(t *testing.T, globs ...string) []page {
	t.Helper()
	var all []page
	for _, g := range globs {
		found, err := filepath.Glob(filepath.Join(repository, g))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: got %d pages and error %v", g, len(found), err)
		}
		for _, f := range found {
			path, err := filepath.Rel(repository, f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, readPage(t, path))
		}
	}
	return all
}

func TestLinks(t *testing.T) {
	all := pages(t, "*.md", "docs/*.md", "examples/*.md", "examples/*/*.md")
	anchors := map[string][]string{}
	for _, p := range all {
		anchors[p.path] = p.headings
	}
	for _, p := range all {
		for _, l := range p.links {
			if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
				continue
			}
			file, section, has := strings.Cut(l.target, "#")
			to := p.path
			if file != "" {
				to = filepath.Join(filepath.Dir(p.path), file)
			}
			if _, err := os.Stat(filepath.Join(repository, to)); err != nil {
				t.Errorf("%s:%d: %s leads nowhere", p.path, l.line, l.target)
			} else if has && !slices.Contains(anchors[to], section) {
				t.Errorf("%s:%d: %s has no heading %q; it has %q", p.path, l.line, to, section, anchors[to])
			}
		}
	}
}

// A YAML block is YAML, also where it is a part of a config alone.
func TestYAML(t *testing.T) {
	for _, p := range pages(t, "README.md", "docs/*.md") {
		for _, b := range p.blocks {
			if b.lang != "yaml" {
				continue
			}
			if _, err := parser.ParseBytes([]byte(b.text), 0); err != nil {
				t.Errorf("%s:%d: %v", p.path, b.line, err)
			}
		}
	}
}

func TestCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("runs every command of the docs")
	}
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash")
	}
	server := modelServer(t)
	bin := t.TempDir()
	build(t, bin, "./cmd/matrix", nil)
	for _, p := range pages(t, "README.md", "docs/*.md") {
		t.Run(filepath.Base(p.path), func(t *testing.T) {
			t.Parallel()
			s := &session{page: p, dir: t.TempDir(), bin: bin, server: server}
			if err := os.CopyFS(filepath.Join(s.dir, "examples"), os.DirFS(filepath.Join(repository, "examples"))); err != nil {
				t.Fatal(err)
			}
			for _, b := range p.blocks {
				s.block(t, b)
			}
		})
	}
}

// modelServer answers every chat with the same words.
func modelServer(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Model string }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/v1/chat/completions" {
			http.Error(w, "want a chat at /v1/chat/completions", http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"model":   q.Model,
			"choices": []any{map[string]any{"finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": "Yes. The answer is (B)."}}},
			"usage":   map[string]any{"prompt_tokens": 10, "completion_tokens": 6},
		})
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1"
}

// build makes the program of a package. files are Go files, by their path below
// the repository, that stand in for those on disk.
func build(t *testing.T, bin, pkg string, files map[string]string) {
	t.Helper()
	args := []string{"build", "-o", filepath.Join(bin, filepath.Base(pkg))}
	if len(files) > 0 {
		root, err := filepath.Abs(repository)
		if err != nil {
			t.Fatal(err)
		}
		replace := map[string]string{}
		for path, text := range files {
			f := filepath.Join(t.TempDir(), filepath.Base(path))
			write(t, f, text)
			replace[filepath.Join(root, path)] = f
		}
		overlay, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			t.Fatal(err)
		}
		f := filepath.Join(t.TempDir(), "overlay.json")
		write(t, f, string(overlay))
		args = append(args, "-overlay", f)
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// session is a page whose commands are being run.
type session struct {
	page   page
	dir    string
	bin    string
	server string
	source map[string]string // Go files of the page, by path
	made   map[string]bool   // programs that were built for it
	loaded int
}

func (s *session) block(t *testing.T, b block) {
	t.Helper()
	at := fmt.Sprintf("%s:%d", s.page.path, b.line)
	if reason, ok := b.info["no-test"]; ok {
		if len(strings.Fields(reason)) < 2 {
			t.Errorf("%s: no-test gives no reason", at)
		}
		return
	}
	if need, ok := b.info["needs"]; ok {
		if _, err := exec.LookPath(need); err != nil {
			t.Logf("%s: not run: there is no %s", at, need)
			return
		}
	}
	file := b.info["file"]
	if file != "" {
		write(t, filepath.Join(s.dir, filepath.FromSlash(file)), b.text)
		if b.lang == "go" {
			if s.source == nil {
				s.source = map[string]string{}
			}
			s.source[file] = b.text
		}
	}
	if _, ok := b.info["config"]; ok {
		if file == "" {
			s.loaded++
			file = fmt.Sprintf("block-%d.yaml", s.loaded)
			write(t, filepath.Join(s.dir, file), b.text)
		}
		s.run(t, at, "matrix config "+file)
	}
	_, sample := b.info["sample"]
	switch b.lang {
	case "sh":
		for _, c := range commands(strings.Split(b.text, "\n")) {
			s.run(t, at, c)
		}
	case "console":
		s.console(t, at, b.text, sample)
	}
	if _, ok := b.info["readers"]; ok {
		t.Run("readers", func(t *testing.T) {
			file := filepath.Join(s.dir, "readers.py")
			write(t, file, b.text)
			s.run(t, at, python.Readers(t)+" "+file)
		})
	}
}

// commands joins lines that go on, and leaves out empty ones and comments.
func commands(lines []string) []string {
	var all []string
	more := false
	for _, l := range lines {
		switch {
		case more:
			all[len(all)-1] += "\n" + l
		case strings.TrimSpace(l) == "" || strings.HasPrefix(l, "#"):
			continue
		default:
			all = append(all, l)
		}
		more = strings.HasSuffix(l, `\`)
	}
	return all
}

// console runs the commands of a block and compares what they print with what
// it shows.
func (s *session) console(t *testing.T, at, text string, sample bool) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for len(lines) > 0 {
		first, ok := strings.CutPrefix(lines[0], "$ ")
		if !ok {
			t.Errorf("%s: %q is the output of no command", at, lines[0])
			return
		}
		n := 1
		for strings.HasSuffix(first, `\`) && n < len(lines) {
			first += "\n" + lines[n]
			n++
		}
		shown := n
		for n < len(lines) && !strings.HasPrefix(lines[n], "$ ") {
			n++
		}
		out := s.run(t, at, first)
		if !sample {
			compare(t, at, first, out, lines[shown:n])
		}
		lines = lines[n:]
	}
}

// compare checks that each line that is shown was printed.
func compare(t *testing.T, at, command, out string, shown []string) {
	t.Helper()
	printed := map[string]bool{}
	for _, l := range strings.Split(out, "\n") {
		printed[normal(l)] = true
	}
	for _, l := range shown {
		if l == "..." || printed[normal(l)] {
			continue
		}
		t.Errorf("%s: %s\ndoes not print %q\nit prints:\n%s", at, command, l, out)
		return
	}
}

var (
	numbers = regexp.MustCompile(`\d[\d,.:]*`)
	times   = regexp.MustCompile(`0 ?(ms|us|s|min|h)\b`)
	rates   = regexp.MustCompile(`0/s|0 t/task|-/s`)
	spaces  = regexp.MustCompile(`[ ─]+`)
)

// normal is a line without what differs from run to run.
func normal(l string) string {
	l = numbers.ReplaceAllString(l, "0")
	l = times.ReplaceAllString(l, "0 t")
	l = rates.ReplaceAllString(l, "0/t")
	return strings.TrimSpace(spaces.ReplaceAllString(l, " "))
}

var (
	exits  = regexp.MustCompile(`#.*\bexit (\d+)`)
	goRun  = regexp.MustCompile(`\bgo run (\./[\w/-]+)`)
	failed = regexp.MustCompile(`(?m)^panic: `)
)

// run runs a command and returns what it printed, errors and all.
func (s *session) run(t *testing.T, at, command string) string {
	t.Helper()
	want := 0
	if m := exits.FindStringSubmatch(command); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	bins := s.bin
	line := goRun.ReplaceAllStringFunc(command, func(c string) string {
		pkg := strings.TrimPrefix(c, "go run ")
		if pkg == "./cmd/matrix" {
			return "matrix"
		}
		return filepath.Join(s.program(t, pkg), filepath.Base(pkg))
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line+"\nexit $?")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+bins+string(os.PathListSeparator)+os.Getenv("PATH"), "MATRIX_BASE_URL="+s.server, "XDG_STATE_HOME="+filepath.Join(s.dir, ".state"))
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != want || ctx.Err() != nil || failed.Match(out.Bytes()) {
		t.Errorf("%s: %s\ngot exit code %d (%v), want %d\n%s", at, command, got, err, want, &out)
	}
	return out.String()
}

// program builds a program of the page or the repository, once, and returns
// the folder it is in.
func (s *session) program(t *testing.T, pkg string) string {
	t.Helper()
	dir := filepath.Join(s.dir, ".programs")
	if s.made[pkg] {
		return dir
	}
	files := map[string]string{}
	for path, text := range s.source {
		if "./"+filepath.ToSlash(filepath.Dir(path)) == pkg {
			files[path] = text
		}
	}
	build(t, dir, pkg, files)
	if s.made == nil {
		s.made = map[string]bool{}
	}
	s.made[pkg] = true
	return dir
}
