package sagemaker

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

func says(text string) matrixtest.Answer {
	return matrixtest.Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: text, Finish: "stop"}}}}
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
		name  string
		conf  Config
		field string
		want  string
	}{
		{"no endpoint", Config{}, "endpoint", "is missing"},
		{"an ARN", Config{Endpoint: "arn:aws:sagemaker:us-west-2:1:endpoint/x"}, "endpoint", "not its ARN"},
		{"server", Config{Endpoint: "x", Server: "nginx"}, "server", "nginx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.conf.Open("http://127.0.0.1:1")
			var bad *llm.FieldError
			if !errors.As(err, &bad) || bad.Field != c.field || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one of %s with %q", err, c.field, c.want)
			}
		})
	}
	for _, c := range []struct{ region, fips, dual, want string }{
		{"us-west-2", "false", "false", "runtime.sagemaker.us-west-2.amazonaws.com"},
		{"us-west-2", "true", "false", "runtime-fips.sagemaker.us-west-2.amazonaws.com"},
		{"us-west-2", "true", "true", "runtime.sagemaker-fips.us-west-2.api.aws"},
		{"us-gov-west-1", "true", "false", "runtime.sagemaker.us-gov-west-1.amazonaws.com"},
		{"cn-north-1", "false", "true", "runtime.sagemaker.cn-north-1.api.amazonwebservices.com.cn"},
		{"cn-north-1", "true", "false", "runtime.sagemaker-fips.cn-north-1.amazonaws.com.cn"},
	} {
		t.Setenv("AWS_REGION", c.region)
		t.Setenv("AWS_USE_FIPS_ENDPOINT", c.fips)
		t.Setenv("AWS_USE_DUALSTACK_ENDPOINT", c.dual)
		at, err := Config{}.Where()
		if err != nil || len(at) != 1 || at[0].URL != "https://"+c.want {
			t.Errorf("%+v: got %v, %v", c, at, err)
		}
	}
}

// What the config says of the endpoint arrives, and the reply says where it is
// from.
func TestEndpoint(t *testing.T) {
	got := http.Header{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"choices":[{"message":{"content":"so"},"finish_reason":"stop"}]}`)
	}))
	defer s.Close()
	w := open(t, Config{Component: "c-1", Variant: "v-1", Attributes: "accept_eula=true"}, s.URL)
	defer w.Close()
	rep, err := w.Send(t.Context(), chat("go"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"X-Amzn-SageMaker-Inference-Component": "c-1", "X-Amzn-SageMaker-Target-Variant": "v-1", "X-Amzn-SageMaker-Custom-Attributes": "accept_eula=true",
	} {
		if got := got.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if want := s.URL + "/endpoints/" + endpoint; rep.Endpoint != want {
		t.Errorf("got endpoint %s, want %s", rep.Endpoint, want)
	}
}

// An error of the container has the status 424, and its own in a field.
func TestModelError(t *testing.T) {
	for _, stream := range []bool{false, true} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Amzn-Errortype", "ModelError")
			w.WriteHeader(http.StatusFailedDependency)
			io.WriteString(w, `{"Message":"Received server error (503) from primary","OriginalStatusCode":503,"OriginalMessage":"{\"error\":\"queue is full\"}"}`)
		}))
		w := open(t, Config{}, s.URL)
		r := chat("go")
		r.Sampling.Stream = &stream
		_, err := w.Send(t.Context(), r)
		if f := failure(t, err); f.Kind != llm.Capacity || f.Status != 503 || f.Msg != "queue is full" {
			t.Errorf("stream %v: got %v %v, want capacity and what the container said", stream, f.Kind, f)
		}
		w.Close()
		s.Close()
	}
}

// An error in a stream is judged by its code, where it has one.
func TestStreamError(t *testing.T) {
	for code, want := range map[string]llm.Kind{"ModelInvocationTimeExceeded": llm.Timeout, "StreamBroken": llm.Transport, "": llm.Fault} {
		w := start(t, func(matrixtest.Call) matrixtest.Answer {
			a := says("one two three")
			a.Fault = matrixtest.Break
			a.Complaint = &matrixtest.Complaint{Event: exception("ModelStreamError", `{"Message":"broke","ErrorCode":"`+code+`"}`)}
			return a
		})
		r := chat("go")
		r.OnDelta = func(llm.Delta) bool { return true }
		_, err := w.Send(t.Context(), r)
		if f := failure(t, err); f.Kind != want || !f.Sent || f.Msg != "broke" || len(f.Params) == 0 {
			t.Errorf("%q: got %v %v, sent %v, params %s, want %v", code, f.Kind, f, f.Sent, f.Params, want)
		}
		w.Close()
	}
}

// A container of vLLM is asked for a format in its own way, and nothing is
// called but its invocations.
func TestVLLM(t *testing.T) {
	var body string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || !strings.HasSuffix(r.URL.Path, "/invocations") {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		body = string(b)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"choices":[{"message":{"content":"7"},"finish_reason":"stop"}]}`)
	}))
	defer s.Close()
	w := open(t, Config{Server: "vllm"}, s.URL)
	defer w.Close()
	r := chat("go")
	r.Format = &llm.Format{Regex: "[0-9]+"}
	if _, err := w.Send(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if want := `"regex":"[0-9]+"`; !strings.Contains(body, want) {
		t.Errorf("got %s, want %s in it", body, want)
	}
	if served, err := w.Probe(t.Context()); served != nil || err != nil {
		t.Errorf("probe: got %v, %v, want nothing", served, err)
	}
}

func TestNoCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	w := start(t, func(matrixtest.Call) matrixtest.Answer {
		t.Error("a call arrived")
		return says("so")
	})
	defer w.Close()
	_, err := w.Send(t.Context(), chat("go"))
	if f := failure(t, err); f.Kind != llm.Fatal || f.Sent || !strings.Contains(f.Hint, "AWS_ACCESS_KEY_ID") {
		t.Errorf("got %v %v (%s), want fatal that names AWS_ACCESS_KEY_ID", f.Kind, f, f.Hint)
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
