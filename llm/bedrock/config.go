// Package bedrock carries chats to Amazon Bedrock by its Converse and
// ConverseStream operations, which serve all its models alike. It makes one try
// at a time and judges what came back; it knows nothing of waiting and retrying.
//
//	https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
//	https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
package bedrock

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

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

// bearer is Bedrock's own API key, which wins over other credentials:
// https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html
const bearer = "AWS_BEARER_TOKEN_BEDROCK"

// Where returns the address to dial: base_url, or the region's own.
func (c Config) Where() (llm.Endpoints, error) {
	conn, err := amazon.Open(c.Account, c.BaseURL, bearer)
	if err != nil {
		return nil, err
	}
	o := bedrockruntime.NewFromConfig(conn.Config).Options()
	if o.BaseEndpoint != nil {
		return llm.Endpoints{{URL: *o.BaseEndpoint}}, nil
	}
	at, err := o.EndpointResolverV2.ResolveEndpoint(context.Background(), bedrockruntime.EndpointParameters{
		Region:       &o.Region,
		UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
	})
	if err != nil {
		return nil, &llm.FieldError{Field: "region", Err: fmt.Errorf("Bedrock has no address in %q: %w", o.Region, err)}
	}
	return llm.Endpoints{{URL: at.URI.String()}}, nil
}

// Dial returns a wire to the service at url. It does not call the service. The
// error is a *llm.FieldError.
func (c Config) Dial(url string) (llm.Wire, error) {
	if c.Model == "" {
		return nil, &llm.FieldError{Field: "model", Err: errors.New("is missing")}
	}
	if !slices.Contains([]string{"", "native", "tool"}, c.Schema) {
		return nil, &llm.FieldError{Field: "schema", Err: fmt.Errorf("got %q, want native or tool", c.Schema)}
	}
	if _, err := document(c.Extra); err != nil {
		return nil, &llm.FieldError{Field: "extra_body", Err: err}
	}
	if _, err := wanted(&llm.Request{Sampling: c.Sampling}); err != nil {
		return nil, &llm.FieldError{Field: "response_format", Err: err}
	}
	conn, err := amazon.Open(c.Account, url, bearer)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, client: bedrockruntime.NewFromConfig(conn.Config), model: c.Model, tool: c.Schema == "tool"}
	if g := c.Guardrail; g != nil {
		if g.ID == "" || g.Version == "" {
			return nil, &llm.FieldError{Field: "guardrail", Err: errors.New("needs id and version")}
		}
		w.guardrail = &types.GuardrailConfiguration{GuardrailIdentifier: &g.ID, GuardrailVersion: &g.Version}
	}
	return w, nil
}
