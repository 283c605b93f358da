package anthropic

import "matrix/llm"

// Config says which model of Anthropic's is called, and as whom.
type Config struct {
	BaseURL     string            `yaml:"base_url" free:"true" doc:"Address of the API. Default: ANTHROPIC_BASE_URL from the environment, or https://api.anthropic.com."`
	Model       string            `yaml:"model" required:"true" doc:"Name of the model, like claude-sonnet-4-5."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Default: ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN from the environment, or a profile of Anthropic's tools."`
	Cache       bool              `yaml:"cache" free:"true" doc:"Have the service cache the system message and the conversation so far, for the calls that begin with them. Writing costs a quarter more than input, reading a tenth." default:"false"`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers, like anthropic-beta."`
	llm.Service `yaml:",inline"`
}

// CacheWrite is how many times as much as input it costs to have the service
// write into its cache, for 5 minutes, whatever the model:
// https://platform.claude.com/docs/en/about-claude/pricing.
const CacheWrite = 1.25

// Where returns the address to dial.
func (c Config) Where() (llm.Endpoints, error) {
	return llm.Endpoints{{URL: c.address()}}, nil
}

// Open returns a driver to the service at url. It does not call the service. The
// error is a *llm.FieldError.
func (c Config) Open(url string) (llm.Driver, error) {
	c.BaseURL = url
	return New(c)
}
