package jinja

import (
	"errors"
	"fmt"
	"math"

	"matrix/lang/internal/calc"
)

var numberFilters = map[string]filter{
	"abs": {f: func(_ *rendering, in any, _ *boundArgs) (any, error) {
		n, ok := calc.Number(in)
		if !ok {
			return nil, calc.NotNumber(in)
		}
		if f, _ := calc.Float(n); f < 0 {
			return calc.Signed("-", n)
		}
		return n, nil
	}},
	"int":            {max: 2, names: []string{"default", "base"}, f: toInt},
	"float":          {max: 1, names: []string{"default"}, f: toFloat},
	"filesizeformat": {max: 1, names: []string{"binary"}, notNull: true, f: fileSize},
	"round": {max: 2, names: []string{"precision", "method"}, f: func(_ *rendering, in any, g *boundArgs) (any, error) {
		n, ok := calc.Number(in)
		if !ok {
			return nil, calc.NotNumber(in)
		}
		f, _ := calc.Float(n)
		scale := math.Pow10(g.number(0, 0))
		method := g.text(1, "common")
		switch method {
		case "common":
			if i, ok := n.(int); ok {
				return calc.RoundWhole(i, g.number(0, 0))
			}
			return calc.RoundEven(f, g.number(0, 0)), nil
		case "ceil":
			f = math.Ceil(f*scale) / scale
		case "floor":
			f = math.Floor(f*scale) / scale
		default:
			return nil, fmt.Errorf("rounds common, ceil or floor, not %q", method)
		}
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, calc.ErrLarge
		}
		return f + 0, nil // which is never -0
	}},
}

// toInt is Jinja2's int: what is not a number in a text is the default, what is a
// number too large to keep an error; what is missing is one, too, unless a
// default is given.
func toInt(_ *rendering, in any, g *boundArgs) (any, error) {
	base := g.number(1, 10)
	if g.err != nil {
		return nil, g.err
	}
	switch v := in.(type) {
	case int:
		return v, nil
	case float64:
		return calc.Truncated(v)
	case bool:
		n, _ := calc.Number(v)
		return n, nil
	case string:
		if n, ok, err := calc.ParseInt(v, base); ok || err != nil {
			return n, err
		}
		f, ok, err := calc.ParseFloat(v)
		switch {
		case errors.Is(err, calc.ErrNotFinite) || err == nil && !ok:
			return orDefault(g, 0), nil
		case err != nil:
			return nil, err
		}
		return calc.Truncated(f)
	}
	if len(g.args) > 0 {
		return g.args[0], nil
	}
	return nil, calc.NotNumber(in)
}

func toFloat(_ *rendering, in any, g *boundArgs) (any, error) {
	if s, ok := in.(string); ok {
		f, ok, err := calc.ParseFloat(s)
		if err != nil {
			return nil, err
		}
		if !ok {
			return orDefault(g, 0.0), nil
		}
		return f, nil
	}
	if n, ok := calc.Number(in); ok {
		f, _ := calc.Float(n)
		return f, nil
	}
	if len(g.args) > 0 {
		return g.args[0], nil
	}
	return nil, calc.NotNumber(in)
}

func orDefault(g *boundArgs, otherwise any) any {
	if len(g.args) > 0 {
		return g.args[0]
	}
	return otherwise
}

// fileSize is a number of bytes as people write it.
func fileSize(_ *rendering, in any, g *boundArgs) (any, error) {
	var n float64
	if s, ok := in.(string); ok {
		var err error
		if n, ok, err = calc.ParseFloat(s); err != nil || !ok {
			return nil, errors.Join(err, calc.NotNumber(in))
		}
	} else if v, ok := calc.Number(in); ok {
		n, _ = calc.Float(v)
	} else {
		return nil, calc.NotNumber(in)
	}
	base, suffix := 1000.0, "B"
	prefixes := []string{"k", "M", "G", "T", "P", "E", "Z", "Y"}
	if g.flag(0) {
		base, suffix, prefixes[0] = 1024, "iB", "K"
	}
	switch {
	case n == 1:
		return "1 Byte", nil
	case n < base:
		return fmt.Sprintf("%.0f Bytes", math.Trunc(n)+0), nil
	}
	i := 0
	for n /= base; n >= base && i+1 < len(prefixes); i++ {
		n /= base
	}
	return fmt.Sprintf("%.1f %s%s", n, prefixes[i], suffix), nil
}
