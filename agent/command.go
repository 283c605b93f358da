package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix"
	"matrix/internal/child"
	"matrix/internal/jsontext"
	"matrix/internal/taskjson"
	"matrix/lang"
	"matrix/llm"
)

// Command is an agent in any language: a pool of child processes, each of which
// reads one JSON line and answers with one, again and again.
//
// In:  {"seq","id","row","trial","seed","role","params","item","turns"}
// Out: {"seq","text","data","tool_results","error"}, any of the last four, or
// {"seq","fail"}; with either calls, of models or tools that the child has made
// itself, each as a matrix.Call in the output: they stand in the turn.
//
// Calls of tools stand in the turns, as tool_calls: [{"id","name","arguments"}].
// A child that answers them returns tool_results: [{"id","content","is_error"}],
// one for each call that it answers, with the call's id. content is a text, or
// any other JSON, whose text is then the content; is_error says that the tool could
// not do it, and the content why. In place of both there may be error, a text.
//
// seq numbers the questions to one child. An answer that carries it back is
// known to belong to its question, and the child is asked again at once. One
// without it counts after a quiet time in which nothing more came; a child that
// says more is refused. An "id" is allowed, and then checked.
//
// error makes a turn with an error, which the flow judges; fail fails the task.
// What a child writes to stderr is logged, but for what another one has ended
// with. A child that dies, takes longer than
// the timeout, or is out of step with its questions is killed, with all it
// started, and replaced, and its task is tried again. What no row can be at fault
// for stops the run: a program that ends or speaks without being asked, or one
// that answers once its stdin ends, and not before. Children start when they
// are needed, and see the end of stdin when the run ends.
type Command struct {
	Run     []string          `yaml:"run" required:"true" doc:"Program and its arguments."`
	Workers int               `yaml:"workers" free:"true" doc:"Processes at once, each with one task at a time." default:"1"`
	Timeout time.Duration     `yaml:"timeout" doc:"How long one answer may take, the start of the process included where there is one." default:"60s"`
	Env     map[string]string `yaml:"env" secret:"named" doc:"Environment variables, beyond those of matrix itself. What comes from ${env:NAME}, and what has a name like SERVICE_KEY, is not shown."`
	Files   []string          `yaml:"files" path:"true" free:"true" doc:"Files and folders that the program needs beside those that run names, such as modules that it imports; globs are allowed. Workers on other machines get them."`
	Dir     string            `yaml:"dir" path:"here" doc:"Folder to run in. Default: that of the config file that says what to run; of matrix itself, where the command line says it."`

	Elsewhere bool `yaml:"-"` // it acts in other processes alone: the program need not be here
}

const (
	linger      = 2 * time.Second // for a child to end by itself once stdin has
	maxReported = 1e12            // tokens, dollars or milliseconds of a call that a child reports
	moment      = time.Second     // for the system to say that a child ended
)

// An answer without seq is only known to be whole when no more comes after it.
// A program that prints twice for one task does so within microseconds; what is
// given on top is for a busy machine. The first answer of a child is waited for
// longer: a program that prints twice mostly does it from the first task on, and
// a child has but one first answer.
const (
	quietFirst = 100 * time.Millisecond
	quietLater = 5 * time.Millisecond
)

// CommandAgent is the agent of a Command. Close it when the run has ended.
type CommandAgent struct {
	role   string
	config Command
	params lang.Params
	log    func(line string)
	hidden llm.Secrets        // left out of what is told of the children
	charge func(*matrix.Call) // nil: nobody pays for what children report
	lasts  bool               // no answer that comes late stops the run
	slots  chan struct{}
	spawn  child.Spawner
	quiet  [2]time.Duration // after a child's first answer without seq, and after later ones

	mu     sync.Mutex
	idle   []*process
	live   map[*process]bool
	closed bool

	answered bool            // a child has, once
	asked    bool            // a child was started to see whether it bears to be asked nothing
	late     map[string]bool // tasks whose answer came once stdin had ended, while none has come in time

	logMu  sync.Mutex      // taken for itself: a child may log while mu waits for its end
	logged map[string]bool // lines of stderr with which children ended: each is logged once
}

// maxRepeated bounds logged: beyond it the lines are forgotten, and may be logged again.
const maxRepeated = 1000

// maxLate is how many tasks may get their answer once stdin has ended, from a
// command that has never given one before: one may have been about to come.
const maxLate = 3

var _ matrix.Agent = (*CommandAgent)(nil)

// NewCommand makes the agent of a role. log takes what the children write to
// stderr, a line at a time, the role before it; it is called concurrently.
func NewCommand(role string, c Command, p lang.Params, log func(line string)) (*CommandAgent, error) {
	var bad fieldErrors
	if len(c.Run) == 0 || c.Run[0] == "" {
		bad.addf("run", "is empty: write the program and its arguments as a list")
	} else if !c.Elsewhere {
		bad.add("run", findProgram(c))
	}
	if c.Dir != "" {
		if info, err := os.Stat(c.Dir); err != nil {
			bad.add("dir", err)
		} else if !info.IsDir() {
			bad.addf("dir", "%s is not a folder", c.Dir)
		}
	}
	for i, path := range c.Files {
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if found, _ := filepath.Glob(path); len(found) == 0 {
			bad.addf(fmt.Sprintf("files.%d", i), "there is no %s", path)
		}
	}
	if c.Workers < 1 {
		bad.addf("workers", "got %d, want 1 or more", c.Workers)
	}
	if c.Timeout <= 0 {
		bad.addf("timeout", "got %v, want more than 0", c.Timeout)
	}
	for k := range c.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(c.Env[k], "\x00") {
			bad.addf("env", "%q is not an environment variable", k)
		}
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	if log == nil {
		log = func(string) {}
	}
	return &CommandAgent{role: role, config: c, params: p, log: log, quiet: [2]time.Duration{quietFirst, quietLater},
		slots: make(chan struct{}, c.Workers), live: map[*process]bool{}, late: map[string]bool{}, logged: map[string]bool{}}, nil
}

// Conceal keeps texts that must not be shown out of what is told of the children:
// their stderr, and why a step failed. What they answer is data, and stays as it
// is. It is called before the first Act.
func (a *CommandAgent) Conceal(s llm.Secrets) { a.hidden = s }

// Charge has charge told of each call that a child says it has made, as soon as it
// says so. It is called before the first Act; charge is called concurrently.
func (a *CommandAgent) Charge(charge func(*matrix.Call)) { a.charge = charge }

// Persist makes nothing stop the run but a program that cannot begin. It is called
// before the first Act.
func (a *CommandAgent) Persist() { a.lasts = true }

// findProgram reports whether the program is there.
func findProgram(c Command) error {
	name := c.Run[0]
	if strings.ContainsRune(name, filepath.Separator) && !filepath.IsAbs(name) {
		name = filepath.Join(c.Dir, name)
		if !strings.ContainsRune(name, filepath.Separator) {
			name = "./" + name
		}
	}
	if _, err := exec.LookPath(name); err != nil {
		if words := strings.Fields(name); len(c.Run) == 1 && len(words) > 1 {
			return fmt.Errorf("there is no program %q: write the program and its arguments as a list: [%s]", c.Run[0], strings.Join(words, ", "))
		}
		return fmt.Errorf("cannot run %s: %w", c.Run[0], errors.Unwrap(err))
	}
	return nil
}

// Act implements matrix.Agent.
func (a *CommandAgent) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	question, err := a.encodeTask(t)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("the task cannot be written as JSON: %w", err)}
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-matrix.Stopping(ctx).Done():
		return matrix.Turn{}, context.Cause(matrix.Stopping(ctx))
	}
	limited, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	p, err := a.acquire()
	if err != nil {
		return matrix.Turn{}, err
	}
	out, err := p.ask(limited, question, a.quiet)
	var turn matrix.Turn
	if err == nil {
		turn, err = a.decodeAnswer(t, p, out)
	}
	for i := range turn.Calls {
		if a.charge != nil {
			a.charge(&turn.Calls[i])
		}
	}
	if err == nil {
		a.recordAnswer(p)
		return turn, nil
	}
	var fail *matrix.FailError
	if errors.As(err, &fail) {
		a.recordAnswer(p)
		return turn, err
	}
	var odd *oddAnswer
	if errors.As(err, &odd) && p.numbered {
		a.recordAnswer(p)
		return matrix.Turn{}, &matrix.FailError{Err: fmt.Errorf("%s %w", a.config.Run[0], err)}
	}
	a.discard(p)
	if ctx.Err() != nil {
		return matrix.Turn{}, context.Cause(ctx)
	}
	late := errors.Is(err, errLate)
	silent := limited.Err() != nil
	switch {
	case late:
		err = fmt.Errorf("gave no answer within %v, and gave it once its stdin was closed: it should answer each line of its input before it reads the next, and flush; where it is but slow, raise timeout", a.config.Timeout)
	case silent:
		err = fmt.Errorf("gave no answer within %v", a.config.Timeout)
		if !p.answered {
			err = fmt.Errorf("%w, nor any before: it should answer each line of its input with a line before it reads the next, and flush", err)
		}
	}
	err = fmt.Errorf("%s %w%s", a.config.Run[0], err, p.LastStderr())
	return matrix.Turn{}, a.judge(ctx, t.ID, p, silent, late, err)
}

// recordAnswer releases a child that has answered.
func (a *CommandAgent) recordAnswer(p *process) {
	a.mu.Lock()
	a.answered = true
	a.mu.Unlock()
	a.release(p)
}

// judge says whose fault an error is. It is the command's own only where no row
// can be at fault: it has never answered, and ends without being asked at all, or
// answers once its stdin has ended.
func (a *CommandAgent) judge(ctx context.Context, task string, p *process, silent, late bool, err error) error {
	a.mu.Lock()
	answered, first := a.answered, !a.asked && !silent
	if !answered && late {
		a.late[task] = true
	}
	n := len(a.late)
	a.asked = a.asked || first
	a.mu.Unlock()
	switch {
	case answered:
	case late && n >= maxLate && !a.lasts:
		return &matrix.StopError{Err: fmt.Errorf("%w\nIt was so for %d tasks: the rows are not at fault", err, n)}
	case first:
		if why := a.startUnasked(ctx, 3*p.Lived()+2*moment); why != nil {
			return &matrix.StopError{Err: why}
		}
	}
	return err
}

// startUnasked starts a child, asks it nothing for a while, and reports whether it bears
// that: one that cannot even begin ends, or speaks, at once.
func (a *CommandAgent) startUnasked(ctx context.Context, wait time.Duration) error {
	p, err := a.acquire()
	if err != nil {
		return err
	}
	still := time.NewTimer(wait)
	defer still.Stop()
	select {
	case out, ok := <-p.lines:
		if ok {
			err = fmt.Errorf("printed %s", p.printed(out.Text))
		} else {
			err = p.ExitError()
		}
		a.discard(p)
		return fmt.Errorf("%s %w, before it was asked anything%s", a.config.Run[0], err, p.LastStderr())
	case <-still.C:
	case <-matrix.Stopping(ctx).Done():
	}
	a.release(p)
	return nil
}

// encodeTask returns the line that a child reads, the seq left out, which goes before
// the other keys. Each turn has all fields of an output line.
func (a *CommandAgent) encodeTask(t *matrix.Task) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		ID     string       `json:"id"`
		Row    string       `json:"row"`
		Trial  int          `json:"trial"`
		Seed   int64        `json:"seed"`
		Role   string       `json:"role"`
		Params lang.Params  `json:"params,omitempty"`
		Item   matrix.Value `json:"item"`
	}{t.ID, t.Row, t.Trial, t.Seed, a.role, a.params, t.Item})
	if err != nil {
		return nil, err
	}
	head := bytes.TrimSuffix(b.Bytes(), []byte("}\n"))
	line := taskjson.Plain.AppendTurns(append(head, `,"turns":`...), t.Turns)
	if t.Depth() > 0 {
		line = jsontext.AppendString(append(line, `,"parent":`...), t.Parent)
	}
	if len(t.Children) > 0 {
		line = taskjson.AppendChildren(append(line, `,"children":`...), t.Children)
	}
	return append(line, "}\n"...), nil
}

// oddAnswer is a JSON object that is not an answer. Where its seq says that it is
// meant as one, trying again would bring the same.
type oddAnswer struct{ msg string }

func (e *oddAnswer) Error() string { return e.msg }

// decodeAnswer reads an answer, which is a JSON object. What the child asks to fail with
// is a *matrix.FailError.
func (a *CommandAgent) decodeAnswer(t *matrix.Task, p *process, line []byte) (matrix.Turn, error) {
	var out struct {
		Seq   *int64       `json:"seq"`
		ID    *string      `json:"id"`
		Text  *string      `json:"text"`
		Data  matrix.Value `json:"data"`
		Error *string      `json:"error"`
		Fail  *string      `json:"fail"`

		Calls   []json.RawMessage `json:"calls"`
		Results []json.RawMessage `json:"tool_results"`
	}
	if why := decodeStrict(line, &out); why != "" {
		return matrix.Turn{}, &oddAnswer{fmt.Sprintf("printed %s, which is not an answer, want {\"text\", \"data\", \"tool_results\", \"error\", \"calls\"} or {\"fail\"}, with what is your own inside data: %s",
			p.shorten(line), why)}
	}
	turn := matrix.Turn{Data: out.Data}
	for i, raw := range out.Calls {
		var c matrix.Call
		why := decodeStrict(raw, &c)
		if why != "" {
			why = "is no call, whose fields are those of calls in the output: " + why
		} else {
			why = wrongCall(&c)
		}
		if why != "" {
			return matrix.Turn{}, &oddAnswer{fmt.Sprintf("printed %s, of which calls[%d] %s", p.shorten(line), i, why)}
		}
		c.Error = a.hidden.Hide(c.Error)
		turn.Calls = append(turn.Calls, c)
	}
	switch {
	case out.ID != nil && *out.ID != t.ID:
		return matrix.Turn{}, fmt.Errorf("was asked about task %q and answered for %q", t.ID, *out.ID)
	case out.Fail != nil:
		return matrix.Turn{Calls: turn.Calls}, &matrix.FailError{Err: errors.New(a.hidden.Hide(*out.Fail))}
	case out.Text == nil && out.Error == nil && out.Data.IsZero() && out.Results == nil:
		return matrix.Turn{}, &oddAnswer{fmt.Sprintf("printed %s, which has none of text, data, tool_results, error and fail", p.shorten(line))}
	}
	for i, raw := range out.Results {
		var r struct {
			ID      string          `json:"id"`
			Name    string          `json:"name"`
			Content json.RawMessage `json:"content"`
			IsError bool            `json:"is_error"`
			Error   string          `json:"error"`
		}
		if why := decodeStrict(raw, &r); why != "" {
			return matrix.Turn{}, &oddAnswer{fmt.Sprintf("printed %s, of which tool_results[%d] is no result, want {\"id\", \"content\", \"is_error\"}: %s", p.shorten(line), i, why)}
		}
		call := callOf(t, r.ID)
		if call == nil {
			return matrix.Turn{}, &oddAnswer{fmt.Sprintf("answered the tool call %q, and there is no such call in the task", r.ID)}
		}
		result := matrix.ToolResult{ID: r.ID, Name: call.Name, Content: string(r.Content), IsError: r.IsError}
		switch {
		case result.Content == "null":
			result.Content = ""
		case strings.HasPrefix(result.Content, `"`):
			_ = json.Unmarshal(r.Content, &result.Content) // it is a JSON string
		}
		result.Fail(r.Error)
		turn.ToolResults = append(turn.ToolResults, result)
	}
	if out.Text != nil {
		turn.Text = *out.Text
	}
	if out.Error != nil {
		turn.Error = a.hidden.Hide(*out.Error)
	}
	return turn, nil
}

// decodeStrict reads JSON from a child into what v points to. It says what is wrong with it in the words of
// JSON; empty for nothing.
func decodeStrict(text []byte, v any) string {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		return ""
	}
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	is, n, _ := strings.Cut(kind.Value, " ") // "number 1.5"
	is = map[string]string{"string": "a text", "bool": "true or false", "array": "a list", "object": "an object", "number": "the number " + n}[is]
	if is == "the number " {
		is = "a number"
	}
	want := "an object"
	switch kind.Type.Kind() {
	case reflect.Slice, reflect.Array:
		want = "a list"
	case reflect.String:
		want = "a text"
	case reflect.Bool:
		want = "true or false"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Int32:
		want = "a whole number"
	}
	if kind.Field == "" {
		return fmt.Sprintf("it is %s, want %s", is, want)
	}
	return fmt.Sprintf("%q is %s, want %s", kind.Field[strings.LastIndexByte(kind.Field, '.')+1:], is, want)
}

// wrongCall says what is wrong with a call that a child reports; empty for nothing.
func wrongCall(c *matrix.Call) string {
	if c.Name == "" {
		return "has no name: that of the model or tool, as usage tables show it"
	}
	if kinds := []matrix.CallKind{"", matrix.KindModel, matrix.KindTool, matrix.KindSandbox}; !slices.Contains(kinds, c.Kind) {
		return fmt.Sprintf("has the kind %q, want model, tool or sandbox", c.Kind)
	}
	for _, x := range []struct {
		name string
		n    float64
	}{
		{"prompt_tokens", float64(c.PromptTokens)}, {"completion_tokens", float64(c.CompletionTokens)}, {"cached_tokens", float64(c.CachedTokens)},
		{"cache_write_tokens", float64(c.CacheWriteTokens)}, {"reasoning_tokens", float64(c.ReasoningTokens)}, {"retries", float64(c.Retries)},
		{"usd", c.USD}, {"wait_ms", c.WaitMS}, {"retry_ms", c.RetryMS}, {"first_token_ms", c.FirstMS}, {"took_ms", c.TookMS},
	} {
		if x.n < 0 || x.n > maxReported {
			return fmt.Sprintf("has %s %v, want 0 to %v", x.name, x.n, float64(maxReported))
		}
	}
	return ""
}

// callOf is the call with an id; nil where the task has none.
func callOf(t *matrix.Task, id string) *matrix.ToolCall {
	for i := range t.Turns {
		for j := range t.Turns[i].ToolCalls {
			if c := &t.Turns[i].ToolCalls[j]; c.ID == id {
				return c
			}
		}
	}
	return nil
}

func shorten(line []byte) string {
	if r := []rune(string(line[:min(len(line), 400)])); len(r) > 100 {
		return string(r[:100]) + "..."
	}
	return string(line)
}

// acquire returns a process that waits for a line, a new one where there is none.
func (a *CommandAgent) acquire() (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.idle) > 0 {
		p := a.idle[len(a.idle)-1]
		a.idle = a.idle[:len(a.idle)-1]
		if p.ready() {
			return p, nil
		}
		delete(a.live, p) // died, or spoke, without being asked: no task's fault
		p.Kill()
	}
	if a.closed {
		return nil, errors.New("the agent is closed")
	}
	p, err := a.start()
	if err != nil {
		err = fmt.Errorf("cannot start %s: %w", a.config.Run[0], err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return nil, &matrix.StopError{Err: err}
		}
		return nil, err
	}
	a.live[p] = true
	return p, nil
}

func (a *CommandAgent) start() (*process, error) {
	cmd := exec.Command(a.config.Run[0], a.config.Run[1:]...)
	cmd.Dir = a.config.Dir
	cmd.Env = os.Environ()
	for k, v := range a.config.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	slices.Sort(cmd.Env[len(cmd.Env)-len(a.config.Env):])
	p, err := a.spawn.Start(cmd, child.Options{Hide: a.hidden.Hide, Log: a.logStderr})
	if err != nil {
		return nil, err
	}
	return &process{Process: p, lines: p.Lines(), hide: a.hidden.Hide}, nil
}

// logStderr logs a line of a child's stderr, but for one with which another child has
// ended: a program that fails at each row says the same thing each time.
func (a *CommandAgent) logStderr(line string) {
	a.logMu.Lock()
	known := a.logged[line]
	a.logMu.Unlock()
	if !known {
		a.log(a.role + ": " + line)
	}
}

func (a *CommandAgent) release(p *process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		delete(a.live, p)
		p.Kill()
		return
	}
	a.idle = append(a.idle, p)
}

func (a *CommandAgent) discard(p *process) {
	p.Kill()
	a.mu.Lock()
	delete(a.live, p)
	a.mu.Unlock()
	a.logMu.Lock()
	defer a.logMu.Unlock()
	if len(a.logged) > maxRepeated {
		clear(a.logged)
	}
	for _, line := range p.Kept() {
		a.logged[line] = true
	}
}

// Close ends the children: those that wait see the end of stdin first, those
// that are busy are killed. It returns when all are gone.
func (a *CommandAgent) Close() error {
	a.mu.Lock()
	a.closed = true
	idle, live := a.idle, a.live
	a.idle, a.live = nil, map[*process]bool{}
	a.mu.Unlock()
	for _, p := range idle {
		p.In.Close()
	}
	wait := time.NewTimer(linger)
	defer wait.Stop()
	for _, p := range idle {
		select {
		case <-p.Gone():
		case <-wait.C:
			wait.Reset(0)
		}
	}
	for p := range live {
		p.Kill()
	}
	a.spawn.Close()
	return nil
}
