package anthropic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"matrix/llm"
	"matrix/matrixtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// complaint is an error of .../docs/en/api/errors.
func complaint(status int, typ, message string, kind llm.Kind) matrixtest.Complaint {
	body := fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q},"request_id":"req_1"}`, typ, message)
	return matrixtest.Complaint{
		Name: fmt.Sprintf("%d %s", status, typ), Status: status, Body: body, Event: string(matrixtest.SSE("error", body)),
		Kind: kind, Code: typ,
	}
}

func TestConformance(t *testing.T) {
	limited := complaint(429, "rate_limit_error", "This request would exceed your organization's rate limit", llm.Capacity)
	limited.Header = map[string]string{"Retry-After": "17"}
	limited.After = 17 * time.Second
	limited.Event = ""
	spent := complaint(429, "rate_limit_error", "You have reached your API usage limits", llm.Fatal)
	spent.Name, spent.Code, spent.Hint, spent.Event = "429 of a spend cap", "enforced_spend_limit_reached", "credit", ""
	spent.Body = `{"type":"error","error":{"type":"rate_limit_error","message":"You have reached your API usage limits","details":{"error_code":"enforced_spend_limit_reached"}},"request_id":"req_1"}`
	bare := matrixtest.Complaint{Name: "503 of a proxy", Status: 503, Body: "no healthy upstream", Kind: llm.Capacity}

	in := time.Now().Add(40 * time.Minute).UTC().Format(time.RFC3339)
	matrixtest.Driver(t, matrixtest.Fake{
		Start: func(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
			return start(t, Config{}, answer)
		},
		Model:   testModel,
		Secrets: []string{testKey},
		Unsupported: []matrixtest.Feature{
			matrixtest.Embeddings, matrixtest.Completions, matrixtest.JSON, matrixtest.Regex, matrixtest.Choices, matrixtest.Grammar,
			matrixtest.Penalties, matrixtest.Logprobs, matrixtest.Seed, matrixtest.N, matrixtest.Keys,
		},
		Ends: map[string]string{
			"end_turn": "whole", "stop_sequence": "whole", "tool_use": "whole", "max_tokens": "cut",
			"model_context_window_exceeded": "cut", "refusal": "filtered",
		},
		Complaints: []matrixtest.Complaint{
			complaint(400, "invalid_request_error", "messages.1: all messages must have content", llm.Refused),
			complaint(401, "authentication_error", "invalid x-api-key {secret}", llm.Fatal),
			complaint(402, "billing_error", "Your credit balance is too low", llm.Fatal),
			complaint(403, "permission_error", "Your API key does not have permission", llm.Fatal),
			complaint(404, "not_found_error", "model: claude-none", llm.Fatal),
			complaint(413, "request_too_large", "Request exceeds the maximum size", llm.Context),
			complaint(429, "rate_limit_error", "Number of requests has exceeded your limit", llm.Capacity),
			limited, spent, bare,
			complaint(500, "api_error", "Internal server error", llm.Fault),
			complaint(504, "timeout_error", "The request timed out", llm.Timeout),
			complaint(529, "overloaded_error", "Overloaded", llm.Capacity),
		},
		Quota: &matrixtest.QuotaHeaders{
			Header: map[string]string{
				"anthropic-ratelimit-requests-limit": "4000", "anthropic-ratelimit-requests-remaining": "3999", "anthropic-ratelimit-requests-reset": in,
				"anthropic-ratelimit-tokens-limit": "480000", "anthropic-ratelimit-tokens-remaining": "470000", "anthropic-ratelimit-tokens-reset": in,
			},
			Want: []llm.Quota{{Limit: 4000, Left: 3999, Reset: 40 * time.Minute}, {Tokens: true, Limit: 480000, Left: 470000, Reset: 40 * time.Minute}},
		},
	})
}

// says answers every call.
func says(matrixtest.Call) matrixtest.Answer {
	return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: "so", Finish: "stop"}}}}
}

// raw serves h, and makes a driver to there.
func raw(t *testing.T, o Config, h http.HandlerFunc) *Driver {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	o.BaseURL, o.Model = s.URL, testModel
	if o.APIKey == "" && os.Getenv("ANTHROPIC_AUTH_TOKEN") == "" {
		o.APIKey = testKey
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func TestMaxTokens(t *testing.T) {
	for _, c := range []struct {
		name         string
		config, call int
		want         int
	}{
		{"neither says", 0, 0, DefaultMaxTokens},
		{"the config says", 100, 0, 100},
		{"the call says", 100, 50, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := 0
			w := start(t, Config{Service: llm.Service{Sampling: llm.Sampling{MaxTokens: c.config}}}, func(in matrixtest.Call) matrixtest.Answer {
				got = in.Sampling.MaxTokens
				return says(in)
			})
			defer w.Close()
			r := &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}, Sampling: llm.Sampling{MaxTokens: c.call}}
			rep, err := w.Send(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("max_tokens: got %d, want %d", got, c.want)
			}
			if c.call == 0 && rep.Asked.MaxTokens != c.want { // else a Client says
				t.Errorf("asked for %d, want %d", rep.Asked.MaxTokens, c.want)
			}
		})
	}
}

func TestCache(t *testing.T) {
	var marks []string
	w := raw(t, Config{Cache: true}, func(w http.ResponseWriter, r *http.Request) {
		var b fakeBody
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		for _, p := range b.System {
			if p.Cache != nil {
				marks = append(marks, p.Text)
			}
		}
		for _, m := range b.Messages {
			for _, p := range m.Content {
				if p.Cache != nil {
					marks = append(marks, p.Text+p.Content)
				}
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(encode(envelope(&llm.Reply{}, []any{}, "end_turn")))
	})
	_, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{
		{Role: "system", Content: "one"}, {Role: "system", Content: "two"},
		{Role: "user", Content: "three"}, {Role: "assistant", Content: "four"}, {Role: "user", Content: "five"},
		{Role: "assistant", ToolCalls: []llm.ToolCall{{ID: "a", Name: "x"}}}, {Role: "tool", ToolCallID: "a", Content: "six"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"two", "five", "six"}; !reflect.DeepEqual(marks, want) {
		t.Errorf("cache_control: got %q, want %q", marks, want)
	}
}

func TestSchemaKeepsItsOrder(t *testing.T) {
	schema := `{"type":"object","properties":{"zeal":{"type":"string"},"aim":{"type":"string"}}}`
	var body string
	w := raw(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		var b struct {
			OutputConfig struct {
				Format struct{ Schema json.RawMessage }
			} `json:"output_config"`
		}
		json.NewDecoder(r.Body).Decode(&b)
		body = string(b.OutputConfig.Format.Schema)
		w.Header().Set("Content-Type", "application/json")
		w.Write(encode(envelope(&llm.Reply{}, []any{}, "end_turn")))
	})
	_, err := w.Send(t.Context(), &llm.Request{
		Messages: []llm.Message{{Role: "user", Content: "go"}},
		Sampling: llm.Sampling{ResponseFormat: map[string]any{"type": "json_schema", "json_schema": map[string]any{"schema": json.RawMessage(schema)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if body != schema {
		t.Errorf("schema: got %s, want %s", body, schema)
	}
}

func TestRefusalWithoutText(t *testing.T) {
	w := raw(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		m := envelope(&llm.Reply{Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 9}}}, []any{}, "refusal")
		m["stop_details"] = map[string]any{"type": "refusal", "category": "bio", "explanation": "no"}
		w.Write(encode(m))
	})
	_, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}})
	var f *llm.Failure
	if !errors.As(err, &f) || f.Kind != llm.Refused || !strings.Contains(f.Msg, "bio no") {
		t.Errorf("got %v, want a refusal that says bio", err)
	}
	if f != nil && (f.Usage == nil || f.Usage.PromptTokens != 9) {
		t.Errorf("usage: got %+v, want 9 tokens of prompt", f.Usage)
	}
}

func TestAnEarlyEndIsCounted(t *testing.T) {
	w := start(t, Config{}, func(matrixtest.Call) matrixtest.Answer {
		return matrixtest.Answer{
			Reply: llm.Reply{Choices: []llm.Choice{{Text: strings.Repeat("word ", 40), Finish: "stop"}}, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 9}}},
			Fault: matrixtest.Hang,
		}
	})
	defer w.Close()
	rep, err := w.Send(t.Context(), &llm.Request{
		Messages: []llm.Message{{Role: "user", Content: "go"}},
		Sampling: llm.Sampling{Until: "word word word word "},
	})
	if err != nil {
		t.Fatal(err)
	}
	if u := rep.Usage; u.PromptTokens != 9 || u.CompletionTokens != 5 {
		t.Errorf("usage: got %+v, want 9 tokens of prompt and an estimate of 5", u)
	}
}

func TestAuthToken(t *testing.T) {
	var got http.Header
	t.Setenv("ANTHROPIC_API_KEY", "")
	t.Setenv("ANTHROPIC_AUTH_TOKEN", "a-bearer-token")
	w := raw(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header().Set("Content-Type", "application/json")
		w.Write(encode(envelope(&llm.Reply{}, []any{}, "end_turn")))
	})
	if _, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}}); err != nil {
		t.Fatal(err)
	}
	if got.Get("Authorization") != "Bearer a-bearer-token" || got.Get("X-Api-Key") != "" {
		t.Errorf("headers: got %v, want the token alone", got)
	}
}

func TestConfig(t *testing.T) {
	for _, name := range []string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_PROFILE", "ANTHROPIC_FEDERATION_RULE_ID"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, c := range []struct {
		name       string
		o          Config
		env        string // ANTHROPIC_API_KEY
		field, has string
	}{
		{"no key", Config{Model: "m"}, "", "api_key", "ANTHROPIC_API_KEY"},
		{"key in the environment", Config{Model: "m"}, testKey, "", ""},
		{"no model", Config{APIKey: testKey}, "", "model", "missing"},
		{"no address", Config{Model: "m", APIKey: testKey, BaseURL: "api.anthropic.com"}, "", "base_url", "https://"},
		{"negative max_tokens", Config{Model: "m", APIKey: testKey, Service: llm.Service{Sampling: llm.Sampling{MaxTokens: -1}}}, "", "max_tokens", "1 or more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("ANTHROPIC_API_KEY", c.env)
			w, err := New(c.o)
			if c.field == "" {
				if err != nil || w.conn.Base != DefaultBaseURL {
					t.Errorf("got %v, want a driver to %s", err, DefaultBaseURL)
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

func TestBaseURLs(t *testing.T) {
	for in, want := range map[string]string{
		"http://x:1": "http://x:1", "http://x:1/": "http://x:1", "http://x:1/v1": "http://x:1", "http://x:1/v1/": "http://x:1",
		"https://user:pass@x/proxy/v1?q=1": "https://x/proxy",
	} {
		w, err := New(Config{BaseURL: in, Model: "m", APIKey: testKey})
		if err != nil || w.conn.Base != want {
			t.Errorf("New(%q): got %v, %v, want %s", in, w, err, want)
		}
	}
}
