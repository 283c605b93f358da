package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

// Request is an agent that sends the conversation, or the whole request, that a
// row brings along: in the form of the OpenAI API, as datasets of dialogues and
// batch files have it. What a request says of its response_format is sent, and
// the reply is parsed by it, unless parse says another thing. Else all is as in
// Chat. A row whose value has another form fails alone.
type Request struct {
	Model     string       `yaml:"model" required:"true" doc:"Name of the model that answers."`
	Messages  string       `yaml:"messages" doc:"Expression for the list of messages: role, content (a text, or parts that are text or image_url), tool_calls, tool_call_id."`
	Body      string       `yaml:"body" doc:"Expression for a whole request: messages, tools, tool_choice, response_format, and sampling parameters, which win over those of the config. Its model and stream do not count. One of messages and body is given."`
	URL       string       `yaml:"url" doc:"Expression for what a batch file asks of the API, beside body: /v1/embeddings and whatever else is not /v1/chat/completions fails the task."`
	System    string       `yaml:"system" doc:"Template of a system message that goes before the others."`
	Rewrite   *bool        `yaml:"rewrite" doc:"What becomes of a conversation that ends with what the assistant says: true leaves out all that it says behind the last message of anybody else, so that it is written anew; false sends it as it is. Default: the task fails, so that no model is asked to answer itself."`
	ImageDir  string       `yaml:"image_dir" path:"here" doc:"Folder that paths of images begin in, and that none may lead out of; / allows any file. Default: that of the dataset."`
	ReadImage ReadImage    `yaml:"-"` // nil: from the disk
	Parse     Parse        `yaml:"parse" doc:"What is read out of the reply into the turn's data."`
	Reask     int          `yaml:"reask" doc:"How often a reply that cannot be used is asked for again." default:"1"`
	OnLength  string       `yaml:"on_length" doc:"What becomes of a reply that was cut at max_tokens: fail makes a turn with an error; accept uses it as it is; more asks again with twice the tokens, as often as reask says." default:"fail" enum:"fail,accept,more"`
	OnRefused string       `yaml:"on_refused" doc:"What becomes of a request that the service refuses: fail fails the task; turn makes a turn with an error, which the flow judges." default:"fail" enum:"fail,turn"`
	Unseeded  bool         `yaml:"unseeded" doc:"Send no seed of the task's, so that the service draws as it likes, or by the model's own seed." default:"false"`
	Sampling  llm.Sampling `yaml:",inline"`
}

type request struct {
	modelCaller
	rewrite *bool
	parse   Parse
	images  imageLoader
	system  *lang.Template // nil: none
	from    *lang.Expr     // of messages or body
	key     string         // which of the two
	url     *lang.Expr     // nil: none
}

var (
	_ matrix.Agent = (*request)(nil)
	_ Mentioner    = (*request)(nil)
)

// NewRequest makes the agent of a role.
func NewRequest(role string, c Request, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	a := &request{rewrite: c.Rewrite, parse: c.Parse, images: imageLoader{dir: c.ImageDir, read: c.ReadImage}, modelCaller: modelCaller{role: role, kind: "request", name: c.Model, model: m, sampling: c.Sampling,
		reask: c.Reask, onLength: c.OnLength, onRefused: c.OnRefused, unseeded: c.Unseeded}}
	a.modelCaller.check(c.Parse, &bad)
	s := newSources(p, &bad)
	if (c.Messages == "") == (c.Body == "") {
		bad.addf("", "a request needs one of messages and body")
	}
	a.system = s.template("system", c.System)
	if a.key, a.from = "messages", s.expr("messages", c.Messages); a.from == nil {
		a.key, a.from = "body", s.expr("body", c.Body)
	}
	if a.url = s.expr("url", c.URL); a.url != nil && c.Body == "" {
		bad.addf("url", "needs body beside it")
	}
	a.hash = s.revision()
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *request) Mentions() []Mention {
	ms := []Mention{mention(a.key, a.from)}
	if a.system != nil {
		ms = append(ms, mention("system", a.system))
	}
	return ms
}

// Act implements matrix.Agent.
func (a *request) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	as := a.modelCaller
	base, tools, err := a.read(ctx, t, &as)
	if err != nil {
		return matrix.Turn{}, failed(err)
	}
	return as.act(ctx, t, base, tools, func(base *llm.Request, problem error, reply string) error {
		again := "That reply cannot be used: " + problem.Error() + ". Reply again, in the form that was asked for."
		base.Messages = add(add(slices.Clone(base.Messages), "assistant", reply), "user", again)
		return nil
	})
}

// Asked implements Asker.
func (a *request) Asked(ctx context.Context, t *matrix.Task) (llm.Request, error) {
	as := a.modelCaller
	base, _, err := a.read(ctx, t, &as)
	return base, err
}

// read makes the request of what the task brings. as takes what it says of how
// the reply is drawn and read.
func (a *request) read(ctx context.Context, t *matrix.Task, as *modelCaller) (base llm.Request, tools *toolSet, err error) {
	if a.url != nil {
		u, err := a.url.Eval(t)
		if err != nil {
			return base, nil, fmt.Errorf("url: %w", err)
		}
		if u, ok := u.(string); ok {
			if err := CheckURL(u); err != nil {
				return base, nil, err
			}
		}
	}
	v, err := a.from.Eval(t)
	if err != nil {
		return base, nil, fmt.Errorf("%s: %w", a.key, err)
	}
	messages, key := v, a.key
	var body map[string]any
	if key == "body" {
		var ok bool
		if body, ok = v.(map[string]any); !ok {
			return base, nil, fmt.Errorf("body: want a request with messages, got %s", kindOf(v))
		}
		messages, key = body["messages"], "body.messages"
	}
	if base.Messages, err = a.images.conversation(ctx, messages, body != nil); err != nil {
		return base, nil, fmt.Errorf("%s: %w", key, err)
	}
	if tools, base.ToolChoice, err = parseBody(body, as); err != nil {
		return base, nil, fmt.Errorf("body.%w", err)
	}
	if tools != nil {
		base.Tools = tools.tools
	}
	switch last := base.Messages[len(base.Messages)-1]; {
	case last.Role != "assistant":
	case a.rewrite == nil:
		return base, nil, fmt.Errorf("%s: the conversation ends with the assistant's reply: rewrite=true leaves it out and asks for it anew, rewrite=false sends it as it is", key)
	case *a.rewrite:
		for n := len(base.Messages); n > 0 && base.Messages[n-1].Role == "assistant"; n-- {
			base.Messages = base.Messages[:n-1]
		}
		if len(base.Messages) == 0 {
			return base, nil, fmt.Errorf("%s: only the assistant speaks: there is nothing to reply to", key)
		}
	}
	if silent(base.Messages) {
		return base, nil, fmt.Errorf("%s: there is nothing to reply to: the user's message is empty", key)
	}
	if a.system != nil {
		text, err := a.system.Render(t, nil)
		if err != nil {
			return base, nil, fmt.Errorf("system: %w", err)
		}
		base.Messages = slices.Insert(base.Messages, 0, llm.Message{Role: "system", Content: text})
	}
	return base, tools, nil
}

// CheckURL reports whether what a line of a batch file asks for can be sent. What
// does not begin with a slash is not one.
func CheckURL(url string) error {
	if !strings.HasPrefix(url, "/") || strings.HasSuffix(url, "/chat/completions") {
		return nil
	}
	return fmt.Errorf("the batch file asks for %s, and only /v1/chat/completions can be sent", url)
}
