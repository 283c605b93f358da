package tool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// fingerprint is a hash of definitions: the same where a model is told the same, whatever the order of keys.
func fingerprint(all []Definition) string {
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

// toolsFile is where a run's folder of a pool has its tools.
const toolsFile = "tools.json"

// pin compares tools with those that the run began with, as dir has them, and notes them
// there where there are none yet, or others are accepted. An empty dir pins nothing.
func pin(dir, pool string, accept bool, now []Definition) error {
	if dir == "" {
		return nil
	}
	was, err := pinned(dir)
	switch {
	case err == nil && fingerprint(was) == fingerprint(now):
		return nil
	case err == nil && !accept:
		return &ChangedError{Pool: pool, Changes: changesOf(was, now)}
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return &BrokenError{err}
	}
	file := filepath.Join(dir, toolsFile)
	raw, err := json.MarshalIndent(now, "", "\t")
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err == nil {
		err = os.WriteFile(file+".new", append(raw, '\n'), 0o666)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return &BrokenError{err}
	}
	return nil
}

// pinned are the tools that stand in the folder of a pool.
func pinned(dir string) (all []Definition, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, toolsFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", filepath.Join(dir, toolsFile), err)
	}
	return all, nil
}

// changesOf says how two lists of tools differ, a line for each tool.
func changesOf(was, now []Definition) (lines []string) {
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
