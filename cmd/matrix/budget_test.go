package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"matrix/session"
)

// TestBudgetCrash kills the program with 1,000 calls in flight, again and again
// until its budget is spent, and compares what the server is owed with the
// budget: calls whose replies nobody heard are owed too, and so are those that
// the server breaks off. Then a larger budget brings the run to its end.
func TestBudgetCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	t.Parallel()
	bin := buildMatrix(t)
	const (
		rows     = 6000
		inFlight = 1000
		tokens   = 300 // of a call; 1,000 of them cost a dollar
	)
	var calls, cut, open atomic.Int64
	var full atomic.Pointer[func()]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		n := calls.Add(1)
		if open.Add(1) == inFlight {
			if f := full.Load(); f != nil {
				(*f)()
			}
		}
		defer open.Add(-1)
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		if n%50 == 11 {
			cut.Add(1)
			w.Header().Set("Content-Length", "500")
			_, _ = w.Write([]byte(`{"model": "te`))
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"model":   "test",
			"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": "yes"}, "finish_reason": "stop"}},
			"usage":   map[string]any{"prompt_tokens": tokens - 100, "completion_tokens": 100},
		})
	}))
	defer server.Close()
	dir := t.TempDir()
	var b strings.Builder
	for i := range rows {
		fmt.Fprintf(&b, `{"id":"q%d"}`+"\n", i)
	}
	config := fmt.Sprintf(`
name: paid
dataset: {path: rows.jsonl, id: id}
live: 2000
models:
  m: {base_url: "%s", model: test, max_tokens: 100, concurrency: %d, price: {input: 1000, output: 1000}}
roles:
  say: {chat: {model: m, prompt: "{{ item.id }}?"}}
flow: [say]
`, server.URL, inFlight)
	for name, text := range map[string]string{"rows.jsonl": b.String(), "config.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	owed := func() float64 { return float64(calls.Load()) * tokens / 1000 }
	run := func(usd float64, kill bool) (int, string) {
		cmd := exec.Command(bin, "run", dir, "out="+filepath.Join(dir, "out"), fmt.Sprintf("budget.usd=%g", usd))
		var log strings.Builder
		cmd.Stdout, cmd.Stderr = &log, &log
		full.Store(nil)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kill {
			f := func() { _ = cmd.Process.Signal(syscall.SIGKILL) }
			full.Store(&f)
		}
		_ = cmd.Wait()
		full.Store(nil)
		for end := time.Now().Add(10 * time.Second); open.Load() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // the server finds out that the calls are gone
		}
		return cmd.ProcessState.ExitCode(), log.String()
	}
	const budget = 1300.0
	kills := 0
	for {
		code, log := run(budget, kills < 5)
		t.Logf("exit %d; %d calls so far: %.2f USD are owed", code, calls.Load(), owed())
		if got := owed(); got > budget {
			t.Fatalf("the server is owed %.2f USD, and the budget is %.2f\n%s", got, budget, log)
		}
		if code == -1 {
			kills++
			continue
		}
		if code != 4 || !strings.Contains(log, "the budget of the run is spent") {
			t.Fatalf("exit %d\n%s", code, log)
		}
		break
	}
	if kills < 2 {
		t.Errorf("killed %d times, want 2 or more", kills)
	}
	before := calls.Load()
	if code, log := run(budget, false); code != 4 || calls.Load() != before {
		t.Errorf("a budget that is spent: exit %d and %d calls\n%s", code, calls.Load()-before, log)
	}
	if code, log := run(1e6, false); code != 0 {
		t.Fatalf("with a larger budget: exit %d\n%s", code, log)
	}
	if out, err := exec.Command(bin, "verify", filepath.Join(dir, "out"), "--complete").CombinedOutput(); err != nil {
		t.Fatalf("verify: %v\n%s", err, out)
	}
	if most := rows + int64(kills*inFlight) + cut.Load(); calls.Load() > most {
		t.Errorf("%d calls for %d rows, %d kills and %d that were cut off: more is paid twice than was in flight", calls.Load(), rows, kills, cut.Load())
	}
}

// TestClusterBudget: the budget of a run and the concurrency of a model bind the calls
// of all its processes together, whether or not the head makes calls itself, and what
// the run says that it spent is what the server is owed.
func TestClusterBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	t.Parallel()
	const (
		tokens = 300 // of a call; 1,000 of them cost a dollar
		most   = 4   // calls at once
	)
	var calls, open, peak atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		calls.Add(1)
		for n, was := open.Add(1), peak.Load(); n > was && !peak.CompareAndSwap(was, n); was = peak.Load() {
		}
		time.Sleep(20 * time.Millisecond) // of a service that takes its time
		open.Add(-1)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"model":   "test",
			"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": "yes"}, "finish_reason": "stop"}},
			"usage":   map[string]any{"prompt_tokens": tokens - 100, "completion_tokens": 100},
		})
	}))
	defer server.Close()
	h := &crashBed{T: t, bin: buildMatrix(t), dir: t.TempDir()}
	h.out = filepath.Join(h.dir, "out")
	var b strings.Builder
	for i := range 150 {
		fmt.Fprintf(&b, `{"id":"q%d"}`+"\n", i)
	}
	config := fmt.Sprintf(`
dataset: {path: rows.jsonl, id: id}
grace: 1s
models:
  m: {base_url: "%s", model: test, max_tokens: 100, concurrency: %d, price: {input: 1000, output: 1000}}
roles:
  ask: {chat: {model: m, prompt: "{{ item.id }}?"}}
  say: {chat: {model: m, prompt: "{{ item.id }}!"}}
flow: [ask, say]
`, server.URL, most)
	for name, text := range map[string]string{"rows.jsonl": b.String(), "config.yaml": config} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var workers []*process
	for i, tt := range []struct {
		args   []string
		budget int64 // tokens
		exit   int
	}{
		{[]string{"--no-work", "budget.usd=20"}, 20_000, 4},
		{[]string{"+budget.per_model.m.tokens=45000"}, 45_000, 4},
		{[]string{"--no-work"}, 300 * tokens, 0},
	} {
		head := h.begin(fmt.Sprint("head", i), append([]string{"run", h.dir, "out=" + h.out, "display=plain", "--serve"}, tt.args...)...)
		if i == 0 {
			h.status("the head", func(*session.Snapshot) bool { return true })
			for _, name := range []string{"one", "two"} { // which wait for a head that goes on
				workers = append(workers, h.begin(name, "worker", "--join", filepath.Join(h.out, "join"), "--name", name))
			}
		}
		head.ends(tt.exit)
		if tt.exit == 0 {
			for _, w := range workers {
				w.ends(0)
			}
		}
		var got struct {
			Spending struct {
				USD    float64
				Tokens int64
			}
		}
		text, err := os.ReadFile(filepath.Join(h.out, "summary.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		owed := calls.Load() * tokens
		t.Logf("%q: %d tokens are owed, %d calls at once", tt.args, owed, peak.Load())
		if owed > tt.budget || owed < tt.budget/2 {
			t.Errorf("%q: the server is owed %d tokens; want at most %d and at least half of it\n%s", tt.args, owed, tt.budget, head.said())
		}
		if got.Spending.Tokens != owed || math.Abs(got.Spending.USD-float64(owed)/1000) > 1e-6 {
			t.Errorf("%q: spent %d tokens and %v USD; the server is owed %d and %v", tt.args, got.Spending.Tokens, got.Spending.USD, owed, float64(owed)/1000)
		}
	}
	if n := peak.Load(); n > most {
		t.Errorf("%d calls were at the server at once; want at most %d", n, most)
	}
}
