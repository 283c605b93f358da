package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"matrix"
)

// oneCall is a config of one call a row at a service.
const oneCall = `
name: one
dataset: {path: rows.jsonl, id: id}
models:
  m: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
flow: [say]
`

const answered = `{"model":"test","choices":[{"index":0,"message":{"role":"assistant","content":"as you say"},"finish_reason":"stop"}],"usage":{"prompt_tokens":150,"completion_tokens":50}}`

func answer(w http.ResponseWriter, status int, media, body string) {
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// failedTasks reads failed/ of a run.
func failedTasks(t *testing.T, out string) (all []matrix.Task) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(read(t, out, "failed/part-00000.jsonl")), "\n") {
		var task matrix.Task
		if err := json.Unmarshal([]byte(line), &task); err != nil {
			t.Fatal(err)
		}
		all = append(all, task)
	}
	return all
}

// TestCreditEnds: no row is lost to credit that ends, which the service tells by
// the same words as a bad request, whether many rows are left or few.
func TestCreditEnds(t *testing.T) {
	for _, n := range []int{300, 130} {
		var calls atomic.Int64
		credit := int64(120)
		url := service(t, func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) > credit {
				answer(w, 400, "application/json", `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}`)
				return
			}
			answer(w, 200, "application/json", answered)
		})
		dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(oneCall, url), "rows.jsonl": rows(n)})
		out := filepath.Join(dir, "out")
		matrixCmd("run", dir, "-o", out).want(t, 1, "credit balance is too low", fmt.Sprint(n-120)+" tasks are pending")
		if s := summaryOf(t, out); s["failed"] != 0.0 || s["done"] != 120.0 {
			t.Errorf("%d rows: got %v done and %v failed, want 120 and none", n, s["done"], s["failed"])
		}
		credit = 1 << 20
		matrixCmd("run", dir, "-o", out).want(t, 0, fmt.Sprintf("done %d", n))
	}
}

// TestOnePromptIsBlocked: what somebody before the service forbids fails alone.
func TestOnePromptIsBlocked(t *testing.T) {
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); strings.Contains(string(b), "blocked") {
			answer(w, 403, "text/html", "<html><title>Attention Required!</title></html>")
			return
		}
		answer(w, 200, "application/json", answered)
	})
	for _, set := range []string{"roles.say.chat.on_refused=fail", "roles.say.chat.on_refused=turn"} {
		dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(oneCall, url), "rows.jsonl": `{"id":"x","text":"blocked"}` + "\n" + rows(20)})
		out := filepath.Join(dir, "out")
		matrixCmd("run", dir, "-o", out, "+"+set).want(t, 0)
		if s := summaryOf(t, out); s["failed"] != 1.0 || s["done"] != 20.0 {
			t.Errorf("%s: got %v done and %v failed, want 20 and 1", set, s["done"], s["failed"])
		}
		if turn := failedTasks(t, out)[0].Turns[0]; !strings.Contains(turn.Error, "403") || turn.Call() == nil {
			t.Errorf("%s: got %+v, want a turn that says why", set, turn)
		}
	}
}

// TestNotTakenIsNotSpent: a model that is not there costs nothing, however often
// the run is started.
func TestNotTakenIsNotSpent(t *testing.T) {
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 404, "application/json", `{"error":{"code":"model_not_found","message":"no such model"}}`)
	})
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(oneCall, url), "rows.jsonl": rows(50)})
	out := filepath.Join(dir, "out")
	for range 3 {
		matrixCmd("run", dir, "-o", out, "budget.usd=50").want(t, 1, "model_not_found")
		if usd := summaryOf(t, out)["spending"].(map[string]any)["usd"]; usd != 0.0 {
			t.Fatalf("spent: got %v USD, want none", usd)
		}
	}
}

// TestSamplesOfTheModel: n at a model is how many replies its calls draw.
func TestSamplesOfTheModel(t *testing.T) {
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct{ N int }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		one := `{"index":%d,"message":{"role":"assistant","content":"reply %d"},"finish_reason":"stop"}`
		var choices []string
		for i := range max(1, body.N) {
			choices = append(choices, fmt.Sprintf(one, i, i))
		}
		answer(w, 200, "application/json", `{"model":"test","choices":[`+strings.Join(choices, ",")+`]}`)
	})
	for set, want := range map[string]int{"+models.m.n=3": 3, "+roles.say.chat.n=2": 2, "name=none": 0} {
		dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(oneCall, url), "rows.jsonl": rows(1)})
		out := filepath.Join(dir, "out")
		matrixCmd("run", dir, "-o", out, set).want(t, 0)
		var task matrix.Task
		if err := json.Unmarshal([]byte(read(t, out, "data/part-00000.jsonl")), &task); err != nil {
			t.Fatal(err)
		}
		if got := len(task.Turns[0].Samples); got != want {
			t.Errorf("%s: got %d samples, want %d", set, got, want)
		}
	}
}

// TestRefusedReplyCost: the turn of a reply that the service's filter took away
// says what it cost.
func TestRefusedReplyCost(t *testing.T) {
	url := service(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, "application/json", `{"model":"test","choices":[{"index":0,"message":{"content":null},"finish_reason":"content_filter"}],"usage":{"prompt_tokens":500,"completion_tokens":300}}`)
	})
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(oneCall, url), "rows.jsonl": rows(1)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, 1, "failed 1")
	c := failedTasks(t, out)[0].Turns[0].Call()
	if c == nil || c.PromptTokens != 500 || c.CompletionTokens != 300 || c.USD < 0.79 {
		t.Errorf("got %+v, want 500 and 300 tokens, and what they cost", c)
	}
}
