package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"matrix/llm"
)

func say(text string) *llm.Request {
	return &llm.Request{Messages: []llm.Message{{Role: "user", Content: text}}}
}

func TestDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewDriver(engines(t, Config{})[0])
		temp, seed := 0.5, int64(3)
		r := say("Hello")
		r.Sampling = llm.Sampling{Temperature: &temp, Seed: &seed, MaxTokens: 10, N: 2, Logprobs: 1, Stop: []string{"~"}, Extra: map[string]any{"ignore_eos": true}}
		rep, err := w.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Choices) != 2 || rep.Choices[0].Finish != "length" || rep.Usage.CompletionTokens != 20 || rep.Model != "sim-8b" || rep.Endpoint != "sim://0" || rep.Choices[0].Logprobs == nil || rep.Took == 0 {
			t.Errorf("got %+v", rep)
		}
		if want := `{"temperature":0.5,"max_tokens":10,"n":2,"stop":["~"],"seed":3,"logprobs":true,"top_logprobs":1,"ignore_eos":true}`; string(rep.Params) != want {
			t.Errorf("params: got %s, want %s", rep.Params, want)
		}
		rep, err = w.Send(t.Context(), &llm.Request{Prompt: "Once"})
		if err != nil || rep.Choices[0].Text == "" {
			t.Errorf("completion: got %+v, %v", rep, err)
		}
		rep, err = w.Send(t.Context(), &llm.Request{Input: []string{"a", "b"}})
		if err != nil || len(rep.Vectors) != 2 || len(rep.Vectors[0]) != embedded {
			t.Errorf("embedding: got %+v, %v", rep, err)
		}
		r = say("x")
		r.Format = &llm.Format{Choice: []string{"yes", "no"}}
		if rep, err = w.Send(t.Context(), r); err != nil || rep.Choices[0].Text != "yes" && rep.Choices[0].Text != "no" {
			t.Errorf("choice: got %+v, %v", rep, err)
		}
		r = say("x")
		r.Tools = []llm.Tool{{Name: "f", Parameters: json.RawMessage(`{"type":"object","properties":{"a":{"const":1}},"required":["a"]}`)}}
		if rep, err = w.Send(t.Context(), r); err != nil || len(rep.Choices[0].ToolCalls) != 1 || rep.Choices[0].ToolCalls[0].Arguments != `{"a": 1}` {
			t.Errorf("tools: got %+v, %v", rep, err)
		}
		if served, err := w.Probe(t.Context()); err != nil || served[0].Name != "sim-8b" {
			t.Errorf("probe: got %+v, %v", served, err)
		}
	})
}

func TestDriverStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engines(t, Config{Replies: Replies{Tokens: 400}})[0]
		whole, err := NewDriver(e).Send(t.Context(), say("Hello"))
		if err != nil {
			t.Fatal(err)
		}
		text, pieces := "", 0
		r := say("Hello")
		r.OnDelta = func(d llm.Delta) bool { text += d.Text; pieces++; return true }
		rep, err := NewDriver(e).Send(t.Context(), r)
		if err != nil || text != whole.Choices[0].Text || rep.Choices[0].Text != text || pieces < 10 || rep.First <= 0 || rep.First >= rep.Took/2 {
			t.Errorf("got %d pieces, first after %v of %v, error %v; want the text of before in 10 or more", pieces, rep.First, rep.Took, err)
		}
		r.OnDelta = func(llm.Delta) bool { return false }
		begin := time.Now()
		rep, err = NewDriver(e).Send(t.Context(), r)
		if err != nil || !strings.HasPrefix(text, rep.Choices[0].Text) || rep.Choices[0].Text == "" || time.Since(begin) > whole.Took/2 {
			t.Errorf("stopped early: got %+v after %v, %v", rep, time.Since(begin), err)
		}
		if g := e.work.gauges(); g.Running != 0 {
			t.Errorf("got %d running after an early stop, want 0", g.Running)
		}
	})
}

func TestDriverFaults(t *testing.T) {
	for _, c := range []struct {
		fault  Fault
		kind   llm.Kind
		status int
		ended  bool
	}{
		{Fault{Kind: Reject, RetryAfter: time.Second}, llm.Capacity, 429, false},
		{Fault{Kind: Error}, llm.Fault, 500, false},
		{Fault{Kind: Error, Status: 503}, llm.Capacity, 503, false},
		{Fault{Kind: Reset}, llm.Transport, 0, false},
		{Fault{Kind: Truncate}, llm.Transport, 0, false},
		{Fault{Kind: Garbage}, llm.Fault, 0, false},
		{Fault{Kind: Stall}, 0, 0, true},
		{Fault{Kind: Down}, llm.Unreachable, 0, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			c.fault.Share = 1
			w := NewDriver(engines(t, Config{Faults: []Fault{c.fault}})[0])
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := w.Send(ctx, say("x"))
			var f *llm.Failure
			switch {
			case c.ended:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: got %v, want the end of the context", c.fault.Kind, err)
				}
			case !errors.As(err, &f) || f.Kind != c.kind || f.Status != c.status || f.After != c.fault.RetryAfter || f.Params == nil:
				t.Errorf("%s: got %+v, want %v with status %d", c.fault.Kind, err, c.kind, c.status)
			}
		})
	}
}

// A call under way when the engine goes down is cut.
func TestDriverDown(t *testing.T) {
	for _, preset := range []string{"8b", "slots"} {
		synctest.Test(t, func(t *testing.T) {
			w := NewDriver(engines(t, Config{Preset: preset, Replies: Replies{Tokens: 1000}, Faults: []Fault{{Kind: Down, Share: 1, From: time.Second, Until: 2 * time.Second}}})[0])
			var f *llm.Failure
			if _, err := w.Send(t.Context(), say("x")); !errors.As(err, &f) || f.Kind != llm.Transport || !f.Sent {
				t.Errorf("under way: got %v, want a connection cut", err)
			}
			if _, err := w.Probe(t.Context()); !errors.As(err, &f) || f.Kind != llm.Unreachable {
				t.Errorf("probe while it is down: got %v, want unreachable", err)
			}
			time.Sleep(2 * time.Second)
			if _, err := w.Send(t.Context(), say("x")); err != nil {
				t.Errorf("back again: got %v", err)
			}
		})
	}
}

func TestReplies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replies.jsonl")
	if err := os.WriteFile(path, []byte(`{"prompt":"a","reply":"to a"}`+"\n\n"+`{"reply":"first"}`+"\n"+`{"reply":"second"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		r    Replies
		ask  []string
		want []string
	}{
		{"echo", Replies{Kind: "echo"}, []string{"abc"}, []string{"abc"}},
		{"template", Replies{Kind: "template", Template: `{{.Prompt}}/{{.System}}/{{len .Messages}}/{{.Turn}}/{{.N}}{{if contains .Prompt "x"}}!{{end}}`}, []string{"a", "x"}, []string{"a//1/0/0", "x//1/0/0!"}},
		{"file", Replies{Kind: "file", Path: path}, []string{"b", "a", "c", "d"}, []string{"first", "to a", "second", "first"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := NewDriver(engines(t, Config{Replies: c.r})[0])
				for i, text := range c.ask {
					rep, err := w.Send(t.Context(), say(text))
					if err != nil {
						t.Fatal(err)
					}
					if got := rep.Choices[0].Text; got != c.want[i] {
						t.Errorf("%s: got %q, want %q", text, got, c.want[i])
					}
				}
			})
		})
	}
	for text, want := range map[string]string{`{"prompt":"x"}`: `has no "reply"`, `{`: "replies.jsonl:1", "\n": "no replies"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Replies: Replies{Kind: "file", Path: path}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// Lengths are drawn with the mean and the spread that were asked for.
func TestLengths(t *testing.T) {
	r, err := newReplier(Replies{Kind: "text", Tokens: 100, Sigma: 0.8}, 1)
	if err != nil {
		t.Fatal(err)
	}
	sum, long, n := 0, 0, 20_000
	for i := range n {
		ds, err := r.drafts(&ask{n: 1}, uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		ds[0].write()
		if got := tokensOf(ds[0].text); got != ds[0].tokens {
			t.Fatalf("got a text of %d tokens, want %d", got, ds[0].tokens)
		}
		sum += ds[0].tokens
		if ds[0].tokens > 200 {
			long++
		}
	}
	// P(X > 2 mean) = P(Z > (ln 2 + s^2/2)/s) = P(Z > 1.266) = 0.103
	if mean := float64(sum) / float64(n); !about(mean, 100, 0.03) || !about(float64(long)/float64(n), 0.103, 0.1) {
		t.Errorf("got a mean of %.1f and %.3f above 200, want 100 and 0.103", mean, float64(long)/float64(n))
	}
}

func TestOpen(t *testing.T) {
	es := engines(t, Config{Replicas: 2})
	open := Open(es)
	for i, at := range Addresses(es) {
		if w, err := open(at.URL); err != nil || w.(*driver).e != es[i] {
			t.Errorf("%s: got %v, %v", at.URL, w, err)
		}
	}
	if _, err := open("sim://2"); err == nil {
		t.Error("sim://2 of two: got no error")
	}
}

// Calls that wait in process cost little memory each.
func TestWaitingCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 30,000 calls")
	}
	e := engines(t, Config{Preset: "slots", Latency: Latency{Mean: time.Hour}})[0]
	w := NewDriver(e)
	ctx, cancel := context.WithCancel(t.Context())
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	const n = 30_000
	before := memory()
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() { _, _ = w.Send(ctx, say(fmt.Sprint(i))) })
	}
	until(t, func() bool { g := e.work.gauges(); return g.Running+g.Waiting == n })
	each := (memory() - before) / n
	cancel()
	calls.Wait()
	t.Logf("%d B for each call that waits", each)
	if each > 12<<10 {
		t.Errorf("got %d B for each call that waits, want 12 KiB at most", each)
	}
}

// Of a stream that stalls or is cut, the beginning comes.
func TestDriverStreamFaults(t *testing.T) {
	for kind, most := range map[string]float64{Stall: 0.2, Truncate: 0.7} {
		synctest.Test(t, func(t *testing.T) {
			w := NewDriver(engines(t, Config{Replies: Replies{Tokens: 400}, Faults: []Fault{{Kind: kind, Share: 1}}})[0])
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			got := 0
			r := say("x")
			r.OnDelta = func(d llm.Delta) bool { got += tokensOf(d.Text); return true }
			if _, err := w.Send(ctx, r); err == nil || got == 0 || float64(got) > most*400 {
				t.Errorf("%s: got %d tokens and %v, want an error after at most %v of 400", kind, got, err, most)
			}
		})
	}
}

func TestDriverLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engines(t, Config{Preset: "slots", Slots: 10, Latency: Latency{Mean: time.Hour}})[0]
		w := NewDriver(e).(llm.Loader)
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for i := range 14 {
			calls.Go(func() { _, _ = NewDriver(e).Send(ctx, say(fmt.Sprint(i))) })
		}
		synctest.Wait()
		if running, waiting, ok, err := w.Load(ctx); running != 10 || waiting != 4 || !ok || err != nil {
			t.Errorf("got %d and %d, %v, %v; want 10 that run and 4 that wait", running, waiting, ok, err)
		}
		e.down.Store(true)
		if _, _, ok, err := w.Load(ctx); !ok || err == nil {
			t.Errorf("while nothing listens: got %v, %v; want an error, and to be asked again", ok, err)
		}
		cancel()
		calls.Wait()
	})
}

// A client with concurrency auto fills an engine that it calls in process within
// seconds, as it tells how busy it is.
func TestDriverFills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es := engines(t, Config{Preset: "slots", Slots: 1000, Latency: Latency{Mean: 30 * time.Second}})
		c, err := llm.New("sim", llm.Service{}, Addresses(es), Open(es))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for i := range 3000 {
			calls.Go(func() { _, _ = c.Do(ctx, say(fmt.Sprint(i))) })
		}
		time.Sleep(15 * time.Second)
		if g := es[0].work.gauges(); g.Running < 900 {
			t.Errorf("after 15 s %d of 1000 slots are taken, and %d wait", g.Running, g.Waiting)
		} else {
			t.Logf("%d run, %d wait", g.Running, g.Waiting)
		}
		cancel()
		calls.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
