package gemini

import "matrix/llm"

// Config says which Gemini model is called, where, and as whom.
type Config struct {
	BaseURL     string            `yaml:"base_url" free:"true" doc:"Address of the API. Default: the Gemini API's, or Vertex AI's of the location."`
	Model       string            `yaml:"model" required:"true" doc:"Name of the model, like gemini-2.5-flash."`
	APIKey      string            `yaml:"api_key" secret:"true" free:"true" doc:"Key of the Gemini API. Default: GOOGLE_API_KEY or GEMINI_API_KEY from the environment."`
	Vertex      bool              `yaml:"vertex" doc:"Call Vertex AI, with application default credentials (gcloud auth application-default login, GOOGLE_APPLICATION_CREDENTIALS, or the machine's own)." default:"false"`
	Project     string            `yaml:"project" free:"true" doc:"Google Cloud project, for Vertex AI. Default: GOOGLE_CLOUD_PROJECT from the environment."`
	Location    string            `yaml:"location" free:"true" doc:"Region of Vertex AI, like europe-west4. Default: GOOGLE_CLOUD_LOCATION from the environment, or global."`
	Headers     map[string]string `yaml:"headers" secret:"true" free:"true" doc:"More HTTP headers."`
	llm.Service `yaml:",inline"`
}

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
