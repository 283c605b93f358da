//go:build matrix_no_anthropic || matrix_no_gemini || matrix_no_aws

package registry

import (
	"fmt"

	"matrix/lang"
	"matrix/llm"
)

// leftOut adds a kind that this binary does not have, and says why.
func leftOut(r *Registry, name, tag string) {
	Model(r, name, func(Build, struct {
		Own map[string]any `yaml:",inline"`
	}) (llm.Model, error) {
		return nil, &lang.FieldError{Field: "kind", Err: fmt.Errorf("%s is not in this binary, which was built with -tags %s", name, tag)}
	}, Doc("Not in this binary: built with -tags "+tag+"."))
}
