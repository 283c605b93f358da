package run_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"matrix"
	"matrix/run"
)

// picky is a flow of two steps that keeps every third task, by its seed, and counts
// its calls.
func picky(rows, goal int) (run.Config, *atomic.Int64) {
	calls := new(atomic.Int64)
	say := matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		calls.Add(1)
		return matrix.Turn{Text: t.ID, Calls: []matrix.Call{{Name: "m"}}}, nil
	})
	return run.Config{
		Source: numbered(rows), Live: 40, Seed: 3,
		Roles: map[string]matrix.Role{"ask": {Agent: say}, "judge": {Agent: say}},
		Until: &run.Until{Kept: int64(goal)},
		Router: router(func(t *matrix.Task) matrix.Decision {
			switch last := t.Last(); {
			case last == nil:
				return matrix.To("ask")
			case last.Role == "ask":
				return matrix.To("judge")
			case t.Seed%3 != 0:
				return matrix.Drop("not liked")
			}
			return matrix.Finish(matrix.Value{})
		}),
	}, calls
}

// proven is what the bed's run came to, proven.
func (b *bed) proven(source matrix.Source, trials int) *run.Audit {
	b.t.Helper()
	a := b.verify(source, trials)
	if !a.OK {
		b.t.Fatalf("verify: %+v", a)
	}
	if got := len(b.tasks("data")); int64(got) != a.Done {
		b.t.Errorf("data/ has %d tasks, want %d", got, a.Done)
	}
	return a
}

// A run ends with exactly as many kept tasks as it is to have, little is asked
// beyond them, and a larger goal goes on.
func TestUntil(t *testing.T) {
	b := newBed(t)
	was := int64(0)
	for _, goal := range []int{1, 30, 31, 60} {
		cfg, calls := picky(1000, goal)
		p := b.run(cfg)
		a := b.proven(cfg.Source, 1)
		if p.Done != int64(goal) || a.Done != p.Done || !p.Finished || !p.Met || p.Live != 0 || a.Pending != 0 {
			t.Fatalf("goal %d: got %+v and %+v", goal, p, a)
		}
		if p.Unused != 1000-p.Fed || a.Unused != p.Unused || p.Pending != 0 || p.Total != 1000 {
			t.Errorf("goal %d: %d of %d fed, %d unused (%d by verify), %d pending", goal, p.Fed, p.Total, p.Unused, a.Unused, p.Pending)
		}
		surplus := p.Reasons[run.Surplus].Count
		if most := int64(20 + 10*goal); calls.Load() > most || surplus > 40 {
			t.Errorf("goal %d: %d calls, want %d at most; %d surplus", goal, calls.Load(), most, surplus)
		}
		if again := b.run(cfg); again.Done != p.Done || again.Fed != p.Fed {
			t.Errorf("goal %d: a run that is over went on: %+v", goal, again)
		}
		if was >= p.Fed {
			t.Errorf("goal %d: nothing was fed", goal)
		}
		was = p.Fed
	}
}

// What a run has under way that finds its goal met is dropped, also what waits for a retry.
func TestUntilCancels(t *testing.T) {
	b := newBed(t)
	cfg, _ := picky(100, 8)
	hang := make(chan struct{}, 100)
	cfg.Roles = map[string]matrix.Role{"ask": {Agent: matrix.AgentFunc(func(ctx context.Context, x *matrix.Task) (matrix.Turn, error) {
		switch x.ID {
		case "r0": // kept, once others hang
			for range 7 {
				<-hang
			}
			return matrix.Turn{Text: "good"}, nil
		case "r1": // comes back in an hour
			hang <- struct{}{}
			return matrix.Turn{}, &matrix.RetryError{Err: errors.New("later"), After: 1 << 42}
		}
		hang <- struct{}{}
		<-ctx.Done()
		return matrix.Turn{}, ctx.Err()
	})}}
	cfg.Router = router(func(x *matrix.Task) matrix.Decision {
		if x.Last() == nil {
			return matrix.To("ask")
		}
		return matrix.Finish(matrix.Value{})
	})
	cfg.Until.Kept = 8 // so that as many live; it is stopped with one of them
	kept := make(chan struct{})
	cfg.On = func(e run.Event) {
		if e.Kind == run.TaskSettled && e.Fate.Status == matrix.Done {
			close(kept)
		}
	}
	r, err := b.with(cfg, func(_ *run.Run, cancel func()) {
		<-kept
		cancel()
	})
	cfg.On = nil
	if !errors.Is(err, run.ErrStopped) || r.Progress().Done != 1 || r.Progress().Live == 0 {
		t.Fatalf("got %v and %+v", err, r.Progress())
	}
	cfg.Until.Kept = 1 // it is there already
	p := b.run(cfg)
	if a := b.proven(cfg.Source, 1); a.Done != 1 || a.Pending != 0 || a.Dropped != p.Reasons[run.Surplus].Count || a.Dropped == 0 {
		t.Errorf("got %+v and %+v", a, p)
	}
}

// A goal that the rows do not come to is an error that says how far they came; it is a
// run that has ended all the same.
func TestUntilMissed(t *testing.T) {
	b := newBed(t)
	cfg, _ := picky(60, 50)
	r, err := b.with(cfg, nil)
	var missed *run.GoalMissed
	if !errors.As(err, &missed) || missed.Goal != 50 || missed.Settled != 60 || missed.Kept != r.Progress().Done || missed.Kept < 5 {
		t.Fatalf("got %v", err)
	}
	if a := b.proven(cfg.Source, 1); a.Pending != 0 || a.Unused != 0 {
		t.Errorf("got %+v", a)
	}
	if _, err = b.with(cfg, nil); !errors.As(err, &missed) {
		t.Errorf("again: got %v", err)
	}
	cfg, _ = picky(200, 50)
	cfg.AcceptChanges = true
	if p := b.run(cfg); p.Done != 50 {
		t.Errorf("with more rows: got %d", p.Done)
	}
}

// So many of each kind: rows of a kind that is full are not fed.
func TestUntilPer(t *testing.T) {
	cfg, _ := picky(600, 7)
	kind := func(item matrix.Value) (string, error) {
		return fmt.Sprint(item.Any().(map[string]any)["n"].(int) % 4), nil
	}
	for sessions := range 3 {
		b := newBed(t)
		cfg.Until = &run.Until{Kept: 7, Per: kind}
		for range sessions { // stopped meanwhile
			if _, err := b.until(cfg, 40, func(r *run.Run, cancel func()) { cancel() }); !errors.Is(err, run.ErrStopped) {
				t.Fatal(err)
			}
			b.proven(cfg.Source, 1)
		}
		p := b.run(cfg)
		per := map[string]int{}
		for _, x := range b.tasks("data") {
			k, _ := kind(x.Item)
			per[k]++
		}
		a := b.proven(cfg.Source, 1)
		if p.Done != 28 || len(per) != 4 || per["0"] != 7 || per["3"] != 7 || a.Pending != 0 || a.Unused != p.Unused || p.Unused != 600-p.Fed {
			t.Errorf("got %v: %+v and %+v", per, p, a)
		}
		cfg.Until = &run.Until{Kept: 400, Per: kind}
		var missed *run.GoalMissed
		if _, err := b.with(cfg, nil); !errors.As(err, &missed) || missed.Kinds != 4 || len(missed.Short) != 4 {
			t.Errorf("got %v", err)
		}
	}
}

// Rows come again, as new trials, until there is enough, or they have come as often as they
// may.
func TestUntilAgain(t *testing.T) {
	b := newBed(t)
	cfg, _ := picky(10, 20)
	cfg.Until.Again, cfg.Trials = true, 50
	if _, err := b.until(cfg, 50, func(r *run.Run, cancel func()) { cancel() }); !errors.Is(err, run.ErrStopped) {
		t.Fatal(err)
	}
	b.proven(cfg.Source, 50)
	p := b.run(cfg)
	a := b.proven(cfg.Source, 50)
	if p.Done != 20 || a.Done != 20 || a.Pending != 0 || p.Pending != 0 || p.Fed <= 40 {
		t.Errorf("got %+v and %+v", p, a)
	}
	cfg.Trials = 2 // less than there were
	if _, err := run.New(context.Background(), func() run.Config {
		c := cfg
		qs := b.open()
		t.Cleanup(func() { qs[0].(closer).Close() })
		b.wire(&c, qs...)
		return c
	}()); err == nil {
		t.Error("fewer trials than there were: no error")
	}

	b = newBed(t)
	cfg, _ = picky(10, 20)
	cfg.Until.Again, cfg.Trials = true, 2
	var missed *run.GoalMissed
	if _, err := b.with(cfg, nil); !errors.As(err, &missed) || missed.Settled != 20 || !missed.Again {
		t.Fatalf("got %v", err)
	}
	cfg.Trials = 50
	if p := b.run(cfg); p.Done != 20 || p.Fed <= 20 {
		t.Errorf("with more trials: got %+v", p)
	}
	b.proven(cfg.Source, 50)
}

// Whenever the power fails, the run ends with exactly as many as it is to have.
func TestUntilPowerLoss(t *testing.T) {
	losses := 0
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 5))
		mem := vfs.NewCrashableMem()
		b := &bed{t: t, fs: mem, dir: "/run"}
		for loss := 0; ; loss++ {
			cfg, _ := picky(300, 40)
			if seed%2 == 1 {
				cfg, _ = picky(8, 40)
				cfg.Until.Again, cfg.Trials = true, 100
			}
			cfg.Live = 15
			turns := int64(1 + r.IntN(120))
			var image *vfs.MemFS
			_, err := b.until(cfg, turns, func(*run.Run, func()) {
				image = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 40, RNG: r})
			})
			if err != nil {
				t.Fatal(err)
			}
			if image == nil || loss == 30 { // it came to its end before
				break
			}
			losses++
			mem = image
			b.fs = mem
		}
		cfg, _ := picky(300, 40)
		trials := 1
		if seed%2 == 1 {
			cfg, _ = picky(8, 40)
			trials = 100
		}
		if a := b.proven(cfg.Source, trials); a.Done != 40 || a.Pending != 0 {
			t.Errorf("seed %d: got %+v", seed, a)
		}
	}
	if losses < 4 {
		t.Errorf("the power failed %d times: nothing was tested", losses)
	}
}

// What needs one order of settling needs one shard.
func TestUntilRefuses(t *testing.T) {
	for name, change := range map[string]func(*run.Config, *bed){
		"one shard":  func(_ *run.Config, b *bed) { b.shards = 2 },
		"at least 1": func(c *run.Config, _ *bed) { c.Until.Kept = 0 },
	} {
		b := newBed(t)
		cfg, _ := picky(10, 1)
		change(&cfg, b)
		qs := b.open()
		b.wire(&cfg, qs...)
		_, err := run.New(context.Background(), cfg)
		for _, q := range qs {
			q.(closer).Close()
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
