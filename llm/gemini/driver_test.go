package gemini

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"matrix/llm"
	"matrix/matrixtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// complaint is an error of https://ai.google.dev/gemini-api/docs/troubleshooting.
func complaint(code int, status, message, details string, kind llm.Kind) matrixtest.Complaint {
	if details != "" {
		details = `,"details":[` + details + `]`
	}
	body := fmt.Sprintf(`{"error":{"code":%d,"message":%q,"status":%q%s}}`, code, message, status, details)
	return matrixtest.Complaint{
		Name: fmt.Sprintf("%d %s", code, status), Status: code, Body: body, Event: string(matrixtest.SSE("", body)), Kind: kind, Code: status,
	}
}

// unsupported is what neither backend has.
var unsupported = []matrixtest.Feature{
	matrixtest.Completions, matrixtest.Regex, matrixtest.Grammar, matrixtest.Keys, matrixtest.TooLong, matrixtest.CacheWrites,
}

func fake() matrixtest.Fake {
	badKey := complaint(400, "INVALID_ARGUMENT", "API key not valid: {secret}", `{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}`, llm.Fatal)
	badKey.Name, badKey.Code, badKey.Hint = "a wrong key", "API_KEY_INVALID", "api_key"
	limited := complaint(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", `{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"46s"}`, llm.Capacity)
	limited.Name, limited.After = "429 with RetryInfo", 46*time.Second
	return matrixtest.Fake{
		Model:       testModel,
		Unsupported: unsupported,
		Ends: map[string]string{
			"STOP": "whole", "MAX_TOKENS": "cut", "SAFETY": "filtered", "RECITATION": "filtered", "BLOCKLIST": "filtered",
			"PROHIBITED_CONTENT": "filtered", "SPII": "filtered", "IMAGE_SAFETY": "filtered",
			"MALFORMED_FUNCTION_CALL": "broken", "UNEXPECTED_TOOL_CALL": "broken", "OTHER": "broken",
		},
		Complaints: []matrixtest.Complaint{
			badKey, limited,
			complaint(400, "INVALID_ARGUMENT", "The request body is malformed", "", llm.Refused),
			complaint(400, "FAILED_PRECONDITION", "User location is not supported for the API use", "", llm.Fatal),
			complaint(401, "UNAUTHENTICATED", "Request had invalid authentication credentials", "", llm.Fatal),
			complaint(402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted", "", llm.Fatal),
			complaint(403, "PERMISSION_DENIED", "Your API key does not have the required permissions", "", llm.Fatal),
			complaint(404, "NOT_FOUND", "models/gemini-none is not found for API version v1beta", "", llm.Fatal),
			complaint(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted", "", llm.Capacity),
			complaint(499, "CANCELLED", "The operation was cancelled", "", llm.Transport),
			complaint(500, "INTERNAL", "An unexpected error occurred", "", llm.Fault),
			complaint(503, "UNAVAILABLE", "The model is overloaded", "", llm.Capacity),
			complaint(504, "DEADLINE_EXCEEDED", "The service is unable to finish processing", "", llm.Timeout),
		},
	}
}

func TestConformance(t *testing.T) {
	f := fake()
	f.Secrets = []string{testKey}
	f.Start = func(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
		return driver(t, Config{APIKey: testKey, BaseURL: codec(geminiAPI).Serve(t, testKey, answer)})
	}
	matrixtest.Driver(t, f)
}

// login makes application default credentials of a service account, whose tokens
// come from a server of the test's. It returns how many were asked for.
func login(t testing.TB, answer http.HandlerFunc) *atomic.Int32 {
	t.Helper()
	asked := new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	account := encode(map[string]string{
		"type": "service_account", "project_id": testProject, "client_email": "tests@example.com", "token_uri": s.URL, "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	path := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(path, account, 0o600); err != nil {
		t.Fatal(err)
	}
	t.(interface{ Setenv(key, value string) }).Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
	return asked
}

func grant(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, testToken)
}

func TestVertexConformance(t *testing.T) {
	for _, name := range []string{"GOOGLE_API_KEY", "GEMINI_API_KEY"} {
		t.Setenv(name, "")
	}
	asked := login(t, grant)
	f := fake()
	f.Unsupported = append(f.Unsupported, matrixtest.Listing, matrixtest.CallIDs)
	f.Model = "embedding-test" // a name of those that embed several texts a call
	f.Start = func(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
		return driver(t, Config{Vertex: true, Model: f.Model, Project: testProject, Location: "europe-west4", BaseURL: codec(vertexAI).Serve(t, testToken, answer)})
	}
	matrixtest.Driver(t, f)
	if asked.Load() == 0 {
		t.Error("no token was asked for")
	}
}

// raw serves h, and makes a driver to there.
func raw(t *testing.T, o Config, h http.HandlerFunc) *Driver {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	o.BaseURL = s.URL
	if !o.Vertex {
		o.APIKey = testKey
	}
	w := driver(t, o)
	t.Cleanup(func() { w.Close() })
	return w
}

func ask(text string) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: text}}}
}

func TestTokenIsKept(t *testing.T) {
	asked := login(t, grant)
	w := raw(t, Config{Vertex: true, Project: testProject}, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+testToken {
			t.Errorf("authorization: got %q", got)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"candidates":[{"content":{"parts":[{"text":"so"}]},"finishReason":"STOP"}]}`)
	})
	for range 3 {
		if _, err := w.Send(t.Context(), ask("go")); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d tokens were asked for, want 1", n)
	}
}

func TestNoToken(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		want   llm.Kind
	}{
		{"a revoked account", 400, llm.Fatal},
		{"a forbidden one", 403, llm.Fatal},
	} {
		t.Run(c.name, func(t *testing.T) {
			login(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				fmt.Fprint(w, `{"error":"invalid_grant","error_description":"account disabled"}`)
			})
			w := raw(t, Config{Vertex: true, Project: testProject}, func(http.ResponseWriter, *http.Request) {
				t.Error("a call arrived without a token")
			})
			_, err := w.Send(t.Context(), ask("go"))
			var f *llm.Failure
			if !errors.As(err, &f) || f.Kind != c.want || !strings.Contains(f.Hint, "gcloud") {
				t.Errorf("got %v (%+v), want kind %v and a hint", err, f, c.want)
			}
		})
	}
}

func TestVertexEmbeddings(t *testing.T) {
	login(t, grant)
	var path string
	w := raw(t, Config{Vertex: true, Project: testProject, Model: "text-embedding-005"}, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		var b struct{ Instances []struct{ Content string } }
		json.NewDecoder(r.Body).Decode(&b)
		var ps []string
		for i := range b.Instances {
			ps = append(ps, fmt.Sprintf(`{"embeddings":{"values":[%d,0.5],"statistics":{"token_count":%d}}}`, i, len(b.Instances[i].Content)))
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"predictions":[%s]}`, strings.Join(ps, ","))
	})
	rep, err := w.Send(t.Context(), &llm.Request{Input: []string{"one", "three"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Vectors) != 2 || rep.Vectors[1][0] != 1 || rep.Usage.PromptTokens != 8 {
		t.Errorf("got %v with %d tokens, want two vectors and 8 tokens", rep.Vectors, rep.Usage.PromptTokens)
	}
	if want := "/v1beta1/projects/project-1/locations/global/publishers/google/models/text-embedding-005:predict"; path != want {
		t.Errorf("path: got %s, want %s", path, want)
	}
}

func TestOneTextACall(t *testing.T) {
	login(t, grant)
	w := raw(t, Config{Vertex: true, Project: testProject, Model: "gemini-embedding-2"}, func(http.ResponseWriter, *http.Request) {
		t.Error("a call arrived")
	})
	_, err := w.Send(t.Context(), &llm.Request{Input: []string{"one", "two"}})
	var f *llm.Failure
	if !errors.As(err, &f) || f.Kind != llm.Refused || f.Hint == "" {
		t.Errorf("got %v, want a refusal with a hint", err)
	}
}

func TestBlockedPrompt(t *testing.T) {
	for _, stream := range []bool{false, true} {
		w := raw(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
			const body = `{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":9}}`
			if stream {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Write(matrixtest.SSE("", body))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
		})
		r := ask("go")
		r.Sampling.Stream = &stream
		_, err := w.Send(t.Context(), r)
		var f *llm.Failure
		if !errors.As(err, &f) || f.Kind != llm.Refused || f.Code != "PROHIBITED_CONTENT" || f.Usage == nil || f.Usage.PromptTokens != 9 {
			t.Errorf("stream %v: got %v (%+v), want a refusal that tells its reason and its cost", stream, err, f)
		}
	}
}

func TestBlockedReply(t *testing.T) {
	w := raw(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"candidates":[{"finishReason":"SAFETY","finishMessage":"harm"}]}`)
	})
	_, err := w.Send(t.Context(), ask("go"))
	var f *llm.Failure
	if !errors.As(err, &f) || f.Kind != llm.Refused || !strings.Contains(f.Msg, "SAFETY") {
		t.Errorf("got %v, want a refusal for SAFETY", err)
	}
}

func TestFold(t *testing.T) {
	for _, c := range []struct{ in, want int64 }{{0, 0}, {42, 42}, {-1, -1}, {1<<31 - 1, 1<<31 - 1}} {
		if got := fold(c.in); got != c.want {
			t.Errorf("fold(%d): got %d, want %d", c.in, got, c.want)
		}
	}
	for _, in := range []int64{1 << 31, 1 << 62, -1 << 63, 123456789012345} {
		if got := fold(in); got < 0 || got > 1<<31-1 {
			t.Errorf("fold(%d): got %d, want 31 bits", in, got)
		}
	}
	if fold(1<<40|5) == fold(1<<41|5) {
		t.Error("two seeds fold to one")
	}
}

func TestSchemaKeepsItsOrder(t *testing.T) {
	schema := `{"type":"object","properties":{"zeal":{"type":"string"},"aim":{"type":"string"}}}`
	var got string
	w := raw(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		var b fakeBody
		json.NewDecoder(r.Body).Decode(&b)
		got = string(b.GenerationConfig.ResponseJSONSchema)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"candidates":[{"content":{"parts":[{"text":"{}"}]},"finishReason":"STOP"}]}`)
	})
	r := ask("go")
	r.Format = &llm.Format{Schema: json.RawMessage(schema)}
	if _, err := w.Send(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got != schema {
		t.Errorf("schema: got %s, want %s", got, schema)
	}
}

func TestSignatures(t *testing.T) {
	for model, want := range map[string]string{"gemini-2.5-pro": "", "gemini-3-pro": unsigned, "models/gemini-10-x": unsigned, "tuned-1": ""} {
		w := driver(t, Config{APIKey: testKey, Model: model})
		ps := w.speech(&llm.Message{Role: "assistant", ToolCalls: []llm.ToolCall{{ID: "a", Name: "x"}, {ID: "b", Name: "y"}}})
		if ps[0].Signature != want || ps[1].Signature != "" {
			t.Errorf("%s: got signatures %q, %q, want %q and none", model, ps[0].Signature, ps[1].Signature, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, name := range []string{
		"GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION",
		"GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI",
	} {
		t.Setenv(name, "")
	}
	for _, c := range []struct {
		name       string
		o          Config
		env, value string
		field, has string
	}{
		{"no key", Config{Model: "m"}, "HOME", "/nonexistent", "api_key", "GEMINI_API_KEY"},
		{"key in the environment", Config{Model: "m"}, "GEMINI_API_KEY", testKey, "", ""},
		{"the other name", Config{Model: "m"}, "GOOGLE_API_KEY", testKey, "", ""},
		{"no model", Config{APIKey: testKey}, "HOME", "/nonexistent", "model", "missing"},
		{"no address", Config{Model: "m", APIKey: testKey, BaseURL: "x"}, "HOME", "/nonexistent", "base_url", "https://"},
		{"no project", Config{Model: "m", Vertex: true}, "HOME", "/nonexistent", "project", "GOOGLE_CLOUD_PROJECT"},
		{"a key for Vertex AI", Config{Model: "m", Vertex: true, Project: "p", APIKey: testKey}, "HOME", "/nonexistent", "api_key", "gcloud"},
		{"credentials that are not there", Config{Model: "m", Vertex: true, Project: "p"}, "GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent", "vertex", "gcloud"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.env, c.value)
			_, err := New(c.o)
			if c.field == "" {
				if err != nil {
					t.Errorf("got %v, want a driver", err)
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

func TestAddress(t *testing.T) {
	for _, name := range []string{"GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"} {
		t.Setenv(name, "")
	}
	for _, c := range []struct {
		o    Config
		want string
	}{
		{Config{}, DefaultBaseURL},
		{Config{Vertex: true}, "https://aiplatform.googleapis.com"},
		{Config{Vertex: true, Location: "eu"}, "https://aiplatform.eu.rep.googleapis.com"},
		{Config{Vertex: true, Location: "europe-west4"}, "https://europe-west4-aiplatform.googleapis.com"},
		{Config{BaseURL: "http://x"}, "http://x"},
	} {
		if got := c.o.address(); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.o, got, c.want)
		}
	}
}

// Arguments of a tool call come as they are: big integers, and keys in their
// order.
func TestArgumentsAsTheyAre(t *testing.T) {
	for _, stream := range []bool{false, true} {
		w := raw(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
			const body = `{"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"z": 9007199254740993, "a": "b c"}}}]}, "finishReason": "STOP"}], "responseId": "r"}`
			if stream {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Write(matrixtest.SSE("", body))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
		})
		r := ask("go")
		r.Sampling.Stream = &stream
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want := llm.ToolCall{ID: "call_r_0_0", Name: "f", Arguments: `{"z":9007199254740993,"a":"b c"}`}
		if got := rep.Choices[0].ToolCalls; len(got) != 1 || got[0] != want {
			t.Errorf("stream %v: got %+v, want %+v", stream, got, want)
		}
	}
}

// An error in a stream may come without being an event.
func TestBareErrorInAStream(t *testing.T) {
	const e = "{\n  \"error\": {\n    \"code\": 503,\n    \"message\": \"The model is overloaded\",\n    \"status\": \"UNAVAILABLE\"\n  }\n}\n"
	for _, body := range []string{e, "[" + e + "]\n", `data: {"candidates":[{"content":{"parts":[{"text":"so"}]}}]}` + "\n\n" + e + "\n"} {
		w := raw(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, body)
		})
		r := ask("go")
		r.Sampling.Stream = new(true)
		_, err := w.Send(t.Context(), r)
		var f *llm.Failure
		if !errors.As(err, &f) || f.Kind != llm.Capacity || f.Code != "UNAVAILABLE" || !f.Sent {
			t.Errorf("%q: got %v (%+v), want capacity", body, err, f)
		}
	}
}

// What embeddings ask for, at each of the three methods.
// A stream in which one of several replies does not end is not whole.
func TestOneOfSeveralIsCut(t *testing.T) {
	events := []string{`{"candidates":[{"index":0,"content":{"parts":[{"text":"a"}]}},{"index":1,"content":{"parts":[{"text":"b"}]}}]}`,
		`{"candidates":[{"index":0,"content":{"parts":[{"text":"c"}]},"finishReason":"STOP"}]}`,
		`{"candidates":[{"index":1,"content":{"parts":[{"text":"d"}]},"finishReason":"STOP"}]}`}
	for n := 2; n <= 3; n++ {
		w := raw(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, e := range events[:n] {
				fmt.Fprintf(w, "data: %s\n\n", e)
			}
		})
		stream := true
		r := ask("go")
		r.Sampling.N, r.Sampling.Stream = 2, &stream
		rep, err := w.Send(t.Context(), r)
		var f *llm.Failure
		if n == 3 && (err != nil || rep.Choices[1].Text != "bd") || n == 2 && (!errors.As(err, &f) || f.Kind != llm.Transport) {
			t.Errorf("%d events: got %v, %v", n, rep, err)
		}
	}
}

func TestEmbeddingRequests(t *testing.T) {
	login(t, grant)
	extra := map[string]any{"taskType": "RETRIEVAL_DOCUMENT", "title": "t", "outputDimensionality": 8}
	for _, c := range []struct {
		o          Config
		path, body string
		reply      string
	}{
		{
			Config{Model: "gemini-embedding-001"}, "/v1beta/models/gemini-embedding-001:batchEmbedContents",
			`{"requests":[{"model":"models/gemini-embedding-001","content":{"role":"user","parts":[{"text":"one"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"t","outputDimensionality":8}]}`,
			`{"embeddings":[{"values":[1]}]}`,
		},
		{
			Config{Vertex: true, Project: testProject, Model: "text-embedding-005"}, "/v1beta1/projects/project-1/locations/global/publishers/google/models/text-embedding-005:predict",
			`{"instances":[{"content":"one","task_type":"RETRIEVAL_DOCUMENT","title":"t"}],"parameters":{"outputDimensionality":8}}`,
			`{"predictions":[{"embeddings":{"values":[1],"statistics":{"token_count":3}}}]}`,
		},
		{
			Config{Vertex: true, Project: testProject, Model: "gemini-embedding-2"}, "/v1beta1/projects/project-1/locations/global/publishers/google/models/gemini-embedding-2:embedContent",
			`{"content":{"role":"user","parts":[{"text":"one"}]},"embedContentConfig":{"taskType":"RETRIEVAL_DOCUMENT","title":"t","outputDimensionality":8}}`,
			`{"embedding":{"values":[1]},"usageMetadata":{"promptTokenCount":3}}`,
		},
	} {
		w := raw(t, c.o, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || r.URL.Path != c.path || string(body) != c.body {
				t.Errorf("got %s %s (%v), want %s %s", r.URL.Path, body, err, c.path, c.body)
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, c.reply)
		})
		rep, err := w.Send(t.Context(), &llm.Request{Input: []string{"one"}, Sampling: llm.Sampling{Extra: extra}})
		if err != nil {
			t.Error(err)
			continue
		}
		if len(rep.Vectors) != 1 || c.o.Vertex && rep.Usage.PromptTokens != 3 {
			t.Errorf("got %v with %d tokens, want one vector and 3 tokens", rep.Vectors, rep.Usage.PromptTokens)
		}
	}
}

func TestModelNames(t *testing.T) {
	login(t, grant)
	const at = "/v1beta1/projects/p/locations/global/"
	for _, c := range []struct {
		vertex     bool
		name, want string
	}{
		{false, "g", "/v1beta/models/g:x"}, {false, "models/g", "/v1beta/models/g:x"}, {false, "tunedModels/g", "/v1beta/tunedModels/g:x"},
		{true, "g", at + "publishers/google/models/g:x"}, {true, "meta/l", at + "publishers/meta/models/l:x"},
		{true, "publishers/a/models/b", at + "publishers/a/models/b:x"}, {true, "projects/q/locations/l/endpoints/1", "/v1beta1/projects/q/locations/l/endpoints/1:x"},
	} {
		o := Config{Model: c.name, Vertex: c.vertex, Project: "p"}
		if !c.vertex {
			o.APIKey, o.Project = testKey, ""
		}
		if got := driver(t, o).path("x"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	if _, err := New(Config{Model: "a/../b", APIKey: testKey}); err == nil {
		t.Error("a/../b is taken as a name")
	}
}

// The service is told how long a reply is waited for.
func TestServerTimeout(t *testing.T) {
	var got string
	w := raw(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("X-Server-Timeout")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"candidates":[{"content":{"parts":[{"text":"so"}]},"finishReason":"STOP"}]}`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if _, err := w.Send(ctx, ask("go")); err != nil || got != "3600" {
		t.Errorf("got %q, %v, want 3600", got, err)
	}
}
