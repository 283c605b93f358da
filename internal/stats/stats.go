// Package stats adds up the tasks of a run, one after the other, in memory that does
// not grow with them: how they ended, what they took, how long their texts are, how
// their metrics are spread, which texts stand several times. It knows tasks, and
// neither where they come from nor how the sums are shown.
package stats

import (
	"cmp"
	"maps"
	"slices"
	"unicode/utf8"

	"matrix"
	"matrix/run"
)

// maxNames is how many metrics, ends and pairs of a role and what it called are told
// apart: agents report what names they like. All others are counted under "".
const maxNames = 200

// Stats are the sums so far. Make one by New; it is in one goroutine's hands.
type Stats struct {
	ends     map[matrix.Status]int64
	children int64
	stopped  map[string]int64
	faults   map[matrix.Fault]int64
	causes   run.Causes // of failed tasks
	reasons  run.Causes // of dropped ones

	turns, calls, tokens, usd spread
	by                        map[caller]*called
	metrics                   map[string]*spread

	characters, textTokens spread
	copies                 copies
}

// New returns sums of no task.
func New() *Stats {
	return &Stats{
		ends: map[matrix.Status]int64{}, reasons: run.Causes{},
		stopped: map[string]int64{}, faults: map[matrix.Fault]int64{}, causes: run.Causes{},
		by: map[caller]*called{}, metrics: map[string]*spread{}, copies: newCopies(maxTexts),
	}
}

// caller is who called what.
type caller struct {
	role, name string
	kind       matrix.CallKind
}

// called is what came of the calls of one caller.
type called struct {
	Calls
	took spread
}

// Add counts a task that has ended.
func (s *Stats) Add(t *matrix.Task) {
	if t.Outcome == nil {
		return
	}
	s.took(t)
	s.ends[t.Outcome.Status]++
	if t.Parent != "" {
		s.children++
	}
	switch t.Outcome.Status {
	case matrix.Failed:
		s.faults[run.FaultOf(t)]++
		s.causes.Add(t)
	case matrix.Dropped:
		s.reasons.Add(t)
	}
	if t.Outcome.Status != matrix.Done {
		return
	}
	if by := t.Outcome.Stopped; by != "" {
		s.stopped[room(s.stopped, by)]++
	}
	for name, v := range t.Metrics {
		m := entry(s.metrics, room(s.metrics, name))
		if v != nil {
			m.add(*v)
		}
	}
	if turn := finalText(t); turn != nil {
		s.characters.add(float64(utf8.RuneCountInString(turn.Text)))
		if n := tokensOf(turn); n > 0 {
			s.textTokens.add(float64(n))
		}
		s.copies.add(turn.Text, t.ID)
	}
}

// took counts what the turns of a task took.
func (s *Stats) took(t *matrix.Task) {
	var calls, tokens, usd float64
	for i := range t.Turns {
		turn := &t.Turns[i]
		for k := range turn.Calls {
			c := &turn.Calls[k]
			calls++
			tokens += float64(c.PromptTokens + c.CompletionTokens)
			usd += c.USD
			x := entry(s.by, room(s.by, caller{turn.Role, c.Name, cmp.Or(c.Kind, matrix.KindModel)}))
			x.Calls.add(c)
			if c.TookMS > 0 {
				x.took.add(c.TookMS)
			}
		}
	}
	s.turns.add(float64(len(t.Turns)))
	s.calls.add(calls)
	s.tokens.add(tokens)
	s.usd.add(usd)
}

// room is key, or the zero key where there is no room for one more.
func room[K comparable, V any](m map[K]V, key K) K {
	if _, ok := m[key]; !ok && len(m) >= maxNames {
		var zero K
		return zero
	}
	return key
}

// entry is m[key], made where it is not there.
func entry[K comparable, V any](m map[K]*V, key K) *V {
	v, ok := m[key]
	if !ok {
		v = new(V)
		m[key] = v
	}
	return v
}

// finalText is the newest turn that has a text; nil where there is none.
func finalText(t *matrix.Task) *matrix.Turn {
	for i := len(t.Turns) - 1; i >= 0; i-- {
		if turn := &t.Turns[i]; turn.Text != "" {
			return turn
		}
	}
	return nil
}

// tokensOf is how many tokens the text of a turn has, without those of the reasoning
// before it; 0 where that is not known: the service did not count, or several replies
// were counted together.
func tokensOf(t *matrix.Turn) int {
	if len(t.Samples) > 0 {
		return 0
	}
	for i := len(t.Calls) - 1; i >= 0; i-- {
		if c := &t.Calls[i]; c.Kind == matrix.KindModel || c.Kind == "" {
			if c.Estimated {
				return 0
			}
			return c.CompletionTokens - c.ReasoningTokens
		}
	}
	return 0
}

// Report is what the tasks of a run come to. Lists and maps are empty where there is
// nothing, and a Spread is nil where it is of nothing.
type Report struct {
	Done     int64 `json:"done"`
	Dropped  int64 `json:"dropped"`
	Expanded int64 `json:"expanded"`
	Failed   int64 `json:"failed"`

	Children int64 `json:"children,omitempty"` // of all these, tasks that others became

	// Pending is how many tasks have not ended; nil where that is not known. A Report of
	// Stats leaves it to who knows the run.
	Pending *int64 `json:"pending"`
	// UnderWay: a process works on the run, and this speaks of what is finished.
	UnderWay bool `json:"under_way"`

	Stopped map[string]int64       `json:"stopped"` // done tasks by what ended them before their flow did
	Faults  map[matrix.Fault]int64 `json:"faults"`  // failed tasks by what made them fail
	Causes  []run.CauseCount       `json:"causes"`  // and by kind of cause, the most frequent first
	Reasons []run.CauseCount       `json:"reasons"` // dropped tasks by kind of reason, likewise

	// Of each task that has ended.
	Turns  *Spread `json:"turns"`
	Calls  *Spread `json:"calls"`
	Tokens *Spread `json:"tokens"` // of prompts and replies of all calls
	USD    *Spread `json:"usd"`

	By []Calls `json:"by"` // calls by role and what was called, in order of their names

	// Of each task that is done.
	Metrics map[string]Metric `json:"metrics"`
	Texts   Texts             `json:"texts"`
}

// Settled counts the tasks that have ended.
func (r *Report) Settled() int64 { return r.Done + r.Dropped + r.Expanded + r.Failed }

// Calls are those of one role at one model or tool. Role and Name are empty for all
// that are too many to be told apart.
type Calls struct {
	Role    string          `json:"role"`
	Name    string          `json:"name"` // in the config
	Kind    matrix.CallKind `json:"kind"`
	Calls   int64           `json:"calls"`
	Unused  int64           `json:"unused"` // calls that brought what could not be used
	Retries int64           `json:"retries"`
	matrix.Tokens
	Errors    int64   `json:"errors"`    // calls that the tool could not do, commands that failed
	Restored  int64   `json:"restored"`  // calls before which a sandbox or another state was made again
	Estimated int64   `json:"estimated"` // calls whose tokens are an estimate
	USD       float64 `json:"usd"`
	TookMS    *Spread `json:"took_ms"` // at the service, of calls that say so
}

func (x *Calls) add(c *matrix.Call) {
	x.Calls++
	if c.Error != "" {
		x.Unused++
	}
	if t := c.Trace; t != nil {
		if t.Failed() {
			x.Errors++
		}
		if t.Restored == "disk" || t.Restored == "replay" {
			x.Restored++
		}
	}
	x.Retries += int64(c.Retries)
	x.Tokens.Add(c.Tokens, 1)
	if c.Estimated {
		x.Estimated++
	}
	x.USD += c.USD
}

// Metric is a metric over the tasks that are done.
type Metric struct {
	Missing int64   `json:"missing"` // tasks of which it says nothing
	Spread  *Spread `json:"spread"`
}

// Texts are the final ones of tasks that are done: of each that of the newest turn that
// has one.
type Texts struct {
	None       int64   `json:"none"` // tasks without a text
	Characters *Spread `json:"characters"`
	Tokens     *Spread `json:"tokens"` // of those whose service counted them, reasoning left out
	Histogram  []Bin   `json:"histogram"`
	Duplicates
}

// Report is what has been added so far.
func (s *Stats) Report() *Report {
	r := &Report{
		Done: s.ends[matrix.Done], Dropped: s.ends[matrix.Dropped], Expanded: s.ends[matrix.Expanded], Failed: s.ends[matrix.Failed], Children: s.children, Stopped: maps.Clone(s.stopped), Faults: maps.Clone(s.faults),
		Causes: append([]run.CauseCount{}, s.causes.List(s.ends[matrix.Failed])...), Reasons: append([]run.CauseCount{}, s.reasons.List(s.ends[matrix.Dropped])...),
		Turns: s.turns.report(), Calls: s.calls.report(), Tokens: s.tokens.report(), USD: s.usd.report(),
		By: []Calls{}, Metrics: map[string]Metric{},
		Texts: Texts{
			None: s.ends[matrix.Done] - s.characters.n, Characters: s.characters.report(), Tokens: s.textTokens.report(),
			Histogram: s.characters.histogram(), Duplicates: s.copies.report(),
		},
	}
	for who, x := range s.by {
		c := x.Calls
		c.Role, c.Name, c.Kind, c.TookMS = who.role, who.name, who.kind, x.took.report()
		r.By = append(r.By, c)
	}
	slices.SortFunc(r.By, func(a, b Calls) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	for name, m := range s.metrics {
		r.Metrics[name] = Metric{Missing: max(0, s.ends[matrix.Done]-m.n), Spread: m.report()}
	}
	return r
}
