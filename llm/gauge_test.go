package llm

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// telling is a service in virtual time that tells how busy it is. Its places may
// change.
type telling struct {
	mu               sync.Mutex
	slots            int
	running, waiting int
	free             chan struct{} // is closed, and made anew, when a place may be free
	looks            int
}

func (s *telling) Send(ctx context.Context, r *Request) (*Reply, error) {
	s.mu.Lock()
	s.waiting++
	for s.running >= s.slots {
		if s.free == nil {
			s.free = make(chan struct{})
		}
		free := s.free
		s.mu.Unlock()
		<-free
		s.mu.Lock()
	}
	s.waiting--
	s.running++
	s.mu.Unlock()
	time.Sleep(time.Second + rand.N(2*time.Second))
	s.mu.Lock()
	s.running--
	s.wake()
	s.mu.Unlock()
	return &Reply{Choices: []Choice{{Text: "x", Finish: "stop"}}, Usage: Usage{Tokens: Tokens{PromptTokens: 7, CompletionTokens: 100}}}, nil
}

func (s *telling) wake() {
	if s.free != nil {
		close(s.free)
		s.free = nil
	}
}

func (s *telling) Probe(context.Context) ([]Served, error) { return nil, nil }
func (s *telling) Close() error                            { return nil }

func (s *telling) Load(context.Context) (running, waiting int, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return s.running, s.waiting, true, nil
}

// Where a service tells how busy it is, it is full soon, and few calls wait in
// it; so also after its capacity has changed.
func TestGauge(t *testing.T) {
	s := &telling{slots: 200}
	virtual(t, Service{}, []Driver{s}, func(t *testing.T, c *Client) {
		var wg sync.WaitGroup
		wg.Go(func() { storm(t, c, 1500, 6) })
		check := func(after time.Duration, slots int) {
			t.Helper()
			time.Sleep(after)
			for range 50 { // 5 s
				time.Sleep(100 * time.Millisecond)
				s.mu.Lock()
				running, waiting := s.running, s.waiting
				s.mu.Unlock()
				if running < slots*95/100 || waiting > slots/8 {
					t.Errorf("%d calls run and %d wait at the service, want %d and few", running, waiting, slots)
					return
				}
			}
		}
		change := func(slots int) {
			s.mu.Lock()
			s.slots = slots
			s.wake()
			s.mu.Unlock()
		}
		check(10*time.Second, 200)
		change(400)
		check(5*time.Second, 400)
		change(100)
		check(15*time.Second, 100)
		change(1 << 20)
		wg.Wait()
		if s.looks < 10 {
			t.Errorf("the service was asked %d times", s.looks)
		}
	})
}
