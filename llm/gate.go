package llm

import (
	"container/list"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
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

// gate stops the callers of a model whose service is out. When failures follow
// each other with no success between them, it closes: one caller at a time
// then tries with its own request, at intervals that grow, and the others wait
// in line. A caller that failed goes to the end of the line, so that one bad
// request cannot keep the gate closed for the others. The first success opens
// the gate.
type gate struct {
	pace backoff

	mu     sync.Mutex
	score  int           // weight of the failures since the last success
	oks    int64         // successes so far
	failed time.Time     // the first failure since the last success
	why    string        // the newest failure
	opened chan struct{} // non-nil while closed; is closed when the gate opens
	probes int           // failed probes since the gate closed
	next   time.Time     // when the next probe is due
	prober *pass         // whose turn it is; nil for nobody's
	line   list.List     // of *pass, those who wait
}

// pass is a caller's way through the gate.
type pass struct{ turn chan struct{} }

// enter returns at once while the gate is open, else when it opens or when it
// is the caller's turn to probe. The pass goes back by one of ok, fail and
// quit. It is nil for a caller that does not probe.
func (g *gate) enter(ctx context.Context) (*pass, error) {
	g.mu.Lock()
	opened := g.opened
	if opened == nil {
		g.mu.Unlock()
		return nil, nil
	}
	p := &pass{turn: make(chan struct{})}
	el := g.line.PushBack(p)
	g.elect()
	g.mu.Unlock()

	select {
	case <-opened:
		return nil, nil
	case <-p.turn:
	case <-ctx.Done():
		g.mu.Lock()
		if g.opened == opened { // else the line was cleared
			g.line.Remove(el) // does nothing when p was elected meanwhile
		}
		g.mu.Unlock()
		g.quit(p)
		return nil, context.Cause(ctx)
	}

	g.mu.Lock()
	due := time.Until(g.next)
	g.mu.Unlock()
	t := time.NewTimer(due)
	defer t.Stop()
	select {
	case <-opened:
		return nil, nil
	case <-t.C:
		return p, nil
	case <-ctx.Done():
		g.quit(p)
		return nil, context.Cause(ctx)
	}
}

// elect makes the first in line the prober where there is none.
func (g *gate) elect() {
	if g.opened == nil || g.prober != nil || g.line.Len() == 0 {
		return
	}
	g.prober = g.line.Remove(g.line.Front()).(*pass)
	close(g.prober.turn)
}

// ok tells that the service answered.
func (g *gate) ok() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.oks++
	g.score = 0
	if g.opened == nil {
		return
	}
	close(g.opened)
	g.opened, g.prober = nil, nil
	g.line.Init()
}

// fail tells of a failed try. after is what the service asked for, 0 if it did
// not. The result says whether the gate is closed now, and how many calls have
// succeeded so far.
func (g *gate) fail(p *pass, c class, why string, after time.Duration) (closed bool, oks int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.score == 0 {
		g.failed = time.Now()
	}
	g.score += weights[c].gate
	g.why = why
	switch {
	case g.opened == nil && g.score >= gateLimit:
		g.opened = make(chan struct{})
		g.probes = 0
		g.next = time.Now().Add(max(g.pace.wait(0), after))
	case p != nil && p == g.prober:
		g.probes++
		g.next = time.Now().Add(max(g.pace.wait(g.probes), after))
		g.prober = nil
		g.elect()
	}
	return g.opened != nil, g.oks
}

// quit gives the turn to probe to the next in line, if p has it.
func (g *gate) quit(p *pass) {
	if p == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if p == g.prober {
		g.prober = nil
		g.elect()
	}
}

// paused says why the gate is closed and since when the service fails; empty
// while it is open.
func (g *gate) paused() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		return ""
	}
	return fmt.Sprintf("%s, %d s", g.why, int(time.Since(g.failed).Seconds()))
}
