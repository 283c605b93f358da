// Package estimate tells what a run will take before anything is spent: calls,
// tokens, money, time and disk, by a walk over the first rows with stand-ins for
// the models, or by a sample that was run; and what of its output readers may not
// take.
package estimate

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/internal/human"
	"matrix/llm"
	"matrix/registry"
	"matrix/spec"
)

// Range is an estimate: of what lies between Low and High, Mid is likely.
type Range struct {
	Low  float64 `json:"low"`
	Mid  float64 `json:"mid"`
	High float64 `json:"high"`
}

func (e Range) times(f float64) Range { return Range{e.Low * f, e.Mid * f, e.High * f} }
func (e Range) plus(x Range) Range {
	return Range{e.Low + x.Low, e.Mid + x.Mid, e.High + x.High}
}

// Need is what the calls of a role or a model take.
type Need struct {
	Role   string `json:"role,omitempty"`
	Model  string `json:"model"`
	Calls  Range  `json:"calls"`
	Prompt Range  `json:"prompt_tokens"`
	Reply  Range  `json:"completion_tokens"`
	USD    *Range `json:"usd"` // null where the price is not known
}

// Estimate is what a run will take.
type Estimate struct {
	Name     string    `json:"name"`
	Rows     int64     `json:"rows"`
	Tasks    int64     `json:"tasks"`              // of rows
	Children *Range    `json:"children,omitempty"` // tasks that these become by expand
	Sample   *Sample   `json:"sample,omitempty"`
	Roles    []Need    `json:"roles"`
	Models   []Need    `json:"models"`
	Tokens   Range     `json:"tokens"`
	USD      *Range    `json:"usd"` // null where a price is not known
	Seconds  *Range    `json:"seconds"`
	Disk     Range     `json:"disk_bytes"`
	Budget   *llm.Cost `json:"budget,omitempty"`
	Reused   *Reused   `json:"reused,omitempty"` // calls that earlier runs have paid for
	Notes    []string  `json:"notes,omitempty"`

	Unpriced []string `json:"-"` // models whose price is not known
}

// Reused is how many calls were answered by earlier runs.
type Reused struct {
	Calls int64 `json:"calls"` // of all that the run will make
	Tasks int64 `json:"tasks"` // that were looked at
}

// Sample is what a sample took.
type Sample struct {
	Tasks    int      `json:"tasks"`              // of rows
	Children int      `json:"children,omitempty"` // that these became
	Failed   int      `json:"failed"`
	Seconds  float64  `json:"seconds"`
	Cost     llm.Cost `json:"cost"`
}

// use is what one task takes of a role's model.
type use struct {
	role, model          string
	calls, prompt, reply Range
	usd, seconds         Range
	reused               float64 // of the calls
	disk                 Range   // of the task and its children, said once
	children             Range   // of the task, said with disk
}

// FromSample estimates by tasks that were run, which are those of the first rows.
func FromSample(ctx context.Context, c *spec.Run, p *registry.Plan, tasks []*matrix.Task) (*Estimate, error) {
	f, err := begin(ctx, c, p)
	if err != nil {
		return nil, err
	}
	var uses []use
	if f.Rows > 0 {
		f.Sample, uses = SampleOf(tasks), usesOf(tasks)
	}
	return f, f.finish(ctx, c, p, tasks, uses)
}

// begin is an estimate that knows the rows alone.
func begin(ctx context.Context, c *spec.Run, p *registry.Plan) (f *Estimate, err error) {
	f = &Estimate{Name: c.Name, Roles: []Need{}, Models: []Need{}}
	if f.Rows, err = p.Source.Count(ctx); err == nil && f.Rows < 0 { // it grows
		f.Rows = 0
		err = p.Source.Rows(ctx, matrix.Position{}, func(matrix.Row) error { f.Rows++; return nil })
		f.Notes = append(f.Notes, "The dataset grows (dataset.follow): this is for the rows that there are now.")
	}
	if err != nil {
		return nil, err
	}
	f.Tasks = f.Rows * int64(max(1, c.Trials))
	if c.Until != nil {
		f.Notes = append(f.Notes, fmt.Sprintf("This is for all rows. The run ends once %d tasks are kept (until), in the order in which they end, so on one shard; a sample shows how many are.", c.Until.Kept))
	}
	return f, nil
}

// finish makes the sums of what one task takes, and adds what of the output may not
// be read everywhere.
func (f *Estimate) finish(ctx context.Context, c *spec.Run, p *registry.Plan, tasks []*matrix.Task, uses []use) error {
	f.sumUp(c, p, uses)
	notes, err := faults(ctx, p, tasks)
	f.Notes = append(f.Notes, notes...)
	return err
}

// SampleOf is what tasks have taken.
func SampleOf(tasks []*matrix.Task) *Sample {
	s := &Sample{}
	for _, t := range tasks {
		if t.Parent == "" {
			s.Tasks++
		} else {
			s.Children++
		}
		if t.Outcome.Status == matrix.Failed {
			s.Failed++
		}
		for i := range t.Turns {
			for j := range t.Turns[i].Calls {
				c := &t.Turns[i].Calls[j]
				s.Cost.USD += c.USD
				s.Cost.Tokens += int64(c.PromptTokens + c.CompletionTokens)
				s.Seconds += c.TookMS / 1e3
			}
		}
	}
	return s
}

// usesOf gives what a row's task and its children take, by role and model, of tasks that
// were run.
func usesOf(tasks []*matrix.Task) (uses []use) {
	type key struct{ role, model string }
	seen := map[key]bool{}
	var each []map[key]*[5]float64 // calls, prompt, reply, usd, seconds
	var disk, children []float64
	of := map[string]int{} // by the id of a row's task: its place in these
	for _, t := range tasks {
		root := matrix.TaskID(t.Row, t.Trial)
		i, known := of[root]
		if !known {
			i = len(each)
			of[root] = i
			each, disk, children = append(each, map[key]*[5]float64{}), append(disk, 0), append(children, 0)
		}
		disk[i] += float64(len(dataset.AppendTask(nil, t)))
		if t.Parent != "" {
			children[i]++
		}
		for j := range t.Turns {
			for l := range t.Turns[j].Calls {
				c := &t.Turns[j].Calls[l]
				k := key{t.Turns[j].Role, c.Name}
				seen[k] = true
				if each[i][k] == nil {
					each[i][k] = new([5]float64)
				}
				for m, x := range [5]float64{1, float64(c.PromptTokens), float64(c.CompletionTokens), c.USD, c.TookMS / 1e3} {
					each[i][k][m] += x
				}
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(seen), func(a, b key) int { return strings.Compare(a.role+" "+a.model, b.role+" "+b.model) }) {
		of := func(m int) Range {
			xs := make([]float64, len(each))
			for i := range each {
				if v := each[i][k]; v != nil {
					xs[i] = v[m]
				}
			}
			return mean(xs)
		}
		uses = append(uses, use{role: k.role, model: k.model, calls: of(0), prompt: of(1), reply: of(2), usd: of(3), seconds: of(4)})
	}
	return append(uses, use{disk: mean(disk), children: mean(children)})
}

// mean of a sample, and where that of all lies with some certainty: two standard
// errors around it, and a tenth of it at least.
func mean(xs []float64) Range {
	if len(xs) == 0 {
		return Range{}
	}
	var sum, sq float64
	for _, x := range xs {
		sum += x
	}
	m := sum / float64(len(xs))
	for _, x := range xs {
		sq += (x - m) * (x - m)
	}
	wide := m / 2 // one row tells little
	if n := float64(len(xs)); n > 1 {
		wide = max(m/10, 2*math.Sqrt(sq/(n-1)/n))
	}
	return Range{max(0, m-wide), m, m + wide}
}

// sumUp makes sums of what one task takes.
func (f *Estimate) sumUp(c *spec.Run, p *registry.Plan, uses []use) {
	all := float64(f.Tasks)
	models := map[string]*Need{}
	seconds := map[string]Range{}
	usd, reused := Range{}, 0.0
	for _, t := range uses {
		reused += t.reused * all
		f.Disk = f.Disk.plus(t.disk.times(all))
		if t.children.High > 0 {
			f.Children = new(t.children.times(all))
		}
		if t.model == "" {
			continue
		}
		r := Need{Role: t.role, Model: t.model, Calls: t.calls.times(all), Prompt: t.prompt.times(all), Reply: t.reply.times(all)}
		if models[t.model] == nil {
			models[t.model] = &Need{Model: t.model}
		}
		m := models[t.model]
		m.Calls, m.Prompt, m.Reply = m.Calls.plus(r.Calls), m.Prompt.plus(r.Prompt), m.Reply.plus(r.Reply)
		if p.Bills[t.model].Priced {
			cost := t.usd.times(all)
			r.USD, usd = &cost, usd.plus(cost)
			if m.USD == nil {
				m.USD = &Range{}
			}
			*m.USD = m.USD.plus(cost)
		} else if !slices.Contains(f.Unpriced, t.model) {
			f.Unpriced = append(f.Unpriced, t.model)
		}
		f.Tokens = f.Tokens.plus(r.Prompt).plus(r.Reply)
		seconds[t.model] = seconds[t.model].plus(t.seconds.times(all))
		f.Roles = append(f.Roles, r)
	}
	if f.Reused != nil {
		f.Reused.Calls = int64(reused + 0.5)
	}
	f.time(c, p, seconds)
	for _, name := range slices.Sorted(maps.Keys(models)) {
		m := models[name]
		if h := p.Bills[name].Price.Hourly(); h > 0 && f.Seconds != nil {
			cost := f.Seconds.times(h / 3600)
			usd = usd.plus(cost)
			*m.USD = m.USD.plus(cost)
		}
		f.Models = append(f.Models, *m)
	}
	if len(f.Unpriced) == 0 {
		f.USD = &usd
	}
	// The state holds tasks under way; the output, all.
	if c.Output.Compress != "none" {
		f.Disk = Range{f.Disk.Low / 8, f.Disk.Mid / 4, f.Disk.High / 2}
	}
	if b := c.Budget; b.USD > 0 || b.Tokens > 0 {
		f.Budget = &llm.Cost{USD: b.USD, Tokens: int64(b.Tokens)}
	}
}

// time tells how long the models are at work, each with as many calls at once as
// the config says, or as tasks are live where it finds that out by itself.
func (f *Estimate) time(c *spec.Run, p *registry.Plan, seconds map[string]Range) {
	if f.Tasks == 0 {
		return
	}
	longest := Range{}
	for _, name := range slices.Sorted(maps.Keys(seconds)) {
		at := f.Tasks
		if f.Children != nil {
			at += int64(f.Children.Mid)
		}
		at = min(int64(c.Live), at)
		if n := concurrency(c, name); n > 0 {
			at = min(at, int64(n))
		} else if _, free := p.Bills[name].Charger.(*llm.Metered); !free {
			f.Notes = append(f.Notes, fmt.Sprintf("Time: concurrency of %s is auto; it is taken to be %s, as many as tasks are live.", name, human.Commas(at)))
		}
		s := seconds[name].times(1 / float64(max(1, at)))
		longest = Range{max(longest.Low, s.Low), max(longest.Mid, s.Mid), max(longest.High, s.High)}
	}
	f.Seconds = &longest
}

// concurrency is how many calls at once a model is given; 0 where it finds out.
func concurrency(c *spec.Run, model string) int {
	n := 0
	if at := c.Models[model].Get("concurrency"); at != nil {
		_ = at.Decode(&n) // auto
	}
	return n
}
