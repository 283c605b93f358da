package dataset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"matrix"
	"matrix/internal/jsontext"
)

// eachField calls f for the fields of obj, a valid JSON object, in order.
// Both key (with its quotes) and value are as they stand in obj.
func eachField(obj []byte, f func(key, value []byte)) {
	i := space(obj, bytes.IndexByte(obj, '{')+1)
	for i < len(obj) && obj[i] == '"' {
		k := skipString(obj, i)
		v := space(obj, space(obj, k)+1) // over the colon
		end := skipValue(obj, v)
		f(obj[i:k], obj[v:end])
		i = space(obj, space(obj, end)+1) // over the comma
	}
}

// space returns the index of the first byte from i on that is not space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at b[i].
func skipString(b []byte, i int) int {
	i++
	for i < len(b) {
		j := bytes.IndexByte(b[i:], '"')
		if j < 0 {
			return len(b)
		}
		i += j
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		i++
		if slashes%2 == 0 {
			return i
		}
	}
	return i
}

// skipValue returns the index after the value that begins at b[i].
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				i = skipString(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return len(b)
	}
	for i < len(b) && !ends(b[i]) {
		i++
	}
	return i
}

func ends(c byte) bool {
	return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r'
}

// is reports whether key, in quotes, is name.
func is(key []byte, name string) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key[1:len(key)-1]) == name
	}
	return unquote(key) == name
}

func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) // it is valid
	return s
}

// maxID is the longest id.
const maxID = 1 << 10

// IsField reports whether an id of a config is the name of a field: a letter or
// underscore, then letters, digits and underscores. Other ids are expressions.
func IsField(id string) bool {
	for i, c := range id {
		switch {
		case c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80:
		case i > 0 && c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return id != ""
}

// fieldID reads the id of a row from a field. Of a field that stands there
// twice the last counts, as elsewhere. What Parquet's values were given so that
// it is known what they are is not part of an id: the point of whole floats (1.0
// is the row 1, see appendReal), and notText.
func fieldID(obj []byte, field string, ofParquet bool) (string, error) {
	var found []byte
	eachField(obj, func(key, value []byte) {
		if is(key, field) {
			found = value
		}
	})
	if found == nil {
		return "", fmt.Errorf("id: the row has no field %q%s", field, fieldsOf(obj))
	}
	switch c := found[0]; {
	case c == '"':
		id := unquote(found)
		if ofParquet {
			id = strings.TrimPrefix(id, notText)
		}
		return checkID(id, field)
	case c == '-' || c >= '0' && c <= '9':
		if ofParquet {
			found = bytes.TrimSuffix(found, []byte(".0"))
		}
		return checkID(string(found), field)
	}
	return "", fmt.Errorf("id: field %q is %s: an id is a string or a number", field, kindOrObject(found))
}

func kindOrObject(value []byte) string {
	if value[0] == '{' {
		return "an object"
	}
	return kindOf(value)
}

// computedID asks f for the id of a row.
func computedID(f func(*matrix.Task) (any, error), t *matrix.Task) (string, error) {
	x, err := f(t)
	if err != nil {
		return "", fmt.Errorf("id: %w", err)
	}
	switch x := x.(type) {
	case string:
		return checkID(x, "")
	case int:
		return strconv.Itoa(x), nil
	case int64:
		return strconv.FormatInt(x, 10), nil
	case float64:
		if x == float64(int64(x)) && x < 1<<53 && x > -1<<53 {
			return strconv.FormatInt(int64(x), 10), nil
		}
		return strconv.FormatFloat(x, 'g', -1, 64), nil
	case nil:
		return "", fmt.Errorf("id: the expression gives null: an id is a string or a number")
	}
	return "", fmt.Errorf("id: the expression gives %T: an id is a string or a number", x)
}

func checkID(id, field string) (string, error) {
	what := "the expression gives"
	if field != "" {
		what = fmt.Sprintf("field %q is", field)
	}
	switch {
	case id == "":
		return "", fmt.Errorf("id: %s an empty string", what)
	case len(id) > maxID:
		return "", fmt.Errorf("id: %s %d bytes long, and an id has at most %d", what, len(id), maxID)
	}
	return id, nil
}

// rename returns obj with its fields renamed, from new name to old.
func rename(obj []byte, names map[string]string) ([]byte, error) {
	found := make(map[string]bool, len(names))
	out := append(make([]byte, 0, len(obj)+16*len(names)), '{')
	order := slices.Sorted(maps.Keys(names))
	add := func(key, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	eachField(obj, func(key, value []byte) {
		name, moved := unquote(key), false
		for _, to := range order {
			if names[to] == name {
				add(jsontext.AppendString(nil, to), value)
				found[name], moved = true, true
			}
		}
		if _, taken := names[name]; !moved && !taken {
			add(key, value)
		}
	})
	for _, to := range order {
		if old := names[to]; !found[old] {
			return nil, fmt.Errorf("rename: the row has no field %q%s", old, fieldsOf(obj))
		}
	}
	return append(out, '}'), nil
}

// fieldsOf lists the fields of obj for a message.
func fieldsOf(obj []byte) string {
	var names []string
	eachField(obj, func(key, _ []byte) {
		if len(names) <= 8 && len(key) <= 64 {
			names = append(names, unquote(key))
		}
	})
	if len(names) > 8 {
		names[8] = "..."
	}
	if len(names) == 0 {
		return ""
	}
	return " (it has " + strings.Join(names, ", ") + ")"
}
