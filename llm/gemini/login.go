package gemini

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"matrix/llm"
	"matrix/llm/internal/token"
)

const (
	vertexVersion = "v1beta1"
	scope         = "https://www.googleapis.com/auth/cloud-platform"
	hintLogin     = "log in by gcloud auth application-default login, or check GOOGLE_APPLICATION_CREDENTIALS"

	// spare is how long before its end a token is renewed. The library renews it
	// 10 s before, if asked then, and not earlier.
	spare = 9 * time.Second
)

// vertex has calls go to Vertex AI, by application default credentials.
func (w *Driver) vertex() error {
	project := cmp.Or(w.config.Project, os.Getenv("GOOGLE_CLOUD_PROJECT"))
	if project == "" {
		return &llm.FieldError{Field: "project", Err: errors.New("there is no project: set GOOGLE_CLOUD_PROJECT in the environment")}
	}
	if w.config.APIKey != "" {
		return &llm.FieldError{Field: "api_key", Err: errors.New("is not for Vertex AI: leave it out, and log in by gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS")}
	}
	w.prefix = "/" + vertexVersion + "/projects/" + project + "/locations/" + w.config.location() + "/"
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: w.conn.Transport(), Timeout: 30 * time.Second})
	found, err := google.FindDefaultCredentials(ctx, scope)
	if err != nil {
		return &llm.FieldError{Field: "vertex", Err: fmt.Errorf("%s; log in by gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS", llm.Shorten(err.Error(), 300))}
	}
	w.conn.Token = token.New(func(ctx context.Context, _ string) (string, time.Time, error) {
		type given struct {
			*oauth2.Token
			err error
		}
		c := make(chan given, 1)
		go func() { // it ends with the client's timeout, at the latest
			t, err := found.TokenSource.Token()
			c <- given{t, err}
		}()
		select {
		case g := <-c:
			if g.err != nil {
				return "", time.Time{}, locked(g.err)
			}
			return g.AccessToken, g.Expiry, nil
		case <-ctx.Done():
			return "", time.Time{}, ctx.Err()
		}
	}, spare)
	return nil
}

// locked judges an error of who gives tokens.
func locked(err error) error {
	var said *oauth2.RetrieveError
	if !errors.As(err, &said) {
		return err
	}
	f := &llm.Failure{Kind: llm.Fault, Msg: llm.Shorten("no access token: "+err.Error(), 300)}
	if said.Response != nil {
		f.Status = said.Response.StatusCode
		f.After = llm.RetryAfter(said.Response.Header, time.Now())
		if f.Kind, _ = llm.Judge(f.Status, "", ""); f.Kind == llm.Refused {
			f.Kind = llm.Fatal // the credentials are at fault, not the request
		}
	}
	if f.Kind == llm.Fatal {
		f.Hint = hintLogin
	}
	return f
}
