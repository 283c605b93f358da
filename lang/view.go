package lang

import (
	"fmt"

	"github.com/nikolalohinski/gonja/v2/exec"

	"matrix"
)

// missingError says that a value lacks a field.
type missingError struct {
	name  string // of the value: item, params, a turn, or what it is in
	field string
	msg   string
}

func (e *missingError) Error() string { return e.msg }

// rowObject is an object of the row, or of the params: a missing field is an
// error. It is a map, so that filters and loops take it as one.
type rowObject map[string]any

type (
	itemObject  map[string]any // the row itself
	paramObject map[string]any // the params
	turnObject  map[string]any // a turn
)

// agentObject and agentList hold what an agent produced: a missing field or
// element is absent.
type (
	agentObject map[string]any
	agentList   []any
)

// absent is an empty value that has every field, each absent: it prints
// nothing, is false and has no elements.
type absent []any

func missing(m map[string]any, name, field string) (*exec.Value, bool) {
	return exec.AsValue(&missingError{name, field, noField(name, field, m)}), false
}

// GetItem returns a field of the row.
func (o itemObject) GetItem(key any) (*exec.Value, bool) { return rowField(o, "item", key) }

// GetAttribute returns a field of the row.
func (o itemObject) GetAttribute(name string) (*exec.Value, bool) { return rowField(o, "item", name) }

// GetItem returns a param.
func (o paramObject) GetItem(key any) (*exec.Value, bool) { return rowField(o, "params", key) }

// GetAttribute returns a param.
func (o paramObject) GetAttribute(name string) (*exec.Value, bool) {
	return rowField(o, "params", name)
}

// GetItem returns a field.
func (o rowObject) GetItem(key any) (*exec.Value, bool) { return rowField(o, "the object", key) }

// GetAttribute returns a field.
func (o rowObject) GetAttribute(name string) (*exec.Value, bool) {
	return rowField(o, "the object", name)
}

// GetItem returns a field of the turn.
func (o turnObject) GetItem(key any) (*exec.Value, bool) {
	k := fmt.Sprint(key)
	v, ok := o[k]
	if !ok {
		return missing(o, "a turn", k)
	}
	return exec.ToValue(agentValue(v)), true
}

// GetAttribute returns a field of the turn.
func (o turnObject) GetAttribute(name string) (*exec.Value, bool) { return o.GetItem(name) }

// GetItem returns a field, or absent.
func (o agentObject) GetItem(key any) (*exec.Value, bool) {
	return exec.ToValue(agentValue(o[fmt.Sprint(key)])), true
}

// GetAttribute returns a field, or absent.
func (o agentObject) GetAttribute(name string) (*exec.Value, bool) { return o.GetItem(name) }

// GetItem returns an element, or absent.
func (l agentList) GetItem(key any) (*exec.Value, bool) {
	return exec.ToValue(agentValue(look([]any(l), key))), true
}

// GetAttribute returns absent: a list has no fields.
func (l agentList) GetAttribute(string) (*exec.Value, bool) { return exec.AsValue(absent{}), true }

// GetItem returns absent.
func (absent) GetItem(any) (*exec.Value, bool) { return exec.AsValue(absent{}), true }

// GetAttribute returns absent.
func (absent) GetAttribute(string) (*exec.Value, bool) { return exec.AsValue(absent{}), true }

// String returns nothing.
func (absent) String() string { return "" }

func rowField(m map[string]any, name string, key any) (*exec.Value, bool) {
	k, ok := key.(string)
	if !ok {
		return exec.AsValue(fmt.Errorf("%s has fields, no elements", name)), false
	}
	v, ok := m[k]
	if !ok {
		return missing(m, name, k)
	}
	return exec.AsValue(rowValue(v)), true
}

func rowValue(v any) any {
	if m, ok := v.(map[string]any); ok {
		return rowObject(m)
	}
	return v
}

func agentValue(v any) any {
	switch v := v.(type) {
	case nil:
		return absent{}
	case map[string]any:
		return agentObject(v)
	case []any:
		return agentList(v)
	case turn:
		return v.object()
	case *turn:
		return v.object()
	case *call:
		return agentObject(v.plain())
	case *matrix.Value:
		return agentValue(v.Any())
	}
	return v
}

func isAbsent(v *exec.Value) bool {
	if v.IsNil() {
		return false
	}
	_, ok := v.Interface().(absent)
	return ok
}

// unwrap is the plain value behind what a template handles.
func unwrap(v *exec.Value) any {
	if v.IsNil() || isAbsent(v) {
		return nil
	}
	switch x := v.Interface().(type) {
	case string, bool, int, float64, []any, map[string]any:
		return bare(x)
	case itemObject:
		return map[string]any(x)
	case rowObject:
		return map[string]any(x)
	case paramObject:
		return map[string]any(x)
	case agentObject:
		return map[string]any(x)
	case turnObject:
		return bare(map[string]any(x))
	case agentList:
		return []any(x)
	case *call:
		return x.plain()
	case *matrix.Value:
		return x.Any()
	case tuple:
		return bare([]any(x))
	case space:
		return bare(map[string]any(x))
	case *exec.Dict:
		m := make(map[string]any, len(x.Pairs))
		for _, p := range x.Pairs {
			m[p.Key.String()] = unwrap(p.Value)
		}
		return m
	}
	return bare(v.ToGoSimpleType(false))
}

// bare replaces the template's own types inside v.
func bare(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			if b, changed := bareOne(v[i]); changed {
				out := make([]any, len(v))
				copy(out, v[:i])
				out[i] = b
				for j := i + 1; j < len(v); j++ {
					out[j], _ = bareOne(v[j])
				}
				return out
			}
		}
	case map[string]any:
		for k := range v {
			if _, changed := bareOne(v[k]); changed {
				out := make(map[string]any, len(v))
				for k := range v {
					out[k], _ = bareOne(v[k])
				}
				return out
			}
		}
	}
	return v
}

func bareOne(v any) (out any, changed bool) {
	switch v := v.(type) {
	case nil, string, bool, int, float64, map[string]any, []any:
		return v, false
	case *exec.Value:
		return unwrap(v), true
	}
	return unwrap(exec.AsValue(v)), true
}

// object is a turn as templates see it.
func (t *turn) object() turnObject {
	samples := make([]any, len(t.Samples))
	for i, s := range t.Samples {
		samples[i] = s.plain()
	}
	return turnObject{"role": t.Role, "text": t.Text, "data": t.Data, "error": t.Error, "samples": samples, "reasoning": t.Reasoning,
		"tool_calls": t.ToolCalls, "tool_results": t.ToolResults, "logprobs": t.Logprobs, "call": t.Call}
}

func turnObjects(ts []turn) []turnObject {
	out := make([]turnObject, len(ts))
	for i := range ts {
		out[i] = ts[i].object()
	}
	return out
}
