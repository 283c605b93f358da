package bedrock

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"matrix/llm"
	"matrix/matrixtest"
)

func says(text string) func(matrixtest.Call) matrixtest.Answer {
	return func(matrixtest.Call) matrixtest.Answer {
		return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: text, Finish: "stop"}}}}
	}
}

func chat(text string) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: text}}}
}

func failure(t testing.TB, err error) *llm.Failure {
	t.Helper()
	var f *llm.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v (%T), want a *llm.Failure", err, err)
	}
	return f
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name, url string
		edit      func(t *testing.T, c *Config)
		field     string
		want      string
	}{
		{"no model", "", func(t *testing.T, c *Config) { c.Model = "" }, "model", "is missing"},
		{"no region", "", func(t *testing.T, c *Config) { t.Setenv("AWS_REGION", "") }, "region", "AWS_REGION"},
		{"no such profile", "", func(t *testing.T, c *Config) { c.Profile = "nobody" }, "profile", "nobody"},
		{"address", "bedrock.example.com", nil, "base_url", "https://HOST"},
		{"credentials in the address", "https://user:hunter22@example.com", nil, "base_url", "leave them out"},
		{"schema", "", func(t *testing.T, c *Config) { c.Schema = "maybe" }, "schema", "native or tool"},
		{"guardrail", "", func(t *testing.T, c *Config) { c.Guardrail = &Guardrail{ID: "g"} }, "guardrail", "id and version"},
		{"format", "", func(t *testing.T, c *Config) { c.ResponseFormat = map[string]any{"type": "json_object"} }, "response_format", "json_schema"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := Config{Model: modelID}
			if c.edit != nil {
				c.edit(t, &conf)
			}
			_, err := conf.Open(c.url)
			var bad *llm.FieldError
			if !errors.As(err, &bad) || bad.Field != c.field || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one of %s with %q", err, c.field, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter22") {
				t.Errorf("%v shows a password", err)
			}
		})
	}
}

func TestWhere(t *testing.T) {
	for _, c := range []struct{ name, env, value, base, want string }{
		{"by region", "AWS_REGION", "eu-central-1", "", "https://bedrock-runtime.eu-central-1.amazonaws.com"},
		{"of China", "AWS_REGION", "cn-north-1", "", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"},
		{"of another partition", "AWS_REGION", "us-iso-east-1", "", "https://bedrock-runtime.us-iso-east-1.c2s.ic.gov"},
		{"FIPS", "AWS_USE_FIPS_ENDPOINT", "true", "", "https://bedrock-runtime-fips.us-west-2.amazonaws.com"},
		{"dual stack", "AWS_USE_DUALSTACK_ENDPOINT", "true", "", "https://bedrock-runtime.us-west-2.api.aws"},
		{"by AWS_ENDPOINT_URL for all", "AWS_ENDPOINT_URL", "http://127.0.0.1:8", "", "http://127.0.0.1:8"},
		{"by base_url", "AWS_REGION", "eu-central-1", "https://vpce-1.example.com", "https://vpce-1.example.com"},
		{"by AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:9", "", "http://127.0.0.1:9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.env, c.value)
			var conf Config
			conf.BaseURL = c.base
			at, err := conf.Where()
			if err != nil || len(at) != 1 || at[0].URL != c.want {
				t.Errorf("got %v, %v, want %s", at, err, c.want)
			}
		})
	}
}

// Without credentials nothing is sent, and the failure names what to set.
func TestNoCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	w := start(t, func(c matrixtest.Call) matrixtest.Answer {
		t.Error("a call arrived")
		return says("so")(c)
	})
	defer w.Close()
	for _, stream := range []bool{false, true} {
		r := chat("go")
		r.Sampling.Stream = &stream
		_, err := w.Send(t.Context(), r)
		f := failure(t, err)
		if f.Kind != llm.Fatal || f.Sent {
			t.Errorf("got %v, sent %v, want fatal and not sent: %v", f.Kind, f.Sent, f)
		}
		for _, want := range []string{"AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"} {
			if !strings.Contains(f.Hint, want) {
				t.Errorf("hint %q does not name %s", f.Hint, want)
			}
		}
	}
}

// A profile gives region and credentials, none of which is shown.
func TestProfile(t *testing.T) {
	config, credentials := filepath.Join(t.TempDir(), "config"), filepath.Join(t.TempDir(), "credentials")
	for file, text := range map[string]string{
		config:      "[profile team]\nregion = us-west-2\n",
		credentials: "[team]\naws_access_key_id = " + keyID + "\naws_secret_access_key = " + secret + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_REGION": "",
		"AWS_CONFIG_FILE": config, "AWS_SHARED_CREDENTIALS_FILE": credentials,
	} {
		t.Setenv(k, v)
	}
	conf := Config{}
	conf.Profile = "team"
	w := open(t, conf, codec.Serve(t, secret, func(c matrixtest.Call) matrixtest.Answer {
		if !c.Known {
			t.Error("the credentials did not arrive")
		}
		return matrixtest.Answer{Complaint: &matrixtest.Complaint{Status: 403, Body: `{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no entry for ` + keyID + `"}`}}
	}))
	defer w.Close()
	_, err := w.Send(t.Context(), chat("go"))
	if f := failure(t, err); f.Kind != llm.Fatal || strings.Contains(f.Error(), keyID) || !strings.Contains(f.Error(), "***") {
		t.Errorf("got %v, want fatal, with *** for the key", f)
	}
}

// Bedrock's own API key wins over other credentials, and AWS_CA_BUNDLE says whom
// to trust.
func TestBearer(t *testing.T) {
	const key = "bedrock-api-key-example"
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.Header.Get("Authorization"), "Bearer "+key; got != want {
			t.Errorf("got authorization %q, want %q", got, want)
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"__type":"AccessDeniedException","message":"no entry for %s"}`, key)
	}))
	defer s.Close()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_BEARER_TOKEN_BEDROCK", key)
	for _, c := range []struct {
		name, bundle, want string
		status             int
		kind               llm.Kind
	}{{"trusted", bundle, "no entry for ***", 403, llm.Fatal}, {"not trusted", "", "certificate", 0, llm.Fatal}} {
		t.Setenv("AWS_CA_BUNDLE", c.bundle)
		w := open(t, Config{}, s.URL)
		_, err := w.Send(t.Context(), chat("go"))
		if f := failure(t, err); f.Kind != c.kind || f.Status != c.status || !strings.Contains(f.Msg+f.Hint, c.want) || strings.Contains(f.Msg, key) {
			t.Errorf("%s: got %v %v (%s), want %v and %q", c.name, f.Kind, f, f.Hint, c.kind, c.want)
		}
		w.Close()
	}
}

// What Converse cannot say as it stands is said so that it is taken.
func TestConversation(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []llm.Message
		want string
	}{
		{
			"neighbours of one side are one message",
			[]llm.Message{{Role: "user", Content: "a"}, {Role: "user", Content: "b"}, {Role: "assistant", Content: "c"}},
			`[{"Role":"user","Content":"ab"},{"Role":"assistant","Content":"c"}]`,
		},
		{
			"empty texts are left out",
			[]llm.Message{{Role: "system"}, {Role: "user", Content: "a"}, {Role: "assistant"}, {Role: "user", Content: "b"}},
			`[{"Role":"user","Content":"ab"}]`,
		},
		{
			"arguments that are not an object go into one",
			[]llm.Message{
				{Role: "user", Content: "a"},
				{Role: "assistant", ToolCalls: []llm.ToolCall{{ID: "1", Name: "f", Arguments: `{"x":1e400,"b":2,"a":12345678901234567890}`}, {ID: "2", Name: "g", Arguments: "oops"}, {ID: "3", Name: "h"}}},
				{Role: "tool", ToolCallID: "1", Content: ""},
			},
			`[{"Role":"user","Content":"a"},{"Role":"assistant","ToolCalls":[` +
				`{"ID":"1","Name":"f","Arguments":"{\"x\":1e400,\"b\":2,\"a\":12345678901234567890}"},{"ID":"2","Name":"g","Arguments":"{\"arguments\":\"oops\"}"},{"ID":"3","Name":"h","Arguments":"{}"}]},` +
				`{"Role":"tool","ToolCallID":"1"}]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []llm.Message
			w := start(t, func(call matrixtest.Call) matrixtest.Answer {
				got = call.Messages
				return says("so")(call)
			})
			defer w.Close()
			if _, err := w.Send(t.Context(), &llm.Request{Messages: c.in}); err != nil {
				t.Fatal(err)
			}
			if got := brief(t, got); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// brief is messages as JSON without what is empty.
func brief(t testing.TB, ms []llm.Message) string {
	type message struct {
		Role       string
		Content    string         `json:",omitempty"`
		ToolCalls  []llm.ToolCall `json:",omitempty"`
		ToolCallID string         `json:",omitempty"`
	}
	var out []message
	for _, m := range ms {
		out = append(out, message{m.Role, m.Content, m.ToolCalls, m.ToolCallID})
	}
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A model without structured output replies by a tool, and the reply is a text.
func TestSchemaByTool(t *testing.T) {
	const schema = `{"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"integer"}}}`
	var got matrixtest.Call
	url := codec.Serve(t, secret, func(c matrixtest.Call) matrixtest.Answer {
		got = c
		return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Finish: "tool_use", ToolCalls: []llm.ToolCall{{ID: "1", Name: "reply", Arguments: `{"a":1}`}}}}}}
	})
	w := open(t, Config{Schema: "tool"}, url)
	defer w.Close()
	for _, stream := range []bool{false, true} {
		r := chat("go")
		r.Sampling.Stream = &stream
		r.Sampling.ResponseFormat = map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "x", "schema": json.RawMessage(schema)}}
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c := rep.Choices[0]
		if c.Text != `{"a":1}` || c.ToolCalls != nil || c.Finish != "end_turn" {
			t.Errorf("stream %v: got %+v, want the tool's input as text", stream, c)
		}
		if len(got.Tools) != 1 || string(got.Tools[0].Parameters) != schema || got.ToolChoice != "reply" || got.Format != nil {
			t.Errorf("stream %v: got tools %+v, choice %q, want the schema as a tool", stream, got.Tools, got.ToolChoice)
		}
	}
	r := chat("go")
	r.Format, r.Tools = &llm.Format{Schema: json.RawMessage(schema)}, []llm.Tool{{Name: "f"}}
	_, err := w.Send(t.Context(), r)
	if f := failure(t, err); f.Kind != llm.Refused || f.Sent {
		t.Errorf("with other tools: got %v, want refused", f)
	}
}

func TestGuardrail(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b converseBody
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		got = b.GuardrailConfig["guardrailIdentifier"] + ":" + b.GuardrailConfig["guardrailVersion"]
		head, body := write(nil, &llm.Reply{
			Choices: []llm.Choice{{Text: "Sorry, that is blocked.", Finish: "guardrail_intervened"}}, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 9}},
		})
		w.Header().Set("Content-Type", head.Get("Content-Type"))
		w.Write(body)
	}))
	defer s.Close()
	w := open(t, Config{Guardrail: &Guardrail{ID: "gr-1", Version: "DRAFT"}}, s.URL)
	defer w.Close()
	_, err := w.Send(t.Context(), chat("go"))
	f := failure(t, err)
	if f.Kind != llm.Refused || f.Code != "guardrail_intervened" || !strings.Contains(f.Msg, "blocked") || f.Usage == nil || f.Usage.PromptTokens != 9 {
		t.Errorf("got %v %q %v with usage %v, want refused, with what it cost", f.Kind, f.Code, f, f.Usage)
	}
	if want := "gr-1:DRAFT"; got != want || !strings.Contains(string(f.Params), want) {
		t.Errorf("guardrail %q arrived, params %s, want %s", got, f.Params, want)
	}
}

// A conversation that leaves no room for a reply is too long.
func TestNoRoom(t *testing.T) {
	w := start(t, func(matrixtest.Call) matrixtest.Answer {
		return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Finish: "model_context_window_exceeded"}}}}
	})
	defer w.Close()
	_, err := w.Send(t.Context(), chat("go"))
	if f := failure(t, err); f.Kind != llm.Context {
		t.Errorf("got %v: %v, want context", f.Kind, f)
	}
}

// Words of a request that is refused before it is sent.
func TestRefused(t *testing.T) {
	w := start(t, func(c matrixtest.Call) matrixtest.Answer {
		t.Error("a call arrived")
		return says("so")(c)
	})
	defer w.Close()
	for name, edit := range map[string]func(r *llm.Request){
		"media":  func(r *llm.Request) { r.Messages[0].Images = []llm.Image{{Data: []byte("x"), Media: "image/tiff"}} },
		"schema": func(r *llm.Request) { r.Format = &llm.Format{Schema: json.RawMessage(`{`)} },
		"tool":   func(r *llm.Request) { r.Tools = []llm.Tool{{Name: "f", Parameters: json.RawMessage(`{`)}} },
		"tools forbidden after some were used": func(r *llm.Request) {
			r.Tools, r.ToolChoice = []llm.Tool{{Name: "f"}}, "none"
			r.Messages = append(r.Messages, llm.Message{Role: "tool", ToolCallID: "1", Content: "x"})
		},
	} {
		r := chat("go")
		edit(r)
		_, err := w.Send(t.Context(), r)
		if f := failure(t, err); f.Kind != llm.Refused || f.Hint == "" || f.Sent {
			t.Errorf("%s: got %v (%s), want refused with a hint", name, f, f.Hint)
		}
	}
}

// A request is sent once, whatever AWS_MAX_ATTEMPTS says.
func TestOnce(t *testing.T) {
	for _, status := range []int{429, 500, 503} {
		var n atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			w.WriteHeader(status)
		}))
		w := open(t, Config{}, s.URL)
		if _, err := w.Send(t.Context(), chat("go")); err == nil {
			t.Error("got a reply")
		}
		if got := n.Load(); got != 1 {
			t.Errorf("%d: %d requests arrived, want 1", status, got)
		}
		w.Close()
		s.Close()
	}
}

// A context that has ended ends a call before it is sent.
func TestCancelledBefore(t *testing.T) {
	w := start(t, says("so"))
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Send(ctx, chat("go")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// A model is named by an ARN, and calls are signed by the service's clock, where
// this machine's is off.
func TestARNAndClock(t *testing.T) {
	const arn = "arn:aws:bedrock:us-west-2:1:inference-profile/us.x:0"
	var paths, dates []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths, dates = append(paths, r.RequestURI), append(dates, r.Header.Get("X-Amz-Date"))
		w.Header().Set("Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat))
		w.Header().Set("X-Amzn-Errortype", "RequestTimeTooSkewed")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer s.Close()
	w, err := Config{Model: arn}.Open(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 2 {
		_, err := w.Send(t.Context(), chat("go"))
		if f := failure(t, err); f.Kind != llm.Fault {
			t.Errorf("got %v %v, want a fault", f.Kind, f)
		}
	}
	if want := "/model/arn%3Aaws%3Abedrock%3Aus-west-2%3A1%3Ainference-profile%2Fus.x%3A0/converse"; paths[0] != want {
		t.Errorf("path: got %s, want %s", paths[0], want)
	}
	at, err := time.Parse("20060102T150405Z", dates[1])
	if ahead := time.Until(at); err != nil || ahead < 110*time.Minute {
		t.Errorf("the second call was signed for %s (%v), want 2 hours ahead", dates[1], err)
	}
}

// A service's own address stands in a profile, and can be ignored.
func TestConfiguredAddress(t *testing.T) {
	for ignore, want := range map[string]string{"false": "http://127.0.0.1:7", "true": "https://bedrock-runtime.us-west-2.amazonaws.com"} {
		file := filepath.Join(t.TempDir(), "config")
		text := "[default]\nservices = mine\nignore_configured_endpoint_urls = " + ignore + "\n[services mine]\nbedrock_runtime =\n  endpoint_url = http://127.0.0.1:7\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_CONFIG_FILE", file)
		t.Setenv("AWS_ENDPOINT_URL", "")
		os.Unsetenv("AWS_ENDPOINT_URL") // set, and empty, is an address, too
		at, err := Config{}.Where()
		if err != nil || at[0].URL != want {
			t.Errorf("ignore %s: got %v, %v, want %s", ignore, at, err, want)
		}
	}
}
