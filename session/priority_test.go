package session_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix/session"
)

const asked = `
name: asked
live: 50
dataset: {path: rows.jsonl, id: id, priority: item?.level ?? "bulk"}
models:
  m: {base_url: URL, model: m-1, concurrency: 1}
roles:
  first: {chat: {model: m, prompt: "{{ item.id }}.1"}}
  second: {chat: {model: m, prompt: "{{ item.id }}.2"}}
flow: [first, second]
`

// The rows that are urgent overtake those that were there before them, in the queue of
// a model over HTTP, with both of their calls.
func TestUrgentRowsOvertake(t *testing.T) {
	var order []string // one call at a time
	waiting := 10
	var s *session.Session
	ready := make(chan struct{})
	prompt := regexp.MustCompile(`"(\w+\.\d)"`)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/chat/completions") {
			http.NotFound(w, r)
			return
		}
		b, _ := io.ReadAll(r.Body)
		<-ready
		order = append(order, string(prompt.FindSubmatch(b)[1]))
		for s.Snapshot().Models[0].Waiting < waiting { // the others wait behind this call
			time.Sleep(time.Millisecond)
		}
		if strings.HasSuffix(order[len(order)-1], ".2") {
			waiting--
		}
		fmt.Fprint(w, `{"model": "m-1", "choices": [{"message": {"content": "so"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}`)
	}))
	defer service.Close()
	var rows strings.Builder
	for i := range 10 {
		fmt.Fprintf(&rows, "{\"id\": \"b%d\"}\n", i)
	}
	rows.WriteString(`{"id": "u", "level": "urgent"}` + "\n")
	s = open(t, config(t, strings.Replace(asked, "URL", service.URL+"/v1", 1), rows.String()), filepath.Join(t.TempDir(), "out"))
	defer s.Close()
	close(ready)
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(order) != 22 || !slices.Contains(order[:2], "u.1") || !slices.Contains(order[:4], "u.2") {
		t.Errorf("got %q, want the urgent row first", order)
	}
}
