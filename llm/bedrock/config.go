// Package bedrock carries chats to Amazon Bedrock by its Converse and
// ConverseStream operations, which serve all its models alike. It makes one try
// at a time and judges what came back; it knows nothing of waiting and retrying.
//
//	https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
//	https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
package bedrock

import (
	"errors"
	"fmt"
	"slices"

	"matrix/llm"
	"matrix/llm/internal/amazon"
)

// Config says which model of Bedrock is called, and as whom.
type Config struct {
	Model          string `yaml:"model" required:"true" doc:"Model ID, inference profile, or their ARN: us.anthropic.claude-sonnet-4-5-20250929-v1:0."`
	amazon.Account `yaml:",inline"`
	Guardrail      *Guardrail `yaml:"guardrail" doc:"Guardrail that judges prompts and replies; where it steps in, the call fails as refused."`
	Schema         string     `yaml:"schema" doc:"How a reply is held to a JSON Schema: native, by the service's structured output; or tool, for models without it, by a tool that the model must call." default:"native" enum:"native,tool"`
	llm.Service    `yaml:",inline"`
}

// Guardrail is one that was made in Bedrock.
type Guardrail struct {
	ID      string `yaml:"id" required:"true" doc:"ID of the guardrail, or its ARN."`
	Version string `yaml:"version" required:"true" doc:"Its version, or DRAFT."`
}

// service is Bedrock as AWS's configuration has it. Its own API key wins over
// other credentials:
// https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html
func service() amazon.Service {
	return amazon.Service{
		ID: "Bedrock Runtime", Signing: "bedrock", Bearer: "AWS_BEARER_TOKEN_BEDROCK",
		Host: func(_, region, suffix string, fips, _ bool) string {
			name := "bedrock-runtime"
			if fips {
				name += "-fips"
			}
			return name + "." + region + "." + suffix
		},
	}
}

// Where returns the address to dial: base_url, or the region's own.
func (c Config) Where() (llm.Endpoints, error) {
	return c.Account.Where(service())
}

// Open returns a driver to the service at url. It does not call the service. The
// error is a *llm.FieldError.
func (c Config) Open(url string) (llm.Driver, error) {
	if c.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing")}
	}
	if !slices.Contains([]string{"", "native", "tool"}, c.Schema) {
		return nil, &llm.FieldError{Field: "schema", Err: fmt.Errorf("got %q, want native or tool", c.Schema)}
	}
	if _, err := document(c.Extra); err != nil {
		return nil, &llm.FieldError{Field: "extra_body", Err: err}
	}
	w := &driver{model: c.Model, tool: c.Schema == "tool"}
	r := &llm.Request{Sampling: c.Sampling}
	format, err := llm.Wanted(r)
	if err != nil {
		return nil, err
	}
	if format != nil {
		if f := w.shape(&request{}, r, format); f != nil {
			return nil, &llm.FieldError{Field: "response_format", Err: errors.New(f.Msg + ": " + f.Hint)}
		}
	}
	if w.conn, err = amazon.Open(c.Account, url, service()); err != nil {
		return nil, err
	}
	if g := c.Guardrail; g != nil {
		if g.ID == "" || g.Version == "" {
			return nil, &llm.FieldError{Field: "guardrail", Err: errors.New("needs id and version")}
		}
		w.guardrail = &guardrail{g.ID, g.Version}
	}
	return w, nil
}
