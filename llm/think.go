package llm

import (
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
)

// thoughts are the marks between which models think aloud in their text, where
// nothing at the service takes that apart: of most; of Magistral, Seed-OSS,
// Kimi's thinking models, and gpt-oss.
var thoughts = [...]struct{ open, end string }{
	{"<think>", "</think>"},
	{"[THINK]", "[/THINK]"},
	{"<seed:think>", "</seed:think>"},
	{"◁think▷", "◁/think▷"},
	{"<|channel|>analysis<|message|>", "<|channel|>final<|message|>"},
}

// turn is what gpt-oss writes between its thoughts and the mark of its answer.
const turn = "<|end|><|start|>assistant"

const blanks = " \t\r\n"

// unmarked remembers which requests a model answers with thoughts that begin
// without a mark, because its template has written that into the prompt: by what
// decides about the template.
type unmarked struct {
	any  atomic.Bool
	seen sync.Map // of the mark behind the thoughts, by template
}

// template tells requests apart by what may choose another template, or another
// branch of it.
func template(r *Request) string {
	key := r.Sampling.Effort
	if r.Messages != nil {
		key += " chat"
	}
	if len(r.Sampling.Extra) > 0 {
		b, _ := json.Marshal(r.Sampling.Extra) // it was checked
		key += string(b)
	}
	return key
}

func (u *unmarked) learn(r *Request, mark int) {
	if u != nil {
		u.seen.Store(template(r), mark)
		u.any.Store(true)
	}
}

// begin is the thinker of a reply to r.
func (u *unmarked) begin(r *Request) (t thinker) {
	if u == nil || !u.any.Load() {
		return thinker{}
	}
	if mark, known := u.seen.Load(template(r)); known {
		t.guess, t.mark = true, mark.(int)
	}
	return t
}

// brokenOff reports whether a reply to r that ended so may have ended within the
// model's thoughts.
func brokenOff(r *Request, finish string) bool {
	return EndOf(finish) == Cut || len(r.Sampling.Stop) > 0 || r.Sampling.Until != ""
}

// think takes apart what a driver has left together in the texts of rep, the reply
// to r.
func (u *unmarked) think(r *Request, rep *Reply) {
	for i := range rep.Choices {
		c := &rep.Choices[i]
		if c.Reasoning != "" || c.Text == "" {
			continue
		}
		var t thinker
		c.Reasoning, c.Text = t.split(c.Text)
		if t.turned {
			u.learn(r, t.mark)
		} else if t.state == talking && len(c.ToolCalls) == 0 && brokenOff(r, c.Finish) {
			if u.begin(r).guess {
				c.Reasoning, c.Text = c.Text, ""
			}
		}
	}
}

// split takes what a model thought aloud apart from its answer: what stands
// between two marks at the beginning, or before the second one where the first
// was in the prompt, as the templates of many models have it. A mark in quotes is
// spoken of.
func (t *thinker) split(s string) (reasoning, answer string) {
	reasoning, answer, t.turned = t.add(s)
	thought, said := t.end()
	return trimThought(reasoning + thought), answer + said
}

func trimThought(s string) string {
	return strings.Trim(strings.TrimSuffix(strings.Trim(s, blanks), turn), blanks)
}

// thinker reads a text that may come in pieces. It holds back
// what may be the beginning of a mark.
type thinker struct {
	state int
	mark  int    // which of thoughts
	held  string // and not told yet
	last  byte   // told before

	guess  bool // it is taken to have begun within thoughts, since others did
	turned bool // the text before the mark was thoughts
}

const (
	beginning = iota // nothing but blanks came, and perhaps the beginning of a mark
	talking          // without a mark: it may yet turn out to have been thoughts
	thinking         // before the second mark
	gap              // blanks behind it
	answering
)

// add takes a piece and returns what is certain of it. turned says that all text
// before was thoughts too.
func (t *thinker) add(s string) (reasoning, text string, turned bool) {
	if t.state == answering || s == "" {
		return "", s, false
	}
	s, t.held = t.held+s, ""
	if t.state == beginning {
		trimmed := strings.TrimLeft(s, blanks)
		switch i, open, whole := markAt(trimmed); {
		case trimmed == "" || i >= 0 && open && !whole:
			t.held = s
			return "", "", false
		case i >= 0 && open:
			t.state, t.mark, t.guess, s = thinking, i, false, strings.TrimLeft(trimmed[len(thoughts[i].open):], blanks)
		case t.guess:
			t.state = thinking
		default:
			t.state = talking
		}
	}
	if t.state == talking {
		reasoning, s, turned = t.talk(s)
		if !turned {
			return "", s, false
		}
	}
	if t.state == thinking {
		end := thoughts[t.mark].end
		thought, said, ok := strings.Cut(s, end)
		if !ok {
			keep := partial(s, end)
			t.held = s[len(s)-keep:]
			return s[:len(s)-keep], "", false
		}
		t.state, reasoning, s = gap, thought, said
	}
	s = strings.TrimLeft(s, blanks)
	if s != "" {
		t.state = answering
	}
	return reasoning, s, turned
}

// talk looks for a second mark in a text that began without the first one.
func (t *thinker) talk(s string) (reasoning, rest string, turned bool) {
	for at := 0; at < len(s); at++ {
		i, open, whole := markAt(s[at:])
		if i < 0 {
			continue
		}
		if at > 0 {
			t.last = s[at-1]
		}
		quoted := t.last == '`' || t.last == '"' || t.last == '\''
		switch {
		case !whole:
			t.held = s[at:]
			return "", s[:at], false
		case quoted:
		case open: // within the answer
			t.state = answering
			return "", s, false
		default:
			t.state, t.mark = gap, i
			return s[:at], s[at+len(thoughts[i].end):], true
		}
	}
	if s != "" {
		t.last = s[len(s)-1]
	}
	return "", s, false
}

// markAt returns which mark s begins with, or may once more of it has come; -1
// for none.
func markAt(s string) (i int, open, whole bool) {
	if s == "" || s[0] != '<' && s[0] != '[' && s[0] != "◁"[0] {
		return -1, false, false
	}
	for i := range thoughts {
		m := &thoughts[i]
		switch {
		case strings.HasPrefix(s, m.open):
			return i, true, true
		case strings.HasPrefix(s, m.end):
			return i, false, true
		case strings.HasPrefix(m.open, s):
			return i, true, false
		case strings.HasPrefix(m.end, s):
			return i, false, false
		}
	}
	return -1, false, false
}

// end returns what was held back of a text that has ended.
func (t *thinker) end() (reasoning, text string) {
	s := t.held
	t.held = ""
	if t.state == thinking {
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
