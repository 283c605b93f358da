package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"matrix/internal/jsonschema"
)

// schema writes JSON that fits a JSON Schema. It knows the keywords that
// servers with structured output know: type, enum, const, properties, required,
// items, prefixItems, the bounds of numbers, texts and lists, pattern, format,
// anyOf, oneOf, allOf and $ref within the schema.
type schema struct {
	root  any
	check *jsonschema.Schema // nil: anything fits
	left  int                // values that may yet be tried, of one writing
}

// depth at which what need not be there is left out, and at which a schema is
// given up that never ends.
const (
	shallow = 6
	deepest = 64
)

// maxTried is how many values may be tried to write one: a schema may refer to its
// parts in ways that double the work with each level.
const maxTried = 200_000

// newSchema reads a schema. The error says what is wrong with it, or that this
// writer cannot fit it.
func newSchema(raw json.RawMessage) (*schema, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	s := &schema{}
	if err := d.Decode(&s.root); err != nil {
		return nil, fmt.Errorf("schema is not JSON: %w", err)
	}
	switch s.root.(type) {
	case map[string]any, bool:
	default:
		return nil, fmt.Errorf("schema is %s, want an object", strings.TrimSpace(string(raw)))
	}
	var err error
	if s.check, err = jsonschema.Compile(raw); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	for seed := range random(8) { // a schema that cannot be fitted is refused, not answered wrongly
		r := seed
		b, err := s.try(&r)
		if err != nil {
			return nil, err
		}
		if s.fits(b) {
			return s, nil
		}
	}
	return nil, errors.New("the simulator cannot write what fits this schema")
}

// anything is the schema of an object with nothing said of it.
func anything() *schema { return &schema{root: map[string]any{"type": "object"}} }

// write writes JSON that fits.
func (s *schema) write(r *random) string {
	var b []byte
	for range 16 {
		next, err := s.try(r)
		if err != nil {
			continue
		}
		if b = next; s.fits(b) {
			break
		}
	}
	return string(b)
}

// try writes JSON that may fit.
func (s *schema) try(r *random) ([]byte, error) {
	once := *s
	once.left = maxTried
	v, err := once.value(s.root, r, 0)
	if err != nil {
		return nil, err
	}
	return appendOrdered(nil, v), nil
}

// fits reports whether b is known to fit.
func (s *schema) fits(b []byte) bool {
	if s.check == nil {
		return true
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	return d.Decode(&v) == nil && s.check.Check(v) == nil
}

// ordered is an object whose keys keep their order.
type ordered struct {
	keys   []string
	values []any
}

func appendOrdered(b []byte, v any) []byte {
	switch v := v.(type) {
	case *ordered:
		b = append(b, '{')
		for i, k := range v.keys {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendJSON(b, k), ": "...)
			b = appendOrdered(b, v.values[i])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = appendOrdered(b, x)
		}
		return append(b, ']')
	}
	return appendJSON(b, v)
}

var errLarge = fmt.Errorf("the schema takes more than %d values to write one: it refers to its parts over and over", maxTried)

func (s *schema) value(at any, r *random, depth int) (any, error) {
	if s.left--; s.left < 0 {
		return nil, errLarge
	}
	if depth > deepest {
		return nil, errors.New("the schema has no end: what it requires requires itself")
	}
	m, ok := at.(map[string]any)
	if !ok {
		return words(r.next(), 2), nil
	}
	if c, ok := m["const"]; ok {
		return c, nil
	}
	if e, ok := m["enum"].([]any); ok && len(e) > 0 {
		return e[r.below(len(e))], nil
	}
	if ref, ok := m["$ref"].(string); ok {
		to, err := s.find(ref)
		if err != nil {
			return nil, err
		}
		return s.value(overlay(m, to), r, depth+1)
	}
	if all, ok := m["allOf"].([]any); ok {
		merged := without(m, "allOf")
		for _, part := range all {
			p, ok := part.(map[string]any)
			for ok && p["$ref"] != nil {
				if s.left--; s.left < 0 {
					return nil, errLarge
				}
				to, err := s.find(fmt.Sprint(p["$ref"]))
				if err != nil {
					return nil, err
				}
				p = overlay(p, to)
			}
			merged = overlay(merged, p)
		}
		return s.value(merged, r, depth+1)
	}
	for _, key := range []string{"anyOf", "oneOf"} {
		list, ok := m[key].([]any)
		if !ok || len(list) == 0 {
			continue
		}
		rest := without(m, key)
		first := r.below(len(list))
		if depth > shallow { // what ends, if anything does
			first = slices.IndexFunc(list, func(v any) bool { return plain(v) })
			first = max(0, first)
		}
		return s.value(overlay(rest, list[first]), r, depth+1)
	}
	return s.typed(m, r, depth)
}

// plain says that a schema is neither an object nor a list.
func plain(v any) bool {
	m, _ := v.(map[string]any)
	switch m["type"] {
	case "null", "string", "integer", "number", "boolean":
		return true
	}
	return false
}

func (s *schema) typed(m map[string]any, r *random, depth int) (any, error) {
	kind, _ := m["type"].(string)
	if list, ok := m["type"].([]any); ok && len(list) > 0 {
		kind, _ = list[r.below(len(list))].(string)
		if depth > shallow {
			kind, _ = list[len(list)-1].(string)
		}
	}
	if kind == "" {
		switch {
		case m["properties"] != nil || m["required"] != nil:
			kind = "object"
		case m["items"] != nil || m["prefixItems"] != nil:
			kind = "array"
		case m["minimum"] != nil || m["maximum"] != nil || m["multipleOf"] != nil:
			kind = "number"
		default:
			kind = "string"
		}
	}
	switch kind {
	case "object":
		return s.object(m, r, depth)
	case "array":
		return s.array(m, r, depth)
	case "integer":
		return number(m, r, true)
	case "number":
		return number(m, r, false)
	case "boolean":
		return r.below(2) == 0, nil
	case "null":
		return nil, nil
	}
	return text(m, r)
}

func (s *schema) object(m map[string]any, r *random, depth int) (any, error) {
	o := &ordered{}
	props, _ := m["properties"].(map[string]any)
	required := namesIn(m["required"])
	least, _ := whole(m["minProperties"])
	for _, k := range append(slices.Clone(required), slices.Sorted(maps.Keys(props))...) {
		if slices.Contains(o.keys, k) {
			continue
		}
		if need := slices.Contains(required, k); !need && depth > shallow {
			continue
		}
		at, ok := props[k]
		if !ok {
			if at, ok = m["additionalProperties"].(map[string]any); !ok {
				at = map[string]any{"type": "string"}
			}
		}
		v, err := s.value(at, r, depth+1)
		if err != nil {
			return nil, err
		}
		o.keys, o.values = append(o.keys, k), append(o.values, v)
	}
	more, open := m["additionalProperties"].(map[string]any)
	if !open {
		more = map[string]any{"type": "string"}
	}
	if open && depth <= shallow && len(props) == 0 {
		least = max(least, 2)
	}
	for i := 0; len(o.keys) < least; i++ {
		v, err := s.value(more, r, depth+1)
		if err != nil {
			return nil, err
		}
		o.keys, o.values = append(o.keys, vocabulary[(r.below(len(vocabulary)-1)+i)%len(vocabulary)]+strconv.Itoa(i)), append(o.values, v)
	}
	return o, nil
}

func (s *schema) array(m map[string]any, r *random, depth int) (any, error) {
	out := []any{}
	first, _ := m["prefixItems"].([]any)
	for _, at := range first {
		v, err := s.value(at, r, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	least, _ := whole(m["minItems"])
	most, bounded := whole(m["maxItems"])
	if !bounded {
		most = max(least, len(out)) + 2
	}
	n := least
	if depth <= shallow {
		n = max(least, min(most, 1+r.below(3)))
	}
	items, ok := m["items"]
	if ok && items == false {
		return out, nil
	}
	if !ok {
		items = map[string]any{"type": "string"}
	}
	seen := map[string]bool{}
	for tries := 0; len(out) < min(n, 10_000) && tries < 10*n+100; tries++ {
		v, err := s.value(items, r, depth+1)
		if err != nil {
			return nil, err
		}
		if m["uniqueItems"] == true {
			k := string(appendOrdered(nil, v))
			if seen[k] {
				continue
			}
			seen[k] = true
		}
		out = append(out, v)
	}
	return out, nil
}

func number(m map[string]any, r *random, integer bool) (any, error) {
	lo, hasLo := float(m["minimum"])
	hi, hasHi := float(m["maximum"])
	step, stepped := float(m["multipleOf"])
	if integer && !(stepped && step == math.Trunc(step) && step > 0) {
		step = 1
	} else if !stepped || step <= 0 {
		step = 0.01
	}
	if x, ok := float(m["exclusiveMinimum"]); ok && (!hasLo || x >= lo) {
		lo, hasLo = x+step/2, true
	}
	if x, ok := float(m["exclusiveMaximum"]); ok && (!hasHi || x <= hi) {
		hi, hasHi = x-step/2, true
	}
	switch {
	case !hasLo && !hasHi:
		lo, hi = 0, 100
	case !hasLo:
		lo = hi - 100
	case !hasHi:
		hi = lo + 100
	}
	first, last := math.Ceil(lo/step), math.Floor(hi/step)
	if first > last {
		if integer || stepped {
			return nil, fmt.Errorf("no number is between %v and %v in the schema", lo, hi)
		}
		return (lo + hi) / 2, nil
	}
	n := first + float64(r.below(int(min(last-first, 1e6))+1))
	if integer {
		return json.Number(strconv.FormatFloat(n*step, 'f', -1, 64)), nil
	}
	return json.Number(strconv.FormatFloat(math.Round(n*step*1e9)/1e9, 'g', -1, 64)), nil
}

func text(m map[string]any, r *random) (any, error) {
	if p, ok := m["pattern"].(string); ok {
		w, err := newPattern(p)
		if err != nil {
			return nil, err
		}
		return w.write(r), nil
	}
	switch m["format"] {
	case "date":
		return fmt.Sprintf("20%02d-%02d-%02d", r.below(50), 1+r.below(12), 1+r.below(28)), nil
	case "time":
		return fmt.Sprintf("%02d:%02d:%02dZ", r.below(24), r.below(60), r.below(60)), nil
	case "date-time":
		return fmt.Sprintf("20%02d-%02d-%02dT%02d:%02d:%02dZ", r.below(50), 1+r.below(12), 1+r.below(28), r.below(24), r.below(60), r.below(60)), nil
	case "email":
		return vocabulary[r.below(len(vocabulary))] + "@example.com", nil
	case "uri":
		return "https://example.com/" + vocabulary[r.below(len(vocabulary))], nil
	case "uuid":
		a, b := r.next(), r.next()
		return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48&0xfff, b&0xffffffffffff), nil
	case "ipv4":
		return fmt.Sprintf("10.%d.%d.%d", r.below(256), r.below(256), r.below(256)), nil
	}
	least, _ := whole(m["minLength"])
	most, bounded := whole(m["maxLength"])
	if !bounded {
		most = max(least, 60)
	}
	t := words(r.next(), max(1, (min(max(least, 8+r.below(30)), 1<<20)+3)/4))
	for utf8.RuneCountInString(t) < least {
		t += " " + vocabulary[r.below(len(vocabulary))]
	}
	return t[:min(len(t), most)], nil
}

// find follows a reference within the schema.
func (s *schema) find(ref string) (any, error) {
	path, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return nil, fmt.Errorf("$ref %q leads out of the schema", ref)
	}
	at := s.root
	for part := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if part == "" {
			continue
		}
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		m, ok := at.(map[string]any)
		if !ok || m[part] == nil {
			return nil, fmt.Errorf("$ref %q leads nowhere", ref)
		}
		at = m[part]
	}
	return at, nil
}

// overlay is a with what b says added: properties and required are joined.
func overlay(a map[string]any, b any) map[string]any {
	out := without(a, "$ref")
	m, _ := b.(map[string]any)
	for k, v := range m {
		switch k {
		case "properties":
			if have, ok := out[k].(map[string]any); ok {
				joined := maps.Clone(have)
				if more, ok := v.(map[string]any); ok {
					maps.Copy(joined, more)
				}
				v = joined
			}
		case "required":
			if have, ok := out[k].([]any); ok {
				more, _ := v.([]any)
				v = append(slices.Clone(have), more...)
			}
		}
		out[k] = v
	}
	return out
}

func without(m map[string]any, key string) map[string]any {
	out := maps.Clone(m)
	delete(out, key)
	return out
}

func namesIn(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func float(v any) (float64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	return f, err == nil
}

func whole(v any) (int, bool) {
	f, ok := float(v)
	return int(f), ok && f >= 0
}
