package llm

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var silent = stdlog.New(io.Discard, "", 0)

// The server goes down with calls under way and comes back: every call
// succeeds, and meanwhile the gate is closed and says why.
func TestOutage(t *testing.T) {
	const callers = 100
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	first := &http.Server{ErrorLog: silent, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reply(w, good) })}
	go first.Serve(l)
	m := client(t, OpenAI{BaseURL: "http://" + address, Concurrency: 64}, quick)
	ctx := within(t, 30*time.Second)
	if _, err := m.Chat(ctx, ask("warm")); err != nil {
		t.Fatal(err)
	}
	first.Close()

	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			rep, err := m.Chat(ctx, ask(fmt.Sprint(i)))
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			} else if rep.Retry <= 0 && rep.Wait <= 0 {
				t.Errorf("caller %d: waited for nothing: %+v", i, rep)
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for m.Stats().Paused == "" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the gate stays open")
		}
	}
	if p := m.Stats().Paused; !strings.HasPrefix(p, "http://"+address+"/v1: connection refused, ") || !strings.HasSuffix(p, " s") {
		t.Errorf("paused: got %q", p)
	}
	before := m.Stats().Retries
	for m.Stats().Retries < before+20 { // probing goes on
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("nobody probes")
		}
	}

	l, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	second := &http.Server{ErrorLog: silent, Handler: first.Handler}
	go second.Serve(l)
	defer second.Close()
	wg.Wait()
	if s := m.Stats(); s.Paused != "" || s.Calls != callers+1 || s.InFlight != 0 {
		t.Errorf("after: got %+v", s)
	}
}

// While a service is out, one caller at a time tries.
func TestOneProbes(t *testing.T) {
	var up atomic.Bool
	var now, most atomic.Int32
	m := serve(t, OpenAI{}, func(w http.ResponseWriter, r *http.Request) {
		if up.Load() {
			reply(w, good)
			return
		}
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		w.WriteHeader(503)
	})
	ctx := within(t, 30*time.Second)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := m.Chat(ctx, ask(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for m.Stats().Paused == "" || now.Load() > 1 {
		<-tick.C
	}
	most.Store(0)
	before := m.Stats().Retries
	for m.Stats().Retries < before+30 {
		<-tick.C
	}
	if got := most.Load(); got > 2 { // a call sent before the gate closed may still land
		t.Errorf("got %d at once, want 1", got)
	}
	up.Store(true)
	wg.Wait()
}

// With the clock under control: the line moves on after a failed probe, a
// caller that leaves passes its turn on, and a success lets all through.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pace: backoff{time.Second, 8 * time.Second}}
		for i := range 5 {
			if closed, _ := g.fail(nil, transport, "refused", 0); closed != (i == 4) {
				t.Fatalf("after %d failures: closed is %v", i+1, closed)
			}
		}
		time.Sleep(12 * time.Second)
		if got, want := g.paused(), "refused, 12 s"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		type entered struct {
			who int
			p   *pass
			err error
		}
		in := make(chan entered)
		ctxs := make([]context.CancelFunc, 5)
		for i := range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			ctxs[i] = cancel
			go func() { p, err := g.enter(ctx); in <- entered{i, p, err} }()
			synctest.Wait()
		}
		e := <-in
		if e.who != 0 || e.p == nil {
			t.Fatalf("got %+v, want the first to probe", e)
		}
		ctxs[2]() // leaves the line
		if e := <-in; e.who != 2 || e.err == nil {
			t.Fatalf("got %+v, want the third to leave", e)
		}
		start := time.Now()
		g.fail(e.p, capacity, "full", 5*time.Second)
		e = <-in
		if e.who != 1 || e.p == nil || time.Since(start) < 5*time.Second {
			t.Fatalf("got %+v after %v, want the second to probe after 5 s", e, time.Since(start))
		}
		g.quit(e.p) // ended for its own reasons
		synctest.Wait()
		ctxs[3]() // has the turn, and leaves while it waits
		e = <-in
		if e.who != 3 {
			t.Fatalf("got %+v, want the fourth", e)
		}
		if e.err == nil { // it was due already
			g.quit(e.p)
		}
		e = <-in
		if e.who != 4 || e.p == nil {
			t.Fatalf("got %+v, want the fifth to probe", e)
		}
		for i := range 3 {
			go func() { p, err := g.enter(t.Context()); in <- entered{10 + i, p, err} }()
		}
		synctest.Wait()
		g.ok()
		for range 3 {
			if e := <-in; e.p != nil || e.err != nil {
				t.Errorf("got %+v, want free passage", e)
			}
		}
		if g.paused() != "" || g.line.Len() != 0 || g.prober != nil {
			t.Errorf("not open: %+v", g)
		}
		for _, c := range ctxs {
			c()
		}
	})
}

func TestBackoff(t *testing.T) {
	b := backoff{time.Second, 8 * time.Second}
	for n := range 100 {
		limit := min(8*time.Second, time.Second<<min(n, 10))
		for range 100 {
			if d := b.wait(n); d < 0 || d > limit {
				t.Fatalf("wait %d: got %v, want at most %v", n, d, limit)
			}
		}
	}
}
