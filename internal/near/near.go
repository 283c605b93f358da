// Package near finds the name that somebody meant who wrote another. It knows
// nothing of what the names are of.
package near

import "strings"

// longest is how many characters of names are compared.
const longest = 100

// Name returns the name among known that is so near to word that a slip of the
// hand explains the difference, or the empty string. Case does not count. Of
// two that are as near, the first in known is taken.
//
// A slip is an insertion, a deletion, a replacement or a swap of neighbours of
// one character; one is allowed for every three characters of word, and at
// least one. A name of which nothing would be left is not near.
func Name(word string, known []string) string {
	w := []rune(strings.ToLower(word))
	best, least := "", max(1, len(w)/3)+1
	for _, name := range known {
		k := []rune(strings.ToLower(name))
		if d := distance(w, k, least); d < least && d < len(k) {
			best, least = name, d
		}
	}
	return best
}

// distance counts the slips from a to b (optimal string alignment); it is limit
// where there are as many or more, or where a text is too long to compare.
func distance(a, b []rune, limit int) int {
	if len(a) > longest || len(b) > longest || len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
