package dataset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"matrix"
	"matrix/internal/jsontext"
)

// Formats is a folder beside the outputs of a run in which what its calls asked
// replies to look like (schemas, grammars, choices) stands once: in the lines
// stands "sha256:" and the digest of the file DIGEST.json in its place, which
// holds the JSON and nothing else.
type Formats struct {
	fs    FS
	dir   string
	mu    sync.Mutex
	known map[string]bool
}

// NewFormats returns the folder, which is made when something is put into it.
func NewFormats(fsys FS, dir string) *Formats {
	return &Formats{fs: fsys, dir: dir, known: map[string]bool{}}
}

// formatKeys are the parameters, wherever in a request, in which services of all
// kinds take what a reply must look like, and the tools there are.
var formatKeys = []string{
	"response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding",
	"grammar", "ebnf", "regex", "json_schema", "output_format", "output_config", "outputConfig", "responseSchema", "responseJsonSchema",
	"format", "tools", "toolConfig",
}

const digestPrefix = "sha256:"

// shorten returns t with the formats of its calls put into the folder; t itself
// where there are none.
func (f *Formats) shorten(t *matrix.Task) (*matrix.Task, error) {
	short := t
	for i := range t.Turns {
		own := false // the turn's calls may be changed
		for k := range t.Turns[i].Calls {
			params := t.Turns[i].Calls[k].Params.Raw()
			if !hasFormat(params) {
				continue
			}
			raw, err := f.replace(params)
			if err != nil {
				return nil, err
			}
			if short == t {
				clone := *t
				clone.Turns = slices.Clone(t.Turns)
				short = &clone
			}
			x := &short.Turns[i]
			if !own {
				x.Calls, own = slices.Clone(x.Calls), true
			}
			x.Calls[k].Params = matrix.RawValue(raw)
		}
	}
	return short, nil
}

func hasFormat(params []byte) bool {
	return len(params) > 2 && params[0] == '{' && slices.ContainsFunc(formatKeys, func(k string) bool { return bytes.Contains(params, []byte(k)) })
}

// replace returns an object with its formats as digests.
func (f *Formats) replace(object []byte) ([]byte, error) {
	return rewritten(object, func(key, value []byte) ([]byte, error) {
		switch {
		case bytes.HasPrefix(value, []byte(`"`+digestPrefix)): // of a task that was read back
		case value[0] != 'n' && slices.Contains(formatKeys, unquote(key)):
			digest, err := f.put(value)
			return jsontext.AppendString(nil, digestPrefix+digest), err
		case value[0] == '{':
			return f.replace(value)
		}
		return value, nil
	})
}

// rewritten is an object with what f makes of each of its values.
func rewritten(object []byte, f func(key, value []byte) ([]byte, error)) ([]byte, error) {
	out := []byte{'{'}
	var failed error
	eachField(object, func(key, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		value, err := f(key, value)
		failed = errors.Join(failed, err)
		out = append(append(append(out, key...), ':'), value...)
	})
	return append(out, '}'), failed
}

// put makes sure that the folder durably holds a value, and returns its digest.
func (f *Formats) put(value []byte) (digest string, err error) {
	var one bytes.Buffer
	if err := json.Compact(&one, value); err != nil {
		return "", err
	}
	sum := sha256.Sum256(one.Bytes())
	digest = hex.EncodeToString(sum[:])
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[digest] {
		return digest, nil
	}
	if err := f.write(filepath.Join(f.dir, digest+".json"), one.Bytes()); err != nil {
		return "", fmt.Errorf("output %s: %w", f.dir, err)
	}
	f.known[digest] = true
	return digest, nil
}

// write makes a file hold b. A crash may have left one that holds less.
func (f *Formats) write(name string, b []byte) error {
	if err := f.fs.Mkdir(f.dir); err != nil {
		return err
	}
	file, err := f.fs.Create(name)
	if errors.Is(err, fs.ErrExist) {
		file, err = f.fs.Append(name)
	}
	if err != nil {
		return err
	}
	size, err := file.Size()
	if err == nil && size != int64(len(b)) {
		if err = file.Truncate(0); err == nil {
			_, err = file.Write(b)
		}
	}
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return f.fs.SyncDir(f.dir)
}

// RestoreFormats puts the formats of a run back into the calls of a task that
// was read from its output. One that is not there stays a digest.
func RestoreFormats(dir string, t *matrix.Task) {
	for c := range t.Calls() {
		if bytes.Contains(c.Params.Raw(), []byte(digestPrefix)) {
			c.Params = matrix.RawValue(restored(dir, c.Params.Raw()))
		}
	}
}

func restored(dir string, object []byte) []byte {
	out, _ := rewritten(object, func(_, value []byte) ([]byte, error) {
		switch {
		case value[0] == '{':
			return restored(dir, value), nil
		case value[0] == '"':
			digest, ok := strings.CutPrefix(unquote(value), digestPrefix)
			if _, err := hex.DecodeString(digest); !ok || err != nil {
				break
			}
			if b, err := os.ReadFile(filepath.Join(dir, digest+".json")); err == nil && json.Valid(b) {
				return b, nil
			}
		}
		return value, nil
	})
	return out
}

// RemoveFormats removes the formats in dir, and nothing else.
func RemoveFormats(dir string) error {
	names, err := fs.Glob(os.DirFS(dir), strings.Repeat("[0-9a-f]", 2*sha256.Size)+".json")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
