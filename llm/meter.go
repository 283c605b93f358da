package llm

import (
	"context"
	"errors"
	"fmt"

	"matrix/internal/stopping"
)

// Charger is a model whose calls can be charged to a budget.
type Charger interface {
	// Charge has all calls paid from b at the price p. It is called once, and
	// before the first call.
	Charge(b *Budget, p Price)

	// Conceal keeps texts that must not be shown out of what is told of replies and
	// failures: parameters, names of models, codes and messages. It is called before
	// the first call.
	Conceal(s Secrets)
}

// Metered is a model that charges the calls of another one which cost nothing
// until they are answered: one without a service. What it answers counts once
// it fits the budget.
type Metered struct {
	Model
	name    string
	budget  *Budget
	secrets Secrets
	price   Price
}

var _ interface {
	Model
	Charger
} = (*Metered)(nil)

// Meter returns m, to be charged. name is that of the model in the config.
func Meter(name string, m Model) *Metered { return &Metered{Model: m, name: name} }

// Charge implements Charger.
func (m *Metered) Charge(b *Budget, p Price) { m.budget, m.price = b, p }

// Conceal implements Charger.
func (m *Metered) Conceal(s Secrets) { m.secrets = s }

// Do implements Model.
func (m *Metered) Do(ctx context.Context, r *Request) (*Reply, error) {
	rep, err := m.Model.Do(ctx, r)
	if err != nil {
		return rep, err
	}
	rep.Params = m.secrets.HideJSON(rep.Params)
	if m.budget == nil {
		return rep, nil
	}
	used := rep.Usage
	used.USD = 0 // a replayed reply was paid for elsewhere
	cost := m.price.Cost(used)
	waiting, free := stopping.Wait(ctx)
	defer free()
	room, err := m.budget.Reserve(waiting, cost)
	var e *Error
	if errors.As(err, &e) {
		return nil, AsError(m.name, err)
	} else if err != nil {
		return nil, fmt.Errorf("model %q: %w", m.name, err)
	}
	room.Settle(cost)
	rep.Usage.USD = cost.USD
	return rep, nil
}
