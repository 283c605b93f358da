// Package sagemaker carries calls to Amazon SageMaker endpoints whose container
// takes the OpenAI schema at /invocations, as the containers of LMI (DJL
// Serving), vLLM and TGI do. The bodies are package openai's; the way is
// InvokeEndpoint and InvokeEndpointWithResponseStream. It makes one try at a time
// and judges what came back; it knows nothing of waiting and retrying.
//
//	https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
//	https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointWithResponseStream.html
//	https://docs.djl.ai/docs/serving/serving/docs/lmi/user_guides/chat_input_output_schema.html
package sagemaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sagemakerruntime"

	"matrix/llm"
	"matrix/llm/internal/amazon"
	"matrix/llm/openai"
)

// Config says which endpoint is called, and as whom.
type Config struct {
	Endpoint       string `yaml:"endpoint" required:"true" doc:"Name of the SageMaker endpoint."`
	Component      string `yaml:"inference_component" doc:"Inference component of the endpoint, where it has several."`
	Variant        string `yaml:"variant" doc:"Production variant of the endpoint; without it, by the endpoint's weights."`
	Attributes     string `yaml:"custom_attributes" doc:"Sent as custom attributes: accept_eula=true, ..."`
	Model          string `yaml:"model" doc:"Sent as model in the body, where the container wants one."`
	Server         string `yaml:"server" free:"true" doc:"What the container serves with: it decides how a format is asked for." default:"openai" enum:"openai,vllm,sglang,llama.cpp,tensorrt-llm"`
	amazon.Account `yaml:",inline"`
	llm.Service    `yaml:",inline"`
}

var endpointName = regexp.MustCompile(`^[a-zA-Z0-9](-*[a-zA-Z0-9])*$`)

// Where returns the address to dial: base_url, or the region's own.
func (c Config) Where() (llm.Endpoints, error) {
	conn, err := amazon.Open(c.Account, c.BaseURL)
	if err != nil {
		return nil, err
	}
	o := sagemakerruntime.NewFromConfig(conn.Config).Options()
	if o.BaseEndpoint != nil {
		return llm.Endpoints{{URL: *o.BaseEndpoint}}, nil
	}
	at, err := o.EndpointResolverV2.ResolveEndpoint(context.Background(), sagemakerruntime.EndpointParameters{
		Region:       &o.Region,
		UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
	})
	if err != nil {
		return nil, &llm.FieldError{Field: "region", Err: fmt.Errorf("SageMaker has no address in %q: %w", o.Region, err)}
	}
	return llm.Endpoints{{URL: at.URI.String()}}, nil
}

// Dial returns a wire to the service at url. It does not call the service. The
// error is a *llm.FieldError.
func (c Config) Dial(at string) (llm.Wire, error) {
	switch {
	case c.Endpoint == "":
		return nil, &llm.FieldError{Field: "endpoint", Err: errors.New("is missing")}
	case !endpointName.MatchString(c.Endpoint):
		return nil, &llm.FieldError{Field: "endpoint", Err: fmt.Errorf("%q is no name of an endpoint: give the name, not its ARN or address", c.Endpoint)}
	}
	conn, err := amazon.Open(c.Account, at)
	if err != nil {
		return nil, err
	}
	client := sagemakerruntime.NewFromConfig(conn.Config)
	conn.Endpoint = strings.TrimRight(at, "/") + "/endpoints/" + url.PathEscape(c.Endpoint)
	way := &way{
		conn: conn, client: client, endpoint: c.Endpoint,
		component: given(c.Component), variant: given(c.Variant), attributes: given(c.Attributes),
	}
	wire, err := openai.NewWire(openai.Options{
		BaseURL: conn.Endpoint, Exact: true, Model: c.Model, Server: cmp.Or(c.Server, "openai"), Transport: way,
	})
	if err != nil {
		return nil, err
	}
	return &sagemaker{conn, wire}, nil
}

// given is a pointer to s; nil where it is empty.
func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
