package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"matrix/llm"
)

// awsEnvironment is a machine with nothing of AWS but what is given.
func awsEnvironment(t *testing.T, given map[string]string) {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE",
		"AWS_BEARER_TOKEN_BEDROCK", "AWS_ENDPOINT_URL",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for name, v := range given {
		t.Setenv(name, v)
	}
}

func TestAWSAndGRPCConfigs(t *testing.T) {
	awsEnvironment(t, nil)
	for _, c := range []struct{ model, at, has string }{
		{"kind: bedrock, region: us-west-2", "models.m.model", "missing"},
		{"kind: bedrock, model: x", "models.m.region", "AWS_REGION"},
		{"kind: bedrock, model: x, profile: nobody", "models.m.profile", "nobody"},
		{"kind: bedrock, model: x, region: us-west-2, base_url: vpce.example.com", "models.m.base_url", "https://HOST"},
		{"kind: sagemaker, region: us-west-2", "models.m.endpoint", "missing"},
		{"kind: sagemaker, endpoint: e", "models.m.region", "AWS_REGION"},
		{"kind: sagemaker, endpoint: e, region: us-west-2, server: ollama", "models.m.server", "ollama"},
		{"kind: vllm-grpc", "models.m.base_url", "50051"},
		{"kind: vllm-grpc, base_url: 'http://a:1/v1'", "models.m.base_url", "path"},
		{"kind: vllm-grpc, base_url: 'http://a:1', template: alpaca", "models.m.template", "alpaca"},
		{"kind: vllm-grpc, base_url: 'http://a:1', extra_body: {typical_p: 1}", "models.m.extra_body", "typical_p"},
	} {
		t.Run(c.model, func(t *testing.T) {
			_, _, err := build(t, fmt.Sprintf(vendorConfig, c.model))
			if err == nil || !strings.Contains(err.Error(), c.at) || !strings.Contains(err.Error(), c.has) {
				t.Errorf("got %v, want an error at %s with %q", err, c.at, c.has)
			}
		})
	}
}

// Credentials, region and address come from AWS's environment.
func TestAWSFromTheEnvironment(t *testing.T) {
	const key = "AKIDEXAMPLE"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential="+key+"/") || !strings.Contains(auth, "/eu-central-1/") {
			t.Errorf("got authorization %q", auth)
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/model/") {
			fmt.Fprint(w, `{"output":{"message":{"role":"assistant","content":[{"text":"so"}]}},"stopReason":"end_turn","usage":{"inputTokens":1,"outputTokens":1,"totalTokens":2}}`)
			return
		}
		fmt.Fprint(w, `{"choices":[{"message":{"content":"so"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`)
	}))
	defer s.Close()
	awsEnvironment(t, map[string]string{
		"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "secret-of-the-environment", "AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": s.URL,
	})
	for _, model := range []string{"kind: bedrock, model: x", "kind: sagemaker, endpoint: e"} {
		t.Run(model, func(t *testing.T) {
			plan, _, err := build(t, fmt.Sprintf(vendorConfig, model))
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			rep, err := plan.Models["m"].Do(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}})
			if err != nil {
				t.Fatal(err)
			}
			if got := rep.Choices[0].Text; got != "so" {
				t.Errorf("got %q, want %q", got, "so")
			}
		})
	}
}
