package azure

import (
	"cmp"
	"errors"

	"matrix/llm"
)

// Config says which deployment of Azure OpenAI is called, and as whom.
type Config struct {
	Endpoint    string            `yaml:"endpoint" free:"true" doc:"Endpoint of the resource, like https://NAME.openai.azure.com. Default: AZURE_OPENAI_ENDPOINT from the environment."`
	BaseURL     string            `yaml:"base_url" free:"true" doc:"The same as endpoint."`
	Deployment  string            `yaml:"deployment" doc:"Name of the deployment. Default: model."`
	Model       string            `yaml:"model" doc:"What the deployment serves, or its name where deployment is absent."`
	APIVersion  string            `yaml:"api_version" doc:"Date of the API with deployments in its paths, like 2024-10-21. Default: OPENAI_API_VERSION from the environment, or the v1 API, which has none."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Key of the resource. Default: AZURE_OPENAI_API_KEY from the environment, or else Entra ID, as DefaultAzureCredential finds it (az login, AZURE_CLIENT_ID, a managed identity)."`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers."`
	llm.Service `yaml:",inline"`
}

func (c Config) options() Options {
	return Options{
		Endpoint: cmp.Or(c.Endpoint, c.BaseURL), Deployment: cmp.Or(c.Deployment, c.Model), APIVersion: c.APIVersion, APIKey: c.APIKey, Headers: c.Headers,
	}
}

// Where returns the address to dial.
func (c Config) Where() (llm.Endpoints, error) {
	if c.Endpoint != "" && c.BaseURL != "" {
		return nil, &llm.FieldError{Field: "base_url", Err: errors.New("says the same as endpoint: give one of them")}
	}
	base := c.options().Address()
	if base == "" {
		_, err := New(c.options()) // says what is missing
		return nil, err
	}
	return llm.Endpoints{{URL: base}}, nil
}

// Open returns a driver to the resource at url. It calls nobody. The error is a
// *llm.FieldError.
func (c Config) Open(url string) (llm.Driver, error) {
	o := c.options()
	o.Endpoint = url
	return New(o)
}
