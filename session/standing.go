package session

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"matrix/cluster"
	"matrix/cluster/natsnet"
	"matrix/internal/packed"
)

// Standing lets workers join that act for several runs, each of which has a head of its own
// in another process. It tells them which runs there are.
type Standing struct {
	on      *natsnet.Net
	version string
	tell    func(line string)
	stops   []func()
	end     context.CancelFunc
	over    sync.WaitGroup
	changed chan struct{} // holds one

	mu      sync.Mutex
	runs    []OfferedRun
	workers map[string]*WorkerState
}

// NewStanding lets workers in over on, which is of no run. tell is told of those who come
// and go, concurrently. The caller closes it.
func NewStanding(on *natsnet.Net, version string, tell func(line string)) (*Standing, error) {
	h := &Standing{on: on, version: version, tell: tell, changed: make(chan struct{}, 1), workers: map[string]*WorkerState{}}
	stop, err := on.Receive(presenceAddress+"*", h.hear)
	if err != nil {
		return nil, err
	}
	h.stops = append(h.stops, stop)
	if stop, err = on.Answer(headAddress, h.answer); err != nil {
		h.stops[0]()
		return nil, err
	}
	h.stops = append(h.stops, stop)
	ctx, end := context.WithCancel(context.Background())
	h.end = end
	h.over.Go(func() { h.watch(ctx) })
	return h, nil
}

// Close lets nobody join any more. Workers wait for a head that comes back.
func (h *Standing) Close() {
	h.end()
	h.over.Wait()
	for _, stop := range h.stops {
		stop()
	}
}

// Offer says which runs there are from now on.
func (h *Standing) Offer(runs []OfferedRun) {
	h.mu.Lock()
	h.runs = runs
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Workers are those that are there, by ID.
func (h *Standing) Workers() []WorkerState {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := []WorkerState{}
	for _, w := range h.workers {
		x := *w
		if silent := time.Since(x.Heard); silent > silentAfter {
			x.State, x.Silent = workerSilent, silent.Seconds()
		}
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b WorkerState) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Logs are the last lines that a worker has said, with their times.
func (h *Standing) Logs(ctx context.Context, id string) (lines []string, err error) {
	b, err := h.on.Request(ctx, logsAddress+id, nil)
	if err == nil {
		err = packed.Read(b, &lines)
	}
	return lines, err
}

// watch tells workers which runs there are, and forgets those who are silent.
func (h *Standing) watch(ctx context.Context) {
	tick := time.NewTicker(presenceEvery)
	defer tick.Stop()
	for {
		h.announce("all")
		for _, w := range h.Workers() {
			if time.Since(w.Heard) > absent {
				h.leave(w.ID, "it is silent")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-h.changed:
		case <-tick.C:
		}
	}
}

func (h *Standing) announce(to string) {
	h.mu.Lock()
	known := h.runs != nil // or workers would leave those that they act for
	b, err := json.Marshal(Offer{h.version, h.runs})
	h.mu.Unlock()
	if err == nil && known {
		_ = h.on.Send(headTellsAddress+to, b) // told again soon
	}
}

func (h *Standing) hear(frame []byte) {
	var p presence
	if err := json.Unmarshal(frame, &p); err != nil || p.ID == "" {
		return
	}
	if p.State == workerLeaving {
		h.leave(p.ID, p.Why)
		return
	}
	p.Heard = time.Now()
	h.mu.Lock()
	was := h.workers[p.ID]
	h.workers[p.ID] = &p.WorkerState
	h.mu.Unlock()
	if was == nil {
		h.announce(p.ID)
		h.tell(fmt.Sprintf("Worker %s has joined.", p.ID))
	}
}

func (h *Standing) leave(id, why string) {
	h.mu.Lock()
	_, known := h.workers[id]
	delete(h.workers, id)
	h.mu.Unlock()
	switch {
	case !known:
	case why != "":
		h.tell(fmt.Sprintf("Worker %s is gone: %s.", id, why))
	default:
		h.tell(fmt.Sprintf("Worker %s is gone.", id))
	}
}

// answer answers a question of a worker: its run is none, and how it stands is who is there.
func (h *Standing) answer(body []byte) []byte {
	var q question
	switch err := json.Unmarshal(body, &q); {
	case err != nil:
		return nil
	case q.Ask == "status":
		v := &Snapshot{}
		v.join(nil, h.Workers())
		return packed.Write(v)
	}
	return packed.Write(welcome{Version: h.version, Protocol: cluster.Version, Standing: true})
}
