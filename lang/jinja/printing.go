package jinja

import (
	"fmt"
	"strconv"
	"strings"

	"matrix/lang/internal/calc"
)

// show is v as templates print it: as Python does, but nothing for None alone.
func show(v any) (string, error) {
	switch v := bare(v).(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case int:
		return strconv.Itoa(v), nil
	default:
		var b strings.Builder
		parts := calc.MaxParts
		err := repr(&b, v, &parts)
		return b.String(), err
	}
}

// repr writes v as Python's repr does.
func repr(b *strings.Builder, v any, parts *int) error {
	if *parts--; *parts < 0 {
		return fmt.Errorf("the value has more than %d parts", calc.MaxParts)
	}
	if b.Len() > calc.MaxText {
		return calc.ErrTooLong
	}
	v = bare(v)
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
		return nil
	case string:
		b.WriteString(quoted(v))
		return nil
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[v])
		return nil
	case int:
		b.WriteString(strconv.Itoa(v))
		return nil
	case float64:
		b.WriteString(floatText(v))
		return nil
	}
	if isList(v) {
		items, _ := itemsOf(v)
		begin, end := "[", "]"
		if _, ok := v.(Tuple); ok {
			begin, end = "(", ")"
			if len(items) == 1 {
				end = ",)"
			}
		}
		b.WriteString(begin)
		for i, e := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := repr(b, e, parts); err != nil {
				return err
			}
		}
		b.WriteString(end)
		return nil
	}
	all, _, ok := fieldsOf(v)
	if !ok {
		return fmt.Errorf("%s cannot be printed", calc.Kind(v))
	}
	b.WriteByte('{')
	first := true
	for k, e := range all {
		if !first {
			b.WriteString(", ")
		}
		first = false
		if err := repr(b, k, parts); err != nil {
			return err
		}
		b.WriteString(": ")
		if err := repr(b, e, parts); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

// floatText is a number as Python prints it.
func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'e', -1, 64)
	_, exponent, _ := strings.Cut(s, "e")
	if n, err := strconv.Atoi(exponent); err != nil || n < -4 || n >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

var pythonEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// quoted is s between quotes, as Python prints it inside a list.
func quoted(s string) string {
	s = pythonEscapes.Replace(s)
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `\'`) + "'"
}
