package cli

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// modelServer answers as a server that has the model test, and knows no other
// paths than those of the API.
func modelServer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/chat/completions":
		reply(w, "fine: "+asked(r))
	case "/v1/models":
		fmt.Fprint(w, `{"object": "list", "data": [{"id": "test"}]}`)
	default:
		http.NotFound(w, r)
	}
}

// What may be wrong with the address of a service, and with what answers there:
// both the run and `matrix models` say so, and what to do. No row is lost.
func TestWrongServices(t *testing.T) {
	t.Parallel()
	good := service(t, modelServer)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(modelServer))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it is told of clients that do not trust it
	secure.StartTLS()
	t.Cleanup(secure.Close)
	page := service(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body>Welcome!</body></html>")
	})
	other := service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/models" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `{"hello": "world"}`)
	})
	lacking := service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/models" {
			fmt.Fprint(w, `{"object": "list", "data": [{"id": "org/a"}, {"id": "org/b"}]}`)
			return
		}
		w.WriteHeader(404)
		fmt.Fprint(w, `{"error": {"message": "The model does not exist.", "code": "model_not_found"}}`)
	})
	for _, c := range []struct {
		name, url string
		code      int      // of the run
		run       []string // texts; "" for none
		state     string   // in `matrix models`
		models    []string
	}{
		{"with /v1", good + "/v1", 0, nil, "ready", nil},
		{"without /v1", good, 0, nil, "ready", nil},
		{"another path", good + "/v2", 1, []string{"404", "base_url"}, "unknown", nil},
		{"a web page", page + "/v1", 1, []string{"a web page, not a model server: check base_url"}, "down", []string{"a web page, not a model server: check base_url"}},
		{"another service", other + "/v1", 1, []string{"no choices", "not a model server: check base_url"}, "unknown", nil},
		{"a certificate of nobody's", secure.URL + "/v1", 1, []string{"failed to verify certificate", "SSL_CERT_FILE"}, "down", []string{"failed to verify certificate", "SSL_CERT_FILE"}},
		{"https where http is spoken", strings.Replace(good, "http:", "https:", 1) + "/v1", 1, []string{"does not speak TLS on this port", "write http:// in base_url"}, "down", []string{"write http:// in base_url"}},
		{"http where https is spoken", strings.Replace(secure.URL, "https:", "http:", 1) + "/v1", 1, []string{"https"}, "down", []string{"https"}},
		{"no such host", "http://nowhere.invalid/v1", 1, []string{`no address for host "nowhere.invalid"`, "check base_url"}, "down", []string{"check base_url"}},
		{"no such model", lacking + "/v1", 1, []string{"404", "the server has org/a, org/b"}, "down", []string{`does not serve "test"`, "it serves org/a, org/b: set model to one of them"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": over(c.url), "rows.jsonl": rows(3)})
			out := filepath.Join(dir, "out")
			pending := "3 tasks are pending; the same command goes on"
			if c.code == 0 {
				pending = "done 3"
			}
			matrixCmd("run", dir, "-o", out).want(t, c.code, append(c.run, pending, "!sk-test-secret")...)
			code := 1
			if c.state != "down" {
				code = 0
			}
			matrixCmd("models", dir).want(t, code, append(c.models, "m "+c.url+" "+c.state)...)
		})
	}
}

// A proxy that wants to know who asks stops the run; it is the environment's.
func TestWrongProxy(t *testing.T) {
	proxy := service(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) })
	for _, scheme := range []string{"http", "https"} {
		dir := files(t, map[string]string{"config.yaml": over(scheme + "://models.invalid/v1"), "rows.jsonl": rows(3)})
		cmd := process(t, "run", dir, "-o", filepath.Join(dir, "out"))
		cmd.Env = append(cmd.Env, "HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "NO_PROXY=")
		b, _ := cmd.CombinedOutput()
		result{cmd.ProcessState.ExitCode(), string(b), ""}.want(t, 1, "407", "HTTPS_PROXY", "3 tasks are pending")
	}
}

// What is wrong with one request fails its row alone, with the cause.
func TestWrongRequests(t *testing.T) {
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error": {"message": "json_schema: patternProperties is not supported", "param": "response_format", "type": "invalid_request_error"}}`)
	})
	for name, c := range map[string]struct{ agent, want string }{
		"a schema that the server cannot take": {`{model: m, prompt: hi, parse: {schema: {type: object, patternProperties: {a: {}}}, enforce: true}}`, "patternProperties is not supported"},
		"an image that is not there":           {`{model: m, prompt: hi, images: ["'gone.png'"]}`, "gone.png: no such file"},
		"an image that is none":                {`{model: m, prompt: hi, images: ["'rows.jsonl'"]}`, "rows.jsonl is not an image (it is text/plain"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := files(t, map[string]string{"rows.jsonl": rows(2), "config.yaml": strings.Replace(over(url), `{model: m, prompt: "{{ item.text }}"}`, c.agent, 1)})
			out := filepath.Join(dir, "out")
			matrixCmd("run", dir, "-o", out).want(t, 1, "failed 2", c.want)
			if got, want := counts(t, out), [3]int64{0, 2, 0}; got != want {
				t.Errorf("done, failed, pending: got %v, want %v", got, want)
			}
			if failed := read(t, out, "failed/part-00000.jsonl"); !strings.Contains(failed, c.want) {
				t.Errorf("got %s, want %q in it", failed, c.want)
			}
		})
	}
}
