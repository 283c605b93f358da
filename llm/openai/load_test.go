package openai

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// Servers tell how busy they are in words of their own; others do not tell.
func TestLoad(t *testing.T) {
	for _, x := range []struct {
		name             string
		status           int
		body             string
		running, waiting int
		ok               bool
	}{
		{"vllm", 200, "# HELP vllm:num_requests_running x\n# TYPE vllm:num_requests_running gauge\n" +
			"vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 7.0\nvllm:num_requests_running{engine=\"1\",model_name=\"m\"} 5.0\n" +
			"vllm:num_requests_waiting{engine=\"0\",model_name=\"a } b\"} 3.0\nvllm:num_requests_waiting_by_reason{reason=\"x\"} 9\n", 12, 3, true},
		{"sglang", 200, "sglang:num_running_reqs{model_name=\"m\"} 4\nsglang:num_queue_reqs{model_name=\"m\"} 2\n", 4, 2, true},
		{"llama.cpp", 200, "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n", 1, 0, true},
		{"other metrics", 200, "go_goroutines 12\n", 0, 0, false},
		{"a web page", 200, "<!doctype html>", 0, 0, false},
		{"none", 404, "", 0, 0, false},
		{"ill", 503, "", 0, 0, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/metrics" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.WriteHeader(x.status)
				w.Write([]byte(x.body))
			}))
			defer s.Close()
			w, err := New(Options{BaseURL: s.URL + "/v1"})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			running, waiting, ok, err := w.Load(t.Context())
			if err != nil || running != x.running || waiting != x.waiting || ok != x.ok {
				t.Errorf("got %d, %d, %v, %v; want %d, %d, %v", running, waiting, ok, err, x.running, x.waiting, x.ok)
			}
		})
	}
}
