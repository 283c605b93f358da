package launch

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"matrix/internal/near"
	"matrix/llm"
)

// Serve says how the servers of a model are started.
type Serve struct {
	Engine       string            `yaml:"engine" enum:"vllm,sglang,llama.cpp,fastgen,command" doc:"What serves the model: vllm, sglang, llama.cpp, fastgen, or command for any program. Default: command."`
	Model        string            `yaml:"model" doc:"Weights: a name that the engine knows how to fetch, or a path, relative to the folder of the config. Default: the model's own name at the server."`
	Replicas     int               `yaml:"replicas" free:"true" doc:"Servers, each with a port and GPUs of its own." default:"1"`
	GPUs         *int              `yaml:"gpus" free:"true" doc:"GPUs of each server; 0 hides them from it. Default: 1 for vllm, sglang and fastgen, and for the others what the environment says."`
	Args         []string          `yaml:"args" doc:"More arguments for the engine."`
	Env          map[string]string `yaml:"env" free:"true" secret:"true" doc:"More environment variables."`
	Command      []string          `yaml:"command" doc:"Program and its arguments, for engine command. {port}, {host}, {model}, {name}, {replica} and {gpus} stand for what the server is given, here as in args and env. Another {word} is an error here and in args; { word} is sent as it is."`
	Health       string            `yaml:"health" free:"true" doc:"Path that answers 200 once the server is ready. Default: the engine's own, and /v1/models for command."`
	ReadyTimeout time.Duration     `yaml:"ready_timeout" free:"true" doc:"Longest wait for a server to get ready; weights may have to be fetched. 0s for 15m." default:"15m"`
	Port         int               `yaml:"port" free:"true" doc:"Port of the first server, each further one has the next; 0 for any free ones." default:"0"`
}

// Host is where servers listen.
const Host = "127.0.0.1"

// DefaultReadyTimeout is how long a server may take to get ready.
const DefaultReadyTimeout = 15 * time.Minute

// Check says what is wrong with s. The error is a *llm.FieldError.
func (s *Serve) Check() error {
	bad := func(field, format string, a ...any) error {
		return &llm.FieldError{Field: field, Err: fmt.Errorf(format, a...)}
	}
	_, known := engines[s.engine()]
	switch {
	case !known:
		return bad("engine", "got %q, want vllm, sglang, llama.cpp, fastgen or command", s.Engine)
	case s.engine() == anyCommand && len(s.Command) == 0:
		return bad("command", "is missing: it says what to start; or name an engine: vllm, sglang, llama.cpp or fastgen")
	case s.engine() != anyCommand && len(s.Command) > 0:
		return bad("command", "goes with engine command only; engine %s knows its own, and takes further arguments by args", s.Engine)
	case len(s.Command) > 0 && s.Command[0] == "":
		return bad("command", "names no program")
	case s.Replicas < 1:
		return bad("replicas", "got %d, want 1 or more", s.Replicas)
	case s.GPUs != nil && *s.GPUs < 0:
		return bad("gpus", "got %d, want 0 or more", *s.GPUs)
	case s.ReadyTimeout < 0:
		return bad("ready_timeout", "got %v, want 0s or more", s.ReadyTimeout)
	case s.Port < 0 || s.Port > 65535:
		return bad("port", "got %d, want 0, or ports up to 65535", s.Port)
	case s.Port+s.Replicas-1 > 65535:
		return bad("port", "got %d for %d servers, each with a port of its own: want 0, or ports up to 65535", s.Port, s.Replicas)
	case s.Health != "" && !strings.HasPrefix(s.Health, "/"):
		return bad("health", "got %q, want a path that begins with /", s.Health)
	}
	for _, w := range s.Command {
		if err := checkPlaceholders(w); err != nil {
			return &llm.FieldError{Field: "command", Err: err}
		}
	}
	for _, w := range s.Args {
		if err := checkPlaceholders(w); err != nil {
			return &llm.FieldError{Field: "args", Err: err}
		}
	}
	return nil
}

// placeholders are what stands for something that a server is given.
var placeholders = []string{"port", "host", "model", "name", "replica", "gpus"}

var inBraces = regexp.MustCompile(`\{[A-Za-z_]+\}`)

// checkPlaceholders refuses {word} that stands for nothing, but for what shells
// and templates write: ${word} and {{word}}.
func checkPlaceholders(text string) error {
	for _, at := range inBraces.FindAllStringIndex(text, -1) {
		name := text[at[0]+1 : at[1]-1]
		if slices.Contains(placeholders, name) || strings.ContainsAny(text[max(at[0]-1, 0):at[0]], "${") {
			continue
		}
		meant := ""
		if n := near.Name(name, placeholders); n != "" {
			meant = fmt.Sprintf(" (did you mean {%s}?)", n)
		}
		return fmt.Errorf("there is no {%s}%s; there are {%s}; { %[1]s} is sent as it is", name, meant, strings.Join(placeholders, "}, {"))
	}
	return nil
}

func (s *Serve) engine() string {
	return cmp.Or(s.Engine, anyCommand)
}

// gpus is how many GPUs a server has, and whether it is to see no others.
func (s *Serve) gpus() (n int, only bool) {
	switch {
	case s.GPUs != nil:
		return *s.GPUs, true
	case engines[s.engine()].cuda:
		return 1, true
	}
	return 0, false
}

const anyCommand = "command"

// engine is a program that serves models.
type engine struct {
	cuda    bool   // needs a GPU, unless told otherwise
	health  string // path; empty where any answer means that it is ready
	base    string // of the API, behind the port
	install string // how to get it
	command func(m *Model, gpus int) ([]string, error)
}

// engines by name. Their options are those of vLLM's `vllm serve`, SGLang's
// `sglang.launch_server`, llama.cpp's `llama-server` (or the server of
// llama-cpp-python) and Fastgen's `fgserve`.
var engines = map[string]engine{
	"vllm": {true, "/health", "/v1", "pip install vllm, and have vllm on PATH (https://docs.vllm.ai)",
		func(m *Model, gpus int) ([]string, error) {
			return []string{"vllm", "serve", "{model}", "--host", "{host}", "--port", "{port}",
				"--tensor-parallel-size", strconv.Itoa(max(gpus, 1)), "--served-model-name", "{name}"}, nil
		}},
	"sglang": {true, "/health", "/v1", `pip install "sglang[all]" for the python3 on PATH (https://docs.sglang.io)`,
		func(m *Model, gpus int) ([]string, error) {
			python, err := pythonWith("sglang")
			return []string{python, "-m", "sglang.launch_server", "--model-path", "{model}", "--host", "{host}", "--port", "{port}",
				"--tp-size", strconv.Itoa(max(gpus, 1)), "--served-model-name", "{name}"}, err
		}},
	"llama.cpp": {false, "/v1/models", "/v1", "have llama-server on PATH (https://github.com/ggml-org/llama.cpp), or pip install 'llama-cpp-python[server]' for the python3 on PATH",
		llamaCommand},
	"fastgen": {true, "", "", "have fgserve on PATH (https://github.com/facebookresearch/fastgen)",
		func(m *Model, gpus int) ([]string, error) {
			return []string{"fgserve", "{model}", "--host", "{host}", "--port", "{port}", "--tensor-parallel", strconv.Itoa(max(gpus, 1))}, nil
		}},
	anyCommand: {false, "/v1/models", "/v1", "have it on PATH, or write its whole path",
		func(m *Model, _ int) ([]string, error) { return m.Serve.Command, nil }},
}

// llamaCommand prefers llama.cpp's own server to that of its Python package.
func llamaCommand(m *Model, gpus int) ([]string, error) {
	if _, err := exec.LookPath("llama-server"); err == nil {
		weights := "--model"
		if !strings.HasSuffix(m.weights(), ".gguf") { // a repository
			weights = "--hf-repo"
		}
		return []string{"llama-server", weights, "{model}", "--alias", "{name}", "--host", "{host}", "--port", "{port}"}, nil
	}
	python, err := pythonWith("llama_cpp")
	c := []string{python, "-m", "llama_cpp.server", "--model", "{model}", "--model_alias", "{name}", "--host", "{host}", "--port", "{port}",
		"--interrupt_requests", "False"}
	if gpus > 0 {
		c = append(c, "--n_gpu_layers", "-1")
	}
	return c, err
}

var errNotInstalled = errors.New("is not installed")

// pythonWith finds the Python that has a module.
func pythonWith(module string) (string, error) {
	for _, python := range []string{"python3", "python"} {
		const find = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
		if exec.Command(python, "-c", find, module).Run() == nil {
			return python, nil
		}
	}
	return "", errNotInstalled
}

// Model is a model whose servers are to be started.
type Model struct {
	Name  string // in the config
	Is    string // at the server: what requests call it; empty: as its weights
	Dir   string // that the servers work in: the folder of the config
	Serve Serve

	Secrets llm.Secrets // left out of what is shown of the servers' logs
}

func (m *Model) replicas() int { return max(m.Serve.Replicas, 1) }

func (m *Model) timeout() time.Duration {
	return cmp.Or(m.Serve.ReadyTimeout, DefaultReadyTimeout)
}

// weights is what the engine is to load: an absolute path where it is one.
func (m *Model) weights() string {
	w := cmp.Or(m.Serve.Model, m.Is)
	if w == "" || filepath.IsAbs(w) {
		return w
	}
	if rest, ok := strings.CutPrefix(w, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	path := filepath.Join(m.Dir, w)
	if _, err := os.Stat(path); err == nil || strings.HasPrefix(w, ".") {
		return path
	}
	return w // a name that the engine knows
}

// command is the command line of a server, with placeholders. The error says
// what to install.
func (m *Model) command() ([]string, error) {
	e := engines[m.Serve.engine()]
	if m.Serve.engine() != anyCommand && m.weights() == "" {
		return nil, fmt.Errorf("model %q: serve.model is missing: it says which weights to serve", m.Name)
	}
	gpus, _ := m.Serve.gpus()
	c, err := e.command(m, gpus)
	what := "engine " + m.Serve.Engine
	if err == nil {
		c = slices.Concat(c, m.Serve.Args)
		if m.Serve.engine() == anyCommand {
			what = c[0]
		}
		c[0], err = m.program(c[0])
	}
	if err != nil {
		return nil, fmt.Errorf("model %q: %s is not installed: %s", m.Name, what, e.install)
	}
	return c, nil
}

// program finds a program: on PATH, or where a path says, from the model's folder.
func (m *Model) program(name string) (string, error) {
	if !strings.Contains(name, "/") {
		return exec.LookPath(name)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(m.Dir, name)
	}
	return exec.LookPath(name)
}

// health is the URL that reports whether a server is ready, and whether any answer
// does.
func (m *Model) health(port int) (url string, anyAnswer bool) {
	path := cmp.Or(m.Serve.Health, engines[m.Serve.engine()].health)
	return fmt.Sprintf("http://%s:%d%s", Host, port, path), path == ""
}

// base is the base URL of the API of a server.
func (m *Model) base(port int) string {
	return fmt.Sprintf("http://%s:%d%s", Host, port, engines[m.Serve.engine()].base)
}

// fill puts what a server is given in the place of the placeholders.
func (m *Model) fill(text string, replica, port int, gpus []string) string {
	name := cmp.Or(m.Is, m.Serve.Model)
	return strings.NewReplacer(
		"{port}", strconv.Itoa(port), "{host}", Host, "{model}", m.weights(), "{name}", name,
		"{replica}", strconv.Itoa(replica), "{gpus}", strings.Join(gpus, ","),
	).Replace(text)
}
