package lang

import (
	"fmt"
	"slices"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"

	"matrix/lang/internal/calc"
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
		if s, ok := x.Right.(*ast.StringNode); ok && x.Operator == "matches" {
			if _, err := compileRegexp(s.Value); err != nil {
				n.fail(s, "%v", err)
			}
		}
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
	case "parent", "children":
		n.uses.tree = true
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
	n.fail(x, "%s", unknownName(x.Value, slices.Concat(environment, n.locals, lets)))
	n.err.Name = x.Value
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
			n.fail(x.Property, "params has no %s%s", key.Value, calc.DidYouMean(key.Value, have))
			return
		}
		ast.Patch(p, constant(v))
		return
	}
	if literal && isTurn(x.Node) && !slices.Contains(turnFields, key.Value) {
		n.fail(x.Property, "%s", noTurnField(key.Value))
		return
	}
	if of, ok := x.Node.(*ast.MemberNode); ok && literal && isTurn(of.Node) {
		if s, ok := of.Property.(*ast.StringNode); ok && s.Value == "call" && !slices.Contains(callFields, key.Value) {
			n.fail(x.Property, "a call has no %s%s", key.Value, calc.DidYouMean(key.Value, callFields))
			return
		}
	}
	if literal && isName(x.Node, "turns") && !slices.Contains(lets, "turns") {
		n.fail(x.Property, "%s", turnsField(key.Value))
		return
	}
	n.node(&x.Node, lets)
	n.node(&x.Property, lets)
}

// isTurn reports whether node is written as a turn: last, turns[...], turn(...)
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
		if own := foreignNames[callee.Value]; own != "" {
			n.fail(x, "unknown function %s, did you mean %s?", callee.Value, own)
			return
		}
		n.fail(x, "unknown function %s%s", callee.Value, calc.DidYouMean(callee.Value, names))
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
		if by, ok := x.Arguments[len(x.Arguments)-1].(*ast.StringNode); ok && callee.Value == "sub" && len(x.Arguments) == 3 {
			if _, err := template(by.Value, re.NumSubexp()); err != nil {
				n.fail(by, "%v", err)
				return
			}
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
