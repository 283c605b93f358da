package azure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"go.uber.org/goleak"

	"matrix/llm"
	"matrix/matrixtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testKey        = "0123456789abcdef-of-the-tests"
	testToken      = "eyJ0eXAi.a-token-of-the-tests"
	testDeployment = "my-gpt"
	testVersion    = "2024-10-21"
)

// filterResults is what Azure adds to replies.
var filterResults = map[string]any{"prompt_filter_results": []any{map[string]any{"prompt_index": 0, "content_filter_results": map[string]any{}}}}

// codec is the API in its two forms: deployments in paths, and v1.
func codec(version string) matrixtest.Codec {
	return matrixtest.OpenAI(func(r *http.Request) (what, model string, known bool) {
		known = r.Header.Get("Api-Key") == testKey || r.Header.Get("Authorization") == "Bearer "+testToken
		if r.URL.Query().Get("api-version") != version {
			return "no such version", "", known
		}
		if version == "" {
			what, _ = strings.CutPrefix(r.URL.Path, "/openai/v1/")
			return what, "", known
		}
		if rest, ok := strings.CutPrefix(r.URL.Path, "/openai/deployments/"+testDeployment+"/"); ok {
			return rest, testDeployment, known
		}
		what, _ = strings.CutPrefix(r.URL.Path, "/openai/")
		return what, "", known
	}, filterResults)
}

// complaint is an error as the service tells it.
func complaint(status int, code, message string, kind llm.Kind) matrixtest.Complaint {
	body := fmt.Sprintf(`{"error":{"code":%q,"message":%q}}`, code, message)
	c := matrixtest.Complaint{Name: fmt.Sprintf("%d %s", status, code), Status: status, Body: body, Kind: kind}
	if strings.Trim(code, "0123456789") != "" {
		c.Code = code
	}
	return c
}

func fake() matrixtest.Fake {
	filtered := complaint(400, "content_filter", "", llm.Refused)
	filtered.Body = `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"violence":{"filtered":true,"severity":"medium"}}}}}`
	limited := complaint(429, "429", "Requests to the ChatCompletions_Create Operation have exceeded call rate limit", llm.Capacity)
	limited.Header, limited.After = map[string]string{"Retry-After": "26"}, 26*time.Second
	missing := complaint(404, "DeploymentNotFound", "The API deployment for this resource does not exist.", llm.Fatal)
	missing.Hint = "deployment"
	broken := complaint(500, "InternalServerError", "The server had an error processing your request.", llm.Fault)
	broken.Event = string(matrixtest.SSE("", broken.Body))
	return matrixtest.Fake{
		Model:       testDeployment,
		Unsupported: []matrixtest.Feature{matrixtest.Regex, matrixtest.Choices, matrixtest.Grammar, matrixtest.Listing, matrixtest.CacheWrites, matrixtest.Opaque, matrixtest.ToolErrors},
		Ends:        map[string]string{"stop": "whole", "length": "cut", "tool_calls": "whole", "content_filter": "filtered"},
		Complaints: []matrixtest.Complaint{
			filtered, limited, missing, broken,
			complaint(400, "BadRequest", "Unrecognized request argument supplied: x", llm.Refused),
			complaint(400, "context_length_exceeded", "This model's maximum context length is 8192 tokens.", llm.Context),
			complaint(401, "401", "Access denied due to invalid subscription key {secret} or wrong API endpoint.", llm.Fatal),
			complaint(401, "PermissionDenied", "The principal lacks the required data action", llm.Fatal),
			complaint(403, "AccessDenied", "Access denied due to Virtual Network/Firewall rules.", llm.Fatal),
			complaint(408, "Timeout", "The operation was timeout.", llm.Timeout),
			complaint(429, "NoCapacity", "The system is currently experiencing high demand", llm.Capacity),
			complaint(503, "ServiceUnavailable", "The service is temporarily unable to process your request.", llm.Capacity),
		},
		Quota: &matrixtest.QuotaHeaders{
			Header: map[string]string{
				"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "99",
				"x-ratelimit-limit-tokens": "100000", "x-ratelimit-remaining-tokens": "99500",
			},
			Want: []llm.Quota{{Limit: 100, Left: 99}, {Tokens: true, Limit: 100000, Left: 99500}},
		},
	}
}

func clear(t *testing.T) {
	for _, name := range []string{"AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION", "AZURE_OPENAI_AD_TOKEN"} {
		t.Setenv(name, "")
	}
}

func driverOf(t testing.TB, o Options) llm.Driver {
	t.Helper()
	if o.Deployment == "" {
		o.Deployment = testDeployment
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestConformance(t *testing.T) {
	clear(t)
	token := func(context.Context) (string, time.Time, error) { return testToken, time.Now().Add(time.Hour), nil }
	for _, c := range []struct {
		name   string
		o      Options
		secret string
	}{
		{"a key, deployments in paths", Options{APIKey: testKey, APIVersion: testVersion}, testKey},
		{"a key, v1", Options{APIKey: testKey}, testKey},
		{"Entra ID, deployments in paths", Options{Token: token, APIVersion: testVersion}, testToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := fake()
			f.Secrets = []string{c.secret}
			f.Start = func(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
				o := c.o
				o.Endpoint = codec(o.APIVersion).Serve(t, c.secret, answer)
				return driverOf(t, o)
			}
			matrixtest.Driver(t, f)
		})
	}
}

func says(matrixtest.Call) matrixtest.Answer {
	return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: "so", Finish: "stop"}}}}
}

func ask() *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}}
}

func TestTokenIsKept(t *testing.T) {
	clear(t)
	var asked atomic.Int32
	w := driverOf(t, Options{
		Endpoint: codec("").Serve(t, testToken, says),
		Token: func(context.Context) (string, time.Time, error) {
			asked.Add(1)
			return testToken, time.Now().Add(time.Hour), nil
		},
	})
	defer w.Close()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := w.Send(t.Context(), ask()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("20 calls asked for %d tokens, want 1", n)
	}
}

// entra is a fake of Entra ID: its discovery, and its tokens by answer.
func entra(t *testing.T, answer http.HandlerFunc) (*azidentity.DefaultAzureCredentialOptions, func()) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
			tenant := s.URL + "/tenant-1"
			fmt.Fprintf(w, `{"issuer":"%s/v2.0","authorization_endpoint":"%[1]s/oauth2/v2.0/authorize","token_endpoint":"%[1]s/oauth2/v2.0/token"}`, tenant)
			return
		}
		answer(w, r)
	})
	s.StartTLS()
	t.Cleanup(s.Close)
	for name, v := range map[string]string{
		"AZURE_AUTHORITY_HOST": s.URL, "AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "client-1", "AZURE_CLIENT_SECRET": "secret-of-the-tests",
		"AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
	} {
		t.Setenv(name, v)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	transport := llm.NewTransport(llm.TransportOptions{})
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	o := &azidentity.DefaultAzureCredentialOptions{DisableInstanceDiscovery: true}
	o.Transport = &http.Client{Transport: transport}
	return o, transport.CloseIdleConnections
}

func TestEntraID(t *testing.T) {
	clear(t)
	var asked atomic.Int32
	var form string
	o, done := entra(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		r.ParseForm()
		form = r.PostForm.Get("scope") + " by " + r.PostForm.Get("client_id")
		fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":3600,"access_token":%q}`, testToken)
	})
	w := driverOf(t, Options{
		Endpoint: codec(testVersion).Serve(t, testToken, func(c matrixtest.Call) matrixtest.Answer {
			if !c.Known {
				t.Error("a call came without the token")
			}
			return says(c)
		}),
		APIVersion: testVersion,
		Token:      func(context.Context) (string, time.Time, error) { panic("replaced") },
	}).(*driver)
	defer w.Close()
	if err := w.login.entra(o, done); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := w.Send(t.Context(), ask()); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d tokens were asked for, want 1", n)
	}
	if want := scope; !strings.Contains(form, want) || !strings.HasSuffix(form, "by client-1") {
		t.Errorf("asked for %q, want scope %s by client-1", form, want)
	}
}

func TestEntraIDRefuses(t *testing.T) {
	clear(t)
	for _, c := range []struct {
		name   string
		status int
		want   llm.Kind
	}{
		{"a wrong secret", 401, llm.Fatal},
		{"a wrong client", 400, llm.Fatal},
		{"an outage", 503, llm.Capacity},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			o, done := entra(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				w.WriteHeader(c.status)
				fmt.Fprint(w, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}`)
			})
			w := driverOf(t, Options{
				Endpoint: codec("").Serve(t, testToken, func(in matrixtest.Call) matrixtest.Answer {
					t.Error("a call came without a token")
					return says(in)
				}),
				Token: func(context.Context) (string, time.Time, error) { panic("replaced") },
			}).(*driver)
			defer w.Close()
			if err := w.login.entra(o, done); err != nil {
				t.Fatal(err)
			}
			_, err := w.Send(t.Context(), ask())
			var f *llm.Failure
			if !errors.As(err, &f) || f.Kind != c.want || f.Sent {
				t.Fatalf("got %v (%+v), want kind %v", err, f, c.want)
			}
			if c.want == llm.Fatal && !strings.Contains(f.Hint, "az login") {
				t.Errorf("hint: got %q, want one that says how to sign in", f.Hint)
			}
			if strings.Contains(f.Error(), "secret-of-the-tests") {
				t.Errorf("the failure shows a secret: %v", f)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("%d tokens were asked for, want 1", n)
			}
		})
	}
}

func TestFilteredReply(t *testing.T) {
	clear(t)
	a := says(matrixtest.Call{})
	a.Reply.Choices[0] = llm.Choice{Finish: "content_filter"}
	w := driverOf(t, Options{APIKey: testKey, Endpoint: codec("").Serve(t, testKey, func(matrixtest.Call) matrixtest.Answer { return a })})
	defer w.Close()
	_, err := w.Send(t.Context(), ask())
	var f *llm.Failure
	if !errors.As(err, &f) || f.Kind != llm.Refused || f.Code != "content_filter" {
		t.Errorf("got %v, want a refusal for content_filter", err)
	}
}

func TestConfig(t *testing.T) {
	clear(t)
	for _, c := range []struct {
		name       string
		c          Config
		field, has string
	}{
		{"no endpoint", Config{Deployment: "d", APIKey: testKey}, "endpoint", "AZURE_OPENAI_ENDPOINT"},
		{"no deployment", Config{Endpoint: "https://x.openai.azure.com", APIKey: testKey}, "deployment", "missing"},
		{"both", Config{Endpoint: "https://x", BaseURL: "https://x", Deployment: "d"}, "base_url", "one of them"},
		{"no address", Config{Endpoint: "x.openai.azure.com", Deployment: "d", APIKey: testKey}, "endpoint", "https://"},
		{"a model for a deployment", Config{BaseURL: "https://x.openai.azure.com/openai/v1/", Model: "d", APIKey: testKey}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := c.c.Where()
			if err == nil {
				var w llm.Driver
				if w, err = c.c.Open(at[0].URL); err == nil {
					w.Close()
				}
			}
			if c.field == "" {
				if err != nil || at[0].URL != "https://x.openai.azure.com" {
					t.Errorf("got %v at %v", err, at)
				}
				return
			}
			var f *llm.FieldError
			if !errors.As(err, &f) || f.Field != c.field || !strings.Contains(f.Error(), c.has) {
				t.Errorf("got %v, want an error of %s with %q", err, c.field, c.has)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	clear(t)
	t.Setenv("AZURE_OPENAI_ENDPOINT", codec(testVersion).Serve(t, testKey, func(c matrixtest.Call) matrixtest.Answer {
		if !c.Known || c.Model != testDeployment {
			t.Errorf("got a call of %q, known %v", c.Model, c.Known)
		}
		return says(c)
	}))
	t.Setenv("AZURE_OPENAI_API_KEY", testKey)
	t.Setenv("OPENAI_API_VERSION", testVersion)
	w := driverOf(t, Options{})
	defer w.Close()
	if _, err := w.Send(t.Context(), ask()); err != nil {
		t.Fatal(err)
	}
}

// A pinned address is reached by the name of its host.
func TestPinned(t *testing.T) {
	clear(t)
	for _, version := range []string{"", testVersion} {
		at := codec(version).Serve(t, testKey, says)
		w := driverOf(t, Options{Endpoint: strings.Replace(at, "127.0.0.1", "llm.example.invalid", 1) + "#127.0.0.1", APIVersion: version, APIKey: testKey})
		if _, err := w.Send(t.Context(), ask()); err != nil {
			t.Errorf("api_version %q: %v", version, err)
		}
		w.Close()
	}
}
