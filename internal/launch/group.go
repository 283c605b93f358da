//go:build unix

package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Event is something that happened to a server.
type Event struct {
	Model   string
	Replica int
	Kind    Kind
	URL     string
	Text    string // what happened, where Kind does not say it all
	Tail    string // the end of the server's log, where it ended by itself, without secrets
	Log     string // the file with all of it
}

// Kind is what happened.
type Kind uint8

// What may happen to a server.
const (
	Started Kind = iota
	Ready
	Died   // and is started again
	GaveUp // for good
	Ended  // because it was asked to
)

// Group keeps the servers of models up.
type Group struct {
	Launcher *Local
	State    State
	Models   []Model
	Event    func(Event) // called by one goroutine at a time; may be nil

	pace pace
	mu   sync.Mutex
	urls map[string][]string // of servers that are ready, by model and replica; "" is none
}

// pace says how servers are started again.
type pace struct {
	look        time.Duration // between two questions whether a server is ready
	first, most time.Duration // before it is started again: doubled with each quick death
	quick       time.Duration // ended sooner than that after it was ready
	never, ever int           // quick deaths in a row that are too many, before it has been ready once and after
}

var paced = pace{look: 200 * time.Millisecond, first: time.Second, most: time.Minute, quick: time.Minute, never: 2, ever: 5}

// Run starts all servers and keeps them up until ctx ends or State.Down is
// called for each model; then it ends them and returns nil. ready, if not nil, is
// called once, when all of them answer.
//
// An error says which server could not be started, or that a model has none left
// that could, with the end of its log; no server is left then either. It is an
// *UpError where another process keeps a model.
func (g *Group) Run(ctx context.Context, ready func()) error {
	if g.pace == (pace{}) {
		g.pace = paced
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.urls = map[string][]string{}
	var locks []*modelLock
	defer func() {
		for _, l := range locks {
			l.release()
		}
	}()
	n := 0
	for i := range g.Models {
		m := &g.Models[i]
		l, err := g.State.claim(m.Name)
		if err != nil {
			return err
		}
		locks = append(locks, l)
		g.urls[m.Name] = make([]string, m.replicas())
		n += m.replicas()
	}
	up := make(chan struct{}, n)
	told := make(chan struct{})
	defer func() { cancel(nil); <-told }()
	go func() {
		defer close(told)
		for range n {
			select {
			case <-up:
			case <-ctx.Done():
				return
			}
		}
		if ready != nil {
			ready()
		}
	}()
	var all sync.WaitGroup
	for i := range g.Models {
		all.Go(func() {
			if err := g.model(ctx, &g.Models[i], locks[i], up); err != nil {
				cancel(err)
			}
			locks[i].release()
		})
	}
	all.Wait()
	var failed *failure
	if err := context.Cause(ctx); errors.As(err, &failed) {
		return failed
	}
	return nil
}

// failure is why a Run ended by itself.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// model keeps the servers of a model up until ctx ends or it is told to end them.
func (g *Group) model(ctx context.Context, m *Model, l *modelLock, up chan<- struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		t := time.NewTicker(g.pace.look)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if l.endAsked() {
					cancel()
				}
			}
		}
	}()
	var all sync.WaitGroup
	var mu sync.Mutex
	left := m.replicas()
	var fault error
	for i := range m.replicas() {
		all.Go(func() {
			r := &replica{Group: g, m: m, i: i, up: func() { up <- struct{}{} }}
			err := r.keep(ctx)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if left--; !r.was || left == 0 { // it never worked, or none does
				if fault == nil {
					fault = &failure{err}
				}
				cancel()
			}
		})
	}
	all.Wait()
	return fault
}

// replica is one server of a model, and those that come after it.
type replica struct {
	*Group
	m   *Model
	i   int
	up  func() // called once
	was bool   // ready, once
}

// keep keeps the server up until ctx ends. An error says that it was given up.
func (r *replica) keep(ctx context.Context) error {
	for quick := 0; ; {
		s, err := r.Launcher.launch(ctx, r.m, r.i)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return r.gaveUp(nil, fmt.Errorf("could not be started: %w", err))
		}
		r.tell(Started, s, "")
		err = r.attend(ctx, s, &quick)
		switch {
		case ctx.Err() != nil:
			r.tell(Ended, s, "")
			return nil
		case err != nil:
			return r.gaveUp(s, err)
		}
		most := r.pace.ever
		if !r.was {
			most = r.pace.never
		}
		if quick >= most {
			return r.gaveUp(s, fmt.Errorf("ended %d times, the last time with %w", quick, s.err))
		}
		wait := min(r.pace.first<<max(quick-1, 0), r.pace.most)
		r.tell(Died, s, fmt.Sprintf("%v; starting it again in %v", s.err, wait))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// attend waits for a server to get ready and then to end, and counts its quick
// deaths. When ctx ends, it ends the server.
func (r *replica) attend(ctx context.Context, s *server, quick *int) error {
	defer s.stop()
	timeout := time.NewTimer(r.m.timeout())
	defer timeout.Stop()
	*quick++
	for !s.ready(ctx) {
		select {
		case <-time.After(r.pace.look):
		case <-s.done:
			return nil
		case <-ctx.Done():
			return nil
		case <-timeout.C:
			return fmt.Errorf("was not ready within %v (serve.ready_timeout)", r.m.timeout())
		}
	}
	began := time.Now()
	if err := r.publish(s.url); err != nil {
		return err
	}
	r.tell(Ready, s, "")
	if !r.was {
		r.was = true
		r.up()
	}
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	if time.Since(began) >= r.pace.quick {
		*quick = 0
	}
	return r.publish("")
}

// publish says where the server is; "" is nowhere.
func (r *replica) publish(url string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls[r.m.Name][r.i] = url
	var all []string
	for _, u := range r.urls[r.m.Name] {
		if u != "" {
			all = append(all, u)
		}
	}
	return r.State.publish(r.m.Name, all)
}

func (r *replica) gaveUp(s *server, err error) error {
	r.tell(GaveUp, s, err.Error())
	err = fmt.Errorf("model %q, server %d: %w", r.m.Name, r.i, err)
	if s == nil {
		return err
	}
	tail, log := r.log(s)
	return fmt.Errorf("%w; its log, %s, ends with:\n%s", err, log, tail)
}

// log is the end of a server's log as it may be shown, and where all of it is.
func (r *replica) log(s *server) (tail, where string) {
	return r.m.Secrets.Hide(tailOf(s.log, s.logFrom)), s.log
}

func (r *replica) tell(k Kind, s *server, text string) {
	if r.Event == nil {
		return
	}
	e := Event{Model: r.m.Name, Replica: r.i, Kind: k, Text: text}
	if s != nil {
		e.URL = s.url
		e.Tail, e.Log = r.log(s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Event(e)
}

// ready asks the server once whether it is.
func (s *server) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.health, nil)
	if err != nil {
		return false
	}
	direct := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext} // past any proxy
	res, err := direct.RoundTrip(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return s.anyAnswer || res.StatusCode == http.StatusOK
}
