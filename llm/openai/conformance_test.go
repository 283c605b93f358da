package openai

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
	"matrix/matrixtest"
)

// said is an error of https://platform.openai.com/docs/guides/error-codes.
func said(status int, typ, code string, kind llm.Kind) matrixtest.Complaint {
	body := fmt.Sprintf(`{"error":{"message":"no {secret}","type":%q,"param":null,"code":%q}}`, typ, code)
	return matrixtest.Complaint{Name: fmt.Sprintf("%d %s", status, code), Status: status, Body: body, Kind: kind, Code: code}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	const key = "sk-a-key-of-the-tests"
	codec := matrixtest.OpenAI(func(r *http.Request) (what, model string, known bool) {
		what, _ = strings.CutPrefix(r.URL.Path, "/v1/")
		return what, "", r.Header.Get("Authorization") == "Bearer "+key
	}, nil)
	slow := said(429, "requests", "rate_limit_exceeded", llm.Capacity)
	slow.Header, slow.After = map[string]string{"Retry-After-Ms": "1500"}, 1500*time.Millisecond
	broken := said(500, "server_error", "", llm.Fault)
	broken.Event = string(matrixtest.SSE("", broken.Body))
	full := said(503, "server_error", "", llm.Capacity)
	f := matrixtest.Fake{
		Model: "gpt-test", Secrets: []string{key},
		Unsupported: []matrixtest.Feature{matrixtest.Regex, matrixtest.Choices, matrixtest.Grammar, matrixtest.CacheWrites, matrixtest.Opaque, matrixtest.ToolErrors},
		Ends:        map[string]string{"stop": "whole", "length": "cut", "tool_calls": "whole", "content_filter": "filtered", "network_error": "broken", "a_word_of_its_own": "broken"},
		Complaints: []matrixtest.Complaint{
			slow, broken, full,
			said(400, "invalid_request_error", "unsupported_parameter", llm.Refused),
			said(400, "invalid_request_error", "context_length_exceeded", llm.Context),
			said(400, "invalid_request_error", "content_policy_violation", llm.Refused),
			said(401, "invalid_request_error", "invalid_api_key", llm.Fatal),
			said(403, "invalid_request_error", "unsupported_country_region_territory", llm.Fatal),
			said(404, "invalid_request_error", "model_not_found", llm.Fatal),
			said(408, "timeout", "", llm.Timeout),
			said(429, "insufficient_quota", "insufficient_quota", llm.Fatal),
		},
		Quota: &matrixtest.QuotaHeaders{
			Header: map[string]string{
				"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
				"x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s",
			},
			Want: []llm.Quota{{Limit: 60, Left: 59, Reset: time.Second}, {Tokens: true, Limit: 150000, Left: 149984, Reset: 6 * time.Minute}},
		},
	}
	f.Start = func(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
		w, err := New(Options{BaseURL: codec.Serve(t, key, answer), Model: f.Model, APIKey: key, Server: api.OpenAI})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	matrixtest.Driver(t, f)
}
