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
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

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
	return c.Account.Where(service())
}

// service is SageMaker's runtime as AWS's configuration has it.
func service() amazon.Service {
	return amazon.Service{
		ID: "SageMaker Runtime", Signing: "sagemaker",
		Host: func(partition, region, suffix string, fips, dual bool) string {
			name := "runtime.sagemaker"
			switch {
			case fips && !dual && partition == "aws":
				name = "runtime-fips.sagemaker"
			case fips && !(partition == "aws-us-gov" && !dual):
				name = "runtime.sagemaker-fips"
			}
			return name + "." + region + "." + suffix
		},
	}
}

// Open returns a driver to the service at url. It does not call the service. The
// error is a *llm.FieldError.
func (c Config) Open(at string) (llm.Driver, error) {
	switch {
	case c.Endpoint == "":
		return nil, &llm.FieldError{Field: "endpoint", Err: errors.New("is missing")}
	case !endpointName.MatchString(c.Endpoint):
		return nil, &llm.FieldError{Field: "endpoint", Err: fmt.Errorf("%q is not a name of an endpoint: give the name, not its ARN or address", c.Endpoint)}
	}
	conn, err := amazon.Open(c.Account, at, service())
	if err != nil {
		return nil, err
	}
	conn.Endpoint = strings.TrimRight(at, "/") + "/endpoints/" + url.PathEscape(c.Endpoint)
	way := &way{conn: conn, path: "/endpoints/" + url.PathEscape(c.Endpoint) + "/", header: http.Header{}}
	for name, v := range map[string]string{"Inference-Component": c.Component, "Target-Variant": c.Variant, "Custom-Attributes": c.Attributes} {
		if v != "" {
			way.header.Set(prefix+name, v)
		}
	}
	driver, err := openai.New(openai.Options{
		BaseURL: conn.Endpoint, Exact: true, Model: c.Model, Server: cmp.Or(c.Server, "openai"), Transport: way,
	})
	if err != nil {
		return nil, err
	}
	return &sagemaker{conn, driver}, nil
}
