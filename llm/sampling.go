package llm

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"time"

	"matrix/internal/regex"
)

// Sampling says how a reply is drawn and brought. What is not set is not sent,
// and the service's own default holds.
type Sampling struct {
	Temperature      *float64       `yaml:"temperature" doc:"Sampling temperature; 0 for the likeliest tokens."`
	TopP             *float64       `yaml:"top_p" doc:"Nucleus sampling: only the likeliest tokens up to this probability mass."`
	MaxTokens        int            `yaml:"max_tokens" doc:"Most tokens of a reply; 0 leaves it to the service."`
	Stop             []string       `yaml:"stop" doc:"Texts at which a reply ends."`
	Seed             *int64         `yaml:"seed" doc:"Seed of the sampler, where the service takes one."`
	N                int            `yaml:"n" doc:"Replies drawn per call; 0, as where it is not set, for what the model says, or else 1."`
	PresencePenalty  *float64       `yaml:"presence_penalty" doc:"Penalty on tokens that occur already."`
	FrequencyPenalty *float64       `yaml:"frequency_penalty" doc:"Penalty on tokens by how often they occur."`
	Logprobs         int            `yaml:"logprobs" doc:"Keep the log probability of each token of the reply, and of so many of the likeliest beside it; 0 for none." default:"0"`
	Effort           string         `yaml:"reasoning_effort" doc:"How long a reasoning model may think, in the service's words: low, medium, high, ..."`
	ResponseFormat   any            `yaml:"response_format" doc:"Sent as it is: {type: json_object}, or {type: json_schema, json_schema: ...}. parse.enforce of a chat says the same for any service."`
	Extra            map[string]any `yaml:"extra_body" secret:"named" doc:"More keys of the request, sent as they are (top_k, min_p, max_completion_tokens, ...). They win over the keys above. What comes from ${env:NAME}, and what has a name like vendor_key, is sent and not shown."`

	Stream *bool         `yaml:"stream" doc:"Have the reply sent as it is drawn: the time to its first token is noted, and a stall is seen early."`
	Stall  time.Duration `yaml:"stall_timeout" free:"true" doc:"Longest wait for the next piece of a streamed reply; then the call is tried again. Sets stream. 0s for no limit."`
	Until  string        `yaml:"until" doc:"Regular expression: the reply ends at once where it matches, behind the match. Sets stream."`
}

// Merge returns base with everything that over sets laid over it. Extra is
// merged key by key.
func Merge(base, over Sampling) Sampling {
	pick(&base.Temperature, over.Temperature, over.Temperature != nil)
	pick(&base.TopP, over.TopP, over.TopP != nil)
	pick(&base.MaxTokens, over.MaxTokens, over.MaxTokens != 0)
	pick(&base.Stop, over.Stop, over.Stop != nil)
	pick(&base.Seed, over.Seed, over.Seed != nil)
	pick(&base.N, over.N, over.N != 0)
	pick(&base.PresencePenalty, over.PresencePenalty, over.PresencePenalty != nil)
	pick(&base.FrequencyPenalty, over.FrequencyPenalty, over.FrequencyPenalty != nil)
	pick(&base.Logprobs, over.Logprobs, over.Logprobs != 0)
	pick(&base.Effort, over.Effort, over.Effort != "")
	pick(&base.Stream, over.Stream, over.Stream != nil)
	pick(&base.Stall, over.Stall, over.Stall != 0)
	pick(&base.Until, over.Until, over.Until != "")
	pick(&base.ResponseFormat, over.ResponseFormat, over.ResponseFormat != nil)
	if len(over.Extra) > 0 {
		extra := maps.Clone(over.Extra)
		for k, v := range base.Extra {
			if _, ok := extra[k]; !ok {
				extra[k] = v
			}
		}
		base.Extra = extra
	}
	return base
}

// Draws is how many replies a call asks for.
func (s *Sampling) Draws() int {
	if n, ok := whole(s.Extra["n"]); ok && n > 0 {
		return int(min(n, 1<<20))
	}
	return max(1, s.N)
}

// Overlay lays over over base, map by map: how extra_body wins over the rest of a
// request. Maps inside base are not changed.
func Overlay(base, over map[string]any) {
	for k, v := range over {
		in, ok := v.(map[string]any)
		if old, was := base[k].(map[string]any); ok && was {
			old = maps.Clone(old)
			Overlay(old, in)
			base[k] = old
			continue
		}
		base[k] = v
	}
}

func pick[T any](dst *T, src T, set bool) {
	if set {
		*dst = src
	}
}

// Check says what no service could take: a *FieldError, or nil.
func (s *Sampling) Check() error {
	for _, f := range []struct {
		key string
		v   *float64
	}{
		{"temperature", s.Temperature}, {"top_p", s.TopP},
		{"presence_penalty", s.PresencePenalty}, {"frequency_penalty", s.FrequencyPenalty},
	} {
		if f.v != nil && (math.IsNaN(*f.v) || math.IsInf(*f.v, 0)) {
			return &FieldError{Field: f.key, Err: fmt.Errorf("%v is not a number that can be sent", *f.v)}
		}
	}
	if s.MaxTokens < 0 {
		return &FieldError{Field: "max_tokens", Err: fmt.Errorf("got %d, want 0 or more", s.MaxTokens)}
	}
	if s.N < 0 {
		return &FieldError{Field: "n", Err: fmt.Errorf("got %d, want 0 or more", s.N)}
	}
	if s.Logprobs < 0 {
		return &FieldError{Field: "logprobs", Err: fmt.Errorf("got %d, want 0 or more", s.Logprobs)}
	}
	if s.Stall < 0 {
		return &FieldError{Field: "stall_timeout", Err: fmt.Errorf("got %v, want 0s or more", s.Stall)}
	}
	if s.Until != "" { // looked at for every call: what is not set costs nothing
		if _, err := regex.Compile(s.Until); err != nil {
			return &FieldError{Field: "until", Err: fmt.Errorf("not a regular expression: %w", err)}
		}
	}
	for _, k := range []string{"model", "messages", "prompt", "input", "stream", "tools"} {
		if _, ok := s.Extra[k]; ok {
			return &FieldError{Field: "extra_body", Err: fmt.Errorf("%q cannot be set here", k)}
		}
	}
	if len(s.Extra) > 0 {
		if _, err := json.Marshal(s.Extra); err != nil {
			return &FieldError{Field: "extra_body", Err: err}
		}
	}
	if s.ResponseFormat != nil {
		if _, err := json.Marshal(s.ResponseFormat); err != nil {
			return &FieldError{Field: "response_format", Err: err}
		}
	}
	return nil
}
