package export

import (
	"maps"
	"slices"
)

// kind is a type of JSON.
type kind int

const (
	unknown kind = iota // nothing but null was seen
	boolean
	whole
	float
	text
	list
	object
)

func (k kind) String() string {
	return [...]string{"null", "true or false", "a number", "a number", "a text", "a list", "an object"}[k]
}

func kindOf(v any) kind {
	switch v.(type) {
	case nil:
		return unknown
	case bool:
		return boolean
	case int:
		return whole
	case float64:
		return float
	case string:
		return text
	case []any:
		return list
	}
	return object
}

// shape is the type of values that were seen, all of which it holds: whole numbers
// beside others are floats, and null is of any type.
type shape struct {
	kind   kind
	id     string            // of the task that was first of the kind
	elem   *shape            // of a list
	fields map[string]*shape // of an object
}

// add makes the shape hold v. The error is a TypeError.
func (s *shape) add(path string, v any, id string) error {
	switch k := kindOf(v); {
	case k == unknown:
		return nil
	case s.kind == unknown:
		s.kind, s.id = k, id
	case s.kind == k || s.kind == float && k == whole:
	case s.kind == whole && k == float:
		s.kind = float
	default:
		return &TypeError{path, s.kind.String(), k.String(), s.id, id}
	}
	switch v := v.(type) {
	case []any:
		if s.elem == nil {
			s.elem = &shape{}
		}
		for _, e := range v {
			if err := s.elem.add(path+"[]", e, id); err != nil {
				return err
			}
		}
	case map[string]any:
		if s.fields == nil {
			s.fields = map[string]*shape{}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			f := s.fields[name]
			if f == nil {
				f = &shape{}
				s.fields[name] = f
			}
			in := name
			if path != "" {
				in = path + "." + name
			}
			if err := f.add(in, v[name], id); err != nil {
				return err
			}
		}
	}
	return nil
}

// names are those of the fields, in the order of their columns.
func (s *shape) names() []string { return slices.Sorted(maps.Keys(s.fields)) }
