package jinja

import (
	"fmt"
	"slices"
)

// Use is a place where a template looks at a name.
type Use struct {
	Name         string
	Set          bool // a tag sets the name, somewhere in the template
	Line, Column int
	Path         []Step // what is taken of it, as far as that is literal
	Method       bool   // the rest of the path is the call of a method
	Called       bool   // it is called with Argument, a text, alone
	Argument     string
	Sure         bool   // it is looked at whenever the template is rendered
	Asks         bool   // it stands in the condition of an if
	Guarded      bool   // `default` or `is defined` copes with what is missing
	Is           *Text  // the text that it is compared with, where it is
	In           string // x of `"x" in name`
	at           int
}

// Step is the name of a field, or "#" for an element of a list.
type Step struct {
	Name         string
	Line, Column int
}

// Text is a text in a source.
type Text struct {
	Text         string
	Line, Column int
}

var constants = []string{"true", "True", "false", "False", "none", "None", "nil"}

// use notes that a name is looked at.
func (p *parser) use(t token) {
	if p.err != nil {
		return
	}
	u := Use{Name: t.val, Sure: p.unsure == 0, Asks: p.asks, at: t.at}
	u.Line, u.Column = p.lexer.position(t.at)
	p.uses = append(p.uses, &u)
}

// step notes what is taken of the name that was used last.
func (u *Use) step(p *parser, name string, at int) {
	s := Step{Name: name}
	s.Line, s.Column = p.lexer.position(at)
	u.Path = append(u.Path, s)
}

// follows notes what stands behind the operand that the use begins.
func (p *parser) follows(u *Use) {
	t, next := p.now(), p.at(p.i+1)
	switch {
	case t.is("|"):
		u.Guarded = next.word("default", "d")
	case t.word("is"):
		if next.word("not") {
			next = p.at(p.i + 2)
		}
		u.Guarded = next.word("defined", "undefined")
	case t.is("==", "!=") && next.kind == text:
		u.Is = &Text{Text: next.val}
		u.Is.Line, u.Is.Column = p.lexer.position(next.at)
	}
}

// checkNames says which name is not known.
func (p *parser) checkNames() {
	if p.err != nil {
		return
	}
	for _, t := range p.changed {
		if !p.names[t.val].tagged {
			p.fail(t.at, "cannot set a field of %s: only a namespace can change, {%% set ns = namespace(x=1) %%}", t.val)
		}
	}
	known := slices.Concat(p.lang.Names, constants, keysOf(p.lang.Functions), keysOf(builtins))
	for name, k := range p.names {
		if k.tagged {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	for _, u := range p.uses {
		if _, found := slices.BinarySearch(known, u.Name); found {
			continue
		}
		msg := unknown("name", u.Name, known)
		if p.lang.Unknown != nil {
			msg = p.lang.Unknown(u.Name, known)
		}
		if u.Called {
			filter := map[string]string{"len": "length", "size": "length", "str": "string", "sorted": "sort", "reversed": "reverse"}[u.Name]
			if _, ok := filterNamed(u.Name); ok {
				filter = u.Name
			}
			if filter != "" {
				msg = fmt.Sprintf("unknown function %s, did you mean x | %s?", u.Name, filter)
			}
		}
		p.fail(u.at, "%s", msg)
		p.err.Name = u.Name
		return
	}
}

// told are the uses, of which it is known now which names tags set.
func (p *parser) told() []Use {
	told := make([]Use, len(p.uses))
	for i, u := range p.uses {
		told[i] = *u
		told[i].Set = p.names[u.Name].tagged
	}
	return told
}
