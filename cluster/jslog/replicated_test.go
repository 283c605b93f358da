package jslog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"matrix"
	"matrix/cluster/jslog"
	"matrix/local"
)

// The leader of the log goes, stops to be, and comes back, in the middle of all: nothing
// that was said to be durable is lost, nothing comes twice, and work goes on.
func TestLeaderGoes(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 3, 1<<20), 3, 100 * time.Millisecond}
	nc := o.connect(t, 1)
	q, err := o.queue(t, "x", local.Options{Memory: true, LogSlack: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	const tasks, hops = 300, 10
	var seeds []matrix.Seed
	for i := range tasks {
		seeds = append(seeds, matrix.Seed{Task: fmt.Sprint(i), Role: "a", Record: []byte("0")})
	}
	if n, err := q.Seed(t.Context(), seeds, nil); n != tasks || err != nil {
		t.Fatalf("seed: got %d, %v", n, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	told := map[string]int{} // hops of a task that are durable
	var all atomic.Int64
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			more := make(chan struct{}, 1)
			ts, err := q.Take(ctx, "a", 32, func() { more <- struct{}{} })
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("take: %v", err)
				}
				return
			}
			for _, x := range ts {
				m := x.Message()
				task, hop := m.Task, m.Hop+1
				role := "a"
				if hop >= hops {
					role = "end"
				}
				if err := x.Commit(matrix.Step{Role: role, Record: fmt.Append(nil, hop)}, func() {
					mu.Lock()
					defer mu.Unlock()
					if told[task]++; told[task] != hop {
						t.Errorf("hop %d of task %s is durable after %d", hop, task, told[task]-1)
					}
					all.Add(1)
				}); err != nil {
					t.Errorf("commit: %v", err)
				}
			}
			if len(ts) == 0 {
				select {
				case <-more:
				case <-ctx.Done():
				}
			}
		}
	})
	at := func(n int64) { until(t, fmt.Sprint(n, " hops"), func() bool { return all.Load() >= n }) }
	at(300)
	api(t, nc, "STREAM.LEADER.STEPDOWN.x", "")
	at(800)
	gone := o.leader(t, "x")
	o.all[gone].Shutdown()
	o.all[gone].WaitForShutdown()
	at(1600)
	o.run(t, gone)
	api(t, nc, "STREAM.LEADER.STEPDOWN.x", "")
	at(2400)
	api(t, nc, "STREAM.LEADER.STEPDOWN.x", "")
	at(tasks * hops)
	stop()
	work.Wait()

	// The next owner, while the former one still thinks that it is one.
	b := o.openOver(t, o.connect(t, 2), "x")
	defer b.Close()
	b2, err := local.Open("y", local.Options{Memory: true, Log: b})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: "late", Role: "a"}}, nil); !errors.Is(err, local.ErrFenced) {
		t.Errorf("seed of the former owner: got %v, want %v", err, local.ErrFenced)
	}
	if c := b2.Counts(); c.Live != tasks || c.Waiting["end"] != tasks {
		t.Errorf("the next owner has %+v, want %d tasks at their end", c, tasks)
	}
	for i := range tasks {
		m, ok, err := b2.Peek(t.Context(), fmt.Sprint(i))
		if err != nil || !ok || m.Hop != hops {
			t.Fatalf("task %d: got %+v, %v, %v", i, m, ok, err)
		}
		log, err := m.Log(t.Context(), 0)
		for hop, record := range log {
			if string(record) != fmt.Sprint(hop) {
				t.Fatalf("task %d has %q", i, log)
			}
		}
		if err != nil || len(log) != hops+1 {
			t.Fatalf("task %d has %d records, %v", i, len(log), err)
		}
	}
	if n, err := b2.Seed(t.Context(), []matrix.Seed{{Task: "next", Role: "a"}}, nil); n != 1 || err != nil {
		t.Errorf("seed of the next owner: got %d, %v", n, err)
	}
	if err := q.Close(); !errors.Is(err, local.ErrFenced) {
		t.Errorf("close of the former owner: got %v, want %v", err, local.ErrFenced)
	}
	if err := b2.Close(); err != nil {
		t.Error(err)
	}
}

// What one replica has lost or changed is read from another: see that a follower that
// lags is not believed either.
func TestReadsFromAll(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 3, 64<<10), 3, 100 * time.Millisecond}
	a := o.open(t, "x", nil)
	read(t, a)
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint(i))
	}
	add(t, a, want[:25]...)
	away := (o.leader(t, "x") + 1) % 3 // a follower misses the rest
	o.all[away].Shutdown()
	o.all[away].WaitForShutdown()
	add(t, a, want[25:]...)
	o.run(t, away)
	if !o.all[away].ReadyForConnections(time.Minute) {
		t.Fatal("the server does not come up")
	}
	for i := range 3 {
		l := o.openOver(t, o.connect(t, i), "x")
		if got := read(t, l); !slices.Equal(got, want) {
			t.Errorf("over server %d the log has %q", i, got)
		}
		l.Close()
	}
}

// The process of the log's leader is killed, time and again, while groups are under
// way: all that was said to be durable is there, in order, and once.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	if !full() {
		t.Skip("MATRIX_CLUSTER=full runs it: elections of some seconds")
	}
	rs, nc := remotes(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	options := jslog.Options{Stream: "x", Subject: "log.x", Replicas: 3}
	l, err := jslog.Open(ctx, nc, options)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	read(t, l)
	var want []string
	for round := range 4 {
		var waits []func() error
		for i := range 200 {
			g := fmt.Sprint(round, "/", i)
			want, waits = append(want, g), append(waits, l.Append([]byte(g)))
			if i == 100 {
				if err := waits[round]; err() != nil {
					t.Fatal(err())
				}
				cluster, _ := api(t, nc, "STREAM.INFO.x", "")["cluster"].(map[string]any)
				name, _ := cluster["leader"].(string)
				for _, r := range rs {
					if name == fmt.Sprint("n", r.Index) {
						if err := r.cmd.Process.Kill(); err != nil {
							t.Fatal(err)
						}
						r.run(t)
					}
				}
			}
		}
		begin := time.Now()
		for _, wait := range waits {
			if err := wait(); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("a leader was killed: %v until all was durable", time.Since(begin).Round(time.Millisecond))
	}
	next, err := jslog.Open(ctx, nc, options)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if got := read(t, next); !slices.Equal(got, want) {
		t.Errorf("the log has %d groups, want %d: %q", len(got), len(want), got)
	}
}
