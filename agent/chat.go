package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

// Chat is an agent that asks a model. It is told the conversation from the
// speaker's side: its own turns are the assistant's, all others the user's,
// and neighbouring messages of one side become one, a blank line between them.
// Turns that have an error or no text are left out.
//
// A reply that is empty, did not come to its own end (it was cut at max_tokens,
// filtered, or its finish_reason is not known), or does not parse is shown to
// the model once more, with what is wrong; what still cannot be used is a turn
// with an error, its text kept. Of several samples those that can be used come
// first, and one is enough; where the service sends fewer than n, the missing
// ones are asked for with another seed, and a turn that still has too few has an
// error.
//
// Each call carries a seed that derives from the task's seed, the role, and
// which call of the role it is, unless a seed is given or seeded is false.
type Chat struct {
	Model     string       `yaml:"model" required:"true" doc:"Name of the model that speaks."`
	System    string       `yaml:"system" doc:"Template of the system message."`
	Prompt    string       `yaml:"prompt" doc:"Template of the user message that ends the conversation. Required where sees is absent."`
	Sees      []string     `yaml:"sees" doc:"Roles whose turns are shown: the role's own as the assistant's, all others as the user's."`
	Last      int          `yaml:"last" doc:"Show the last so many of these turns only; 0 for all." default:"0"`
	Parse     Parse        `yaml:"parse" doc:"What is read out of the reply into the turn's data."`
	Reask     int          `yaml:"reask" doc:"How often a reply that cannot be used, or samples that are missing, are asked for again." default:"1"`
	ReaskWith string       `yaml:"reask_prompt" doc:"Template of the message that asks again; it also sees error, what is wrong with the reply, and reply, its text."`
	AcceptCut bool         `yaml:"accept_cut" doc:"Use a reply that was cut at max_tokens as it is." default:"false"`
	Unseeded  bool         `yaml:"unseeded" doc:"Send no seed of the task's, so that the service draws as it likes, or by the model's own seed." default:"false"`
	Sampling  llm.Sampling `yaml:",inline"`
}

const defaultReask = "That reply cannot be used: {{ error }}. Reply again, in the form that was asked for."

type chat struct {
	role   string
	config Chat
	model  llm.Model
	system *lang.Template // nil: none
	prompt *lang.Template // nil: none
	reask  *lang.Template
	reader reader
	hash   string // of the templates
}

var (
	_ matrix.Agent = (*chat)(nil)
	_ Mentioner    = (*chat)(nil)
)

// NewChat makes the agent of a role that speaks through model m.
func NewChat(role string, c Chat, m llm.Model, p lang.Params) (matrix.Agent, error) {
	var bad fieldErrors
	a := &chat{role: role, config: c, model: m}
	if m == nil {
		bad.addf("model", "there is no model %q", c.Model)
	}
	hash := sha256.New()
	compile := func(field, src string, extra ...string) *lang.Template {
		if src == "" {
			return nil
		}
		t, err := lang.CompileTemplate(src, p, extra...)
		bad.add(field, err)
		fmt.Fprintf(hash, "%s\x00%s\x00", field, src)
		return t
	}
	a.system = compile("system", c.System)
	a.prompt = compile("prompt", c.Prompt)
	if c.ReaskWith == "" {
		c.ReaskWith = defaultReask
	}
	a.reask = compile("reask_prompt", c.ReaskWith, "error", "reply")
	a.hash = hex.EncodeToString(hash.Sum(nil)[:6])
	if c.Prompt == "" && len(c.Sees) == 0 {
		bad.addf("", "a chat needs sees, prompt, or both: there is nothing to reply to")
	}
	if c.Last < 0 {
		bad.addf("last", "got %d, want 0 or more", c.Last)
	}
	if c.Last > 0 && len(c.Sees) == 0 {
		bad.addf("last", "needs sees beside it")
	}
	if c.Reask < 0 {
		bad.addf("reask", "got %d, want 0 or more", c.Reask)
	}
	if err := c.Sampling.Check(); err != nil {
		bad = append(bad, err)
	}
	r, err := newReader(c.Parse)
	if err != nil {
		bad = append(bad, err)
	}
	a.reader = r
	if err := bad.err(); err != nil {
		return nil, err
	}
	return a, nil
}

// Mentions implements Mentioner.
func (a *chat) Mentions() []Mention {
	var ms []Mention
	for key, t := range map[string]*lang.Template{"system": a.system, "prompt": a.prompt} {
		if t != nil {
			ms = append(ms, Mention{Key: key, Fields: t.Fields(), Roles: t.Roles()})
		}
	}
	slices.SortFunc(ms, func(a, b Mention) int { return strings.Compare(a.Key, b.Key) })
	if len(a.config.Sees) > 0 {
		ms = append(ms, Mention{Key: "sees", Roles: a.config.Sees})
	}
	return ms
}

// Act implements matrix.Agent.
func (a *chat) Act(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
	messages, err := a.messages(t)
	if err != nil {
		return matrix.Turn{}, &matrix.FailError{Err: err}
	}
	ctx = llm.WithPatience(ctx, matrix.Stopping(ctx))
	call := &matrix.Call{Name: a.config.Model, Prompt: a.hash}
	var choices []llm.Choice
	want := 0   // samples; 0 before the first reply
	reasks := 0 // spent on replies that could not be used
	for nth := 0; ; nth++ {
		r := a.request(t, messages, nth)
		if len(choices) > 0 {
			a.askForMore(&r.Sampling, want-len(choices), nth)
		}
		reply, err := a.model.Chat(ctx, r)
		if err != nil {
			return a.failed(call, err)
		}
		account(call, reply)
		if want == 0 {
			want = sampled(r, reply)
		}
		choices = append(choices, reply.Choices...)
		choices = choices[:min(len(choices), max(want, 1))]
		samples, finish, problem := a.judge(choices)
		call.Finish = finish
		turn := matrix.Turn{Role: a.role, Text: samples[0].Text, Data: samples[0].Data, Call: call}
		if len(samples) > 1 {
			turn.Samples = samples
		}
		if problem == nil && len(choices) >= want {
			return turn, nil
		}
		if problem == nil {
			continue // a service may draw fewer than n replies a call, and draws one at least
		}
		if reasks++; reasks > a.config.Reask {
			turn.Error = problem.Error()
			return turn, nil
		}
		again, err := a.reask.Render(t, map[string]any{"error": problem.Error(), "reply": samples[0].Text})
		if err != nil {
			return matrix.Turn{Role: a.role, Call: call}, &matrix.FailError{Err: fmt.Errorf("reask_prompt: %w", err)}
		}
		messages = add(slices.Clone(messages), "assistant", samples[0].Text)
		messages = add(messages, "user", again)
		choices = nil
	}
}

// sampled is how many replies a call asked for: the model's config may say it.
func sampled(r *llm.Request, reply *llm.Reply) int {
	var sent struct{ N int }
	if json.Unmarshal(reply.Params, &sent) == nil && sent.N > 0 {
		return sent.N
	}
	return max(1, r.Sampling.N)
}

// askForMore makes s draw n further replies: others, where the seed is fixed.
func (a *chat) askForMore(s *llm.Sampling, n, reask int) {
	s.N = n
	if _, ok := s.Extra["n"]; ok {
		s.Extra = maps.Clone(s.Extra)
		s.Extra["n"] = n
	}
	if a.config.Sampling.Seed != nil {
		seed := *a.config.Sampling.Seed + int64(reask)
		s.Seed = &seed
	}
}

// failed is the end of a step whose call brought no reply. Where that fails the
// task, the turn says what was sent, where to and what it cost.
func (a *chat) failed(call *matrix.Call, err error) (matrix.Turn, error) {
	var e *llm.Error
	if !errors.As(err, &e) {
		return matrix.Turn{}, err
	}
	switch e.Kind {
	case llm.Refused, llm.Context:
		account(call, &llm.Reply{Model: call.Model, Endpoint: e.Endpoint, Params: e.Params, Retries: e.Retries, Wait: e.Wait, Retry: e.Retry})
		call.Finish = "" // of the reply before
		return matrix.Turn{Role: a.role, Call: call}, &matrix.FailError{Err: err}
	case llm.Fatal:
		return matrix.Turn{}, &matrix.StopError{Err: err}
	}
	return matrix.Turn{}, err
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
		if turn.Error == "" && strings.TrimSpace(turn.Text) != "" && slices.Contains(a.config.Sees, turn.Role) {
			seen = append(seen, turn)
		}
	}
	if n := a.config.Last; n > 0 && len(seen) > n {
		seen = seen[len(seen)-n:]
	}
	for _, turn := range seen {
		side := "user"
		if turn.Role == a.role {
			side = "assistant"
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
		return nil, fmt.Errorf("there is nothing to reply to: no turn by %s yet", strings.Join(a.config.Sees, ", "))
	}
	return ms, nil
}

// add appends a message, merged with the one before when it is of the same
// side. An empty one is left out.
func add(ms []llm.Message, side, text string) []llm.Message {
	if strings.TrimSpace(text) == "" {
		return ms
	}
	if n := len(ms); n > 0 && ms[n-1].Role == side {
		ms[n-1].Content += "\n\n" + text
		return ms
	}
	return append(ms, llm.Message{Role: side, Content: text})
}

func (a *chat) request(t *matrix.Task, ms []llm.Message, reask int) *llm.Request {
	nth := 0
	for i := range t.Turns {
		if t.Turns[i].Role == a.role && t.Turns[i].Call != nil {
			nth++
		}
	}
	r := &llm.Request{
		Messages: ms,
		Sampling: a.config.Sampling,
		Ask:      llm.Ask{ID: t.Row, Role: a.role, Trial: t.Trial, Nth: nth, Reask: reask, Item: t.Item.Any()},
	}
	if r.Sampling.Seed == nil && !a.config.Unseeded {
		seed := derive(t.Seed, a.role, nth, reask)
		r.Sampling.Seed = &seed
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%d\x00%s\x00%d\x00%d\x00", t.ID, t.Seed, a.role, len(t.Turns), reask)
	for _, m := range ms {
		fmt.Fprintf(h, "%s\x00%d\x00%s", m.Role, len(m.Content), m.Content)
	}
	r.Key = hex.EncodeToString(h.Sum(nil)[:16])
	return r
}

// judge reads the replies, those that can be used first. The problem is that of
// the first where none can; finish is that of the first that is returned.
func (a *chat) judge(choices []llm.Choice) (samples []matrix.Sample, finish string, problem error) {
	var good, bad []matrix.Sample
	for _, c := range choices {
		data, err := a.use(c)
		if err == nil {
			if len(good) == 0 {
				finish = c.Finish
			}
			good = append(good, matrix.Sample{Text: c.Text, Data: data})
			continue
		}
		if problem == nil {
			problem = err
		}
		if len(good) == 0 && len(bad) == 0 {
			finish = c.Finish
		}
		bad = append(bad, matrix.Sample{Text: c.Text})
	}
	if len(good) > 0 {
		problem = nil
	}
	if len(good)+len(bad) == 0 {
		return []matrix.Sample{{}}, "", errors.New("the service sent no reply")
	}
	return append(good, bad...), finish, problem
}

// ends is what a finish_reason says of a reply, in the words of several services.
// What is not here is a reply that cannot be trusted to be whole.
var ends = map[string]string{
	"": "whole", "stop": "whole", "eos": "whole", "eos_token": "whole", "end_turn": "whole", "end_of_turn": "whole",
	"stop_sequence": "whole", "stop_token": "whole", "complete": "whole", "completed": "whole",
	"tool_calls": "whole", "tool_use": "whole", "function_call": "whole",
	"length": "cut", "max_tokens": "cut", "max_output_tokens": "cut", "model_length": "cut",
	"content_filter": "filtered", "safety": "filtered", "refusal": "filtered", "recitation": "filtered",
	"blocklist": "filtered", "prohibited_content": "filtered", "sensitive": "filtered",
}

// use reads the data of one reply, or says why it cannot be used.
func (a *chat) use(c llm.Choice) (matrix.Value, error) {
	empty := strings.TrimSpace(c.Text) == ""
	switch end := ends[strings.ToLower(c.Finish)]; {
	case end == "filtered":
		return matrix.Value{}, fmt.Errorf("the service's content filter stopped the reply (finish_reason %q)", c.Finish)
	case empty && end == "cut":
		return matrix.Value{}, errors.New("the reply is empty: max_tokens were used up before it began")
	case empty:
		return matrix.Value{}, errors.New("the reply is empty")
	case end == "cut" && !a.config.AcceptCut:
		return matrix.Value{}, errors.New("the reply was cut off at max_tokens")
	case end == "":
		return matrix.Value{}, fmt.Errorf("the reply ended with finish_reason %q, which does not say that it is whole", c.Finish)
	}
	return a.reader.parse(c.Text)
}

// account adds a reply to the books of a turn.
func account(c *matrix.Call, r *llm.Reply) {
	c.Model, c.Endpoint = r.Model, r.Endpoint
	if len(r.Params) > 0 {
		c.Params = matrix.RawValue(r.Params)
	}
	c.Calls++
	c.Retries += r.Retries
	c.PromptTokens += r.Usage.PromptTokens
	c.CompletionTokens += r.Usage.CompletionTokens
	c.WaitMS += milliseconds(r.Wait)
	c.RetryMS += milliseconds(r.Retry)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
