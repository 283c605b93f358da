// Package azure is the driver of Azure OpenAI, by a key or by Microsoft Entra ID.
// The format is OpenAI's, so it builds on package openai; what is Azure's is
// where a deployment is, how one signs in, and what its errors mean:
// https://learn.microsoft.com/azure/ai-foundry/openai/reference,
// .../openai/api-version-lifecycle (the v1 API, without api-version),
// .../openai/concepts/content-filter.
//
// A prompt that the content filter stops is a failure of kind Refused, with code
// content_filter; a reply that it cuts keeps its text and the finish reason
// content_filter.
//
// The package knows nothing of waiting, retrying and limits.
package azure

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"

	"matrix/llm"
	"matrix/llm/openai"
)

// Options says how to reach a deployment.
type Options struct {
	Endpoint   string // of the resource, https://NAME.openai.azure.com; empty: AZURE_OPENAI_ENDPOINT
	Deployment string // required
	APIVersion string // of the API with deployments in its paths; empty: OPENAI_API_VERSION, or the v1 API
	APIKey     string // empty: AZURE_OPENAI_API_KEY, or Entra ID
	Headers    map[string]string

	// Token signs in where there is no key. Nil: AZURE_OPENAI_AD_TOKEN, or Entra
	// ID as azidentity.DefaultAzureCredential finds it.
	Token TokenFunc
}

// Address returns the endpoint that o means, without /openai/v1; empty where
// nothing says it.
func (o Options) Address() string {
	s := cmp.Or(o.Endpoint, os.Getenv("AZURE_OPENAI_ENDPOINT"))
	for _, tail := range []string{"/v1", "/openai"} {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "/"), tail)
	}
	return strings.TrimSuffix(s, "/")
}

// driver is a deployment.
type driver struct {
	*openai.Driver
	login *login // nil where there is a key
}

var _ llm.Driver = (*driver)(nil)

// New returns a driver. It calls nobody. The error is a *llm.FieldError.
func New(o Options) (llm.Driver, error) {
	base := o.Address()
	if base == "" {
		return nil, &llm.FieldError{Field: "endpoint", Err: errors.New("is missing: write the resource's, like https://NAME.openai.azure.com, or set AZURE_OPENAI_ENDPOINT in the environment")}
	}
	if o.Deployment == "" {
		return nil, &llm.FieldError{Field: "deployment", Err: errors.New("is missing: name the deployment in the resource that is to answer")}
	}
	o.APIVersion = cmp.Or(o.APIVersion, os.Getenv("OPENAI_API_VERSION"))
	if o.APIKey == "" && o.Token == nil {
		o.APIKey = os.Getenv("AZURE_OPENAI_API_KEY")
	}
	base, pin := llm.Pinned(base)
	if pin != "" {
		pin = "#" + pin
	}
	to := openai.Options{Exact: true, Server: "openai", Header: map[string]string{}}
	for k, v := range o.Headers {
		to.Header[k] = v
	}
	if o.APIVersion == "" {
		to.BaseURL, to.Model = base+"/openai/v1"+pin, o.Deployment
		to.ModelsURL = base + "/openai/v1/models"
	} else {
		query := "?api-version=" + url.QueryEscape(o.APIVersion)
		to.BaseURL = base + "/openai/deployments/" + url.PathEscape(o.Deployment) + query + pin
		to.ModelsURL = base + "/openai/models" + query
	}
	w := &driver{}
	if o.APIKey != "" {
		to.Header["api-key"] = o.APIKey
	} else {
		l, err := newLogin(o.Token)
		if err != nil {
			return nil, err
		}
		w.login, to.Auth = l, l.header
	}
	var err error
	if w.Driver, err = openai.New(to); err != nil {
		var f *llm.FieldError
		if errors.As(err, &f) && f.Field == "base_url" {
			err = &llm.FieldError{Field: "endpoint", Err: f.Err}
		}
		return nil, err
	}
	return w, nil
}

// Send implements llm.Driver.
func (w *driver) Send(ctx context.Context, r *llm.Request) (*llm.Reply, error) {
	rep, err := w.Driver.Send(ctx, r)
	var f *llm.Failure
	if errors.As(err, &f) {
		if w.login != nil {
			f.Msg = w.login.Hide(f.Msg)
		}
		if f.Kind == llm.Fatal && f.Status == http.StatusNotFound {
			f.Hint = "check deployment, endpoint and api_version: a deployment is named as in the portal, not after its model"
		}
	}
	return rep, err
}

// Probe implements llm.Driver. The service lists the models that could be
// deployed, not what is, so nothing is said of them.
func (w *driver) Probe(ctx context.Context) ([]llm.Served, error) {
	_, err := w.Driver.Probe(ctx)
	return nil, err
}

// Close implements llm.Driver.
func (w *driver) Close() error {
	if w.login != nil {
		w.login.close()
	}
	return w.Driver.Close()
}
