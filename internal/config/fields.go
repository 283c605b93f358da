package config

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

var (
	sectionType  = reflect.TypeFor[*Section]()
	durationType = reflect.TypeFor[time.Duration]()
	rawType      = reflect.TypeFor[json.RawMessage]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// field is what the tags of a struct's field say: see Run.
type field struct {
	name     string
	index    []int
	typ      reflect.Type
	doc      string
	def      string // the default as text, or empty
	enum     []string
	required bool
	path     bool
	here     bool // a path of this machine alone
	secret   bool
	named    bool // secret where the names in it say so
	free     bool
	filled   bool
}

// fieldSet is a struct as the decoder sees it, inlined structs included.
type fieldSet struct {
	fields []field
	rest   *field // the inlined map that takes every other key, or nil
}

func (s *fieldSet) field(name string) (*field, bool) {
	for i := range s.fields {
		if s.fields[i].name == name {
			return &s.fields[i], true
		}
	}
	return nil, false
}

func (s *fieldSet) names() []string {
	out := make([]string, len(s.fields))
	for i := range s.fields {
		out[i] = s.fields[i].name
	}
	return out
}

// structOf reads the tags of t. Fields without a yaml tag are not part of the
// config, but for embedded structs, which are inlined.
func structOf(t reflect.Type) *fieldSet {
	out := &fieldSet{}
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("yaml")
		name, options, _ := strings.Cut(tag, ",")
		inline := strings.Contains(options, "inline") || sf.Anonymous && !tagged
		if !sf.IsExported() || name == "-" || !tagged && !inline {
			continue
		}
		f := field{
			name: name, index: []int{i}, typ: sf.Type,
			doc: sf.Tag.Get("doc"), def: sf.Tag.Get("default"),
			required: sf.Tag.Get("required") == "true",
			path:     sf.Tag.Get("path") == "true" || sf.Tag.Get("path") == "here",
			here:     sf.Tag.Get("path") == "here",
			secret:   sf.Tag.Get("secret") == "true",
			named:    sf.Tag.Get("secret") == "named",
			free:     sf.Tag.Get("free") == "true",
			filled:   sf.Tag.Get("filled") == "true",
		}
		if enum := sf.Tag.Get("enum"); enum != "" {
			f.enum = strings.Split(enum, ",")
		}
		switch {
		case inline && sf.Type.Kind() == reflect.Struct:
			in := structOf(sf.Type)
			for _, g := range in.fields {
				g.index = append([]int{i}, g.index...)
				out.fields = append(out.fields, g)
			}
			if in.rest != nil {
				rest := *in.rest
				rest.index = append([]int{i}, rest.index...)
				out.rest = &rest
			}
		case inline && sf.Type.Kind() == reflect.Map:
			out.rest = &f
		case name != "":
			out.fields = append(out.fields, f)
		}
	}
	return out
}

// isText reports whether a value of t may be written as one scalar that t reads
// itself.
func isText(t reflect.Type) bool {
	return t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(textType)
}

// longForm reports whether t, which reads a lone text itself, may be written out
// too, as a list or a map.
func longForm(t reflect.Type) bool {
	if k := t.Kind(); k == reflect.Slice {
		return isRecords(t)
	} else if k != reflect.Struct {
		return false
	}
	return len(structOf(t).fields) > 0
}

// isRecords reports whether t is a list of structs with keys: a lone map stands
// for a list of one.
func isRecords(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && len(structOf(t.Elem()).fields) > 0
}

// isStrings reports whether t is a list of texts: a lone text stands for a list
// of one.
func isStrings(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String
}
