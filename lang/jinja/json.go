package jinja

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"matrix/internal/jsontext"
	"matrix/lang/internal/calc"
)

// jsonWriter writes a value as JSON, its numbers as Python writes them. With an
// indent of 0 or more each element has a line of its own.
type jsonWriter struct {
	indent   int
	ascii    bool // other characters are escaped
	unsorted bool // keys stay in their order
	b        strings.Builder
	parts    int
}

func (w *jsonWriter) text(v any) (string, error) {
	err := w.value(v, 0)
	return w.b.String(), err
}

func (w *jsonWriter) value(v any, depth int) error {
	if w.parts++; w.parts > calc.MaxParts {
		return fmt.Errorf("the value has more than %d parts", calc.MaxParts)
	}
	v = bare(v)
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
		return nil
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
		return nil
	case int, float64:
		s, err := show(v)
		w.b.WriteString(s)
		return err
	case string:
		return w.string(v)
	}
	if isList(v) {
		items, _ := itemsOf(v)
		return w.elements("[", "]", len(items), depth, func(i int) error { return w.value(items[i], depth+1) })
	}
	all, n, ok := fieldsOf(v)
	if !ok {
		return fmt.Errorf("%s is not a JSON value", calc.Kind(v))
	}
	keys, values := make([]string, 0, n), make(map[string]any, n)
	for k, e := range all {
		key, err := keyText(k)
		if err != nil {
			return err
		}
		if _, twice := values[key]; !twice {
			keys = append(keys, key)
		}
		values[key] = e
	}
	if !w.unsorted {
		slices.Sort(keys)
	}
	return w.elements("{", "}", len(keys), depth, func(i int) error {
		if err := w.string(keys[i]); err != nil {
			return err
		}
		w.b.WriteString(": ")
		return w.value(values[keys[i]], depth+1)
	})
}

func (w *jsonWriter) string(s string) error {
	if w.b.Len()+len(s) > calc.MaxText {
		return calc.ErrTooLong
	}
	quoted := jsontext.AppendString(nil, s)
	if !w.ascii {
		w.b.Write(quoted)
		return nil
	}
	for _, r := range string(quoted) {
		switch high, low := utf16.EncodeRune(r); {
		case r < utf8.RuneSelf:
			w.b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&w.b, `\u%04x`, r)
		default:
			fmt.Fprintf(&w.b, `\u%04x\u%04x`, high, low)
		}
	}
	return nil
}

func (w *jsonWriter) elements(begin, end string, n, depth int, one func(i int) error) error {
	w.b.WriteString(begin)
	for i := range n {
		if i > 0 {
			w.b.WriteString(map[bool]string{true: ", ", false: ","}[w.indent < 0])
		}
		if err := w.line(depth + 1); err != nil {
			return err
		}
		if err := one(i); err != nil {
			return err
		}
	}
	if n > 0 {
		if err := w.line(depth); err != nil {
			return err
		}
	}
	w.b.WriteString(end)
	return nil
}

// line begins a line, where each element has one.
func (w *jsonWriter) line(depth int) error {
	if w.indent < 0 {
		return nil
	}
	if err := calc.Fits(w.b.Len(), depth, w.indent); err != nil {
		return err
	}
	w.b.WriteString("\n" + strings.Repeat(" ", depth*w.indent))
	return nil
}
