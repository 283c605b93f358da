package jinja

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
	"matrix/lang/internal/calc"
)

// toJSON is v as JSON, its keys in order and its numbers as Python writes them. With
// an indent above or of 0 each element has a line of its own.
func toJSON(v any, indent int) (string, error) {
	w := &jsonWriter{indent: indent, parts: calc.MaxParts}
	if err := w.value(v, 0); err != nil {
		return "", err
	}
	return w.b.String(), nil
}

type jsonWriter struct {
	b      strings.Builder
	indent int
	parts  int
}

func (w *jsonWriter) value(v any, depth int) error {
	if w.parts--; w.parts < 0 {
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
		return w.text(v)
	}
	if isList(v) {
		items, _ := itemsOf(v)
		return w.elements("[", "]", len(items), depth, func(i int) error { return w.value(items[i], depth+1) })
	}
	all, n, ok := fieldsOf(v)
	if !ok {
		return fmt.Errorf("%s is no JSON value", calc.Kind(v))
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
	slices.Sort(keys)
	return w.elements("{", "}", len(keys), depth, func(i int) error {
		if err := w.text(keys[i]); err != nil {
			return err
		}
		w.b.WriteString(": ")
		return w.value(values[keys[i]], depth+1)
	})
}

func (w *jsonWriter) text(s string) error {
	if w.b.Len()+len(s) > calc.MaxText {
		return calc.ErrTooLong
	}
	w.b.Write(jsontext.AppendString(nil, s))
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
