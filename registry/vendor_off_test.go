//go:build matrix_no_anthropic || matrix_no_gemini || matrix_no_aws

package registry

import (
	"fmt"
	"strings"
	"testing"
)

func TestKindsThatAreLeftOut(t *testing.T) {
	said := 0
	for kind, tag := range map[string]string{"anthropic": "matrix_no_anthropic", "gemini": "matrix_no_gemini", "vertex": "matrix_no_gemini",
		"bedrock": "matrix_no_aws", "sagemaker": "matrix_no_aws"} {
		_, _, err := build(t, fmt.Sprintf(vendorConfig, "kind: "+kind+", model: x, cache: true"))
		if err != nil && strings.Contains(err.Error(), "models.m.kind") && strings.Contains(err.Error(), tag) {
			said++
		}
	}
	if said == 0 {
		t.Error("no kind says that it was left out")
	}
}
