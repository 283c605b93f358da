package taskjson

import (
	"strings"
	"testing"
	"time"

	"matrix"
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

func BenchmarkAppendTask(b *testing.B) {
	t := &matrix.Task{ID: "17", Row: "17", Seed: 1880731325, Item: matrix.RawValue([]byte(`{"question_id":17,"question":"why"}`)), Outcome: &matrix.Outcome{Status: "done"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)
	for i := range 8 {
		x := matrix.Turn{Role: "teacher", Text: strings.Repeat("a word or two ", 70), Hop: i, Timing: matrix.Timing{At: at, QueuedMS: 0.017, TookMS: 1.234, Attempts: 1}}
		if i%4 > 1 {
			x.Text, x.Data = "", matrix.RawValue([]byte(`{"agree":true}`))
		}
		t.Turns = append(t.Turns, x)
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendTask(buf[:0], t)
	}
	b.SetBytes(int64(len(buf)))
}
