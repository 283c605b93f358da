package lang

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"

	"matrix"
	"matrix/lang/internal/calc"
)

// hidden is the name under which a rewritten expression calls what a source
// text cannot name.
const (
	hiddenLookup = "@look"
	hiddenNeed   = "@need"
	hiddenTruth  = "@truth"
	hiddenAdd    = "@add"
	hiddenTick   = "@tick"
	hiddenSlice  = "@slice"
	hiddenCost   = "@cost"
	hiddenSum    = "@sum"
	hiddenMinus  = "@minus"
	hiddenEnv    = "$env"
)

// roleFunctions take a role, and leaseFunction a pool; a rewritten expression calls them as
// "@"+name, with the environment as first argument.
var roleFunctions = []string{"rounds", "turn", "first", "turns_of"}

const leaseFunction = "lease"

var comparisons = map[string]string{"<": "@lt", "<=": "@le", ">": "@gt", ">=": "@ge"}

// addFunctions adds the functions of the language to c. They keep nothing
// between calls.
func addFunctions(c *conf.Config) {
	add := func(name string, f func(a []any) (any, error), typ any) {
		types := []reflect.Type{reflect.TypeOf(typ).Elem()}
		c.Functions[name] = &builtin.Function{Name: name, Types: types, Func: func(a ...any) (any, error) {
			out, err := f(a)
			if err != nil && name[0] != '@' {
				err = fmt.Errorf("%s: %w", name, err)
			}
			return out, err
		}}
	}
	addRoles(add)
	add(leaseFunction, func([]any) (any, error) { return nil, fmt.Errorf("must not be called") }, new(func(string) any)) // calls are rewritten
	add("@"+leaseFunction, func(a []any) (any, error) { return leaseOf(a[0].(*env).task, a[1]) }, new(func(any, any) any))
	addSamplers(add)
	addHidden(add)
	addText(add)
	addValues(add)
	addNumbers(c)
}

type adder func(name string, f func(a []any) (any, error), typ any)

func addRoles(add adder) {
	never := func([]any) (any, error) { return nil, fmt.Errorf("must not be called") } // calls are rewritten
	add("rounds", never, new(func(string) int))
	add("turn", never, new(func(string) *turn))
	add("first", never, new(func(string) *turn))
	add("turns_of", never, new(func(string) []turn))
	role := func(v any) (string, error) {
		s, ok := v.(string)
		if !ok {
			return "", fmt.Errorf("want the name of a role, got %s", calc.Kind(v))
		}
		return s, nil
	}
	add("@rounds", func(a []any) (any, error) {
		r, err := role(a[1])
		return a[0].(*env).task.Rounds(r), err
	}, new(func(any, any) int))
	add("@turn", func(a []any) (any, error) {
		r, err := role(a[1])
		return orEmpty(newestTurn(a[0].(*env).task, r)), err
	}, new(func(any, any) *turn))
	add("@first", func(a []any) (any, error) {
		r, err := role(a[1])
		return orEmpty(oldestTurn(a[0].(*env).task, r)), err
	}, new(func(any, any) *turn))
	add("@turns_of", func(a []any) (any, error) {
		r, err := role(a[1])
		return turnsOf(a[0].(*env).task, r), err
	}, new(func(any, any) []turn))
}

// leaseOf is what the state of t in a pool says of itself.
func leaseOf(t *matrix.Task, pool any) (any, error) {
	name, ok := pool.(string)
	if !ok {
		return nil, fmt.Errorf("want the name of a pool, got %s", calc.Kind(pool))
	}
	v, ok := t.Leases[name]
	if !ok {
		return nil, fmt.Errorf("lease(%q) is known to what a role is given in a run: its prompts, tools and fields", name)
	}
	return v, nil
}

func addSamplers(add adder) {
	for name, s := range samplers {
		add(name, func([]any) (any, error) { return nil, fmt.Errorf("must not be called") }, s.typ) // calls are rewritten
		add("@"+name, func(a []any) (any, error) {
			out, err := s.call(a[0].(*env).random(), a[1:])
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			return out, err
		}, s.hidden)
	}
}

func addHidden(add adder) {
	add(hiddenLookup, func(a []any) (any, error) { return lookup(a[1], a[2]), a[0].(*env).reads(a[1]) }, new(func(any, any, any) any))
	add(hiddenNeed, func(a []any) (any, error) {
		if err := a[0].(*env).reads(a[1]); err != nil {
			return nil, err
		}
		return need(a[1], a[2], a[3].(string))
	}, new(func(any, any, any, string) any))
	add(hiddenTruth, func(a []any) (any, error) { return truth(a[0]) }, new(func(any) bool))
	add(hiddenAdd, func(a []any) (any, error) { return a[0].(*env).add(a[1], a[2]) }, new(func(any, any, any) any))
	add(hiddenTick, func(a []any) (any, error) { return a[1], a[0].(*env).Spend(calc.RoundWork) }, new(func(any, any) any))
	add(hiddenCost, func(a []any) (any, error) { return a[1], a[0].(*env).Spend(cost(a[1]) * a[2].(int)) }, new(func(any, any, int) any))
	add(hiddenSlice, func(a []any) (any, error) {
		if err := a[0].(*env).reads(a[1]); err != nil {
			return nil, err
		}
		return slice(a[1], a[2], a[3])
	}, new(func(any, any, any, any) any))
	add(hiddenSum, func(a []any) (any, error) { return total(a[0]) }, new(func(any) any))
	add(hiddenMinus, func(a []any) (any, error) {
		if d, ok := a[0].(time.Duration); ok {
			return -d, nil
		}
		if _, ok := calc.Float(a[0]); !ok {
			return nil, calc.NotNumber(a[0])
		}
		return calc.Signed("-", a[0])
	}, new(func(any) any))
	for op, name := range operators {
		if op != "+" && op != "^" {
			add(name, func(a []any) (any, error) { return calculate(op, a[0], a[1]) }, new(func(any, any) any))
		}
	}
	for op, holds := range map[string]func(c int) bool{
		"@lt": func(c int) bool { return c < 0 },
		"@le": func(c int) bool { return c <= 0 },
		"@gt": func(c int) bool { return c > 0 },
		"@ge": func(c int) bool { return c >= 0 },
	} {
		add(op, func(a []any) (any, error) {
			c, ok, err := order(a[0], a[1])
			return ok && holds(c), err
		}, new(func(any, any) bool))
	}
}

// addText adds the functions over texts. The table of templates is built from
// them as well.
func addText(add adder) {
	for name, f := range textFunctions() {
		add(name, f.call, f.typ)
	}
}

func addValues(add adder) {
	for name, f := range valueFunctions() {
		if f.value != nil {
			f.call = func(a []any) (any, error) {
				v, err := f.value(a)
				return v.Any(), err
			}
		}
		add(name, f.call, f.typ)
	}
}

// function is a helper that sees nothing but its arguments.
type function struct {
	call  func(a []any) (any, error)
	value func(a []any) (matrix.Value, error) // in the place of call: the JSON of the result
	typ   any                                 // pointer to a func type
	min   int                                 // arguments
	max   int
}

func textFunctions() map[string]function {
	one := func(f func(string) any) function {
		return function{min: 1, max: 1, typ: new(func(any) string), call: func(a []any) (any, error) {
			s, err := text(a[0])
			if err != nil {
				return nil, err
			}
			return f(s), nil
		}}
	}
	matching := func(f func(a []any, s string) (any, error), n int, typ any) function {
		return function{min: n, max: n, typ: typ, call: func(a []any) (any, error) {
			s, err := text(a[0])
			if err != nil {
				return nil, err
			}
			return f(a, s)
		}}
	}
	return map[string]function{
		"lower": one(func(s string) any { return lower(s) }),
		"upper": one(func(s string) any { return calc.Upper(s) }),
		"trim":  one(func(s string) any { return trim(s) }),
		"words": matching(func(_ []any, s string) (any, error) { return words(s) }, 1, new(func(any) []any)),
		"find": matching(func(a []any, s string) (any, error) {
			re, err := pattern(a[1])
			if err != nil {
				return nil, err
			}
			return find(s, re), nil
		}, 2, new(func(any, any) any)),
		"findall": matching(func(a []any, s string) (any, error) {
			re, err := pattern(a[1])
			if err != nil {
				return nil, err
			}
			return findAll(s, re)
		}, 2, new(func(any, any) []any)),
		"sub": matching(func(a []any, s string) (any, error) {
			re, err := pattern(a[1])
			if err != nil {
				return nil, err
			}
			by, err := text(a[2])
			if err != nil {
				return nil, err
			}
			return substitute(s, re, by)
		}, 3, new(func(any, any, any) string)),
		"replace": matching(func(a []any, s string) (any, error) {
			old, err := text(a[1])
			if err != nil {
				return nil, err
			}
			by, err := text(a[2])
			if err != nil {
				return nil, err
			}
			return replace(s, old, by)
		}, 3, new(func(any, any, any) string)),
		"split": matching(func(a []any, s string) (any, error) {
			sep, err := text(a[1])
			if err != nil {
				return nil, err
			}
			return split(s, sep)
		}, 2, new(func(any, any) []any)),
		"chunk": {min: 2, max: 4, typ: new(func(any, any, ...any) []any), call: chunkArgs},
		"lang":  one(func(s string) any { return language(s) }),
		"similarity": matching(func(a []any, s string) (any, error) {
			t, err := text(a[1])
			if err != nil {
				return nil, err
			}
			return similarity(s, t), nil
		}, 2, new(func(any, any) float64)),
	}
}

func valueFunctions() map[string]function {
	return map[string]function{
		"join": {min: 1, max: 2, typ: new(func(any, ...any) string), call: func(a []any) (any, error) {
			sep := ""
			if len(a) > 1 {
				var err error
				if sep, err = text(a[1]); err != nil {
					return nil, err
				}
			}
			return join(a[0], sep)
		}},
		"json": {min: 1, max: 1, typ: new(func(any) any), value: func(a []any) (matrix.Value, error) {
			s, err := text(a[0])
			if err != nil {
				return matrix.Value{}, err
			}
			return parseJSON(s)
		}},
		"extract_json": {min: 1, max: 1, typ: new(func(any) any), value: func(a []any) (matrix.Value, error) {
			s, err := text(a[0])
			if err == nil && tooManyValues(s) {
				err = calc.ManyParts("the JSON")
			}
			if err != nil {
				return matrix.Value{}, err
			}
			v, err := ExtractJSON(s, nil)
			if err != nil {
				return matrix.Value{}, nil //nolint:nilerr // nothing plain is nil
			}
			return v, nil
		}},
		"to_json": {min: 1, max: 1, typ: new(func(any) string), call: func(a []any) (any, error) { return toJSON(a[0], 0) }},
		"hash":    {min: 1, max: 1, typ: new(func(any) string), call: func(a []any) (any, error) { return hash(a[0]) }},
		"bucket": {min: 2, max: 2, typ: new(func(any, any) int), call: func(a []any) (any, error) {
			n, ok := a[1].(int)
			if !ok {
				return nil, fmt.Errorf("want a whole number of buckets, got %s", calc.Kind(a[1]))
			}
			return bucket(a[0], n)
		}},
	}
}

// environment lists the names of values in expressions and templates.
var environment = []string{"children", "id", "item", "last", "params", "parent", "row", "seed", "trial", "turns"}

func isRoleFunction(name string) bool { return slices.Contains(roleFunctions, name) }

// Reserved reports whether expressions and templates give a meaning of their own
// to a name, so that a local of that name could not be seen.
func Reserved(name string) bool {
	return slices.Contains(environment, name) && name != "children" && name != "parent" // which came later, and locals may hide
}
