package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"matrix"
	"matrix/llm"
)

// modelCaller is what the agents that ask a model for text have in common.
type modelCaller struct {
	role      string
	kind      string // of agent, as its key in the config
	name      string // of the model in the config
	model     llm.Model
	sampling  llm.Sampling
	reader    reader
	reask     int
	onLength  string
	onRefused string
	unseeded  bool
	anyCalls  bool   // calls of tools are not judged
	hash      string // of the templates
}

// served is what the config of the caller's model says: its name at the service,
// and how it draws.
func (a *modelCaller) served() (name string, s llm.Sampling) {
	service, _ := llm.ServiceOf(a.model)
	return service.Named, service.Sampling
}

// Prompt implements Prompter.
func (a *modelCaller) Prompt() string { return a.hash }

// check makes the reader of replies, and says what is wrong with the settings.
func (a *modelCaller) check(p Parse, bad *fieldErrors) {
	var err error
	if a.reader, err = newReader(p); err != nil {
		*bad = append(*bad, err)
	}
	if a.model == nil {
		bad.addf("model", "there is no model %q", a.name)
	}
	if a.reask < 0 {
		bad.addf("reask", "got %d, want 0 or more", a.reask)
	}
	oneOf := func(field, got string, options ...string) {
		if got != "" && !slices.Contains(options, got) {
			bad.addf(field, "got %q, want %s", got, strings.Join(options, ", "))
		}
	}
	oneOf("on_length", a.onLength, "fail", "accept", "more")
	oneOf("on_refused", a.onRefused, "fail", "turn")
	if a.onLength == "more" && a.reask == 0 {
		bad.addf("on_length", "more needs reask to be 1 or more: it says how often")
	}
	if a.reader.format != nil && a.sampling.ResponseFormat != nil {
		bad.addf("response_format", "parse says already what the reply must look like: leave out the one or the other")
	}
	if err := a.sampling.Check(); err != nil {
		*bad = append(*bad, err)
	}
}

// act asks for what base says until there are replies that can be used, or the
// re-asks are spent. again changes base after a reply that cannot be used; where
// it is nil the same is asked again, with another seed.
func (a *modelCaller) act(ctx context.Context, t *matrix.Task, base llm.Request, tools *toolSet, again func(base *llm.Request, problem error, reply string) error) (matrix.Turn, error) {
	ctx, free := llm.WithReplies(ctx)
	defer free()
	var calls []matrix.Call
	base.Sampling, base.Format = a.sampling, a.reader.format
	var choices []llm.Choice
	want := 0   // samples; 0 before the first reply
	reasks := 0 // spent on replies that could not be used
	for nth := 0; ; nth++ {
		r := a.request(t, base, nth)
		if len(choices) > 0 {
			a.askForMore(&r.Sampling, want-len(choices), nth)
		} else if again == nil {
			a.askAnew(&r.Sampling, nth)
		}
		hash := a.sign(t, r, nth)
		reply, err := a.model.Do(ctx, r)
		if err != nil {
			return a.failed(calls, r, hash, err)
		}
		calls = append(calls, a.account(r, hash, reply))
		if len(reply.Choices) == 0 && len(choices) > 0 {
			return matrix.Turn{}, fmt.Errorf("model %q brought no more of the %d samples", a.name, want)
		}
		if want == 0 {
			want = max(1, reply.Asked.N, r.Sampling.N)
		}
		choices = append(choices, reply.Choices...)
		choices = choices[:min(len(choices), max(want, 1))]
		samples, finish, problem := a.judge(t, choices, tools)
		call := &calls[len(calls)-1]
		call.Finish = finish
		first := &samples[0]
		turn := matrix.Turn{Text: first.Text, Data: first.Data, Reasoning: first.Reasoning,
			ToolCalls: first.ToolCalls, Logprobs: first.Logprobs, Opaque: first.Opaque, Calls: calls}
		if len(samples) > 1 {
			turn.Samples = samples
		}
		if problem == nil && len(choices) >= want {
			return turn, nil
		}
		if problem == nil {
			continue // a service may draw fewer than n replies a call, and draws one at least
		}
		call.Error = problem.Error()
		var cut *cutError
		isCut := errors.As(problem, &cut) && a.onLength != "accept"
		if reasks++; reasks > a.reask || isCut && a.onLength != "more" || isCut && !a.raiseMaxTokens(&base.Sampling, reply) {
			turn.Error = call.Error
			if isCut {
				turn.Error += a.longer(cut.empty)
			}
			return turn, nil
		}
		if again != nil && !isCut {
			if err := again(&base, problem, replyText(first)); err != nil {
				return matrix.Turn{Calls: calls}, &matrix.FailError{Err: err}
			}
		}
		choices = nil
	}
}

// request is one call for base.
func (a *modelCaller) request(t *matrix.Task, base llm.Request, reask int) *llm.Request {
	nth := 0
	for i := range t.Turns {
		if t.Turns[i].Role == a.role && slices.ContainsFunc(t.Turns[i].Calls, func(c matrix.Call) bool { return c.Kind == matrix.KindModel }) {
			nth++
		}
	}
	r := &base
	r.Session = t.ID
	r.Ask = llm.Ask{ID: t.Row, Role: a.role, Trial: t.Trial, Nth: nth, Reask: reask, Item: t.Item.Any(), Priority: int(t.Priority)}
	if r.Sampling.Seed == nil && !a.unseeded && r.Input == nil {
		seed := derive(t.Seed, a.role, nth, reask)
		r.Sampling.Seed = &seed
	}
	return r
}

// sign gives r its key, and returns the hash of what r asks of the service. A key
// names a call: the same in every try, and where a run goes on. Calls that differ
// in anything that can alter the reply have keys that differ.
func (a *modelCaller) sign(t *matrix.Task, r *llm.Request, reask int) (hash string) {
	name, full := a.full(r)
	hash = full.Hash(name)
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%d\x00%s\x00%d\x00%d\x00%q\x00", t.ID, t.Seed, a.role, len(t.Turns), reask, a.name)
	if s := full.Sampling.Seed; s != nil {
		fmt.Fprintf(h, "%d", *s)
	}
	fmt.Fprintf(h, "\x00%v\x00%s", full.Sampling.Extra["seed"], hash)
	r.Key = hex.EncodeToString(h.Sum(nil)[:16])
	return hash
}

// full is r as the service is asked: with the sampling of the model's config
// beneath its own. name is the model's there, empty where the config leaves it to
// the service.
func (a *modelCaller) full(r *llm.Request) (name string, full llm.Request) {
	name, beneath := a.served()
	full = *r
	full.Sampling = llm.Merge(beneath, r.Sampling)
	return name, full
}

// askForMore makes s draw n further replies: others, where the seed is fixed.
func (a *modelCaller) askForMore(s *llm.Sampling, n, reask int) {
	s.N = n
	if _, ok := s.Extra["n"]; ok {
		s.Extra = maps.Clone(s.Extra)
		s.Extra["n"] = n
	}
	a.askAnew(s, reask)
}

// askAnew makes s draw another reply to the same, where the seed is fixed.
func (a *modelCaller) askAnew(s *llm.Sampling, reask int) {
	if a.sampling.Seed != nil {
		seed := *a.sampling.Seed + int64(reask)
		s.Seed = &seed
	}
}

// raiseMaxTokens gives the next reply twice the tokens that the last one was given, or
// where nothing says how many, had. It is false where nobody knows.
func (a *modelCaller) raiseMaxTokens(s *llm.Sampling, reply *llm.Reply) bool {
	most := cmp.Or(reply.Asked.MaxTokens, max(s.MaxTokens, reply.Usage.CompletionTokens/max(1, len(reply.Choices))))
	if most == 0 {
		return false
	}
	_, served := a.served()
	extra := llm.Merge(served, *s).Extra // wins over all
	for _, key := range []string{"max_tokens", "max_completion_tokens"} {
		if _, ok := extra[key]; ok {
			if s.Extra = maps.Clone(s.Extra); s.Extra == nil {
				s.Extra = map[string]any{}
			}
			s.Extra[key] = 2 * most
		}
	}
	s.MaxTokens = 2 * most
	return true
}

// failed is the end of a step whose call, after others, brought no reply. Where
// that fails the task, or makes a turn with an error, the turn says what was sent,
// where to and what it cost.
func (a *modelCaller) failed(calls []matrix.Call, r *llm.Request, hash string, err error) (matrix.Turn, error) {
	var e *llm.Error
	if errors.Is(err, llm.ErrSpent) { // the run is about to end
		return matrix.Turn{}, &matrix.RetryError{Err: err, Free: true}
	}
	if !errors.As(err, &e) {
		return matrix.Turn{}, err
	}
	switch e.Kind {
	case llm.Refused, llm.Context:
		no := llm.Reply{Endpoint: e.Endpoint, Params: e.Params, Retries: e.Retries, Wait: e.Wait, Retry: e.Retry}
		if e.Usage != nil {
			no.Usage = *e.Usage
		}
		if n := len(calls); n > 0 { // a service that answered before
			no.Model, no.Revision = calls[n-1].Model, calls[n-1].Revision
		}
		call := a.account(r, hash, &no)
		call.Error = err.Error()
		turn := matrix.Turn{Calls: append(calls, call)}
		if a.onRefused == "turn" {
			turn.Error = err.Error()
			return turn, nil
		}
		return turn, &matrix.FailError{Err: err}
	case llm.Fatal:
		return matrix.Turn{}, &matrix.StopError{Err: err}
	}
	return matrix.Turn{}, err
}

// judge reads the replies, those that can be used first. The problem is that of
// the first where none can; finish is that of the first that is returned.
func (a *modelCaller) judge(t *matrix.Task, choices []llm.Choice, tools *toolSet) (samples []matrix.Sample, finish string, problem error) {
	if len(choices) == 0 {
		return []matrix.Sample{{}}, "", errors.New("the service sent no reply")
	}
	var good, bad []matrix.Sample
	first := 0 // of choices: the one that is returned first
	for i := range choices {
		s, err := a.read(t, &choices[i], tools)
		if err != nil {
			problem = cmp.Or(problem, err)
			bad = append(bad, s)
			continue
		}
		if len(good) == 0 {
			first = i
		}
		good = append(good, s)
	}
	if len(good) > 0 {
		problem = nil
	}
	return append(good, bad...), choices[first].Finish, problem
}

// read makes a sample of one reply, and says why it cannot be used.
func (a *modelCaller) read(t *matrix.Task, c *llm.Choice, tools *toolSet) (s matrix.Sample, err error) {
	s = matrix.Sample{Text: c.Text, Reasoning: c.Reasoning, Finish: c.Finish}
	if len(c.Logprobs) > 0 {
		s.Logprobs = matrix.ForeignValue(c.Logprobs)
	}
	if len(c.ToolCalls) > 0 {
		if s.ToolCalls, err = tools.read(t, c.ToolCalls); a.anyCalls {
			err = nil
		}
		if len(c.Opaque) > 0 { // without calls nothing has to go back
			s.Opaque = matrix.ForeignValue(c.Opaque)
		}
	}
	if whole := a.whole(c); whole != nil {
		return s, whole
	}
	if err != nil || len(c.ToolCalls) > 0 {
		return s, err
	}
	s.Data, err = a.reader.parse(c.Text)
	return s, err
}

// cutError says that a reply ended at its length limit.
type cutError struct {
	msg   string
	empty bool // nothing of it came
}

func (e *cutError) Error() string { return e.msg }

// longer says what to do about replies that are cut, for whoever reads the turn's
// error.
func (a *modelCaller) longer(empty bool) string {
	switch {
	case a.onLength == "more":
		return "; raise it, or reask"
	case empty:
		return "; raise it"
	}
	return fmt.Sprintf("; raise it, or take such replies as they are: roles.%s.%s.on_length=accept", a.role, a.kind)
}

// whole says why a reply is not all that it should be.
func (a *modelCaller) whole(c *llm.Choice) error {
	empty := len(c.ToolCalls) == 0 && strings.TrimSpace(c.Text) == ""
	switch end := llm.EndOf(c.Finish); {
	case end == llm.Filtered:
		return fmt.Errorf("the service's content filter stopped the reply (finish_reason %q)", c.Finish)
	case empty && end == llm.Cut:
		return &cutError{"the reply is empty: max_tokens were used up before it began", true}
	case empty:
		return errors.New("the reply is empty")
	case end == llm.Cut && a.onLength != "accept":
		return &cutError{"the reply was cut off at max_tokens", false}
	case end != llm.Whole && end != llm.Cut:
		return fmt.Errorf("the reply ended with finish_reason %q, which does not say that it is whole", c.Finish)
	}
	return nil
}

// account makes the call of a request with its hash, and of its reply.
func (a *modelCaller) account(asked *llm.Request, hash string, r *llm.Reply) matrix.Call {
	name, full := a.full(asked)
	if name == "" { // known only now
		hash = full.Hash(cmp.Or(r.Model, a.name))
	}
	c := matrix.Call{
		Kind: matrix.KindModel, Name: a.name, Model: r.Model, Revision: r.Revision, Endpoint: r.Endpoint, Prompt: a.hash,
		Request: hash, Seed: full.Sampling.Seed, Retries: r.Retries,
		Tokens: r.Usage.Tokens, Estimated: r.Usage.Estimated, USD: r.Usage.USD,
		WaitMS: milliseconds(r.Wait), RetryMS: milliseconds(r.Retry), FirstMS: milliseconds(r.First), TookMS: milliseconds(r.Took),
	}
	if seed, ok := full.Sampling.Extra["seed"].(int); ok {
		fixed := int64(seed)
		c.Seed = &fixed
	}
	if was := r.Reused; was != nil {
		c.Reused, c.Seed = &matrix.Reused{Run: was.Run, Task: was.Task}, was.Seed
	}
	if len(r.Params) > 0 {
		c.Params = matrix.ForeignValue(r.Params)
	}
	return c
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
