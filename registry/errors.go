package registry

import (
	"errors"
	"fmt"
	"strings"

	"matrix/internal/config"
	"matrix/internal/near"
	"matrix/lang"
	"matrix/route"
)

// problems gathers what is wrong with a config.
type problems struct {
	root *config.Section
	errs config.Errors

	warnings config.Errors
	meant    func(name string) string // what to write for a name that is not known; nil: nothing is known
}

// add reports err, of a value at field in s, each of its parts where it
// belongs.
func (p *problems) add(s *config.Section, field string, err error) {
	switch err := err.(type) { //nolint:errorlint // walks the tree itself
	case nil:
		return
	case *config.Error:
		p.errs = append(p.errs, err)
		return
	case *lang.FieldError: // as llm.FieldError
		p.add(s, config.Join(field, err.Field), err.Err)
		return
	case *route.RoleError:
		p.add(p.root, config.Join("roles", err.Role), err.Err)
		return
	case *unknownName:
		p.at(s, field, 0, 0, err.msg, err.hint)
		return
	case *lang.Error:
		msg := err.Msg
		if err.Name != "" && p.meant != nil {
			msg += p.meant(err.Name)
		}
		if comment := s.Comment(field); comment != "" {
			msg += "; " + asComment(comment)
		}
		p.at(s, field, err.Line, err.Column, msg, "")
		return
	case interface{ Unwrap() []error }: // errors.Join, config.Errors
		for _, e := range err.Unwrap() {
			p.add(s, field, e)
		}
		return
	}
	var inner *lang.FieldError // behind the words of somebody else
	if errors.As(err, &inner) {
		field = config.Join(field, inner.Field)
	}
	p.at(s, field, 0, 0, err.Error(), "")
}

// at reports a message about the value at field in s.
func (p *problems) at(s *config.Section, field string, line, col int, msg, hint string) {
	p.errs = append(p.errs, placed(s, field, line, col, msg, hint))
}

// warn is at for what may be right.
func (p *problems) warn(s *config.Section, field string, line, col int, msg, hint string) {
	p.warnings = append(p.warnings, placed(s, field, line, col, msg, hint))
}

// asComment says that a value is shorter than it was meant to be.
func asComment(text string) string {
	return fmt.Sprintf("YAML takes %q as a comment and leaves it out: put the value in quotes, or write it as a block behind |", text)
}

func placed(s *config.Section, field string, line, col int, msg, hint string) *config.Error {
	e := &config.Error{Msg: msg}
	_ = errors.As(s.ErrorAt(field, line, col, "%s", msg), &e)
	e.Hint = hint
	return e
}

// unknown reports that the name at field in s is not one of known. what says of
// what it should be the name.
func (p *problems) unknown(s *config.Section, field, what, name string, known []string) {
	p.add(s, field, unknown(what, name, known))
}

// unknownName says that there is nothing of a name, and which there are.
type unknownName struct{ msg, hint string }

func unknown(what, name string, known []string) *unknownName {
	e := &unknownName{msg: "there is no " + what + " " + quote(name), hint: near.Name(name, known)}
	switch {
	case e.hint != "":
	case len(known) == 0:
		e.msg += "; there is none at all"
	case len(known) <= 20:
		e.msg += "; there are " + strings.Join(known, ", ")
	}
	return e
}

func (e *unknownName) Error() string {
	if e.hint != "" {
		return e.msg + " (did you mean " + quote(e.hint) + "?)"
	}
	return e.msg
}

func quote(s string) string { return `"` + s + `"` }
