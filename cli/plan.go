package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/dataset"
	"matrix/internal/human"
	"matrix/llm"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
)

func newPlanCmd(p Program) *cobra.Command {
	var n int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan CONFIG [key=value ...]",
		Short: "Estimate calls, tokens, cost, time and disk before spending anything",
		Long: `Plan counts the rows of a config and estimates what a run of it will cost.

Without --sample no call is made: prompts of the first rows are rendered, and
counted at 3 to 5 bytes a token; replies are taken to be between a quarter of
max_tokens and all of it. A role in a loop is taken to act once at least, and
at most as often as it does where no reply ever ends the loop.

With --sample N the first N rows are run, as matrix preview does, at real cost
and within the budget. What they took is told, and taken for the rest.`,
		Example: `  matrix plan examples/coral
  matrix plan examples/coral --sample 5 dataset.limit=100
  matrix plan examples/coral --json`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 || cmd.Flags().Changed("sample") && n == 0 {
				return cobraErrorf("--sample is %d: want 1 or more", n)
			}
			return makePlan(p, cmd, args, n, asJSON)
		},
	}
	cmd.Flags().IntVar(&n, "sample", 0, "run the first N rows, for money, and extrapolate (5 tells much already)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// extent is an estimate: of what lies between Low and High, Mid is likely.
type extent struct {
	Low  float64 `json:"low"`
	Mid  float64 `json:"mid"`
	High float64 `json:"high"`
}

func (e extent) times(f float64) extent { return extent{e.Low * f, e.Mid * f, e.High * f} }
func (e extent) plus(x extent) extent {
	return extent{e.Low + x.Low, e.Mid + x.Mid, e.High + x.High}
}

// need is what the calls of a role or a model take.
type need struct {
	Role   string  `json:"role,omitempty"`
	Model  string  `json:"model"`
	Calls  extent  `json:"calls"`
	Prompt extent  `json:"prompt_tokens"`
	Reply  extent  `json:"completion_tokens"`
	USD    *extent `json:"usd"` // null where the price is not known
}

// forecast is what a run will take.
type forecast struct {
	Name    string    `json:"name"`
	Rows    int64     `json:"rows"`
	Tasks   int64     `json:"tasks"`
	Sample  *sampled  `json:"sample,omitempty"`
	Roles   []need    `json:"roles"`
	Models  []need    `json:"models"`
	Tokens  extent    `json:"tokens"`
	USD     *extent   `json:"usd"` // null where a price is not known
	Seconds *extent   `json:"seconds"`
	Disk    extent    `json:"disk_bytes"`
	Budget  *llm.Cost `json:"budget,omitempty"`
	Notes   []string  `json:"notes,omitempty"`

	unpriced []string // models
}

// sampled is what a sample took.
type sampled struct {
	Tasks   int      `json:"tasks"`
	Failed  int      `json:"failed"`
	Seconds float64  `json:"seconds"`
	Cost    llm.Cost `json:"cost"`
}

// makePlan prints the forecast of a config.
func makePlan(program Program, cmd *cobra.Command, args []string, n int, asJSON bool) (err error) {
	dry := &rehearsal{}
	kinds := *program.Registry
	if n == 0 {
		kinds.StandIn = dry.standIn
		program.Registry = &kinds
	}
	p, err := program.loadPlan(args[0], args[1:], registry.ToCheck)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	f := &forecast{Name: p.Run.Name, Roles: []need{}, Models: []need{}}
	if f.Rows, err = p.Source.Count(cmd.Context()); err != nil {
		return err
	}
	f.Tasks = f.Rows * int64(max(1, p.Run.Trials))
	var tolls []toll
	var tasks []*matrix.Task
	switch {
	case f.Rows == 0:
	case n > 0:
		if tasks, tolls, err = f.sample(cmd, p, n); err != nil {
			return err
		}
	default:
		if tolls, err = dry.rehearse(cmd.Context(), p); err != nil {
			return err
		}
		tasks = dry.tasks
	}
	f.reckon(p, tolls)
	notes, err := faults(cmd.Context(), p, tasks)
	if err != nil {
		return err
	}
	f.Notes = append(f.Notes, notes...)
	w := cmd.OutOrStdout()
	if asJSON {
		b, err := json.MarshalIndent(f, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	f.print(w, p)
	return nil
}

// toll is what one task takes of a role's model.
type toll struct {
	role, model          string
	calls, prompt, reply extent
	usd, seconds         extent
	disk                 extent // of the task, said once
}

// sample runs the first n rows.
func (f *forecast) sample(cmd *cobra.Command, p *session.Plan, n int) (tasks []*matrix.Task, tolls []toll, err error) {
	tasks, err = runFirst(cmd, p, n)
	s := &sampled{Tasks: len(tasks)}
	f.Sample = s
	type key struct{ role, model string }
	seen := map[key]bool{}
	each := make([]map[key]*[5]float64, len(tasks)) // calls, prompt, reply, usd, seconds
	disk := make([]float64, len(tasks))
	for i, t := range tasks {
		each[i] = map[key]*[5]float64{}
		if t.Outcome.Cause != "" {
			s.Failed++
		}
		disk[i] = float64(len(dataset.AppendTask(nil, t)))
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
				s.Cost.USD += c.USD
				s.Cost.Tokens += int64(c.PromptTokens + c.CompletionTokens)
				s.Seconds += c.TookMS / 1e3
			}
		}
	}
	if err != nil {
		if errors.Is(err, run.ErrStopped) {
			return nil, nil, &stoppedError{fmt.Sprintf("Stopped. %s cost %s USD.", human.Plural(int64(len(tasks)), "row"), llm.ShowUSD(s.Cost.USD))}
		}
		return nil, nil, err
	}
	for _, k := range slices.SortedFunc(maps.Keys(seen), func(a, b key) int { return strings.Compare(a.role+" "+a.model, b.role+" "+b.model) }) {
		of := func(m int) extent {
			xs := make([]float64, len(tasks))
			for i := range tasks {
				if v := each[i][k]; v != nil {
					xs[i] = v[m]
				}
			}
			return mean(xs)
		}
		tolls = append(tolls, toll{role: k.role, model: k.model, calls: of(0), prompt: of(1), reply: of(2), usd: of(3), seconds: of(4)})
	}
	return tasks, append(tolls, toll{disk: mean(disk)}), nil
}

// mean of a sample, and where that of all lies with some certainty: two standard
// errors around it, and a tenth of it at least.
func mean(xs []float64) extent {
	if len(xs) == 0 {
		return extent{}
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
	return extent{max(0, m-wide), m, m + wide}
}

// reckon makes sums of what one task takes.
func (f *forecast) reckon(p *session.Plan, tolls []toll) {
	all := float64(f.Tasks)
	models := map[string]*need{}
	seconds := map[string]extent{}
	usd := extent{}
	for _, t := range tolls {
		f.Disk = f.Disk.plus(t.disk.times(all))
		if t.model == "" {
			continue
		}
		r := need{Role: t.role, Model: t.model, Calls: t.calls.times(all), Prompt: t.prompt.times(all), Reply: t.reply.times(all)}
		if models[t.model] == nil {
			models[t.model] = &need{Model: t.model}
		}
		m := models[t.model]
		m.Calls, m.Prompt, m.Reply = m.Calls.plus(r.Calls), m.Prompt.plus(r.Prompt), m.Reply.plus(r.Reply)
		if p.Bills[t.model].Priced {
			cost := t.usd.times(all)
			r.USD, usd = &cost, usd.plus(cost)
			if m.USD == nil {
				m.USD = &extent{}
			}
			*m.USD = m.USD.plus(cost)
		} else if !slices.Contains(f.unpriced, t.model) {
			f.unpriced = append(f.unpriced, t.model)
		}
		f.Tokens = f.Tokens.plus(r.Prompt).plus(r.Reply)
		seconds[t.model] = seconds[t.model].plus(t.seconds.times(all))
		f.Roles = append(f.Roles, r)
	}
	f.time(p, seconds)
	for _, name := range slices.Sorted(maps.Keys(models)) {
		m := models[name]
		if h := p.Bills[name].Price.Hourly(); h > 0 && f.Seconds != nil {
			cost := f.Seconds.times(h / 3600)
			usd = usd.plus(cost)
			*m.USD = m.USD.plus(cost)
		}
		f.Models = append(f.Models, *m)
	}
	if len(f.unpriced) == 0 {
		f.USD = &usd
	}
	// The state holds tasks under way; the output, all.
	if p.Run.Output.Compress != "none" {
		f.Disk = extent{f.Disk.Low / 8, f.Disk.Mid / 4, f.Disk.High / 2}
	}
	if b := p.Run.Budget; b.USD > 0 || b.Tokens > 0 {
		f.Budget = &llm.Cost{USD: b.USD, Tokens: int64(b.Tokens)}
	}
}

// time tells how long the models are at work, each with as many calls at once as
// the config says, or as tasks are live where it finds that out by itself.
func (f *forecast) time(p *session.Plan, seconds map[string]extent) {
	if f.Tasks == 0 {
		return
	}
	longest := extent{}
	for _, name := range slices.Sorted(maps.Keys(seconds)) {
		at := min(int64(p.Run.Live), f.Tasks)
		if c := concurrency(p, name); c > 0 {
			at = min(at, int64(c))
		} else if _, free := p.Bills[name].Charger.(*llm.Metered); !free {
			f.Notes = append(f.Notes, fmt.Sprintf("Time: concurrency of %s is auto; it is taken to be %s, as many as tasks are live.", name, human.Commas(at)))
		}
		s := seconds[name].times(1 / float64(max(1, at)))
		longest = extent{max(longest.Low, s.Low), max(longest.Mid, s.Mid), max(longest.High, s.High)}
	}
	f.Seconds = &longest
}

// concurrency is how many calls at once a model is given; 0 where it finds out.
func concurrency(p *session.Plan, model string) int {
	n := 0
	if at := p.Run.Models[model].Get("concurrency"); at != nil {
		_ = at.Decode(&n) // auto
	}
	return n
}

// print writes the forecast for people.
func (f *forecast) print(w io.Writer, p *session.Plan) {
	k := inkFor(w, false)
	if f.Rows == 0 {
		fmt.Fprintf(w, "The dataset has no rows (%s): it is empty, or where, skip and limit leave nothing. There is nothing to plan.\n", strings.Join(p.Run.Dataset.Path, ", "))
		return
	}
	rows := human.Plural(f.Rows, "row")
	if f.Tasks != f.Rows {
		rows += fmt.Sprintf(", %s trials each: %s tasks", human.Commas(p.Run.Trials), human.Commas(f.Tasks))
	}
	fmt.Fprintf(w, "%s: %s\n\n", oneLine(f.Name), rows)
	cells := [][]string{{"role", "model", "calls", "prompt tokens", "reply tokens", "USD"}}
	line := func(n need, role string) []string {
		usd := "?"
		if n.USD != nil {
			usd = llm.ShowUSD(n.USD.Mid)
		}
		return []string{role, n.Model, count(n.Calls.Mid), count(n.Prompt.Mid), count(n.Reply.Mid), usd}
	}
	for _, r := range f.Roles {
		cells = append(cells, line(r, r.Role))
	}
	if len(f.Models) < len(f.Roles) {
		for _, m := range f.Models {
			cells = append(cells, line(m, "all"))
		}
	}
	for i, l := range align(cells) {
		if i == 0 {
			l = k.dim(l)
		}
		fmt.Fprintln(w, l)
	}
	fmt.Fprintln(w)
	sum := [][2]string{{"tokens", ranged(f.Tokens, count)}}
	if f.USD != nil {
		sum = append(sum, [2]string{"cost", ranged(*f.USD, llm.ShowUSD) + " USD"})
	} else {
		sum = append(sum, [2]string{"cost", "not known: set price at " + strings.Join(f.unpriced, ", ")})
	}
	if f.Seconds != nil {
		sum = append(sum, [2]string{"time", ranged(*f.Seconds, func(s float64) string { return human.Clock(time.Duration(s * float64(time.Second))) })})
	}
	sum = append(sum, [2]string{"disk", ranged(f.Disk, func(b float64) string { return human.Short(b) + "B" })})
	for _, s := range sum {
		fmt.Fprintf(w, "%-7s %s\n", s[0], s[1])
	}
	if s := f.Sample; s != nil {
		fmt.Fprintf(w, "\nFrom a sample of %s (%d failed) that cost %s USD and %s tokens.\n", human.Plural(int64(s.Tasks), "task"), s.Failed, llm.ShowUSD(s.Cost.USD), human.Commas(s.Cost.Tokens))
	} else {
		fmt.Fprintf(w, "\nNo call was made. Tokens are guessed from bytes, replies from max_tokens, and\ntime from 50 tokens a second; --sample 5 runs 5 rows, for money, and tells more.\n")
	}
	for _, n := range f.Notes {
		fmt.Fprintln(w, n)
	}
	if verdict := f.verdict(); verdict != "" {
		fmt.Fprintln(w, verdict)
	}
}

// count writes an estimate of a count.
func count(x float64) string {
	if x < 1e4 {
		return human.Commas(int64(x + 0.5))
	}
	return human.Short(x)
}

// verdict reports whether the budget will do.
func (f *forecast) verdict() string {
	if f.Budget == nil {
		return ""
	}
	judge := func(what string, e extent, limit float64) string {
		switch {
		case limit == 0:
			return ""
		case e.High <= limit:
			return fmt.Sprintf("The budget of %s covers it.", what)
		case e.Low > limit:
			return fmt.Sprintf("The budget of %s does not cover it: the run will stop at about %d%%.", what, int(100*limit/e.Mid))
		}
		return fmt.Sprintf("The budget of %s may not cover it.", what)
	}
	var says []string
	if f.USD != nil {
		says = append(says, judge(llm.ShowUSD(f.Budget.USD)+" USD", *f.USD, f.Budget.USD))
	}
	says = append(says, judge(human.Short(float64(f.Budget.Tokens))+" tokens", f.Tokens, float64(f.Budget.Tokens)))
	return strings.Join(slices.DeleteFunc(says, func(s string) bool { return s == "" }), "\n")
}

// ranged writes an estimate: 12 (8 to 20).
func ranged(e extent, show func(float64) string) string {
	low, mid, high := show(e.Low), show(e.Mid), show(e.High)
	if low == high {
		return mid
	}
	return fmt.Sprintf("%s (%s to %s)", mid, low, high)
}
