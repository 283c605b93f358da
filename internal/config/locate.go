package config

import "strings"

// locate is the place of a character of a scalar's text: line and col count
// from 1 in the text. When it cannot be told, it is the place of the scalar.
func (n *node) locate(line, col int) Pos {
	if !n.scalar() || n.src == nil || n.path || line <= 0 && col <= 0 {
		return n.pos
	}
	offset, ok := offsetOf(n.text, max(line, 1), max(col, 1))
	if !ok {
		return n.pos
	}
	text := n.text
	if n.raw != "" {
		text = n.raw
		for i := len(n.spans) - 1; i >= 0; i-- {
			if s := n.spans[i]; s.out <= offset {
				if s.fixed {
					offset = s.raw
				} else {
					offset += s.raw - s.out
				}
				break
			}
		}
	}
	return n.locateRaw(text, offset)
}

// locateRaw is the place of a rune of a text as it was written, before
// interpolation.
func (n *node) locateRaw(text string, offset int) Pos {
	a := aligner{lines: n.src.lines, line: n.at.Line - 1, col: n.at.Column - 1}
	if n.whole {
		a.style = 'f'
	}
	if !a.begin() {
		return n.pos
	}
	runes := []rune(text)
	for i := 0; i < len(runes) && i < offset; i++ {
		var next rune
		if i+1 < len(runes) {
			next = runes[i+1]
		}
		if !a.step(runes[i], next) {
			return n.pos
		}
	}
	a.settle()
	return n.src.pos(a.line+1, a.col+1)
}

// offsetOf is the rune at line and col of text.
func offsetOf(text string, line, col int) (int, bool) {
	offset := 0
	for ; line > 1; line-- {
		head, tail, ok := strings.Cut(text, "\n")
		if !ok {
			return 0, false
		}
		offset += len([]rune(head)) + 1
		text = tail
	}
	head, _, _ := strings.Cut(text, "\n")
	return offset + min(col-1, len([]rune(head))), true
}

// aligner walks through the source of a scalar along its text.
type aligner struct {
	lines     []string
	line, col int  // from 0
	style     rune // ' " | > p (plain) f (a file of its own)
	indent    int  // of a block
	runes     []rune
	at        int // the line that runes is
}

func (a *aligner) current() []rune {
	if a.runes == nil || a.at != a.line {
		a.at, a.runes = a.line, []rune{}
		if a.line < len(a.lines) {
			a.runes = []rune(a.lines[a.line])
		}
	}
	return a.runes
}

func (a *aligner) begin() bool {
	if a.line < 0 || a.line >= len(a.lines) || a.col < 0 {
		return false
	}
	if a.style == 'f' {
		return true
	}
	a.style = 'p'
	if c := a.current(); a.col < len(c) && strings.ContainsRune(`'"|>`, c[a.col]) {
		a.style = c[a.col]
		a.col++
	}
	if a.style == '|' || a.style == '>' {
		for i := a.line + 1; i < len(a.lines); i++ {
			if trimmed := strings.TrimLeft(a.lines[i], " "); trimmed != "" {
				a.indent = len(a.lines[i]) - len(trimmed)
				break
			}
		}
		a.line, a.col = a.line+1, a.indent
	}
	return true
}

// settle moves from behind the end of a line to the text that follows.
func (a *aligner) settle() {
	if c := a.current(); a.style == '"' && a.col == len(c)-1 && c[a.col] == '\\' {
		a.newline()
	}
}

// newline goes to where the text of the next line plainFile.
func (a *aligner) newline() {
	a.line, a.col = a.line+1, 0
	switch a.style {
	case 'f':
	case '|', '>':
		a.col = min(a.indent, len(a.current()))
	default:
		for c := a.current(); a.col < len(c) && (c[a.col] == ' ' || c[a.col] == '\t'); {
			a.col++
		}
	}
}

// step walks over t, a rune of the text, before next.
func (a *aligner) step(t, next rune) bool {
	a.settle()
	c := a.current()
	if a.line >= len(a.lines) {
		return false
	}
	rest := c[min(a.col, len(c)):]
	blank := strings.TrimRight(string(rest), " \t") == ""
	if a.style == 'p' || a.style == '\'' || a.style == '"' || a.style == '>' {
		if blank && (t == ' ' || t == '\n') && len(rest) == 0 || blank && t == '\n' {
			a.newline()
			for t == '\n' && next != '\n' && a.line < len(a.lines) && strings.TrimSpace(string(a.current())) == "" {
				a.newline()
			}
			return true
		}
	} else if t == '\n' {
		a.newline()
		return len(rest) == 0
	}
	if len(rest) == 0 {
		return false
	}
	if a.style == '\'' && t == '\'' {
		a.col += 2
		return true
	}
	if a.style == '"' && rest[0] == '\\' && len(rest) > 1 {
		a.col += 2 + map[rune]int{'x': 2, 'u': 4, 'U': 8}[rest[1]]
		return true
	}
	a.col++
	return rest[0] == t
}
