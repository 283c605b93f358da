package openai

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// A pinned endpoint is reached at its address, by the name of its host, and
// past a proxy.
func TestPinned(t *testing.T) {
	hosts := make(chan string, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		fmt.Fprint(w, `{"data":[{"id":"m"}]}`)
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	host := "llm.example.invalid:" + u.Port()
	w, err := New(Options{BaseURL: "http://" + host + "/v1#127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	served, err := w.Probe(t.Context())
	if err != nil || len(served) != 1 {
		t.Fatalf("got %v and %v, want a model", served, err)
	}
	if got := <-hosts; got != host {
		t.Errorf("got host %q, want %q", got, host)
	}
}
