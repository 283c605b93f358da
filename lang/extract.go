package lang

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"matrix"
)

// FoundJSON is a JSON value in a text, at s[From:To].
type FoundJSON struct {
	From, To int
	Rank     int // the lower, the plainer it is meant as the answer: 0 the whole, 1 a fenced block, 2 objects in prose, 3 lists on lines of their own
}

// errors of a text that holds no JSON, or not one alone.
var (
	errNoJSON   = errors.New("the reply holds no valid JSON")
	errCutJSON  = errors.New("the reply holds JSON that is not valid or not complete")
	errManyJSON = errors.New("the reply holds several JSON values, which differ")
)

// ExtractJSON reads the JSON in the text of a model: the whole text, else what
// stands in fenced code blocks, else the objects, or lists of them, in its
// prose. Other lists count where they have their lines for themselves: [1] in
// prose is a citation. Where fits is given, only values of which it holds count.
// Values of the same rank that differ are an error, and so are none; what is
// inside of JSON that is not valid never counts, and nothing does where the text
// ends within JSON.
func ExtractJSON(s string, fits func(matrix.Value) error) (matrix.Value, error) {
	found, rest := findJSON(s)
	if rest == broken {
		return matrix.Value{}, errCutJSON
	}
	var first error
	for rank := range 4 {
		var got *matrix.Value
		for _, f := range found {
			if f.Rank != rank {
				continue
			}
			v, err := matrix.ParseValue(compact(s[f.From:f.To]))
			if err != nil {
				err = fmt.Errorf("the JSON cannot be used: %w", err)
			} else if fits != nil {
				err = fits(v)
			}
			switch {
			case err != nil:
				if first == nil {
					first = err
				}
			case got == nil:
				got = &v
			case !reflect.DeepEqual(got.Any(), v.Any()):
				return matrix.Value{}, errManyJSON
			}
		}
		if got != nil {
			return *got, nil
		}
	}
	switch {
	case first != nil:
		return matrix.Value{}, first
	case rest == invalid:
		return matrix.Value{}, errCutJSON
	}
	return matrix.Value{}, errNoJSON
}

// FindJSON returns where s holds JSON, in order.
func FindJSON(s string) []FoundJSON {
	found, _ := findJSON(s)
	return found
}

const maxOpenings = 1000 // brackets that open no JSON, of one text

// what there is in a text beside valid JSON.
const (
	nothing = iota
	invalid // what is meant as JSON
	broken  // at its end
)

// findJSON also says what else there is.
func findJSON(s string) (found []FoundJSON, rest int) {
	if t := strings.TrimSpace(s); t != "" && json.Valid([]byte(t)) {
		from := strings.Index(s, t)
		return []FoundJSON{{From: from, To: from + len(t)}}, nothing
	}
	failed := 0
	for i := 0; i < len(s) && failed < maxOpenings; i++ {
		switch {
		case strings.HasPrefix(s[i:], "```"):
			from, to := fenced(s, i+3)
			if to > 0 {
				found = append(found, FoundJSON{From: from, To: to, Rank: 1})
				i = to
				if end := strings.Index(s[to:], "```"); end >= 0 {
					i = to + end + 3
				}
				i--
			} else {
				i += 2
			}
			continue
		case s[i] != '{' && s[i] != '[':
			continue
		}
		n := balanced(s[i:])
		switch {
		case n > 0 && json.Valid([]byte(s[i:i+n])):
			if rank := rankOf(s, i, i+n); rank > 0 {
				found = append(found, FoundJSON{From: i, To: i + n, Rank: rank})
			}
			i += n - 1
		case !opensJSON(s[i:]):
			failed++
		case n == 0:
			return found, broken // all that follows is inside of it
		default:
			rest = invalid
			i += n - 1
		}
	}
	return found, rest
}

// fenced is the JSON that a code block holds alone, from behind its fence on.
func fenced(s string, at int) (from, to int) {
	line, _, multi := strings.Cut(s[at:], "\n")
	if multi && !strings.ContainsAny(line, "{[\"") {
		at += len(line) // which names the language
	} else if word := strings.TrimPrefix(s[at:], "json"); word != s[at:] {
		at += len("json")
	}
	body := strings.TrimLeft(s[at:], " \t\r\n")
	from = len(s) - len(body)
	n := balanced(body)
	if n == 0 || body[0] != '{' && body[0] != '[' {
		body, _, _ = strings.Cut(body, "```")
		n = len(strings.TrimSpace(body))
	} else if rest := strings.TrimSpace(body[n:]); rest != "" && !strings.HasPrefix(rest, "```") {
		return 0, 0
	}
	if n == 0 || !json.Valid([]byte(body[:n])) {
		return 0, 0
	}
	return from, from + n
}

// rankOf is that of valid JSON in prose; 0 where it is none, but a citation or
// an aside in brackets.
func rankOf(s string, from, to int) int {
	inner := strings.TrimSpace(s[from+1 : to-1])
	if strings.Contains(s[from:to], "{") && inner != "" {
		return 2
	}
	before, after := s[strings.LastIndexByte(s[:from], '\n')+1:from], s[to:]
	after, _, _ = strings.Cut(after, "\n")
	if after = strings.TrimSpace(after); after != "" && after != "." {
		return 0
	}
	if before = strings.TrimSpace(before); before == "" || strings.HasSuffix(before, ":") || strings.HasSuffix(before, "=") {
		return 3
	}
	return 0
}

// opensJSON reports whether s, which begins with a bracket, is meant as JSON, or as
// what a model takes for it.
func opensJSON(s string) bool {
	inside := strings.TrimLeft(s[1:], " \t\r\n")
	if inside == "" {
		return false
	}
	if s[0] == '[' {
		return strings.IndexByte(`{["'`, inside[0]) >= 0
	}
	name := strings.TrimLeft(inside, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789")
	return strings.IndexByte(`"'`, inside[0]) >= 0 || name != inside && strings.HasPrefix(strings.TrimLeft(name, " "), ":")
}

// compact is JSON without the space around its values.
func compact(s string) []byte {
	var b bytes.Buffer
	if json.Compact(&b, []byte(s)) != nil {
		return []byte(s)
	}
	return b.Bytes()
}
