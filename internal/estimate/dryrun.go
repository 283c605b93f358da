package estimate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/internal/human"
	"matrix/llm"
	"matrix/registry"
	"matrix/spec"
)

// DryRun walks the first tasks through a flow with stand-ins for the models,
// and measures what they are asked.
type DryRun struct {
	// Past has the replies that need not be paid again; nil for none. Set it before the
	// first call.
	Past llm.Past

	asks   []ask
	tasks  []*matrix.Task // that were walked, the first of them
	walked int64

	children float64         // of the task that is walked
	bytes    float64         // that they take in the output
	walks    int             // of them, that were walked
	unread   map[string]bool // roles whose lists no dry run knows, since they are of replies
}

// ask is one call that would have been made.
type ask struct {
	model  string
	bytes  int // of the prompt
	images int
	n      int // replies; 0 of embeddings
	most   int // tokens of a reply; 0 unknown

	used   *matrix.Call // what a model that costs nothing took
	reused bool         // another run has paid for it
}

// What is assumed of the tokens of replies, and of the walk.
const (
	assumedReply = 300 // tokens, where max_tokens does not say
	assumedMost  = 1000
	assumedSpeed = 50 // tokens a second
	assumedStart = 0.5
	dryRows      = 20
	reusedTasks  = 10_000 // that are walked where replies may be there
	drySteps     = 60     // of a task
	dryChildren  = 5      // that are walked of each expansion, for all of it
	dryBrood     = 200    // that are walked of a row's task
)

// stub answers in the place of a model.
type stub struct {
	llm.Model
	name     string
	sampling llm.Sampling // of the model
	r        *DryRun
}

// Stub makes what agents ask in the place of a model: set it as the registry's
// Stub before the plan is built.
func (r *DryRun) Stub(name string, m llm.Model) llm.Model {
	service, _ := llm.ServiceOf(m)
	s := &stub{Model: m, name: name, sampling: service.Sampling, r: r}
	return r.Front(name, s)
}

// Front makes what agents ask in the place of any model, also one that costs nothing:
// set it as the registry's Front before the plan is built, where there is a Past.
func (r *DryRun) Front(name string, m llm.Model) llm.Model {
	return llm.Reuse(name, m, &noted{r, name})
}

// Unwrap is the model in whose place s answers.
func (s *stub) Unwrap() llm.Model { return s.Model }

// noted is the Past of a DryRun, which notes what it has given to calls of a model.
type noted struct {
	r     *DryRun
	model string
}

// Reply implements llm.Past.
func (p *noted) Reply(ctx context.Context, call, hash string, seed *int64) (*llm.Reply, error) {
	if p.r.Past == nil {
		return nil, nil
	}
	rep, err := p.r.Past.Reply(ctx, call, hash, seed)
	if rep != nil {
		p.r.asks = append(p.r.asks, ask{model: p.model, reused: true})
	}
	return rep, err
}

// Do notes the request, and answers with a text of the length that is assumed.
func (s *stub) Do(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	merged := llm.Merge(s.sampling, r.Sampling)
	a := ask{model: s.name, bytes: len(r.Prompt), n: max(1, merged.N), most: merged.MaxTokens}
	for i := range r.Messages {
		m := &r.Messages[i]
		a.bytes += len(m.Content) + 16
		a.images += len(m.Images)
	}
	for _, t := range r.Input {
		a.bytes, a.n = a.bytes+len(t), 0
	}
	for i := range r.Tools {
		a.bytes += len(r.Tools[i].Description) + len(r.Tools[i].Parameters) + len(r.Tools[i].Name)
	}
	s.r.asks = append(s.r.asks, a)
	if r.Input != nil {
		return nil, errors.New("a dry run makes no embeddings")
	}
	rep := &llm.Reply{Model: s.name, Params: json.RawMessage("{}")}
	for range a.n {
		rep.Choices = append(rep.Choices, llm.Choice{Text: strings.Repeat("text ", int(a.reply().Mid)*4/5+1), Finish: "stop"})
	}
	return rep, nil
}

// reply is how many tokens a reply may have.
func (a *ask) reply() Range {
	if a.most == 0 {
		return Range{assumedReply / 4, assumedReply, assumedMost}
	}
	most := float64(a.most)
	return Range{most / 4, min(most/2, max(assumedReply, most/4)), most}
}

// tokens are those of the prompt and of all replies.
func (a *ask) tokens() (prompt, reply Range) {
	if a.reused {
		return prompt, reply
	}
	if c := a.used; c != nil {
		p, r := float64(c.PromptTokens), float64(c.CompletionTokens)
		return Range{p, p, p}, Range{r, r, r}
	}
	b, images := float64(a.bytes), float64(a.images)
	prompt = Range{b / 5, b / 4, b / 3}.plus(Range{85 * images, 800 * images, 16_384 * images})
	return prompt, a.reply().times(float64(a.n))
}

func (a *ask) seconds() Range {
	if a.reused {
		return Range{}
	}
	if c := a.used; c != nil {
		return Range{c.TookMS / 1e3, c.TookMS / 1e3, c.TookMS / 1e3}
	}
	return a.reply().times(float64(min(a.n, 1)) / assumedSpeed).plus(Range{assumedStart, assumedStart, assumedStart})
}

// Estimate walks the first rows of the plan of c, whose agents ask stand-ins.
func (r *DryRun) Estimate(ctx context.Context, c *spec.Run, p *registry.Plan) (*Estimate, error) {
	f, err := begin(ctx, c, p)
	if err != nil {
		return nil, err
	}
	var uses []use
	if f.Rows > 0 {
		if uses, err = r.perTask(ctx, c, p); err != nil {
			return nil, err
		}
	}
	if r.Past != nil {
		f.Reused = &Reused{Tasks: r.walked}
	}
	err = f.finish(ctx, c, p, r.tasks, uses)
	var calls Range
	for _, m := range f.Models {
		calls = calls.plus(m.Calls)
	}
	if calls.Low < calls.High {
		f.Notes = append(f.Notes, fmt.Sprintf("The flow may loop: the first call of a role is counted whole, and each later one, as far as the flow, limits.rounds or %d steps let a task go, half. There may be %s to %s calls.",
			drySteps, human.Commas(int64(calls.Low+0.5)), human.Commas(int64(calls.High+0.5))))
	}
	for _, role := range slices.Sorted(maps.Keys(r.unread)) {
		f.Notes = append(f.Notes, fmt.Sprintf("What becomes of a task behind %s depends on replies: its children there, and their calls, are not counted. A sample tells.", role))
	}
	return f, err
}

// perTask gives what a task takes, by role and model.
func (r *DryRun) perTask(ctx context.Context, c *spec.Run, p *registry.Plan) ([]use, error) {
	type key struct{ role, model string }
	var order []key
	sums := map[key]*use{}
	var disk, children Range
	rows, trials := int64(dryRows), 1
	if r.Past != nil {
		rows, trials = reusedTasks, max(1, int(c.Trials))
	}
	add := func(t *matrix.Task, row matrix.Row) {
		if r.walked++; len(r.tasks) < dryRows {
			r.tasks = append(r.tasks, t)
		}
		r.children, r.bytes, r.walks = 0, 0, 0
		acts := r.walk(ctx, c, p, t, row)
		children = children.plus(Range{r.children, r.children, r.children})
		type actor struct {
			role string
			task string
		}
		once := map[actor]bool{} // roles of a task, whose first act is sure
		known := true            // all replies so far are those that the run will have
		for _, a := range acts {
			k := key{a.role, a.model}
			if sums[k] == nil {
				sums[k] = &use{role: a.role, model: a.model}
				order = append(order, k)
			}
			s := sums[k]
			who := actor{a.role, a.task}
			prompt, reply := a.tokens()
			price := &p.Bills[a.model].Price
			usd := Range{dollars(price, prompt.Low, reply.Low, a.images), dollars(price, prompt.Mid, reply.Mid, a.images), dollars(price, prompt.High, reply.High, a.images)}
			took := a.seconds()
			// A later act of a role in a loop may come or not.
			f := Range{0, 0.5, 1}
			if known = known && a.reused; known || !once[who] {
				f = Range{1, 1, 1}
			}
			f = f.times(a.times)
			once[who] = true
			if a.reused {
				s.reused += a.times
			}
			s.calls = s.calls.plus(f)
			s.prompt, s.reply = s.prompt.plus(by(prompt, f)), s.reply.plus(by(reply, f))
			s.usd, s.seconds = s.usd.plus(by(usd, f)), s.seconds.plus(by(took, f))
		}
		b := float64(len(dataset.AppendTask(nil, t))) + r.bytes
		disk = disk.plus(Range{b / 4, b, b * 2})
	}
	src := dataset.First(p.Source, rows)
	err := src.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		for trial := 0; trial < trials && row.Err == nil && (r.walked < reusedTasks); trial++ {
			add(&matrix.Task{ID: fmt.Sprintf("row %d, trial %d", row.Number, trial), Row: rowName(row), Trial: trial, Item: row.Item}, row)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	var uses []use
	each := 1 / float64(max(1, r.walked))
	for _, k := range order {
		s := sums[k]
		uses = append(uses, use{role: k.role, model: k.model, calls: s.calls.times(each), prompt: s.prompt.times(each),
			reply: s.reply.times(each), usd: s.usd.times(each), seconds: s.seconds.times(each), reused: s.reused * each})
	}
	return append(uses, use{disk: disk.times(each), children: children.times(each)}), nil
}

func by(e, f Range) Range { return Range{e.Low * f.Low, e.Mid * f.Mid, e.High * f.High} }

func dollars(p *llm.Price, prompt, reply float64, images int) float64 {
	return p.Cost(llm.Usage{Tokens: llm.Tokens{PromptTokens: int(prompt), CompletionTokens: int(reply)}, Images: images}).USD
}

// act is a call, and who makes it.
type act struct {
	role  string
	task  string  // its id
	times float64 // how many tasks do so, of which this one is walked
	ask
}

// walk takes a task through the flow. Replies never parse and never end a loop,
// so that it is as long as it may become; roles that it does not come to act at
// its end.
func (r *DryRun) walk(ctx context.Context, c *spec.Run, p *registry.Plan, t *matrix.Task, row matrix.Row) (acts []act) {
	seen := map[string]bool{}
	var d matrix.Decision
	if b := row.Begun; b != nil {
		d, t.Turns = matrix.To(row.Role), slices.Clone(b.Turns)
		for _, turn := range b.Turns {
			seen[turn.Role] = true
		}
	} else {
		d = decide(p.Router.Start, t)
		t.Turns = d.Open
	}
	acts = r.journey(ctx, c, p, t, d, seen, 1)
	for _, name := range p.RoleOrder() {
		if !seen[name] {
			acts = append(acts, r.act(ctx, name, p.Roles[name].Kind, p.Roles[name].Agent, t)...)
		}
	}
	if p.Unique != nil {
		sign := func(ctx context.Context, t *matrix.Task) (turn matrix.Turn, err error) {
			_, turn.Calls, err = p.Unique.Sign(ctx, t)
			return turn, err
		}
		turns := t.Turns
		acts = append(acts, r.act(ctx, "unique", "", matrix.AgentFunc(sign), t)...)
		t.Turns = turns
	}
	return acts
}

// journey takes a task on from a decision, as one of so many that are like it, and its
// children with it. It notes the roles that were seen.
func (r *DryRun) journey(ctx context.Context, c *spec.Run, p *registry.Plan, t *matrix.Task, d matrix.Decision, seen map[string]bool, times float64) (acts []act) {
	for range drySteps {
		if x := d.Expand; x != nil {
			acts = append(acts, r.brood(ctx, c, p, t, x, seen, times)...)
			if x.Then == "" {
				break
			}
			d = matrix.To(x.Then)
		}
		role, ok := p.Roles[d.Role]
		if d.Outcome != nil || !ok {
			t.Outcome = d.Outcome
			break
		}
		by := r.act(ctx, d.Role, role.Kind, role.Agent, t)
		for i := range by {
			by[i].times = times
		}
		acts = append(acts, by...)
		seen[d.Role] = true
		if most := c.Limits.Rounds; most > 0 && t.Rounds(d.Role) >= most {
			break
		}
		if d = decide(p.Router.Next, t); d.Outcome != nil && d.Outcome.Status == matrix.Failed && expands(p, t.Last().Role) {
			if r.unread == nil {
				r.unread = map[string]bool{}
			}
			r.unread[t.Last().Role] = true
		}
	}
	return acts
}

// expands reports whether a task may become others behind a role.
func expands(p *registry.Plan, role string) bool {
	for _, e := range p.Flow.Edges {
		if e.From == role && e.Expand != "" {
			return true
		}
	}
	return false
}

// brood walks some children of a task, evenly spread over all, for all of them.
func (r *DryRun) brood(ctx context.Context, c *spec.Run, p *registry.Plan, t *matrix.Task, x *matrix.Expansion, seen map[string]bool, times float64) (acts []act) {
	all := len(x.Items)
	x.First = t.Expanded
	child, err := x.Children(t)
	if all == 0 || err != nil || t.Depth() >= matrix.MaxDepth || r.walks >= dryBrood {
		return nil
	}
	walked := min(all, dryChildren)
	each := times * float64(all) / float64(walked)
	t.Expanded, t.Children = t.Expanded+all, nil
	r.children += times * float64(all)
	for k := range walked {
		r.walks++
		kid := child(k * all / walked)
		acts = append(acts, r.journey(ctx, c, p, kid, matrix.To(x.Role), seen, each)...)
		r.bytes += each * float64(len(dataset.AppendTask(nil, kid)))
		told := matrix.Child{ID: kid.ID, Index: kid.Index(), Status: matrix.Done}
		if kid.Outcome != nil {
			told.Status, told.Value, told.Cause = kid.Outcome.Status, kid.Outcome.Value, kid.Outcome.Cause
		}
		t.Children = append(t.Children, told)
	}
	return acts
}

func decide(f func(*matrix.Task) matrix.Decision, t *matrix.Task) (d matrix.Decision) {
	defer func() {
		if recover() != nil {
			d = matrix.FailBy(matrix.FaultRouter, "the router panicked")
		}
	}()
	return f(t)
}

// act lets an agent act where that costs nothing and changes nothing. What is
// wrong with its turn is overlooked.
func (r *DryRun) act(ctx context.Context, name, kind string, a matrix.Agent, t *matrix.Task) (acts []act) {
	turn := matrix.Turn{}
	r.asks = r.asks[:0]
	if kind != "command" {
		func() {
			defer func() { _ = recover() }()
			turn, _ = a.Act(ctx, t) // a failed one has asked all the same
		}()
	}
	for i, k := range r.asks {
		if i > 0 && len(turn.Calls) > 1 && turn.Error != "" {
			break // asked again, because a stand-in's reply does not parse
		}
		acts = append(acts, act{name, t.ID, 1, k})
	}
	if c := turn.Call(); c != nil && len(acts) == 0 {
		acts = append(acts, act{name, t.ID, 1, ask{model: c.Name, n: 1, used: c}})
	}
	turn.Role, turn.Error, turn.Hop = name, "", 1
	t.Turns = append(t.Turns, turn)
	return acts
}
