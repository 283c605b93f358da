package llm

import (
	"context"
	"math"
	"strings"
	"testing"
)

// What the service did not count, or counted wrongly, is estimated and marked,
// and paid for at its worst.
func TestEstimatedUsage(t *testing.T) {
	text := strings.Repeat("word ", 16) // 80 bytes: 20 tokens
	prompt := strings.Repeat("ask ", 26)
	const asked = (4*26 + 16) / 4
	for name, c := range map[string]struct {
		told Usage
		want Usage
		sure bool // settled at what was told
	}{
		"reply not":       {Usage{Tokens: Tokens{PromptTokens: 9}}, Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 20}, Estimated: true}, false},
		"told":            {Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 5}}, Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 5}}, true},
		"price told":      {Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 5}, USD: 0.5}, Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 5}, USD: 0.5}, true},
		"nothing":         {Usage{}, Usage{Tokens: Tokens{PromptTokens: asked, CompletionTokens: 20}, Estimated: true}, false},
		"a few pieces":    {Usage{Tokens: Tokens{CompletionTokens: 2}, Estimated: true}, Usage{Tokens: Tokens{PromptTokens: asked, CompletionTokens: 20}, Estimated: true}, false},
		"many pieces":     {Usage{Tokens: Tokens{CompletionTokens: 33}, Estimated: true}, Usage{Tokens: Tokens{PromptTokens: asked, CompletionTokens: 33}, Estimated: true}, false},
		"prompt only":     {Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 1}, Estimated: true}, Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 20}, Estimated: true}, false},
		"completion only": {Usage{Tokens: Tokens{CompletionTokens: 5}}, Usage{Tokens: Tokens{PromptTokens: asked, CompletionTokens: 5}, Estimated: true}, false},
		"negative":        {Usage{Tokens: Tokens{PromptTokens: -5, CompletionTokens: -7}, USD: -1}, Usage{Tokens: Tokens{PromptTokens: asked, CompletionTokens: 20}, Estimated: true}, false},
		"beyond reason":   {Usage{Tokens: Tokens{PromptTokens: 1e15, CompletionTokens: 1e15, CachedTokens: math.MaxInt}, USD: 1e300}, Usage{Tokens: Tokens{PromptTokens: asked, CompletionTokens: 20}, Estimated: true}, false},
	} {
		p := Price{Input: 1, Output: 2}
		driver := script(func(context.Context, *Request) (*Reply, error) {
			return &Reply{Choices: []Choice{{Text: text}}, Usage: c.told}, nil
		})
		virtual(t, Service{Sampling: Sampling{MaxTokens: 1000}}, []Driver{driver}, func(t *testing.T, client *Client) {
			b := NewBudget(Cost{USD: 10}, BudgetOptions{})
			client.Charge(b, p)
			r := question(prompt)
			rep, err := client.Do(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if c.want.USD == 0 {
				c.want.USD = p.Cost(c.want).USD
			}
			if rep.Usage != c.want {
				t.Errorf("%s: got %+v, want %+v", name, rep.Usage, c.want)
			}
			paid, _ := Worst(&Request{Messages: r.Messages, Sampling: Sampling{MaxTokens: 1000}}, &p, 0)
			if c.sure {
				paid = p.Cost(c.want)
			}
			if got := b.State().Spent.USD; math.Abs(got-paid.USD) > 1e-8 {
				t.Errorf("%s: spent %v, want %v", name, got, paid.USD)
			}
		})
	}
}

// A price that was told holds, and the tokens beside it that were not are paid for
// at their worst. An estimate above what was reserved counts in full: without a
// limit nothing is.
func TestEstimateOfPart(t *testing.T) {
	text := strings.Repeat("word ", 16)
	for name, c := range map[string]struct {
		told   Usage
		tokens int // max_tokens
		want   func(worst, estimate Cost) Cost
	}{
		"price":   {Usage{USD: 0.5}, 1000, func(worst, _ Cost) Cost { return Cost{USD: 0.5, Tokens: worst.Tokens} }},
		"nothing": {Usage{}, 0, func(_, estimate Cost) Cost { return estimate }},
		"early":   {Usage{Tokens: Tokens{PromptTokens: 9, CompletionTokens: 2}, Estimated: true}, 0, func(_, estimate Cost) Cost { return estimate }},
	} {
		p := Price{Input: 1, Output: 2}
		driver := script(func(context.Context, *Request) (*Reply, error) {
			return &Reply{Choices: []Choice{{Text: text}}, Usage: c.told}, nil
		})
		t.Run(name, func(t *testing.T) {
			virtual(t, Service{Sampling: Sampling{MaxTokens: c.tokens}}, []Driver{driver}, func(t *testing.T, client *Client) {
				b := NewBudget(Cost{}, BudgetOptions{})
				client.Charge(b, p)
				r := question("hello there")
				rep, err := client.Do(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				worst, _ := Worst(&Request{Messages: r.Messages, Sampling: Sampling{MaxTokens: c.tokens}}, &p, 0)
				want := c.want(worst, p.Cost(rep.Usage))
				if got := b.State().Spent; math.Abs(got.USD-want.USD) > 1e-8 || got.Tokens != want.Tokens || got.USD == 0 {
					t.Errorf("spent %+v, want %+v", got, want)
				}
			})
		})
	}
}

// A failure that tells of a cost that cannot be is paid for at its worst.
func TestFailureWithoutUsage(t *testing.T) {
	driver := script(func(context.Context, *Request) (*Reply, error) {
		return nil, &Failure{Kind: Refused, Status: 200, Sent: true, Usage: &Usage{Tokens: Tokens{PromptTokens: -5}}}
	})
	virtual(t, Service{Sampling: Sampling{MaxTokens: 1000}}, []Driver{driver}, func(t *testing.T, c *Client) {
		b := NewBudget(Cost{USD: 10}, BudgetOptions{})
		c.Charge(b, Price{Output: 2})
		_, _ = c.Do(t.Context(), question("x"))
		if got := b.State().Spent.USD; got < 0.002 {
			t.Errorf("spent %v, want the worst, 0.002", got)
		}
	})
}
