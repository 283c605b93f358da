// Package jslog is a local.Log in a JetStream stream: what a queue commits is durable
// on one NATS server, or on most of three, before anybody is told.
//
// # What is stored
//
// A message is a group, with the headers
//
//	Nats-Expected-Last-Sequence  the position before its own: another one there refuses it
//	Group                        EPOCH/N: the N-th message of a writer, from 0
//	Sum                          CRC-32C of the content, 8 hexadecimal digits
//
// and its position is its sequence. An epoch is one time that a process became the
// writer. Its first messages are empty, as many as a writer may have under way at
// once: they take the positions at which something of the writer before it could
// still come to stand.
//
// # Who is the writer
//
// A sequence says that something stands before a message, and not what. So where a
// group is lost on the way, and the next writer's claim takes its place, the group
// that was sent behind it may still be added. Nobody was told that it is durable: a
// writer believes in a group only when it knows of each one before it that it
// stands. And nobody reads it: whoever replays leaves out what does not continue the
// newest epoch.
//
// # What servers must do
//
// Whoever runs them sets sync_interval: always, or a power cut takes what was said to
// be durable; three replicas on three machines; files on local disks. No peer is
// added or removed while a stream lives.
package jslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"matrix"
	"matrix/local"
)

// Options of Open.
type Options struct {
	Stream   string // its name
	Subject  string // of its messages; nobody else publishes there
	Replicas int    // 1, 3 or 5; 1 where it is 0
}

// Log is a log in a stream. It has one writer at a time, of all processes.
type Log struct {
	nc   *nats.Conn
	o    Options
	most int

	patience time.Duration           // with a group that has no answer
	batch    int                     // messages that are read at once
	publish  func(m *nats.Msg) error // nc.PublishMsg; tests lose some
	inbox    string                  // answers come to inbox.POSITION

	ctx   context.Context // of the log's life: Close ends it
	close context.CancelFunc
	loops sync.WaitGroup
	odd   chan struct{} // a signal for tend: an answer was not what was hoped for
	large chan struct{} // a signal for watch: there is something to trim

	mu      sync.Mutex
	epoch   string
	begin   uint64    // position of the epoch's first message
	last    uint64    // position of the last group appended
	settled uint64    // up to here the log is known to stand
	flight  []*group  // after it, oldest first
	sent    int       // of flight
	again   time.Time // when the oldest one is sent again
	err     error     // for good
	trim    uint64    // what stands before it may go
	suspect bool      // the log may have lost something
}

var _ local.Log = (*Log)(nil)

// group is one that was appended and is not known to be durable.
type group struct {
	position uint64
	name     string // EPOCH/N
	data     []byte
	tries    int
	holes    int  // how often its position was seen to be empty, with something after it
	taken    bool // something stands at its position
	stands   bool // it does
	done     chan struct{}
	err      error // once done is closed
}

// window is how many groups are under way at once.
const window = 4

// Patience.
const (
	patience = time.Second     // then a group is sent again
	maxAsk   = 2 * time.Second // then anything else is asked again: a request that meets no leader is never answered
	soon     = 10              // what is known not to have come is sent again in this part of it
	alarm    = 20              // so many times that long a loss must last before it is believed: a server that was cut off or stopped may think that it leads, and has old state
)

// overhead is more than what a message has beside its content.
const overhead = 512

var (
	errClosed = errors.New("the log is closed")
	errReplay = errors.New("the log was not replayed: this process is not its writer")
)

// Open opens the log of a stream, and makes the stream where there is none. It waits
// for servers that do not answer until ctx ends. nc is the caller's, who closes it
// after the log; one without a buffer for reconnecting (nats.ReconnectBufSize(-1))
// and with short pings (nats.PingInterval) hears soonest that it must send again.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Log, error) {
	o.Replicas = max(o.Replicas, 1)
	return open(ctx, nc, o, patience, readMessages, nc.PublishMsg)
}

func open(ctx context.Context, nc *nats.Conn, o Options, patience time.Duration, batch int, publish func(*nats.Msg) error) (*Log, error) {
	l := &Log{
		nc: nc, o: o, patience: patience, batch: batch, publish: publish, inbox: nats.NewInbox() + ".", err: errReplay,
		odd: make(chan struct{}, 1), large: make(chan struct{}, 1),
	}
	if err := l.makeStream(ctx); err != nil {
		return nil, fmt.Errorf("stream %s: %w", o.Stream, err)
	}
	if l.most = int(nc.MaxPayload()) - overhead; l.most < 1<<10 {
		return nil, fmt.Errorf("stream %s: the server takes messages of %d bytes: set its max_payload to 1 MiB or more", o.Stream, nc.MaxPayload())
	}
	answers, err := nc.Subscribe(l.inbox+"*", l.answer)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", o.Stream, err)
	}
	l.ctx, l.close = context.WithCancel(context.Background())
	l.loops.Go(func() {
		l.tend()
		_ = answers.Unsubscribe() // fails where the connection is closed
	})
	l.loops.Go(l.watch)
	return l, nil
}

// Close ends the log for this process, and every wait for it.
func (l *Log) Close() error {
	l.close()
	l.loops.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail(errClosed)
	return nil
}

// MaxGroup implements local.Log: what the server's max_payload leaves.
func (l *Log) MaxGroup() int { return l.most }

// Next implements local.Log.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last + 1
}

// Trim implements local.Log.
func (l *Log) Trim(before uint64) {
	l.mu.Lock()
	l.trim = max(l.trim, min(before, l.settled)) // something always stands, or a stream that is read from its files again may begin anew
	l.mu.Unlock()
	signal(l.large)
}

// Append implements local.Log.
func (l *Log) Append(b []byte) (wait func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b) == 0 || len(b) > l.most {
		l.fail(fmt.Errorf("a group of %d bytes; want 1 to %d", len(b), l.most))
	}
	return l.append(b)
}

// append appends a group, or an empty message of a claim. l.mu is held.
func (l *Log) append(b []byte) (wait func() error) {
	if err := l.err; err != nil {
		return func() error { return err }
	}
	l.last++
	g := &group{position: l.last, name: groupName(l.epoch, l.last-l.begin), data: b, done: make(chan struct{})}
	l.flight = append(l.flight, g)
	l.send()
	return func() error {
		<-g.done
		return g.err
	}
}

func groupName(epoch string, n uint64) string { return epoch + "/" + strconv.FormatUint(n, 10) }

// claim makes this process the writer of a log that was read to a position. It
// returns ErrFenced where the log has grown since.
func (l *Log) claim(at uint64) error {
	l.mu.Lock()
	l.epoch, l.begin, l.last, l.settled, l.err = nuid.Next(), at+1, at, at, nil
	first := l.append(nil)
	l.mu.Unlock()
	if err := first(); err != nil {
		return err
	}
	l.mu.Lock()
	var last func() error
	for range window - 1 {
		last = l.append(nil)
	}
	l.mu.Unlock()
	return last()
}

// send sends what may be under way. l.mu is held.
func (l *Log) send() {
	for l.sent < min(len(l.flight), window) {
		l.sent++
		if g := l.flight[l.sent-1]; !g.stands {
			l.sendGroup(g)
		}
	}
}

func (l *Log) sendGroup(g *group) {
	if g == l.flight[0] {
		l.again = time.Now().Add(l.patience)
	}
	g.tries++
	err := l.publish(&nats.Msg{Subject: l.o.Subject, Reply: l.inbox + strconv.FormatUint(g.position, 10), Data: g.data, Header: nats.Header{
		headerExpected: {strconv.FormatUint(g.position-1, 10)},
		headerGroup:    {g.name},
		headerSum:      {sumHeader(g.data)},
	}})
	if errors.Is(err, nats.ErrMaxPayload) {
		l.fail(fmt.Errorf("stream %s: the server now takes messages of %d bytes, and had taken %d: set max_payload to the same on all servers", l.o.Stream, l.nc.MaxPayload(), l.most+overhead))
	} // another one: it is sent again
}

const (
	headerExpected = "Nats-Expected-Last-Sequence"
	headerGroup    = "Group"
	headerSum      = "Sum"
)

func sumHeader(b []byte) string { return fmt.Sprintf("%08x", matrix.Sum(b)) }

// answer takes the answer to a group that was sent.
func (l *Log) answer(m *nats.Msg) {
	position, err := strconv.ParseUint(m.Subject[len(l.inbox):], 10, 64)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if position <= l.settled || position-l.settled > uint64(len(l.flight)) {
		return
	}
	g := l.flight[position-l.settled-1]
	ok, last, err := readAck(m)
	switch {
	case ok == position:
		l.stands(g)
		return
	case errors.Is(err, errWrongLast) && last >= position, ok > 0:
		g.taken = true
	case errors.Is(err, errWrongLast) || errors.Is(err, nats.ErrNoResponders):
		l.suspect = l.suspect || errors.Is(err, errWrongLast) && last < l.settled
		if soonest := time.Now().Add(l.patience / soon); soonest.Before(l.again) {
			l.again = soonest // it, or one before it, has not come
		}
	case errors.Is(err, errTooLarge):
		l.fail(fmt.Errorf("stream %s: %w", l.o.Stream, err))
		return
	default: // unknown: it is sent again
		return
	}
	signal(l.odd)
}

// stands says that a group is in the log. l.mu is held.
func (l *Log) stands(g *group) {
	g.stands = true
	n := 0
	for ; n < len(l.flight) && l.flight[n].stands; n++ {
		l.settled = l.flight[n].position
		close(l.flight[n].done)
	}
	l.flight = l.flight[n:]
	l.sent = max(l.sent-n, 0)
	l.again = time.Now().Add(l.patience)
	l.send()
}

// fail ends the log for good. l.mu is held.
func (l *Log) fail(err error) {
	if l.err == nil || l.err == errReplay {
		l.err = err
	}
	for _, g := range l.flight {
		g.err = l.err
		close(g.done)
	}
	l.flight, l.sent = nil, 0
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tend sees to what had no answer, or an odd one.
func (l *Log) tend() {
	tick := time.NewTicker(l.patience / soon)
	defer tick.Stop()
	for {
		select {
		case <-l.odd:
		case <-tick.C:
		case <-l.ctx.Done():
			return
		}
		l.look()
		l.sendAgain()
	}
}

// watch trims, and sees whether the log has lost something.
func (l *Log) watch() {
	tick := time.NewTicker(l.patience)
	defer tick.Stop()
	var loss time.Time // since when it has seemed so
	for {
		select {
		case <-l.large:
		case <-tick.C:
			loss = l.check(loss)
		case <-l.ctx.Done():
			return
		}
		l.purge()
	}
}

// look asks who stands where the oldest groups should.
func (l *Log) look() {
	for {
		l.mu.Lock()
		var g *group
		if len(l.flight) > 0 && l.flight[0].taken {
			g = l.flight[0]
		}
		l.mu.Unlock()
		if g == nil {
			return
		}
		m, err := l.get(g.position)
		fenced, hole, none := err == nil && m.group != g.name, false, false
		if errors.Is(err, errNoMessage) {
			var state streamState
			if state, err = l.info(); err == nil {
				fenced = state.First > g.position // whoever came after us has trimmed it
				hole = !fenced && state.Last >= g.position
				none = !fenced && !hole
			}
		}
		if err != nil {
			return // it is asked again
		}
		l.mu.Lock()
		switch {
		case len(l.flight) == 0 || l.flight[0] != g: // it has had its answer
		case fenced:
			l.fail(local.ErrFenced)
		case hole:
			if g.holes++; g.holes > alarm*soon {
				l.fail(l.damaged("there is nothing at %d, and more after it", g.position))
			}
		case none: // it is on its way to the other servers, and may come to nothing
			g.taken = false
		default:
			l.stands(g)
		}
		l.mu.Unlock()
		if hole || none {
			return
		}
	}
}

// sendAgain sends the oldest group again that has waited long, and those after it when
// it is answered.
func (l *Log) sendAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.flight) == 0 || l.flight[0].taken || time.Now().Before(l.again) {
		return
	}
	l.suspect = l.suspect || l.flight[0].tries > 3 // nobody answers: the stream may be gone
	l.sent = 1
	l.sendGroup(l.flight[0])
}

// check looks into a suspicion that the log has lost what was durable.
func (l *Log) check(since time.Time) time.Time {
	l.mu.Lock()
	suspect, settled := l.suspect, l.settled
	l.mu.Unlock()
	if !suspect {
		return time.Time{}
	}
	state, err := l.info()
	var what string
	switch {
	case errors.Is(err, errNoStream):
		what = "the stream is gone"
	case err != nil:
		return since // nobody says so
	case state.Last < settled:
		what = fmt.Sprintf("it ends at %d", state.Last)
	default:
		l.mu.Lock()
		l.suspect = false
		l.mu.Unlock()
		return time.Time{}
	}
	if since.IsZero() {
		return time.Now()
	}
	if time.Since(since) > alarm*l.patience {
		l.mu.Lock()
		l.fail(l.damaged("%s, and what stood at %d was durable", what, settled))
		l.mu.Unlock()
	}
	return since
}

// purge trims.
func (l *Log) purge() {
	l.mu.Lock()
	before := l.trim
	l.mu.Unlock()
	if before <= 1 {
		return
	}
	if err := l.purgeBefore(before); err != nil {
		return // asked again
	}
	l.mu.Lock()
	if l.trim == before {
		l.trim = 0
	}
	l.mu.Unlock()
}

// damaged says that servers do not have what they were given.
func (l *Log) damaged(format string, args ...any) error {
	return &local.DamagedError{Err: fmt.Errorf("stream %s has lost data: %s", l.o.Stream, fmt.Sprintf(format, args...))}
}
