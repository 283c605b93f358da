package openai

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	golog "log"

	"matrix/llm"
)

// Each rule of llm's table of kinds, over HTTP, and what else a response can be.
func TestFates(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		kind   llm.Kind
		hint   string
	}{
		{429, `{"error":{"code":"insufficient_quota","message":"no credit"}}`, llm.Fatal, "credit"},
		{400, `{"error":{"code":"invalid_api_key","message":"no"}}`, llm.Fatal, "api_key"},
		{400, `{"error":{"code":"model_not_found","message":"no"}}`, llm.Fatal, "model"},
		{500, `{"error":{"type":"exceed_context_size_error","message":"too long"}}`, llm.Context, ""},
		{400, `{"error":{"message":"too long","type":"BadRequestError","param":"input_tokens","code":400}}`, llm.Context, ""},
		{403, `{"error":{"code":"content_filter","message":"no"}}`, llm.Refused, ""},
		{400, `{"error":{"type":"rate_limit_error","message":"slow"}}`, llm.Capacity, ""},
		{400, `{"type":"error","error":{"type":"overloaded_error"}}`, llm.Capacity, ""},
		{302, ``, llm.Fatal, "base_url"},
		{401, `{"error":"who are you"}`, llm.Fatal, "api_key"},
		{402, ``, llm.Fatal, "credit"},
		{403, `<html>`, llm.Refused, "api_key"},
		{403, `{"error":{"code":"safety_check_failed","message":"no"}}`, llm.Refused, "api_key"},
		{404, `{"detail":"Not Found"}`, llm.Fatal, "base_url"},
		{405, ``, llm.Fatal, "base_url"},
		{407, ``, llm.Fatal, "proxy"},
		{408, ``, llm.Timeout, ""},
		{409, ``, llm.Capacity, ""},
		{425, ``, llm.Capacity, ""},
		{429, `{"error":{"message":"this says insufficient_quota and 401, in words only"}}`, llm.Capacity, ""},
		{422, `{"detail":[{"loc":["body"],"msg":"bad"}]}`, llm.Refused, ""},
		{400, `{"error":{"message":"Invalid schema for response_format","type":"invalid_request_error","param":"response_format","code":null}}`, llm.Refused, ""},
		{400, `Client sent an HTTP request to an HTTPS server.`, llm.Fatal, "https://"},
		{501, ``, llm.Fatal, "base_url"},
		{502, `<html>`, llm.Transport, ""},
		{503, `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`, llm.Capacity, ""},
		{504, ``, llm.Timeout, ""},
		{505, ``, llm.Fatal, "base_url"},
		{529, ``, llm.Capacity, ""},
		{522, ``, llm.Transport, ""},
		{500, ``, llm.Fault, ""},
		{500, `{"error":{"code":"server_error"}}`, llm.Fault, ""},
		{500, `{"error":{"code":429,"message":"a gateway says so"}}`, llm.Capacity, ""},
		{599, ``, llm.Fault, ""},

		{200, "\x00\xff garbage", llm.Fault, ""},
		{200, good[:len(good)/2], llm.Fault, ""},
		{200, ``, llm.Fault, ""},
		{200, `null`, llm.Fault, ""},
		{200, `[]`, llm.Fault, ""},
		{200, good + good, llm.Fault, ""},
		{200, `{"choices":"many"}`, llm.Fault, ""},
		{200, `{"choices":[]}`, llm.Fault, ""},
		{200, `{"status":"ok"}`, llm.Fatal, "base_url"},
		{200, `{"choices":[{"message":{"content":{"text":"x"}},"finish_reason":"stop"}]}`, llm.Fault, ""},
		{200, `{"error":{"message":"no such parameter","type":"invalid_request_error"}}`, llm.Refused, ""},
		{200, `data: {"error":{"message":"no","type":"BadRequestError"}}` + "\n\n", llm.Refused, ""},
		{200, `{"choices":[{"message":{"content":"x"},"finish_reason":"stop","error":{"code":502,"message":"upstream"}}]}`, llm.Transport, ""},
		{200, `{"choices":[{"message":{"content":"x"},"finish_reason":"error","error":{"code":400,"message":"no"}}]}`, llm.Refused, ""},
		{200, `{"choices":[{"message":{"content":"x"},"error":{"code":"context_length_exceeded"}}]}`, llm.Context, ""},
		{200, `{"choices":[{"message":{"content":"x"}}],"error":{"code":"insufficient_quota","message":"no"}}`, llm.Fatal, "credit"},
		{200, `{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"error":{"message":"upstream"}}`, llm.Fault, ""},
		{200, `{"error":{"code":429,"message":"slow down"}}`, llm.Capacity, ""},
		{200, `{"choices":[{"message":{"content":null,"refusal":"I will not."},"finish_reason":"stop"}]}`, llm.Refused, ""},
		{200, `{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}`, llm.Refused, ""},
	} {
		t.Run(fmt.Sprintf("%d %.40q", c.status, c.body), func(t *testing.T) {
			w := serve(t, Options{}, func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Retry-After", "3600")
				w.Header().Set("X-Ratelimit-Remaining-Tokens", "0")
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			for _, stream := range []bool{false, true} {
				r := ask("x")
				r.Sampling = llm.Sampling{MaxTokens: 5, Stream: &stream}
				_, err := w.Send(within(t, 10*time.Second), r)
				f := failure(t, err)
				if f.Kind != c.kind || c.hint == "" != (f.Hint == "") || !strings.Contains(f.Hint, c.hint) || f.Msg == "" || f.Endpoint == "" {
					t.Errorf("stream %v: got %v (%s): %+v, want %v", stream, f, f.Hint, f, c.kind)
				}
				if string(f.Params) != `{"max_tokens":5}` || len(f.Quota) != 1 || c.status != 200 && f.After != time.Hour {
					t.Errorf("got %+v, params %s", f, f.Params)
				}
				if f.Sent != (f.Kind != llm.Fatal && c.status == 200 || c.status >= 500 && f.Status >= 500 && f.Status != 503 && f.Status != 529 || c.status == 200 && f.Code == "insufficient_quota") {
					t.Errorf("sent: got %v", f.Sent)
				}
			}
		})
	}
}

// What happens to a connection.
func TestBrokenConnections(t *testing.T) {
	half := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "5000")
		reply(w, good)
		http.NewResponseController(w).Flush()
	}
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		kind  llm.Kind
		want  string
	}{
		"reset":               {func(w http.ResponseWriter, r *http.Request) { reset(w) }, llm.Transport, "reset"},
		"closed":              {func(w http.ResponseWriter, r *http.Request) { c, _, _ := w.(http.Hijacker).Hijack(); c.Close() }, llm.Transport, "without a reply"},
		"cut off":             {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "5000"); reply(w, good) }, llm.Transport, "cut off"},
		"reset in the middle": {func(w http.ResponseWriter, r *http.Request) { half(w); reset(w) }, llm.Transport, ""},
		"hangs":               {func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() }, llm.Timeout, "in time"},
		"hangs in the middle": {func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			half(w)
			<-r.Context().Done()
		}, llm.Timeout, "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			keys := new(log)
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				keys.add(r.Header.Get("Idempotency-Key"))
				c.serve(w, r)
			})
			_, err := w.Send(within(t, 200*time.Millisecond), ask("x"))
			f := failure(t, err)
			if f.Kind != c.kind || !strings.Contains(f.Msg, c.want) || !f.Sent {
				t.Errorf("got %+v, want %v", f, c.kind)
			}
			if got := slices.Compact(keys.all()); !slices.Equal(got, []string{"key-x"}) {
				t.Errorf("keys: got %q", got)
			}
		})
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	_, err := open(t, Options{BaseURL: gone.URL}).Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Unreachable || f.Sent || f.Msg != "connection refused" {
		t.Errorf("got %+v", f)
	}
}

func TestReplyTooLarge(t *testing.T) {
	for _, stream := range []bool{false, true} {
		w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			if stream {
				w.Header().Set("Content-Type", "text/event-stream")
			}
			io.WriteString(w, "data: "+strings.Repeat("x", 1<<20+1))
		})
		w.max = 1 << 20
		r := ask("x")
		r.Sampling.Stream = &stream
		_, err := w.Send(t.Context(), r)
		if f := failure(t, err); f.Kind != llm.Refused || !strings.Contains(f.Msg, "larger than 1048576 bytes") || !f.Sent {
			t.Errorf("stream %v: got %v", stream, err)
		}
	}
}

// A page that is not a model server's is a typing error, until the server has
// answered once; then somebody before it answered.
func TestWebPage(t *testing.T) {
	n := new(log)
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if n.add("") == 2 {
			reply(w, good)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!DOCTYPE html>")
	})
	_, err := w.Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Fatal || !strings.Contains(f.Hint, "base_url") {
		t.Errorf("got %v", err)
	}
	if _, err := w.Send(t.Context(), ask("x")); err != nil {
		t.Fatal(err)
	}
	_, err = w.Send(t.Context(), ask("x"))
	if f := failure(t, err); f.Kind != llm.Transport {
		t.Errorf("got %v", err)
	}
}

// Once the server has answered, a 404 that says nothing of a model comes from
// something before the server.
func TestPlaceGoneForNow(t *testing.T) {
	for _, c := range []struct {
		status      int
		media, body string
		kind        llm.Kind
	}{
		{404, "text/plain", "404 page not found", llm.Transport},
		{404, "text/html", "<html>no backend</html>", llm.Transport},
		{404, "application/json", `{"detail":"Not Found"}`, llm.Transport},
		{405, "text/plain", "", llm.Transport},
		{404, "application/json", `{"error":{"code":"model_not_found","message":"no"}}`, llm.Fatal},
		{404, "application/json", `{"object":"error","type":"NotFoundError","code":404,"message":"no model"}`, llm.Fatal},
	} {
		t.Run(fmt.Sprint(c.status, " ", c.body), func(t *testing.T) {
			n := new(log)
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if n.add("") == 1 {
					reply(w, good)
					return
				}
				w.Header().Set("Content-Type", c.media)
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			if _, err := w.Send(t.Context(), ask("x")); err != nil {
				t.Fatal(err)
			}
			_, err := w.Send(t.Context(), ask("x"))
			if f := failure(t, err); f.Kind != c.kind {
				t.Errorf("got %v, want %v", f.Kind, c.kind)
			}
			_, err = w.Send(t.Context(), &llm.Request{Input: []string{"never answered"}})
			if f := failure(t, err); f.Kind != llm.Fatal {
				t.Errorf("another operation: got %v, want fatal", f.Kind)
			}
		})
	}
}

func TestBaseURLSaysWhatWasTried(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := open(t, Options{BaseURL: s.URL}).Send(t.Context(), ask("x"))
	f := failure(t, err)
	if f.Kind != llm.Fatal || !strings.Contains(f.Msg, s.URL+"/v1/chat/completions") || !strings.Contains(f.Msg, "also tried "+s.URL+"/chat/completions") || !strings.Contains(f.Hint, "base_url") {
		t.Errorf("got %v", err)
	}
}

func TestTLS(t *testing.T) {
	silent := golog.New(io.Discard, "", 0)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = silent
	secure.StartTLS()
	defer secure.Close()
	for url, want := range map[string]string{
		strings.Replace(plain.URL, "http:", "https:", 1): "http://",
		secure.URL: "certificate",
		strings.Replace(secure.URL, "https:", "http:", 1): "https://",
	} {
		_, err := open(t, Options{BaseURL: url}).Send(within(t, 10*time.Second), ask("x"))
		if f := failure(t, err); f.Kind != llm.Fatal || !strings.Contains(f.Hint, want) || f.Sent {
			t.Errorf("%s: got %v (%s)", url, err, f.Hint)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, code := range []int{301, 302, 307, 308} {
		hit := new(log)
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hit.add(r.Header.Get("Authorization"))
		}))
		w := serve(t, Options{APIKey: "sk-secret-1"}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/v1/chat/completions?k=sk-secret-1", code)
		})
		_, err := w.Send(t.Context(), ask("x"))
		f := failure(t, err)
		if f.Kind != llm.Fatal || !strings.Contains(f.Msg, other.URL) || strings.Contains(err.Error(), "sk-secret-1") {
			t.Errorf("%d: got %v", code, err)
		}
		if len(hit.all()) != 0 {
			t.Errorf("%d: the other host was called", code)
		}
		other.Close()
	}
}

// A server that repeats the key in its message does not get it shown.
func TestSecretsStayOut(t *testing.T) {
	const key, header, pass = "sk-secret-1", "token-4711", "hunter2222"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(401)
		reply(w, `{"error":{"message":"wrong: `+r.Header.Get("Authorization")+` `+r.Header.Get("X-Token")+` `+pass+`"}}`)
	}))
	defer s.Close()
	u := strings.Replace(s.URL, "http://", "http://me:"+pass+"@", 1)
	w := open(t, Options{BaseURL: u, APIKey: key, Header: map[string]string{"X-Token": "Bearer " + header}})
	_, err := w.Send(t.Context(), ask("x"))
	for _, secret := range []string{key, header, pass} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error shows %q: %v", secret, err)
		}
	}
	if !strings.Contains(err.Error(), "wrong: ") {
		t.Errorf("the server's message is gone: %v", err)
	}
}

// pythonPage is what python3 -m http.server says to a POST.
const pythonPage = `<!DOCTYPE HTML>
<html lang="en">
    <head>
        <meta charset="utf-8">
        <title>Error response</title>
    </head>
    <body>
        <h1>Error response</h1>
        <p>Error code: 501</p>
        <p>Message: Unsupported method ('POST').</p>
    </body>
</html>
`

// An error page is not quoted.
func TestErrorPage(t *testing.T) {
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		w.WriteHeader(501)
		fmt.Fprint(w, pythonPage)
	})
	_, err := w.Send(t.Context(), ask("x"))
	f := failure(t, err)
	if f.Kind != llm.Fatal || !strings.HasSuffix(f.Error(), ": 501: a web page (Error response)") || !strings.Contains(f.Hint, "not a model server") || !strings.Contains(f.Hint, "base_url") {
		t.Errorf("got %v (%s)", f, f.Hint)
	}
}

// The names of a query are shown, and no value of it, which may be a key.
func TestLostShowsQuery(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	w := open(t, Options{BaseURL: s.URL + "/v1?key=short&api-version=1"})
	_, err := w.Send(t.Context(), ask("x"))
	if f := failure(t, err); !strings.Contains(f.Msg, "POST "+s.URL+"/v1/chat/completions?api-version=...&key=...: ") {
		t.Errorf("got %q", f.Msg)
	}
}
