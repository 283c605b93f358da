package human

import (
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Commas(0), "0"}, {Commas(999), "999"}, {Commas(1000), "1,000"}, {Commas(-1234567), "-1,234,567"},
		{Decimal(0.1234), "0.12"}, {Decimal(12.34), "12.3"}, {Decimal(123.4), "123"}, {Decimal(12345.6), "12,346"}, {Decimal(0.00123), "0.0012"},
		{Pace(0), "-/s"}, {Pace(0.1), "10.0 s/task"}, {Pace(2), "2.00/s"},
		{Clock(9400 * time.Millisecond), "9s"}, {Clock(187 * time.Second), "3:07"}, {Clock(3723 * time.Second), "1:02:03"}, {Clock(50 * time.Hour), "2d 2h"},
		{Percent(999, 1000), "99%"}, {Percent(0, 0), "100%"}, {Plural(1, "task"), "1 task"}, {Plural(2, "task"), "2 tasks"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for ms, want := range map[float64]string{
		0: "0 ms", 0.05: "0.05 ms", 12.4: "12 ms", 999.4: "999 ms", 999.6: "1.0 s", 12345: "12.3 s",
		99_949: "99.9 s", 99_951: "1 m 39 s", 3_599_999: "59 m 59 s", 7_200_000: "2 h 00 m", 90_061_000: "25 h 01 m",
	} {
		if got := Duration(ms); got != want {
			t.Errorf("duration(%v) is %q, want %q", ms, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 950: "950", 12_345: "12.3k", 4_560_000: "4.56M", 20_000_000: "20.0M"} {
		if got := Short(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
