package registry

import (
	"matrix/llm"
	"matrix/llm/anthropic"
)

func vendorAnthropic(r *Registry) {
	Model(r, "anthropic", anthropicModel, Doc("Anthropic's Claude models, by the Messages API."))
}

func anthropicModel(b Build, c anthropic.Config) (llm.Model, error) {
	if err := elsewhere(b, c.BaseURL); err != nil {
		return nil, err
	}
	b.notes.writes[b.Name] = anthropic.CacheWrite
	if c.MaxTokens == 0 {
		c.MaxTokens = anthropic.DefaultMaxTokens // the service must be told; so a call's worst case is known
	}
	c.Named = c.Model
	return llm.New(b.Name, c.Service, c.Where(), c.Open)
}
