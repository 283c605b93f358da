package lang

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// placedError is an error with its place in the source.
type placedError struct {
	at  int // offset
	err error
}

func (e *placedError) Error() string { return e.err.Error() }
func (e *placedError) Unwrap() error { return e.err }

func failure(t *tokens.Token, err error) *exec.Value {
	return exec.AsValue(&placedError{t.Pos, err})
}

// placed gives an error its place, where it has none.
func placed(t *tokens.Token, v *exec.Value) *exec.Value {
	if !v.IsError() {
		return v
	}
	err, _ := v.Interface().(error)
	for inner := err; inner != nil; inner = under(inner) {
		if _, ok := inner.(*placedError); ok { //nolint:errorlint // walks itself
			return v
		}
	}
	return failure(t, err)
}

// setter changes what an operand stands for; nil where nothing can.
type setter func(x *rendering, v any) error

// operand parses a value and what follows it: fields, elements, slices, calls.
func (p *exprs) operand() eval {
	t := p.at(p.i)
	e := p.primary()
	var owner, set = eval(nil), setter(nil) // of the method that e may be
	var ownerSet setter
	var at, ownerAt listPlace
	isName := t.Type == tokens.Name
	if isName {
		set, at = change(t.Val), listNamed(t.Val)
	}
	field := ""
	for p.err == nil {
		t := p.at(p.i)
		switch t.Type {
		case tokens.Dot:
			p.i++
			key := p.at(p.i)
			p.i++
			switch key.Type {
			case tokens.Name, tokens.In, tokens.Is, tokens.And, tokens.Or, tokens.Not:
				owner, ownerSet, ownerAt, field = e, set, at, key.Val
				if at = nil; isName {
					at = listIn(e, key.Val)
				}
				e, set = getField(e, key), setItem(e, constantly(key.Val))
			case tokens.Integer:
				n, _ := strconv.Atoi(key.Val)
				owner, set, at = nil, nil, nil
				e = getItem(e, constantly(n), key)
			default:
				p.i--
				p.unexpected("the name of a field")
			}
			isName = false
		case tokens.LeftBracket:
			p.i++
			owner, set, at, isName = nil, nil, nil, false
			e = p.subscript(e, t)
		case tokens.LeftParenthesis:
			p.i++
			args := p.arguments()
			switch {
			case owner != nil && field == "append" && ownerAt != nil:
				e = appendTo(ownerAt, callMethod(owner, ownerSet, field, args, t), args, t)
			case owner != nil:
				e = callMethod(owner, ownerSet, field, args, t)
			default:
				e = callValue(e, args, t)
			}
			owner, set, at, isName = nil, nil, nil, false
		default:
			return e
		}
	}
	return e
}

func setName(name string) setter {
	return func(x *rendering, v any) error {
		let(x.scope(), name, v)
		return nil
	}
}

// setItem sets an element of what owner evaluates to.
func setItem(owner, key eval) setter {
	return func(x *rendering, v any) error {
		o := owner(x)
		if o.IsError() {
			return o
		}
		k := key(x)
		if k.IsError() {
			return k
		}
		ns, ok := o.Interface().(space)
		if !ok {
			return errors.New("it is no namespace, it cannot change; copy it first: {% set x = ... %}")
		}
		name, ok := unwrap(k).(string)
		if !ok {
			return fmt.Errorf("%s is not the name of a field", operand(unwrap(k)))
		}
		parts := maxParts
		holds := ns.in(v, &parts)
		if err := x.spend((maxParts - parts) * elementWork); err != nil {
			return err
		}
		if holds {
			return fmt.Errorf("a namespace cannot hold itself, or a value of more than %d parts or %d MiB", maxParts, maxText>>20)
		}
		ns[name] = v
		return nil
	}
}

// space is what namespace() makes: the one value that tags can change.
type space map[string]any

// in reports whether v is or has in it the namespace, or more than so many parts;
// a text is one for each 64 bytes.
// No value has itself in it, so that what goes through one comes to an end.
func (ns space) in(v any, parts *int) bool {
	if *parts--; *parts < 0 {
		return true
	}
	switch v := v.(type) {
	case nil, bool, int, float64:
		return false
	case string:
		*parts -= len(v) / (maxText / maxParts)
		return *parts < 0
	case *exec.Value:
		return ns.in(v.Interface(), parts)
	case *exec.Dict:
		return slices.ContainsFunc(v.Pairs, func(p *exec.Pair) bool { return ns.in(p.Key, parts) || ns.in(p.Value, parts) })
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Map:
		if r.Pointer() == reflect.ValueOf(ns).Pointer() {
			return true
		}
		for it := r.MapRange(); it.Next(); {
			if ns.in(it.Value().Interface(), parts) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range r.Len() {
			if ns.in(r.Index(i).Interface(), parts) {
				return true
			}
		}
	}
	return false
}

func getField(e eval, t *tokens.Token) eval {
	return func(x *rendering) *exec.Value {
		v := e(x)
		if v.IsError() {
			return v
		}
		return placed(t, fieldOf(v, t.Val))
	}
}

func fieldOf(v *exec.Value, name string) *exec.Value {
	none := func(msg string) *exec.Value {
		return exec.AsValue(&missingError{field: name, msg: msg})
	}
	switch o := v.Interface().(type) {
	case nil:
		return none(fmt.Sprintf("none has no field %q", name))
	case exec.AttributeGetter:
		out, ok := o.GetAttribute(name)
		if !ok && !out.IsError() {
			return none(fmt.Sprintf("it has no field %q", name))
		}
		return out
	case map[string]any:
		return objectField(o, name)
	case space:
		return objectField(o, name)
	case *exec.Dict:
		for _, pair := range o.Pairs {
			if pair.Key.IsString() && pair.Key.String() == name {
				return pair.Value
			}
		}
	}
	return none(fmt.Sprintf("%s has no field %q", kind(unwrap(v)), name))
}

func objectField(m map[string]any, name string) *exec.Value {
	if out, ok := m[name]; ok {
		return exec.ToValue(out)
	}
	return exec.AsValue(&missingError{field: name, msg: noField("the object", name, m)})
}

func getItem(e, key eval, t *tokens.Token) eval {
	return func(x *rendering) *exec.Value {
		v := e(x)
		if v.IsError() {
			return v
		}
		k := key(x)
		if k.IsError() {
			return k
		}
		if v.IsString() {
			if bad := x.spent(t, cost(v)); bad != nil {
				return bad
			}
		}
		return placed(t, element(v, unwrap(k)))
	}
}

func element(v *exec.Value, key any) *exec.Value {
	none := func(format string, args ...any) *exec.Value {
		return exec.AsValue(&missingError{msg: fmt.Sprintf(format, args...)})
	}
	switch o := v.Interface().(type) {
	case nil:
		return none("none has no elements")
	case exec.ItemGetter:
		switch key.(type) {
		case string, int:
			out, _ := o.GetItem(key)
			return out
		}
		return none("%s is neither the name of a field nor the number of an element", kind(key))
	case *exec.Dict:
		for _, pair := range o.Pairs {
			if equal(unwrap(pair.Key), key) {
				return pair.Value
			}
		}
		return none("the object has no %s", field(key))
	}
	if name, ok := key.(string); ok {
		return fieldOf(v, name)
	}
	i, ok := key.(int)
	if !ok {
		return none("%s is neither the name of a field nor the number of an element", kind(key))
	}
	if v.IsString() {
		if out := look(v.String(), i); out != nil {
			return exec.AsValue(out)
		}
		return none("the text has no character %d, it has %d", i, v.Len())
	}
	list := reflect.Indirect(v.Val)
	if k := list.Kind(); k != reflect.Slice && k != reflect.Array {
		return none("%s has no elements", kind(unwrap(v)))
	}
	at := i
	if at < 0 {
		at += list.Len()
	}
	if at < 0 || at >= list.Len() {
		return none("the list has no element %d, it has %d elements", i, list.Len())
	}
	return exec.ToValue(rowValue(list.Index(at).Interface()))
}

// subscript parses v[i] and v[from:to:step] after the bracket.
func (p *exprs) subscript(e eval, t *tokens.Token) eval {
	nothing := constantly(nil)
	parts := []eval{nothing}
	for {
		if !p.is(tokens.Colon, tokens.RightBracket) {
			parts[len(parts)-1] = p.tuple()
		}
		if len(parts) == 3 || !p.take(tokens.Colon) {
			break
		}
		parts = append(parts, nothing)
	}
	p.want(tokens.RightBracket, "]")
	if len(parts) == 1 {
		return getItem(e, parts[0], t)
	}
	return func(x *rendering) *exec.Value {
		v := e(x)
		if v.IsError() {
			return v
		}
		bounds := make([]any, 3)
		for i, part := range parts {
			b := part(x)
			if b.IsError() {
				return b
			}
			bounds[i] = unwrap(b)
		}
		if bad := x.spent(t, cost(v)); bad != nil {
			return bad
		}
		out, err := sliced(unwrap(v), bounds)
		if err != nil {
			return failure(t, err)
		}
		return exec.ToValue(out)
	}
}

func sliced(v any, b []any) (any, error) {
	step := 1
	if b[2] != nil {
		var ok bool
		if step, ok = b[2].(int); !ok || step == 0 {
			return nil, fmt.Errorf("the step of a slice is a whole number other than 0, this is %s", kind(b[2]))
		}
	}
	if step == 1 {
		return slice(v, b[0], b[1])
	}
	all, err := slice(v, nil, nil)
	if err != nil || all == nil {
		return nil, err
	}
	text, isText := all.(string)
	runes, items := []rune(text), []any(nil)
	if !isText {
		items = anyList(all)
	}
	n := len(runes) + len(items)
	bound := func(v any, otherwise, low, high int) (int, error) {
		if v == nil {
			return otherwise, nil
		}
		i, ok := v.(int)
		if !ok {
			return 0, fmt.Errorf("the bounds of a slice are whole numbers, this is %s", kind(v))
		}
		if i < 0 {
			i += n
		}
		return min(max(i, low), high), nil
	}
	from, to, low, high := 0, n, 0, n
	if step < 0 {
		from, to, low, high = n-1, -1, -1, n-1
	}
	if from, err = bound(b[0], from, low, high); err != nil {
		return nil, err
	}
	if to, err = bound(b[1], to, low, high); err != nil {
		return nil, err
	}
	out, letters := []any{}, []rune(nil)
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if isText {
			letters = append(letters, runes[i])
		} else {
			out = append(out, items[i])
		}
		if step > n || step < -n {
			break
		}
	}
	if isText {
		return string(letters), nil
	}
	return out, nil
}

// anyList is v as a list: the characters of a text, the keys of an object.
func anyList(v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case string:
		out := make([]any, 0, len(v))
		for _, r := range v {
			out = append(out, string(r))
		}
		return out
	case map[string]any:
		out := make([]any, 0, len(v))
		for _, k := range sortedKeys(v) {
			out = append(out, k)
		}
		return out
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice && r.Kind() != reflect.Array {
		return nil
	}
	out := make([]any, r.Len())
	for i := range out {
		out[i] = r.Index(i).Interface()
	}
	return out
}

// callValue calls a function or a macro.
func callValue(e eval, args arguments, t *tokens.Token) eval {
	return func(x *rendering) *exec.Value {
		f := e(x)
		if f.IsError() {
			return f
		}
		if !f.IsCallable() {
			return failure(t, fmt.Errorf("%s is no function", kind(unwrap(f))))
		}
		va, bad := args.values(x)
		if bad != nil {
			return bad
		}
		for _, a := range va.Args {
			if bad := x.spent(t, deepCost(a, maxWork)); bad != nil {
				return bad
			}
		}
		return placed(t, invoke(x, f, va))
	}
}

func invoke(x *rendering, f *exec.Value, va *exec.VarArgs) *exec.Value {
	switch f := f.Interface().(type) {
	case roleFunction:
		return result(f(x.task, va))
	case func(*exec.VarArgs) (*exec.Value, error):
		return result(f(va))
	case exec.Macro:
		return f(va)
	}
	fn := f.Val
	var in []reflect.Value
	for i := range fn.Type().NumIn() {
		switch fn.Type().In(i) {
		case reflect.TypeFor[*exec.Evaluator]():
			in = append(in, reflect.ValueOf(&x.Evaluator))
		case reflect.TypeFor[*exec.VarArgs]():
			in = append(in, reflect.ValueOf(va))
		default:
			return exec.AsValue(errors.New("this function cannot be called here"))
		}
	}
	if len(in) == 0 && len(va.Args)+len(va.KwArgs) > 0 {
		return exec.AsValue(errors.New("this function takes no arguments"))
	}
	out := fn.Call(in)
	if len(out) == 2 && !out[1].IsNil() {
		err, _ := out[1].Interface().(error)
		return exec.AsValue(err)
	}
	if len(out) == 0 {
		return exec.AsValue(nil)
	}
	return exec.ToValue(out[0].Interface())
}

func result(v *exec.Value, err error) *exec.Value {
	if err != nil {
		return exec.AsValue(err)
	}
	return v
}

// callMethod calls a function that is a field, or a method of a text, a list, an
// object or a number.
func callMethod(owner eval, set setter, name string, args arguments, t *tokens.Token) eval {
	return func(x *rendering) *exec.Value {
		v := owner(x)
		if v.IsError() {
			return v
		}
		va, bad := args.values(x)
		if bad != nil {
			return bad
		}
		switch o := v.Interface().(type) {
		case space:
			if f := exec.ToValue(o[name]); f.IsCallable() {
				return placed(t, invoke(x, f, va))
			}
		case map[string]any:
			if f := exec.ToValue(o[name]); f.IsCallable() {
				return placed(t, invoke(x, f, va))
			}
		case itemObject, rowObject, paramObject, agentObject, agentList, turnObject, absent:
		case exec.AttributeGetter:
			if f, ok := o.GetAttribute(name); ok && f.IsCallable() {
				return placed(t, invoke(x, f, va))
			}
		}
		if name != "get" {
			if bad := x.spent(t, roundWork+cost(v)); bad != nil {
				return bad
			}
		}
		out, err := method(v, name, va, func(v any) error {
			if set == nil {
				return fmt.Errorf("%s would change a value that has no name", name)
			}
			if err := x.grow(va); err != nil {
				return err
			}
			return set(x, v)
		})
		if err != nil {
			return failure(t, fmt.Errorf("%s: %w", name, err))
		}
		return exec.ToValue(out)
	}
}
