package llm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Price is what a model costs, in US dollars. The zero Price is free.
type Price struct {
	Input      float64  `yaml:"input" doc:"Per million tokens of prompts."`
	Cached     *float64 `yaml:"cached" doc:"Per million tokens of prompts that the service had cached. Default: as input."`
	CacheWrite *float64 `yaml:"cache_write" doc:"Per million tokens of prompts that the service wrote into its cache. Default: as input; of kind anthropic 1.25 times as much."`
	Output     float64  `yaml:"output" doc:"Per million tokens of replies, reasoning included."`
	Image      float64  `yaml:"image" doc:"Per image sent, beside its tokens."`
	Long       *Long    `yaml:"long" doc:"What a call with a long prompt costs instead, where that is more."`
	GPUHour    float64  `yaml:"gpu_hour" doc:"Of a model on machines of your own: per hour and GPU, while the run works."`
	GPUs       float64  `yaml:"gpus" doc:"GPUs that gpu_hour is paid for." default:"1"`
}

// Long is the price of calls with long prompts.
type Long struct {
	Above      int      `yaml:"above" required:"true" doc:"Prompts of more tokens than this are long."`
	Input      float64  `yaml:"input" doc:"Per million tokens of prompts, all of them."`
	Cached     *float64 `yaml:"cached" doc:"Per million tokens of prompts that the service had cached. Default: as input."`
	CacheWrite *float64 `yaml:"cache_write" doc:"Per million tokens of prompts that the service wrote into its cache. Default: as above."`
	Output     float64  `yaml:"output" doc:"Per million tokens of replies."`
}

// Check says what is wrong with p: a *FieldError, or nil.
func (p *Price) Check() error {
	fields := map[string]float64{"input": p.Input, "output": p.Output, "image": p.Image, "gpu_hour": p.GPUHour, "gpus": p.GPUs}
	fields["cached"], fields["cache_write"] = deref(p.Cached), deref(p.CacheWrite)
	if l := p.Long; l != nil {
		fields["long.above"], fields["long.input"], fields["long.output"] = float64(l.Above), l.Input, l.Output
		fields["long.cached"], fields["long.cache_write"] = deref(l.Cached), deref(l.CacheWrite)
	}
	var errs []error
	for _, key := range []string{"input", "cached", "cache_write", "output", "image", "long.above", "long.input", "long.cached", "long.cache_write", "long.output", "gpu_hour", "gpus"} {
		if v := fields[key]; v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			errs = append(errs, &FieldError{Field: key, Err: fmt.Errorf("got %v, want 0 or more", v)})
		}
	}
	return errors.Join(errs...)
}

// WriteAt sets what tokens cost that are written into a cache, in times of input,
// where p does not say.
func (p *Price) WriteAt(times float64) {
	set := func(write **float64, input float64) {
		if *write == nil {
			input *= times
			*write = &input
		}
	}
	set(&p.CacheWrite, p.Input)
	if p.Long != nil {
		l := *p.Long
		set(&l.CacheWrite, l.Input)
		p.Long = &l
	}
}

// Hourly is what p costs an hour, however many calls are made.
func (p *Price) Hourly() float64 { return p.GPUHour * p.GPUs }

// tokens prices tokens: those read from a cache and written into it are part of
// the prompt's.
func (p *Price) tokens(u *Usage) float64 {
	in, hit, write, out := p.Input, p.Cached, p.CacheWrite, p.Output
	if l := p.Long; l != nil && u.PromptTokens > l.Above {
		in, hit, write, out = l.Input, l.Cached, l.CacheWrite, l.Output
	}
	if hit == nil {
		hit = &in
	}
	if write == nil {
		write = &in
	}
	cached := max(0, min(u.CachedTokens, u.PromptTokens))
	written := max(0, min(u.CacheWriteTokens, u.PromptTokens-cached))
	fresh := u.PromptTokens - cached - written
	return (in*float64(fresh) + *hit*float64(cached) + *write*float64(written) + out*float64(u.CompletionTokens)) / 1e6
}

// Cost is what a call cost that used u. Where the service said what it
// charges, that holds.
func (p *Price) Cost(u Usage) Cost {
	c := Cost{USD: u.USD, Tokens: int64(u.PromptTokens) + int64(u.CompletionTokens)}
	if c.USD == 0 {
		c.USD = p.tokens(&u) + p.Image*float64(u.Images)
	}
	return c
}

// What a prompt has at most, beside a token for each byte of its texts: no
// tokenizer that begins with bytes makes more of them. The rest is what chat
// templates and services put around the texts.
const (
	callTokens    = 256    // a system message of the template's own
	messageTokens = 16     // markers of a message
	toolTokens    = 1024   // instructions on tools
	imageTokens   = 16_384 // an image, which services scale down to about that at most
)

// Worst is the most that a call of r may cost: r's sampling is complete, and
// context is the longest prompt and reply together that the model takes; 0
// unknown. A reply without any bound is an *Error of Kind Fatal.
func Worst(r *Request, p *Price, context int) (Cost, error) {
	prompt, images := promptTokens(r)
	var reply int64
	if r.Input == nil {
		n, limit := drawn(&r.Sampling)
		switch {
		case limit > 0 && context > 0:
			limit = min(limit, int64(context))
		case limit == 0 && context == 0:
			return Cost{}, &Error{
				Kind: Fatal, Msg: "under a budget each reply needs a bound, and this one has none",
				Hint: "set max_tokens, at the role or at the model",
			}
		case limit == 0:
			limit = int64(context)
		}
		reply = n * limit
		if context > 0 {
			prompt = min(prompt, int64(context)) // a longer one is refused
		}
	}
	usd := max(p.Input, deref(p.Cached), deref(p.CacheWrite))*float64(prompt) + p.Output*float64(reply)
	if l := p.Long; l != nil && prompt > int64(l.Above) {
		usd = max(usd, max(l.Input, deref(l.Cached), deref(l.CacheWrite))*float64(prompt)+l.Output*float64(reply))
	}
	return Cost{USD: usd/1e6 + p.Image*float64(images), Tokens: prompt + reply}, nil
}

func deref(x *float64) float64 {
	if x == nil {
		return 0
	}
	return *x
}

// promptTokens bounds the tokens of what r sends.
func promptTokens(r *Request) (n int64, images int) {
	n = callTokens + int64(len(r.Prompt))
	for i := range r.Messages {
		m := &r.Messages[i]
		n += messageTokens + int64(len(m.Role)+len(m.Content)+len(m.ToolCallID)+len(m.ToolName)+len(m.Opaque))
		images += len(m.Images)
		for k, v := range m.Extra {
			if k == "content" { // in the place of the one above
				n += max(0, inJSON(withoutImages(v, len(m.Images)))-int64(len(m.Content)))
				continue
			}
			n += int64(len(k)) + inJSON(v)
		}
		for _, c := range m.ToolCalls {
			n += messageTokens + int64(len(c.ID)+len(c.Name)+len(c.Arguments))
		}
	}
	for _, s := range r.Input {
		n += messageTokens + int64(len(s))
	}
	if len(r.Tools) > 0 {
		n += toolTokens
	}
	for i := range r.Tools {
		t := &r.Tools[i]
		n += messageTokens + int64(len(t.Name)+len(t.Description)+len(t.Parameters))
	}
	if f := r.Format; f != nil {
		n += toolTokens + int64(len(f.Schema)+len(f.Name)+len(f.Regex)+len(f.Grammar))
		for _, c := range f.Choice {
			n += int64(len(c)) + 4
		}
	}
	n += inJSON(r.Sampling.ResponseFormat) + inJSON(r.Sampling.Extra) // a template may show it to the model
	return n + int64(images)*imageTokens, images
}

// withoutImages is content without its first n images, which have tokens of their
// own.
func withoutImages(content any, n int) any {
	parts, ok := content.([]any)
	if !ok {
		return content
	}
	return slices.DeleteFunc(slices.Clone(parts), func(p any) bool {
		part, _ := p.(map[string]any)
		if part["type"] != "image_url" || n == 0 {
			return false
		}
		n--
		return true
	})
}

// inJSON is the bytes of v in JSON; of nothing, 0.
func inJSON(v any) int64 {
	if m, ok := v.(map[string]any); v == nil || ok && len(m) == 0 {
		return 0
	}
	j, err := json.Marshal(v)
	if err != nil {
		return 0 // not sent either
	}
	return int64(len(j))
}

// drawn is how many replies are drawn, and how many tokens each has at most; 0
// is unknown. Services read these from extra_body under names of their own, at
// its top or further in (generationConfig.maxOutputTokens).
func drawn(s *Sampling) (n, limit int64) {
	n, limit = max(1, int64(s.N)), int64(s.MaxTokens)
	var look func(v any)
	look = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, x := range v {
				if number, ok := whole(x); ok {
					switch strings.ToLower(strings.ReplaceAll(key, "_", "")) {
					case "n", "bestof", "candidatecount":
						n = max(n, number)
					case "maxtokens", "maxcompletiontokens", "maxoutputtokens", "maxtokenstosample", "maxnewtokens", "maxgenlen":
						limit = max(limit, number)
					}
				} else {
					look(x)
				}
			}
		case []any:
			for _, x := range v {
				look(x)
			}
		}
	}
	look(map[string]any(s.Extra))
	return n, limit
}

// whole reads a number of a config.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case float64:
		return int64(math.Ceil(v)), true
	}
	return 0, false
}
