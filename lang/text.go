package lang

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"matrix"
	"matrix/internal/regex"
	"matrix/lang/internal/calc"
)

// text is v as the text helpers take it: scalars are printed, nil is empty.
func text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case nil:
		return "", nil
	case bool:
		return fmt.Sprint(v), nil
	}
	if _, ok := calc.Float(v); ok {
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("want a text, got %s", calc.Kind(v))
}

// pattern is v as a regular expression: compiled already, or a text.
func pattern(v any) (*regexp.Regexp, error) {
	if re, ok := v.(*regexp.Regexp); ok {
		return re, nil
	}
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("want a regular expression as text, got %s", calc.Kind(v))
	}
	return compileRegexp(s)
}

func compileRegexp(s string) (*regexp.Regexp, error) {
	re, err := regex.Compile(s)
	if err != nil {
		return nil, errors.New("not a regular expression: " + err.Error())
	}
	return re, nil
}

// group is what find returns of one match.
func group(s string, m []int) any {
	if len(m) > 2 {
		if m[2] < 0 {
			return nil
		}
		return s[m[2]:m[3]]
	}
	return s[m[0]:m[1]]
}

func find(s string, re *regexp.Regexp) any {
	m := re.FindStringSubmatchIndex(s)
	if m == nil {
		return nil
	}
	return group(s, m)
}

func findAll(s string, re *regexp.Regexp) (any, error) {
	all, err := matches(s, re)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, m := range all {
		if len(m) <= 4 {
			out = append(out, group(s, m))
			continue
		}
		groups := make([]any, 0, len(m)/2-1)
		for i := 2; i < len(m); i += 2 {
			if m[i] < 0 {
				groups = append(groups, nil)
			} else {
				groups = append(groups, s[m[i]:m[i+1]])
			}
		}
		out = append(out, groups)
	}
	return out, nil
}

// matches are those of re in s, unless they and their groups are too many.
func matches(s string, re *regexp.Regexp) ([][]int, error) {
	most := calc.MaxParts / (1 + re.NumSubexp())
	all := re.FindAllStringSubmatchIndex(s, most+1)
	if len(all) > most {
		return nil, fmt.Errorf("the regular expression matches more than %d times", most)
	}
	return all, nil
}

// substitute replaces every match. In by, $1 is the first group, with as many
// digits as follow, $0 the whole match, and $$ a dollar.
func substitute(s string, re *regexp.Regexp, by string) (string, error) {
	pieces, err := template(by, re.NumSubexp())
	if err != nil {
		return "", err
	}
	var out []byte
	at := 0
	all, err := matches(s, re)
	if err != nil {
		return "", err
	}
	for _, m := range all {
		out = append(out, s[at:m[0]]...)
		for _, p := range pieces {
			out = append(out, p.text...)
			if p.group >= 0 && m[2*p.group] >= 0 {
				out = append(out, s[m[2*p.group]:m[2*p.group+1]]...)
			}
			if len(out) > calc.MaxText {
				return "", calc.ErrTooLong
			}
		}
		at = m[1]
	}
	return string(append(out, s[at:]...)), nil
}

// piece is a text and the group behind it; -1 for none.
type piece struct {
	text  string
	group int
}

// template takes the replacement of sub apart. A dollar before anything but
// digits and a dollar is itself.
func template(by string, groups int) ([]piece, error) {
	var pieces []piece
	var text strings.Builder
	for {
		before, after, found := strings.Cut(by, "$")
		text.WriteString(before)
		if !found {
			return append(pieces, piece{text.String(), -1}), nil
		}
		digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
		switch {
		case digits > 0:
			n, err := strconv.Atoi(after[:digits])
			if err != nil || n > groups {
				return nil, fmt.Errorf("the regular expression has %d groups, there is no $%s; write $$ for a dollar", groups, after[:digits])
			}
			pieces = append(pieces, piece{text.String(), n})
			text.Reset()
			by = after[digits:]
		case strings.HasPrefix(after, "$"):
			text.WriteString("$")
			by = after[1:]
		default:
			text.WriteString("$")
			by = after
		}
	}
}

func replace(s, old, by string) (string, error) {
	if err := calc.Fits(len(s), strings.Count(s, old), len(by)-len(old)); err != nil {
		return "", err
	}
	return strings.ReplaceAll(s, old, by), nil
}

func join(list any, sep string) (string, error) {
	if list == nil {
		return "", nil
	}
	parts := calc.MaxParts
	p, err := plain(list, &parts)
	if err != nil {
		return "", err
	}
	l, ok := p.([]any)
	if !ok {
		return "", fmt.Errorf("want a list to join, got %s", calc.Kind(list))
	}
	return calc.Joined(l, sep, text)
}

func parseJSON(s string) (matrix.Value, error) {
	if tooManyValues(s) {
		return matrix.Value{}, calc.ManyParts("the JSON")
	}
	v, err := matrix.ParseValue([]byte(s))
	if err != nil {
		return v, fmt.Errorf("not JSON: %w", err)
	}
	return v, nil
}

// tooManyValues reports whether a JSON text has more of them than there may be.
func tooManyValues(s string) bool {
	if len(s) < calc.MaxParts {
		return false
	}
	n, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == ',':
			n++
		}
	}
	return n >= calc.MaxParts
}

func toJSON(v any, indent int) (string, error) {
	parts := calc.MaxParts
	p, err := plain(v, &parts)
	if err != nil {
		return "", err
	}
	indent = max(indent, 0)
	if room := calc.MaxText - indent; room < 0 || !weigh(p, indent, indent, &room) {
		return "", calc.ErrTooLong
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if indent > 0 {
		e.SetIndent("", strings.Repeat(" ", indent))
	}
	if err := e.Encode(p); err != nil {
		return "", err
	}
	if b.Len() > calc.MaxText {
		return "", calc.ErrTooLong
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// weigh takes from room what a plain value is at least as JSON, on lines that
// begin with before spaces; it reports whether there was room.
func weigh(v any, before, indent int, room *int) bool {
	deeper := before
	if indent > 0 {
		deeper = min(before, calc.MaxText) + indent
	}
	switch v := v.(type) {
	case string:
		*room -= len(v)
	case []any:
		for _, e := range v {
			if *room -= before; *room < 0 || !weigh(e, deeper, indent, room) {
				return false
			}
		}
	case map[string]any:
		for k, e := range v {
			if *room -= before + len(k); *room < 0 || !weigh(e, deeper, indent, room) {
				return false
			}
		}
	}
	return *room >= 0
}

// digest hashes a text as it is and any other value as its JSON.
func digest(v any) ([32]byte, error) {
	s, ok := v.(string)
	if !ok {
		var err error
		if s, err = toJSON(v, 0); err != nil {
			return [32]byte{}, err
		}
	}
	return sha256.Sum256([]byte(s)), nil
}

func hash(v any) (string, error) {
	d, err := digest(v)
	return hex.EncodeToString(d[:8]), err
}

func bucket(v any, n int) (int, error) {
	if n < 1 {
		return 0, fmt.Errorf("bucket wants at least 1 bucket, got %d", n)
	}
	d, err := digest(v)
	return int(binary.BigEndian.Uint64(d[:8]) % uint64(n)), err
}

// similarity is the Dice coefficient of the pairs of neighbouring characters,
// counted as often as they occur, in lower case and with runs of white space
// as one space. It takes time linear in the texts.
func similarity(a, b string) float64 {
	x, y := folded(a), folded(b)
	if string(x) == string(y) {
		return 1
	}
	if len(x) < 2 || len(y) < 2 {
		return 0
	}
	pairs := make(map[[2]rune]int, len(x))
	for i := 1; i < len(x); i++ {
		pairs[[2]rune{x[i-1], x[i]}]++
	}
	both := 0
	for i := 1; i < len(y); i++ {
		if p := [2]rune{y[i-1], y[i]}; pairs[p] > 0 {
			pairs[p]--
			both++
		}
	}
	return 2 * float64(both) / float64(len(x)+len(y)-2)
}

func folded(s string) []rune {
	return []rune(strings.Join(strings.FieldsFunc(strings.ToLower(s), unicode.IsSpace), " "))
}

// balanced is the length of the bracketed text that s begins with; 0 if it does
// not end.
func balanced(s string) int {
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

func lower(s string) string { return strings.ToLower(s) }

func trim(s string) string { return strings.TrimSpace(s) }

func words(s string) (any, error) {
	if err := calc.Wordy(s); err != nil {
		return nil, err
	}
	return anys(strings.Fields(s)), nil
}

func split(s, sep string) (any, error) {
	if err := calc.Splits(s, sep); err != nil {
		return nil, err
	}
	return anys(strings.Split(s, sep)), nil
}
