package estimate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/dataset"
	"matrix/internal/human"
	"matrix/internal/jsontext"
	"matrix/internal/printable"
	"matrix/registry"
)

// fields are those of output lines, and what of them readers cannot take
// that want one type for each field.
type fields struct {
	kinds map[string]sighting // of a field, by its path
	names map[string]sighting // of a field, by its path with the name in lower case
	told  map[string]bool
	notes []string
}

// sighting is what was seen first, and where.
type sighting struct{ what, where string }

const (
	fieldRows  = 1000 // how many rows are looked at
	fieldNotes = 10   // how many notes there are at most
)

// faults says what readers may not take of the output of p: of what schemas say,
// of its first rows, and of tasks.
func faults(ctx context.Context, p *registry.Plan, tasks []*matrix.Task) ([]string, error) {
	c := &fields{kinds: map[string]sighting{}, names: map[string]sighting{}, told: map[string]bool{}}
	for _, name := range p.RoleOrder() {
		if m, ok := p.Roles[name].Agent.(agent.TurnDescriber); ok {
			if schema, _ := m.TurnInfo().Schema.(map[string]any); schema["properties"] != nil { // else data is in a frame
				c.schema(schema, "turns[].data", "role "+name)
			}
		}
	}
	src := dataset.First(p.Source, fieldRows)
	err := src.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		if row.Err == nil {
			c.line(&matrix.Task{Item: row.Item}, "row "+rowName(row))
		}
		return nil
	})
	for _, t := range tasks {
		c.line(&matrix.Task{Outcome: t.Outcome}, "the outcome of row "+t.Row)
		for i := range t.Turns {
			c.line(&matrix.Task{Turns: t.Turns[i : i+1]}, fmt.Sprintf("role %s in row %s", t.Turns[i].Role, t.Row))
		}
	}
	if more := len(c.notes) - fieldNotes; more > 0 {
		c.notes = append(c.notes[:fieldNotes], fmt.Sprintf("Warning: likewise %s.", human.Plural(int64(more), "other field")))
	}
	return c.notes, err
}

// rowName is what a row is called.
func rowName(row matrix.Row) string {
	if row.ID != "" {
		return row.ID
	}
	return row.Address
}

func (c *fields) line(t *matrix.Task, where string) {
	r := jsontext.New(string(dataset.AppendTask(nil, t)))
	c.value(&r, "", where)
}

// value reads a value of a line.
func (c *fields) value(r *jsontext.Reader, path, where string) {
	kind := "a number"
	switch r.Next() {
	case '{':
		kind = "an object"
		for key := range r.Object {
			c.value(r, c.field(path, key, where), where)
		}
	case '[':
		kind = "a list"
		n, null := 0, false
		for range r.List {
			switch is := r.Next() == 'n'; {
			case n == 0:
				null = is
			case null && !is:
				c.note(path+"[0]", fmt.Sprintf("%s (%s) is a list that begins with null: pyarrow, and datasets with it, may read other values (apache/arrow#51305).", path, where))
			}
			n++
			c.value(r, path+"[]", where)
		}
	case 'n':
		kind = "" // it has any type
		r.Skip()
	case '"':
		kind = "a text"
		r.Skip()
	case 't', 'f':
		kind = "true or false"
		r.Skip()
	default:
		r.Skip()
	}
	c.kind(path, kind, where)
}

// kind notes what a field is.
func (c *fields) kind(path, kind, where string) {
	first, ok := c.kinds[path]
	switch {
	case kind == "" || first.what == kind:
	case !ok:
		c.kinds[path] = sighting{kind, where}
	default:
		c.note(path, fmt.Sprintf("%s is %s (%s) and %s (%s): readers that want one type for each field refuse the output, or change it. Give it one type, or two names.",
			path, first.what, first.where, kind, where))
	}
}

// field returns the path of a field of an object.
func (c *fields) field(parent, name, where string) string {
	path := strings.TrimPrefix(parent+"."+name, ".")
	at := parent + "." + strings.ToLower(name)
	if first, ok := c.names[at]; !ok {
		c.names[at] = sighting{path, where}
	} else if first.what != path {
		c.note(at, fmt.Sprintf("%s (%s) and %s (%s) differ only in case, which DuckDB refuses. Rename one.", first.what, first.where, path, where))
	}
	return path
}

func (c *fields) note(of, text string) {
	if !c.told[of] {
		c.told[of] = true
		c.notes = append(c.notes, printable.Line("Warning: "+text))
	}
}

// schema notes what a JSON Schema says of a field, as far as its plain words
// tell.
func (c *fields) schema(schema any, path, where string) {
	m, ok := schema.(map[string]any)
	if !ok {
		return
	}
	types, ok := m["type"].([]any)
	if !ok {
		types = []any{m["type"]}
	}
	for _, t := range types {
		switch t {
		case "string":
			c.kind(path, "a text", where)
		case "number", "integer":
			c.kind(path, "a number", where)
		case "boolean":
			c.kind(path, "true or false", where)
		case "array":
			c.kind(path, "a list", where)
		case "object":
			c.kind(path, "an object", where)
		}
	}
	properties, _ := m["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		c.schema(properties[name], c.field(path, name, where), where)
	}
	c.schema(m["items"], path+"[]", where)
}
