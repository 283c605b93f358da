package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// bill is a service that counts what it is owed: 1 dollar per thousand tokens,
// 200 tokens a call.
func bill(t *testing.T, calls *atomic.Int64, before func(n int64)) string {
	return service(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if before != nil {
			before(n)
		}
		b, _ := json.Marshal(map[string]any{
			"model":   "test",
			"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": "as you say"}, "finish_reason": "stop"}},
			"usage":   map[string]any{"prompt_tokens": 150, "completion_tokens": 50},
		})
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	})
}

// paid is a config of one call a row at a model that costs 0.20 USD a call, and
// 0.50 USD at worst, about.
const paid = `
name: paid
dataset: {path: rows.jsonl, id: id}
models:
  m: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
flow: [say]
`

func TestBudgetStopsAndGoesOn(t *testing.T) {
	var calls atomic.Int64
	url := bill(t, &calls, nil)
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, url), "rows.jsonl": rows(30)})
	out := filepath.Join(dir, "out")

	r := matrixCmd("run", dir, "-o", out, "budget.usd=2", "models.m.api_key=sk-hush")
	r.want(t, exitStopped, "models.m.api_key=***", "!sk-hush", "the budget of the run is spent", "of 2.00 USD", "and the next call may cost up to 0.38", "pending; a larger budget goes on:", "-o "+out+" budget.usd=4")
	if n := calls.Load(); n < 7 || n > 10 {
		t.Errorf("calls of 0.20 USD for a budget of 2 USD: got %d, want 8 or 9", n)
	}
	s := summaryOf(t, out)
	spent := s["spending"].(map[string]any)
	if got, want := spent["usd"].(float64), float64(calls.Load())*0.2; got < want-1e-6 || got > want+1e-6 {
		t.Errorf("spent: got %v, want %v", got, want)
	}
	if p := spent["projected"].(map[string]any)["usd"].(float64); p < 5.99 || p > 6.01 {
		t.Errorf("projected: got %v, want 6", p)
	}
	if usd := s["usage"].(map[string]any)["m"].(map[string]any)["usd"].(float64); usd < 1 {
		t.Errorf("usage: got %v USD", usd)
	}

	before := calls.Load()
	matrixCmd("run", dir, "-o", out, "budget.usd=2").want(t, exitStopped, "the budget of the run is spent", "budget.usd=4", "!Going on")
	if calls.Load() != before {
		t.Errorf("a run whose budget is spent made %d calls", calls.Load()-before)
	}
	matrixCmd("run", dir, "-o", out, "++budget.usd=2").want(t, exitStopped, "-o "+out+" budget.usd=4", "!++budget")
	matrixCmd("run", dir, "-o", out, "budget.usd=7").want(t, 0, "done 30", "spent 6.00 of 7.00 USD")
	if n := calls.Load(); n != 30 {
		t.Errorf("calls in all: got %d, want 30: none is paid twice", n)
	}
	if got := counts(t, out); got != [3]int64{30, 0, 0} {
		t.Errorf("done, failed, pending: got %v", got)
	}
	matrixCmd("show", out, "-n", "1").want(t, 0, "0.20 USD")
	matrixCmd("explain", out, "q0").want(t, 0, "USD", "0.20")
}

func TestBudgetOfTokens(t *testing.T) {
	var calls atomic.Int64
	url := bill(t, &calls, nil)
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, url), "rows.jsonl": rows(30)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "budget.tokens=2k").want(t, exitStopped, "2000 tokens", "budget.tokens=4000")
	if n := calls.Load(); n < 7 || n > 10 {
		t.Errorf("got %d calls of 200 tokens", n)
	}
	matrixCmd("run", dir, "-o", out, "budget.tokens=1M").want(t, 0, "done 30", "6.00k of 1.00M tokens")
}

func TestBudgetOfModelsWithoutService(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(30)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "budget={usd: 1, tokens: 100}").want(t, exitStopped, "of 100 tokens")
	if s := summaryOf(t, out)["spending"].(map[string]any); s["tokens"].(float64) > 100 || s["tokens"].(float64) < 80 || s["usd"] != 0.0 {
		t.Errorf("spent: got %v", s)
	}
	matrixCmd("run", dir, "-o", out, "budget={usd: 1, tokens: 240}").want(t, 0, "done 30")
}

func TestBudgetPerModel(t *testing.T) {
	var a, b atomic.Int64
	dir := files(t, map[string]string{"rows.jsonl": rows(30), "config.yaml": fmt.Sprintf(`
name: two
dataset: {path: rows.jsonl, id: id}
models:
  a: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}}
  b: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}}
roles:
  ask: {chat: {model: a, prompt: "{{ item.text }}"}}
  say: {chat: {model: b, prompt: "{{ item.text }}"}}
flow: [ask, say]
budget: {usd: 100, per_model: {b: {usd: 1.5}}}
`, bill(t, &a, nil), bill(t, &b, nil))})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out).want(t, exitStopped, "the budget of model b is spent", "budget.per_model.b.usd=3")
	if n := b.Load(); n < 5 || n > 7 {
		t.Errorf("calls at b: got %d, want 6 of 0.20 USD for 1.50", n)
	}
	matrixCmd("run", dir, "-o", out).want(t, exitStopped, "the budget of model b is spent")
	matrixCmd("run", dir, "-o", out, "budget.per_model.b.usd=7").want(t, 0, "done 30")
	if a.Load() != 30 || b.Load() != 30 {
		t.Errorf("calls: got %d and %d, want 30 of each", a.Load(), b.Load())
	}
}

func TestBudgetPerTask(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"rows.jsonl": rows(5), "config.yaml": fmt.Sprintf(strings.Replace(paid, "flow: [say]",
		"flow: {start: say, after: {say: [{when: \"rounds('say') >= 6\", finish: \"true\"}, {to: say}]}}", 1), bill(t, &calls, nil))})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "budget.per_task.usd=0.5").want(t, 1, "failed 5", "limit: 0.5 USD (used 0.6)")
	matrixCmd("run", dir, "-o", out, "--fresh", "budget.per_task.tokens=500", "limits.then=finish").want(t, 0, "done 5", "failed 0")
	if n := calls.Load(); n != 30 {
		t.Errorf("calls: got %d, want 3 a task, twice", n)
	}
	matrixCmd("run", dir, "-o", out, "budget.per_task.tokens=900", "limits.then=finish").want(t, exitUsage, "budget.per_task.tokens")
}

func TestBudgetOfTime(t *testing.T) {
	var calls atomic.Int64
	url := bill(t, &calls, func(int64) { time.Sleep(50 * time.Millisecond) })
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, url), "rows.jsonl": rows(400)})
	out := filepath.Join(dir, "out")
	args := []string{"run", dir, "-o", out, "models.m.concurrency=4", "live=8", "budget.wall=500ms"}
	matrixCmd(args...).want(t, exitStopped, "the budget of 500ms of work is spent", "budget.wall=1s")
	n := calls.Load()
	if n < 8 || n > 80 {
		t.Errorf("calls in 500 ms: got %d, want about 40", n)
	}
	matrixCmd(args...).want(t, exitStopped, "the budget of 500ms of work is spent", "!Going on")
	if calls.Load() != n {
		t.Errorf("a run whose time is over made %d calls", calls.Load()-n)
	}
	args[len(args)-1] = "budget.wall=1h"
	matrixCmd(append(args, "models.m.concurrency=100", "live=200")...).want(t, 0, "done 400")
	if calls.Load() != 400 {
		t.Errorf("calls in all: got %d, want 400", calls.Load())
	}
}

// What is tried out before a run stays within its budget too.
func TestBudgetOfASample(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(20)})
	for _, args := range [][]string{{"plan", dir, "--sample", "10"}, {"preview", dir, "-n", "10"}} {
		calls.Store(0)
		matrixCmd(append(args, "budget.usd=0.65")...).want(t, exitStopped, "Stopped: the budget of the run is spent", "Fewer rows need less.")
		if n := calls.Load(); n == 0 || n > 3 {
			t.Errorf("%s: %d calls of 0.20 USD were made, want 1 to 3", args[0], n)
		}
	}
}

// TestBudgetLands: calls under way when a budget ends are not cut off by the
// grace period.
func TestBudgetLands(t *testing.T) {
	var calls atomic.Int64
	url := bill(t, &calls, func(n int64) {
		if n > 1 {
			time.Sleep(400 * time.Millisecond)
		}
	})
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, url), "rows.jsonl": rows(30)})
	out := filepath.Join(dir, "out")
	r := matrixCmd("run", dir, "-o", out, "grace=10ms", "budget.wall=200ms", "live=10").want(t, exitStopped, "of work is spent")
	raise := regexp.MustCompile(`budget\.wall=(\S+)`).FindStringSubmatch(r.out + r.err)
	if raise == nil {
		t.Fatalf("it says no budget with which the run goes on: %v", r)
	}
	if wall, err := time.ParseDuration(raise[1]); err != nil || wall <= 400*time.Millisecond { // have been worked
		t.Errorf("the budget to go on with: got %s, want more than has been worked", raise[1])
	}
	if got := counts(t, out); got[0] != calls.Load() {
		t.Errorf("%d tasks are done, %d calls were made: want each call to land", got[0], calls.Load())
	}
}

func TestBudgetOfMachines(t *testing.T) {
	var calls atomic.Int64
	url := bill(t, &calls, func(int64) { time.Sleep(20 * time.Millisecond) })
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, url), "rows.jsonl": rows(10)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "models.m.price={gpu_hour: 3600, gpus: 2}", "live=1").want(t, 0, "done 10", "spent")
	s := summaryOf(t, out)
	got, seconds := s["spending"].(map[string]any)["usd"].(float64)-10*0.2, s["seconds"].(float64)
	if got < 0.3 || got < 2*seconds*0.8 || got > 2*seconds*1.5+0.5 {
		t.Errorf("two GPUs at 1 USD a second for %v s: got %v USD", seconds, got)
	}
}

// TestBudgetComesLater: a run that had no budget so far has an account all the
// same.
func TestBudgetComesLater(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(3)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "dataset.limit=2").want(t, 0, "done 2", "spent 0.40 USD")
	matrixCmd("run", dir, "-o", out, "--accept-changes", "budget.usd=0.3").want(t, exitStopped, "0.40 USD of 0.30 USD", "1 task is pending", "budget.usd=0.8")
	matrixCmd("run", dir, "-o", out, "--accept-changes", "budget.usd=0.8").want(t, 0, "done 3")
}

func TestBudgetBadInput(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, "http://127.0.0.1:1"), "rows.jsonl": rows(3)})
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"negative", []string{"budget.usd=-1"}, "budget.usd=-1: got -1, want 0 or more"},
		{"negative tokens", []string{"budget.tokens=-5"}, "budget.tokens=-5: got -5, want 0 or more"},
		{"no number", []string{"budget.tokens=many"}, `got "many", want a number such as 20000, 500k or 20M`},
		{"negative price", []string{"models.m.price.input=-3"}, "models.m.price.input=-3: got -3, want 0 or more"},
		{"no price", []string{"~models.m.price", "budget.usd=1"}, "the price of model m is not known: set price"},
		{"no such model", []string{"budget.per_model={n: {usd: 1}}"}, `there is no model "n"`},
		{"no bound", []string{"~models.m.max_tokens", "budget.usd=1"}, "under a budget each reply needs a bound: set max_tokens here, for role say, or at model m"},
		{"negative time", []string{"budget.wall=-1h"}, "got -1h0m0s, want 0s or more"},
		{"negative task", []string{"budget.per_task.usd=-1"}, "budget.per_task.usd=-1: got -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			matrixCmd(append([]string{"run", dir, "-o", filepath.Join(dir, "out")}, tt.args...)...).want(t, exitUsage, tt.want)
		})
	}
	for _, ok := range [][]string{
		{"models.m.price={}", "budget.usd=1"}, {"~models.m.price", "models.m.model=gpt-4o-mini", "budget.usd=1"}, {"~models.m.max_tokens"},
		{"~models.m.max_tokens", "roles.say.chat.max_tokens=5", "budget.tokens=5k"},
	} {
		matrixCmd(append([]string{"config", dir, "--check"}, ok...)...)
		if r := matrixCmd(append([]string{"graph", dir}, ok...)...); r.code != 0 {
			t.Errorf("%q: %v", ok, r)
		}
	}
}

func TestBudgetTooSmallForACall(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(3)})
	r := matrixCmd("run", dir, "-o", filepath.Join(dir, "out"), "budget.usd=0.1")
	r.want(t, exitError, "model \"m\": one call may cost 0.38", "the budget of the run is 0.10 USD in all", "lower max_tokens", "3 tasks are pending")
	if calls.Load() != 0 {
		t.Errorf("%d calls were made", calls.Load())
	}
}

// TestBudgetOfWhatWasKilled: a limit that is set after kill -9 counts what was
// spent before, also where there was no such limit then.
func TestBudgetOfWhatWasKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, before, after string }{
		{"a model's after the run's", "budget.usd=100", "+budget.per_model.a.usd=16"},
		{"a model's after none", "live=4", "+budget.per_model.a.usd=16"},
		{"the run's after a model's", "+budget.per_model.a.usd=100", "budget.usd=32"},
		{"tokens after dollars", "budget.usd=100", "+budget.per_model.a.tokens=16k"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a, b atomic.Int64
			busy := make(chan struct{})
			slow := func(n int64) {
				if n == 60 {
					close(busy)
				}
				time.Sleep(2 * time.Millisecond)
			}
			dir := files(t, map[string]string{"rows.jsonl": rows(300), "config.yaml": fmt.Sprintf(`
name: two
dataset: {path: rows.jsonl, id: id}
live: 4
models:
  a: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}}
  b: {base_url: "%s", model: test, max_tokens: 100, price: {input: 1000, output: 1000}}
roles:
  ask: {chat: {model: a, prompt: "{{ item.text }}"}}
  say: {chat: {model: b, prompt: "{{ item.text }}"}}
flow: [ask, say]
`, bill(t, &a, slow), bill(t, &b, nil))})
			out := filepath.Join(dir, "out")
			cmd := process(t, "run", dir, "-o", out, tt.before)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-busy:
			case <-time.After(20 * time.Second):
				t.Error("no calls")
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			matrixCmd("run", dir, "-o", out, tt.after).want(t, exitStopped, "is spent")
			if n := a.Load(); n > 80 || n < 60 {
				t.Errorf("calls of 0.20 USD and 200 tokens at a for 16 USD: got %d, want 60 to 80", n)
			}
			s := summaryOf(t, out)
			spent := s["spending"].(map[string]any)
			if got, least := spent["usd"].(float64), 0.2*float64(a.Load()+b.Load()); got < least-1e-6 || got > 1.1*least+8 {
				t.Errorf("spent: got %v USD, want %v or a little more", got, least)
			}
			got := spent["models"].(map[string]any)["a"].(map[string]any)["usd"].(float64)
			least := 0.2*float64(a.Load()) - 1e-6
			if strings.Contains(tt.after, "tokens") {
				least -= 4 * 0.2 // dollars do not bound a: those of calls that were under way may be noted at b
			}
			if used := s["usage"].(map[string]any)["a"].(map[string]any)["usd"].(float64); got < used || got < least {
				t.Errorf("spent at a: got %v, usage %v, %d calls", got, used, a.Load())
			}
		})
	}
}

// TestBudgetCountsWhatCommandsReport: calls that command agents make themselves stand
// in the usage and are paid by the run's budget, or by that of the model they name.
func TestBudgetCountsWhatCommandsReport(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(30), "config.yaml": `
name: reported
dataset: {path: rows.jsonl, id: id}
live: 1
models: {m: {kind: scripted, reply: x}}
roles:
  a: {command: {run: [sh, -c, 'while read -r line; do n=$((n+1)); echo "{\"seq\":$n,\"text\":\"x\",\"calls\":[{\"name\":\"helper\",\"prompt_tokens\":7,\"completion_tokens\":3,\"usd\":0.2},{\"name\":\"m\",\"completion_tokens\":5}]}"; done']}}
flow: [a]
`})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "budget.usd=0.9", "display=none").want(t, exitStopped, "the budget of the run is spent: 1.00 USD of 0.90 USD")
	matrixCmd("run", dir, "-o", out, "budget.usd=1.9", "+budget.per_model.m.tokens=25", "display=none").want(t, exitStopped, "the budget of model m is spent: 25 of 25 tokens")
	matrixCmd("run", dir, "-o", out, "budget.usd=1.9", "display=none").want(t, exitStopped, "the budget of the run is spent: 2.00 USD of 1.90 USD")
	matrixCmd("run", dir, "-o", out).want(t, 0, "done 30", "helper 30 0 210 90 6.00", "m 30 0 0 150")
	spent := summaryOf(t, out)["spending"].(map[string]any)
	if usd, tokens := spent["usd"].(float64), spent["tokens"].(float64); usd < 5.999 || usd > 6.001 || tokens != 450 {
		t.Errorf("spent: got %v USD, %v tokens, want 6 USD, 450 tokens", usd, tokens)
	}
	if p := spent["projected"].(map[string]any)["usd"].(float64); p < 5.999 || p > 6.001 {
		t.Errorf("projected: got %v USD, want 6", p)
	}
}

// TestBudgetOfOneCallBeforeAKill: a session that is killed before its first look
// at the account has paid for what it brought.
func TestBudgetOfOneCallBeforeAKill(t *testing.T) {
	var calls atomic.Int64
	held := make(chan struct{})
	url := bill(t, &calls, func(n int64) {
		if n == 4 {
			<-held
		}
	})
	t.Cleanup(func() { close(held) })
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, url), "rows.jsonl": rows(4)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "dataset.limit=2", "~models.m.max_tokens").want(t, 0, "done 2", "spent 0.40 USD")
	cmd, said := startProcess(t, "run", dir, "-o", out, "--accept-changes", "~models.m.max_tokens", "live=2", "display=live")
	until(t, "the third row is committed", func() bool { return strings.Contains(said.String(), "3/4") }) // its line is written before
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	matrixCmd("run", dir, "-o", out, "--accept-changes", "budget.usd=0.5").want(t, exitStopped, "is spent: 0.6", "of 0.50 USD") // a look after all adds the fourth call
	if n := calls.Load(); n != 4 {
		t.Errorf("%d calls were made, want 4", n)
	}
}
