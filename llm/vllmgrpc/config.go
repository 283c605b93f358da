// Package vllmgrpc carries calls to vLLM by the gRPC services of its Rust
// frontend (vllm-rs serve --grpc-port): vllm.Inference and vllm.Control, and
// vllm.Generate of older ones. They take a text and bring a text, without chat
// templates, tools and reasoning parsers: a chat is written out by one of the
// templates here. The package makes one try at a time and judges what came back;
// it knows nothing of waiting and retrying.
//
//	https://github.com/vllm-project/vllm/blob/main/rust/proto/inference.proto
//	https://github.com/vllm-project/vllm/blob/main/rust/proto/control.proto
//	https://docs.rs/crate/vllm-proto/latest
//
// The other gRPC API of vLLM, vllm.grpc.engine (vllm serve --grpc, of the package
// smg-grpc-servicer), brings token ids instead of texts; it is not spoken here.
//
// gRPC itself is spoken over net/http: what is needed of it is little, and so
// failures of connections are told as everywhere.
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
package vllmgrpc

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"matrix/llm"
)

// Config says how to reach vLLM's gRPC port.
type Config struct {
	BaseURL     string        `yaml:"base_url" free:"true" doc:"Address of the gRPC port: http://HOST:PORT, or https:// for TLS. endpoints says the same of several."`
	Endpoints   llm.Endpoints `yaml:"endpoints" free:"true" doc:"Addresses of servers that serve the same model: a list of base URLs, or where to learn of them (file, command, dns)."`
	Model       string        `yaml:"model" doc:"The model's name at the server. May be left out, as a server has only one."`
	APIKey      string        `yaml:"api_key" secret:"true" free:"true" doc:"Sent as bearer token, for a proxy that wants one. Take it from the environment: ${env:NAME}."`
	Template    string        `yaml:"template" doc:"How a chat is written out, as the server does not: the format that the model was trained on. Required for chats; prompts to be continued go as they are." enum:"chatml,llama3,gemma"`
	llm.Service `yaml:",inline"`
}

// Where returns the addresses to dial.
func (c Config) Where() (llm.Endpoints, error) {
	switch {
	case c.BaseURL != "" && len(c.Endpoints) > 0:
		return nil, &llm.FieldError{Field: "endpoints", Err: errors.New("a model has base_url or endpoints, not both")}
	case c.BaseURL != "":
		return llm.Endpoints{{URL: c.BaseURL}}, nil
	case len(c.Endpoints) == 0:
		return nil, &llm.FieldError{Field: "base_url", Err: errors.New("is missing: write the address of the gRPC port, such as http://127.0.0.1:50051, or endpoints")}
	}
	return c.Endpoints, nil
}

// Open returns a driver to the server at base. It does not call the server. The
// error is a *llm.FieldError.
func (c Config) Open(base string) (llm.Driver, error) {
	base, addr := llm.Pinned(base)
	u, err := parse(base)
	if err != nil {
		return nil, &llm.FieldError{Field: "base_url", Err: err}
	}
	w := &driver{model: c.Model, key: c.APIKey}
	if c.Template != "" {
		t, ok := templates[c.Template]
		if !ok {
			return nil, &llm.FieldError{Field: "template", Err: fmt.Errorf("there is no template %q; there are %s", c.Template, names())}
		}
		w.template = &t
	}
	if strings.ContainsFunc(c.APIKey, func(r rune) bool { return r < '!' || r > '~' }) {
		return nil, &llm.FieldError{Field: "api_key", Err: errors.New("holds a blank, a line break or a character that no key has")}
	}
	if _, err := llm.Wanted(&llm.Request{Sampling: c.Sampling}); err != nil {
		return nil, err
	}
	if _, err := options(c.Extra); err != nil {
		return nil, &llm.FieldError{Field: "extra_body", Err: err}
	}
	w.secrets.Add(c.APIKey)
	w.connect(u, addr)
	return w, nil
}

// parse reads a base URL.
func parse(base string) (*url.URL, error) {
	if !strings.Contains(base, "://") {
		return nil, fmt.Errorf("%q has no scheme; write http://HOST:PORT, or https:// for TLS", base)
	}
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the scheme is %q, want http, or https for TLS", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("names no host")
	case u.User != nil || u.RawQuery != "":
		return nil, errors.New("has credentials or a query, which gRPC does not take: leave them out")
	case strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("has a path, %s, which gRPC does not take: leave it out", u.Path)
	}
	return u, nil
}
