package registry

import (
	"cmp"
	"errors"
	"maps"
	"os"

	"matrix/lang"
	"matrix/llm"
	"matrix/llm/anthropic"
	"matrix/llm/azure"
	"matrix/llm/bedrock"
	"matrix/llm/gemini"
	"matrix/llm/openai"
	"matrix/llm/sagemaker"
	"matrix/llm/vllmgrpc"
)

// vendorKinds adds the kinds of models that are vendors' services.
func vendorKinds(r *Registry) {
	Model(r, "anthropic", anthropicModel, Doc("Anthropic's Claude models, by the Messages API."))
	Model(r, "gemini", geminiModel, Doc("Google's Gemini models, by the Gemini API, or by Vertex AI with vertex: true."))
	Model(r, "vertex", vertexModel, Doc("Google's Gemini models by Vertex AI: gemini with vertex: true."))
	Model(r, "azure", azureModel, Doc("A deployment of Azure OpenAI, by a key or Entra ID."))
	Model(r, "openrouter", openRouterModel, Doc("Any model that OpenRouter has, with what each call cost."))
	Model(r, "llama-api", llamaModel, Doc("Meta's Llama models, by the Llama API."))
	Model(r, "bedrock", bedrockModel, Doc("Any model of Amazon Bedrock, by its Converse API, with credentials as AWS's own tools find them."))
	Model(r, "sagemaker", sageMakerModel, Doc("An Amazon SageMaker endpoint whose container speaks the OpenAI schema (LMI, vLLM, TGI), with credentials as AWS's own tools find them."))
	Model(r, "vllm-grpc", vllmGRPCModel, Doc("vLLM by the gRPC port of its Rust frontend (--grpc-port): texts to be continued, and chats written out by a template."))
}

// Vendor is a service that speaks the OpenAI API at a known address.
type Vendor struct {
	BaseURL string
	KeyName string // of the environment variable that holds the key
}

// Vendors are services that speak the OpenAI API, by their short names. Vendors
// with kinds of their own are not among them.
func Vendors() map[string]Vendor {
	return map[string]Vendor{
		"openai":    {"https://api.openai.com/v1", "OPENAI_API_KEY"},
		"cerebras":  {"https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"},
		"deepseek":  {"https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"},
		"fireworks": {"https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"},
		"groq":      {"https://api.groq.com/openai/v1", "GROQ_API_KEY"},
		"mistral":   {"https://api.mistral.ai/v1", "MISTRAL_API_KEY"},
		"together":  {"https://api.together.xyz/v1", "TOGETHER_API_KEY"},
		"xai":       {"https://api.x.ai/v1", "XAI_API_KEY"},
	}
}

// remote is a service that is called and not started: where it is, and how it is
// reached at one address.
type remote interface {
	Where() (llm.Endpoints, error)
	Open(url string) (llm.Driver, error)
}

// called makes the model named model of c. It refuses serve, unless the config
// gives an address, which may be of the servers: others would be started that
// nobody calls.
func called(b Build, c remote, addressed bool, model string, s llm.Service) (llm.Model, error) {
	if len(b.Served) > 0 && !addressed {
		return nil, &lang.FieldError{Field: "serve", Err: errors.New("is for models of kind openai, whose servers it can start; a model of this kind is elsewhere: leave it out, or have base_url lead to a port of yours where the kind has one")}
	}
	at, err := c.Where()
	if err != nil {
		return nil, err
	}
	s.Named = model
	return llm.New(b.Name, s, at, c.Open)
}

func anthropicModel(b Build, c anthropic.Config) (llm.Model, error) {
	b.notes.writes[b.Name] = anthropic.CacheWrite
	c.MaxTokens = cmp.Or(c.MaxTokens, anthropic.DefaultMaxTokens) // the service must be told; so a call's worst case is known
	return called(b, c, c.BaseURL != "", c.Model, c.Service)
}

func geminiModel(b Build, c gemini.Config) (llm.Model, error) {
	return called(b, c, c.BaseURL != "", c.Model, c.Service)
}

func vertexModel(b Build, c gemini.Config) (llm.Model, error) {
	c.Vertex = true
	return geminiModel(b, c)
}

func azureModel(b Build, c azure.Config) (llm.Model, error) {
	return called(b, c, false, c.Model, c.Service)
}

func bedrockModel(b Build, c bedrock.Config) (llm.Model, error) {
	return called(b, c, c.BaseURL != "", c.Model, c.Service)
}

func sageMakerModel(b Build, c sagemaker.Config) (llm.Model, error) {
	return called(b, c, c.BaseURL != "", c.Model, c.Service)
}

func vllmGRPCModel(b Build, c vllmgrpc.Config) (llm.Model, error) {
	return called(b, c, c.BaseURL != "" || len(c.Endpoints) > 0, c.Model, c.Service)
}

// openRouter is a section of kind openrouter:
// https://openrouter.ai/docs/api-reference/overview. Its replies tell what they
// cost without being asked: .../docs/use-cases/usage-accounting.
type openRouter struct {
	BaseURL     string            `yaml:"base_url" free:"true" doc:"Address of the API." default:"https://openrouter.ai/api/v1"`
	Model       string            `yaml:"model" required:"true" doc:"Name of the model, with its author: meta-llama/llama-3.3-70b-instruct."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Default: OPENROUTER_API_KEY from the environment."`
	Provider    map[string]any    `yaml:"provider" doc:"Which providers may answer, and in which order, as OpenRouter's provider routing says it."`
	Referer     string            `yaml:"referer" free:"true" doc:"Site of your application, for OpenRouter's rankings; sent as HTTP-Referer."`
	Title       string            `yaml:"title" free:"true" doc:"Name of your application; sent as X-Title."`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers."`
	llm.Service `yaml:",inline"`
}

func openRouterModel(b Build, c openRouter) (llm.Model, error) {
	o, err := c.options()
	if err != nil {
		return nil, err
	}
	if c.Provider != nil {
		c.Sampling = llm.Merge(llm.Sampling{Extra: map[string]any{"provider": c.Provider}}, c.Sampling)
	}
	return called(b, preset(o), false, c.Model, c.Service)
}

func (c *openRouter) options() (openai.Options, error) {
	key, err := keyOf(c.APIKey, "OPENROUTER_API_KEY")
	headers := map[string]string{}
	for name, v := range map[string]string{"HTTP-Referer": c.Referer, "X-Title": c.Title} {
		if v != "" {
			headers[name] = v
		}
	}
	maps.Copy(headers, c.Headers)
	return openai.Options{BaseURL: c.BaseURL, Model: c.Model, APIKey: key, Header: headers, Server: "openai"}, err
}

// llamaAPI is a section of kind llama-api:
// https://llama.developer.meta.com/docs/features/compatibility.
type llamaAPI struct {
	BaseURL     string            `yaml:"base_url" free:"true" doc:"Address of the API." default:"https://api.llama.com/compat/v1"`
	Model       string            `yaml:"model" required:"true" doc:"Name of the model, like Llama-3.3-70B-Instruct."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Default: LLAMA_API_KEY from the environment."`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers."`
	llm.Service `yaml:",inline"`
}

func llamaModel(b Build, c llamaAPI) (llm.Model, error) {
	o, err := c.options()
	if err != nil {
		return nil, err
	}
	return called(b, preset(o), false, c.Model, c.Service)
}

func (c *llamaAPI) options() (openai.Options, error) {
	key, err := keyOf(c.APIKey, "LLAMA_API_KEY")
	return openai.Options{BaseURL: c.BaseURL, Model: c.Model, APIKey: key, Header: c.Headers, Server: "openai"}, err
}

// preset is a service that speaks the OpenAI API at one address.
type preset openai.Options

func (p preset) Where() (llm.Endpoints, error) { return llm.Endpoints{{URL: p.BaseURL}}, nil }

func (p preset) Open(url string) (llm.Driver, error) {
	p.BaseURL = url
	return openai.New(openai.Options(p))
}

// keyOf returns a key of the config's, or the environment's.
func keyOf(key, name string) (string, error) {
	key = cmp.Or(key, os.Getenv(name))
	if key == "" {
		return "", &lang.FieldError{Field: "api_key", Err: errors.New("there is no key: set " + name + " in the environment")}
	}
	return key, nil
}
