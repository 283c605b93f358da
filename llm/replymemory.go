package llm

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// ReplyMemory bounds the bytes of all replies of a process that are being read, or
// are not yet passed on. Replies of ordinary size take nothing of it. Where it is
// full, the reply that began first is read on and the others wait; where it is
// half full, Clients that share it send nothing new.
type ReplyMemory struct {
	most int64

	mu       sync.Mutex
	taken    atomic.Int64
	shares   []*share // that have taken some, in order
	queue    []*share // of these, that wait for more
	rechecks []func() // of the clients
}

// MaxReplyMemory is the bound that a process has by default.
const MaxReplyMemory = 256 << 20

// NewReplyMemory returns a ReplyMemory of so many bytes.
func NewReplyMemory(most int64) *ReplyMemory { return &ReplyMemory{most: most} }

const (
	freeShare = 64 << 10  // that each reply may have beside what is taken
	stepShare = 256 << 10 // that is taken at a time, at least
)

// share is what one reply has of a ReplyMemory.
// One goroutine uses it.
type share struct {
	of        *ReplyMemory
	read      int64 // bytes
	listed    bool  // among those of the ReplyMemory
	truncated bool  // its call ended while it waited, so bytes are missing

	has  int64 // taken; another one's end may change it while this one waits
	want int64 // more, while it waits in the queue
	let  chan struct{}
}

type shareKey struct{}

// shareOf is the share of the call with ctx; nil for none.
func shareOf(ctx context.Context) *share {
	s, _ := ctx.Value(shareKey{}).(*share)
	return s
}

// add notes n bytes that were read, and waits until there is room for them. An
// error is the cause of ctx's end.
func (s *share) add(ctx context.Context, n int) error {
	if s == nil {
		return nil
	}
	if s.truncated {
		return context.Cause(ctx)
	}
	short := s.short(n)
	s.read += int64(n)
	if !short {
		return nil
	}
	more := max(s.read-freeShare-s.has, stepShare)
	r := s.of
	r.mu.Lock()
	if !s.listed {
		r.shares, s.listed = append(r.shares, s), true
	}
	if r.fits(s, more) {
		r.take(s, more)
		r.mu.Unlock()
		return nil
	}
	s.want, s.let = more, make(chan struct{})
	r.queue = append(r.queue, s)
	r.mu.Unlock()
	select {
	case <-s.let:
		return nil
	case <-ctx.Done():
		r.mu.Lock()
		r.queue = without(r.queue, s)
		r.mu.Unlock()
		s.truncated = true
		return context.Cause(ctx)
	}
}

// short reports whether n more bytes may have to wait.
func (s *share) short(n int) bool { return s != nil && s.read+int64(n) > freeShare+s.has }

// partial reports whether a reply that was read lacks some of what came.
func (s *share) partial() bool { return s != nil && s.truncated }

// without takes s out of a list.
func without(list []*share, s *share) []*share {
	return slices.DeleteFunc(list, func(x *share) bool { return x == s })
}

// free gives back what was taken.
func (s *share) free() {
	if s == nil || !s.listed {
		return
	}
	r := s.of
	r.mu.Lock()
	was := r.tight()
	r.taken.Add(-s.has)
	s.has, s.listed = 0, false
	r.shares = without(r.shares, s)
	waiting := r.queue
	r.queue = nil
	for _, x := range waiting {
		if !r.fits(x, x.want) {
			r.queue = append(r.queue, x)
			continue
		}
		r.take(x, x.want)
		close(x.let)
	}
	var rechecks []func()
	if was && !r.tight() {
		rechecks = r.rechecks
	}
	r.mu.Unlock()
	for _, recheck := range rechecks {
		recheck()
	}
}

// fits reports whether s may have more: the first may in any case, so that there is
// always one that comes to its end.
func (r *ReplyMemory) fits(s *share, more int64) bool {
	return r.taken.Load()+more <= r.most || r.shares[0] == s
}

func (r *ReplyMemory) take(s *share, more int64) {
	s.has += more
	r.taken.Add(more)
}

// tight reports whether nothing new is to be begun.
func (r *ReplyMemory) tight() bool { return r != nil && r.taken.Load() > r.most/2 }

// countedBody is a body whose bytes count toward a ReplyMemory.
type countedBody struct {
	io.Reader
	ctx context.Context
	s   *share
}

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if short := c.s.add(c.ctx, n); short != nil {
		return n, short
	}
	return n, err
}

// Counted returns the body of a reply to the call with ctx, for drivers that read it
// whole: its bytes count toward what may be read at once. A Stream counts those
// of its pieces.
func Counted(ctx context.Context, body io.Reader) io.Reader {
	if s := shareOf(ctx); s != nil {
		return &countedBody{body, ctx, s}
	}
	return body
}

// replyScope holds the shares of replies that somebody works on.
type replyScope struct{ shares []*share }

type scopeKey struct{}

// WithReplies returns a ctx for Do whose reply counts as being read until the next
// Do with it, or free. One goroutine uses it.
func WithReplies(ctx context.Context) (_ context.Context, free func()) {
	k := &replyScope{}
	return context.WithValue(ctx, scopeKey{}, k), k.free
}

func (k *replyScope) free() {
	if k == nil {
		return
	}
	for _, s := range k.shares {
		s.free()
	}
	k.shares = nil
}

// scopeOf is the scope of whoever calls with ctx; nil for none.
func scopeOf(ctx context.Context) *replyScope {
	k, _ := ctx.Value(scopeKey{}).(*replyScope)
	return k
}

// pass gives what s has to whoever works on the reply.
func (s *share) pass(k *replyScope) {
	switch {
	case s == nil:
	case k == nil:
		s.free()
	default:
		k.shares = append(k.shares, s)
	}
}
