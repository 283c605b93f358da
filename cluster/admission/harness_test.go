package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"matrix/cluster"
	"matrix/internal/sim"
	"matrix/llm"
	"matrix/matrixtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// weather is a network that loses, doubles and delays a part of its frames each.
type weather struct {
	cluster.Net
	part float64

	mu   sync.Mutex
	r    *rand.Rand
	cut  map[string]bool // addresses that nothing comes to, and whose processes nothing comes from
	late sync.WaitGroup
}

func newWeather(seed uint64, part float64) *weather {
	return &weather{Net: matrixtest.NewNetwork(64 << 10), part: part, r: rand.New(rand.NewPCG(seed, 5)), cut: map[string]bool{}}
}

func (w *weather) draw() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.r.Float64()
}

func (w *weather) Send(address string, frame []byte) error {
	w.mu.Lock()
	lost := w.cut[address]
	w.mu.Unlock()
	if lost || w.draw() < w.part {
		return nil
	}
	if w.draw() < w.part {
		_ = w.Net.Send(address, frame)
	}
	if w.draw() < w.part {
		late := append([]byte(nil), frame...)
		w.late.Add(1)
		time.AfterFunc(time.Duration(w.draw()*3e9), func() {
			defer w.late.Done()
			_ = w.Net.Send(address, late)
		})
		return nil
	}
	return w.Net.Send(address, frame)
}

// from is the network as one worker has it: it can be cut off.
func (w *weather) from(id string) cluster.Net { return &side{w, addressOf(id)} }

type side struct {
	*weather
	address string
}

func (s *side) Send(address string, frame []byte) error {
	s.mu.Lock()
	lost := s.cut[s.address]
	s.mu.Unlock()
	if lost {
		return nil
	}
	return s.weather.Send(address, frame)
}

func (w *weather) cutOff(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[addressOf(id)] = true
}

// silent is a driver whose service does not tell how busy it is.
type silentDriver struct{ llm.Driver }

// service is a simulated one, in process.
type service struct {
	engines []*sim.Engine
	tells   bool
}

func newService(t *testing.T, c sim.Config, tells bool) *service {
	t.Helper()
	engines, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &service{engines, tells}
}

// client is how one process calls it.
func (s *service) client(t *testing.T, o llm.Service) *llm.Client {
	t.Helper()
	open := sim.Open(s.engines)
	c, err := llm.New("m", o, sim.Addresses(s.engines), func(url string) (llm.Driver, error) {
		d, err := open(url)
		if s.tells || err != nil {
			return d, err
		}
		return silentDriver{d}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// process is one that makes calls.
type process struct {
	name   string
	client *llm.Client
	member *Member // nil for the leader's
	stop   context.CancelFunc
	over   sync.WaitGroup // of callers
	served chan error
}

// call has so many callers make calls until the process is stopped.
func (p *process) call(ctx context.Context, callers int) {
	for i := range callers {
		p.over.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				text := fmt.Sprint(p.name, " ", i, " ", j)
				r := &llm.Request{Messages: []llm.Message{{Role: "user", Content: text}}, Key: text, Ask: llm.Ask{Role: "ask"}}
				_, _ = p.client.Do(ctx, r)
			}
		})
	}
}

// fleet is a leader's process and others.
type fleet struct {
	t       *testing.T
	net     *weather
	service *service
	options llm.Service

	leader  *Leader
	all     []*process
	lead    context.CancelFunc
	leading chan error
}

func newFleet(t *testing.T, s *service, o llm.Service, net *weather) *fleet {
	f := &fleet{t: t, net: net, service: s, options: o}
	f.start(nil)
	return f
}

// start begins a leader.
func (f *fleet) start(budgets map[string]*llm.Budget) {
	p := &process{name: "head", client: f.service.client(f.t, f.options)}
	f.leader = NewLeader(LeaderOptions{Net: f.net, Models: map[string]*llm.Client{"m": p.client}, Budgets: budgets})
	ctx, cancel := context.WithCancel(context.Background())
	f.lead, f.leading = cancel, make(chan error, 1)
	leader, leading := f.leader, f.leading
	go func() { leading <- leader.Serve(ctx) }()
	p.stop = func() {}
	f.all = append(f.all, p)
}

// serveOwn has the leader's process make calls.
func (f *fleet) serveOwn(callers int) {
	p := f.all[0]
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.call(ctx, callers)
}

// join adds a process with so many callers.
func (f *fleet) join(callers int) *process {
	id := fmt.Sprint("w", len(f.all))
	p := &process{name: id, client: f.service.client(f.t, f.options), served: make(chan error, 1)}
	p.member = NewMember(MemberOptions{ID: id, Net: f.net.from(id), Models: map[string]*llm.Client{"m": p.client}, Asks: map[string]string{"ask": "m"}})
	f.serve(p, callers)
	return p
}

func (f *fleet) serve(p *process, callers int) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { p.served <- p.member.Serve(ctx) }()
	calls, stop := context.WithCancel(context.Background())
	p.stop = func() {
		stop()
		p.over.Wait()
		cancel()
	}
	p.call(calls, callers)
	f.all = append(f.all, p)
}

// close ends all.
func (f *fleet) close() {
	for _, p := range f.all {
		p.stop()
		p.over.Wait()
		if p.served != nil {
			if err := <-p.served; err != nil {
				f.t.Error(err)
			}
		}
	}
	f.lead()
	if err := <-f.leading; err != nil {
		f.t.Error(err)
	}
	for _, p := range f.all {
		_ = p.client.Close()
	}
	f.net.late.Wait()
	for _, e := range f.service.engines {
		e.Close()
	}
}

// shares are the calls in flight of each process.
func (f *fleet) shares() []float64 {
	all := make([]float64, len(f.all))
	for i, p := range f.all {
		all[i] = float64(p.client.Stats().InFlight)
	}
	return all
}

// jain is Jain's index of fairness: 1 where all have the same.
func jain(x []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
		squares += v * v
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(x)) * squares)
}

func words(x []float64) string { return strings.Trim(fmt.Sprint(x), "[]") }
