//go:build !matrix_no_anthropic

package registry

import (
	"matrix/llm"
	"matrix/llm/anthropic"
)

func vendorAnthropic(r *Registry) {
	Model(r, "anthropic", anthropicModel, Doc("Anthropic's Claude models, by the Messages API."))
}

func anthropicModel(b Build, c anthropic.Config) (llm.Model, error) {
	c = c.Complete()
	return llm.New(b.Name, c.Service, c.Where(), c.Dial)
}
