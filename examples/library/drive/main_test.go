package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"matrix/run"
)

// echo is a folder with a config whose only role repeats the text of its row.
func echo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.yaml": `
name: echo
dataset: {path: rows.jsonl, id: id}
models: {m: {kind: scripted, reply: "you said {{ prompt }}"}}
roles: {say: {chat: {model: m, prompt: "{{ item.text }}"}}}
flow: [say]
`,
		"rows.jsonl": `{"id":"a","text":"one"}` + "\n" + `{"id":"b","text":"two"}` + "\n" + `{"id":"c","text":"ask jo@example.com"}` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDrive(t *testing.T) {
	config, dir := echo(t), filepath.Join(t.TempDir(), "out")
	var first bytes.Buffer
	stopped, stop := context.WithCancel(t.Context())
	stop()
	// It may be done before it hears that it is to stop.
	if err := drive(stopped, config, dir, &first); err != nil && !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	var shown, rows bytes.Buffer
	if err := drive(t.Context(), config, dir, &shown); err != nil {
		t.Fatal(err)
	}
	if want := "echo: 2 done, 1 failed, 0 pending, "; !strings.Contains(shown.String(), want) {
		t.Errorf("got %q, want %q in it", &shown, want)
	}
	if want := "c failed: say: the text has an e-mail address in it\n"; strings.Count(first.String()+shown.String(), want) != 1 {
		t.Errorf("got %q and %q, want %q once", &first, &shown, want)
	}
	if err := read(t.Context(), dir, &rows); err != nil {
		t.Fatal(err)
	}
	if got, want := rows.String(), []string{"a: you said one\n", "b: you said two\n"}; !strings.Contains(got, want[0]) || !strings.Contains(got, want[1]) {
		t.Errorf("got %q, want %q", got, want)
	}
	part := filepath.Join(dir, "data", "part-00000.jsonl")
	b, err := os.ReadFile(part)
	if err == nil {
		err = os.WriteFile(part, append(b, b...), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := read(t.Context(), dir, &rows); err == nil {
		t.Error("rows that stand there twice are not a fault")
	}
}

// The last turn of a task may have data and no text.
func TestDriveData(t *testing.T) {
	config, dir := echo(t), filepath.Join(t.TempDir(), "out")
	b, err := os.ReadFile(filepath.Join(config, "config.yaml"))
	if err == nil {
		computes := strings.NewReplacer("}}}\nflow: [say]", "}}\n  count: {compute: {n: len(last.text)}}\nflow: [say, count]", "roles: {say:", "roles:\n  say:").Replace(string(b))
		err = os.WriteFile(filepath.Join(config, "config.yaml"), []byte(computes), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	var rows bytes.Buffer
	if err := drive(t.Context(), config, dir, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := read(t.Context(), dir, &rows); err != nil {
		t.Fatal(err)
	}
	if got, want := rows.String(), `a: {"n":12}`+"\n"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}

// This program is also one of a module of its own, as docs/extending.md says how,
// with nothing but the module cache at hand: all that it imports may be imported there. MATRIX_OUTSIDE=1
// has it built there, which compiles the whole of Matrix once more, and run.
func TestOutside(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for from, to := range map[string]string{"main.go": "main.go", filepath.Join(root, "go.sum"): "go.sum"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), b, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -mod=mod", "GOPROXY=off", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	command("go", "mod", "init", "example.com/drive")
	command("go", "mod", "edit", "-require=matrix@v0.0.0", "-replace=matrix="+root)
	command("go", "list", "-deps", ".")
	if os.Getenv("MATRIX_OUTSIDE") == "" {
		return
	}
	command("go", "build", "-o", "drive", ".")
	if out := command("./drive", echo(t), filepath.Join(t.TempDir(), "out")); !strings.Contains(out, "b: you said two\n") {
		t.Errorf("got %q", out)
	}
}
