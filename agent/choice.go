package agent

import (
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"matrix"
	"matrix/lang"
)

// chooser finds the one option that a reply gives as its answer. It reads what
// is said and guesses nothing: a reply that hedges, negates, gives a number in
// between or names an option only in passing has none.
type chooser struct {
	options []option
	byText  map[string]int // by what is looked for, in small letters
	next    *regexp.Regexp // any of them at the beginning of a text, the longest first
	begins  map[rune]bool  // with which letters, small and large
	longest int            // bytes
	scale   *regexp.Regexp // how replies tell which numbers there are; nil where the options are none
	literal bool           // options that hold markup: replies are read as they are
}

// option is one of the choices.
type option struct {
	name   string
	text   string // as it is looked for
	number bool
	weak   bool // a word or letter that prose is full of: it counts only where it is given as the answer
}

// claim is a place at which a reply gives its answer.
type claim struct {
	at, to int
	option int // -1: what is given is not one of the options
}

func newChooser(names []string) (*chooser, error) {
	c := &chooser{byText: map[string]int{}, begins: map[rune]bool{}}
	seen := map[string]bool{}
	for _, name := range names {
		switch key := strings.ToLower(name); {
		case strings.TrimSpace(name) == "":
			return nil, errors.New("an option is empty")
		case seen[key]:
			return nil, fmt.Errorf("the option %q is there twice", name)
		default:
			seen[key] = true
		}
		text := strings.TrimSpace(unmarked(name))
		if _, twice := c.byText[strings.ToLower(text)]; twice || text == "" {
			c.literal = true
		}
		c.byText[strings.ToLower(text)] = len(c.options)
		c.options = append(c.options, option{name: name, text: text})
	}
	var least, most *float64
	for i := range c.options {
		o := &c.options[i]
		if c.literal {
			o.text = strings.TrimSpace(o.name)
			c.byText[strings.ToLower(o.text)] = i
		}
		f, err := strconv.ParseFloat(o.text, 64)
		o.number = err == nil && strings.ContainsAny(o.text, "0123456789")
		o.weak = o.number || utf8.RuneCountInString(o.text) == 1 || weakWords.MatchString(o.text)
		if o.number && (least == nil || f < *least) {
			least = &f
		}
		if o.number && (most == nil || f > *most) {
			most = &f
		}
	}
	longest := slices.Clone(c.options)
	slices.SortStableFunc(longest, func(a, b option) int { return len(b.text) - len(a.text) })
	alternatives := make([]string, len(longest))
	for i, o := range longest {
		alternatives[i] = regexp.QuoteMeta(o.text)
		c.longest = max(c.longest, len(o.text))
		first, _ := utf8.DecodeRuneInString(o.text)
		for r := first; ; {
			c.begins[r] = true
			if r = unicode.SimpleFold(r); r == first {
				break
			}
		}
		if o.number && !strings.Contains(o.text, ".") {
			alternatives[i] += `(?:\.0+)?`
		}
	}
	c.next = regexp.MustCompile("^(?i)(?:" + strings.Join(alternatives, "|") + ")")
	if most != nil && *least < *most && (*most > 2 || *least == 0) {
		low, high := regexp.QuoteMeta(strconv.FormatFloat(*least, 'f', -1, 64)), regexp.QuoteMeta(strconv.FormatFloat(*most, 'f', -1, 64))
		c.scale = regexp.MustCompile(`(?i)(\s*(?:/|\bout of)\s*` + high + `(?:\.0+)?|\b` + low + `\s*(?:-|–|—|to|through)\s*` + high + `)($|[^\d.,]|[.,](?:\D|$))`)
	}
	return c, nil
}

// choose returns the name of the option that s gives as its answer.
func (c *chooser) choose(s string) (string, error) {
	for _, o := range c.options {
		if strings.EqualFold(strings.TrimSpace(s), o.name) {
			return o.name, nil
		}
	}
	if !c.literal {
		s = unmarked(labelled(s))
	}
	if c.scale != nil {
		s = c.scale.ReplaceAllString(s, "$2")
	}
	of := make([]string, len(c.options))
	for i, o := range c.options {
		of[i] = o.name
	}
	found := c.given(s)
	switch len(found) {
	case 0:
		found = c.named(s)
	case 1:
		return c.options[found[0]].name, nil
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("the reply names none of %s", strings.Join(of, ", "))
	case 1:
		return "", fmt.Errorf("the reply does not say plainly which of %s it means; it only mentions %s", strings.Join(of, ", "), c.list(found))
	}
	return "", fmt.Errorf("the reply names several of %s: %s", strings.Join(of, ", "), c.list(found))
}

func (c *chooser) list(found []int) string {
	names := make([]string, len(found))
	for i, o := range found {
		names[i] = c.options[o].name
	}
	return strings.Join(names, ", ")
}

// given are the options that s gives as its answer: none, one, or several that
// contradict each other.
func (c *chooser) given(s string) []int {
	claims := c.claims(s)
	if len(claims) == 0 {
		if o := c.alone(s); o >= 0 {
			return []int{o}
		}
		return nil
	}
	last := claims[len(claims)-1]
	if last.option < 0 {
		return nil
	}
	var found []int
	end := 0
	for _, cl := range claims {
		if end = max(end, cl.to); cl.option >= 0 && !slices.Contains(found, cl.option) {
			found = append(found, cl.option)
		}
	}
	turned := contrast.MatchString(s[end:])
	for _, m := range c.mentions(s, end) {
		if slices.Contains(found, m.option) || denied.MatchString(s[max(0, m.at-100):m.at]) || c.cited(s, m) {
			continue
		}
		if clauseEnds(s[m.to:]) || reason.MatchString(s[m.to:]) || turned && !c.options[m.option].number && !c.determines(s, m.option, m.to) {
			found = append(found, m.option)
		}
	}
	return found
}

// claims are the places at which s gives its answer, in their order: behind
// words that announce one, at the beginning, and in its last line.
func (c *chooser) claims(s string) []claim {
	var claims []claim
	for at := range wordBegins(s) {
		m := announced.FindStringSubmatchIndex(s[at:min(len(s), at+200)])
		if m == nil {
			continue
		}
		from, before := at+m[1], s[sentenceBegin(s, at):at]
		colon, is, it, rates := m[2] >= 0, m[4] >= 0, m[6] >= 0, m[8] >= 0
		if (colon || is) && foreign.MatchString(before) {
			continue // somebody else's answer
		}
		if doubtful.MatchString(before) {
			if colon {
				claims = append(claims, claim{at, from, -1})
			}
			continue
		}
		o, to := c.value(s, from, true)
		for o < 0 && rates && from < at+200 {
			word := rated.FindString(s[from:])
			if word == "" {
				break
			}
			from += len(word)
			o, to = c.value(s, from, true)
		}
		switch {
		case o >= 0 && it && c.options[o].number: // "it is 4" may be anything
		case o >= 0 || colon:
			claims = append(claims, claim{at, to, o})
		}
	}
	begin := len(s) - len(strings.TrimLeftFunc(s, unicode.IsSpace))
	end := strings.TrimRightFunc(s, unicode.IsSpace)
	last := strings.LastIndexByte(end, '\n') + 1
	for _, at := range []int{begin, max(begin, last), sentenceBegin(end, len(end)-min(1, len(end)))} {
		cl, ok := c.opens(s, at)
		bare := ok && len(strings.TrimRight(end[min(cl.to, len(end)):], ".!")) == 0
		switch {
		case !ok || slices.Contains(claims, cl):
		case at != begin && at != last && (!bare || strings.HasSuffix(strings.TrimSpace(s[:at]), "?") || len(c.named(s)) > 1):
		case !bare && at == begin && c.others(s[:last], cl) > 0, !bare && at == last && c.others(s[:last], cl) > 1:
		case c.labels(s, cl) && len(c.named(s)) > 1:
		default:
			claims = append(claims, cl)
		}
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return a.at - b.at })
	return claims
}

// opens is the answer with which the line at s[at:] begins.
func (c *chooser) opens(s string, at int) (claim, bool) {
	from := at + len(opening.FindString(s[at:]))
	o, to := c.value(s, from, false)
	return claim{at, to, o}, o >= 0 && !c.isMarker(s, o, to)
}

// others is how many lines begin with other options, as those of a list do.
func (c *chooser) others(s string, cl claim) (n int) {
	for at := 0; at < len(s); {
		if other, ok := c.opens(s, at); ok && other.option != cl.option {
			n++
		}
		next := strings.IndexByte(s[at:], '\n')
		if next < 0 {
			break
		}
		at += next + 1
	}
	return n
}

// labels reports whether a claim is the label of what an option says: "B) Paris".
func (c *chooser) labels(s string, cl claim) bool {
	return strings.HasSuffix(s[:cl.to], ")") && !clauseEnds(s[cl.to:])
}

// wordBegins yields where the words begin that may announce an answer.
func wordBegins(s string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for at := 0; at < len(s); at++ {
			from := at
			for at < len(s) && (s[at] >= 'a' && s[at] <= 'z' || s[at] >= 'A' && s[at] <= 'Z') {
				at++
			}
			if at > from && at-from < 16 && announcing.MatchString(s[from:at]) && !yield(from) {
				return
			}
		}
	}
}

// isMarker reports whether an option that begins a line is a mere word of speech
// ("Right, ...", "I, ..."), or the beginning of "No. 4".
func (c *chooser) isMarker(s string, o, to int) bool {
	rest := s[to:]
	switch strings.ToLower(c.options[o].text) {
	case "right", "well", "ok", "okay", "sure", "fine", "so", "i", "now":
		return strings.HasPrefix(rest, ",")
	case "no":
		return numbering.MatchString(rest)
	}
	return false
}

// value is the option that stands at s[at:] as an answer does, and where it
// ends: behind it comes the end of a clause, or the reason, or, of "B) Paris",
// what the option says. -1 where none does.
func (c *chooser) value(s string, at int, announced bool) (int, int) {
	at += len(article.FindString(s[at:]))
	n := c.length(s[at:])
	if n == 0 || c.joined(s, at, at+n) {
		return -1, at
	}
	o, to := c.option(s[at:at+n]), at+n
	if c.options[o].number {
		if outOf.MatchString(s[to:]) {
			return -1, to // of another scale
		}
		to += len(points.FindString(s[to:]))
	}
	closed := closing.FindString(s[to:])
	to += len(closed)
	rest := s[to:]
	letter := strings.HasPrefix(closed, ")") && !c.options[o].number && utf8.RuneCountInString(c.options[o].text) == 1 &&
		(announced || capital.MatchString(rest))
	if !clauseEnds(rest) && !reason.MatchString(rest) && !letter {
		return -1, to
	}
	more := further.FindString(rest)
	if n := c.length(rest[len(more):]); n > 0 && more != "" {
		from, end := to+len(more), to+len(more)+n
		other := c.option(s[from:end])
		prose := strings.ContainsAny(more, ".!;:") && noun.MatchString(s[end:]) && !listed.MatchString(s[end:])
		if other != o && !prose && !c.joined(s, from, end) && !c.determines(s, other, end) {
			return -1, to // one of a list
		}
	}
	return o, to
}

// determines reports whether an option that ends at s[to:] belongs to the noun
// behind it, as in "no doubt".
func (c *chooser) determines(s string, o, to int) bool {
	switch strings.ToLower(c.options[o].text) {
	case "no", "a", "all", "both", "some", "any":
		return noun.MatchString(s[to:]) && !listed.MatchString(s[to:])
	}
	return false
}

// alone is the one option that a reply names, where it does so in a sentence
// that neither negates nor doubts it. -1 for none.
func (c *chooser) alone(s string) int {
	found := c.named(s)
	if len(found) != 1 || c.options[found[0]].weak || contrast.MatchString(s) {
		return -1
	}
	for _, m := range c.mentions(s, 0) {
		if m.option != found[0] {
			continue
		}
		from, to := sentenceBegin(s, m.at), sentenceEnd(s, m.to)
		if doubtful.MatchString(s[from:m.at]) || doubtful.MatchString(s[m.to:to]) || aside.MatchString(s[m.to:]) {
			return -1
		}
	}
	return found[0]
}

// named are the options that stand in s, each once; words that prose is full of
// only where no noun follows.
func (c *chooser) named(s string) []int {
	var found []int
	for _, m := range c.mentions(s, 0) {
		inProse := c.options[m.option].weak && noun.MatchString(s[m.to:]) && !listed.MatchString(s[m.to:])
		if !inProse && !c.cited(s, m) && !slices.Contains(found, m.option) {
			found = append(found, m.option)
		}
	}
	return found
}

// mentions are the options that stand in s as whole words, from an offset on.
func (c *chooser) mentions(s string, at int) []claim {
	var found []claim
	before, _ := utf8.DecodeLastRuneInString(s[:at])
	for at < len(s) {
		r, size := utf8.DecodeRuneInString(s[at:])
		to := 0
		if c.begins[r] && !(isWord(r) && isWord(before)) {
			to = at + c.length(s[at:])
		}
		if to <= at || c.joined(s, at, to) {
			at += size
			before = r
			continue
		}
		o := c.option(s[at:to])
		if t := c.options[o].text; len(t) > 1 || t == s[at:to] { // a letter alone is meant as it is written
			found = append(found, claim{at, to, o})
		}
		before, _ = utf8.DecodeLastRuneInString(s[:to])
		at = to
	}
	return found
}

// length is that of the option with which s begins, 0 for none.
func (c *chooser) length(s string) int {
	m := c.next.FindStringIndex(s[:min(len(s), 4*c.longest+16)])
	if m == nil {
		return 0
	}
	return m[1]
}

// cited reports whether a mention is a number in square brackets, which points to a source.
func (c *chooser) cited(s string, m claim) bool {
	return c.options[m.option].number && strings.HasSuffix(s[:m.at], "[") && strings.HasPrefix(s[m.to:], "]")
}

func (c *chooser) option(text string) int {
	if o, ok := c.byText[strings.ToLower(text)]; ok {
		return o
	}
	whole, _, _ := strings.Cut(text, ".") // 4.0
	if o, ok := c.byText[whole]; ok {
		return o
	}
	for i := range c.options { // letters that have more than one small form
		if strings.EqualFold(c.options[i].text, text) {
			return i
		}
	}
	return 0
}

// joined reports whether s[from:to] is a part of a longer word or number.
func (c *chooser) joined(s string, from, to int) bool {
	before, size := utf8.DecodeLastRuneInString(s[:from])
	earlier, _ := utf8.DecodeLastRuneInString(s[:max(0, from-size)])
	after, size := utf8.DecodeRuneInString(s[to:])
	later, _ := utf8.DecodeRuneInString(s[min(len(s), to+size):])
	first, _ := utf8.DecodeRuneInString(s[from:])
	last, _ := utf8.DecodeLastRuneInString(s[:to])
	number := c.options[c.option(s[from:to])].number
	switch {
	case isWord(before) && (isWord(first) || number), isWord(after) && isWord(last):
		return true
	case number && before != utf8.RuneError && strings.ContainsRune("-−+~≈<>≤≥±$€£¥#@.^", before):
		return true
	case number && after != utf8.RuneError && strings.ContainsRune("%°‰€£¥$^", after):
		return true
	case isWord(first) && isWord(earlier) && (strings.ContainsRune("-–'’/\\@&+*.", before) || number && strings.ContainsRune(",:", before)):
		return true
	case isWord(last) && isWord(later) && (strings.ContainsRune("-–'’/\\@&+*.", after) || number && strings.ContainsRune(",:", after)):
		return true
	}
	short := number || utf8.RuneCountInString(s[from:to]) == 1
	return short && isWord(last) && after != utf8.RuneError && strings.ContainsRune("+-−*", after) && !unicode.IsSpace(after)
}

func isWord(r rune) bool {
	return r != utf8.RuneError && (r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r))
}

// clauseEnds reports whether a clause is over before s.
func clauseEnds(s string) bool { return clauseEnd.MatchString(s) }

func sentenceBegin(s string, at int) int {
	for _, m := range slices.Backward(sentence.FindAllStringIndex(s[max(0, at-500):at], -1)) {
		return max(0, at-500) + m[1]
	}
	return max(0, at-500)
}

// sentenceEnd is behind the mark that ends the sentence: a question is one of doubt.
func sentenceEnd(s string, at int) int {
	if m := sentence.FindStringIndex(s[at:]); m != nil {
		return at + m[1]
	}
	return len(s)
}

const answerNoun = `answer|choice|option|score|rating|grade|verdict|judge?ment|decision|label|class|category|classification|conclusion|vote|selection|prediction|assessment|evaluation|result|overall|sentiment|mark`

var (
	weakWords = regexp.MustCompile(`(?i)^(?:yes|no|none|all|any|both|either|neither|other|one|some|i|a|an|it|is|us|or|so|as|at|be|by|do|he|if|in|me|my|of|on|to|up|we|and|but|can|may|might|will|like|the|for|not|now|out|more|less|most|least|first|second|last|next|same|just|well|ok|okay|sure|right|good|fine)$`)

	// announcing are the words with which announced begins.
	announcing = regexp.MustCompile(`(?i)^(?:(?:` + answerNoun + `)s?|deserves|merits|earns|it|this|that|best|correct|right|so|therefore|thus|hence|i|we)$`)

	// announced is what stands before an answer: a noun and a colon (group 1), a
	// noun and "is" (2), "it is" (3), or a verb of the speaker, after some of which
	// (4) comes first what is rated.
	announced = regexp.MustCompile(`(?i)^(?:((?:` + answerNoun + `)s?(?:\s*\([^()\n]{0,40}\))?(?:\s+(?:is|would be|will be|should be))?\s*(?:\]\s|[:=]|->|→)+\s*)` +
		`|((?:` + answerNoun + `)\s+(?:is|was|would be|will be|should be|must be)(?:\s+(?:clearly|definitely|therefore|thus|probably|likely|simply|indeed))?\s+|(?:deserves|merits|earns)\s+)` +
		`|((?:it|this|that|best|correct one|right one)(?:\s+(?:is|would be|must be)|['’]s)\s+|(?:so|therefore|thus|hence),?\s+)` +
		`|(?:I|we)(?:\s+(?:would|will|do|must|have to|am|are)|['’](?:d|ll|m|re))?(?:\s+(?:therefore|thus|definitely|clearly))?\s+(?:choose|chose|pick|picked|select|selected|say|answer|vote for|go with|going with|opt for|opted for|conclude(?:\s+that it is)?|(rate|give|score|grade|award|assign|mark|label|classify))\s+)`)
	// foreign is a word before such a noun that makes it somebody else's answer.
	foreign = regexp.MustCompile(`(?i)(?:['’]s?|\b(?:given|reference|expected|gold|student|model|previous|old|earlier|wrong|incorrect|bad|first|second|other|another|example|sample|possible|your|their|his|her|its|each|every|any|no|an?|question|this|that|max|maximum|min|minimum|highest|lowest|average|[a-z]\.|of))\s+$`)
	article = regexp.MustCompile(`(?i)^(?:(?:[\s"'“”‘’(\[{]+)|(?:a|an|the|option|choice|letter|number|answer|grade|level|class|category|a\s+score\s+of|a\s+rating\s+of)\s+)*`)
	closing = regexp.MustCompile(`^["'“”‘’)\]}]*(?:\s?[\p{So}\x{fe0f}]+)*`)
	outOf   = regexp.MustCompile(`(?i)^["'”’)\]}]*\s*\(?\s*(?:/|(?:out )?of\b)\s*\d`)
	points  = regexp.MustCompile(`(?i)^["'”’)\]}]*\s+(?:points?|stars?|marks?)\b`)
	reason  = regexp.MustCompile(`(?i)^(?:\s+(?:because|since|given that|is\s+(?:clearly\s+)?(?:the\s+)?(?:only\s+)?(?:correct|right|best|answer)\b)|\s+\()`)
	further = regexp.MustCompile(`(?i)^["'”’)\]}]*[ \t]*[.,;:!/&|–—-]*[ \t]*(?:(?:and|or|but|nor|also|to|maybe|perhaps|possibly|then|even|both)\s+)*["'“‘(\[{]*`)
	capital = regexp.MustCompile(`^\s+[\p{Lu}\d]`)
	rated   = regexp.MustCompile(`^[\pL'’]+\s+`)
	noun    = regexp.MustCompile(`(?i)^\s+\pL`)
	listed  = regexp.MustCompile(`(?i)^\s+(?:and|or|nor|but|to)\b`)
	opening = regexp.MustCompile(`(?i)^(?:[\s>#•"'“‘(\[{\p{So}\x{fe0f}]|[-*+]\s+\b|(?:well|ok|okay|hmm+|so|sure|oh|um|honestly|overall|therefore|thus|hence|finally|definitely|absolutely|certainly|clearly|unfortunately|sadly|probably|most likely|likely|in short|in conclusion|in summary|i think|i believe|i['’]d say)\b[,:!]?\s)*`)
	// clauseEnd is what ends a clause, but for the point of a number and a question mark.
	clauseEnd = regexp.MustCompile(`^["'“”‘’)\]}]*(?:\s*$|\s*\n|[.,;:!]+["'”’)\]}]*(?:\s|$)|\s*[—|]|\s+[-–]+\s+[^\s\d]|\s*\()`)
	sentence  = regexp.MustCompile(`[.!?](?:["'”’)\]}]*\s)|\?|\n`)
	numbering = regexp.MustCompile(`^\.\s*\d`)
	aside     = regexp.MustCompile(`(?i)^\s+question\b`)
	denied    = regexp.MustCompile(`(?i)(?:\b(?:not|never|than|versus|vs\.?|instead of|nor|neither|without)|n['’]t)\s+(?:(?:a|an|the|be|option|say|quite)\s+)*["'“‘(]*$`)
	contrast  = regexp.MustCompile(`(?i)\b(?:but|however|although|though|whereas|nevertheless|nonetheless|yet|on the other hand|while|despite|in spite of)\b`)
	doubtful  = regexp.MustCompile(`(?i)\b(?:not|never|no|nor|neither|none|no one|nobody|nothing|cannot|without|hardly|barely|scarcely|rather than|instead of|unless|except|than|false|wrong|incorrect|untrue|doubt|deny|denies|reject|rejects|refuse|rule out|ruled out|fails?|avoids?|lacks?|far from|if|whether|maybe|perhaps|possibly|might|could|may|unsure|uncertain|unclear|undecided|either|or|between|versus|vs|too|less|almost|nearly|close to|partly|partially|somewhat|used to|seemed|once|anything but)\b|n['’]t\b|\?`)

	signs    = strings.NewReplacer("\u00a0", " ", "：", ": ", "。", ". ", "，", ", ", "```", "\n", "\r\n", "\n")
	struck   = regexp.MustCompile(`~~[^~\n]*~~`)
	boxed    = regexp.MustCompile(`\\f?box(?:ed)?\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}`)
	tagged   = regexp.MustCompile(`(?is)<(?:final[_-]?)?(?:` + answerNoun + `)>\s*(.*?)\s*</(?:final[_-]?)?(?:` + answerNoun + `)>`)
	tag      = regexp.MustCompile(`</?[A-Za-z][^<>\n]{0,100}>`)
	latex    = regexp.MustCompile(`\\(?:text|mathrm|textbf|mathbf|mathsf|mathit|textit|operatorname)\s*\{([^{}]*)\}`)
	formula  = regexp.MustCompile(`\$([^\s$](?:[^$\n]*[^\s$])?)\$`)
	brackets = regexp.MustCompile(`\\[()\[\]]`)
	keyWords = regexp.MustCompile(`(?i)(?:^|[_\s-])(?:` + answerNoun + `)$|[a-z](?:Answer|Choice|Option|Score|Rating|Grade|Verdict|Label|Class|Category|Decision)$`)
)

// labelled is s with the answers of its markup on lines of their own: those in
// a box, in a tag of that name, and in the fields of JSON.
func labelled(s string) string {
	var b strings.Builder
	at := 0
	for _, f := range lang.FindJSON(s) {
		v, err := matrix.ParseValue([]byte(s[f.From:f.To]))
		m, ok := v.Any().(map[string]any)
		if err != nil || !ok {
			continue
		}
		b.WriteString(s[at:f.From])
		keys := make([]string, 0, len(m))
		for k := range m {
			if keyWords.MatchString(k) || len(m) == 1 {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			switch v := m[k].(type) {
			case string:
				fmt.Fprintf(&b, "\nanswer: %s\n", strings.Join(strings.Fields(v), " "))
			default:
				fmt.Fprintf(&b, "\nanswer: %v\n", v)
			}
		}
		at = f.To
	}
	b.WriteString(s[at:])
	s = b.String()
	if strings.Contains(s, `\`) {
		s = latex.ReplaceAllString(s, "$1")
		s = boxed.ReplaceAllString(s, "\nanswer: $1\n")
	}
	if strings.Contains(s, "</") {
		s = tagged.ReplaceAllString(s, "\nanswer: $1\n")
	}
	return s
}

// unmarked is s without the marks of Markdown, HTML and LaTeX around its words.
func unmarked(s string) string {
	for _, m := range []struct {
		sign string
		re   *regexp.Regexp
		by   string
	}{{"~~", struck, ""}, {"<", tag, ""}, {`\`, latex, "$1"}, {`\`, brackets, ""}, {"$", formula, "$1"}} {
		if strings.Contains(s, m.sign) {
			s = m.re.ReplaceAllString(s, m.by)
		}
	}
	s = signs.Replace(s)
	if !strings.ContainsAny(s, "*`_") {
		return s
	}
	runes := []rune(s)
	var b strings.Builder
	var before rune
	for i, r := range runes {
		if r == '*' || r == '`' || r == '_' {
			j := i + 1
			for j < len(runes) && runes[j] == r {
				j++
			}
			if !isWord(before) || j == len(runes) || !isWord(runes[j]) {
				continue
			}
		}
		b.WriteRune(r)
		if r != '*' && r != '`' {
			before = r
		}
	}
	return b.String()
}
