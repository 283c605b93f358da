package heads

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/internal/pause"
)

const (
	presentEvery = time.Second
	absent       = 5 * time.Second // after so long without a word a head is not there
)

// meet has the heads tell each other of themselves until leave.
func (h *Heads) meet() error {
	_, err := h.nc.Subscribe(h.presence("*"), func(m *nats.Msg) {
		var x Head
		if json.Unmarshal(m.Data, &x) == nil && x.Name != "" {
			x.since = time.Now()
			h.mu.Lock()
			h.heard[x.Name] = x
			h.mu.Unlock()
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.leave = cancel
	h.present.Go(func() {
		for {
			h.tell()
			if pause.For(ctx, presentEvery) != nil {
				return
			}
		}
	})
	return nil
}

// tell tells the others of this head.
func (h *Heads) tell() {
	h.mu.Lock()
	h.self.For = time.Since(h.self.since).Seconds()
	b, err := json.Marshal(h.self)
	h.mu.Unlock()
	if err == nil {
		_ = h.nc.Publish(h.presence(subjectWord(h.o.Name)), b) // it is told again
	}
}

// subjectWord is a name as a word of a subject.
func subjectWord(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c == '.' || c == '*' || c == '>' || c <= ' ' {
			b[i] = '_'
		}
	}
	return string(b)
}

// be changes what this head tells of itself.
func (h *Heads) be(state string) {
	h.mu.Lock()
	if h.self.State != state {
		h.self.State, h.self.since = state, time.Now()
	}
	h.mu.Unlock()
	h.tell()
}

// All are the heads that are there, this one among them, and with Peers those that
// are not; by name.
func (h *Heads) All() []Head {
	away := map[string]error{}
	if h.server != nil {
		away = h.server.Away()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.self.For = time.Since(h.self.since).Seconds()
	all := map[string]Head{h.o.Name: h.self}
	for name, x := range h.heard {
		if name != h.o.Name && time.Since(x.since) < absent {
			all[name] = x
		}
	}
	for name, why := range away {
		all[name] = Head{Name: name, Away: why.Error()}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Head) int { return cmp.Compare(a.Name, b.Name) })
}

// others reports whether another head is there that is not in a state.
func (h *Heads) others(state string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, x := range h.heard {
		if name != h.o.Name && time.Since(x.since) < absent && x.State != state {
			return true
		}
	}
	return false
}
