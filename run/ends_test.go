package run_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/run"
)

// graded is a flow of one step after which every fourth task is dropped, the next one
// stopped and the one after that failed.
func graded() run.Config {
	say := matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: t.ID}, nil
	})
	return run.Config{
		Source: numbered(200), Live: 20, Roles: map[string]matrix.Role{"say": {Agent: say}},
		Metrics: map[string]matrix.Metric{"one": func(*matrix.Task) (any, error) { return 1.0, nil }},
		Router: router(func(t *matrix.Task) matrix.Decision {
			if t.Last() == nil {
				return matrix.To("say")
			}
			n := 0
			fmt.Sscanf(t.ID, "r%d", &n)
			switch n % 4 {
			case 0:
				return matrix.Drop(fmt.Sprintf("score %d", n))
			case 1:
				d := matrix.Drop("stopped at say")
				d.Outcome.Stopped = "say"
				return d
			case 2:
				return matrix.Fail("bad")
			}
			return matrix.Finish(matrix.Value{})
		}),
	}
}

// Every end has its output, its count and its reasons, whenever the run is stopped.
func TestDropped(t *testing.T) {
	b := newBed(t)
	for sessions := 1; ; sessions++ {
		r, err := b.until(graded(), 60, func(r *run.Run, cancel func()) { cancel() })
		if a := b.verify(numbered(200), 1); !a.OK {
			t.Fatalf("session %d: %+v", sessions, a)
		}
		if err == nil {
			p := r.Progress()
			if p.Done != 50 || p.Dropped != 100 || p.Failed != 50 || p.Pending != 0 || p.Settled() != 200 || p.Metrics["one"].Count != 50 {
				t.Errorf("got %+v", p)
			}
			by := p.DroppedBy()
			slices.SortFunc(by, func(a, b run.CauseCount) int { return strings.Compare(a.Cause, b.Cause) })
			if len(by) != 2 || by[0].Cause != "score #" || by[0].Count != 50 || by[1].Cause != "stopped at say" || by[1].Count != 50 {
				t.Errorf("reasons: got %+v", by)
			}
			if sessions < 3 {
				t.Errorf("%d sessions: nothing was tested", sessions)
			}
			break
		}
		if !errors.Is(err, run.ErrStopped) {
			t.Fatal(err)
		}
	}
	if got := b.tasks("dropped"); len(got) != 100 || got["r8"].Outcome.Cause != "score 8" || len(got["r8"].Metrics) > 0 {
		t.Errorf("dropped/: %d tasks, r8 is %+v", len(got), got["r8"])
	}
	if a := b.verify(numbered(200), 1); a.Dropped != 100 || a.Done != 50 || a.Failed != 50 {
		t.Errorf("verify: %+v", a)
	}
}

// Without an output for them, dropped tasks are in the ledger alone, and no fault.
func TestDroppedNowhere(t *testing.T) {
	b := newBed(t)
	b.without = matrix.Dropped
	if p := b.run(graded()); p.Dropped != 100 {
		t.Errorf("got %+v", p)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "dropped")); err == nil {
		t.Error("there is a folder dropped/")
	}
	if a := b.verify(numbered(200), 1); !a.OK || a.Dropped != 100 {
		t.Errorf("verify: %+v", a)
	}
}

// In a run that was begun when what stop ended was kept, it still is.
func TestStopOfAnOlderRun(t *testing.T) {
	b := newBed(t)
	if _, err := b.until(graded(), 60, func(r *run.Run, cancel func()) { cancel() }); !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	before := len(b.tasks("data"))
	q := b.open()[0]
	feed, err := q.Checkpoint(context.Background(), "feed")
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(feed, &m); err != nil {
		t.Fatal(err)
	}
	m["version"] = 1
	feed, _ = json.Marshal(m)
	if _, err := q.Seed(context.Background(), nil, map[string][]byte{"feed": feed}); err != nil {
		t.Fatal(err)
	}
	q.(closer).Close()
	p := b.run(graded())
	if p.Dropped >= 100 || p.Done+p.Dropped != 150 || p.Done <= int64(before) {
		t.Errorf("got %d done and %d dropped", p.Done, p.Dropped)
	}
	kept := 0
	for _, x := range b.tasks("data") {
		if x.Outcome.Stopped != "" {
			kept++
			if x.Outcome.Cause != "" || x.Metrics["one"] == nil {
				t.Errorf("got %+v", x)
			}
		}
	}
	if kept == 0 {
		t.Error("nothing that stop ended was kept")
	}
	if a := b.verify(numbered(200), 1); !a.OK {
		t.Errorf("verify: %+v", a)
	}
}

// everyOther is a judge that keeps every other task, and remembers by its checkpoint.
type everyOther struct {
	N int `json:"n"`

	settled int
	seen    map[string]bool // of this session
	t       *testing.T
}

func (j *everyOther) Judge(_ context.Context, tasks []*matrix.Task) error {
	for _, x := range tasks {
		if x.Outcome.Status != matrix.Done || j.seen[x.ID] {
			j.t.Errorf("%s: judged as %+v, twice: %v", x.ID, x.Outcome, j.seen[x.ID])
		}
		j.seen[x.ID] = true
		if j.N++; j.N%2 == 0 {
			x.Outcome = matrix.Drop("every other").Outcome
		}
	}
	return nil
}

func (j *everyOther) Checkpoint() ([]byte, error)   { return json.Marshal(j) }
func (j *everyOther) Settled(context.Context) error { j.settled = j.N; return nil }

// A judge goes on where the last commit left it: what was judged and not committed is
// judged again.
func TestJudge(t *testing.T) {
	b := newBed(t)
	for sessions := 1; ; sessions++ {
		cfg := dialogue(1)
		var j *everyOther
		cfg.Judge = func(checkpoint []byte) (run.Judge, error) {
			j = &everyOther{seen: map[string]bool{}, t: t}
			if checkpoint != nil {
				return j, json.Unmarshal(checkpoint, j)
			}
			return j, nil
		}
		r, err := b.until(cfg, 60, func(r *run.Run, cancel func()) { cancel() })
		p := r.Progress()
		if p.Done+p.Dropped != int64(j.settled) || p.Done != (p.Done+p.Dropped+1)/2 {
			t.Fatalf("session %d: %d done, %d dropped, judged %d", sessions, p.Done, p.Dropped, j.settled)
		}
		if a := b.verify(cfg.Source, 1); !a.OK {
			t.Fatalf("%+v", a)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, run.ErrStopped) {
			t.Fatal(err)
		}
	}
	cfg := dialogue(1)
	cfg.Judge = func([]byte) (run.Judge, error) { return nil, nil }
	b.shards = 2
	qs := b.open()
	defer qs[0].(closer).Close()
	defer qs[1].(closer).Close()
	b.wire(&cfg, qs...)
	if _, err := run.New(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "one shard") {
		t.Errorf("two shards: got %v", err)
	}
}
