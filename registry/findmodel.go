package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"matrix/internal/config"
	"matrix/spec"
)

// ownKeys are the keys that KIND:NAME sets, where it is not model.
var ownKeys = map[string]string{"sim": "preset", "sagemaker": "endpoint", "replay": "path", "scripted": "reply"}

// anAddress is HOST:PORT, perhaps with a path.
var anAddress = regexp.MustCompile(`^[A-Za-z0-9._-]+:[0-9]{1,5}(/\S*)?$`)

// IsURL reports whether arg is an address.
func IsURL(arg string) bool { return strings.Contains(arg, "://") }

// ModelError says why FindModel finds none. It is a spec.UsageError.
type ModelError struct {
	Cause ModelCause
	Err   error
}

func (e *ModelError) Error() string { return e.Err.Error() }
func (e *ModelError) Unwrap() error { return e.Err }

// ModelCause is what is wrong with the words for a model.
type ModelCause string

// The causes.
const (
	NoModel       ModelCause = "no model"       // they are nothing that stands for one
	SeveralModels ModelCause = "several models" // a config has several, and no name was given
	NamedTwice    ModelCause = "named twice"    // they have a name, and another was given
)

func modelErrorf(cause ModelCause, format string, args ...any) error {
	return &spec.UsageError{Err: &ModelError{cause, fmt.Errorf(format, args...)}}
}

// FindModel finds what a person means by a model: its section, and the tree that
// it stands in. name chooses among several; it may be empty.
func (r *Registry) FindModel(arg, name string) (*config.Tree, *config.Section, error) {
	if IsURL(arg) {
		m := map[string]string{"base_url": arg}
		if name != "" {
			m["model"] = name
		}
		return spelled(arg, m)
	}
	if _, err := os.Stat(arg); err != nil {
		if kind, rest, ok := strings.Cut(arg, ":"); ok && !strings.ContainsRune(kind, filepath.Separator) {
			return r.ofKind(arg, kind, rest, name)
		}
		if ext := filepath.Ext(arg); ext != ".yaml" && ext != ".yml" && !strings.ContainsRune(arg, filepath.Separator) {
			return nil, nil, modelErrorf(NoModel, "%s is not a config, an address or KIND:NAME", arg)
		}
	}
	tree, err := config.Load(spec.Run{}, arg, nil)
	if spec.IsDataset(arg) && (err != nil || tree.Root().Get("models") == nil) {
		return nil, nil, modelErrorf(NoModel, "%s is a dataset, not a model", arg)
	}
	if err != nil {
		return nil, nil, spec.Wrong(arg, err)
	}
	all := tree.Root().Get("models")
	names := all.Keys()
	switch {
	case len(names) == 0:
		return nil, nil, spec.Usagef("%s has no models", arg)
	case name == "" && len(names) == 1:
		name = names[0]
	case name == "":
		return nil, nil, modelErrorf(SeveralModels, "%s has the models %s", arg, strings.Join(names, ", "))
	case !slices.Contains(names, name):
		return nil, nil, spec.Usagef("%s has no model %s; it has %s", arg, name, strings.Join(names, ", "))
	}
	return tree, all.Child(name), nil
}

// ofKind is the model KIND:NAME.
func (r *Registry) ofKind(arg, kind, rest, name string) (*config.Tree, *config.Section, error) {
	kinds := r.ModelKinds()
	vendors := Vendors()
	if v, ok := vendors[kind]; ok {
		if name != "" {
			return nil, nil, modelErrorf(NamedTwice, "%s names the model already", arg)
		}
		return spelled(arg, map[string]string{"base_url": v.BaseURL, "model": rest, "api_key": "${env:" + v.KeyName + "}"})
	}
	if !slices.Contains(kinds, kind) && anAddress.MatchString(arg) {
		return nil, nil, spec.Usagef("%s has no scheme: write http://%[1]s, or https://%[1]s", arg)
	}
	if !slices.Contains(kinds, kind) {
		known := maps.Clone(vendors)
		for _, k := range kinds {
			known[k] = Vendor{}
		}
		return nil, nil, spec.Usagef("%s: there is no such file, and no kind of model %q; there are %s", arg, kind, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	keys := map[string]string{"kind": kind}
	if key, ok := ownKeys[kind]; ok {
		keys[key] = rest
		if name != "" {
			keys["model"] = name
		}
	} else if keys["model"] = rest; name != "" {
		return nil, nil, modelErrorf(NamedTwice, "%s names the model already", arg)
	}
	return spelled(arg, keys)
}

// spelled makes the section of a model of its keys.
func spelled(name string, keys map[string]string) (*config.Tree, *config.Section, error) {
	for key, text := range keys {
		if !strings.HasPrefix(text, "${env:") {
			keys[key] = config.Literal(text)
		}
	}
	text, err := json.MarshalIndent(map[string]any{"models": map[string]any{"model": keys}}, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	tree, err := config.LoadText(spec.Run{}, name, string(text), nil, nil)
	if err != nil {
		return nil, nil, spec.Wrong(name, err)
	}
	return tree, tree.Root().Get("models.model"), nil
}

// IsModel reports whether arg is an address or KIND:NAME, and no config.
func IsModel(arg string) bool {
	_, err := os.Stat(arg)
	return IsURL(arg) || err != nil && strings.Contains(arg, ":") && !config.IsOverride(arg)
}

// ModelConfig is a config with nothing but the model that FindModel finds for an
// address or KIND:NAME.
func (r *Registry) ModelConfig(arg string, overrides []string) (*spec.Config, error) {
	from, _, err := r.FindModel(arg, "")
	if err != nil {
		return nil, err
	}
	l := &spec.Config{Path: arg}
	l.Tree, err = config.LoadText(spec.Run{}, arg, "{}", map[string]*config.Section{"models": from.Root().Get("models")}, overrides)
	if err != nil {
		return nil, spec.Wrong(arg, err)
	}
	root := l.Tree.Root()
	for _, key := range root.Keys() {
		if key != "models" {
			return nil, spec.Wrong(arg, root.Child(key).Unknown("models"))
		}
	}
	if err := root.Get("models").Decode(&l.Run.Models); err != nil {
		return nil, spec.Wrong(arg, err)
	}
	return l, nil
}
