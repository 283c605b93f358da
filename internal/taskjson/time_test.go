package taskjson

import (
	"testing"
	"time"
)

// A time is what the standard library makes of it with six digits.
func TestAppendTime(t *testing.T) {
	const layout = "2006-01-02T15:04:05.000000Z07:00"
	first := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, at := range []time.Time{
		first, first.Add(999999999), first.Add(1000), first.Add(120 * time.Millisecond), {},
		first.In(time.FixedZone("", 5*3600+30*60)), first.In(time.FixedZone("", -8*3600)).Add(7 * time.Microsecond),
	} {
		if got, want := string(appendTime([]byte("x"), at)), "x"+at.Format(layout); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func BenchmarkAppendTime(b *testing.B) {
	var buf []byte
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)
	for b.Loop() {
		buf = appendTime(buf[:0], at)
	}
}
