package lang

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/graphemes"
	"github.com/clipperhouse/uax29/v2/sentences"

	"matrix/lang/internal/calc"
)

// tokenBytes is how many bytes of UTF-8 are taken for a token.
const tokenBytes = 4

// chunkWays are what a text is cut at, the finest first.
var chunkWays = []string{"tokens", "words", "sentences", "paragraphs", "headings"}

// span is a part of a text: [from, to) in bytes.
type span struct{ from, to int }

// chunk cuts s into pieces of at most size tokens, or words where by is "words", each of
// which has at its beginning up to overlap of them that stand at the end of the one before.
// Where by says sentences, paragraphs or headings, it cuts between those alone, unless one is
// longer than a piece. Under headings, no piece goes over the beginning of a section. Pieces
// have no white space around them, and offsets in characters.
func chunk(s string, size, overlap int, by string) ([]any, error) {
	switch {
	case size < 1:
		return nil, fmt.Errorf("the size is %d, want at least 1", size)
	case overlap < 0 || overlap >= size:
		return nil, fmt.Errorf("the overlap is %d, want 0 to %d: less than the size", overlap, size-1)
	}
	c := &chunker{s: s, most: size, overlap: overlap}
	if by != "words" {
		c.most, c.overlap, c.bytes = min(size, calc.MaxText)*tokenBytes, overlap*tokenBytes, true
	}
	whole := span{0, len(s)}
	var err error
	switch by {
	case "tokens", "words":
		err = c.pack(c.words(whole))
	case "sentences":
		err = c.pack(c.finer(c.sentences(whole), c.words))
	case "paragraphs":
		err = c.pack(c.paragraphs(whole))
	case "headings":
		for section := range c.sections() {
			if err = c.pack(c.paragraphs(section)); err != nil {
				break
			}
		}
	default:
		return nil, fmt.Errorf("cannot cut by %q%s: want one of %s", by, calc.DidYouMean(by, chunkWays), strings.Join(chunkWays, ", "))
	}
	return c.out, err
}

type chunker struct {
	s             string
	most, overlap int  // of a piece
	bytes         bool // these count bytes, not words
	out           []any
	text          int // bytes in out
	at, chars     int // a place in bytes, and in characters
}

// pack makes pieces of units, none of which is larger than a piece.
func (c *chunker) pack(units iter.Seq[span]) error {
	var piece []span
	fresh := false // the piece has a unit that is in no other
	for u := range units {
		if fresh && c.size(piece, u) > c.most {
			if err := c.emit(piece); err != nil {
				return err
			}
			piece = c.repeated(piece, u)
		}
		piece, fresh = append(piece, u), true
	}
	if fresh {
		return c.emit(piece)
	}
	return nil
}

// size is that of a piece with one more unit.
func (c *chunker) size(piece []span, u span) int {
	switch {
	case !c.bytes:
		return len(piece) + 1
	case len(piece) == 0:
		return u.to - u.from
	}
	return u.to - piece[0].from
}

// repeated are the units of a piece with which the next one, which goes on with u, begins.
func (c *chunker) repeated(piece []span, u span) []span {
	n := len(piece)
	for n > 1 && c.size(piece[n-1:], u) <= c.most {
		repeats := len(piece) - n + 1
		if c.bytes {
			repeats = piece[len(piece)-1].to - piece[n-1].from
		}
		if repeats > c.overlap {
			break
		}
		n--
	}
	return append([]span(nil), piece[n:]...)
}

// emit appends a piece to the result.
func (c *chunker) emit(piece []span) error {
	text := c.s[piece[0].from:piece[len(piece)-1].to]
	if len(c.out) >= calc.MaxParts/4 {
		return calc.ManyParts("the list of pieces")
	}
	if c.text += len(text); c.text > calc.MaxText {
		return calc.ErrTooLong
	}
	start := piece[0].from
	if start < c.at { // it begins within the one before
		c.chars -= utf8.RuneCountInString(c.s[start:c.at])
	} else {
		c.chars += utf8.RuneCountInString(c.s[c.at:start])
	}
	c.at = start
	c.out = append(c.out, map[string]any{"text": text, "start": c.chars, "end": c.chars + utf8.RuneCountInString(text)})
	return nil
}

// finer gives the units, and of one that is larger than a piece what cut makes of it.
func (c *chunker) finer(units iter.Seq[span], cut func(span) iter.Seq[span]) iter.Seq[span] {
	return func(yield func(span) bool) {
		for u := range units {
			if c.size(nil, u) <= c.most {
				if !yield(u) {
					return
				}
				continue
			}
			for v := range cut(u) {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// words gives the words of a part, by white space; one that is longer than a piece as runs of
// characters, as a reader sees them.
func (c *chunker) words(in span) iter.Seq[span] {
	return func(yield func(span) bool) {
		for at := in.from; ; {
			for at < in.to {
				r, n := utf8.DecodeRuneInString(c.s[at:in.to])
				if !unicode.IsSpace(r) {
					break
				}
				at += n
			}
			if at == in.to {
				return
			}
			end := strings.IndexFunc(c.s[at:in.to], unicode.IsSpace)
			if end < 0 {
				end = in.to - at
			}
			if !c.letters(span{at, at + end}, yield) {
				return
			}
			at += end
		}
	}
}

// letters gives a word, in parts that are no longer than a piece.
func (c *chunker) letters(word span, yield func(span) bool) bool {
	if !c.bytes || word.to-word.from <= c.most {
		return yield(word)
	}
	from := word.from
	for g := graphemes.FromString(c.s[word.from:word.to]); g.Next(); {
		if start, end := word.from+g.Start(), word.from+g.End(); end-from > c.most && start > from {
			if !yield(span{from, start}) {
				return false
			}
			from = start
		}
	}
	return yield(span{from, word.to})
}

// sentences gives the sentences of a part, by the rules of Unicode (UAX 29), but for the line ends
// inside of paragraphs and for abbreviations.
func (c *chunker) sentences(in span) iter.Seq[span] {
	return func(yield func(span) bool) {
		for p := range c.blocks(in) {
			if !c.sentencesOf(p, yield) {
				return
			}
		}
	}
}

func (c *chunker) sentencesOf(p span, yield func(span) bool) bool {
	flat := c.s[p.from:p.to]
	if strings.ContainsAny(flat, "\r\n") {
		flat = strings.NewReplacer("\r", " ", "\n", " ").Replace(flat)
	}
	from := p.from
	for it := sentences.FromString(flat); it.Next(); {
		end := p.from + it.End()
		if end < p.to && abbreviated(strings.TrimRightFunc(c.s[from:end], unicode.IsSpace)) {
			continue
		}
		if u, ok := c.trimmed(span{from, end}); ok && !yield(u) {
			return false
		}
		from = end
	}
	return true
}

// abbreviated reports whether a text ends in an abbreviation behind which a sentence goes on.
func abbreviated(s string) bool {
	head, ok := strings.CutSuffix(s, ".")
	if !ok {
		return false
	}
	word := head[strings.LastIndexFunc(head, func(r rune) bool { return !unicode.IsLetter(r) && r != '.' })+1:]
	if r, n := utf8.DecodeRuneInString(word); n == len(word) && unicode.IsUpper(r) && r != 'I' { // an initial
		return true
	}
	switch strings.ToLower(word) {
	case "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "e.g", "i.e", "cf", "fig", "figs", "eq", "vol", "pp", "eds", "al", "col", "capt", "sen", "gov", "rev", "mt",
		"bzw", "z.b", "d.h", "u.a", "nr", "ca", "mme", "mlle", "sra", "dra":
		return true
	}
	return false
}

// paragraphs gives what blank lines part; of one that is larger than a piece its sentences.
func (c *chunker) paragraphs(in span) iter.Seq[span] {
	return c.finer(c.blocks(in), func(p span) iter.Seq[span] {
		return c.finer(c.sentences(p), c.words)
	})
}

// blocks gives what blank lines part.
func (c *chunker) blocks(in span) iter.Seq[span] {
	return func(yield func(span) bool) {
		from := in.from
		for at := in.from; at < in.to; {
			line, end := c.line(at, in.to)
			if strings.TrimSpace(line) == "" {
				if u, ok := c.trimmed(span{from, at}); ok && !yield(u) {
					return
				}
				from = end
			}
			at = end
		}
		if u, ok := c.trimmed(span{from, in.to}); ok {
			yield(u)
		}
	}
}

// line is the line that begins at a place, and where the next one does.
func (c *chunker) line(at, to int) (string, int) {
	end := to
	if i := strings.IndexByte(c.s[at:to], '\n'); i >= 0 {
		end = at + i + 1
	}
	return c.s[at:end], end
}

// sections gives the parts of a Markdown text that begin with a heading (#), outside of fenced
// code. Headings with nothing below them belong to the section that follows.
func (c *chunker) sections() iter.Seq[span] {
	return func(yield func(span) bool) {
		from, body, fence := 0, false, ""
		for at := 0; at < len(c.s); {
			line, end := c.line(at, len(c.s))
			switch text := strings.TrimSpace(line); {
			case fence != "":
				if strings.HasPrefix(text, fence) && strings.Trim(text, fence[:1]) == "" {
					fence = ""
				}
			case strings.HasPrefix(text, "```") || strings.HasPrefix(text, "~~~"):
				fence, body = text[:len(text)-len(strings.TrimLeft(text, text[:1]))], true
			case isHeading(line):
				if body && !yield(span{from, at}) {
					return
				}
				if body {
					from, body = at, false
				}
			case text != "":
				body = true
			}
			at = end
		}
		if from < len(c.s) {
			yield(span{from, len(c.s)})
		}
	}
}

// isHeading reports whether a line is a heading of Markdown: one to six #, then space.
func isHeading(line string) bool {
	rest := strings.TrimLeft(line, "#")
	n := len(line) - len(rest)
	return n >= 1 && n <= 6 && (rest == "" || strings.ContainsAny(rest[:1], " \t\r\n"))
}

// trimmed is a part without the white space around it; ok is false where nothing is left.
func (c *chunker) trimmed(u span) (span, bool) {
	text := c.s[u.from:u.to]
	u.from += len(text) - len(strings.TrimLeftFunc(text, unicode.IsSpace))
	u.to = u.from + len(strings.TrimSpace(text))
	return u, u.from < u.to
}

// chunkArgs are the arguments of chunk, of which the last two may be left out.
func chunkArgs(a []any) (any, error) {
	s, err := text(a[0])
	if err != nil {
		return nil, err
	}
	overlap, by := 0, "sentences"
	size, ok := a[1].(int)
	if ok && len(a) > 2 && a[2] != nil {
		overlap, ok = a[2].(int)
	}
	if !ok {
		return nil, errors.New("the size and the overlap are whole numbers")
	}
	if len(a) > 3 {
		if by, ok = a[3].(string); !ok {
			return nil, fmt.Errorf("want what to cut by as a text, one of %s", strings.Join(chunkWays, ", "))
		}
	}
	return chunk(s, size, overlap, by)
}
