package lang

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
)

// LabelExpr is a compiled condition over the labels of a machine, in the language
// of Expr: `gpu in ["h100", "a100"] and region == "eu"`. Labels are texts, and one
// that the machine does not have is nil. It sees params, and nothing of tasks.
type LabelExpr struct {
	expr   *Expr
	labels []string
}

// CompileLabelExpr compiles src. What can only be a mistake of a label is an error,
// such as one that is compared with a number. The error is an *Error.
func CompileLabelExpr(src string, p Params) (*LabelExpr, error) {
	f := labelFinder{}
	if strings.TrimSpace(src) != "" && len(src) <= maxExpr {
		tree, err := parser.ParseWithConfig(src, exprConfig())
		if err != nil {
			return nil, addHint(src, located(err))
		}
		f.src = tree.Source
		f.node(tree.Node, nil)
	}
	if f.err != nil {
		return nil, f.err
	}
	e, err := CompileExpr(src, p, f.labels...)
	if err != nil {
		return nil, err
	}
	x := &LabelExpr{e, f.labels}
	if _, err := x.Match(nil); err != nil {
		return nil, &Error{Msg: fmt.Sprintf("fails on a machine without these labels: %v; label ?? \"\" is a text where the label is not there", err)}
	}
	some := map[string]string{}
	for _, label := range x.labels {
		some[label] = "1"
	}
	if _, err := x.Match(some); err != nil {
		return nil, &Error{Msg: fmt.Sprintf("fails where labels are \"1\": %v; labels are texts", err)}
	}
	return x, nil
}

// String returns the source.
func (x *LabelExpr) String() string { return x.expr.String() }

// Match reports whether the condition holds for a machine with these labels. The
// error is an *Error.
func (x *LabelExpr) Match(labels map[string]string) (bool, error) {
	values := make([]any, len(x.labels))
	for i, name := range x.labels {
		if v, ok := labels[name]; ok {
			values[i] = v
		}
	}
	m := machines.Get().(*machine)
	defer m.release()
	out, err := m.run(x.expr, nil, values)
	if err != nil {
		return false, err
	}
	b, err := truth(out)
	if err != nil {
		return false, &Error{Msg: err.Error()}
	}
	return b, nil
}

var labelName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckLabel says what is wrong with the name of a label; nil where a LabelExpr can
// look at it.
func CheckLabel(name string) error {
	c := exprConfig()
	switch {
	case !labelName.MatchString(name):
		return fmt.Errorf("%q is not a name for a label: use letters, digits and _, and begin with a letter", name)
	case slices.Contains(environment, name) || c.Functions[name] != nil || c.Builtins[name] != nil || slices.Contains(reserved, name):
		return fmt.Errorf("%q cannot be the name of a label: expressions mean something else by it", name)
	}
	return nil
}

// reserved are the words of the language that are no names.
var reserved = []string{"and", "or", "not", "in", "let", "if", "else", "matches", "contains", "startsWith", "endsWith", "true", "false", "nil"}

// labelFinder finds the labels that an expression looks at, and what is said of
// them that cannot be meant. It stops at the first such thing.
type labelFinder struct {
	src    file.Source
	labels []string
	err    *Error
}

func (f *labelFinder) fail(at ast.Node, format string, args ...any) {
	if f.err == nil {
		f.err = errorAt(f.src, at, fmt.Sprintf(format, args...))
	}
}

// node looks at n; lets are the variables in scope.
func (f *labelFinder) node(n ast.Node, lets []string) {
	if f.err != nil {
		return
	}
	switch x := n.(type) {
	case *ast.IdentifierNode:
		if f.label(x, lets) && !slices.Contains(f.labels, x.Value) {
			f.labels = append(f.labels, x.Value)
		} else if slices.Contains(environment, x.Value) && x.Value != "params" && !slices.Contains(lets, x.Value) {
			f.fail(x, "%s is of a task, and this is asked of a machine: it sees labels and params", x.Value)
		}
		return
	case *ast.CallNode:
		if name, ok := x.Callee.(*ast.IdentifierNode); ok {
			if slices.Contains(roleFunctions, name.Value) {
				f.fail(x, "%s() is of a task, and this is asked of a machine: it sees labels and params", name.Value)
			}
			for _, a := range x.Arguments {
				f.node(a, lets)
			}
			return
		}
	case *ast.MemberNode:
		if key, ok := x.Property.(*ast.StringNode); ok && f.label(x.Node, lets) {
			f.fail(x, "a label is a text and has no %q: labels stand by their names alone, as in gpu == \"h100\"", key.Value)
		}
	case *ast.BinaryNode:
		f.compared(x, x.Left, x.Right, lets)
		f.compared(x, x.Right, x.Left, lets)
	case *ast.VariableDeclaratorNode:
		f.node(x.Value, lets)
		f.node(x.Expr, append(slices.Clone(lets), x.Name))
		return
	}
	children(n, func(c *ast.Node) { f.node(*c, lets) })
}

// label reports whether n is a label.
func (f *labelFinder) label(n ast.Node, lets []string) bool {
	x, ok := n.(*ast.IdentifierNode)
	return ok && !slices.Contains(lets, x.Value) && !slices.Contains(environment, x.Value)
}

// compared refuses a comparison of a label with what is no text: it never holds.
func (f *labelFinder) compared(x *ast.BinaryNode, label, with ast.Node, lets []string) {
	if !f.label(label, lets) {
		return
	}
	name := label.(*ast.IdentifierNode).Value
	switch x.Operator {
	case "==", "!=", "<", "<=", ">", ">=":
	case "in":
		if list, ok := with.(*ast.ArrayNode); ok && label == x.Left {
			for _, item := range list.Nodes {
				f.text(x, name, item)
			}
		}
		return
	default:
		return
	}
	f.text(x, name, with)
}

func (f *labelFinder) text(x *ast.BinaryNode, label string, n ast.Node) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		f.fail(x, "a label is a text, and %d a number: write %s == \"%d\", or int(%s ?? 0) to compare as numbers", n.Value, label, n.Value, label)
	case *ast.FloatNode:
		f.fail(x, "a label is a text, and %v a number: float(%s ?? 0) compares as numbers", n.Value, label)
	case *ast.BoolNode:
		f.fail(x, "a label is a text, and %v is none: write %s == \"%v\"", n.Value, label, n.Value)
	}
}
