package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Stats is what a simulated service has done.
type Stats struct {
	Seconds  float64   `json:"seconds"` // since it started, or since its stats were reset
	CPU      float64   `json:"cpu_s"`   // that its process has used since then, whatever else the process does
	Replicas []Replica `json:"replicas"`

	// By the header Idempotency-Key, of the first 4 million keys.
	Distinct int `json:"distinct"` // keys seen
	Paid     int `json:"paid"`     // keys of calls that were finished
	Twice    int `json:"twice"`    // of these, finished more than once
}

// Replica is what one server of a service has done.
type Replica struct {
	URL       string         `json:"url"`
	Calls     int64          `json:"calls"`     // that arrived
	Done      int64          `json:"done"`      // that were finished by the engine
	GivenUp   int64          `json:"given_up"`  // that the client gave up
	Cut       int64          `json:"cut"`       // lost since the replica went down
	Full      int64          `json:"full"`      // refused with 429, since the queue was full
	Refused   int64          `json:"refused"`   // refused as wrong
	Faults    map[string]int `json:"faults"`    // injected, by kind
	Completed int64          `json:"completed"` // tokens of the replies that were finished
	Gauges
	Timeline Timeline `json:"timeline"`
}

// Share is the part of the service's capacity that was used while its
// completions went from one part of them to another: Share(0.1, 0.9) leaves
// out the first and the last tenth.
func (s Stats) Share(from, to float64) float64 { return s.Used(s.between(from, to)) }

// Used is the part of the service's capacity that was used between two times,
// in seconds, with the spans at both ends counted in proportion; 0 where there
// was none.
func (s Stats) Used(lo, hi float64) float64 {
	var busy, possible float64
	for _, r := range s.Replicas {
		for i := range r.Timeline.Busy {
			e := r.Timeline.Every
			a, b := max(lo, float64(i)*e), min(hi, float64(i+1)*e)
			if b > a {
				busy += (b - a) / e * r.Timeline.Busy[i]
				possible += (b - a) / e * r.Timeline.Possible[i]
			}
		}
	}
	if possible == 0 {
		return 0
	}
	return busy / possible
}

// Span is when the service had its first call and its last one, in seconds; -1 and 0
// where it had none.
func (s Stats) Span() (first, last float64) {
	first = -1
	for _, x := range s.Replicas {
		t := x.Timeline
		for i, busy := range t.Busy {
			if busy == 0 {
				continue
			}
			if at := float64(i) * t.Every; first < 0 || at < first {
				first = at
			}
			last = max(last, float64(i+1)*t.Every)
		}
	}
	return first, last
}

// between is when the completions of all replicas had come to two parts of
// them, in seconds.
func (s Stats) between(from, to float64) (lo, hi float64) {
	type span struct {
		at, every float64
		n         int
	}
	var all []span
	total := 0
	for _, r := range s.Replicas {
		for i, n := range r.Timeline.Done {
			if n > 0 {
				all = append(all, span{float64(i) * r.Timeline.Every, r.Timeline.Every, n})
				total += n
			}
		}
	}
	sort.Slice(all, func(i, k int) bool { return all[i].at < all[k].at })
	at := func(part float64) float64 {
		want, seen := part*float64(total), 0.0
		for _, x := range all {
			if seen+float64(x.n) >= want {
				return x.at + x.every*(want-seen)/float64(x.n)
			}
			seen += float64(x.n)
		}
		return 0
	}
	return at(from), at(to)
}

// Sum adds the replicas up, but for their timelines.
func (s Stats) Sum() Replica {
	sum := Replica{Faults: map[string]int{}}
	for _, r := range s.Replicas {
		sum.Calls += r.Calls
		sum.Done += r.Done
		sum.GivenUp += r.GivenUp
		sum.Cut += r.Cut
		sum.Full += r.Full
		sum.Refused += r.Refused
		sum.Completed += r.Completed
		for k, n := range r.Faults {
			sum.Faults[k] += n
		}
		sum.Running += r.Running
		sum.Waiting += r.Waiting
		sum.Prompt += r.Prompt
		sum.Cached += r.Cached
		sum.Computed += r.Computed
		sum.Generated += r.Generated
		sum.Preemptions += r.Preemptions
	}
	return sum
}

// Fetch asks a simulator for its stats. base is the base URL of any of its
// replicas, with or without /v1; each tells of all.
func Fetch(ctx context.Context, base string) (s Stats, err error) {
	u, err := url.Parse(strings.TrimSuffix(strings.TrimSuffix(base, "/"), "/v1"))
	if err != nil {
		return s, err
	}
	u = u.JoinPath("sim/stats")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return s, err
	}
	t := &http.Transport{}
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return s, err
	}
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s: %s: is that a simulator?", u, resp.Status)
	}
	return s, json.Unmarshal(body, &s)
}

// maxKeys is how many keys a ledger remembers.
const maxKeys = 4 << 20

// ledger counts calls by their keys. It is shared by the replicas.
type ledger struct {
	mu    sync.Mutex
	done  map[uint64]uint8 // by hash of the key: how often it was finished
	paid  int
	twice int
}

func (l *ledger) seen(key string) {
	if key == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := hashOf(key)
	if _, ok := l.done[h]; !ok && len(l.done) < maxKeys {
		if l.done == nil {
			l.done = map[uint64]uint8{}
		}
		l.done[h] = 0
	}
}

func (l *ledger) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done, l.paid, l.twice = nil, 0, 0
}

func (l *ledger) finished(key string) {
	if key == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := hashOf(key)
	n, ok := l.done[h]
	if !ok || n == 255 {
		return
	}
	l.done[h] = n + 1
	switch n {
	case 0:
		l.paid++
	case 1:
		l.twice++
	}
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
