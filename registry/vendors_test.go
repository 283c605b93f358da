package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix/llm"
	"matrix/llm/openai"
	"matrix/matrixtest"
)

// vendorVariables are those that kinds of models read from the environment.
var vendorVariables = []string{
	"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_PROFILE", "ANTHROPIC_FEDERATION_RULE_ID",
	"GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL",
	"AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION", "AZURE_OPENAI_AD_TOKEN", "OPENROUTER_API_KEY", "LLAMA_API_KEY",
}

func TestVendorsWithoutCredentials(t *testing.T) {
	for _, name := range vendorVariables {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
	for _, c := range []struct{ model, at, has string }{
		{"kind: anthropic, model: claude-sonnet-4-5", "models.m.api_key", "ANTHROPIC_API_KEY"},
		{"kind: anthropic", "models.m.model", ""},
		{"kind: gemini, model: gemini-2.5-flash", "models.m.api_key", "GEMINI_API_KEY"},
		{"kind: vertex, model: gemini-2.5-flash", "models.m.project", "GOOGLE_CLOUD_PROJECT"},
		{"kind: gemini, vertex: true, model: gemini-2.5-flash, project: p", "models.m.vertex", "gcloud auth application-default login"},
		{"kind: azure, deployment: d", "models.m.endpoint", "AZURE_OPENAI_ENDPOINT"},
		{"kind: azure, endpoint: https://x.openai.azure.com", "models.m.deployment", "missing"},
		{"kind: openrouter, model: meta-llama/llama-3.3-70b-instruct", "models.m.api_key", "OPENROUTER_API_KEY"},
		{"kind: llama-api, model: Llama-3.3-70B-Instruct", "models.m.api_key", "LLAMA_API_KEY"},
	} {
		t.Run(c.model, func(t *testing.T) {
			_, _, err := build(t, fmt.Sprintf(vendorConfig, c.model))
			if err == nil || !strings.Contains(err.Error(), c.at) || !strings.Contains(err.Error(), c.has) {
				t.Errorf("got %v, want an error at %s with %q", err, c.at, c.has)
			}
		})
	}
}

// serve starts servers for models of kind openai, not for those at a vendor's.
func TestVendorsAreNotServed(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for _, model := range []string{
		"kind: anthropic, model: m, api_key: k", "kind: gemini, model: m, api_key: k", "kind: azure, endpoint: https://x.example.com, deployment: d, api_key: k",
		"kind: openrouter, model: m, api_key: k", "kind: llama-api, model: m, api_key: k", "kind: bedrock, model: m, region: us-west-2",
		"kind: sagemaker, endpoint: e, region: us-west-2", "kind: vllm-grpc, template: llama3",
	} {
		_, _, err := build(t, fmt.Sprintf(vendorConfig, model+", serve: {engine: vllm, model: m}"))
		if err == nil || !strings.Contains(err.Error(), "models.m.serve: is for models of kind openai") {
			t.Errorf("%s: got %v, want an error at models.m.serve", model, err)
		}
	}
}

// What Anthropic writes into its cache costs a quarter more, also where the
// config gives the price.
func TestAnthropicCacheIsPriced(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"type":"message","content":[{"type":"text","text":"so"}],"stop_reason":"end_turn","usage":{"input_tokens":10,"cache_creation_input_tokens":1000,"cache_read_input_tokens":100,"output_tokens":10}}`)
	}))
	defer s.Close()
	for _, c := range []struct {
		model string
		usd   float64
	}{
		{"model: claude-sonnet-4-5", 10*3 + 1000*3.75 + 100*0.3 + 10*15},
		{"model: m, price: {input: 4, output: 10}", 10*4 + 1000*5 + 100*4 + 10*10},
		{"model: m, price: {input: 4, cache_write: 8, output: 10}", 10*4 + 1000*8 + 100*4 + 10*10},
	} {
		plan, _, err := build(t, fmt.Sprintf(vendorConfig, "kind: anthropic, cache: true, api_key: a-key, base_url: "+s.URL+", "+c.model))
		if err != nil {
			t.Fatal(err)
		}
		plan.Bills["m"].Charge(nil, plan.Bills["m"].Price)
		rep, err := plan.Models["m"].Do(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := rep.Usage.USD * 1e6; math.Abs(got-c.usd) > 1e-6 || rep.Usage.CacheWriteTokens != 1000 || rep.Usage.PromptTokens != 1110 {
			t.Errorf("%s: got %v of a million dollars, of %+v, want %v", c.model, got, rep.Usage, c.usd)
		}
		plan.Close()
	}
}

// A budget holds where the service writes all of each prompt into its cache, and
// makes as many tokens of it as it can.
func TestBudgetHoldsWithCache(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"type":"message","content":[{"type":"text","text":"so"}],"stop_reason":"end_turn","usage":{"input_tokens":0,"cache_creation_input_tokens":%d,"output_tokens":10}}`, strings.Count(string(body), "x")+200)
	}))
	defer s.Close()
	plan, _, err := build(t, fmt.Sprintf(vendorConfig, "kind: anthropic, cache: true, max_tokens: 10, api_key: a-key, model: claude-sonnet-4-5, base_url: "+s.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	const limit = 0.1 // at 3.75 a million, some 10 calls; at 3 it would be a few more
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	budget := llm.NewBudget(llm.Cost{USD: limit}, llm.BudgetOptions{OnSpent: func(string) { cancel() }})
	plan.Bills["m"].Charge(budget, plan.Bills["m"].Price)
	var calls atomic.Int32
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, err := plan.Models["m"].Do(ctx, &llm.Request{Messages: []llm.Message{{Role: "user", Content: strings.Repeat("x", 2200)}}}); err == nil {
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	if spent := budget.State().Spent.USD; spent > limit || spent < limit*0.8 || calls.Load() < 5 || !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("spent %v of %v in %d calls, want near the limit and not above", spent, limit, calls.Load())
	}
}

func TestVendorsFromTheEnvironment(t *testing.T) {
	const key = "a-key-of-the-environment"
	reply := map[string]string{ // by path
		"/v1/messages":                     `{"type":"message","content":[{"type":"text","text":"so"}],"stop_reason":"end_turn"}`,
		"/v1beta/models/g:generateContent": `{"candidates":[{"content":{"parts":[{"text":"so"}]},"finishReason":"STOP"}]}`,
	}
	const openAIReply = `{"object":"chat.completion","model":"m","choices":[{"message":{"content":"so"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":0.25}}`
	var seen http.Header
	var body map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		body = nil
		if r.Method == http.MethodPost {
			json.NewDecoder(r.Body).Decode(&body)
		}
		w.Header().Set("Content-Type", "application/json")
		if text, ok := reply[r.URL.Path]; ok {
			fmt.Fprint(w, text)
			return
		}
		if !strings.HasSuffix(r.URL.Path, "/chat/completions") {
			t.Errorf("no such path: %s", r.URL.Path)
		}
		fmt.Fprint(w, openAIReply)
	}))
	defer s.Close()
	for _, name := range vendorVariables {
		t.Setenv(name, "")
	}
	for _, name := range []string{"ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AZURE_OPENAI_API_KEY", "OPENROUTER_API_KEY", "LLAMA_API_KEY"} {
		t.Setenv(name, key)
	}
	t.Setenv("AZURE_OPENAI_ENDPOINT", s.URL)
	for _, c := range []struct{ model, header, value string }{
		{"kind: anthropic, model: c, base_url: " + s.URL, "X-Api-Key", key},
		{"kind: gemini, model: g, base_url: " + s.URL, "X-Goog-Api-Key", key},
		{"kind: azure, deployment: d", "Api-Key", key},
		{"kind: openrouter, model: m, title: Tests, provider: {sort: price}, base_url: " + s.URL + "/api/v1", "Authorization", "Bearer " + key},
		{"kind: llama-api, model: m, base_url: " + s.URL + "/compat/v1", "Authorization", "Bearer " + key},
	} {
		t.Run(c.model, func(t *testing.T) {
			plan, _, err := build(t, fmt.Sprintf(vendorConfig, c.model))
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			rep, err := plan.Models["m"].Do(ctx, &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Choices[0].Text != "so" || seen.Get(c.header) != c.value {
				t.Errorf("got %q by %s %q, want so by %q", rep.Choices[0].Text, c.header, seen.Get(c.header), c.value)
			}
			switch {
			case strings.Contains(c.model, "openrouter"):
				if rep.Usage.USD != 0.25 || seen.Get("X-Title") != "Tests" || body["provider"] == nil {
					t.Errorf("got %v USD, title %q, body %v; want what OpenRouter tells and takes", rep.Usage.USD, seen.Get("X-Title"), body)
				}
			case strings.Contains(c.model, "anthropic"):
				if body["max_tokens"] != 4096.0 {
					t.Errorf("max_tokens: got %v, want 4096", body["max_tokens"])
				}
			}
		})
	}
}

// presetCodec is the OpenAI API below a path.
func presetCodec(prefix, key string) matrixtest.Codec {
	return matrixtest.OpenAI(func(r *http.Request) (what, model string, known bool) {
		what, _ = strings.CutPrefix(r.URL.Path, prefix+"/")
		return what, "", r.Header.Get("Authorization") == "Bearer "+key
	}, nil)
}

func TestPresetConformance(t *testing.T) {
	const key = "sk-a-key-of-the-tests"
	complaint := func(status int, body string, kind llm.Kind) matrixtest.Complaint {
		return matrixtest.Complaint{Name: fmt.Sprintf("%d %s", status, kind), Status: status, Body: body, Event: string(matrixtest.SSE("", body)), Kind: kind}
	}
	numbered := func(status int, more string, kind llm.Kind) matrixtest.Complaint {
		return complaint(status, fmt.Sprintf(`{"error":{"code":%d,"message":"no {secret}"%s}}`, status, more), kind)
	}
	wait := numbered(402, `,"metadata":{"limit_source":"openrouter_in_flight_budget"}`, llm.Capacity)
	wait.Header, wait.After, wait.Event = map[string]string{"Retry-After": "3"}, 3*time.Second, ""
	full := numbered(429, "", llm.Capacity)
	full.Header, full.After, full.Event = map[string]string{"Retry-After": "9"}, 9*time.Second, ""
	open := openRouter{Model: "author/model", APIKey: key}
	llama := llamaAPI{Model: "Llama-test", APIKey: key}
	for _, c := range []struct {
		name, prefix string
		options      func() (openai.Options, error)
		complaints   []matrixtest.Complaint
	}{
		{"openrouter", "/api/v1", open.options, []matrixtest.Complaint{ // https://openrouter.ai/docs/api/reference/errors-and-debugging
			numbered(400, "", llm.Refused),
			numbered(400, `,"metadata":{"error_type":"context_length_exceeded"}`, llm.Context),
			numbered(401, "", llm.Fatal),
			numbered(402, `,"metadata":{"limit_source":"openrouter_credits"}`, llm.Fatal),
			wait, full,
			numbered(403, "", llm.Refused),
			numbered(403, `,"metadata":{"reasons":["violence"],"flagged_input":"x","provider_name":"p","model_slug":"m"}`, llm.Refused),
			numbered(404, "", llm.Fatal),
			numbered(408, "", llm.Timeout),
			numbered(500, "", llm.Fault),
			numbered(502, "", llm.Transport),
			numbered(503, "", llm.Capacity),
		}},
		{"llama-api", "/compat/v1", llama.options, []matrixtest.Complaint{ // as the OpenAI API
			complaint(400, `{"error":{"message":"bad {secret}","type":"invalid_request_error"}}`, llm.Refused),
			complaint(400, `{"error":{"message":"too long","code":"context_length_exceeded"}}`, llm.Context),
			{Name: "401", Status: 401, Body: `{"error":{"message":"no key"}}`, Kind: llm.Fatal},
			{Name: "403", Status: 403, Body: `{"error":{"message":"no"}}`, Kind: llm.Refused},
			{Name: "404", Status: 404, Body: `{"error":{"message":"no model","code":"model_not_found"}}`, Kind: llm.Fatal},
			{Name: "429", Status: 429, Body: `{"error":{"message":"slow down"}}`, Kind: llm.Capacity, Header: map[string]string{"Retry-After": "4"}, After: 4 * time.Second},
			complaint(500, `{"error":{"message":"oh"}}`, llm.Fault),
			{Name: "503", Status: 503, Body: `{"error":{"message":"busy"}}`, Kind: llm.Capacity},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := c.options()
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.complaints {
				if p := &c.complaints[i]; p.Status == 400 && p.Kind == llm.Refused && p.Event != "" && c.name == "llama-api" {
					p.Event = "" // without a number it is a fault there
				}
			}
			matrixtest.Driver(t, matrixtest.Fake{
				Start: func(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
					o := o
					o.BaseURL = presetCodec(c.prefix, key).Serve(t, key, answer) + c.prefix
					w, err := openai.New(o)
					if err != nil {
						t.Fatal(err)
					}
					return w
				},
				Model: o.Model, Secrets: []string{key},
				Unsupported: []matrixtest.Feature{matrixtest.Regex, matrixtest.Choices, matrixtest.Grammar, matrixtest.CacheWrites, matrixtest.Opaque, matrixtest.ToolErrors},
				Complaints:  c.complaints,
			})
		})
	}
}
