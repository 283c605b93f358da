// Package grammar reads context-free grammars in the notation that servers of
// models take to hold a reply to a form: GBNF, as llama.cpp has it, and the EBNF
// of xgrammar, which vLLM, SGLang and TensorRT-LLM use. It reports whether a text
// is one of a grammar, and writes texts that are. It knows nothing of models.
//
// A grammar is rules NAME ::= ..., of which root is the whole:
//
//	"text"         itself, with \n \r \t \b \f \v \a \e \0, \uHHHH,
//	               \UHHHHHHHH, \xHH before no further digit, and \ before a sign
//	[a-z_]         one character of a class, with the same escapes; [^...] is one
//	               that is not in it
//	.              any character
//	name           a text of that rule; letters, digits, - and _, and dots where
//	               a rule has such a name
//	a b            one after the other; a | b, one or the other, which may be
//	               empty; (...) for groups
//	* + ? {m}      how often; {m,} {m,n} {,n}
//	# ...          a comment
//
// What xgrammar has beyond that (lookahead, TagDispatch and other macros,
// attributes of rules), tokens of llama.cpp and Lark's notation are not read.
package grammar

import (
	"fmt"
	"runtime"
)

// Grammar is a grammar that was read. It may be used by many at once.
type Grammar struct {
	states  []state
	edges   []edge
	classes []class
	start   []int32 // of each rule
	empty   []bool  // of each rule: the empty text is one of it
	top     int32   // the state before a text of root
	most    int     // steps that a text may take
	idle    chan *matcher
}

// Error says what in a grammar cannot be read, and where: line and character of
// the grammar's text, from 1.
type Error struct {
	Line, Char int
	Msg        string
	Foreign    bool // nothing may be wrong with it: some server reads such a thing, or so large a one
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, character %d: %s", e.Line, e.Char, e.Msg)
}

// Parse reads a grammar. The error is an *Error.
func Parse(text string) (*Grammar, error) {
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	g, err := compile(p)
	if err != nil {
		return nil, err
	}
	g.most = maxSteps
	g.idle = make(chan *matcher, runtime.GOMAXPROCS(0))
	for range cap(g.idle) {
		g.idle <- nil
	}
	return g, nil
}

// place is the line and the character in it of what stands at byte at of text.
func place(text string, at int) (line, char int) {
	line, char = 1, 1
	for _, c := range text[:at] {
		char++
		if c == '\n' {
			line, char = line+1, 1
		}
	}
	return line, char
}
