package spec

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"matrix/internal/config"
)

// Config is the config of a run: read and decoded, nothing of it made yet.
type Config struct {
	Path string // as a person typed it
	Tree *config.Tree
	Run  Run // what Tree decodes into
}

// Load reads the config at path, as config.Load does. A run without a name is
// called after its file. An error is a UsageError.
func Load(path string, overrides []string) (*Config, error) {
	c, err := load(path, overrides)
	if err != nil && IsDataset(path) {
		return nil, &UsageError{&DatasetError{path}}
	}
	return c, err
}

func load(path string, overrides []string) (*Config, error) {
	tree, err := config.Load(Run{}, path, overrides)
	if err != nil {
		return nil, Wrong(path, err)
	}
	return decoded(path, tree)
}

// DatasetError says that a dataset stands in the place of a config.
type DatasetError struct{ Path string }

func (e *DatasetError) Error() string {
	return e.Path + " is a dataset, not a config: a config names it as dataset.path"
}

// IsDataset reports whether path has the name of a dataset, as no config has.
func IsDataset(path string) bool { return datasets.MatchString(path) }

var datasets = regexp.MustCompile(`(?i)\.((jsonl|ndjson|csv|txt|md|markdown|html?|xhtml|warc|wet)(\.(gz|gzip|zst|zstd))?|json\.(gz|gzip|zst|zstd)|parquet)$`)

// LoadText makes a config of a text that no file holds, as config.LoadText does.
// A run without a name is called name. An error is a UsageError.
func LoadText(name, text string, parts map[string]*config.Section, overrides []string) (*Config, error) {
	tree, err := config.LoadText(Run{}, name, text, parts, overrides)
	if err != nil {
		return nil, Wrong(name, err)
	}
	return decoded(name, tree)
}

func decoded(path string, tree *config.Tree) (*Config, error) {
	c := &Config{Path: path, Tree: tree}
	if err := tree.Decode(&c.Run); err != nil {
		return nil, Wrong(path, err)
	}
	c.Run.Name = cmp.Or(c.Run.Name, tree.Name())
	return c, nil
}

// UsageError is a fault of what was asked for: a config or an override that is
// wrong, a folder that holds something else. Nothing was done.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef is a UsageError with a message of fmt.Errorf.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// Wrong is err, of the config at path, as a UsageError. It counts faults, so that
// a person knows where the list ends.
func Wrong(path string, err error) error {
	var all config.Errors
	if !errors.As(err, &all) || len(all) < 2 {
		return &UsageError{err}
	}
	return Usagef("%d errors in %s:\n  %s", len(all), path, strings.ReplaceAll(err.Error(), "\n", "\n  "))
}
