package vllmgrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"matrix/llm"
)

// request is a GenerateRequest of r. params is what it says beside the prompt.
// A failure is one of llm.Unsupported.
func (w *driver) request(r *llm.Request, id string) (b message, params json.RawMessage, f *llm.Failure) {
	s := &r.Sampling
	prompt := r.Prompt
	switch {
	case r.Input != nil:
		return nil, nil, llm.Unsupported(w.endpoint, "vLLM's gRPC API brings no embeddings", "use kind openai for them")
	case len(r.Tools) > 0 && r.ToolChoice != "none":
		return nil, nil, llm.Unsupported(w.endpoint, "vLLM's gRPC API knows no tools", "use kind openai for them")
	case s.Effort != "":
		return nil, nil, llm.Unsupported(w.endpoint, "vLLM's gRPC API knows no reasoning_effort", "leave it out, or use kind openai")
	}
	if r.Messages != nil {
		for i := range r.Messages {
			if m := &r.Messages[i]; len(m.Images) > 0 || len(m.ToolCalls) > 0 || m.Role == "tool" {
				return nil, nil, llm.Unsupported(w.endpoint, "vLLM's gRPC API takes texts only", "use kind openai for images and tools")
			}
		}
		prompt = w.template.write(r.Messages)
	}
	x, err := options(s.Extra)
	if err != nil {
		return nil, nil, llm.Unsupported(w.endpoint, "extra_body cannot be sent", err.Error())
	}
	format, err := llm.Wanted(r)
	switch {
	case err != nil:
		return nil, nil, llm.Unsupported(w.endpoint, err.Error(), "")
	case format != nil && len(format.Schema) > 0 && !json.Valid(format.Schema):
		return nil, nil, llm.Unsupported(w.endpoint, "the schema is not JSON", "give a JSON Schema")
	}

	said := maps.Clone(s.Extra) // in the words of the API
	if said == nil {
		said = map[string]any{}
	}
	b.text(1, id)
	b.text(2, w.model)
	b.bytes(3, []byte(prompt))
	if s.Temperature != nil {
		b.setFloat(5, *s.Temperature)
		said["temperature"] = *s.Temperature
	}
	b.sub(6, sampling(s, x, said))
	b.sub(7, decoding(s, x, format, said))
	b.sub(8, w.stopping(r, x, said))
	b.sub(9, response(s, x, said))
	var kv message
	kv.text(2, x.CacheSalt)
	b.sub(10, kv)
	b.number(11, uint64(x.Truncate))
	b.number(12, uint64(int64(x.Priority)))
	b.text(15, x.Lora)
	if r.Messages != nil {
		said["template"] = w.template.open
	}
	if params, err = json.Marshal(said); err != nil {
		return nil, nil, llm.Unsupported(w.endpoint, err.Error(), "")
	}
	return b, params, nil
}

// sampling is RandomSampling. n is not sent: the server draws one reply.
func sampling(s *llm.Sampling, x *extra, said map[string]any) (b message) {
	b.number(2, uint64(x.TopK))
	if s.TopP != nil {
		b.float(3, *s.TopP)
		said["top_p"] = *s.TopP
	}
	b.float(4, x.MinP)
	if s.Seed != nil {
		b.setNumber(5, uint64(*s.Seed))
		said["seed"] = *s.Seed
	}
	return b
}

// decoding is DecodingParameters.
func decoding(s *llm.Sampling, x *extra, f *llm.Format, said map[string]any) (b message) {
	if s.PresencePenalty != nil {
		b.float(1, *s.PresencePenalty)
		said["presence_penalty"] = *s.PresencePenalty
	}
	if s.FrequencyPenalty != nil {
		b.float(2, *s.FrequencyPenalty)
		said["frequency_penalty"] = *s.FrequencyPenalty
	}
	b.float(3, x.RepetitionPenalty)
	for _, id := range slices.Sorted(maps.Keys(x.LogitBias)) {
		var entry message
		entry.number(1, uint64(id))
		entry.setFloat(2, x.LogitBias[id])
		b.sub(4, entry)
	}
	b.packed(5, x.AllowedTokens)
	switch {
	case f == nil:
	case f.JSON:
		b.yes(10, true)
		said["json_object"] = true
	case len(f.Schema) > 0:
		b.bytes(6, f.Schema)
		said["json"] = f.Schema
	case f.Regex != "":
		b.text(7, f.Regex)
		said["regex"] = f.Regex
	case len(f.Choice) > 0:
		var choices message
		for _, c := range f.Choice {
			choices.bytes(1, []byte(c))
		}
		b.sub(8, choices)
		said["choice"] = f.Choice
	case f.Grammar != "":
		b.text(9, f.Grammar)
		said["grammar"] = f.Grammar
	}
	return b
}

// stopping is StoppingCriteria. The end of a turn ends a chat's reply, also
// where the model has no token for it.
func (w *driver) stopping(r *llm.Request, x *extra, said map[string]any) (b message) {
	s := &r.Sampling
	b.number(1, uint64(min(s.MaxTokens, math.MaxUint32)))
	if s.MaxTokens > 0 {
		said["max_new_tokens"] = s.MaxTokens
	}
	b.number(2, uint64(x.MinTokens))
	b.packed(3, x.StopTokens)
	for _, t := range s.Stop {
		b.text(4, t)
	}
	if len(s.Stop) > 0 {
		said["stop_strings"] = s.Stop
	}
	if r.Messages != nil {
		b.text(4, w.template.end)
	}
	b.yes(5, x.IncludeStop)
	b.yes(6, x.IgnoreEOS)
	return b
}

// response is ResponseOptions.
func response(s *llm.Sampling, x *extra, said map[string]any) (b message) {
	if s.Logprobs > 0 {
		var top message
		top.number(1, uint64(s.Logprobs))
		b.yes(5, true)
		b.yes(6, true)
		b.sub(7, top)
		said["logprobs"] = s.Logprobs
	}
	if x.SkipSpecial != nil {
		v := uint64(0)
		if *x.SkipSpecial {
			v = 1
		}
		b.setNumber(8, v)
	}
	return b
}

// extra is what extra_body may say: parameters of vLLM's, by the names that its
// OpenAI API gives them.
type extra struct {
	TopK              uint32             `json:"top_k"`
	MinP              float64            `json:"min_p"`
	RepetitionPenalty float64            `json:"repetition_penalty"`
	LogitBias         map[uint32]float64 `json:"logit_bias"`
	AllowedTokens     []uint32           `json:"allowed_token_ids"`
	MinTokens         uint32             `json:"min_tokens"`
	StopTokens        []uint32           `json:"stop_token_ids"`
	IncludeStop       bool               `json:"include_stop_str_in_output"`
	IgnoreEOS         bool               `json:"ignore_eos"`
	SkipSpecial       *bool              `json:"skip_special_tokens"`
	CacheSalt         string             `json:"cache_salt"`
	Truncate          uint32             `json:"truncate_prompt_tokens"`
	Priority          int32              `json:"priority"`
	Lora              string             `json:"lora_name"`
}

var extraNames = []string{
	"top_k", "min_p", "repetition_penalty", "logit_bias", "allowed_token_ids", "min_tokens", "stop_token_ids", "include_stop_str_in_output",
	"ignore_eos", "skip_special_tokens", "cache_salt", "truncate_prompt_tokens", "priority", "lora_name",
}

func options(m map[string]any) (*extra, error) {
	x := &extra{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(extraNames, k) {
			return nil, fmt.Errorf("vLLM's gRPC API has no %q", k)
		}
	}
	b, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(b, x)
	}
	if bad := (*json.UnmarshalTypeError)(nil); errors.As(err, &bad) {
		return nil, fmt.Errorf("%s: got a %s", bad.Field, bad.Value)
	}
	return x, err
}
