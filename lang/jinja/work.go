package jinja

import "matrix/lang/internal/calc"

// textCost is what it takes to go through a text.
func textCost(s string) int { return len(s)/calc.TextWork + 1 }

// cost is what it takes to go through v once, not into what its elements hold.
func cost(v any) int {
	switch v := v.(type) {
	case string:
		return textCost(v)
	case safe:
		return textCost(string(v))
	case *List:
		return len(v.items) * calc.ElementWork
	case Tuple:
		return len(v) * calc.ElementWork
	case interface{ Len() int }:
		return v.Len() * calc.ElementWork
	}
	return 1
}

// deepCost is what it takes to go through v and all that it holds; it stops
// above most.
func deepCost(v any, most int) int {
	n := cost(v)
	if isList(v) {
		items, _ := itemsOf(v)
		for _, e := range items {
			if n > most {
				break
			}
			n += deepCost(e, most-n)
		}
	} else if all, _, ok := fieldsOf(v); ok {
		for _, e := range all {
			if n > most {
				break
			}
			n += deepCost(e, most-n)
		}
	}
	return n
}
