package tool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Pin is a hash of definitions: the same where a model is told the same, whatever the order of keys.
func Pin(all []Definition) string {
	sum := sha256.Sum256(canonical(all))
	return hex.EncodeToString(sum[:])
}

func canonical(v any) []byte {
	raw, err := json.Marshal(v)
	var any any
	if err == nil {
		err = json.Unmarshal(raw, &any)
	}
	if err == nil {
		raw, err = json.Marshal(any) // keys sorted
	}
	if err != nil {
		return fmt.Append(nil, err) // of parameters that are no JSON
	}
	return raw
}

// ChangedError says that the tools of a pool are others than those that the run began with.
type ChangedError struct {
	Pool    string
	Changes []string // a line each
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("the tools of pool %s are not those that the run began with:\n  %s", e.Pool, strings.Join(e.Changes, "\n  "))
}

// Changes says how two lists of tools differ, a line for each tool.
func Changes(was, now []Definition) (lines []string) {
	find := func(in []Definition, name string) int {
		return slices.IndexFunc(in, func(d Definition) bool { return d.Name == name })
	}
	for _, d := range was {
		i := find(now, d.Name)
		if i < 0 {
			lines = append(lines, d.Name+" is gone")
			continue
		}
		var what []string
		if now[i].Description != d.Description {
			what = append(what, "description")
		}
		if !bytes.Equal(canonical(now[i].Parameters), canonical(d.Parameters)) {
			what = append(what, "parameters")
		}
		if len(what) > 0 {
			lines = append(lines, fmt.Sprintf("%s has another %s", d.Name, strings.Join(what, " and other ")))
		}
	}
	for _, d := range now {
		if find(was, d.Name) < 0 {
			lines = append(lines, d.Name+" is new")
		}
	}
	return lines
}

// sameJSON reports whether two texts of JSON mean the same.
func sameJSON(a, b string) bool {
	if a == b {
		return true
	}
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}
