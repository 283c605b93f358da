package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

// Chat is an agent that asks a model. It is told the conversation from the
// speaker's side: its own turns are the assistant's, all others the user's,
// and neighbouring messages of one side become one, a blank line between them.
// Turns that have an error or no text are left out. The role's own turns that
// call tools become an assistant's message with the calls, and behind it stand
// the answers, from whichever role in sees they come; calls that are not
// answered in view are left out, and so are answers whose call is not. What the
// service wants back with its calls (signed thoughts) goes back with them.
//
// A reply that is empty, is filtered, has a finish_reason that is not known, or
// does not parse is shown to the model once more, with what is wrong; so is one
// that calls a tool which is not there, or with arguments that do not fit, unless
// tools_strict is false. What
// still cannot be used is a turn with an error, its text kept. A reply that was
// cut at max_tokens is treated as OnLength says. A reply that calls tools need
// have no text, and is not parsed. Of several samples those that can be used
// come first, and one is enough; where the service sends fewer than n, the
// missing ones are asked for with another seed.
//
// Each call carries a seed that derives from the task's seed, the role, and
// which call of the role it is, unless a seed is given or unseeded is set. All
// calls of a task stay at one endpoint of the model, where it can be.
type Chat struct {
	Model       string       `yaml:"model" required:"true" doc:"Name of the model that speaks."`
	System      string       `yaml:"system" doc:"Template of the system message."`
	Prompt      string       `yaml:"prompt" doc:"Template of the user message that ends the conversation. Required where sees is absent."`
	Sees        []string     `yaml:"sees" doc:"Roles whose turns are shown: the role's own as the assistant's, all others as the user's, and answers of tools as such."`
	Last        int          `yaml:"last" doc:"Show the last so many of these turns only; 0 for all." default:"0"`
	Images      []string     `yaml:"images" doc:"Pictures that go with the last user message. Each entry is an expression, or a template where it has {{ or {%: a path, an http(s) or data: URL, base64, a datasets Image {bytes, path}, or a list of these."`
	ImageDir    string       `yaml:"image_dir" path:"here" doc:"Folder that paths of images begin in, and that none may lead out of; / allows any file. Default: that of the dataset."`
	ImageMemory *ImageMemory `yaml:"-"` // that images share which are made smaller; nil: without a bound
	ReadImage   ReadImage    `yaml:"-"` // nil: from the disk
	ImageDetail string       `yaml:"image_detail" doc:"low, high or auto: how closely the service looks at images, where it knows that."`
	ImageSide   int          `yaml:"image_max_side" doc:"Pixels: an image with a longer side is made so small and encoded anew, a PNG, WebP or GIF as PNG, a JPEG as JPEG. 0 sends each as it is." default:"0"`
	Tools       any          `yaml:"tools" doc:"Functions that the model may call: a list, each as {type: function, function: {name, description, parameters}} or {name, description, parameters}; {pool: NAME, only: [TOOL, ...]} for the tools of a pool; {pool: NAME, name, description, code: python} for one that runs code in a pool of sandboxes (code: bash, too; run: [PROGRAM] for others). Or an expression over the task that gives a list of functions."`
	Pools       FindPool     `yaml:"-"` // of entries of tools
	ToolChoice  string       `yaml:"tool_choice" doc:"auto, none, required, or the name of a tool. Default: as the service likes."`
	ToolsStrict *bool        `yaml:"tools_strict" doc:"false: a call of a tool that is not there, or with arguments that do not fit, is not asked for again, but stands in the turn as any other, for whoever answers it; arguments that are not JSON stand there as text." default:"true"`
	Parse       Parse        `yaml:"parse" doc:"What is read out of the reply into the turn's data."`
	Reask       int          `yaml:"reask" doc:"How often a reply that cannot be used is asked for again." default:"1"`
	ReaskWith   string       `yaml:"reask_prompt" doc:"Template of the message that asks again; it also sees error, what is wrong with the reply, and reply, its text."`
	OnLength    string       `yaml:"on_length" doc:"What becomes of a reply that was cut at max_tokens: fail makes a turn with an error; accept uses it as it is; more asks again with twice the tokens, as often as reask says." default:"fail" enum:"fail,accept,more"`
	OnRefused   string       `yaml:"on_refused" doc:"What becomes of a request that the service refuses, for its content, its length or a parameter: fail fails the task; turn makes a turn with an error, which the flow judges." default:"fail" enum:"fail,turn"`
	Unseeded    bool         `yaml:"unseeded" doc:"Send no seed of the task's, so that the service draws as it likes, or by the model's own seed." default:"false"`
	Sampling    llm.Sampling `yaml:",inline"`
}

const defaultReask = "That reply cannot be used: {{ error }}. Reply again, in the form that was asked for."

type chat struct {
	modelCaller
	config Chat
	system *lang.Template // nil: none
	prompt *lang.Template // nil: none
	again  *lang.Template
	tools  *Tools
	images imageLoader
}

var (
	_ matrix.Agent = (*chat)(nil)
	_ Mentioner    = (*chat)(nil)
)

// NewChat makes the agent of a role that speaks through model m.
func NewChat(role string, c Chat, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	a := &chat{config: c, modelCaller: modelCaller{role: role, kind: "chat", name: c.Model, model: m, sampling: c.Sampling,
		reask: c.Reask, onLength: c.OnLength, onRefused: c.OnRefused, unseeded: c.Unseeded, anyCalls: c.ToolsStrict != nil && !*c.ToolsStrict}}
	a.modelCaller.check(c.Parse, &bad)
	s := newSources(p, &bad)
	a.system = s.template("system", c.System)
	a.prompt = s.template("prompt", c.Prompt)
	a.again = s.template("reask_prompt", cmp.Or(c.ReaskWith, defaultReask), "error", "reply")
	if c.Tools != nil {
		var err error
		a.tools, err = NewTools(c.Tools, c.Pools, p)
		bad.add("tools", err)
		raw, err := json.Marshal(c.Tools)
		s.note("tools", string(raw), err)
	}
	a.images = newImageLoader(c, s)
	a.hash = s.revision()
	if c.Prompt == "" && len(c.Sees) == 0 {
		bad.addf("", "a chat needs sees, prompt, or both: there is nothing to reply to")
	}
	if c.Last < 0 {
		bad.addf("last", "got %d, want 0 or more", c.Last)
	}
	if c.Last > 0 && len(c.Sees) == 0 {
		bad.addf("last", "needs sees beside it")
	}
	if c.ToolsStrict != nil && !*c.ToolsStrict && c.Tools == nil {
		bad.addf("tools_strict", "needs tools beside it")
	}
	if c.ToolChoice != "" && c.Tools == nil {
		bad.addf("tool_choice", "needs tools beside it")
	}
	if a.tools != nil && a.tools.expr == nil && len(a.tools.pools) == 0 {
		bad.add("tool_choice", a.checkChoice(a.tools.tools))
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// checkChoice reports whether tool_choice means something among the tools.
func (a *chat) checkChoice(s *toolSet) error {
	choice := a.config.ToolChoice
	if s == nil || slices.Contains([]string{"", "auto", "none", "required"}, choice) || s.has(choice) {
		return nil
	}
	return fmt.Errorf("got %q, want auto, none, required, or one of the tools: %s", choice, s.names())
}

// sources compiles the sources of an agent and hashes them.
type sources struct {
	params lang.Params
	bad    *fieldErrors
	hash   hash.Hash
}

func newSources(p lang.Params, bad *fieldErrors) *sources { return &sources{p, bad, sha256.New()} }

// template compiles a template; nil where there is none.
func (s *sources) template(field, src string, extra ...string) *lang.Template {
	if src == "" {
		return nil
	}
	t, err := lang.CompileTemplate(src, s.params, extra...)
	s.note(field, src, err)
	return t
}

// expr compiles an expression; nil where there is none.
func (s *sources) expr(field, src string) *lang.Expr {
	if src == "" {
		return nil
	}
	e, err := lang.CompileExpr(src, s.params)
	s.note(field, src, err)
	return e
}

// note adds what a prompt is made of, and what is wrong with it.
func (s *sources) note(field, src string, err error) {
	s.bad.add(field, err)
	fmt.Fprintf(s.hash, "%s\x00%s\x00", field, src)
}

// revision is a hash of all that was compiled.
func (s *sources) revision() string { return hex.EncodeToString(s.hash.Sum(nil)[:6]) }

// Mentions implements Mentioner.
func (a *chat) Mentions() []Mention {
	var ms []Mention
	for key, t := range map[string]*lang.Template{"system": a.system, "prompt": a.prompt} {
		if t != nil {
			ms = append(ms, mention(key, t))
		}
	}
	slices.SortFunc(ms, func(a, b Mention) int { return strings.Compare(a.Key, b.Key) })
	if a.tools != nil && a.tools.expr != nil {
		ms = append(ms, mention("tools", a.tools.expr))
	}
	ms = append(ms, a.images.mentions()...)
	if len(a.config.Sees) > 0 {
		ms = append(ms, Mention{Key: "sees", Roles: a.config.Sees})
	}
	return ms
}

// Act implements matrix.Agent.
func (a *chat) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	base, tools, err := a.base(ctx, t)
	if err != nil {
		return matrix.Turn{}, failed(err)
	}
	return a.act(ctx, t, base, tools, func(base *llm.Request, problem error, reply string) error {
		again, err := a.again.Render(t, map[string]any{"error": problem.Error(), "reply": reply})
		if err != nil {
			return fmt.Errorf("reask_prompt: %w", err)
		}
		base.Messages = add(add(slices.Clone(base.Messages), "assistant", reply), "user", again)
		return nil
	})
}

// Asked implements Asker.
func (a *chat) Asked(ctx context.Context, t *matrix.Task) (llm.Request, error) {
	base, _, err := a.base(ctx, t)
	return base, err
}

// base is what is asked about t, apart from how the reply is drawn.
func (a *chat) base(ctx context.Context, t *matrix.Task) (base llm.Request, tools *toolSet, err error) {
	if base.Messages, err = a.messages(t); err != nil {
		return base, nil, &matrix.FailError{Err: err}
	}
	if base.Messages, err = a.images.attach(ctx, t, base.Messages); err != nil {
		return base, nil, err
	}
	if tools, err = a.tools.toolsFor(ctx, t); err != nil {
		if len(a.tools.pools) > 0 {
			return base, nil, fmt.Errorf("tools: %w", err)
		}
		return base, nil, &matrix.FailError{Err: fmt.Errorf("tools: %w", err)}
	}
	if tools != nil {
		if err := a.checkChoice(tools); err != nil {
			return base, nil, &matrix.FailError{Err: fmt.Errorf("tool_choice: %w", err)}
		}
		base.Tools, base.ToolChoice = tools.tools, a.config.ToolChoice
	}
	return base, tools, nil
}

// messages is the conversation from the speaker's side.
func (a *chat) messages(t *matrix.Task) ([]llm.Message, error) {
	var ms []llm.Message
	if a.system != nil {
		s, err := a.system.Render(t, nil)
		if err != nil {
			return nil, fmt.Errorf("system: %w", err)
		}
		ms = add(ms, "system", s)
	}
	var seen []*matrix.Turn
	for i := range t.Turns {
		turn := &t.Turns[i]
		if turn.Error != "" || !slices.Contains(a.config.Sees, turn.Role) {
			continue
		}
		if strings.TrimSpace(turn.Text) != "" || len(turn.ToolResults) > 0 || len(turn.ToolCalls) > 0 && turn.Role == a.role {
			seen = append(seen, turn)
		}
	}
	if n := a.config.Last; n > 0 && len(seen) > n {
		seen = seen[len(seen)-n:]
	}
	for i, turn := range seen {
		side := "user"
		if turn.Role == a.role {
			side = "assistant"
			if len(turn.ToolCalls) > 0 {
				if calls := answeredCalls(turn, seen[i+1:]); len(calls) > 1 {
					ms = append(ms, calls...)
					continue
				}
			}
		}
		ms = add(ms, side, turn.Text)
	}
	if a.prompt != nil {
		s, err := a.prompt.Render(t, nil)
		if err != nil {
			return nil, fmt.Errorf("prompt: %w", err)
		}
		ms = add(ms, "user", s)
	}
	if len(ms) == 0 || len(ms) == 1 && ms[0].Role == "system" {
		if a.prompt != nil {
			return nil, errors.New("there is nothing to reply to: the prompt is empty")
		}
		return nil, fmt.Errorf("there is nothing to reply to: no turn by %s yet; give the role a prompt, or the flow an opening turn (open)", strings.Join(a.config.Sees, ", "))
	}
	return ms, nil
}

// add appends a message, merged with the one before when it is of the same
// side. An empty one is left out. ms must be the caller's own.
func add(ms []llm.Message, side, text string) []llm.Message {
	if strings.TrimSpace(text) == "" {
		return ms
	}
	if n := len(ms); n > 0 && ms[n-1].Role == side && len(ms[n-1].ToolCalls) == 0 {
		ms[n-1].Content += "\n\n" + text
		return ms
	}
	return append(ms, llm.Message{Role: side, Content: text})
}
