package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"matrix/internal/sim"
)

// possible is the least time, in seconds, in which the service could have done
// what it did: the same tries in the same order, each begun the moment that
//
//   - the row's try before has ended: with its work, or, if it hung, when the
//     client had waited for as long as it would;
//   - those before it in the order have begun;
//   - a slot is free, of all that were there and took calls at that time. A
//     replica that is down, or refuses every call, has none.
//
// Nothing else takes time: no pause before a row is tried again, no search for
// how many calls the service can hold, no question whether it is back. So it is
// at least the work over all slots, and at least what any one row's own tries
// add up to, from when those before it have left it a slot. What a fault
// refused takes no time; of a call that was cut, what it had worked; and what
// the client gave up with neither a fault nor a kill behind it is left out,
// since nobody had to send it.
func (o *ModelsOptions) possible(calls []sim.Entry) (float64, error) {
	space, err := o.space()
	if err != nil || len(calls) == 0 {
		return 0, err
	}
	begun := func(x *sim.Entry) float64 { return x.At + x.Waited }
	calls = slices.Clone(calls)
	slices.SortStableFunc(calls, func(a, b sim.Entry) int { return cmp.Compare(begun(&a), begun(&b)) })
	start := math.Inf(1)
	for i := range calls {
		start = min(start, calls[i].At)
	}
	var working []float64        // when each ends, in order
	over := map[string]float64{} // when the newest try of a row was
	now, last := 0.0, 0.0
	for i := range calls {
		x := &calls[i]
		row, _, _ := strings.Cut(x.Prompt, " round")
		if x.End == sim.EndGivenUp && x.Fault == "" && o.Kill == 0 {
			continue
		}
		now = max(now, over[row])
		if x.Worked > 0 {
			for {
				working = working[sort.Search(len(working), func(i int) bool { return working[i] > now }):]
				slots, next := space.at(now, x.At-start)
				if len(working) < slots {
					break
				}
				if len(working) > 0 {
					next = min(next, working[0])
				}
				if math.IsInf(next, 1) {
					return 0, fmt.Errorf("the log has a call at %.1f s that no replica could have taken", x.At-start)
				}
				now = next
			}
			end := now + x.Worked
			at, _ := slices.BinarySearch(working, end)
			working = slices.Insert(working, at, end)
		}
		took := x.Worked
		if x.Fault == sim.Stall || x.Fault == sim.Slow {
			took = x.Took - x.Waited
		}
		over[row] = now + took
		last = max(last, over[row])
	}
	return last, nil
}

// space is how many slots took calls, and when.
type space struct {
	replicas int
	slots    int
	steps    []sim.Step
	faults   []sim.Fault // that let no call through
}

func (o *ModelsOptions) space() (*space, error) {
	s := &space{replicas: max(1, o.Replicas), slots: o.Slots}
	for _, text := range o.Steps {
		var x sim.Step
		if err := x.UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		s.steps = append(s.steps, x)
	}
	slices.SortStableFunc(s.steps, func(a, b sim.Step) int { return int(a.At - b.At) })
	c := sim.Config{Replicas: s.replicas, Storm: o.Storm}
	for _, text := range o.Faults {
		var f sim.Fault
		if err := f.UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		c.Faults = append(c.Faults, f)
	}
	faults, err := c.Schedule()
	for _, f := range faults {
		if f.Kind == sim.Down || f.Share == 1 && (f.Kind == sim.Reject || f.Kind == sim.Error || f.Kind == sim.Reset) {
			s.faults = append(s.faults, f)
		}
	}
	return s, err
}

// at is how many slots take a call at a time, and when that changes next. The
// call came at a time of its own: what was there before a fault began to refuse
// calls is refused no more.
func (s *space) at(now, came float64) (slots int, next float64) {
	next = math.Inf(1)
	change := func(t time.Duration) {
		if at := t.Seconds(); at > now {
			next = min(next, at)
		}
	}
	each := s.slots
	for _, x := range s.steps {
		if change(x.At); x.At.Seconds() <= now {
			each = x.Slots
		}
	}
	for r := range s.replicas {
		open := true
		for i := range s.faults {
			f := &s.faults[i]
			change(f.From)
			change(f.Until)
			if f.Kind != sim.Down && came < f.From.Seconds() {
				continue
			}
			open = open && !f.Hits(r, time.Duration(now*float64(time.Second)))
		}
		if open {
			slots += each
		}
	}
	return slots, next
}

// readCalls reads the log of the simulator.
func readCalls(path string) (calls []sim.Entry, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var x sim.Entry
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, len(calls)+1, err)
		}
		calls = append(calls, x)
	}
	return calls, lines.Err()
}
