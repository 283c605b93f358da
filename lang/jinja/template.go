package jinja

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"matrix/lang/internal/calc"
)

const maxTemplate = 4 << 20 // bytes of source

// Language is what templates may look at beyond what their own tags set.
type Language struct {
	Names     []string                                 // of what an Env brings
	Functions map[string]Func                          // that are the same for every rendering
	Unknown   func(name string, known []string) string // words the error of a name that is not known; nil: as for filters
}

// Template is a compiled Jinja2 template.
//
// As in Jinja2, {{ true }} prints True, {{ 70 }} prints 70 and one newline at
// the end of the source is dropped. Known to differ from it:
//
//   - None alone prints nothing, inside a list or an object None; tojson leaves
//     <, >, & and ' as they are;
//   - what is missing is neither less nor greater than anything;
//   - whole numbers have 64 bits, a result beyond that is an error;
//   - a list or an object of an Env never changes: the name that a method is called
//     by stands for a copy from then on; nothing can hold itself;
//   - {% for k, v in object %} goes over keys and values;
//   - the {% else %} of a loop is for no round at all, not for rounds that break
//     and continue cut short;
//   - {% trans %} and {% autoescape %} are not there, and include, import, extends
//     and block are refused, since a template sees no file;
//   - range has at most 100,000 elements, and a rendering at most 200,000
//     rounds of loops, macros 100 deep, and 64 MiB of text.
//
// A template may be rendered by many goroutines at once.
type Template struct {
	lexer *lexer
	steps []step
	uses  []Use
}

// Compile compiles src. The error is an *Error.
func Compile(src string, l *Language) (t *Template, err error) {
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
	p := newParser(newlines.Replace(src), l)
	if err := p.lexer.split(); err != nil {
		return nil, err
	}
	p.pieces = p.lexer.pieces
	steps, _ := p.body()
	p.checkNames()
	if p.err != nil {
		return nil, p.err
	}
	p.lexer.pieces = nil
	return &Template{lexer: p.lexer, steps: steps, uses: p.told()}, nil
}

// Uses are the places where the template looks at a name, in the order of the source.
func (t *Template) Uses() []Use { return t.uses }

// Render renders over env. The error is an *Error.
func (t *Template) Render(env Env) (s string, err error) {
	r := renderings.Get().(*rendering)
	defer func() {
		if p := recover(); p != nil {
			s, err = "", &Error{Msg: fmt.Sprintf("cannot render: %v", p)}
			return
		}
		r.release()
	}()
	r.begin(env)
	if err = r.run(t.steps); err == nil && r.work > calc.MaxWork {
		err = calc.ErrWork
	}
	if err != nil {
		return "", t.failure(err)
	}
	return r.page.String(), nil
}

var newlines = strings.NewReplacer("\r\n", "\n", "\r", "\n")
