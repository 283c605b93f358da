package lang

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/checker/nature"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
)

// namer resolves the names of a parsed expression: params become constants,
// locals elements of a list, and literal regular expressions are compiled. It
// stops at the first name that it does not know.
type namer struct {
	src       file.Source
	params    Params
	locals    []string
	functions conf.FunctionsTable
	builtins  conf.FunctionsTable

	guarded bool // left of ??
	uses    uses
	used    map[string]bool // locals
	tested  map[string]bool // fields tested with `"x" in item`
	err     *Error
}

func (n *namer) fail(at ast.Node, format string, args ...any) {
	if n.err == nil {
		n.err = errorAt(n.src, at, fmt.Sprintf(format, args...))
	}
}

func errorAt(src file.Source, at ast.Node, msg string) *Error {
	return located((&file.Error{Location: at.Location(), Message: msg}).Bind(src))
}

// node resolves the names under *p; lets are the variables in scope.
func (n *namer) node(p *ast.Node, lets []string) {
	if n.err != nil {
		return
	}
	switch x := (*p).(type) {
	case *ast.IdentifierNode:
		n.name(p, x, lets)
	case *ast.MemberNode:
		n.member(p, x, lets)
	case *ast.CallNode:
		n.call(x, lets)
	case *ast.VariableDeclaratorNode:
		n.node(&x.Value, lets)
		if slices.Contains(n.locals, x.Name) {
			n.fail(x, "let hides the field %s, choose another name", x.Name)
			return
		}
		n.node(&x.Expr, append(slices.Clone(lets), x.Name))
	case *ast.BinaryNode:
		if s, ok := x.Left.(*ast.StringNode); ok && x.Operator == "in" && isName(x.Right, "item") {
			if n.tested == nil {
				n.tested = map[string]bool{}
			}
			n.tested[s.Value] = true
		}
		guarded := n.guarded
		n.guarded = guarded || x.Operator == "??"
		n.node(&x.Left, lets)
		n.guarded = guarded
		n.node(&x.Right, lets)
	default:
		children(*p, func(c *ast.Node) { n.node(c, lets) })
	}
}

func (n *namer) name(p *ast.Node, x *ast.IdentifierNode, lets []string) {
	if slices.Contains(lets, x.Value) {
		return
	}
	if i := slices.Index(n.locals, x.Value); i >= 0 {
		if n.used == nil {
			n.used = map[string]bool{}
		}
		n.used[x.Value] = true
		base := &ast.IdentifierNode{Value: "@locals"}
		base.SetLocation(x.Location())
		at := &ast.IntegerNode{Value: i}
		at.SetLocation(x.Location())
		ast.Patch(p, &ast.MemberNode{Node: base, Property: at})
		return
	}
	switch x.Value {
	case "item":
		n.uses.item = true
	case "turns":
		n.uses.turns = true
	case "last":
		n.uses.last = true
	case "params":
		ast.Patch(p, &ast.ConstantNode{Value: map[string]any(n.params)})
	}
	if slices.Contains(environment, x.Value) {
		return
	}
	if n.functions[x.Value] != nil || n.builtins[x.Value] != nil {
		n.fail(x, "%s is a function, call it: %s(...)", x.Value, x.Value)
		return
	}
	n.fail(x, "unknown name %s%s", x.Value, didYouMean(x.Value, slices.Concat(environment, n.locals, lets)))
}

func (n *namer) member(p *ast.Node, x *ast.MemberNode, lets []string) {
	key, literal := x.Property.(*ast.StringNode)
	if literal && isName(x.Node, "params") && !slices.Contains(lets, "params") {
		v, ok := n.params[key.Value]
		if !ok && !x.Optional && !n.guarded {
			have := make([]string, 0, len(n.params))
			for k := range n.params {
				have = append(have, k)
			}
			slices.Sort(have)
			n.fail(x.Property, "params has no %s%s", key.Value, didYouMean(key.Value, have))
			return
		}
		ast.Patch(p, constant(v))
		return
	}
	if literal && isTurn(x.Node) {
		if fields := []string{"role", "text", "data", "error", "samples"}; !slices.Contains(fields, key.Value) {
			n.fail(x.Property, "a turn has no %s%s, it has role, text, data, error and samples",
				key.Value, didYouMean(key.Value, fields))
			return
		}
	}
	n.node(&x.Node, lets)
	n.node(&x.Property, lets)
}

// isTurn says whether node is written as a turn: last, turns[...], turn(...)
// or first(...).
func isTurn(node ast.Node) bool {
	switch x := node.(type) {
	case *ast.IdentifierNode:
		return x.Value == "last"
	case *ast.MemberNode:
		return isName(x.Node, "turns")
	case *ast.CallNode:
		return isName(x.Callee, "turn") || isName(x.Callee, "first")
	}
	return false
}

func (n *namer) call(x *ast.CallNode, lets []string) {
	callee, ok := x.Callee.(*ast.IdentifierNode)
	if !ok {
		n.fail(x, "values have no methods: write f(x), or x | f(), not x.f()")
		return
	}
	f := n.functions[callee.Value]
	if f == nil || callee.Value[0] == '@' {
		names := make([]string, 0, 100)
		for name := range n.functions {
			if name[0] != '@' {
				names = append(names, name)
			}
		}
		for name := range n.builtins {
			names = append(names, name)
		}
		slices.Sort(names)
		n.fail(x, "unknown function %s%s", callee.Value, didYouMean(callee.Value, names))
		return
	}
	for i := range x.Arguments {
		n.node(&x.Arguments[i], lets)
	}
	if n.err != nil || len(x.Arguments) < 2 {
		return
	}
	switch callee.Value {
	case "find", "findall", "sub":
		s, ok := x.Arguments[1].(*ast.StringNode)
		if !ok {
			return
		}
		re, err := compileRegexp(s.Value)
		if err != nil {
			n.fail(s, "%v", err)
			return
		}
		ast.Patch(&x.Arguments[1], &ast.ConstantNode{Value: re})
	}
}

func constant(v any) ast.Node {
	switch v := v.(type) {
	case nil:
		return &ast.NilNode{}
	case bool:
		return &ast.BoolNode{Value: v}
	case int:
		return &ast.IntegerNode{Value: v}
	case float64:
		return &ast.FloatNode{Value: v}
	case string:
		return &ast.StringNode{Value: v}
	}
	return &ast.ConstantNode{Value: v}
}

func isName(node ast.Node, name string) bool {
	x, ok := node.(*ast.IdentifierNode)
	return ok && x.Value == name
}

func didYouMean(name string, candidates []string) string {
	if near := nearest(name, candidates); near != "" {
		return ", did you mean " + near + "?"
	}
	return ""
}

// children calls f for each child of node.
func children(node ast.Node, f func(*ast.Node)) {
	all := func(list []ast.Node) {
		for i := range list {
			f(&list[i])
		}
	}
	switch x := node.(type) {
	case *ast.UnaryNode:
		f(&x.Node)
	case *ast.BinaryNode:
		f(&x.Left)
		f(&x.Right)
	case *ast.ChainNode:
		f(&x.Node)
	case *ast.MemberNode:
		f(&x.Node)
		f(&x.Property)
	case *ast.SliceNode:
		f(&x.Node)
		if x.From != nil {
			f(&x.From)
		}
		if x.To != nil {
			f(&x.To)
		}
	case *ast.CallNode:
		all(x.Arguments)
	case *ast.BuiltinNode:
		all(x.Arguments)
	case *ast.PredicateNode:
		f(&x.Node)
	case *ast.ConditionalNode:
		f(&x.Cond)
		f(&x.Exp1)
		f(&x.Exp2)
	case *ast.VariableDeclaratorNode:
		f(&x.Value)
		f(&x.Expr)
	case *ast.SequenceNode:
		all(x.Nodes)
	case *ast.ArrayNode:
		all(x.Nodes)
	case *ast.MapNode:
		all(x.Pairs)
	case *ast.PairNode:
		f(&x.Key)
		f(&x.Value)
	}
}

// rewriter gives a checked expression the meaning that Expr documents, by
// calls of hidden functions where the library would do otherwise.
type rewriter struct {
	src    file.Source
	fields map[string]bool // of the item, surely read
	roles  map[string]bool
	err    *Error
}

// place is where a node stands.
type place struct {
	guarded     bool // a missing field is nil here
	conditional bool // not evaluated always
	loops       int  // closures around it
}

func (w *rewriter) fieldNames(tested map[string]bool) []string {
	for f := range tested {
		delete(w.fields, f)
	}
	return sorted(w.fields)
}

func (w *rewriter) node(p *ast.Node, at place) {
	switch x := (*p).(type) {
	case *ast.MemberNode:
		w.member(p, x, at)
	case *ast.ChainNode:
		w.node(&x.Node, at)
		*p = x.Node // what ?. adds is done by look
	case *ast.BinaryNode:
		w.binary(p, x, at)
	case *ast.UnaryNode:
		w.node(&x.Node, at)
		if x.Operator == "not" || x.Operator == "!" {
			condition(&x.Node)
		}
	case *ast.ConditionalNode:
		w.node(&x.Cond, at)
		condition(&x.Cond)
		at.conditional = true
		w.node(&x.Exp1, at)
		w.node(&x.Exp2, at)
	case *ast.CallNode:
		w.call(p, x, at)
	case *ast.BuiltinNode:
		for i := range x.Arguments {
			if closure, ok := x.Arguments[i].(*ast.PredicateNode); ok {
				w.closure(x.Name, closure, at)
			} else {
				w.node(&x.Arguments[i], at)
			}
		}
	default:
		children(*p, func(c *ast.Node) { w.node(c, at) })
	}
}

func (w *rewriter) closure(name string, x *ast.PredicateNode, at place) {
	at.conditional = true
	at.loops++
	w.node(&x.Node, at)
	switch name {
	case "all", "none", "any", "one", "filter", "findIndex", "findLast", "findLastIndex", "count":
		condition(&x.Node)
	}
	if at.loops > 1 {
		boolean := x.Node.Type().Kind() == reflect.Bool
		wrap(&x.Node, hiddenTick, envNode(x), x.Node)
		if boolean {
			wrap(&x.Node, hiddenTruth, x.Node)
		}
	}
}

func (w *rewriter) member(p *ast.Node, x *ast.MemberNode, at place) {
	w.node(&x.Property, place{conditional: at.conditional, loops: at.loops})
	strict, name, optional := chain(x)
	guarded := at.guarded || optional || !strict
	field, literal := x.Property.(*ast.StringNode)
	if isName(x.Node, "item") && literal && !guarded && !at.conditional {
		if w.fields == nil {
			w.fields = map[string]bool{}
		}
		w.fields[field.Value] = true
	}
	typed := ofTurn(x.Node.Type())
	local := isName(x.Node, "@locals")
	w.node(&x.Node, at)
	x.Optional = false
	switch {
	case typed || local:
	case guarded:
		wrap(p, hiddenLook, x.Node, x.Property)
	default:
		wrap(p, hiddenNeed, x.Node, x.Property, &ast.StringNode{Value: name})
	}
}

// chain looks along a.b.c: strict when it begins at item, with the source text
// of what stands before the last field, and whether a ?. is on the way.
func chain(x *ast.MemberNode) (strict bool, name string, optional bool) {
	node := x.Node
	optional = x.Optional
	for {
		switch y := node.(type) {
		case *ast.ChainNode:
			node = y.Node
			continue
		case *ast.MemberNode:
			optional = optional || y.Optional
			node = y.Node
			continue
		case *ast.IdentifierNode:
			strict = y.Value == "item"
		case *ast.ConstantNode:
			strict = true // of params
		}
		if strict {
			name = x.Node.String()
			if _, isConst := node.(*ast.ConstantNode); isConst {
				name = "the param"
			}
		}
		return strict, name, optional
	}
}

// ofTurn says whether the library itself can fetch from type t as it should: a
// turn, a sample, or a list of them.
func ofTurn(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[turn](), reflect.TypeFor[*turn](), reflect.TypeFor[sample](),
		reflect.TypeFor[[]turn](), reflect.TypeFor[[]sample]():
		return true
	}
	return false
}

func (w *rewriter) binary(p *ast.Node, x *ast.BinaryNode, at place) {
	left, right := at, at
	switch x.Operator {
	case "??":
		left.guarded, right.conditional = true, true
	case "&&", "and", "||", "or":
		right.conditional = true
	}
	w.node(&x.Left, left)
	w.node(&x.Right, right)
	switch op := x.Operator; op {
	case "&&", "and", "||", "or":
		condition(&x.Left)
		condition(&x.Right)
	case "<", "<=", ">", ">=":
		if !known(x.Left) || !known(x.Right) {
			wrap(p, comparisons[op], x.Left, x.Right)
		}
	case "+":
		if !number(x.Left) || !number(x.Right) {
			wrap(p, hiddenAdd, envNode(x), x.Left, x.Right)
		}
	}
}

func (w *rewriter) call(p *ast.Node, x *ast.CallNode, at place) {
	for i := range x.Arguments {
		w.node(&x.Arguments[i], at)
	}
	x.SetNature(nature.Nature{}) // to be checked anew
	callee, ok := x.Callee.(*ast.IdentifierNode)
	if !ok || !isRoleFunction(callee.Value) || len(x.Arguments) != 1 {
		return
	}
	if s, ok := x.Arguments[0].(*ast.StringNode); ok {
		if w.roles == nil {
			w.roles = map[string]bool{}
		}
		w.roles[s.Value] = true
	}
	typ := callee.Type()
	wrap(p, "@"+callee.Value, envNode(x), x.Arguments[0])
	if typ.Kind() == reflect.Func {
		(*p).SetType(typ.Out(0))
	}
}

// wrap replaces *p by a call of a hidden function.
func wrap(p *ast.Node, function string, args ...ast.Node) {
	callee := &ast.IdentifierNode{Value: function}
	at := (*p).Location()
	callee.SetLocation(at)
	for _, a := range args {
		if a.Location() == (file.Location{}) {
			a.SetLocation(at)
		}
	}
	ast.Patch(p, &ast.CallNode{Callee: callee, Arguments: args})
}

func envNode(at ast.Node) ast.Node {
	n := &ast.IdentifierNode{Value: hiddenEnv}
	n.SetLocation(at.Location())
	return n
}

// condition makes *p a condition where its type is not known to be bool.
func condition(p *ast.Node) {
	switch x := (*p).(type) {
	case *ast.CallNode: // a hidden one has no type yet
		if c, ok := x.Callee.(*ast.IdentifierNode); ok {
			switch c.Value {
			case "@lt", "@le", "@gt", "@ge", hiddenTruth:
				return
			}
		}
	default:
		if x.Type().Kind() == reflect.Bool {
			return
		}
	}
	wrap(p, hiddenTruth, *p)
}

// known says whether the type of a node is one that the library orders.
func known(n ast.Node) bool {
	t := n.Type()
	switch t.Kind() {
	case reflect.Int, reflect.Float64, reflect.String:
		return true
	}
	return t == reflect.TypeFor[time.Time]()
}

func number(n ast.Node) bool {
	k := n.Type().Kind()
	return (k == reflect.Int || k == reflect.Float64) && n.Type() != reflect.TypeFor[time.Duration]()
}
