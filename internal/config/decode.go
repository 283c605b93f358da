package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"matrix/internal/near"
)

// decoder fills Go values from a tree and gathers what does not fit.
type decoder struct{ errs Errors }

func (d *decoder) fail(n *node, path, format string, args ...any) {
	d.errs = append(d.errs, errorAt(n.pos, path, format, args...))
}

// unset notes that an environment variable is missing for n.
func (d *decoder) unset(n *node) {
	if !n.lax {
		d.errs = append(d.errs, n.err)
	}
}

// decode fills v from n, which stands at path. f has the tags of the field
// that v is part of.
func (d *decoder) decode(n *node, v reflect.Value, f *field, path string) {
	t := v.Type()
	switch {
	case t == sectionType:
		v.Set(reflect.ValueOf(&Section{node: n, path: path, keyPos: n.pos}))
		return
	case n.err != nil:
		d.unset(n)
		return
	case t.Kind() == reflect.Pointer:
		if n.kind != Null {
			v.Set(reflect.New(t.Elem()))
			d.decode(n, v.Elem(), f, path)
		}
		return
	case t == rawType:
		raw, err := json.Marshal(d.plain(n))
		if err != nil {
			d.fail(n, path, "cannot be written as JSON: %v", err)
		}
		v.SetBytes(raw)
		return
	case t == durationType:
		d.duration(n, v, path)
		return
	case isText(t) && n.scalar() && n.kind != Null:
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.text)); err != nil {
			d.fail(n, path, "%v", err)
		}
		return
	case isText(t) && !longForm(t):
		d.wrong(n, path, "a text")
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		d.fields(n, v, path)
	case reflect.Map:
		d.mapping(n, v, f, path)
	case reflect.Slice:
		d.list(n, v, f, path)
	case reflect.Interface:
		if p := d.plain(n); p != nil {
			v.Set(reflect.ValueOf(p))
		}
	default:
		d.scalar(n, v, f, path)
	}
}

func (d *decoder) fields(n *node, v reflect.Value, path string) {
	s := structOf(v.Type())
	if n.kind != Map && n.kind != Null {
		d.fail(n, path, "expected %s, got %s%s", typeName(v.Type(), nil), describe(n), s.suggest(n, path))
		return
	}
	for i := range s.fields {
		f := &s.fields[i]
		at, fv := Join(path, f.name), v.FieldByIndex(f.index)
		child := n.get(f.name)
		if child != nil && f.secret {
			markSecret(child)
		}
		if child == nil || child.kind == Null && child.err == nil && f.typ != sectionType {
			d.absent(n, child, fv, f, at)
			continue
		}
		if f.filled && child.err == nil && child.isEmpty() {
			d.fail(child, at, "is empty: say what it is to be, or leave the key out")
			continue
		}
		if f.named {
			markNamed(child)
		}
		d.decode(child, fv, f, at)
		d.sectionKey(fv, n, f.name)
	}
	var rest reflect.Value
	if s.rest != nil {
		rest = reflect.MakeMap(s.rest.typ)
		v.FieldByIndex(s.rest.index).Set(rest)
	}
	for _, e := range n.fields {
		if _, ok := s.field(e.name); ok {
			continue
		}
		at := Join(path, e.name)
		if s.rest == nil {
			d.errs = append(d.errs, unknownKey(e.pos, at, e.name, s.names()))
			continue
		}
		ev := reflect.New(s.rest.typ.Elem()).Elem()
		d.decode(e.node, ev, s.rest, at)
		d.sectionKey(ev, n, e.name)
		rest.SetMapIndex(reflect.ValueOf(e.name).Convert(s.rest.typ.Key()), ev)
	}
}

// sectionKey tells a section where its key stands.
func (d *decoder) sectionKey(v reflect.Value, parent *node, key string) {
	if s, ok := v.Interface().(*Section); ok && s != nil {
		for _, e := range parent.fields {
			if e.name == key {
				s.keyPos = e.pos
			}
		}
	}
}

// absent sets the default of a field whose key is not there, or null.
func (d *decoder) absent(parent, child *node, v reflect.Value, f *field, path string) {
	if f.required {
		p := parent.pos
		if child != nil {
			p = child.pos
		}
		d.errs = append(d.errs, errorAt(p, path, "is missing"))
		return
	}
	empty := newNode(Null, &source{}, parent.pos)
	switch {
	case f.def != "":
		n := *empty
		n.setText(f.def)
		// A default that is not a value of the type is there to be read only.
		try, dv := &decoder{}, reflect.New(f.typ).Elem()
		if try.decode(&n, dv, f, path); len(try.errs) == 0 {
			v.Set(dv)
		}
	case f.typ.Kind() == reflect.Struct && !isText(f.typ):
		(&decoder{}).fields(empty, v, path) // for the defaults inside; nothing in it is missing yet
		if s := structOf(f.typ); slices.ContainsFunc(s.fields, func(f field) bool { return f.required }) && child != nil {
			d.fields(child, v, path)
		}
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, f *field, path string) {
	t := v.Type()
	if n.kind != Map {
		d.wrong(n, path, "a map")
		return
	}
	v.Set(reflect.MakeMapWithSize(t, len(n.fields)))
	for _, e := range n.fields {
		ev := reflect.New(t.Elem()).Elem()
		d.decode(e.node, ev, f, Join(path, e.name))
		d.sectionKey(ev, n, e.name)
		v.SetMapIndex(reflect.ValueOf(e.name).Convert(t.Key()), ev)
	}
}

func (d *decoder) list(n *node, v reflect.Value, f *field, path string) {
	t := v.Type()
	items := n.items
	if n.kind != List {
		lone := isStrings(t) && n.scalar() && n.kind != Null || isRecords(t) && n.kind == Map
		if !lone {
			d.wrong(n, path, typeName(t, f))
			return
		}
		items = []*node{n}
	}
	v.Set(reflect.MakeSlice(t, len(items), len(items)))
	for i, item := range items {
		at := Join(path, strconv.Itoa(i))
		if n.kind != List {
			at = path
		}
		d.decode(item, v.Index(i), f, at)
	}
}

func (d *decoder) scalar(n *node, v reflect.Value, f *field, path string) {
	want := typeName(v.Type(), f)
	if !n.scalar() || n.kind == Null {
		d.wrong(n, path, want)
		return
	}
	switch k := v.Kind(); {
	case k == reflect.String:
		if f.path {
			n.text, n.path, n.here = absolute(n.text, n.dir), true, f.here
		}
		if f.secret && notReplaced.MatchString(n.text) {
			name := notReplaced.FindStringSubmatch(n.text)[1]
			d.fail(n, path, "would be sent as the text it is: write ${env:%s} for the environment variable %s", name, name)
			return
		}
		if len(f.enum) > 0 && !slices.Contains(f.enum, n.text) {
			e := errorAt(n.pos, path, "expected %s, got %s", oneOf(f.enum), describe(n))
			e.Hint = near.Name(n.text, f.enum)
			d.errs = append(d.errs, e)
			return
		}
		v.SetString(n.text)
	case k == reflect.Bool && n.kind == Bool:
		v.SetBool(n.value().(bool))
	case v.CanInt() || v.CanUint():
		i, ok := int64(0), n.kind == Int
		if ok {
			i, _ = parseInt(n.text)
		} else if n.kind == Float {
			x, _ := parseFloat(n.text) // 1e6
			i, ok = int64(x), x == math.Trunc(x) && math.Abs(x) < 1<<53
		}
		if !ok {
			d.wrong(n, path, want)
		} else if v.CanInt() && v.OverflowInt(i) || v.CanUint() && (i < 0 || v.OverflowUint(uint64(i))) {
			d.fail(n, path, "%s is out of range", n.text)
		} else if v.CanInt() {
			v.SetInt(i)
		} else {
			v.SetUint(uint64(i))
		}
	case v.CanFloat() && (n.kind == Float || n.kind == Int):
		x, ok := parseFloat(n.text)
		if !ok {
			i, _ := parseInt(n.text)
			x = float64(i)
		}
		v.SetFloat(x)
	default:
		d.wrong(n, path, want)
	}
}

// notReplaced matches what stands for an environment variable elsewhere: $KEY,
// os.environ/KEY, %KEY%.
var notReplaced = regexp.MustCompile(`(?:^|\s)(?:\$|os\.environ/|%)([A-Z_][A-Z0-9_]*)%?$`)

// duration reads 90s, 1h30m, or a number of seconds.
func (d *decoder) duration(n *node, v reflect.Value, path string) {
	switch n.kind {
	case Int, Float:
		x, ok := parseFloat(n.text)
		if !ok {
			i, _ := parseInt(n.text)
			x = float64(i)
		}
		if math.IsNaN(x) || math.Abs(x) > float64(math.MaxInt64)/1e9 {
			d.fail(n, path, "%s seconds is out of range", n.text)
			return
		}
		v.SetInt(int64(math.Round(x * 1e9)))
	case String:
		x, err := time.ParseDuration(n.text)
		if err != nil {
			d.wrong(n, path, "a duration such as 500ms, 60s or 1h30m")
			return
		}
		v.SetInt(int64(x))
	default:
		d.wrong(n, path, "a duration such as 500ms, 60s or 1h30m")
	}
}

// plain is n as encoding/json would have it, with int where there is no
// fraction.
func (d *decoder) plain(n *node) any {
	if n.err != nil {
		d.unset(n)
		return nil
	}
	switch n.kind {
	case Map:
		out := make(map[string]any, len(n.fields))
		for _, e := range n.fields {
			out[e.name] = d.plain(e.node)
		}
		return out
	case List:
		out := make([]any, len(n.items))
		for i, item := range n.items {
			out[i] = d.plain(item)
		}
		return out
	}
	return n.value()
}

func (d *decoder) wrong(n *node, path, want string) {
	hint := ""
	if n.kind == Null && strings.ContainsAny(path, "()") { // `x: max(1, 2)` has the keys x and 2)
		hint = "; " + inBraces
	}
	d.fail(n, path, "expected %s, got %s%s", want, describe(n), hint)
}

// plainWord matches what is the same text inside of braces without quotes.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./~][A-Za-z0-9_./~=+-]*$`)

// suggest returns which map may be meant by a text, or a list, in its place: that of the
// switch which it names, or of the only key that has to be there.
func (s *fieldSet) suggest(n *node, path string) string {
	at := path[strings.LastIndexByte(path, '.')+1:] + ": "
	if _, err := strconv.Atoi(at[:len(at)-2]); err == nil { // of a list
		at = ""
	}
	var needed []field
	for _, f := range s.fields {
		if f.required {
			needed = append(needed, f)
		}
		if n.kind == String && f.name == n.text && f.typ.Kind() == reflect.Bool {
			return fmt.Sprintf("; did you mean %s{%s: true}?", at, f.name)
		}
	}
	if len(needed) != 1 || n.secret || n.env != "" || n.isEmpty() {
		return ""
	}
	f := needed[0]
	many := f.typ.Kind() == reflect.Slice
	words := []string{n.text}
	switch {
	case n.kind == List && many && !slices.ContainsFunc(n.items, func(n *node) bool { return n.kind != String || n.env != "" }):
		words = words[:0]
		for _, item := range n.items {
			words = append(words, item.text)
		}
	case n.kind == String && many && !f.path:
		words = strings.Fields(n.text)
	case n.kind == String && (many || f.typ.Kind() == reflect.String):
		many = false
	default:
		return ""
	}
	for i, w := range words {
		if !plainWord.MatchString(w) {
			words[i] = strconv.Quote(w)
		}
	}
	text := strings.Join(words, ", ")
	if many {
		text = "[" + text + "]"
	}
	return fmt.Sprintf("; did you mean %s{%s: %s}?", at, f.name, text)
}

// describe says what n is, for messages.
func describe(n *node) string {
	switch {
	case n.secret || n.env != "" || !n.scalar() || n.kind == Null:
		return n.kind.String()
	case n.kind == String:
		text := []rune(n.text)
		if len(text) > 60 {
			text = append(text[:60], '…')
		}
		return "the text " + strconv.Quote(string(text))
	}
	return n.text
}

func oneOf(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

func markSecret(n *node) {
	n.secret = true
	for _, e := range n.fields {
		markSecret(e.node)
	}
	for _, item := range n.items {
		markSecret(item)
	}
}

// markNamed makes secrets of what n has under names of secrets, and notes of all
// in it that no type says what it is.
func markNamed(n *node) {
	n.loose = true
	for _, e := range n.fields {
		if markNamed(e.node); isSecret(e.name) || namesSecret(e.name) {
			markSecret(e.node)
		}
	}
	for _, item := range n.items {
		markNamed(item)
	}
}

// typeName says what values a type takes, for messages and the reference.
func typeName(t reflect.Type, f *field) string {
	if t.Kind() == reflect.Pointer && t != sectionType {
		t = t.Elem()
	}
	switch {
	case t == sectionType, t == rawType, t.Kind() == reflect.Interface:
		return "any value"
	case t == durationType:
		return "a duration"
	case isText(t) && longForm(t) && t.Kind() == reflect.Slice:
		return "a text or a list"
	case isText(t) && longForm(t):
		return "a text or a map"
	case isText(t) && t.Kind() == reflect.Int:
		return "a whole number or a text"
	case isText(t):
		return "a text"
	case t.Kind() == reflect.Slice:
		if isStrings(t) && f != nil && f.path {
			return "a path or a list of paths"
		} else if isStrings(t) {
			return "a text or a list of texts"
		}
		return "a list"
	case t.Kind() == reflect.String && f != nil && f.path:
		return "a path"
	case t.Kind() == reflect.String && f != nil && len(f.enum) > 0:
		return oneOf(f.enum)
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Map, reflect.Struct:
		return "a map"
	}
	if t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 {
		return "a whole number"
	}
	return fmt.Sprint(t)
}
