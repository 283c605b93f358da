package lang

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"matrix"
	"matrix/lang/internal/calc"
)

// samplers are the functions that choose at random. An expression or template chooses the
// same each time for the same task and turn, and each one on its own: which source text it is,
// and the how-manieth field of its agent, are part of the seed.
var samplers = map[string]struct {
	call     func(r *rand.Rand, a []any) (any, error)
	typ      any // as expressions see it
	hidden   any // with the environment
	min, max int
}{
	"pick":         {pick, new(func(any, ...any) any), new(func(any, any, ...any) any), 1, 2},
	"draw":         {draw, new(func(any, any) []any), new(func(any, any, any) []any), 2, 2},
	"gauss":        {gauss, new(func(any, any) float64), new(func(any, any, any) float64), 2, 2},
	"date_between": {dateBetween, new(func(any, any) string), new(func(any, any, any) string), 2, 2},
}

func isSampler(name string) bool {
	_, ok := samplers[name]
	return ok
}

// seeded is what a source text chooses by, for a task as it is now. A row that is no task yet
// is known by its place.
func seeded(t *matrix.Task, src string, field int) *rand.Rand {
	h := fnv.New64a()
	for _, part := range []string{src, strconv.Itoa(field), t.Row, strconv.Itoa(t.Trial)} {
		_, _ = h.Write([]byte(part + "\x00"))
	}
	return rand.New(rand.NewPCG(uint64(t.Seed)^h.Sum64(), uint64(len(t.Turns)))) //nolint:gosec // nothing secret
}

// pick is an element of a list, each as likely as its weight says, or as the others.
func pick(r *rand.Rand, a []any) (any, error) {
	list, err := listOf(a[0])
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("there is nothing to pick: the list is empty")
	}
	if len(a) < 2 {
		return list[r.IntN(len(list))], nil
	}
	weights, err := listOf(a[1])
	if err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	if len(weights) != len(list) {
		return nil, fmt.Errorf("there are %d weights for %d elements", len(weights), len(list))
	}
	sum := 0.0
	for _, w := range weights {
		f, ok := calc.Float(w)
		if !ok || !(f >= 0) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("a weight is %v, want a number that is not negative", w)
		}
		sum += f
	}
	if sum == 0 || math.IsInf(sum, 0) {
		return nil, fmt.Errorf("the weights sum to %v", sum)
	}
	at, last := r.Float64()*sum, 0
	for i, w := range weights {
		f, _ := calc.Float(w)
		if f == 0 {
			continue
		}
		if at -= f; at < 0 {
			return list[i], nil
		}
		last = i
	}
	return list[last], nil
}

// draw is n elements of a list, or all where there are fewer, in the order in which they
// were drawn; none twice.
func draw(r *rand.Rand, a []any) (any, error) {
	list, ok := a[0].([]any) // as it is: a pool is large
	if !ok {
		var err error
		if list, err = listOf(a[0]); err != nil {
			return nil, err
		}
	}
	n, ok := a[1].(int)
	if !ok || n < 0 {
		return nil, fmt.Errorf("want a whole number of elements, 0 or more, got %v", a[1])
	}
	drawn := make([]any, 0, min(n, len(list)))
	moved := map[int]int{} // what a shuffle in place would have moved there
	at := func(i int) int {
		if k, ok := moved[i]; ok {
			return k
		}
		return i
	}
	for i := range cap(drawn) {
		k := i + r.IntN(len(list)-i)
		drawn = append(drawn, list[at(k)])
		moved[k] = at(i)
	}
	return drawn, nil
}

func listOf(v any) ([]any, error) {
	parts := calc.MaxParts
	p, err := plain(v, &parts)
	if err != nil {
		return nil, err
	}
	l, ok := p.([]any)
	if !ok {
		return nil, fmt.Errorf("want a list, got %s", calc.Kind(v))
	}
	return l, nil
}

// gauss is a number of a normal distribution.
func gauss(r *rand.Rand, a []any) (any, error) {
	mean, ok := calc.Float(a[0])
	sd, too := calc.Float(a[1])
	if !ok || !too || sd < 0 || math.IsInf(mean, 0) || math.IsInf(sd, 0) || math.IsNaN(mean) || math.IsNaN(sd) {
		return nil, fmt.Errorf("want a mean and a standard deviation that is not negative, got %v and %v", a[0], a[1])
	}
	return mean + sd*r.NormFloat64(), nil
}

// dateBetween is a day, or where both are given with a time a second, from one to another, both included.
func dateBetween(r *rand.Rand, a []any) (any, error) {
	for _, form := range []struct {
		layout string
		unit   int64 // in seconds
	}{{time.DateOnly, 24 * 60 * 60}, {time.RFC3339, 1}} {
		from, err := parsedDate(a[0], form.layout)
		to, err2 := parsedDate(a[1], form.layout)
		if err != nil || err2 != nil {
			continue
		}
		n := (to.Unix() - from.Unix()) / form.unit
		if n < 0 {
			return nil, fmt.Errorf("%v comes after %v", a[0], a[1])
		}
		return time.Unix(from.Unix()+r.Int64N(n+1)*form.unit, 0).In(from.Location()).Format(form.layout), nil
	}
	return nil, fmt.Errorf("want two days as 2026-01-31, or two times as 2026-01-31T12:00:00Z, got %v and %v", a[0], a[1])
}

func parsedDate(v any, layout string) (time.Time, error) {
	s, ok := v.(string)
	if !ok {
		return time.Time{}, errors.New("no text")
	}
	return time.Parse(layout, s)
}
