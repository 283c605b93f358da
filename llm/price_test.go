package llm

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestPriceTable(t *testing.T) {
	table, err := priceRows()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for vendor, rows := range table {
		for _, r := range rows {
			p := Price{Input: r.Input, Cached: r.Cached, CacheWrite: r.CacheWrite, Output: r.Output, Long: r.Long, GPUs: 1}
			if err := p.Check(); err != nil || r.Input == 0 || len(r.Models) == 0 {
				t.Errorf("%s %v: input %v, %v", vendor, r.Models, r.Input, err)
			}
			if r.Cached != nil && *r.Cached > r.Input {
				t.Errorf("%s %v: cached tokens cost more than others", vendor, r.Models)
			}
			if dear := r.CacheWrite != nil && *r.CacheWrite > r.Input; dear != (vendor == "anthropic") || dear && r.Long != nil && deref(r.Long.CacheWrite) <= r.Long.Input {
				t.Errorf("%s %v: tokens written into the cache cost more than others %v, want so at Anthropic alone", vendor, r.Models, dear)
			}
			if r.Long != nil && (r.Long.Input < r.Input || r.Long.Output < r.Output) {
				t.Errorf("%s %v: long prompts cost less than others", vendor, r.Models)
			}
			if _, err := time.Parse(time.DateOnly, r.Date); err != nil || !strings.HasPrefix(r.Source, "https://") {
				t.Errorf("%s %v: date %q, source %q", vendor, r.Models, r.Date, r.Source)
			}
			for _, m := range r.Models {
				if seen[m] {
					t.Errorf("%s is there twice", m)
				}
				seen[m] = true
				if _, ok := PriceOf(m); !ok {
					t.Errorf("%s is not found", m)
				}
			}
		}
	}
}

func TestPriceOf(t *testing.T) {
	for name, want := range map[string]float64{
		"gpt-4o":                      2.5,
		"gpt-4o-2024-08-06":           2.5,
		"GPT-4o-mini":                 0.15,
		"openai/gpt-4.1-mini":         0.4,
		"anthropic/claude-sonnet-4.5": 3,
		"claude-sonnet-4-5-20250929":  3,
		"google/gemini-2.5-pro":       1.25,
		"mistral-large-2512":          0.5,
		"":                            -1,
		"gpt-4o-9000":                 -1, // not known: no guess
		"mistral-large-9912":          -1,
		"llama-3.1-8b":                -1,
		"someone/gpt-4o":              -1,
		"deepseek/deepseek-v4-pro":    -1,
	} {
		p, ok := PriceOf(name)
		if got := p.Input; ok && got != want || !ok && want != -1 {
			t.Errorf("%s: got %v, %v; want %v", name, got, ok, want)
		}
	}
}

func TestPriceCost(t *testing.T) {
	half, more := 0.5, 1.25
	p := Price{Input: 1, Cached: &half, CacheWrite: &more, Output: 10, Image: 0.01, Long: &Long{Above: 1000, Input: 2, Output: 20}}
	for _, tt := range []struct {
		name string
		u    Usage
		want Cost
	}{
		{"tokens", Usage{Tokens: Tokens{PromptTokens: 100, CompletionTokens: 10}}, Cost{200e-6, 110}},
		{"cached", Usage{Tokens: Tokens{PromptTokens: 100, CachedTokens: 40, CompletionTokens: 10}}, Cost{180e-6, 110}},
		{"written into the cache", Usage{Tokens: Tokens{PromptTokens: 100, CachedTokens: 20, CacheWriteTokens: 40, CompletionTokens: 10}}, Cost{200e-6, 110}},
		{"long, written as input", Usage{Tokens: Tokens{PromptTokens: 2000, CacheWriteTokens: 500}}, Cost{4000e-6, 2000}},
		{"more written than there is", Usage{Tokens: Tokens{PromptTokens: 100, CachedTokens: 60, CacheWriteTokens: 900}}, Cost{80e-6, 100}},
		{"reasoning is part of the reply", Usage{Tokens: Tokens{PromptTokens: 100, CompletionTokens: 10, ReasoningTokens: 9}}, Cost{200e-6, 110}},
		{"images", Usage{Tokens: Tokens{PromptTokens: 100}, Images: 2}, Cost{0.0201, 100}},
		{"long", Usage{Tokens: Tokens{PromptTokens: 2000, CachedTokens: 500, CompletionTokens: 10}}, Cost{4200e-6, 2010}},
		{"the service says", Usage{Tokens: Tokens{PromptTokens: 100, CompletionTokens: 10}, USD: 0.5}, Cost{0.5, 110}},
		{"more cached than there is", Usage{Tokens: Tokens{PromptTokens: 100, CachedTokens: 900}}, Cost{50e-6, 100}},
	} {
		if got := p.Cost(tt.u); math.Abs(got.USD-tt.want.USD) > 1e-12 || got.Tokens != tt.want.Tokens {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestPriceCheck(t *testing.T) {
	minus := -1.0
	for key, p := range map[string]Price{
		"input": {Input: -1}, "output": {Output: math.NaN()}, "cached": {Cached: &minus}, "image": {Image: -1},
		"cache_write": {CacheWrite: &minus}, "long.cache_write": {Long: &Long{CacheWrite: &minus}},
		"gpu_hour": {GPUHour: -1}, "long.input": {Long: &Long{Input: -2}},
	} {
		var e *FieldError
		if err := p.Check(); !errors.As(err, &e) || e.Field != key {
			t.Errorf("%s: got %v", key, err)
		}
	}
}

func TestWorst(t *testing.T) {
	long := strings.Repeat("x", 1000)
	p := &Price{Input: 1, Output: 10}
	for _, tt := range []struct {
		name    string
		r       Request
		context int
		tokens  [2]int64 // at least, at most
	}{
		{"a reply is bounded by max_tokens", Request{Messages: []Message{{Content: long}}, Sampling: Sampling{MaxTokens: 50}}, 0, [2]int64{1050, 1400}},
		{"n replies", Request{Messages: []Message{{Content: long}}, Sampling: Sampling{MaxTokens: 50, N: 4}}, 0, [2]int64{1200, 1550}},
		{"by max_completion_tokens", Request{Messages: []Message{{Content: long}}, Sampling: Sampling{Extra: map[string]any{"max_completion_tokens": 70}}}, 0, [2]int64{1070, 1450}},
		{"in the words of Gemini", Request{Messages: []Message{{Content: long}}, Sampling: Sampling{Extra: map[string]any{"generationConfig": map[string]any{"maxOutputTokens": 70, "candidateCount": 2}}}}, 0, [2]int64{1140, 1500}},
		{"by the context", Request{Messages: []Message{{Content: long}}}, 300, [2]int64{600, 600}},
		{"a text to go on with", Request{Prompt: long, Sampling: Sampling{MaxTokens: 1}}, 0, [2]int64{1001, 1400}},
		{"embeddings have no reply", Request{Input: []string{long, long}}, 0, [2]int64{2000, 2400}},
		{"tools", Request{Messages: []Message{{Content: "x"}}, Tools: []Tool{{Description: long}}, Sampling: Sampling{MaxTokens: 1}}, 0, [2]int64{1002, 2600}},
		{"an image", Request{Messages: []Message{{Images: []Image{{URL: "x"}}}}, Sampling: Sampling{MaxTokens: 1}}, 0, [2]int64{imageTokens, imageTokens + 400}},
		{"an image before its text", Request{Messages: []Message{{
			Content: long, Images: []Image{{Data: []byte(long)}},
			Extra: map[string]any{"content": []any{
				map[string]any{"type": "image_url", "image_url": map[string]any{"url": "data:image/png;base64," + strings.Repeat(long, 1000)}},
				map[string]any{"type": "text", "text": long},
			}},
		}}, Sampling: Sampling{MaxTokens: 1}}, 0, [2]int64{imageTokens + 1000, imageTokens + 1400}},
		{"fields of a message", Request{Messages: []Message{{Content: long, Extra: map[string]any{"reasoning_content": long}}}, Sampling: Sampling{MaxTokens: 1}}, 0, [2]int64{2000, 2400}},
	} {
		c, err := Worst(&tt.r, p, tt.context)
		if err != nil || c.Tokens < tt.tokens[0] || c.Tokens > tt.tokens[1] {
			t.Errorf("%s: got %v tokens, %v; want %v", tt.name, c.Tokens, err, tt.tokens)
		}
	}
	opaque, _ := Worst(&Request{Messages: []Message{{Content: "x", Opaque: json.RawMessage(long)}}, Sampling: Sampling{MaxTokens: 1}}, p, 0)
	if opaque.Tokens < 1000 {
		t.Errorf("signed thoughts that go back: got %d tokens, want a token a byte", opaque.Tokens)
	}
	_, err := Worst(&Request{Messages: []Message{{Content: long}}}, p, 0)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Fatal || !strings.Contains(e.Hint, "max_tokens") {
		t.Errorf("a reply without a bound: got %v", err)
	}
}

// However a prompt is priced, its worst case is no less than what it costs.
func TestWorstOfCaches(t *testing.T) {
	hit, write, free := 0.1, 1.25, 0.0
	r := &Request{Messages: []Message{{Content: strings.Repeat("x", 1000)}}, Sampling: Sampling{MaxTokens: 10}}
	for name, p := range map[string]Price{
		"no cache":             {Input: 1, Output: 10},
		"writing costs more":   {Input: 1, Cached: &hit, CacheWrite: &write, Output: 10},
		"reading is free":      {Input: 1, Cached: &free, CacheWrite: &write, Output: 10},
		"writing costs less":   {Input: 1, CacheWrite: &hit, Output: 10},
		"long ones cost more":  {Input: 1, Output: 10, Long: &Long{Above: 100, Input: 1, CacheWrite: &write, Output: 10}},
		"long ones, as others": {Input: 1, CacheWrite: &write, Output: 10, Long: &Long{Above: 1 << 20, Input: 1, Output: 10}},
	} {
		worst, err := Worst(r, &p, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := int(worst.Tokens) - 10
		for _, u := range []Usage{{}, {Tokens: Tokens{CachedTokens: n}}, {Tokens: Tokens{CacheWriteTokens: n}}, {Tokens: Tokens{CachedTokens: n / 2, CacheWriteTokens: n - n/2}}} {
			u.PromptTokens, u.CompletionTokens = n, 10
			if got := p.Cost(u); got.USD > worst.USD*(1+1e-12) {
				t.Errorf("%s: %+v costs %v, and %v was the worst case", name, u, got.USD, worst.USD)
			}
		}
	}
}
