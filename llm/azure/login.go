package azure

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"matrix/llm"
	"matrix/llm/internal/token"
)

// scope is what a token must be for:
// https://learn.microsoft.com/azure/ai-foundry/openai/how-to/managed-identity.
const scope = "https://cognitiveservices.azure.com/.default"

const hintLogin = "set AZURE_OPENAI_API_KEY, or sign in to Entra ID: az login, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; the identity needs the role Cognitive Services OpenAI User"

// TokenFunc returns an access token, and until when it may be used.
type TokenFunc func(ctx context.Context) (token string, until time.Time, err error)

// spare is how long before its end a token is renewed.
const spare = 5 * time.Minute

// login signs calls by a token.
type login struct {
	*token.Keeper
	close func()
}

func newLogin(from TokenFunc) (*login, error) {
	l := &login{close: func() {}}
	if from == nil {
		if fixed := os.Getenv("AZURE_OPENAI_AD_TOKEN"); fixed != "" {
			from = func(context.Context) (string, time.Time, error) { return fixed, time.Time{}, nil }
		}
	}
	if from != nil {
		l.keep(from)
		return l, nil
	}
	transport := llm.NewTransport(llm.TransportOptions{})
	o := &azidentity.DefaultAzureCredentialOptions{}
	o.Transport = &http.Client{Transport: transport}
	return l, l.entra(o, transport.CloseIdleConnections)
}

func (l *login) keep(from TokenFunc) {
	l.Keeper = token.New(func(ctx context.Context, _ string) (string, time.Time, error) { return from(ctx) }, spare)
}

// entra has Entra ID give the tokens.
func (l *login) entra(o *azidentity.DefaultAzureCredentialOptions, close func()) error {
	o.Retry.MaxRetries = -1 // none: llm.Client retries
	credential, err := azidentity.NewDefaultAzureCredential(o)
	if err != nil {
		return &llm.FieldError{Field: "api_key", Err: errors.New("there is no key, and no way to sign in to Entra ID: " + llm.Shorten(err.Error(), 300) + "; " + hintLogin)}
	}
	l.close = close
	l.keep(func(ctx context.Context) (string, time.Time, error) {
		t, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
		until := t.ExpiresOn
		if !t.RefreshOn.IsZero() {
			until = t.RefreshOn.Add(spare)
		}
		return t.Token, until, err
	})
	return nil
}

// header is the header of a call: an openai.Options.Auth.
func (l *login) header(ctx context.Context) (string, string, error) {
	t, err := l.Get(ctx)
	if err != nil {
		return "", "", refused(ctx, err)
	}
	return "Authorization", "Bearer " + t, nil
}

// refused judges an error of those who give tokens. No call was made.
func refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f := &llm.Failure{Kind: llm.Fatal, Msg: "no access token: " + llm.Shorten(err.Error(), 500), Hint: hintLogin}
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) {
		if res := failed.RawResponse; res != nil {
			f.Status = res.StatusCode
			if kind, _ := llm.Judge(res.StatusCode, "", ""); kind < llm.Refused { // an outage of those who give tokens
				f.Kind, f.Hint = kind, ""
				f.After = llm.RetryAfter(res.Header, time.Now())
			}
			return f
		}
		if b := llm.Broken(ctx, err, "", true); b.Kind == llm.Unreachable {
			f.Kind, f.Hint = llm.Unreachable, ""
		}
	}
	return f
}
