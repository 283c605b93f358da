package anthropic

import "matrix/llm"

// Config says which model of Anthropic's is called, and as whom.
type Config struct {
	BaseURL     string            `yaml:"base_url" free:"true" doc:"Address of the API. Absent: ANTHROPIC_BASE_URL of the environment, or https://api.anthropic.com."`
	Model       string            `yaml:"model" required:"true" doc:"Name of the model, like claude-sonnet-4-5."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Absent: ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN of the environment, or a profile of Anthropic's tools."`
	Cache       bool              `yaml:"cache" free:"true" doc:"Have the service cache the system message and the conversation so far, for the calls that begin with them. Writing costs a quarter more than input, reading a tenth." default:"false"`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers, like anthropic-beta."`
	llm.Service `yaml:",inline"`
}

// Complete returns c with what the service does where the config does not say:
// each call has a bound on its reply, and writing into the cache costs a quarter
// more than input.
func (c Config) Complete() Config {
	if c.MaxTokens == 0 {
		c.MaxTokens = DefaultMaxTokens
	}
	if c.Price == nil {
		return c
	}
	p := *c.Price
	dearer := func(write *float64, input float64) *float64 {
		if write == nil {
			write = new(float64)
			*write = 1.25 * input
		}
		return write
	}
	p.CacheWrite = dearer(p.CacheWrite, p.Input)
	if l := p.Long; l != nil {
		long := *l
		long.CacheWrite = dearer(l.CacheWrite, l.Input)
		p.Long = &long
	}
	c.Price = &p
	return c
}

// Where returns the address to dial.
func (c Config) Where() llm.Endpoints {
	return llm.Endpoints{{URL: Options{BaseURL: c.BaseURL}.address()}}
}

// Dial returns a wire to the service at url. It does not call the service. The
// error is a *llm.FieldError.
func (c Config) Dial(url string) (llm.Wire, error) {
	return New(Options{BaseURL: url, Model: c.Model, APIKey: c.APIKey, MaxTokens: c.MaxTokens, Cache: c.Cache, Headers: c.Headers})
}
