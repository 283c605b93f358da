package jslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/internal/pause"
	"matrix/local"
)

// Replay implements local.Log. It waits for servers that do not answer until the log
// is closed. A *local.DamagedError says that they do not have what was durable.
func (l *Log) Replay(apply func(group []byte) error) error {
	r := reader{l: l, apply: apply}
	for {
		state, err := r.state()
		if err == nil {
			if r.at == 0 && state.First > 0 {
				r.at = state.First - 1
			}
			err = r.read(state.Last)
		}
		if err == nil {
			err = l.claim(r.at)
		}
		if !errors.Is(err, local.ErrFenced) {
			return err
		}
	}
}

// reader reads the log.
type reader struct {
	l     *Log
	apply func(group []byte) error
	at    uint64 // the position that was read last
	epoch string // the newest one
	begin uint64 // where it began
	bad   int    // how often the next position could not be read
}

// Messages are read from any replica, so many, or bytes, at once.
const (
	readMessages = 256
	readBytes    = 4 << 20
)

// state is where the log begins and ends, as the leader says.
func (r *reader) state() (streamState, error) {
	var gone time.Time
	for {
		state, err := r.l.info()
		switch {
		case err == nil:
			return state, nil
		case !errors.Is(err, errNoStream):
			gone = time.Time{}
		case gone.IsZero():
			gone = time.Now()
		case time.Since(gone) > alarm*r.l.patience:
			return state, r.l.damaged("the stream is gone")
		}
		if err := r.pause(); err != nil {
			return state, err
		}
	}
}

// pause waits before something is asked again.
func (r *reader) pause() error {
	if pause.For(r.l.ctx, r.l.patience/soon) != nil {
		return errClosed
	}
	return nil
}

// read reads to a position, or further.
func (r *reader) read(end uint64) error {
	for r.at < end {
		if err := r.readBatches(end); err != nil {
			return err
		}
		if r.at < end {
			if err := r.readOne(); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBatches reads from whichever replica is near, as far as it has all of it.
func (r *reader) readBatches(end uint64) error {
	ctx, cancel := context.WithCancel(r.l.ctx)
	batches := make(chan []message, 1) // the next is on its way while one is applied
	go func() {
		defer close(batches)
		for from := r.at + 1; from <= end; {
			ms := r.l.readBatch(ctx, from)
			if len(ms) == 0 {
				return
			}
			from = ms[len(ms)-1].sequence + 1
			select {
			case batches <- ms:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range batches {
		}
	}()
	for ms := range batches {
		for i := range ms {
			if ms[i].sequence != r.at+1 || !ms[i].whole() {
				return nil
			}
			if err := r.take(&ms[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// readOne reads what a replica did not have as it should be: from the leader. What is
// not there either was trimmed, or is lost.
func (r *reader) readOne() error {
	m, err := r.l.get(r.at + 1)
	if err == nil && m.whole() {
		return r.take(&m)
	}
	var what string
	switch {
	case err == nil:
		what = "does not fit its checksum"
	case errors.Is(err, errNoMessage):
		state, err := r.l.info()
		if err != nil {
			return r.pause()
		}
		if state.First > r.at+1 {
			r.at, r.epoch = state.First-1, ""
			return r.apply(nil)
		}
		what = "is not there"
	default:
		return r.pause()
	}
	if r.bad++; r.bad > alarm*soon { // nor is it on its way
		return r.l.damaged("the group at %d %s", r.at+1, what)
	}
	return r.pause()
}

// take takes the next message, which is whole.
func (r *reader) take(m *message) error {
	epoch, digits, _ := strings.Cut(m.group, "/")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || m.sequence < n {
		return r.l.damaged("the message at %d is not of a log", m.sequence)
	}
	r.at, r.bad = m.sequence, 0
	begin := m.sequence - n
	switch {
	case n == 0 || r.epoch == "":
		r.epoch, r.begin = epoch, begin
	case epoch != r.epoch:
		return nil // of a writer that was fenced, and nobody was told of it
	case begin != r.begin:
		return r.l.damaged("message %d of its writer stands at %d, and message 0 at %d", n, m.sequence, r.begin)
	}
	if len(m.data) == 0 {
		return nil
	}
	return r.apply(m.data)
}

// whole reports whether a message fits its checksum.
func (m *message) whole() bool { return m.sum == sumHeader(m.data) }

// readBatch reads messages from a sequence on, from any replica: as many as it has,
// and none where it has none or does not answer.
func (l *Log) readBatch(ctx context.Context, from uint64) (ms []message) {
	inbox := nats.NewInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return nil
	}
	defer func() { _ = sub.Unsubscribe() }() // fails where the connection is closed
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil
	}
	if err := l.nc.PublishRequest("$JS.API.DIRECT.GET."+l.o.Stream, inbox, fmt.Appendf(nil, `{"seq":%d,"batch":%d,"max_bytes":%d}`, from, l.batch, readBytes)); err != nil {
		return nil
	}
	for {
		next, cancel := context.WithTimeout(ctx, maxAsk)
		m, err := sub.NextMsgWithContext(next)
		cancel()
		if err != nil || m.Header.Get("Status") != "" { // the end of the batch, or nothing there
			return ms
		}
		sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return ms
		}
		ms = append(ms, message{sequence, m.Header.Get(headerGroup), m.Header.Get(headerSum), m.Data})
	}
}
