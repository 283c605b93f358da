package run

import (
	"testing"
	"time"
)

func TestSuspensions(t *testing.T) {
	now := time.Now()
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	var s suspensions
	s.check(at(100 * time.Second))
	s.check(at(99800 * time.Millisecond)) // as it should be
	s.check(at(60 * time.Second))         // 39.55 s late
	s.check(at(59500 * time.Millisecond)) // late, by less than a second: a busy machine
	s.check(at(30 * time.Second))         // 29.25 s late; nobody has looked since
	for _, c := range []struct{ took, ended, want time.Duration }{
		{1 * time.Second, 100 * time.Second, 1 * time.Second},
		{100 * time.Second, 99 * time.Second, 99450 * time.Millisecond}, // began before anybody looked
		{41 * time.Second, 59500 * time.Millisecond, 1450 * time.Millisecond},
		{10 * time.Second, 65 * time.Second, 0},                         // within a suspension
		{100 * time.Second, 30 * time.Second, 31200 * time.Millisecond}, // over both
		{20 * time.Second, 0, 0},                                        // in the one that nobody has seen yet
		{30 * time.Second, 0, 250 * time.Millisecond},                   // all of it
		{130 * time.Second, 0, 130*time.Second - 39550*time.Millisecond - 29250*time.Millisecond - 29750*time.Millisecond},
	} {
		if got := s.running(c.took, at(c.ended)); (got - c.want).Abs() > 5*time.Millisecond {
			t.Errorf("%v until %v ago: ran %v of it, want %v", c.took, c.ended, got, c.want)
		}
		s.spans, s.alive = s.spans[:2], at(30*time.Second) // as before that look
	}
	if got := new(suspensions).running(time.Hour, now); got != time.Hour {
		t.Errorf("unwatched: ran %v of an hour", got)
	}
}
