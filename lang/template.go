package lang

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/exec"

	"matrix"
)

const (
	maxTemplate = 4 << 20 // bytes of source
	maxTag      = 64 << 10
	maxTags     = 20000
	maxNesting  = 200
)

// Template is a compiled Jinja2 template over the same names and functions as
// Expr; rounds, turn and the others are called as in expressions. It sees no
// file: include, import, extends and block are refused.
//
// A field that the row lacks is an error that names it, unless it is guarded
// (`item.x | default("")`, `item.x is defined`). What an agent may not have
// produced is empty: `last.data.x` prints nothing, is false and has no
// elements.
//
// As in Jinja2, {{ true }} prints True, {{ 70 }} prints 70 and one newline at
// the end of the source is dropped. Known to differ from it:
//
//   - None alone prints nothing, inside a list or an object None; tojson leaves
//     <, >, & and ' as they are, and writes 2.0 as 2;
//   - what is missing is neither less nor greater than anything;
//   - .items() and iteration over an object go by key, in alphabetical order;
//   - whole numbers have 64 bits, a result beyond that is an error;
//   - random picks the same element each time for the same task and turn;
//   - append and its like change what a name stands for, wherever that was set,
//     but not a second name for it, and never a row;
//   - {% set x.y = ... %} works on a namespace only, which cannot hold itself;
//   - for loops have one name or two and are not recursive; their {% else %} is
//     for no round at all, not for rounds that break and continue cut short;
//   - calls take no *list and **object, macros have no attributes; {% trans %} is
//     not there;
//   - range has at most 100,000 elements, and a rendering at most 200,000
//     rounds of loops, macros 100 deep, and 64 MiB of text.
//
// A template may be rendered by many goroutines at once.
type Template struct {
	src    string
	steps  []step
	lang   *language
	params Params
	hash   string
	scan   *scan
}

// CompileTemplate compiles src. Extra names are those that Render is given
// beyond the environment. The error is an *Error.
func CompileTemplate(src string, p Params, extra ...string) (t *Template, err error) {
	defer func() {
		if r := recover(); r != nil {
			t, err = nil, &Error{Msg: fmt.Sprintf("cannot parse the template: %v", r)}
		}
	}()
	if len(src) > maxTemplate {
		return nil, &Error{Msg: fmt.Sprintf("the template is longer than %d MiB", maxTemplate>>20)}
	}
	if !utf8.ValidString(src) {
		return nil, &Error{Msg: "the template is not valid UTF-8"}
	}
	sum := sha256.Sum256([]byte(src))
	t = &Template{src: newlines(src), params: p, hash: hex.EncodeToString(sum[:6])}
	l := newLanguage()
	if t.scan, err = scanTemplate(t.src, p, extra, l); err != nil {
		return nil, err
	}
	t.lang = l
	if t.steps, err = t.scan.build(); err != nil {
		return nil, err
	}
	return t, nil
}

func newlines(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

// Fields names the fields of the item without which rendering surely fails,
// sorted: those that are read outside conditions and loops, and unguarded.
func (t *Template) Fields() []string { return t.scan.fieldNames() }

// Roles names the roles that are given literally to rounds, turn, first and
// turns_of, sorted.
func (t *Template) Roles() []string { return sorted(t.scan.roles) }

// Hash is the revision of the template: 12 hexadecimal digits that change with
// its source.
func (t *Template) Hash() string { return t.hash }

// String returns the source.
func (t *Template) String() string { return t.src }

// Render renders over task, which may be nil, and extra, whose values must be
// as those of Params. The error is an *Error.
func (t *Template) Render(task *matrix.Task, extra map[string]any) (s string, err error) {
	r := renderings.Get().(*rendering)
	defer func() {
		if p := recover(); p != nil {
			s, err = "", &Error{Msg: fmt.Sprintf("cannot render: %v", p)}
			return
		}
		r.release()
	}()
	r.begin(t, task, extra)
	err = r.run(t.steps)
	if r.failed != nil {
		err = r.failed
	}
	if err != nil {
		return "", t.failure(err)
	}
	return r.page.String(), nil
}

// failure words an error of rendering: the innermost cause, at the innermost
// place that is known.
func (t *Template) failure(err error) *Error {
	e := &Error{Msg: rootMessage(err)}
	placed := false
	for inner := err; inner != nil; inner = under(inner) {
		switch at := inner.(type) { //nolint:errorlint // walks itself
		case *placedError:
			e.Line, e.Column = t.scan.position(at.at)
			placed = true
		case *tagError:
			if !placed {
				e.Line, _ = t.scan.position(at.at)
			}
		}
	}
	return e
}

// root is the innermost error.
func root(err error) error {
	for inner := under(err); inner != nil; inner = under(err) {
		err = inner
	}
	return err
}

// under is the error inside err: the library hides errors in values.
func under(err error) error {
	if v, ok := err.(*exec.Value); ok { //nolint:errorlint // unwraps it itself
		if inner, isErr := v.Interface().(error); isErr && inner != err {
			return inner
		}
		return nil
	}
	return errors.Unwrap(err)
}

var wording = strings.NewReplacer(
	"<nil>", "none", "unable to evaluate", "cannot evaluate", "Unable to", "cannot",
)

func rootMessage(err error) string { return wording.Replace(root(err).Error()) }
