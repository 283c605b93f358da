package session

import (
	"testing"
	"time"

	"matrix/run"
)

func TestMeter(t *testing.T) {
	var m meter
	at := time.Unix(1000, 0)
	step := func(seconds int, done int64) float64 {
		at = at.Add(time.Duration(seconds) * time.Second)
		v := &Snapshot{Progress: run.Progress{Totals: run.Totals{Done: done}}}
		m.observe(at, v)
		return v.Rate
	}
	for _, c := range []struct {
		seconds int
		done    int64
		want    float64
	}{
		{0, 100, 0},     // what was done before is not ours
		{2, 120, 10},    // since the start
		{8, 200, 10},    //
		{10, 200, 4.44}, // nothing in the window: over more
		{10, 300, 10},   // 100 in the last 10 s
		{1000, 300, .1}, // since the sample before: about 200 in 1000 s
	} {
		got := step(c.seconds, c.done)
		if got < c.want*0.9 || got > c.want*1.1+0.1 {
			t.Errorf("%d done after %d s: got %v/s, want %v/s", c.done, c.seconds, got, c.want)
		}
	}
}
