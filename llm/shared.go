package llm

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"matrix/llm/internal/limit"
)

// Use is what one of several processes tells of its calls to an endpoint, or to a
// model as a whole, about once a second; Slice is what it may have there for the
// next seconds. What is in them is for those who decide: a Client and a Shared.
type (
	Use   = limit.Use
	Slice = limit.Slice
)

// wholeModel is the key of a model as a whole in what is told of it; those of its endpoints
// are never empty.
const wholeModel = ""

// Shared decides for all processes that make calls to one model how many each may
// have under way, at each endpoint or in all where that number is fixed, and how
// many requests and tokens a minute each may send. It is used by one goroutine at a time.
type Shared struct {
	service Service
	at      map[string]*limit.Shared
}

// NewShared returns what several processes share of a model.
func NewShared(s Service) *Shared { return &Shared{service: s, at: map[string]*limit.Shared{}} }

// Report takes in what a process tells, and returns what it may have from now on. What
// it tells is to be newer than what it told before.
func (s *Shared) Report(now time.Time, id string, uses map[string]Use) map[string]Slice {
	slices := make(map[string]Slice, len(uses))
	for key, u := range uses {
		x := s.at[key]
		if x == nil {
			if key == wholeModel {
				x = limit.NewShared(cmp.Or(int(s.service.Concurrency), -1), float64(s.service.RPM), float64(s.service.TPM))
			} else {
				x = limit.NewShared(0, 0, 0)
			}
			s.at[key] = x
		}
		x.Report(now, id, u)
		slices[key] = x.Slice(now, id)
	}
	return slices
}

// Forget takes a process out that is gone.
func (s *Shared) Forget(id string) {
	for key, x := range s.at {
		if x.Forget(id); x.Members() == 0 && key != wholeModel {
			delete(s.at, key) // one that comes back is another
		}
	}
}

// Follow has the client keep to slices from now on, of a leader that is new: until it
// is given one it sends nothing, or after a while next to nothing. news is called when there is
// something to tell soon; it must not block.
func (c *Client) Follow(news func()) { c.scheduler.follow(time.Now(), news) }

// Uses is what there is to tell a Shared.
func (c *Client) Uses() map[string]Use { return c.scheduler.uses(time.Now()) }

// Take takes in slices that were asked for at a time. Those that are older than what it
// has are left out. again reports that there is more to come, for who tells soon.
func (c *Client) Take(given map[string]Slice, asked time.Time) (again bool) {
	return c.scheduler.take(time.Now(), given, asked)
}

// Backlog is how many calls of a role wait for a slot, and how many calls, of all
// roles, are under way and may be.
func (c *Client) Backlog(role string) (waiting, inFlight, limit int) {
	s := c.scheduler
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.classes {
		if queue := x.queues[role]; queue != nil {
			waiting += queue.Len()
		}
	}
	if limit = s.most(now); limit == 0 {
		for _, e := range s.at.all {
			if !e.out && !e.gone {
				limit += e.limiter.Limit()
			}
		}
	}
	return waiting, s.inFlight, limit
}

// most is how many calls may be under way over all endpoints; 0 for what they can hold.
func (s *scheduler) most(now time.Time) int {
	if s.fixed > 0 && s.news != nil {
		return s.whole.Calls(now)
	}
	return s.fixed
}

// full reports whether nothing more is admitted, whatever the endpoints can hold.
func (s *scheduler) full(now time.Time) bool {
	return s.fixed > 0 && s.inFlight >= s.most(now) || s.reading.tight()
}

// tell says that there is something to tell.
func (s *scheduler) tell() {
	if s.news != nil {
		s.news()
	}
}

func (s *scheduler) follow(now time.Time, news func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news == nil {
		s.quota.follow()
	}
	s.news = news
	s.whole.Follow(now)
	for _, e := range s.at.all {
		s.lead(now, e)
	}
}

// lead has an endpoint keep to slices, where there is a leader.
func (s *scheduler) lead(now time.Time, e *endpoint) {
	if s.news != nil && s.fixed == 0 {
		e.limiter.Follow(now)
	}
}

func (s *scheduler) uses(now time.Time) map[string]Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]Use{}
	if q := s.quota; s.fixed > 0 || q.requests.limit > 0 || q.tokens.limit > 0 {
		u := Use{Ack: s.whole.Serial, InFlight: s.inFlight, Waiting: s.waiting, Done: limit.Sums{float64(q.asked)}, Tokens: int64(q.used)}
		if u.RPM = q.requests.limit; q.requests.given {
			u.RPM = 0
		}
		if u.TPM = q.tokens.limit; q.tokens.given {
			u.TPM = 0
		}
		all[wholeModel] = u
	}
	if s.fixed > 0 {
		return all
	}
	for _, e := range s.at.all {
		waiting := s.waiting
		if e.out || e.gone {
			waiting = 0
		}
		u := e.limiter.Use(now, waiting)
		_, tells := e.driver.(Loader)
		u.Mute = e.mute || !tells
		all[e.key] = u
	}
	return all
}

func (s *scheduler) take(now time.Time, given map[string]Slice, asked time.Time) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g, ok := given[wholeModel]; ok && s.whole.Take(g, asked) {
		s.quota.lease(now, g.RPM, g.TPM, asked.Add(limit.LeaseLife))
		again = g.Again
		if s.fixed > 0 {
			for _, e := range s.at.all {
				e.limiter.SetTries(g.Tries)
			}
		}
	}
	for _, e := range s.at.all {
		if g, ok := given[e.key]; ok && s.fixed == 0 && e.limiter.Take(now, g, asked) {
			again = again || g.Again
			s.at.check(e, now, s.waiting > 0)
		}
	}
	s.dispatch(now)
	return again && s.waiting > 0
}

// keyOf names an endpoint among processes: without what is secret in its address, and
// with the name of the machine where it is one of its own.
func keyOf(hash uint64, at string) string {
	key := fmt.Sprintf("%016x", hash)
	u, err := url.Parse(at)
	if err != nil {
		return key
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback() {
		if name, err := os.Hostname(); err == nil {
			return key + "@" + name
		}
	}
	return key
}
