package openai

import "strings"

const (
	thinkOpen  = "<think>"
	thinkClose = "</think>"
)

// split takes what a model thought aloud, between <think> and </think> at the
// beginning of its text, apart from its answer. Servers with a parser for the
// model's reasoning have done so before.
func split(s string) (reasoning, answer string) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(s, blanks), thinkOpen)
	if !ok {
		return "", s
	}
	reasoning, answer, _ = strings.Cut(rest, thinkClose)
	return strings.Trim(reasoning, blanks), strings.TrimLeft(answer, blanks)
}

const blanks = " \t\r\n"

// thinker does what split does for a text that comes in pieces. It holds back
// what may be the beginning of a mark.
type thinker struct {
	state int // begin, think, gap, answer
	held  string
}

const (
	begin  = iota // nothing but blanks came, and perhaps the beginning of the mark
	think         // behind the first mark
	gap           // blanks behind the second
	answer        // what is said
)

// add takes a piece and returns what is certain of it.
func (t *thinker) add(s string) (reasoning, text string) {
	if t.state == answer {
		return "", s
	}
	s = t.held + s
	t.held = ""
	if t.state == begin {
		trimmed := strings.TrimLeft(s, blanks)
		rest, ok := strings.CutPrefix(trimmed, thinkOpen)
		switch {
		case ok:
			t.state, s = think, strings.TrimLeft(rest, blanks)
		case strings.HasPrefix(thinkOpen, trimmed):
			t.held = s
			return "", ""
		default:
			t.state = answer
			return "", s
		}
	}
	if t.state == think {
		thought, said, ok := strings.Cut(s, thinkClose)
		if !ok {
			keep := partial(s, thinkClose)
			t.held = s[len(s)-keep:]
			return s[:len(s)-keep], ""
		}
		t.state, reasoning, s = gap, thought, said
	}
	s = strings.TrimLeft(s, blanks)
	if s != "" {
		t.state = answer
	}
	return reasoning, s
}

// end returns what was held back of a text that has ended.
func (t *thinker) end() (reasoning, text string) {
	s := t.held
	t.held = ""
	if t.state == think {
		return s, ""
	}
	return "", s
}

// partial returns how many bytes at the end of s may begin mark.
func partial(s, mark string) int {
	for n := min(len(s), len(mark)-1); n > 0; n-- {
		if strings.HasSuffix(s, mark[:n]) {
			return n
		}
	}
	return 0
}
