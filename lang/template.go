package lang

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"matrix"
	"matrix/lang/internal/calc"
	"matrix/lang/jinja"
)

// Template is a compiled Jinja2 template over the same names and functions as
// Expr; rounds, turn and the others are called as in expressions. Package jinja
// says what is known to differ from Jinja2.
//
// A field that the row lacks is an error that names it, unless it is guarded
// (`item.x | default("")`, `item.x is defined`). What an agent may not have
// produced is empty: `last.data.x` prints nothing, is false and has no
// elements. What is random is the same each time for the same task and turn.
//
// A template may be rendered by many goroutines at once.
type Template struct {
	src      string
	compiled *jinja.Template
	params   Params
	hash     string
	fields   []string
	roles    []string
	leases   []string
	refs     []TurnRef
	varies   bool // what it renders hangs on the task
}

// CompileTemplate compiles src. Extra names are those that Render is given
// beyond the environment. The error is an *Error.
func CompileTemplate(src string, p Params, extra ...string) (*Template, error) {
	sum := sha256.Sum256([]byte(src))
	t := &Template{src: src, params: p, hash: hex.EncodeToString(sum[:6])}
	var err error
	if t.compiled, err = jinja.Compile(src, &jinja.Language{
		Names: slices.Concat(environment, roleFunctions, []string{leaseFunction}, slices.Collect(maps.Keys(samplers)), extra), Functions: templateFunctions(), Unknown: unknownName,
	}); err != nil {
		return nil, err
	}
	if err := t.analyse(extra); err != nil {
		return nil, err
	}
	return t, nil
}

// Fields names the fields of the item without which rendering surely fails,
// sorted: those that are read outside conditions and loops, and unguarded.
func (t *Template) Fields() []string { return t.fields }

// Roles names the roles that are given literally to rounds, turn, first and
// turns_of, sorted.
func (t *Template) Roles() []string { return t.roles }

// Leases names the pools that are given literally to lease, sorted.
func (t *Template) Leases() []string { return t.leases }

// Hash is the revision of the template: 12 hexadecimal digits that change with
// its source.
func (t *Template) Hash() string { return t.hash }

// String returns the source.
func (t *Template) String() string { return t.src }

// Render renders over task, which may be nil, and extra, whose values must be
// as those of Params. The error is an *Error.
func (t *Template) Render(task *matrix.Task, extra map[string]any) (string, error) {
	if task == nil {
		task = &matrix.Task{}
	}
	return t.compiled.Render(&taskEnv{task: task, params: t.params, extra: extra, src: t.src})
}

// taskEnv is what a template sees of a task.
type taskEnv struct {
	task   *matrix.Task
	params Params
	extra  map[string]any
	order  keyOrder
	row    origin
	item   object // the row, as soon as somebody asks
	turns  *turnList
	src    string     // of the template
	rand   *rand.Rand // as soon as a sampler is called
}

// Seed is that of the task at this turn.
func (e *taskEnv) Seed() (uint64, uint64) { return uint64(e.task.Seed), uint64(len(e.task.Turns)) }

// Lookup returns what a name stands for.
func (e *taskEnv) Lookup(name string) (any, bool) {
	if v, ok := e.extra[name]; ok {
		return foreign(v), true
	}
	switch name {
	case "id":
		return e.task.ID, true
	case "row":
		return e.task.Row, true
	case "trial":
		return e.task.Trial, true
	case "seed":
		return int(e.task.Seed), true
	case "params":
		return &object{"params", e.params, &origin{}}, true
	case "item":
		v := e.task.Item.Any()
		e.row = origin{value: &e.task.Item, order: &e.order}
		m, ok := v.(map[string]any)
		if !ok {
			return e.row.view(v), true
		}
		e.item = object{"item", m, &e.row}
		return &e.item, true
	case "turns":
		if e.turns == nil {
			e.turns = e.order.turns(e.task, func(*matrix.Turn) bool { return true })
		}
		return e.turns, true
	case "last":
		return e.order.turn(e.task.Last()), true
	case "parent":
		return e.order.lenient(parentOf(e.task)), true
	case "children":
		return e.order.lenient(childrenOf(e.task, later)), true
	case "rounds", "turn", "first", "turns_of":
		return jinja.Func(func(a *jinja.Args) (any, error) { return e.ofRole(name, a) }), true
	}
	if name == leaseFunction {
		return jinja.Func(func(a *jinja.Args) (any, error) {
			if len(a.List) != 1 || len(a.Named) > 0 {
				return nil, fmt.Errorf("lease takes the name of a pool")
			}
			v, err := leaseOf(e.task, a.List[0])
			return e.order.lenient(v), err
		}), true
	}
	if isSampler(name) {
		return jinja.Func(func(a *jinja.Args) (any, error) { return e.sample(name, a) }), true
	}
	return nil, false
}

// sample calls the sampler of that name.
func (e *taskEnv) sample(name string, a *jinja.Args) (any, error) {
	if e.rand == nil {
		e.rand = seeded(e.task, e.src, 0)
	}
	s := samplers[name]
	return function{min: s.min, max: s.max, call: func(args []any) (any, error) { return s.call(e.rand, args) }}.inTemplates(name)(a)
}

// ofRole calls the function of that name, which takes the name of a role.
func (e *taskEnv) ofRole(name string, a *jinja.Args) (any, error) {
	role, ok := "", false
	if len(a.List) == 1 && len(a.Named) == 0 {
		role, ok = a.List[0].(string)
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("%s takes the name of a role", name)
	case name == "rounds":
		return e.task.Rounds(role), nil
	case name == "turn":
		return e.order.turn(newestTurn(e.task, role)), nil
	case name == "first":
		return e.order.turn(oldestTurn(e.task, role)), nil
	}
	return e.order.turns(e.task, func(t *matrix.Turn) bool { return t.Role == role }), nil
}

// templateFunctions are those of expressions that need no task.
func templateFunctions() map[string]jinja.Func {
	all := map[string]jinja.Func{}
	for _, table := range []map[string]function{textFunctions(), valueFunctions()} {
		for name, f := range table {
			all[name] = f.inTemplates(name)
		}
	}
	return all
}

// inTemplates is f as templates call it.
func (f function) inTemplates(name string) jinja.Func {
	return func(a *jinja.Args) (any, error) {
		if len(a.Named) > 0 {
			return nil, fmt.Errorf("%s takes no named arguments", name)
		}
		if len(a.List) < f.min || len(a.List) > f.max {
			return nil, fmt.Errorf("%s takes %d arguments, got %d", name, f.max, len(a.List))
		}
		args := make([]any, len(a.List))
		for i, v := range a.List {
			var err error
			if args[i], err = jinja.Plain(v); err != nil {
				return nil, err
			}
		}
		if f.value != nil {
			v, err := f.value(args)
			return new(keyOrder).produced(&v), err
		}
		out, err := f.call(args)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return (&origin{lenient: true}).view(out), nil
	}
}

// analyse notes what the template looks at, and says what is not there.
func (t *Template) analyse(extra []string) error {
	fields, tested, roles, leases := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, u := range t.compiled.Uses() {
		if slices.Contains(environment, u.Name) && u.Name != "params" || isRoleFunction(u.Name) || u.Name == leaseFunction || isSampler(u.Name) || slices.Contains(extra, u.Name) {
			t.varies = true
		}
		if isRoleFunction(u.Name) && u.Argument != "" {
			roles[u.Argument] = true
		}
		if u.Name == leaseFunction {
			if u.Argument == "" {
				return &Error{Msg: `lease takes the name of a pool as it stands in the config: lease("NAME")`, Line: u.Line, Column: u.Column}
			}
			leases[u.Argument] = true
		}
		if u.Set {
			continue
		}
		if u.Name == "item" && u.In != "" {
			tested[u.In] = true
		}
		t.turnRef(u)
		if len(u.Path) == 0 || u.Called || u.Path[0].Name == "#" {
			continue
		}
		field, msg := u.Path[0], ""
		switch _, has := t.params[field.Name]; {
		case u.Name == "item" && u.Sure && !u.Guarded:
			fields[field.Name] = true
		case u.Name == "params" && !has && !u.Guarded:
			msg = "params has no " + field.Name + calc.DidYouMean(field.Name, sortedKeys(t.params))
		case u.Name == "turns":
			msg = turnsField(field.Name)
		case u.Name == "last" && !slices.Contains(turnFields, field.Name) && !u.Guarded:
			msg = noTurnField(field.Name)
		}
		if msg != "" {
			return &Error{Line: field.Line, Column: field.Column, Msg: msg}
		}
	}
	for f := range tested {
		delete(fields, f)
	}
	t.fields, t.roles, t.leases = sorted(fields), sorted(roles), sorted(leases)
	return nil
}

// turnRef notes where the template looks into a turn.
func (t *Template) turnRef(u jinja.Use) {
	if u.Name != "last" && ((u.Name != "turn" && u.Name != "first") || u.Argument == "") {
		return
	}
	ref := TurnRef{Role: u.Argument, Path: u.Path, Line: u.Line, Column: u.Column, Sure: u.Sure && !u.Asks && !u.Guarded}
	if u.Is != nil {
		ref.Asked = []Text{*u.Is}
	}
	t.refs = append(t.refs, ref)
}
