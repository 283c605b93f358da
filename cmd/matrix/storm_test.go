package main

import (
	"os"
	"testing"
	"time"

	"matrix/internal/bench"
)

// TestStorms runs the program against a simulated model service that fails in
// the ways services do. Every row must come out right, none made up, in little
// more time than the faults leave possible. MATRIX_STORMS=full takes the whole
// storms, one after the other, of some minutes, and holds them to the goals;
// otherwise each is a quarter as long, with a service four times as fast, and
// all at once: what Matrix waits on its own account, such as the seconds between
// two looks at a service that is out, is not a quarter as long then.
func TestStorms(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	full := os.Getenv("MATRIX_STORMS") == "full"
	scale := time.Duration(4)
	if full {
		scale = 1
	} else {
		t.Parallel()
	}
	second := time.Second / scale
	bin := buildMatrix(t)
	at := func(spec, from, until string) string { return spec + "@" + from + "-" + until }
	d := func(seconds float64) string { return time.Duration(seconds * float64(second)).String() }
	base := bench.ModelsOptions{
		Exe: bin, Rows: 1500, Rounds: 3, Live: 1000, Prompt: 2048, Reply: 400,
		Slots: 200, Latency: 2 * second, Sigma: 0.6, Replicas: 1, Timeout: 20 * second, Seed: 1,
	}
	for _, x := range []struct {
		name    string
		change  func(o *bench.ModelsOptions)
		retries bool // there must have been some
	}{
		{name: "none", change: func(*bench.ModelsOptions) {}},
		{name: "429", retries: true, change: func(o *bench.ModelsOptions) {
			o.Faults = []string{at("reject:0.6", d(5), d(25)) + ",retry_after=" + d(1)}
			o.Change, o.Rows = 25*second, 3000 // enough to be seen full again
		}},
		{name: "outage", retries: true, change: func(o *bench.ModelsOptions) {
			o.Faults = []string{at("reset:0.5", d(10), d(15)), at("error", d(10), d(15)) + ",status=503"}
			o.Change, o.Rows = 15*second, 3000
		}},
		{name: "mixed", retries: true, change: func(o *bench.ModelsOptions) {
			o.Faults = []string{"stall:0.01", "truncate:0.02", "error:0.03"}
		}},
		{name: "minute", retries: true, change: func(o *bench.ModelsOptions) {
			o.Faults = []string{at("down", d(10), d(70))}
			o.Change, o.Rows = 70*second, 3000
		}},
		{name: "half", retries: true, change: func(o *bench.ModelsOptions) {
			o.Replicas, o.Slots, o.Rows = 4, 100, 3000
			o.Faults = []string{"down:0.5@" + d(10)}
			o.Change = 10 * second
		}},
		{name: "kill", change: func(o *bench.ModelsOptions) { o.Kill = 12 * second }},
	} {
		t.Run(x.name, func(t *testing.T) {
			if !full {
				t.Parallel()
			}
			o := base
			o.Dir = t.TempDir()
			x.change(&o)
			r, err := bench.Models(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d calls in %.1f s, %.2f of the %.1f s that were possible; full %.1f%%, again after %.1f s; %d retries, %d paid twice of %d in flight",
				r.Calls, r.Seconds, r.Seconds/r.Possible, r.Possible, 100*r.Share, r.Recover, r.Retries, r.Twice, r.InFlight)
			if r.Done != o.Rows || r.Missing != 0 || r.Wrong != 0 {
				t.Errorf("%d of %d rows are done, %d are missing, %d replies are wrong", r.Done, o.Rows, r.Missing, r.Wrong)
			}
			if x.retries && r.Retries == 0 {
				t.Error("nothing was tried twice: there was no storm")
			}
			if o.Kill > 0 && r.Twice > r.InFlight {
				t.Errorf("%d calls were paid twice, and %d were in flight", r.Twice, r.InFlight)
			}
			if r.Possible <= 0 || r.Possible > r.Seconds+0.3 { // the wall is read from spans of 0.1 s
				t.Errorf("%.1f s were possible, and it took %.1f s", r.Possible, r.Seconds)
			}
			limit, again := 1.15*r.Possible, 10.0 // Matrix looks at a service that is out every 5 s at most
			if !full {
				limit = 1.3*r.Possible + 4
			}
			if o.Kill > 0 {
				limit += 4 // until the second process is at work
			}
			if r.Seconds > limit {
				t.Errorf("it took %.1f s, want at most %.1f s: %.1f s are possible", r.Seconds, limit, r.Possible)
			}
			if o.Change > 0 && (r.Recover < 0 || r.Recover > again) {
				t.Errorf("the service was full again after %.1f s, want %.1f s", r.Recover, again)
			}
		})
	}
}
