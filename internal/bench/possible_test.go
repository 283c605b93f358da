package bench

import (
	"fmt"
	"math"
	"testing"
	"time"

	"matrix/internal/sim"
)

// What is possible is read from the order of the tries, what each took at the
// service, and when the service took calls.
func TestPossible(t *testing.T) {
	try := func(row, round int, at, worked float64) sim.Entry {
		return sim.Entry{Prompt: nameOf(row, round) + ".", At: at, Worked: worked, Took: worked, End: sim.EndDone}
	}
	with := func(x sim.Entry, f func(x *sim.Entry)) sim.Entry { f(&x); return x }
	hung := func(row int, at, worked float64) sim.Entry {
		return with(try(row, 0, at, worked), func(x *sim.Entry) { x.Fault, x.Took = sim.Stall, 20 })
	}
	refused := func(row int, at float64) sim.Entry {
		return with(try(row, 0, at, 0), func(x *sim.Entry) { x.Fault, x.Status, x.End = sim.Error, 503, sim.EndRefused })
	}
	var even []sim.Entry
	for i := range 10 {
		even = append(even, try(i, 0, float64(3*i), 2)) // slowly, one after the other
	}
	for _, c := range []struct {
		name  string
		o     ModelsOptions
		calls []sim.Entry
		want  float64
	}{
		{"no call", ModelsOptions{Slots: 2}, nil, 0},
		{"work over all slots", ModelsOptions{Slots: 2}, even, 10},
		{"and replicas", ModelsOptions{Slots: 1, Replicas: 5}, even, 4},
		{"a row's own rounds", ModelsOptions{Slots: 9}, []sim.Entry{try(0, 0, 0, 2), try(0, 1, 7, 3), try(1, 0, 8, 1)}, 5},
		{"the order of the tries", ModelsOptions{Slots: 1}, []sim.Entry{try(0, 0, 0, 2), try(1, 0, 3, 4), try(0, 1, 9, 3)}, 9},
		{"hung twice, in the slot for no longer than its work", ModelsOptions{Slots: 1},
			[]sim.Entry{hung(0, 1, 2), try(1, 0, 3, 30), hung(0, 25, 2), try(0, 0, 60, 2)}, 54},
		{"hung, and nothing else to do", ModelsOptions{Slots: 1}, []sim.Entry{hung(0, 0, 2), hung(0, 26, 2), try(0, 0, 53, 2)}, 42},
		{"the wait for a slot is not the fault's", ModelsOptions{Slots: 1},
			[]sim.Entry{with(hung(0, 0, 2), func(x *sim.Entry) { x.Waited = 5 }), try(0, 0, 30, 2)}, 17},
		{"no pause after an error", ModelsOptions{Slots: 1}, []sim.Entry{refused(0, 0), refused(0, 4), try(0, 0, 9, 2)}, 2},
		{"given up for nothing", ModelsOptions{Slots: 1},
			[]sim.Entry{with(try(0, 0, 0, 9), func(x *sim.Entry) { x.End = sim.EndGivenUp }), try(0, 0, 10, 2)}, 2},
		{"given up by a kill", ModelsOptions{Slots: 1, Kill: time.Second},
			[]sim.Entry{with(try(0, 0, 0, 1), func(x *sim.Entry) { x.End = sim.EndGivenUp }), try(0, 0, 10, 2)}, 3},
		{"an outage", ModelsOptions{Slots: 1, Storm: "outage@3s"}, []sim.Entry{try(0, 0, 0, 2), try(1, 0, 2, 2), refused(2, 5), try(2, 0, 9, 2)}, 10},
		{"what waits in the server when it begins is not refused", ModelsOptions{Slots: 1, Storm: "outage@3s"},
			[]sim.Entry{try(0, 0, 0, 4), with(try(1, 0, 1, 2), func(x *sim.Entry) { x.Waited = 4 })}, 6},
		{"a minute down", ModelsOptions{Slots: 1, Faults: []string{"down@3s-63s"}},
			[]sim.Entry{try(0, 0, 0, 2), with(try(1, 0, 2, 1), func(x *sim.Entry) { x.End = sim.EndCut }), try(2, 0, 65, 2), try(1, 0, 67, 2)}, 67},
		{"half of the replicas die", ModelsOptions{Slots: 1, Replicas: 2, Storm: "half@4s"}, even, 16},
		{"a share refused leaves all slots", ModelsOptions{Slots: 2, Storm: "429@0s"}, even, 10},
		{"a step", ModelsOptions{Slots: 1, Steps: []string{"9@4s"}}, even, 6},
	} {
		got, err := c.o.possible(c.calls)
		if err != nil || math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%s: got %v (%v), want %v", c.name, got, err, c.want)
		}
	}
	if got, err := (&ModelsOptions{Slots: 1, Faults: []string{"down"}}).possible(even); err == nil {
		t.Errorf("calls that no replica can have taken: got %v, want an error", got)
	}
	if got, err := (&ModelsOptions{Slots: 1, Storm: "hail"}).possible(even); err == nil {
		t.Errorf("a storm that is none: got %v, want an error", got)
	}
}

func BenchmarkPossible(b *testing.B) {
	var calls []sim.Entry
	for i := range 3000 {
		calls = append(calls, sim.Entry{Prompt: fmt.Sprintf("row %06d round 00 .", i), At: float64(i) / 100, Worked: 1 + float64(i%7), End: sim.EndDone})
	}
	o := ModelsOptions{Slots: 200, Storm: "outage@5s"}
	for b.Loop() {
		if _, err := o.possible(calls); err != nil {
			b.Fatal(err)
		}
	}
}
