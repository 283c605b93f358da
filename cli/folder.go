package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/config"
	"matrix/dataset"
	"matrix/local"
	"matrix/spec"
)

// outFolder is the folder that a run writes to.
type outFolder struct {
	dir    string // as a person would type it
	is     folderKind
	fresh  bool
	accept bool
	// otherRows says that the config had other rows of the dataset before.
	otherRows bool
	store     *local.Queue // nil until open, of a fresh run
	held      *local.Held  // the state's lock, of a fresh run until open
	again     bool         // the folder had a config of the run before
	config    []byte       // what is to be written as its config; nil where that stays
}

// folderKind is what was found at the place of a run's folder.
type folderKind uint8

const (
	vacant  folderKind = iota // nothing, or nothing of the names that a run uses
	begun                     // a state and no config: a run that was killed as it began, or that lost its config
	aRun                      // the config that a run wrote
	foreign                   // something else that uses these names
)

// checkOut refuses -o "", which a variable that is not set may have made.
func checkOut(cmd *cobra.Command, out string) error {
	if cmd.Flags().Changed("out") && out == "" {
		return cobraErrorf("-o is empty: name a folder, or leave it out")
	}
	return nil
}

// outDir says where a run writes to: the flag, the config, runs/NAME.
func outDir(flag string, p *plan) (string, error) {
	dir := flag
	if dir == "" && p.tree.Root().Get("out") != nil {
		dir = shorten(p.cfg.Out)
	}
	if dir == "" {
		if strings.ContainsAny(p.cfg.Name, `/\`) || p.cfg.Name == "." || p.cfg.Name == ".." {
			return "", &usageError{fmt.Errorf("name %q cannot be the name of a folder: give out=DIR", p.cfg.Name)}
		}
		dir = filepath.Join("runs", p.cfg.Name)
	}
	return dir, nil
}

// shorten makes a path relative where it is below the working directory.
func shorten(dir string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, dir); err == nil && filepath.IsAbs(dir) && filepath.IsLocal(rel) {
			return rel
		}
	}
	return dir
}

// claim looks at a folder, refuses one that is not a run's, and locks the state
// that it may have. Nothing is changed.
func claim(dir string, fresh, accept bool) (*outFolder, error) {
	o := &outFolder{dir: filepath.Clean(dir), fresh: fresh, accept: accept}
	found, err := o.look()
	if err != nil {
		return nil, err
	}
	switch {
	case o.is == foreign && fresh:
		return nil, &usageError{fmt.Errorf("--fresh deletes runs only, and %s is not the folder of a run: it has %s and no %s with a %s that a run wrote; delete it yourself, or choose another with out=DIR",
			dir, found, stateDir, configFile)}
	case o.is == foreign:
		return nil, &usageError{fmt.Errorf("%s is not the folder of a run, and has %s already: choose another with out=DIR", dir, found)}
	case o.is == vacant:
		return o, nil
	}
	if local.Clearing(o.path(stateDir)) { // whoever comes next has to end it
		o.fresh = true
	}
	if o.fresh {
		if err := o.plain(); err != nil {
			return nil, err
		}
		if err := (dataset.OS{}).Mkdir(o.path(stateDir)); err != nil { // of a run that has lost it
			return nil, err
		}
		o.held, err = local.Hold(o.path(stateDir))
		return o, o.openError(err)
	}
	o.store, err = local.Open(o.path(stateDir), local.Options{Existing: o.is == aRun})
	return o, o.openError(err)
}

// plain refuses to start over through links.
func (o *outFolder) plain() error {
	for _, name := range []string{stateDir, dataDir, failedDir} {
		info, err := os.Lstat(o.path(name))
		if err == nil && !info.IsDir() {
			return &usageError{fmt.Errorf("%s is not a folder but %v: --fresh deletes nothing through it; remove it yourself, or choose another folder with out=DIR", o.path(name), info.Mode().Type())}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// look finds out what is there; found names something that a run would write over.
func (o *outFolder) look() (found string, err error) {
	info, err := os.Stat(o.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("out: %w", err)
	case !info.IsDir():
		return "", &usageError{fmt.Errorf("out: %s is a file; give a folder with out=DIR", o.dir)}
	}
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return "", fmt.Errorf("out: %w", err)
	}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	own, err := hasConfig(o.dir)
	if err != nil {
		return "", err
	}
	state := has[stateDir] && local.Exists(o.path(stateDir))
	for _, name := range []string{configFile, stateDir, dataDir, failedDir, summaryFile} {
		if has[name] && found == "" {
			found = name
		}
	}
	switch {
	case own:
		o.is = aRun
	case state && !has[configFile]:
		o.is = begun
	case found != "":
		o.is = foreign
	case o.fresh && len(entries) > 0:
		o.is, found = foreign, entries[0].Name()
	}
	return found, nil
}

func (o *outFolder) path(name string) string { return filepath.Join(o.dir, name) }

func (o *outFolder) openError(err error) error {
	if errors.Is(err, local.ErrLocked) {
		return fmt.Errorf("another process is running in %s: wait for it, stop it, or choose another folder with out=DIR", o.dir)
	}
	return err
}

// open makes the folder ready for the run of p: it starts over where that was
// asked for, and refuses a config that has changed. What it does not refuse is
// written by note.
func (o *outFolder) open(ctx context.Context, p *plan) (err error) {
	if o.held != nil {
		if err := errors.Join(o.held.Clear(o.clear), o.held.Close()); err != nil {
			return fmt.Errorf("start over: %w", err)
		}
		o.held = nil
	}
	if o.store == nil {
		if err := (dataset.OS{}).Mkdir(o.dir); err != nil {
			return fmt.Errorf("out: %w", err)
		}
		if o.store, err = local.Open(o.path(stateDir), local.Options{}); err != nil {
			return o.openError(err)
		}
	}
	return o.checkConfig(ctx, p)
}

// clear deletes what a run wrote beside its state, and nothing else.
func (o *outFolder) clear() error {
	if err := dataset.RemoveFormats(o.path(formatsDir)); err != nil {
		return err
	}
	for _, dir := range []string{dataDir, failedDir} {
		if err := dataset.RemoveParts(o.path(dir)); err != nil {
			return err
		}
	}
	files := []string{summaryFile}
	if own, err := hasConfig(o.dir); err != nil {
		return err
	} else if own {
		files = append(files, configFile)
	}
	for _, name := range files {
		if err := os.Remove(o.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return dataset.OS{}.SyncDir(o.dir)
}

// note writes the config of a run that nothing refuses.
func (o *outFolder) note() error {
	if o.config == nil {
		return nil
	}
	return replaceFile(o.path(configFile), o.config)
}

// configStood is the line of config.yaml that says which folder the paths of the
// config were relative to, and ends with it.
const configStood = "# Relative paths were relative to "

// checkConfig compares the config with the one that the folder holds.
func (o *outFolder) checkConfig(ctx context.Context, p *plan) error {
	now, err := o.render(p)
	if err != nil {
		return err
	}
	was, err := os.ReadFile(o.path(configFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fed, err := o.store.Mark(ctx, "feed")
		if err != nil {
			return err
		}
		if fed != nil && !o.accept {
			return &usageError{fmt.Errorf("%s has a run whose %s is gone: --accept-changes goes on with the config given, --fresh starts over", o.dir, configFile)}
		}
	case err != nil:
		return err
	case o.fresh:
	default:
		o.again = true
		if string(was) == string(now) {
			return nil
		}
		if err := o.compare(ctx, p, was); err != nil {
			return err
		}
		if ended(ctx, o.store) && !o.accept {
			return nil // the config that made the data stays
		}
	}
	o.config = now
	return nil
}

// render is the config of p as the folder holds it.
func (o *outFolder) render(p *plan) ([]byte, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	head := configHeader
	if p.tree.Dir() != "" {
		head += configStood + p.tree.Dir() + "\n"
	}
	return slices.Concat([]byte(head), p.tree.YAMLFor(dir, root), p.tree.Marks()), nil
}

// compare refuses changes that could alter the data, unless they are accepted.
// was is the config that the folder holds.
func (o *outFolder) compare(ctx context.Context, p *plan, was []byte) error {
	before, err := config.Load(spec.Run{}, o.path(configFile), nil)
	switch {
	case err != nil && o.accept:
		return nil
	case err != nil:
		return fmt.Errorf("%w\nit cannot be compared with the config given: --accept-changes goes on without", err)
	}
	parts := p.kinds.Parts()
	stood := ""
	if _, rest, ok := strings.Cut(string(was), "\n"+configStood); ok {
		stood, _, _ = strings.Cut(rest, "\n")
	}
	var keys []string
	for _, key := range config.Diff(before, p.tree, stood) {
		if !p.tree.Free(key, parts...) && !o.named(key, before, p) {
			keys = append(keys, key)
		}
	}
	if o.accept {
		o.otherRows = slices.ContainsFunc(keys, func(key string) bool {
			return strings.HasPrefix(key, "dataset.") && (key != "dataset.limit" || p.cfg.Dataset.Limit > 0)
		})
		return nil
	}
	if len(keys) == 0 {
		return nil
	}
	if !slices.ContainsFunc(keys, func(key string) bool { return !strings.HasPrefix(key, "models.") }) {
		made, err := hasTurns(ctx, o.store)
		if err != nil {
			return err
		}
		if !made { // a model that never answered may be another one
			return nil
		}
	}
	return &usageError{fmt.Errorf("the config is not the one that the run in %s began with. These keys differ:\n  %s\n"+
		"To go on: give the old values, or --accept-changes (tasks already done stay as they are). To begin anew: --fresh, or out=DIR for another folder",
		o.dir, strings.Join(keys, "\n  "))}
}

// hasTurns reports whether the run in a store has come to anything yet: a task that
// is settled, or a turn of one that is not.
func hasTurns(ctx context.Context, store *local.Queue) (bool, error) {
	if totals, err := store.Mark(ctx, "totals"); err != nil || totals != nil {
		return totals != nil, err
	}
	found := errors.New("found")
	err := store.Walk(ctx, func(id string, fate matrix.Fate) error {
		if fate.Status != matrix.Owed {
			return found
		}
		m, ok, err := store.Peek(ctx, id)
		if err == nil && ok && m.Hop > 0 {
			err = found
		}
		return err
	})
	if errors.Is(err, found) {
		return true, nil
	}
	return false, err
}

// replaceFile replaces a file whole, so that a reader or a crash finds the old
// one or the new one.
func replaceFile(name string, content []byte) error {
	// Made anew: what a link of that name leads to is not ours.
	if err := os.Remove(name + ".tmp"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return dataset.OS{}.SyncDir(filepath.Dir(name))
}
