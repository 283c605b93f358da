package llm

import (
	"fmt"
	"testing"
)

// BenchmarkAdmission is what the scheduler does for a call: it waits in a queue
// where waiters is not 0, and leaves. What Go takes to put a goroutine to sleep
// and to wake it comes on top.
func BenchmarkAdmission(b *testing.B) {
	for _, endpoints := range []int{1, 4, 100, 1000} {
		for _, waiters := range []int{0, 10_000} {
			for _, sessions := range []bool{false, true} {
				b.Run(fmt.Sprintf("endpoints=%d/waiters=%d/sessions=%v", endpoints, waiters, sessions), func(b *testing.B) {
					b.ReportAllocs()
					admissions(b, endpoints, waiters, sessions)
				})
			}
		}
	}
}

// schedulerOf is a scheduler of endpoints that hold so many calls each.
func schedulerOf(endpoints, each int) *scheduler {
	s := newScheduler(0, newQuota(0, 0), tuned.probe)
	var urls []string
	for i := range endpoints {
		urls = append(urls, fmt.Sprintf("http://x%d/v1", i))
	}
	s.use(urls, func(url string) *endpoint { return newEndpoint(url, script(nil), each) })
	return s
}

// admissions acquires and releases. Where none is to wait, half of the slots are
// taken all the time; otherwise all.
func admissions(b *testing.B, endpoints, waiters int, sessions bool) {
	const each = 64
	s := schedulerOf(endpoints, each)
	rep := &Reply{Usage: Usage{Tokens: Tokens{PromptTokens: 100, CompletionTokens: 100}}, Took: 1e9}
	n := endpoints * each
	if waiters == 0 {
		n /= 2
	}
	var hashes [1000]uint64
	for i := range hashes {
		hashes[i] = sessionHash(fmt.Sprint(i))
	}
	roles := []string{"student", "teacher", "judge"}
	given := make(chan *slot, n+1)
	i := 0
	join := func() {
		w := &waiter{granted: given}
		if i++; sessions {
			w.session = hashes[i%len(hashes)]
		}
		w.role = roles[i%len(roles)]
		if sl := s.enqueue(w); sl != nil {
			given <- sl
		}
	}
	for range n + waiters {
		join()
	}
	for b.Loop() {
		s.release(<-given, rep, nil)
		join()
	}
}
