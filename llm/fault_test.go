package llm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Each fault, twice, and then a good reply: the call succeeds, and each try
// carried the same key and the same body.
func TestRetries(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	body := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { reply(w, s) }
	}
	faults := map[string]http.HandlerFunc{
		"408": status(408), "409": status(409), "425": status(425), "429": status(429), "500": status(500),
		"502": status(502), "503": status(503), "504": status(504), "529": status(529), "522": status(522), "599": status(599),
		"reset":                   func(w http.ResponseWriter, r *http.Request) { reset(w) },
		"closed":                  func(w http.ResponseWriter, r *http.Request) { c, _, _ := w.(http.Hijacker).Hijack(); c.Close() },
		"garbage":                 body("\x00\xff garbage"),
		"half":                    body(good[:len(good)/2]),
		"empty":                   body(""),
		"null":                    body("null"),
		"array":                   body("[]"),
		"no choices":              body(`{"choices":[]}`),
		"finish error":            body(`{"choices":[{"message":{"content":"so far"},"finish_reason":"error"}]}`),
		"finish abort":            body(`{"choices":[{"message":{"content":"so far"},"finish_reason":"stop"},{"message":{"content":""},"finish_reason":"abort"}]}`),
		"error of a choice":       body(`{"choices":[{"message":{"content":"so far"},"finish_reason":"stop","error":{"code":502,"message":"upstream"}}]}`),
		"error beside choices":    body(`{"choices":[{"message":{"content":"so far"},"finish_reason":"stop"}],"error":{"message":"upstream"}}`),
		"content of another type": body(`{"choices":[{"message":{"content":{"text":"x"}},"finish_reason":"stop"}]}`),
		"rate in 200":             body(`{"error":{"code":429,"message":"slow down"}}`),
		"wrong type":              body(`{"choices":"many"}`),
		"two values":              body(good + good),
		"500 with a code": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			reply(w, `{"error":{"code":"server_error"}}`)
		},
		"overloaded error": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			reply(w, `{"type":"error","error":{"type":"overloaded_error"}}`)
		},
		"cut off": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			reply(w, good)
		},
		"reset in the middle": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			reply(w, good)
			http.NewResponseController(w).Flush()
			reset(w)
		},
		"hangs": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs in the middle": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000")
			reply(w, good)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			keys, texts := new(log), new(log)
			m := serve(t, OpenAI{Timeout: 200 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
				texts.add(said(t, r))
				if keys.add(r.Header.Get("Idempotency-Key")) <= 2 {
					fault(w, r)
					return
				}
				reply(w, good)
			})
			rep, err := m.Chat(within(t, 20*time.Second), ask("x"))
			if err != nil {
				t.Fatal(err)
			}
			// A connection that was closed before a reply may be retried by the HTTP client itself.
			if rep.Retries < 1 || rep.Retries > 2 || rep.Choices[0].Text != "hello" || rep.Retry <= 0 {
				t.Errorf("got %+v", rep)
			}
			if got := slices.Compact(keys.list); !slices.Equal(got, []string{"key-x"}) {
				t.Errorf("keys: got %q", got)
			}
			if got := slices.Compact(texts.list); !slices.Equal(got, []string{"x"}) {
				t.Errorf("texts: got %q", got)
			}
			if s := m.Stats(); s.Retries != int64(rep.Retries) || s.Calls != 1 || s.Paused != "" {
				t.Errorf("stats: got %+v", s)
			}
		})
	}
}

// One row for each rule of the table.
func TestFates(t *testing.T) {
	retried := Kind(-1)
	rows := []struct {
		status int
		body   string
		kind   Kind
		hint   string
	}{
		{429, `{"error":{"code":"insufficient_quota","message":"no credit"}}`, Fatal, "credit"},
		{400, `{"error":{"code":"invalid_api_key","message":"no"}}`, Fatal, "api_key"},
		{400, `{"error":{"code":"model_not_found","message":"no"}}`, Fatal, "model"},
		{500, `{"error":{"type":"exceed_context_size_error","message":"too long"}}`, Context, ""},
		{403, `{"error":{"code":"content_filter","message":"no"}}`, Refused, ""},
		{400, `{"error":{"type":"rate_limit_error","message":"slow"}}`, retried, ""},
		{302, ``, Fatal, "base_url"},
		{401, `{"error":"who are you"}`, Fatal, "api_key"},
		{402, ``, Fatal, "credit"},
		{403, `<html>`, Fatal, "api_key"},
		{404, `{"detail":"Not Found"}`, Fatal, "base_url"},
		{405, ``, Fatal, "base_url"},
		{407, ``, Fatal, "proxy"},
		{408, ``, retried, ""},
		{409, ``, retried, ""},
		{425, ``, retried, ""},
		{429, `{"error":{"message":"this says insufficient_quota and 401, in words only"}}`, retried, ""},
		{422, `{"detail":[{"loc":["body"],"msg":"bad"}]}`, Refused, ""},
		{501, ``, Fatal, "base_url"},
		{502, `<html>`, retried, ""},
		{503, `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`, retried, ""},
		{504, ``, retried, ""},
		{505, ``, Fatal, "base_url"},
		{529, ``, retried, ""},
		{522, ``, retried, ""},
		{500, ``, retried, ""},
	}
	if len(rows) != len(rules) {
		t.Fatalf("%d rows for %d rules", len(rows), len(rules))
	}
	for i, r := range rows {
		c := parseComplaint([]byte(r.body))
		if _, hint := judge(r.status, c.code, c.typ); hint != rules[i].hint {
			t.Errorf("row %d matches another rule", i)
		}
	}
	for _, r := range rows {
		t.Run(fmt.Sprintf("%d %.40s", r.status, r.body), func(t *testing.T) {
			n := new(log)
			m := serve(t, OpenAI{}, func(w http.ResponseWriter, q *http.Request) {
				if q.Method == "GET" {
					http.NotFound(w, q)
					return
				}
				if n.add("") == 1 {
					w.WriteHeader(r.status)
					fmt.Fprint(w, r.body)
					return
				}
				reply(w, good)
			})
			rep, err := m.Chat(within(t, 10*time.Second), ask("x"))
			if r.kind == retried {
				if err != nil || rep.Retries != 1 {
					t.Fatalf("got %+v, %v, want a retry", rep, err)
				}
				return
			}
			e := kindOf(t, err)
			if e.Kind != r.kind || e.Status != r.status || !strings.Contains(e.Hint, r.hint) || e.Model != "teacher" || len(n.list) != 1 {
				t.Errorf("got %+v after %d calls, want %v", e, len(n.list), r.kind)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	for body, want := range map[string]complaint{
		`{"error":{"message":"a","code":"c","type":"t"}}`: {"c", 0, "t", "a"},
		`{"error":"a"}`: {"", 0, "", "a"},
		`{"object":"error","message":"a","code":404,"type":"t"}`: {"", 404, "t", "a"},
		`{"error":{"message":"a","code":"503"}}`:                 {"", 503, "", "a"},
		`{"error":{"message":"a","code":1234}}`:                  {"", 0, "", "a"},
		`{"error":{"message":"a","code":null,"param":null}}`:     {"", 0, "", "a"},
		`{"detail":"a"}`:                {"", 0, "", "a"},
		`{"detail":[{"msg":"a"}]}`:      {"", 0, "", `[{"msg":"a"}]`},
		"a\n b":                         {"", 0, "", "a b"},
		`{}`:                            {"", 0, "", "{}"},
		``:                              {},
		`{"error":{"message":["odd"]}}`: {"", 0, "", `{"message":["odd"]}`},
	} {
		if got := parseComplaint([]byte(body)); got != want {
			t.Errorf("%s: got %+v, want %+v", body, got, want)
		}
	}
}

func TestDeclined(t *testing.T) {
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		reply(w, `{"choices":[{"message":{"content":null,"refusal":"I will not."},"finish_reason":"stop"}]}`)
	})
	_, err := m.Chat(t.Context(), ask("x"))
	if e := kindOf(t, err); e.Kind != Refused || !strings.Contains(e.Msg, "I will not.") {
		t.Errorf("got %v", err)
	}
}

func TestReplyTooLarge(t *testing.T) {
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		reply(w, strings.Repeat("x", int(quick.maxBody)+1))
	})
	_, err := m.Chat(t.Context(), ask("x"))
	if e := kindOf(t, err); e.Kind != Refused || !strings.Contains(e.Msg, "larger than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestWebPage(t *testing.T) {
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!DOCTYPE html>")
	})
	_, err := m.Chat(t.Context(), ask("x"))
	if e := kindOf(t, err); e.Kind != Fatal || !strings.Contains(e.Hint, "base_url") {
		t.Errorf("got %v", err)
	}
}

func TestTLS(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = silent
	secure.StartTLS()
	defer secure.Close()
	for url, want := range map[string]string{
		strings.Replace(plain.URL, "http:", "https:", 1): "http://",
		secure.URL: "certificate",
	} {
		_, err := client(t, OpenAI{BaseURL: url}, quick).Chat(within(t, 10*time.Second), ask("x"))
		if e := kindOf(t, err); e.Kind != Fatal || !strings.Contains(e.Hint, want) {
			t.Errorf("%s: got %v", url, err)
		}
	}
}

// A request that always fails while others succeed is given up, and does not
// keep the others waiting.
func TestPersistentFault(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"500":     func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"garbage": func(w http.ResponseWriter, r *http.Request) { reply(w, "garbage") },
		"reset":   func(w http.ResponseWriter, r *http.Request) { reset(w) },
	} {
		t.Run(name, func(t *testing.T) {
			tries := new(log)
			m := serve(t, OpenAI{Concurrency: 2}, func(w http.ResponseWriter, r *http.Request) {
				if said(t, r) == "poison" {
					tries.add("")
					fault(w, r)
					return
				}
				reply(w, good)
			})
			ctx, stop := context.WithCancel(within(t, 30*time.Second))
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for ctx.Err() == nil {
						if _, err := m.Chat(ctx, ask("x")); err != nil && !errors.Is(err, context.Canceled) {
							t.Error(err)
							return
						}
					}
				})
			}
			_, err := m.Chat(ctx, ask("poison"))
			stop()
			wg.Wait()
			e := kindOf(t, err)
			if e.Kind != Transient || !strings.Contains(e.Hint, "given up after") {
				t.Errorf("got %v", err)
			}
			// A connection that was reset may be tried again by the HTTP client itself.
			if want := fmt.Sprintf("given up after %d tries", tries.len()); name != "reset" && e.Hint != want {
				t.Errorf("got %q, want %q", e.Hint, want)
			}
		})
	}
}

// What the documentation says of when a request is given up.
func TestPatience(t *testing.T) {
	for class, want := range map[class][2]int{timeout: {6, 60}, fault: {6, 60}, transport: {30, 300}} {
		w := weights[class]
		sum, n := w.alone, 1 // the first has no failure before it
		for ; sum < patienceLimit; n++ {
			sum += w.vouched
		}
		if alone := (patienceLimit + w.alone - 1) / w.alone; n != want[0] || alone != want[1] {
			t.Errorf("class %d: got %d and %d tries, want %v", class, n, alone, want)
		}
	}
}

// Alone, the same request is given up too, later; but not when it met
// a service that is full or out.
func TestPersistentFaultAlone(t *testing.T) {
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	_, err := m.Chat(within(t, 30*time.Second), ask("x"))
	if e := kindOf(t, err); e.Kind != Transient || e.Status != 500 || !strings.Contains(e.Hint, "60 tries") {
		t.Errorf("got %v", err)
	}

	m = serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) { reset(w) })
	_, err = m.Chat(within(t, 30*time.Second), ask("x"))
	if e := kindOf(t, err); e.Kind != Transient || !strings.Contains(e.Hint, "300 tries") {
		t.Errorf("got %v", err)
	}

	n := new(log)
	m = serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		if n.add("") <= 100 {
			w.WriteHeader([]int{429, 503, 409, 529}[len(n.list)%4])
			return
		}
		reply(w, good)
	})
	if rep, err := m.Chat(within(t, 30*time.Second), ask("x")); err != nil || rep.Retries != 100 {
		t.Errorf("got %+v, %v, want 100 retries", rep, err)
	}
}

// A key that is too long for a header is sent as its hash.
func TestLongKey(t *testing.T) {
	keys := new(log)
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		keys.add(r.Header.Get("Idempotency-Key"))
		reply(w, good)
	})
	for _, text := range []string{"a", "a", "b"} {
		if _, err := m.Chat(t.Context(), &Request{Key: strings.Repeat(text, 100_000)}); err != nil {
			t.Fatal(err)
		}
	}
	if k := keys.list; len(k[0]) != 32 || k[0] != k[1] || k[1] == k[2] {
		t.Errorf("got %q", k)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"3": 3 * time.Second, " 0.5 ": 500 * time.Millisecond, "0": 0, "-1": 0, "soon": 0, "": 0, "1e99": 1e6 * time.Second, "NaN": 0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}

	// Honoured, and capped at quick.maxAfter.
	n := new(log)
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		if n.add("") == 1 {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
			return
		}
		reply(w, good)
	})
	rep, err := m.Chat(within(t, 10*time.Second), ask("x"))
	if err != nil || rep.Retry < quick.maxAfter {
		t.Errorf("got %+v, %v, want a wait of %v", rep, err, quick.maxAfter)
	}
}

// A host that does not exist is a typing error until it has answered once.
func TestNoSuchHost(t *testing.T) {
	m := client(t, OpenAI{BaseURL: "http://nowhere.invalid/v1"}, quick)
	req, _ := http.NewRequest("POST", "http://nowhere.invalid/v1", nil)
	err := &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
	if f := m.broken(req, err, "w", 0); f.class != fatal || f.hint != hintURL {
		t.Errorf("got %+v, want fatal", f)
	}
	m.target.Store(1)
	if f := m.broken(req, err, "w", 0); f.class != unreachable {
		t.Errorf("got %+v, want unreachable", f)
	}
}
