package llm

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// BenchmarkAdmission is what it costs to enter a room and to leave it, with so
// many endpoints and so many calls that wait for each that is at work. A call
// lasts no time: what is seen is the cost of the room alone, and, where calls
// wait, of waking the goroutine of the next.
func BenchmarkAdmission(b *testing.B) {
	for _, endpoints := range []int{1, 4, 100, 1000} {
		for _, waiters := range []int{0, 10_000} {
			for _, session := range []string{"", "session"} {
				b.Run(fmt.Sprintf("endpoints=%d/waiters=%d/%s", endpoints, waiters, session), func(b *testing.B) {
					r := roomOf(endpoints, 64)
					admissions(b, r, 32*endpoints, waiters, session != "")
				})
			}
		}
	}
}

// roomOf is a room of endpoints that hold so many calls each.
func roomOf(endpoints, each int) *room {
	r := newRoom(0, newQuota(0, 0), tuned.probe)
	var urls []string
	for i := range endpoints {
		urls = append(urls, fmt.Sprintf("http://x%d/v1", i))
	}
	r.use(urls, func(url string) *endpoint { return newEndpoint(url, script(nil), each) })
	return r
}

// admissions enters and leaves b.N times. Where none is to wait, half of the
// places are taken all the time; otherwise all, and so many wait.
func admissions(b *testing.B, r *room, places, waiters int, sessions bool) {
	rep := &Reply{Usage: Usage{PromptTokens: 100, CompletionTokens: 100}, Took: 1e9}
	newCaller := func(i int) *caller {
		if !sessions {
			return &caller{}
		}
		return &caller{session: sessionHash(fmt.Sprint(i))}
	}
	ctx := context.Background()
	if waiters == 0 {
		var all []*caller
		for i := range 1000 {
			all = append(all, newCaller(i))
		}
		var taken []*place
		for i := range places {
			p, _ := r.enter(ctx, "role", newCaller(i))
			taken = append(taken, p)
		}
		for i := 0; b.Loop(); i++ {
			p, _ := r.enter(ctx, "role", all[i%len(all)])
			k := i % len(taken)
			p, taken[k] = taken[k], p
			r.leave(p, rep, nil)
		}
		return
	}
	var mu sync.Mutex
	left := b.N
	more := func() bool {
		mu.Lock()
		defer mu.Unlock()
		left--
		return left >= 0
	}
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 2*places + waiters {
		wg.Go(func() {
			w := newCaller(i)
			p, _ := r.enter(ctx, fmt.Sprint("role", i%3), w)
			<-start
			for more() {
				r.leave(p, rep, nil)
				p, _ = r.enter(ctx, fmt.Sprint("role", i%3), w)
			}
			r.leave(p, rep, nil)
		})
	}
	for r.waits() < waiters {
	}
	b.ResetTimer()
	close(start)
	wg.Wait()
}

func (r *room) waits() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}
