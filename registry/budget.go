package registry

import (
	"fmt"
	"maps"
	"slices"

	"matrix/internal/config"
	"matrix/llm"
	"matrix/spec"
)

// Bill is what the calls of a model cost, and where they are charged.
type Bill struct {
	llm.Charger
	Price  llm.Price
	Priced bool // by the config, by the table of prices, or because there is no service to pay
}

// bill makes a model chargeable and finds its price.
func (b *builder) bill(name string, s *config.Section, m llm.Model) llm.Model {
	bill := &Bill{}
	if c, ok := m.(llm.Charger); ok {
		bill.Charger = c
	} else {
		metered := llm.Meter(name, m)
		bill.Charger, bill.Priced, m = metered, true, metered
	}
	if p := s.Get("price"); p != nil && p.Kind() != config.Null {
		bill.Priced = true
		if err := p.Decode(&bill.Price); err != nil {
			b.add(s, "", err)
		} else {
			b.add(s, "price", bill.Price.Check())
		}
	} else if !bill.Priced {
		var id string
		if at := s.Get("model"); at != nil && at.Decode(&id) == nil {
			bill.Price, bill.Priced = llm.PriceOf(id)
		}
	}
	if times, ok := b.build.notes.writes[name]; ok {
		bill.Price.WriteAt(times)
	}
	b.plan.Bills[name] = bill
	return m
}

// budget checks that all that a budget is to bound can be bounded.
func (b *builder) budget() {
	c := &b.run.Budget
	before := len(b.errs)
	least := func(field string, x spec.Cost) {
		if x.USD < 0 || x.USD != x.USD {
			b.at(b.root, config.Join(field, "usd"), 0, 0, fmt.Sprintf("got %v, want 0 or more", x.USD), "")
		}
		if x.Tokens < 0 {
			b.at(b.root, config.Join(field, "tokens"), 0, 0, fmt.Sprintf("got %d, want 0 or more", x.Tokens), "")
		}
	}
	least("budget", spec.Cost{USD: c.USD, Tokens: c.Tokens})
	least("budget.per_task", c.PerTask)
	if c.Wall < 0 {
		b.at(b.root, "budget.wall", 0, 0, fmt.Sprintf("got %v, want 0s or more", c.Wall), "")
	}
	for _, name := range slices.Sorted(maps.Keys(c.PerModel)) {
		at := config.Join("budget.per_model", name)
		least(at, c.PerModel[name])
		if _, ok := b.run.Models[name]; !ok {
			b.unknown(b.root, at, "model", name, slices.Sorted(maps.Keys(b.run.Models)))
		}
	}
	if len(b.errs) > before {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(b.plan.Bills)) {
		bill, own := b.plan.Bills[name], c.PerModel[name]
		if (c.USD > 0 || own.USD > 0 || c.PerTask.USD > 0) && !bill.Priced {
			b.add(b.run.Models[name], "", fmt.Errorf("the budget is in dollars, and the price of model %s is not known: set price, as price: {input: 0.5, output: 1.5} per million tokens, or %s.price.input=0.5 %[2]s.price.output=1.5 on the command line; price: {} is free", name, config.Join("models", name)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.plan.Roles)) {
		_, s, ok := b.agent(name)
		if !ok {
			continue
		}
		var model string
		if at := s.Get("model"); at == nil || at.Decode(&model) != nil {
			continue
		}
		bill, ok := b.plan.Bills[model]
		if own := c.PerModel[model]; !ok || c.USD == 0 && c.Tokens == 0 && own == (spec.Cost{}) {
			continue
		}
		if _, metered := bill.Charger.(*llm.Metered); metered || bounded(s) || bounded(b.run.Models[model]) {
			continue
		}
		b.at(s, "max_tokens", 0, 0, fmt.Sprintf("under a budget each reply needs a bound: set max_tokens here, for role %s, or at model %s", name, model), "")
	}
}

// bounded reports whether a section bounds the length of replies.
func bounded(s *config.Section) bool {
	for _, key := range []string{"max_tokens", "extra_body.max_tokens", "extra_body.max_completion_tokens"} {
		n := 0
		if at := s.Get(key); at != nil && at.Decode(&n) == nil && n > 0 {
			return true
		}
	}
	return false
}
