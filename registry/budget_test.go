package registry

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/config"
	"matrix/llm"
	"matrix/spec"
)

const billed = `
dataset: {path: rows.jsonl, id: id}
models:
  own: {base_url: "http://127.0.0.1:1", model: mine, price: {input: 1, gpu_hour: 2, gpus: 4}}
  free: {base_url: "http://127.0.0.1:1", model: mine, price: {}}
  known: {base_url: "http://127.0.0.1:1", model: gpt-4o-mini-2024-07-18}
  strange: {base_url: "http://127.0.0.1:1", model: mine}
  told: {kind: scripted, reply: "yes", record: told.jsonl}
roles:
  say: {chat: {model: strange, prompt: "{{ item.question }}"}}
flow: [say]
`

func TestBills(t *testing.T) {
	plan, _, err := build(t, billed)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		priced bool
		input  float64
		hourly float64
	}{"own": {true, 1, 8}, "free": {true, 0, 0}, "known": {true, 0.15, 0}, "strange": {false, 0, 0}, "told": {true, 0, 0}} {
		b := plan.Bills[name]
		if b == nil || b.Priced != want.priced || b.Price.Input != want.input || b.Price.Hourly() != want.hourly {
			t.Errorf("%s: got %+v, want %+v", name, b, want)
		}
	}
	// What is charged is what agents ask, also where it is recorded.
	run := llm.NewBudget(llm.Cost{}, llm.BudgetOptions{})
	plan.Bills["told"].Charge(run, llm.Price{})
	if _, err := plan.Models["told"].Do(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "is it?"}}}); err != nil {
		t.Fatal(err)
	}
	if got := run.State().Spent.Tokens; got == 0 {
		t.Error("a recorded model is not charged")
	}
}

func TestBudgetErrors(t *testing.T) {
	for _, tt := range []struct {
		budget string
		want   []string // in the errors; none for a config that is right
	}{
		{"{wall: 1h}", nil},
		{"{per_task: {tokens: 100}}", nil},
		{"{usd: 1}", []string{"the price of model strange is not known", "each reply needs a bound: set max_tokens here, for role say, or at model strange"}},
		{"{per_model: {own: {usd: 1}}}", nil},
		{"{per_model: {strange: {tokens: 1k}}}", []string{"each reply needs a bound"}},
		{"{per_model: {stranger: {usd: 1}}}", []string{`there is no model "stranger"`, `did you mean "strange"?`}},
	} {
		_, _, err := build(t, billed+"budget: "+tt.budget+"\n")
		if err == nil != (tt.want == nil) {
			t.Errorf("%s: got %v, want %q", tt.budget, err, tt.want)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: got %v, want %q in it", tt.budget, err, w)
			}
		}
	}
}

// asked stands in for a model.
type asked struct {
	llm.Model
	n *int
}

func (a asked) Do(context.Context, *llm.Request) (*llm.Reply, error) {
	*a.n++
	return &llm.Reply{Choices: []llm.Choice{{Text: "yes", Finish: "stop"}}}, nil
}

func TestStub(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", billed)
	write(t, dir, "rows.jsonl", rows)
	tree, err := config.Load(spec.Run{}, filepath.Join(dir, "config.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	n, names := 0, 0
	r := New()
	r.Stub = func(name string, m llm.Model) llm.Model {
		names++
		return asked{m, &n}
	}
	plan, err := r.Build(tree, &run, ToCheck)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	item, err := matrix.NewValue(map[string]any{"question": "1+1?"})
	if err != nil {
		t.Fatal(err)
	}
	turn, err := plan.Roles["say"].Agent.Act(t.Context(), &matrix.Task{ID: "a", Item: item})
	if err != nil || turn.Text != "yes" || n != 1 || names != 4 {
		t.Errorf("got %+v, %v; asked %d times, for %d models; want once, for the 4 that have a service", turn, err, n, names)
	}
}
