package openai

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"matrix/llm"
)

// A model without a name: it is left out, until the server wants one.
func TestNoName(t *testing.T) {
	for _, tt := range []struct {
		name   string
		models string // that the server has; empty: it does not say
		strict bool   // it wants a name
		kind   llm.Kind
		hint   string
		sent   string // as model, in the end
		listed bool
	}{
		{name: "a server that wants none", models: "a,b", sent: "<nil>"},
		{name: "the only one", models: "llama", strict: true, sent: "llama", listed: true},
		{name: "several", models: "a,b", strict: true, kind: llm.Fatal, hint: "set model: the server has a, b", sent: "<nil>", listed: true},
		{name: "no list", strict: true, kind: llm.Refused, sent: "<nil>", listed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			last, listed := "", false
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if r.Method == http.MethodGet {
					listed = true
					if tt.models == "" {
						http.NotFound(w, r)
						return
					}
					var list []string
					for _, m := range strings.Split(tt.models, ",") {
						list = append(list, fmt.Sprintf(`{"id":%q}`, m))
					}
					reply(w, `{"data":[`+strings.Join(list, ",")+`]}`)
					return
				}
				model := sent(t, r)["model"]
				if last = fmt.Sprint(model); tt.strict && model == nil {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = w.Write([]byte(`{"error":{"message":"model is required"}}`))
					return
				}
				reply(w, good)
			})
			var calls sync.WaitGroup
			for range 8 {
				calls.Go(func() {
					_, err := w.Send(t.Context(), ask("x"))
					if tt.kind == 0 && err != nil {
						t.Error(err)
					} else if tt.kind != 0 {
						if f := failure(t, err); f.Kind != tt.kind || f.Hint != tt.hint || !strings.Contains(f.Msg, "model is required") {
							t.Errorf("got %+v, want kind %v and hint %q", f, tt.kind, tt.hint)
						}
					}
				})
			}
			calls.Wait()
			if _, err := w.Send(t.Context(), ask("x")); (err != nil) != (tt.kind != 0) {
				t.Errorf("got %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if last != tt.sent || listed != tt.listed {
				t.Errorf("model: got %s, listed %v; want %s, %v", last, listed, tt.sent, tt.listed)
			}
		})
	}
}
