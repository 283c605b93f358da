package config

import (
	"reflect"
	"strings"
)

// Reference is the config's keys as Markdown: one table for root, and one for
// each part.
func Reference(root any, parts ...Part) []byte {
	r := &referenceBuilder{}
	r.table(reflect.TypeOf(root), nil)
	for _, p := range parts {
		title := "`" + strings.ReplaceAll(p.At, "*", "NAME") + "`"
		if p.Kind != "" {
			title += ", kind `" + p.Kind + "`"
			if p.Default {
				title += " (the default)"
			}
		}
		r.b.WriteString("\n## " + title + "\n\n")
		if p.Doc != "" {
			r.b.WriteString(p.Doc + "\n\n")
		}
		r.table(reflect.TypeOf(p.Type), &p)
	}
	return []byte(r.b.String())
}

type referenceBuilder struct{ b strings.Builder }

// table writes the keys of t; p is the part that t is of, or nil.
func (r *referenceBuilder) table(t reflect.Type, p *Part) {
	for t != sectionType && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	r.b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
	r.rows(t, p, "", 0)
}

func (r *referenceBuilder) rows(t reflect.Type, p *Part, path string, depth int) {
	set := structOf(t)
	for i := range set.fields {
		f := &set.fields[i]
		at := Join(path, f.name)
		def := "`" + f.def + "`"
		switch {
		case f.required:
			def = "required"
		case f.def == "":
			def = ""
		}
		cells := []string{"`" + at + "`", f.kindName(), def, f.doc}
		if p != nil && p.Kind != "" && at == "kind" { // which of the parts that share the place
			cells[1] = "`" + p.Kind + "`"
			if !p.Default {
				cells[2] = "required"
			}
		}
		for j, c := range cells {
			cells[j] = strings.ReplaceAll(c, "|", `\|`)
		}
		r.b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		inner, suffix := f.typ, ""
		for {
			switch {
			case inner == sectionType || inner == rawType || depth > 8:
			case inner.Kind() == reflect.Pointer:
				inner = inner.Elem()
				continue
			case inner.Kind() == reflect.Map:
				inner, suffix = inner.Elem(), suffix+".NAME"
				continue
			case inner.Kind() == reflect.Slice:
				inner, suffix = inner.Elem(), suffix+"[]"
				continue
			case inner.Kind() == reflect.Struct && !isText(inner):
				r.rows(inner, p, at+suffix, depth+1)
			}
			break
		}
	}
}

// kindName is a type for the reference, without its article.
func (f *field) kindName() string {
	name := typeName(f.typ, f)
	if f.typ.Kind() == reflect.Map {
		name = "a map of names to " + map[bool]string{true: "settings", false: "values"}[f.typ.Elem() == sectionType || f.typ.Elem().Kind() == reflect.Struct]
	}
	if len(f.enum) > 0 {
		quoted := make([]string, len(f.enum))
		for i, e := range f.enum {
			quoted[i] = "`" + e + "`"
		}
		return strings.Join(quoted, ", ")
	}
	if f.secret {
		name += ", secret"
	}
	for _, article := range []string{"a ", "an "} {
		if rest, ok := strings.CutPrefix(name, article); ok {
			return rest
		}
	}
	return name
}
