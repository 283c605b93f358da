package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"matrix/internal/monitor"
	"matrix/internal/rundir"
)

func newMCPCmd(p Program) *cobra.Command {
	var allow []string
	var addr string
	cmd := &cobra.Command{
		Use:   "mcp",
		Short: "Serve runs as tools for a coding agent, by the Model Context Protocol",
		Long: `Mcp lets a coding agent look at runs and configs: a server of the Model Context
Protocol over stdin and stdout, or with --http over streamable HTTP on loopback.
Its tools are commands of matrix, run in this process: runs, status, verify, show,
explain, stats, compare, validate, plan and graph. They read, and write nothing.

With --allow run there are also run, preview and sim: they execute programs that
configs name, and call models, which may cost money. A run that this process began
ends with it, and goes on when it is run again.`,
		Example: `  claude mcp add matrix -- matrix mcp
  matrix mcp --allow run
  matrix mcp --http 7080`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, what := range allow {
				if what != "run" {
					return flagErrorf("--allow %q: want run", what)
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			t := &toolServer{program: p, ctx: ctx, runs: map[string]*begun{}}
			defer t.end()
			server := t.server(len(allow) > 0)
			if cmd.Flags().Changed("http") {
				return serveTools(ctx, cmd.ErrOrStderr(), server, addr)
			}
			err := server.Run(ctx, &mcp.IOTransport{Reader: io.NopCloser(cmd.InOrStdin()), Writer: writeCloser{cmd.OutOrStdout()}})
			if ctx.Err() != nil {
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&allow, "allow", nil, "run: also tools that run configs, for money where their models cost some")
	cmd.Flags().StringVar(&addr, "http", "", "serve streamable HTTP at a port of this machine, or HOST:PORT of loopback, in the place of stdin and stdout")
	return cmd
}

type writeCloser struct{ io.Writer }

func (writeCloser) Close() error { return nil }

// serveTools serves over HTTP until ctx ends. Only this machine reaches it.
func serveTools(ctx context.Context, w io.Writer, server *mcp.Server, addr string) error {
	if _, err := strconv.ParseUint(addr, 10, 16); err == nil {
		addr = "127.0.0.1:" + addr
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return flagErrorf("--http %q: want a port, or HOST:PORT of loopback, such as 127.0.0.1:7080: who reaches it reads files of yours", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	h := &http.Server{Handler: mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	fmt.Fprintf(w, "http://%s\n", l.Addr())
	if err := h.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// toolServer makes tools of commands.
type toolServer struct {
	program Program
	ctx     context.Context // until the server ends; commands that stay end with it
	work    sync.WaitGroup

	mu   sync.Mutex
	runs map[string]*begun // by folder
}

// begun is a command that goes on while its tool has answered.
type begun struct {
	out   *bounded
	stop  chan os.Signal
	ended chan struct{}
	code  int // read it after ended
}

type (
	noInput  struct{}
	runInput struct {
		Run string `json:"run" jsonschema:"folder of a run, such as runs/coral"`
	}
	showInput struct {
		Run    string `json:"run" jsonschema:"folder of a run, such as runs/coral"`
		ID     string `json:"id,omitempty" jsonschema:"of one task; without it the first ones are shown"`
		Which  string `json:"which,omitempty" jsonschema:"done (default), failed, dropped or expanded"`
		Where  string `json:"where,omitempty" jsonschema:"expression over the finished task, such as metrics.score < 0.5"`
		Sort   string `json:"sort,omitempty" jsonschema:"metric or expression, the smallest first; with - before it the largest"`
		Number int    `json:"number,omitempty" jsonschema:"how many, 3 by default"`
		Full   bool   `json:"full,omitempty" jsonschema:"with rows, data and parameters"`
	}
	taskInput struct {
		Run string `json:"run" jsonschema:"folder of a run, such as runs/coral"`
		ID  string `json:"id" jsonschema:"of a task"`
	}
	compareInput struct {
		A string `json:"a" jsonschema:"folder of a run"`
		B string `json:"b" jsonschema:"folder of another one over the same rows"`
	}
	configInput struct {
		Config    string   `json:"config" jsonschema:"YAML file, or a folder that holds config.yaml"`
		Overrides []string `json:"overrides,omitempty" jsonschema:"each key=value, such as dataset.limit=10"`
	}
	previewInput struct {
		configInput
		Number int `json:"number,omitempty" jsonschema:"how many rows, 3 by default"`
	}
	launchInput struct {
		configInput
		Out         string `json:"out,omitempty" jsonschema:"folder to write to, runs/NAME by default"`
		RetryFailed bool   `json:"retry_failed,omitempty" jsonschema:"try failed tasks again"`
		Wait        int    `json:"wait_seconds,omitempty" jsonschema:"answer after so long while the run goes on, 30 by default"`
	}
	simInput struct {
		Preset string `json:"preset,omitempty" jsonschema:"8b (default), 70b or slots"`
		Reply  string `json:"reply,omitempty" jsonschema:"text (default), echo or template:TEMPLATE"`
	}
)

// server has the tools; those that execute something where all is true.
func (t *toolServer) server(all bool) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "matrix", Version: t.program.version()}, &mcp.ServerOptions{
		Instructions: "Matrix generates synthetic data with LLM agents. A config (YAML) is run into a folder, runs/NAME. Begin with runs, then status and show; validate a config before plan.",
	})
	reading := &mcp.ToolAnnotations{ReadOnlyHint: true}
	addTool(s, "runs", "The folders of runs below the working directory, with how far each is.", reading, func(ctx context.Context, _ noInput) (string, error) { return t.list(ctx) })
	addTool(s, "status", "How a run stands: tasks, roles, models, money; of one that is under way, now.", reading, func(ctx context.Context, in runInput) (string, error) { return t.status(ctx, in.Run) })
	addTool(s, "verify", "Proves that a run that is not under way has lost nothing and doubled nothing.", reading, func(ctx context.Context, in runInput) (string, error) { return t.command(ctx, "verify", "--", in.Run) })
	addTool(s, "show", "Reads finished tasks of a run: their turns, how they ended, their metrics.", reading, func(ctx context.Context, in showInput) (string, error) {
		args := []string{"show", "--no-pager", "--no-color"}
		switch in.Which {
		case "", "done":
		case "failed", "dropped", "expanded":
			args = append(args, "--"+in.Which)
		default:
			return "", fmt.Errorf("which is %q, want done, failed, dropped or expanded", in.Which)
		}
		if in.Number > 0 {
			args = append(args, "-n", strconv.Itoa(in.Number))
		}
		if in.Where != "" {
			args = append(args, "--where="+in.Where)
		}
		if in.Sort != "" {
			args = append(args, "--sort="+in.Sort)
		}
		if in.Full {
			args = append(args, "--full")
		}
		args = append(args, "--", in.Run)
		if in.ID != "" {
			args = append(args, in.ID)
		}
		return t.command(ctx, args...)
	})
	addTool(s, "explain", "Where a task is or how it ended: its hops, waits, calls, costs.", reading, func(ctx context.Context, in taskInput) (string, error) {
		return t.command(ctx, "explain", "--no-color", "--", in.Run, in.ID)
	})
	addTool(s, "stats", "What the tasks of a run come to: ends, lengths, metrics, costs, duplicates.", reading, func(ctx context.Context, in runInput) (string, error) {
		return t.command(ctx, "stats", "--no-pager", "--no-color", "--", in.Run)
	})
	addTool(s, "compare", "Two runs over the same rows beside each other.", reading, func(ctx context.Context, in compareInput) (string, error) {
		return t.command(ctx, "compare", "--no-pager", "--no-color", "--", in.A, in.B)
	})
	addTool(s, "validate", "Checks a config, and prints it with all defaults; says what is wrong, by file, line and key.", reading, func(ctx context.Context, in configInput) (string, error) {
		return t.config(ctx, "config", in)
	})
	addTool(s, "plan", "What a config will take before it is run: rows, calls, tokens, money, time. It calls no model.", reading, func(ctx context.Context, in configInput) (string, error) { return t.config(ctx, "plan", in) })
	addTool(s, "graph", "Who acts after whom in a config, as text.", reading, func(ctx context.Context, in configInput) (string, error) { return t.config(ctx, "graph", in) })
	if !all {
		return s
	}
	acting := &mcp.ToolAnnotations{}
	addTool(s, "preview", "Runs a few rows of a config in memory and prints the dialogues. It calls models, and executes what the config names.", acting, func(ctx context.Context, in previewInput) (string, error) {
		if in.Number > 0 {
			return t.config(ctx, "preview", in.configInput, "-n", strconv.Itoa(in.Number))
		}
		return t.config(ctx, "preview", in.configInput)
	})
	addTool(s, "run", "Runs a config, or goes on with its run. It calls models, and executes what the config names. Answers at the end, or after wait_seconds; status then tells how it goes.", acting, t.launch)
	addTool(s, "stop", "Has a run end cleanly that is under way; run goes on with it.", acting, func(ctx context.Context, in runInput) (string, error) { return t.command(ctx, "stop", "--", in.Run) })
	addTool(s, "sim", "Serves the OpenAI API from a simulated model on loopback, until this server ends; answers with its base URL.", acting, t.sim)
	return s
}

// addTool adds a tool whose answer is text. An error of f is told to the agent.
func addTool[In any](s *mcp.Server, name, about string, a *mcp.ToolAnnotations, f func(ctx context.Context, in In) (string, error)) {
	mcp.AddTool(s, &mcp.Tool{Name: name, Description: about, Annotations: a}, func(ctx context.Context, _ *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
		text, err := f(ctx, in)
		var failed *failedCommand
		if err != nil && !errors.As(err, &failed) {
			return nil, nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}, IsError: err != nil}, nil, nil
	})
}

// failedCommand is of a command whose output says what is wrong.
type failedCommand struct{ code int }

func (e *failedCommand) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// command runs a command in this process and returns what it prints.
func (t *toolServer) command(ctx context.Context, args ...string) (string, error) {
	out := &bounded{}
	code := t.exec(ctx, out, nil, args)
	if code != exitOK {
		return fmt.Sprintf("%s\n(exit code %d)", out, code), &failedCommand{code}
	}
	return out.String(), nil
}

// exec runs a command; stop is what ends a run of it cleanly.
func (t *toolServer) exec(ctx context.Context, out *bounded, stop chan os.Signal, args []string) int {
	p := t.program
	p.In, p.Out, p.Err, p.interrupts = strings.NewReader(""), out, out, stop
	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	code, says := exitOf(cmd, err)
	if says != "" {
		fmt.Fprintln(out, clean(says))
	}
	return code
}

func (t *toolServer) config(ctx context.Context, command string, in configInput, flags ...string) (string, error) {
	if err := overrideArgs(in.Overrides); err != nil {
		return "", err
	}
	args := append([]string{command}, flags...)
	return t.command(ctx, append(append(args, "--", in.Config), in.Overrides...)...)
}

// launch begins a run, and waits for a while.
func (t *toolServer) launch(ctx context.Context, in launchInput) (string, error) {
	if err := overrideArgs(in.Overrides); err != nil {
		return "", err
	}
	args := []string{"run"}
	if in.Out != "" {
		args = append(args, "--out="+in.Out)
	}
	if in.RetryFailed {
		args = append(args, "--retry-failed")
	}
	args = append(append(args, "--", in.Config), in.Overrides...)
	b := &begun{out: &bounded{}, stop: make(chan os.Signal, 4), ended: make(chan struct{})}
	t.mu.Lock()
	t.runs[strconv.Itoa(len(t.runs))] = b
	t.mu.Unlock()
	t.work.Go(func() {
		defer close(b.ended)
		b.code = t.exec(context.WithoutCancel(t.ctx), b.out, b.stop, args)
	})
	wait := 30 * time.Second
	if in.Wait > 0 {
		wait = time.Duration(in.Wait) * time.Second
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	select {
	case <-b.ended:
		if b.code != exitOK {
			return fmt.Sprintf("%s\n(exit code %d)", b.out, b.code), &failedCommand{b.code}
		}
		return b.out.String(), nil
	case <-over.C:
	case <-ctx.Done():
	}
	return b.out.String() + "\nThe run goes on: status tells how it stands, stop ends it.", nil
}

// sim serves a simulated model until the server ends.
func (t *toolServer) sim(ctx context.Context, in simInput) (string, error) {
	args := []string{"sim", "--port=0", "--quiet"}
	if in.Preset != "" {
		args = append(args, "--preset="+in.Preset)
	}
	if in.Reply != "" {
		args = append(args, "--reply="+in.Reply)
	}
	first, ended := make(chan struct{}), make(chan int, 1)
	out := &bounded{first: first}
	t.work.Go(func() { ended <- t.exec(t.ctx, out, nil, args) })
	select {
	case <-first:
		return out.String(), nil
	case code := <-ended:
		return out.String(), &failedCommand{code}
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// end stops what goes on, cleanly.
func (t *toolServer) end() {
	t.mu.Lock()
	for _, b := range t.runs {
		select {
		case b.stop <- syscall.SIGTERM:
		default:
		}
	}
	t.mu.Unlock()
	t.work.Wait()
}

// list are the folders of runs, the newest first.
func (t *toolServer) list(ctx context.Context) (string, error) {
	found, err := filepath.Glob("runs/*/" + rundir.ConfigFile)
	if err != nil {
		return "", err
	}
	deeper, err := filepath.Glob("runs/*/*/" + rundir.ConfigFile)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, file := range append(found, deeper...) {
		dir := filepath.Dir(file)
		fmt.Fprintf(&b, "%s: %s\n", filepath.ToSlash(dir), t.far(ctx, dir))
	}
	if b.Len() == 0 {
		return "There are no runs below runs/ in the working directory.", nil
	}
	return b.String(), nil
}

// far says how far the run in a folder is.
func (t *toolServer) far(ctx context.Context, dir string) string {
	c, err := monitor.Dial(dir)
	if err == nil {
		defer c.Close()
		if s, err := c.Status(ctx); err == nil {
			return "under way, " + s.State
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, rundir.SummaryFile))
	var s struct {
		Done, Dropped, Failed int64
		Finished              bool
	}
	if err != nil || json.Unmarshal(raw, &s) != nil {
		return "not under way, no summary"
	}
	state := "stopped"
	if s.Finished {
		state = "finished"
	}
	return fmt.Sprintf("%s: %d done, %d dropped, %d failed", state, s.Done, s.Dropped, s.Failed)
}

// status is how a run stands, as JSON.
func (t *toolServer) status(ctx context.Context, dir string) (string, error) {
	out := &bounded{}
	c, err := monitor.Dial(dir)
	switch {
	case err == nil:
		defer c.Close()
		s, err := c.Status(ctx)
		if err != nil {
			return "", err
		}
		return out.with(printJSON(out, s))
	case !errors.Is(err, monitor.ErrNotRunning):
		return "", err
	}
	raw, err := os.ReadFile(filepath.Join(dir, rundir.SummaryFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s: there is no run that is under way, nor a summary of one", dir)
	}
	if err == nil {
		_, err = fmt.Fprintf(out, "Not under way. Its summary:\n%s", raw)
	}
	return out.with(err)
}

// bounded keeps the beginning and the end of what is written to it.
type bounded struct {
	mu    sync.Mutex
	head  []byte
	tail  []byte
	lost  int
	first chan struct{} // closed with the first line; nil: nobody asks
}

const maxHead, maxTail = 48 << 10, 16 << 10 // bytes of an answer of a tool

// Write implements io.Writer. It never fails.
func (b *bounded) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(text), maxHead-len(b.head))
	b.head = append(b.head, text[:n]...)
	b.tail = append(b.tail, text[n:]...)
	if more := len(b.tail) - maxTail; more > 0 {
		b.lost += more
		b.tail = append(b.tail[:0], b.tail[more:]...)
	}
	if b.first != nil && strings.Contains(string(text), "\n") {
		close(b.first)
		b.first = nil
	}
	return len(text), nil
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost == 0 {
		return string(b.head) + string(b.tail)
	}
	return fmt.Sprintf("%s\n[%d bytes are left out here: ask for less]\n%s", strings.ToValidUTF8(string(b.head), ""), b.lost, strings.ToValidUTF8(string(b.tail), ""))
}

// with is what was written, or an error.
func (b *bounded) with(err error) (string, error) {
	if err != nil {
		return "", err
	}
	return b.String(), nil
}
