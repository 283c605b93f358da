package spend

import (
	"matrix"
	"matrix/llm"
	"matrix/registry"
	"matrix/spec"
)

// Lender lends what this process may spend; another one keeps the account.
type Lender interface {
	// Ask says, and does not block, that a budget needs more than it was lent.
	Ask()

	// Owe has budgets lent to, by model; "" is for calls of no model.
	Owe(budgets map[string]*llm.Budget)
}

// Borrower pays for the calls of a process that does not have the run's account.
type Borrower struct{ budgets map[string]*llm.Budget }

// Borrow charges the models that have bills, from now on, to what is lent. limits are
// those of the run.
func Borrow(limits spec.Budget, bills map[string]*registry.Bill, from Lender) *Borrower {
	x := &Borrower{budgets: map[string]*llm.Budget{}}
	open := func(model, name string, own spec.Cost) *llm.Budget {
		limit := costIn(least(own.USD, limits.USD), spec.Count(least(int64(own.Tokens), int64(limits.Tokens))))
		b := llm.NewBudget(limit, llm.BudgetOptions{Name: name, Ask: from.Ask})
		x.budgets[model] = b
		return b
	}
	open("", "the run", spec.Cost{})
	for name, bill := range bills {
		bill.Charge(open(name, "model "+name, limits.PerModel[name]), bill.Price)
	}
	from.Owe(x.budgets)
	return x
}

// least is the lower of two limits, of which 0 is none.
func least[N int64 | float64](a, b N) N {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Reported charges a call that an agent has made by itself, as Tracker's does.
func (x *Borrower) Reported(c *matrix.Call) {
	b := x.budgets[c.Name]
	if b == nil {
		b = x.budgets[""]
	}
	_ = b.Spend(llm.Cost{USD: c.USD, Tokens: int64(c.PromptTokens + c.CompletionTokens)}) // of what is lent, nothing is noted here
}
