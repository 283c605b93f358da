package lang

import (
	"reflect"
	"time"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/checker/nature"
	"github.com/expr-lang/expr/file"
)

// rewriter gives a checked expression the meaning that Expr documents, by
// calls of hidden functions where the library would do otherwise.
type rewriter struct {
	src    file.Source
	fields map[string]bool // of the item, surely read
	roles  map[string]bool
	leases map[string]bool // pools
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
		switch x.Operator {
		case "not", "!":
			condition(&x.Node)
		case "-":
			if _, ok := x.Node.(*ast.IntegerNode); !ok {
				wrap(p, hiddenMinus, x.Node)
			}
		}
	case *ast.SliceNode:
		typed := ofTurn(x.Node.Type())
		children(x, func(c *ast.Node) { w.node(c, at) })
		if !typed {
			wrap(p, hiddenSlice, envNode(x), x.Node, orNil(x.From), orNil(x.To))
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
		if x.Name == "sum" {
			list := x.Arguments[0]
			if len(x.Arguments) > 1 {
				list = &ast.BuiltinNode{Name: "map", Arguments: x.Arguments}
				list.SetLocation(x.Location())
			}
			w.costs(&list, at)
			wrap(p, hiddenSum, list)
			return
		}
		for i := range x.Arguments {
			if _, isClosure := x.Arguments[len(x.Arguments)-1].(*ast.PredicateNode); !isClosure {
				w.costs(&x.Arguments[i], at)
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
		wrap(p, hiddenLookup, envNode(x), x.Node, x.Property)
	default:
		wrap(p, hiddenNeed, envNode(x), x.Node, x.Property, &ast.StringNode{Value: name})
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

// ofTurn reports whether the library itself can fetch from type t as it should: a
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
	case "==", "!=", "startsWith", "endsWith":
		w.costs(&x.Left, at)
	case "matches":
		w.costsTimes(&x.Left, at, regexpWork)
		w.costsTimes(&x.Right, at, patternWork)
	case "in":
		w.costs(&x.Right, at)
	case "contains":
		w.costs(&x.Left, at)
		w.costs(&x.Right, at)
	case "&&", "and", "||", "or":
		condition(&x.Left)
		condition(&x.Right)
	case "<", "<=", ">", ">=":
		if !known(x.Left) || !known(x.Right) {
			wrap(p, comparisons[op], x.Left, x.Right)
		}
	case "+":
		wrap(p, hiddenAdd, envNode(x), x.Left, x.Right)
	case "-", "*", "/", "%", "**", "^":
		wrap(p, operators[op], x.Left, x.Right)
	}
}

func (w *rewriter) call(p *ast.Node, x *ast.CallNode, at place) {
	name, _ := x.Callee.(*ast.IdentifierNode)
	searches := name != nil && (name.Value == "find" || name.Value == "findall" || name.Value == "sub")
	reads := name != nil && (name.Value == "chunk" || name.Value == "lang")
	for i := range x.Arguments {
		w.node(&x.Arguments[i], at)
		switch {
		case (searches || reads) && i == 0:
			w.costsTimes(&x.Arguments[i], at, regexpWork)
		case searches && i == 1:
			w.costsTimes(&x.Arguments[i], at, patternWork)
		default:
			w.costs(&x.Arguments[i], at)
		}
	}
	x.SetNature(nature.Nature{}) // to be checked anew
	callee, ok := x.Callee.(*ast.IdentifierNode)
	if ok && isSampler(callee.Value) {
		wrap(p, "@"+callee.Value, append([]ast.Node{envNode(x)}, x.Arguments...)...)
		return
	}
	if !ok || !isRoleFunction(callee.Value) && callee.Value != leaseFunction || len(x.Arguments) != 1 {
		return
	}
	named := &w.roles
	if callee.Value == leaseFunction {
		named = &w.leases
	}
	if s, ok := x.Arguments[0].(*ast.StringNode); ok {
		if *named == nil {
			*named = map[string]bool{}
		}
		(*named)[s.Value] = true
	} else if named == &w.leases && w.err == nil {
		w.err = errorAt(w.src, x, `lease takes the name of a pool as it stands in the config: lease("NAME")`)
	}
	typ := callee.Type()
	wrap(p, "@"+callee.Value, envNode(x), x.Arguments[0])
	if typ.Kind() == reflect.Func {
		(*p).SetType(typ.Out(0))
	}
}

// costs has the work of going through *p counted, where it is done in a loop and
// may be large.
func (w *rewriter) costs(p *ast.Node, at place) { w.costsTimes(p, at, 1) }

// costsTimes is costs for what takes so many times as long.
func (w *rewriter) costsTimes(p *ast.Node, at place, times int) {
	switch (*p).(type) {
	case *ast.NilNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode, *ast.ConstantNode, *ast.PredicateNode, *ast.ArrayNode:
		return
	}
	t := (*p).Type()
	switch {
	case at.loops == 0, ofTurn(t):
	case t.Kind() == reflect.Interface, t.Kind() == reflect.Invalid, t.Kind() == reflect.String, t.Kind() == reflect.Slice, t.Kind() == reflect.Map:
		wrap(p, hiddenCost, envNode(*p), *p, &ast.IntegerNode{Value: times})
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

func orNil(n ast.Node) ast.Node {
	if n == nil {
		return &ast.NilNode{}
	}
	return n
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

// known reports whether the type of a node is one that the library orders.
func known(n ast.Node) bool {
	t := n.Type()
	switch t.Kind() {
	case reflect.Int, reflect.Float64, reflect.String:
		return true
	}
	return t == reflect.TypeFor[time.Time]()
}
