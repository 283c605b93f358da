package llm

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// An error that stands in a reply has the fate of its code.
func TestErrorInReply(t *testing.T) {
	for body, want := range map[string]Kind{
		`{"choices":[{"message":{"content":"x"},"finish_reason":"error","error":{"code":400,"message":"no"}}]}`: Refused,
		`{"choices":[{"message":{"content":"x"},"error":{"code":"context_length_exceeded"}}]}`:                  Context,
		`{"choices":[{"message":{"content":"x"}}],"error":{"code":"insufficient_quota","message":"no"}}`:        Fatal,
	} {
		m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) { reply(w, body) })
		_, err := m.Chat(within(t, 10*time.Second), ask("x"))
		if e := kindOf(t, err); e.Kind != want {
			t.Errorf("%s: got %v, want %v", body, e, want)
		}
	}
}

// What was filtered is a reply, and so is one whose text came in parts.
func TestOddReplies(t *testing.T) {
	for body, want := range map[string]Choice{
		`{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}`: {"", "content_filter"},
		`{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"},{"text":"b"},{"type":"image","text":"no"}]},"finish_reason":"stop"}]}`: {"ab", "stop"},
		`{"choices":[{"message":{"content":[]},"finish_reason":"stop"}]}`:                          {"", "stop"},
		`{"error":{},"choices":[{"error":null,"message":{"content":"a"},"finish_reason":"stop"}]}`: {"a", "stop"},
	} {
		m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) { reply(w, body) })
		rep, err := m.Chat(within(t, 10*time.Second), ask("x"))
		if err != nil || rep.Choices[0] != want {
			t.Errorf("%s: got %+v, %v, want %+v", body, rep, err, want)
		}
	}
}

// Once the server has answered, a 404 that says nothing of a model comes from
// something before the server, and is waited out.
func TestPlaceGoneForNow(t *testing.T) {
	for _, c := range []struct {
		status      int
		media, body string
		fatal       bool
	}{
		{404, "text/plain", "404 page not found", false},
		{404, "text/html", "<html>no backend</html>", false},
		{404, "application/json", `{"detail":"Not Found"}`, false},
		{405, "text/plain", "", false},
		{200, "text/html", "<html>we will be back</html>", false},
		{404, "application/json", `{"error":{"code":"model_not_found","message":"no"}}`, true},
		{404, "application/json", `{"object":"error","type":"NotFoundError","code":404,"message":"no model"}`, true},
	} {
		t.Run(fmt.Sprint(c.status, " ", c.body), func(t *testing.T) {
			n := new(log)
			m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
				if k := n.add(""); r.Method == "POST" && k > 1 && k <= 20 {
					w.Header().Set("Content-Type", c.media)
					w.WriteHeader(c.status)
					fmt.Fprint(w, c.body)
					return
				}
				reply(w, good)
			})
			ctx := within(t, 10*time.Second)
			if _, err := m.Chat(ctx, ask("x")); err != nil {
				t.Fatal(err)
			}
			rep, err := m.Chat(ctx, ask("y"))
			if c.fatal {
				if e := kindOf(t, err); e.Kind != Fatal {
					t.Errorf("got %v, want fatal", e)
				}
			} else if err != nil || rep.Retries != 19 {
				t.Errorf("got %+v, %v, want 19 retries", rep, err)
			}
		})
	}
}

// A request that the server answers, but never with a completion, is given up
// soon, also when nobody else asks: the server is there.
func TestHollow(t *testing.T) {
	for _, body := range []string{"garbage", `{"choices":[]}`, `{"choices":[{"message":{"content":"x"},"finish_reason":"abort"}]}`} {
		n := new(log)
		m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
			if said(t, r) == "poison" {
				n.add("")
				reply(w, body)
				return
			}
			reply(w, good)
		})
		ctx := within(t, 20*time.Second)
		if _, err := m.Chat(ctx, ask("x")); err != nil {
			t.Fatal(err)
		}
		_, err := m.Chat(ctx, ask("poison"))
		if e := kindOf(t, err); e.Kind != Transient || n.len() != 6 || e.Hint != "given up after 6 tries" {
			t.Errorf("%s: got %v after %d tries, want 6", body, err, n.len())
		}
	}
}

// An error says how the call went.
func TestErrorTellsOfTheCall(t *testing.T) {
	n := new(log)
	temperature := 0.5
	m := serve(t, OpenAI{Sampling: Sampling{Temperature: &temperature}}, func(w http.ResponseWriter, r *http.Request) {
		if n.add("") <= 2 {
			w.WriteHeader(503)
			return
		}
		w.WriteHeader(422)
	})
	_, err := m.Chat(within(t, 10*time.Second), ask("x"))
	e := kindOf(t, err)
	if string(e.Params) != `{"temperature":0.5}` || e.Retries != 2 || e.Retry <= 0 || e.Wait < 0 || e.Endpoint == "" {
		t.Errorf("got %+v, params %s", e, e.Params)
	}
}
