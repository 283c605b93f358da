package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"matrix"
	"matrix/local"
)

// HopOptions say which hops to measure.
type HopOptions struct {
	StateBytes int           // content of a task when it is complete
	Turns      int           // hops in which it gets there: each adds StateBytes/Turns
	Live       int           // tasks under way at once
	Memory     bool          // in memory instead of on disk
	For        time.Duration // how long
	Hops       int64         // end after so many hops; 0 for no such end
	Dir        string        // folder for the state; "" for the system's temporary one
}

// HopResult is what was measured.
type HopResult struct {
	HopsPerS  float64 `json:"hops_per_s"`
	CPUPerHop float64 `json:"cpu_us_per_hop"`
	Durable   bool    `json:"durable"`
	State     int     `json:"state_bytes"`
	PerHop    float64 `json:"bytes_written_per_hop"` // log, flushes and compactions
	Live      int     `json:"live"`
	RSS       int64   `json:"rss_bytes"`
}

// fewestHops is how long a task lives at least, so that what is measured is
// hopping and not being born.
const fewestHops = 16

// Hop moves tasks between two roles of a queue. Each hop commits a record of
// StateBytes/Turns bytes and is durable before the task is seen again; a task
// takes Turns hops, at least 16, is settled, and another is seeded for it.
func Hop(ctx context.Context, o HopOptions) (*HopResult, error) {
	if o.StateBytes < 1 || o.Turns < 1 || o.Live < 1 {
		return nil, fmt.Errorf("bench hop: state-bytes, turns and live must be at least 1, got %d, %d and %d", o.StateBytes, o.Turns, o.Live)
	}
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	q, err := local.Open(dir, local.Options{Memory: o.Memory})
	if err != nil {
		return nil, err
	}
	defer q.Close()
	ctx, cancel := context.WithTimeout(ctx, o.For)
	defer cancel()

	h := &hopper{q: q, o: o, cancel: cancel, record: make([]byte, max(1, o.StateBytes/o.Turns)), life: max(fewestHops, o.Turns)}
	for i := range h.record {
		h.record[i] = byte(i)
	}
	if err := h.seed(ctx, o.Live); err != nil {
		return nil, err
	}
	was, written := measure(), q.BytesWritten()
	err = h.run(ctx)
	is := measure()
	if err != nil {
		return nil, err
	}
	hops := float64(h.hops.Load())
	if hops == 0 {
		return nil, errors.New("bench hop: no hop in the time given")
	}
	return &HopResult{
		HopsPerS:  hops / is.at.Sub(was.at).Seconds(),
		CPUPerHop: float64((is.cpu - was.cpu).Microseconds()) / hops,
		Durable:   !o.Memory,
		State:     o.StateBytes,
		PerHop:    float64(q.BytesWritten()-written) / hops,
		Live:      o.Live,
		RSS:       PeakRSS(),
	}, nil
}

type hopper struct {
	q      *local.Queue
	o      HopOptions
	cancel context.CancelFunc
	record []byte
	life   int
	hops   atomic.Int64
	fed    int
}

func (h *hopper) seed(ctx context.Context, n int) error {
	seeds := make([]matrix.Seed, n)
	for i := range seeds {
		seeds[i] = matrix.Seed{Task: fmt.Sprint("task-", h.fed), Row: int64(h.fed), Role: "ping", Record: []byte("{}")}
		h.fed++
	}
	_, err := h.q.Seed(ctx, seeds, nil)
	return err
}

func (h *hopper) run(ctx context.Context) error {
	ended := make(chan int, 1024)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	wg.Go(func() { errs[0] = matrix.Consume(ctx, h.q, "ping", matrix.Slots(h.o.Live), h.to("pong")) })
	wg.Go(func() { errs[1] = matrix.Consume(ctx, h.q, "pong", matrix.Slots(h.o.Live), h.to("ping")) })
	wg.Go(func() {
		errs[2] = h.q.Collect(ctx, "done", 4096, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
			fates := make([]matrix.Fate, len(ms))
			for i := range fates {
				fates[i].Status = matrix.Done
			}
			return matrix.Settlement{Fates: fates, Then: func() {
				select {
				case ended <- len(ms):
				case <-ctx.Done():
				}
			}}, nil
		})
	})
	wg.Go(func() {
		for {
			select {
			case n := <-ended:
				if errs[3] = h.seed(ctx, n); errs[3] != nil {
					h.cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	wg.Wait()
	return errors.Join(errs...)
}

func (h *hopper) to(next string) matrix.Handler {
	return func(_ context.Context, m *matrix.Message) (matrix.Step, error) {
		if h.hops.Add(1) == h.o.Hops {
			h.cancel()
		}
		to := next
		if m.Hop == h.life-1 {
			to = "done"
		}
		return matrix.Step{Role: to, Priority: 1, Record: h.record}, nil
	}
}
