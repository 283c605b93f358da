package config

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// Schema is the JSON Schema, draft 2020-12, of configs of root's type, for
// editors.
func Schema(root any, parts ...Part) []byte {
	b := &schemaBuilder{parts: parts}
	s := b.value(reflect.TypeOf(root), &field{}, "", 0)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Matrix run"
	s["$defs"] = object{"reference": object{
		"type": "string", "pattern": `\$\{.+\}`,
		"description": "A reference: ${key.path} or ${env:NAME,default}.",
	}}
	s["properties"].(object)["defaults"] = object{
		"type": "array", "items": object{"type": []string{"string", "object"}},
		"description": "Files that are merged into this one: names, group: option, and _self_ for this file.",
	}
	if required, ok := s["required"]; ok { // with defaults the keys may stand in other files
		delete(s, "required")
		s["if"] = object{"required": []string{"defaults"}}
		s["else"] = object{"required": required}
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // strings, lists and maps only
	}
	return append(out, '\n')
}

type object = map[string]any

type schemaBuilder struct{ parts []Part }

// value is the schema of a value of type t at path.
func (b *schemaBuilder) value(t reflect.Type, f *field, path string, depth int) object {
	if t.Kind() == reflect.Pointer && t != sectionType {
		t = t.Elem()
	}
	if depth > 20 {
		return object{}
	}
	switch {
	case t == sectionType:
		return b.section(path, depth)
	case t == durationType:
		return object{"type": []string{"string", "number"}, "examples": []string{"500ms", "60s", "1h30m"}}
	case t == rawType:
		return object{}
	case isText(t) && t.Kind() == reflect.Int:
		return object{"type": []string{"string", "integer"}}
	case isText(t) && !longForm(t):
		return object{"type": "string"}
	case isText(t) && t.Kind() == reflect.Struct:
		return object{"anyOf": []object{{"type": "string"}, b.fields(t, path, depth)}}
	case isRecords(t):
		item := b.value(t.Elem(), f, Join(path, "*"), depth+1)
		forms := []object{{"type": "array", "items": item}, item, {"$ref": "#/$defs/reference"}}
		if isText(t) {
			forms[2] = object{"type": "string"}
		}
		return object{"anyOf": forms}
	case isStrings(t):
		return object{"anyOf": []object{{"type": "string"}, {"type": "array", "items": object{"type": "string"}}}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return b.fields(t, path, depth)
	case reflect.Map:
		return object{"type": "object", "additionalProperties": b.value(t.Elem(), f, Join(path, "*"), depth+1)}
	case reflect.Slice:
		return orReference(object{"type": "array", "items": b.value(t.Elem(), f, Join(path, "*"), depth+1)})
	case reflect.String:
		if len(f.enum) > 0 {
			return orReference(object{"enum": f.enum})
		}
		return object{"type": "string"}
	case reflect.Bool:
		return orReference(object{"type": "boolean"})
	case reflect.Float32, reflect.Float64:
		return orReference(object{"type": "number"})
	case reflect.Interface:
		return object{}
	}
	s := object{"type": "integer"}
	if t.Kind() >= reflect.Uint {
		s["minimum"] = 0
	}
	return orReference(s)
}

func orReference(s object) object {
	return object{"anyOf": []object{s, {"$ref": "#/$defs/reference"}}}
}

func (b *schemaBuilder) fields(t reflect.Type, path string, depth int) object {
	set := structOf(t)
	properties := object{}
	var required []string
	for i := range set.fields {
		f := &set.fields[i]
		p := b.value(f.typ, f, Join(path, f.name), depth+1)
		if f.filled {
			p["not"] = object{"enum": []any{"", []any{}}}
		}
		if f.doc != "" {
			p["description"] = f.doc
		}
		if d := defaultValue(f); d != nil {
			p["default"] = d
		}
		if f.required {
			required = append(required, f.name)
		}
		properties[f.name] = p
	}
	out := object{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		out["required"] = required
	}
	if set.rest != nil {
		out["additionalProperties"] = b.value(set.rest.typ.Elem(), set.rest, Join(path, "*"), depth+1)
		known := false
		for _, p := range b.parts { // the names of parts are known: offer them
			if name := p.At[strings.LastIndexByte(p.At, '.')+1:]; p.At == Join(path, name) && name != "*" {
				properties[name] = b.section(p.At, depth+1)
				known = true
			}
		}
		if known {
			out["additionalProperties"] = false
		}
	}
	return out
}

// section is the schema of what the parts at path hold.
func (b *schemaBuilder) section(path string, depth int) object {
	var choices []object
	for _, p := range partsAt(b.parts, path) {
		s := b.value(reflect.TypeOf(p.Type), &field{}, path, depth+1)
		if p.Doc != "" {
			s["description"] = p.Doc
		}
		if properties, ok := s["properties"].(object); ok && p.Kind != "" {
			properties["kind"] = object{"const": p.Kind}
			if required, _ := s["required"].([]string); !p.Default && !slices.Contains(required, "kind") {
				s["required"] = append(required, "kind")
			}
		}
		choices = append(choices, s)
	}
	switch len(choices) {
	case 0:
		return object{}
	case 1:
		return choices[0]
	}
	return object{"anyOf": choices}
}

// defaultValue is the default of a field as JSON has it, nil when it has none
// that is a value of its type.
func defaultValue(f *field) any {
	if f.def == "" {
		return nil
	}
	n := &node{}
	n.setText(f.def)
	v := reflect.New(f.typ).Elem()
	d := &decoder{}
	if d.decode(n, v, f, ""); len(d.errs) > 0 {
		return nil
	}
	if f.typ.Kind() == reflect.String || n.kind == Null {
		return f.def
	}
	return n.value()
}
