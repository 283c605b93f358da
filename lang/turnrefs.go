package lang

import (
	"slices"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"

	"matrix/lang/jinja"
)

// Source is a compiled Expr or Template, as those see it who check what it looks
// at.
type Source interface {
	Fields() []string
	Roles() []string
	Leases() []string
	TurnRefs() []TurnRef
	Fixed() bool
	String() string
}

var _, _ Source = (*Expr)(nil), (*Template)(nil)

// TurnRef is a place where a source refers to a field of a turn.
type TurnRef struct {
	Role  string // whose turn it is, named by turn(role) and its like; empty for last
	Path  []Step // what is taken of the turn: data, then score
	Sure  bool   // it is looked at whenever the source is evaluated, and nothing is said of what it lacks
	Asked []Text // the texts that it is compared with, where it is compared

	Line, Column int // where it begins, from 1
}

// Step is the name of a field, or "#" for an element of a list.
type Step = jinja.Step

// Text is a text in a source.
type Text = jinja.Text

// TurnRefs returns where the expression refers to turns whose role it tells: the newest
// one, and those that it names.
func (e *Expr) TurnRefs() []TurnRef { return e.refs }

// Fixed reports whether the expression is the same for every task.
func (e *Expr) Fixed() bool { return e.fixed }

// TurnRefs returns where the template refers to turns whose role it tells: the newest
// one, and those that it names.
func (t *Template) TurnRefs() []TurnRef { return t.refs }

// Fixed reports whether the template renders the same for every task.
func (t *Template) Fixed() bool { return !t.varies }

// Compared are the texts that a local is compared with.
func (e *Expr) Compared(local string) []Text { return e.compared[local] }

// refFinder gathers the references to turns in an expression.
type refFinder struct {
	src      file.Source
	locals   []string
	refs     []TurnRef
	compared map[string][]Text // by local
	fixed    bool
}

// refContext is where a node of an expression stands.
type refContext struct {
	unsure  bool
	pointer *TurnRef            // what # stands for in a closure; nil unknown
	lets    map[string]*TurnRef // what variables stand for
}

func (l *refFinder) place(n ast.Node) (line, column int) {
	e := errorAt(l.src, n, "")
	return e.Line, e.Column
}

// path is the look that a chain of members makes; nil where it begins elsewhere.
// guarded is true behind ?.
func (l *refFinder) path(n ast.Node, at refContext) (ref *TurnRef, guarded bool) {
	switch x := n.(type) {
	case *ast.ChainNode:
		return l.path(x.Node, at)
	case *ast.IdentifierNode:
		if x.Value == "last" && at.lets["last"] == nil {
			ref = &TurnRef{}
		} else if of := at.lets[x.Value]; of != nil {
			ref = of
		}
	case *ast.PointerNode:
		if x.Name == "" {
			ref = at.pointer
		}
	case *ast.CallNode:
		if isName(x.Callee, "turn") || isName(x.Callee, "first") {
			if role, ok := soleText(x.Arguments); ok {
				ref = &TurnRef{Role: role}
			}
		}
	case *ast.MemberNode:
		of, guarded := l.path(x.Node, at)
		if of == nil {
			switch x.Property.(type) {
			case *ast.IntegerNode, *ast.UnaryNode:
				return l.elements(x.Node, at), false
			}
			return nil, false
		}
		step := Step{}
		step.Line, step.Column = l.place(x.Property)
		switch p := x.Property.(type) {
		case *ast.StringNode:
			step.Name = p.Value
		case *ast.IntegerNode, *ast.UnaryNode:
			step.Name = "#"
		default:
			return nil, false
		}
		further := *of
		further.Path = append(slices.Clone(of.Path), step)
		return &further, guarded || x.Optional
	}
	if ref != nil && ref.Line == 0 {
		at := *ref
		at.Line, at.Column = l.place(n)
		ref = &at
	}
	return ref, false
}

func soleText(args []ast.Node) (string, bool) {
	if len(args) != 1 {
		return "", false
	}
	s, ok := args[0].(*ast.StringNode)
	if !ok {
		return "", false
	}
	return s.Value, true
}

// elements is what the elements of a list are, as far as that is known.
func (l *refFinder) elements(n ast.Node, at refContext) *TurnRef {
	switch x := n.(type) {
	case *ast.CallNode:
		if isName(x.Callee, "turns_of") {
			if role, ok := soleText(x.Arguments); ok {
				ref := &TurnRef{Role: role}
				ref.Line, ref.Column = l.place(n)
				return ref
			}
		}
		return nil
	case *ast.BuiltinNode:
		if slices.Contains([]string{"filter", "sort", "sortBy", "reverse", "take", "uniq"}, x.Name) && len(x.Arguments) > 0 {
			return l.elements(x.Arguments[0], at)
		}
		return nil
	}
	of, _ := l.path(n, at)
	if of == nil {
		return nil
	}
	in := *of
	in.Path = append(slices.Clone(of.Path), Step{Name: "#"})
	return &in
}

func (l *refFinder) node(n ast.Node, at refContext) {
	if of, guarded := l.path(n, at); of != nil {
		l.add(of, at, guarded, nil)
		l.inside(n, at)
		return
	}
	maybe := at
	maybe.unsure = true
	switch x := n.(type) {
	case *ast.IdentifierNode:
		if slices.Contains(environment, x.Value) && x.Value != "params" {
			l.fixed = false
		}
	case *ast.CallNode:
		if callee, ok := x.Callee.(*ast.IdentifierNode); ok && (isRoleFunction(callee.Value) || callee.Value == leaseFunction || isSampler(callee.Value)) {
			l.fixed = false
		}
		for _, arg := range x.Arguments {
			l.node(arg, at)
		}
	case *ast.BinaryNode:
		l.binary(x, at)
	case *ast.ConditionalNode:
		l.node(x.Cond, maybe)
		l.node(x.Exp1, maybe)
		l.node(x.Exp2, maybe)
	case *ast.BuiltinNode:
		for i, arg := range x.Arguments {
			if _, closure := arg.(*ast.PredicateNode); closure && i > 0 {
				in := maybe
				in.pointer = l.elements(x.Arguments[0], at)
				l.node(arg, in)
				continue
			}
			l.node(arg, at)
		}
	case *ast.VariableDeclaratorNode:
		l.node(x.Value, at)
		in := at
		in.lets = map[string]*TurnRef{}
		for name, of := range at.lets {
			in.lets[name] = of
		}
		in.lets[x.Name], _ = l.path(x.Value, at)
		l.node(x.Expr, in)
	default:
		children(n, func(c *ast.Node) { l.node(*c, at) })
	}
}

// inside goes through what stands in the brackets of a chain.
func (l *refFinder) inside(n ast.Node, at refContext) {
	switch x := n.(type) {
	case *ast.ChainNode:
		l.inside(x.Node, at)
	case *ast.MemberNode:
		l.inside(x.Node, at)
		if _, literal := x.Property.(*ast.StringNode); !literal {
			l.node(x.Property, at)
		}
	}
}

func (l *refFinder) binary(x *ast.BinaryNode, at refContext) {
	left, right := at, at
	switch x.Operator {
	case "??":
		left.unsure, right.unsure = true, true
	case "&&", "and", "||", "or":
		right.unsure = true
	case "==", "!=", "in":
		texts := l.texts(x.Right)
		side := x.Left
		if texts == nil && x.Operator != "in" {
			texts, side = l.texts(x.Left), x.Right
		}
		if of, guarded := l.path(side, at); of != nil && texts != nil {
			l.add(of, at, guarded, texts)
			l.inside(side, at)
			return
		}
		if name := l.local(side); name != "" && texts != nil {
			if l.compared == nil {
				l.compared = map[string][]Text{}
			}
			l.compared[name] = append(l.compared[name], texts...)
		}
		for _, side := range []ast.Node{x.Left, x.Right} { // nil is what it is asked for
			if _, ok := side.(*ast.NilNode); ok {
				left.unsure, right.unsure = true, true
			}
		}
	}
	l.node(x.Left, left)
	l.node(x.Right, right)
}

// local is the name of the local that n is; empty for anything else.
func (l *refFinder) local(n ast.Node) string {
	if x, ok := n.(*ast.MemberNode); ok && isName(x.Node, "@locals") {
		if i, ok := x.Property.(*ast.IntegerNode); ok {
			return l.locals[i.Value]
		}
	}
	return ""
}

// texts are the texts of a literal text, or of a list of them; nil otherwise.
func (l *refFinder) texts(n ast.Node) []Text {
	var nodes []ast.Node
	switch x := n.(type) {
	case *ast.StringNode:
		nodes = []ast.Node{x}
	case *ast.ArrayNode:
		nodes = x.Nodes
	}
	var out []Text
	for _, n := range nodes {
		s, ok := n.(*ast.StringNode)
		if !ok {
			return nil
		}
		t := Text{Text: s.Value}
		t.Line, t.Column = l.place(n)
		out = append(out, t)
	}
	return out
}

func (l *refFinder) add(of *TurnRef, at refContext, guarded bool, asked []Text) {
	l.fixed = false
	ref := *of
	ref.Sure, ref.Asked = !at.unsure && !guarded, asked
	l.refs = append(l.refs, ref)
}
