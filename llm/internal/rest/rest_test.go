package rest

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"matrix/llm"
)

// A body that comes over plain HTTP/1.1 can be told to wake nobody.
func TestPlainBodiesAreQuieters(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }))
	defer s.Close()
	c, err := New(s.URL, "http://example.com")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	res, f := c.Do(t.Context(), "/", nil, []byte("{}"))
	if f != nil {
		t.Fatal(f)
	}
	defer res.Body.Close()
	if _, ok := res.Body.(llm.Quieter); !ok {
		t.Errorf("got a %T, want a llm.Quieter", res.Body)
	}
}
