package llm

import (
	"fmt"
	"testing"
)

// BenchmarkAdmission is what the room does for a call: it enters, waits in a line
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

// admissions enters and leaves. Where none is to wait, half of the places are
// taken all the time; otherwise all.
func admissions(b *testing.B, endpoints, waiters int, sessions bool) {
	const each = 64
	r := roomOf(endpoints, each)
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
	given := make(chan *place, n+1)
	i := 0
	join := func() {
		w := &caller{given: given}
		if i++; sessions {
			w.session = hashes[i%len(hashes)]
		}
		w.role, w.priority = roles[i%len(roles)], i/len(roles)%2
		if p := r.join(w); p != nil {
			given <- p
		}
	}
	for range n + waiters {
		join()
	}
	for b.Loop() {
		r.leave(<-given, rep, nil)
		join()
	}
}
