package llm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"matrix/internal/stopping"
)

// free is a model without a service.
type free struct{ Model }

func (free) Do(context.Context, *Request) (*Reply, error) {
	return &Reply{Choices: []Choice{{Text: "a reply of some twenty chars", Finish: "stop"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 2, CompletionTokens: 7}}}, nil
}

func TestMeter(t *testing.T) {
	m := free{}
	r := &Request{Messages: []Message{{Role: "user", Content: "what?"}}}
	metered := Meter("told", m)
	if _, err := metered.Do(t.Context(), r); err != nil {
		t.Fatalf("without a budget: %v", err)
	}
	var out string
	b := NewBudget(Cost{Tokens: 20}, BudgetOptions{Name: "the run", OnSpent: func(why string) { out = why }})
	metered.Charge(b, Price{})
	for range 2 {
		if _, err := metered.Do(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := metered.Do(stopping.With(t.Context(), ctx), r); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `model "told"`) {
		t.Errorf("a reply that does not fit: got %v", err)
	}
	if s := b.State(); s.Spent != (Cost{Tokens: 18}) || !strings.Contains(out, "the budget of the run is spent: 18 tokens of 20 tokens") {
		t.Errorf("got %+v, %q", s, out)
	}
	small := Meter("told", m)
	small.Charge(NewBudget(Cost{Tokens: 5}, BudgetOptions{}), Price{})
	var e *Error
	if _, err := small.Do(t.Context(), r); !errors.As(err, &e) || e.Kind != Fatal || e.Model != "told" {
		t.Errorf("a reply that never fits: got %v", err)
	}
}
