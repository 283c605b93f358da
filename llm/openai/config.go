package openai

import "matrix/llm"

// Config says how to reach a service that speaks the OpenAI API.
type Config struct {
	BaseURL     string            `yaml:"base_url" free:"true" doc:"Address of an OpenAI-compatible server, with or without /v1. endpoints says the same of several."`
	Endpoints   llm.Endpoints     `yaml:"endpoints" free:"true" doc:"Addresses of servers that serve the same model: a list of base URLs, or where to learn of them (file, command, dns)."`
	Model       string            `yaml:"model" doc:"The model's name at the server. May be left out where the server has only one."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Sent as bearer token. Take it from the environment: ${env:NAME}."`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers."`
	Server      string            `yaml:"server" free:"true" doc:"What serves: it decides how a format is asked for. auto finds out." default:"auto" enum:"auto,openai,vllm,sglang,llama.cpp,ollama,tensorrt-llm"`
	HTTP2       bool              `yaml:"http2" free:"true" doc:"h2c: HTTP/2 without TLS, for tens of thousands of calls at once; the server must speak it. With TLS, HTTP/2 is used where the server has it." default:"false"`
	llm.Service `yaml:",inline"`
}

// Open returns a driver to the server at url, a base URL with or without /v1. It
// does not call the server. The error is a *llm.FieldError.
func (c Config) Open(url string) (llm.Driver, error) {
	return New(Options{
		BaseURL: url, Model: c.Model, APIKey: c.APIKey, Header: c.Headers, Server: c.Server, H2C: c.HTTP2,
	})
}
