package lang

import (
	"errors"
	"reflect"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// One evaluation or rendering may do so much work, whatever it computes: some
// seconds at the most. The unit is what textWork bytes cost; an element of a
// list counts as elementWork, and a round of a loop or a call as roundWork.
const (
	maxWork     = 64 << 20
	textWork    = 4
	elementWork = 4
	roundWork   = 32

	regexpWork  = 8    // times that of a text, to search it by a regular expression
	patternWork = 1000 // times that of a text, to make a regular expression of it
)

var errWork = errors.New("it computes too much: loops over large lists or texts, inside of loops; give it less, or leave it to a command agent")

// cost is what it takes to go through v once, not into what its elements hold.
func cost(v any) int {
	switch v := v.(type) {
	case nil, bool, int, float64:
		return 1
	case string:
		return len(v)/textWork + 1
	case []any:
		return len(v) * elementWork
	case map[string]any:
		return len(v) * elementWork
	case *exec.Value:
		return cost(v.Interface())
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return r.Len() * elementWork
	case reflect.String:
		return r.Len()/textWork + 1
	}
	return 1
}

// filterCost is what a filter of that name takes over a value, going in or coming
// out: those that only look at its ends take nothing.
func filterCost(name string, v *exec.Value) int {
	switch name {
	case "length", "count", "first", "last", "default", "d", "random":
		return 1
	}
	return cost(v)
}

// operatorCost is what an operator takes over its two sides.
func operatorCost(op tokens.Type, a, b *exec.Value) int {
	if op == tokens.Equals || op == tokens.Ne || op == tokens.In {
		return deepCost(a, maxWork) + deepCost(b, maxWork)
	}
	return cost(a) + cost(b)
}

// deepCost is what it takes to go through v and all that it holds; it stops
// above most.
func deepCost(v any, most int) int {
	n := cost(v)
	switch v := v.(type) {
	case *exec.Value:
		return deepCost(v.Interface(), most)
	case []any:
		for _, e := range v {
			if n > most {
				break
			}
			n += deepCost(e, most-n)
		}
	case map[string]any:
		for _, e := range v {
			if n > most {
				break
			}
			n += deepCost(e, most-n)
		}
	}
	return n
}
