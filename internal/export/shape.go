package export

import (
	"bytes"
	"encoding/json"
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
	order  []string          // of the fields, where it is known: see addRow
	json   bool              // texts are JSON, and columns say so
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

// merge makes the shape hold what another one holds, of later rows. The error is a
// TypeError.
func (s *shape) merge(path string, o *shape) error {
	switch {
	case o.kind == unknown:
		return nil
	case s.kind == unknown:
		s.kind, s.id = o.kind, o.id
	case s.kind == o.kind || s.kind == float && o.kind == whole:
	case s.kind == whole && o.kind == float:
		s.kind = float
	default:
		return &TypeError{path, s.kind.String(), o.kind.String(), s.id, o.id}
	}
	if o.elem != nil {
		if s.elem == nil {
			s.elem = &shape{}
		}
		if err := s.elem.merge(path+"[]", o.elem); err != nil {
			return err
		}
	}
	for _, name := range o.names() {
		if s.fields == nil {
			s.fields = map[string]*shape{}
		}
		if s.fields[name] == nil {
			s.fields[name] = &shape{}
		}
		if err := s.fields[name].merge(path+"."+name, o.fields[name]); err != nil {
			return err
		}
	}
	return nil
}

// shapeJSON is a shape as it is kept in a file.
type shapeJSON struct {
	Kind   kind
	ID     string
	Elem   *shape            `json:",omitempty"`
	Fields map[string]*shape `json:",omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (s *shape) MarshalJSON() ([]byte, error) {
	return json.Marshal(shapeJSON{s.kind, s.id, s.elem, s.fields})
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *shape) UnmarshalJSON(b []byte) error {
	var j shapeJSON
	err := json.Unmarshal(b, &j)
	s.kind, s.id, s.elem, s.fields = j.Kind, j.ID, j.Elem, j.Fields
	return err
}

// addRow makes the shape hold a row, an object of which raw is the JSON: its fields stand
// in the order in which rows have them.
func (s *shape) addRow(raw []byte, v any, id string) error {
	known := len(s.fields)
	if err := s.add("", v, id); err != nil || len(s.fields) == known {
		return err
	}
	for _, name := range keysOf(raw) {
		if !slices.Contains(s.order, name) {
			s.order = append(s.order, name)
		}
	}
	return nil
}

// keysOf are the keys of an object, as they stand in it.
func keysOf(raw []byte) (keys []string) {
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token()
	for d.More() {
		key, err := d.Token()
		name, ok := key.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			return keys // it was JSON
		}
		keys = append(keys, name)
	}
	return keys
}

// markJSON says of tools and of arguments of calls that they are JSON.
func (s *shape) markJSON(name, in string) {
	switch {
	case s.elem != nil:
		s.elem.markJSON(name, in)
	case s.kind == text:
		s.json = name == "tools" && in == "" || name == "arguments" && in == "function"
	}
	for field, f := range s.fields {
		f.markJSON(field, name)
	}
}

// names are those of the fields, in the order of their columns.
func (s *shape) names() []string {
	if s.order != nil {
		return s.order
	}
	return slices.Sorted(maps.Keys(s.fields))
}
