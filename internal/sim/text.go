package sim

import (
	"strings"
	"unicode/utf8"
)

// A token is taken to be 4 bytes of a text, cut at whole runes.
const tokenBytes = 4

// tokensOf is how many tokens a text has.
func tokensOf(s string) int { return (len(s) + tokenBytes - 1) / tokenBytes }

// upTo is where the first n tokens of s end.
func upTo(s string, n int) int {
	at := n * tokenBytes
	if at >= len(s) {
		return len(s)
	}
	for at > 0 && !utf8.RuneStart(s[at]) {
		at--
	}
	return at
}

// vocabulary is what drawn texts are made of.
var vocabulary = strings.Fields(`
a about above across after again all almost also always among an and another answer any are around as ask at away back
be because become been before begin behind being below between both bring but by call came can carry case change check
city clear close come common could count country course day different do does done door down draw during each early
earth easy else end enough even every example eye face fact far few find first follow food form found four from full
gave general get give go good great group grow had half hand hard has have head hear help her here high him his hold
home house how idea if important in into is it its just keep kind know land large last later learn leave left less let
letter life light like line list little live long look made main make many may mean measure might more most move much
must name near need never new next night no north not note nothing notice now number of off often old on once one only
open or order other our out over own page part pattern people place plain plan plant play point possible problem
produce question quick read real reason right river room rule run said same say school second see seem set several she
short should show side simple since small so some sometimes soon space stand start state step still stop story study
such sure system table take tell ten than that the their them then there these they thing think this those though
thought three through time to together told too took toward travel tree true try turn two under until up upon us use
usual very voice walk want was watch water way we week well went were what when where which while white who whole why
will with without word work world would write year yet you young your`)

// words writes a text of n tokens.
func words(seed uint64, n int) string {
	if n <= 0 {
		return ""
	}
	r := random(seed)
	size := n*tokenBytes - 1 // the last token ends with the full stop
	b := make([]byte, 0, size+16)
	first, sentence := true, 5+r.below(12)
	for len(b) < size {
		if len(b) > 0 {
			if sentence--; sentence <= 0 {
				b, first, sentence = append(b, '.'), true, 5+r.below(12)
			}
			b = append(b, ' ')
		}
		w := vocabulary[r.below(len(vocabulary))]
		b = append(b, w...)
		if first {
			b[len(b)-len(w)] -= 'a' - 'A'
			first = false
		}
	}
	b = b[:size]
	if b[size-1] == ' ' || b[size-1] == '.' {
		b[size-1] = 's'
	}
	return string(append(b, '.'))
}
