package llm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"matrix/internal/stopping"
)

// backoff is exponential with full jitter: the n-th wait is drawn evenly from
// 0 to base*2^n, at most max.
type backoff struct{ base, max time.Duration }

func (b backoff) wait(n int) time.Duration {
	d := b.max
	if n < 30 {
		d = min(b.max, b.base<<n)
	}
	return rand.N(d + 1)
}

// tuning holds what users need not choose and tests do.
type tuning struct {
	retry    backoff       // between the tries of one call
	capacity backoff       // the same, where the service was full: the scheduler paces the tries of all
	probe    backoff       // between the trials of an endpoint that is out
	maxAfter time.Duration // longest Retry-After that is honoured
}

var tuned = tuning{
	retry:    backoff{500 * time.Millisecond, 8 * time.Second},
	capacity: backoff{250 * time.Millisecond, 2 * time.Second},
	probe:    backoff{500 * time.Millisecond, 5 * time.Second},
	maxAfter: 2 * time.Minute,
}

// DefaultTimeout is the longest wait for one reply where none is given.
const DefaultTimeout = 10 * time.Minute

// Client is a Model whose calls go through drivers to the endpoints of a service.
// It admits as many calls as the service can hold, keeps sessions where their
// prompts are cached, waits when the service is full or out, and tries again
// what failed, elsewhere first.
type Client struct {
	name      string
	service   Service
	tune      tuning
	open      func(url string) (Driver, error)
	at        Endpoints
	scheduler *scheduler
	count     Counters
	budget    *Budget
	price     Price
	secrets   Secrets
	naming    naming
	thinks    unmarked
	refusals  refusals
	reading   *ReplyMemory // nil: no bound

	discover sync.Once
	stop     context.CancelFunc
	watching sync.WaitGroup
	looked   chan struct{} // closed once the first list of endpoints is there
}

var _ Model = (*Client)(nil)

// New returns a model whose service is at the endpoints. open makes the driver to
// one of them; it does not call the service. An error is a *FieldError.
func New(name string, s Service, at Endpoints, open func(url string) (Driver, error)) (*Client, error) {
	return newClient(name, s, at, open, tuned)
}

func newClient(name string, s Service, at Endpoints, open func(url string) (Driver, error), t tuning) (*Client, error) {
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if err := errors.Join(s.check(), at.check()); err != nil {
		return nil, err
	}
	c := &Client{
		name: name, service: s, tune: t, open: open, at: at, looked: make(chan struct{}),
		naming:    naming{turn: make(chan struct{}, 1)},
		scheduler: newScheduler(int(s.Concurrency), newQuota(s.RPM, s.TPM), t.probe),
	}
	urls, all := at.fixed()
	if all && len(urls) == 0 {
		return nil, &FieldError{Field: "endpoints", Err: errors.New("is empty: give base_url, or endpoints")}
	}
	if len(urls) > 0 {
		var errs []error
		c.scheduler.use(urls, func(url string) *endpoint {
			e, err := c.connect(url)
			if err != nil {
				errs = append(errs, err)
			}
			return e
		})
		if err := errors.Join(errs...); err != nil {
			c.scheduler.close()
			return nil, err
		}
	}
	if all {
		close(c.looked)
	}
	return c, nil
}

func (c *Client) connect(url string) (*endpoint, error) {
	w, err := c.open(url)
	if err != nil {
		return nil, err
	}
	return newEndpoint(url, w, int(c.service.Concurrency)), nil
}

// watch begins, with the first call, to follow the endpoints that are not fixed,
// and how busy the endpoints say they are where the limit is to be found.
func (c *Client) watch() {
	c.discover.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		c.stop = cancel
		if c.service.Concurrency == 0 {
			c.watching.Go(func() { c.gauges(ctx) })
		}
		if _, all := c.at.fixed(); all {
			return
		}
		var once sync.Once
		c.watching.Go(func() {
			c.at.watch(ctx, func(urls []string) {
				var faults []string
				c.scheduler.use(urls, func(url string) *endpoint {
					e, err := c.connect(url)
					if err != nil {
						faults = append(faults, fmt.Sprintf("%s: %v", bare(url), err))
					}
					return e
				})
				if len(faults) > 0 {
					c.scheduler.setNote(strings.Join(faults, "; "))
				}
				once.Do(func() { close(c.looked) })
			}, func(err error) {
				if err == nil {
					c.scheduler.setNote("")
				} else {
					c.scheduler.setNote(err.Error())
				}
			})
		})
	})
}

// Charge makes every call pay from b, at price p.
func (c *Client) Charge(b *Budget, p Price) { c.budget, c.price = b, p }

// Share bounds what the replies that are being read hold, together with those of
// all others that share r. It is called once, and before the first call.
func (c *Client) Share(r *ReplyMemory) {
	c.reading, c.scheduler.reading = r, r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rechecks = append(r.rechecks, c.scheduler.recheck)
}

// Conceal implements Charger.
func (c *Client) Conceal(s Secrets) { c.secrets = s }

// Service is what the model's config says.
func (c *Client) Service() Service { return c.service }

// Stats implements Model.
func (c *Client) Stats() Stats {
	s := c.count.Stats()
	c.scheduler.stats(&s)
	s.Note, s.Paused = c.hidden(s.Note), c.hidden(s.Paused)
	return s
}

// hidden is trouble without the secrets: what programs and services said is in it.
func (c *Client) hidden(t *Trouble) *Trouble {
	if t == nil {
		return nil
	}
	told := *t
	told.Msg = c.secrets.Hide(t.Msg)
	return &told
}

// Close implements Model.
func (c *Client) Close() error {
	c.discover.Do(func() {})
	if c.stop != nil {
		c.stop()
	}
	c.watching.Wait()
	c.scheduler.close()
	return nil
}

// ProbeResult is what an endpoint answered to a probe.
type ProbeResult struct {
	URL    string
	Served []Served
	Took   time.Duration
	Err    error
}

// Probe asks all endpoints whether they are there and what they serve. It waits
// until endpoints are known, or every source has none, or ctx ends.
func (c *Client) Probe(ctx context.Context) []ProbeResult {
	c.watch()
	select {
	case <-c.looked:
	case <-ctx.Done():
	}
	all := c.scheduler.current()
	results := make([]ProbeResult, len(all))
	var wg sync.WaitGroup
	for i, e := range all {
		wg.Go(func() {
			start := time.Now()
			served, err := e.driver.Probe(ctx)
			results[i] = ProbeResult{URL: e.shown, Served: served, Took: time.Since(start), Err: err}
		})
	}
	wg.Wait()
	return results
}

// Do implements Model.
func (c *Client) Do(ctx context.Context, r *Request) (*Reply, error) {
	c.watch()
	scopeOf(ctx).free()
	req := *r
	req.Sampling = Merge(c.service.Sampling, r.Sampling)
	req.unmarked = &c.thinks
	if err := req.Sampling.Check(); err != nil {
		return nil, &Error{Kind: Refused, Model: c.name, Msg: err.Error()}
	}
	worst, err := c.worst(&req)
	if err != nil {
		return nil, AsError(c.name, err)
	}
	call := c.call(&req, worst)
	if !c.service.Scatter {
		call.waiter.session = sessionHash(r.Session)
	}
	for {
		rep, err := call.try(ctx)
		if err != nil {
			if errors.As(err, new(*Error)) {
				c.count.failed.Add(1)
			}
			return nil, err
		}
		if rep != nil {
			if req.Input == nil {
				rep.Asked.N = req.Sampling.Draws()
				if _, most := drawn(&req.Sampling); most > 0 {
					rep.Asked.MaxTokens = int(most)
				}
			}
			c.count.Add(rep)
			return rep, nil
		}
	}
}

func (c *Client) call(r *Request, worst Cost) *call {
	k := &call{c: c, r: r, worst: worst, waiter: waiter{role: r.Ask.Role, priority: r.Ask.Priority}}
	k.waiter.prompt, k.waiter.reply = expected(r)
	return k
}

// expected estimates the tokens of a prompt, and bounds those of the reply; 0
// for no bound.
func expected(r *Request) (prompt, reply int) {
	prompt = len(r.Prompt)
	for i := range r.Messages {
		prompt += len(r.Messages[i].Content) + 16
	}
	for _, s := range r.Input {
		prompt += len(s)
	}
	if r.Input == nil {
		n, most := drawn(&r.Sampling)
		reply = int(n * most)
	}
	return prompt / 4, reply
}

// call is a Do under way.
type call struct {
	c      *Client
	r      *Request
	worst  Cost
	waiter waiter
	again  bool // of a call that was answered before: see refusals

	tries            int   // that failed
	capacityFailures int   // of these, because the service was full
	failureScore     int   // sum of the weights of the failures
	successes        int64 // of all calls, when this one failed last
	wait             time.Duration
	lost             time.Duration
	last             *Failure
}

// try waits for a slot and makes one try. It returns a reply, or an error that
// ends the call, or neither: then the call is to be tried again, and try has
// waited for as long as that needs.
func (k *call) try(ctx context.Context) (*Reply, error) {
	c := k.c
	start := time.Now()
	waiting, free := stopping.Wait(ctx)
	defer free()
	sl, err := c.scheduler.acquire(waiting, &k.waiter)
	if err != nil {
		return nil, k.ended(err)
	}
	reserved, err := c.budget.Reserve(waiting, k.worst)
	if err != nil {
		c.scheduler.release(sl, nil, nil)
		var e *Error
		if errors.As(err, &e) {
			return nil, AsError(c.name, err)
		}
		return nil, k.ended(err)
	}
	sl.sent = true
	settled := false
	defer func() {
		if !settled { // the driver panicked
			reserved.Worst()
			c.scheduler.release(sl, nil, nil)
		}
	}()
	placed := time.Now()
	waited := placed.Sub(start)
	if k.last == nil || k.last.Kind == Capacity {
		k.wait += waited
	} else {
		k.lost += waited
	}
	rep, f := k.send(ctx, sl)
	settled = true
	switch {
	case rep != nil:
		rep.Took = time.Since(placed)
		rep.Model, rep.Revision = c.secrets.Hide(rep.Model), c.secrets.Hide(rep.Revision)
		rep.Params = c.secrets.HideJSON(rep.Params)
		k.settle(reserved, rep, nil)
		c.scheduler.release(sl, rep, nil)
		rep.Retries, rep.Wait, rep.Retry = k.tries, k.wait, k.lost
		c.answered(k.r, rep, placed)
		return rep, nil
	case f == nil:
		k.settle(reserved, nil, nil)
		c.scheduler.release(sl, nil, nil)
		return nil, k.ended(context.Cause(ctx))
	}
	f.Code, f.Msg = c.secrets.Hide(f.Code), c.secrets.Hide(f.Msg)
	f.Params = c.secrets.HideJSON(f.Params)
	f.After = min(f.After, c.tune.maxAfter)
	forbidden := f.Kind == Refused && f.Status == http.StatusForbidden && c.scheduler.unseen(sl.endpoint)
	if forbidden {
		f.Kind = Fatal // of the one endpoint: others may take what it forbids
	}
	k.settle(reserved, nil, f)
	successes, retryNow := c.scheduler.release(sl, nil, f)
	pause, over := k.failed(f, sl, time.Since(placed), successes, retryNow)
	if over != nil {
		k.lost += time.Since(placed)
		if forbidden { // by all of them: it may be what was asked, too
			no := *over
			no.Kind, over = Refused, &no
		}
		if !k.again {
			if over, err = c.refused(waiting, over); err != nil {
				return nil, k.ended(err)
			}
		}
		return nil, k.verdict(ctx, over)
	}
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-waiting.Done():
			return nil, k.ended(context.Cause(waiting))
		}
	}
	k.lost += time.Since(placed)
	return nil, nil
}

// send makes one exchange. A reply, a failure, or neither where ctx ended.
func (k *call) send(ctx context.Context, sl *slot) (*Reply, *Failure) {
	timeout := k.c.service.Timeout
	if sl.trial {
		timeout = min(timeout, sl.within)
	}
	try, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var s *share
	if k.c.reading != nil {
		s = &share{of: k.c.reading}
		try = context.WithValue(try, shareKey{}, s)
	}
	rep, err := sl.driver.Send(try, k.r)
	if err == nil && s.partial() {
		err = context.Cause(try)
	}
	if err == nil {
		if f := rep.broken(); f != nil {
			s.free()
			return nil, f
		}
		s.pass(scopeOf(ctx))
		if rep.First == 0 { // else a Stream has done so
			k.c.thinks.think(k.r, rep)
		}
		return rep, nil
	}
	s.free()
	if ctx.Err() != nil {
		return nil, nil
	}
	var f *Failure
	found := errors.As(err, &f)
	switch {
	case try.Err() != nil:
		late := &Failure{Kind: Timeout, Endpoint: sl.shown, Sent: true, Msg: fmt.Sprintf("no reply within %v", timeout)}
		if found {
			late.Endpoint, late.Params = f.Endpoint, f.Params
		}
		return nil, late
	case found:
		return nil, f
	}
	return nil, &Failure{Kind: Fault, Endpoint: sl.shown, Msg: err.Error(), Sent: true}
}

// failed notes a failure: over is the one that ends the call, or else pause is
// how long to wait before the next try. The waits between tries count from the
// beginning of the one that failed, which took so long: after one that has timed
// out there is none.
func (k *call) failed(f *Failure, sl *slot, took time.Duration, successes int64, retryNow bool) (pause time.Duration, over *Failure) {
	k.last = f
	k.waiter.avoid, k.waiter.retry = sl.endpoint, true
	switch {
	case f.Kind == Fatal:
		if fatal := k.c.scheduler.fatal(); fatal != nil || len(k.c.scheduler.current()) < 2 {
			return 0, k.last
		}
		retryNow = true // others take calls
	case f.Kind.final():
		return 0, f
	default:
		w := weights[f.Kind]
		if k.tries > 0 && successes > k.successes || f.EmptyReply && successes > 0 {
			k.failureScore += w.corroborated
		} else {
			k.failureScore += w.uncorroborated
		}
		k.successes = successes
		if k.failureScore >= giveUpScore {
			return 0, f
		}
	}
	k.tries++
	k.c.count.retries.Add(1)
	switch {
	case f.Kind == Capacity:
		k.waiter.avoid = nil
		k.capacityFailures++
		if retryNow { // the scheduler waits for as long as the service asked for
			return 0, nil
		}
		return f.After + k.c.tune.capacity.wait(k.capacityFailures), nil
	case retryNow:
		return 0, nil
	}
	return f.After + max(0, k.c.tune.retry.wait(k.tries-k.capacityFailures)-took), nil
}

// worst is the most that a call may cost: zero where there is no budget, or one
// without a limit and nothing that bounds the reply.
func (c *Client) worst(r *Request) (Cost, error) {
	if c.budget == nil {
		return Cost{}, nil
	}
	cost, err := Worst(r, &c.price, 0)
	if err != nil && !c.budget.Limited() {
		return Cost{}, nil
	}
	return cost, err
}

// settle pays for a try: what the service counted, or, where it may have worked
// and nobody has counted, the worst.
func (k *call) settle(reserved Reservation, rep *Reply, f *Failure) {
	price := &k.c.price
	switch {
	case rep != nil:
		told := rep.Usage.reported()
		used := told
		used.complete(k.r, rep)
		cost := price.Cost(used)
		used.USD = cost.USD
		rep.Usage = used
		if used.Estimated { // which may be too low
			cost.Tokens = max(cost.Tokens, k.worst.Tokens)
			if told.Estimated || told.USD == 0 {
				cost.USD = max(cost.USD, k.worst.USD)
			}
		}
		reserved.Settle(cost)
	case f == nil && k.c.scheduler.dead(): // and took nothing of what is under way
		reserved.Settle(Cost{})
	case f == nil: // ended from outside
		reserved.Worst()
	case f.Usage != nil && f.Usage.reported().counted():
		used := f.Usage.reported()
		cost := price.Cost(used)
		used.USD = cost.USD
		f.Usage = &used
		reserved.Settle(cost)
	case f.Sent && f.Status < 300:
		reserved.Worst()
	default:
		reserved.Settle(Cost{})
	}
}

// Counters are the sums of Stats, for those who implement Model.
type Counters struct {
	calls, failed, retries, prompt, completion, cached atomic.Int64
	nanos                                              atomic.Int64 // of a dollar
	took                                               atomic.Int64 // nanoseconds
}

func (c *Counters) Add(r *Reply) {
	c.calls.Add(1)
	c.took.Add(int64(r.Took))
	c.prompt.Add(int64(r.Usage.PromptTokens))
	c.completion.Add(int64(r.Usage.CompletionTokens))
	c.cached.Add(int64(r.Usage.CachedTokens))
	c.nanos.Add(int64(r.Usage.USD * 1e9))
}

func (c *Counters) Stats() Stats {
	return Stats{
		Calls: c.calls.Load(), Failed: c.failed.Load(), Retries: c.retries.Load(), Seconds: time.Duration(c.took.Load()).Seconds(),
		PromptTokens: c.prompt.Load(), CompletionTokens: c.completion.Load(), CachedTokens: c.cached.Load(),
		USD: float64(c.nanos.Load()) / 1e9,
	}
}
