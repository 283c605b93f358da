package rundir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/local"
	"matrix/run"
	"matrix/spec"
)

// Claim is the folder that a run writes to, which no other process may meanwhile.
type Claim struct {
	Path  string // as a person would type it
	Again bool   // the folder had a config of the run before
	// OtherRows says that the config had other rows of the dataset before, which
	// was accepted.
	OtherRows bool
	// OtherRoles says that roles may ask something else than they did, which was accepted.
	OtherRoles bool

	is     found
	fresh  bool
	accept bool

	spooled bool // the StdinFile is this session's

	lead    Lead   // nil where one process has the run
	heads   string // who they are
	begun   bool   // the HeadsFile says so
	onHeads bool   // the queues are over their logs

	queues []*local.Queue // of the shards: the first one until Open, of a fresh run none
	trials int            // of each row; since Open
	held   *local.DirLock // the state's lock, of a fresh run until Open
	config []byte         // what is to be written as its config; nil where that stays

	rows    spec.Output // how tasks are written; since Configure
	formats *dataset.Formats
}

// Stores are the queues and ledgers of the run's shards, once the folder is open.
func (o *Claim) Stores() []run.Store {
	all := make([]run.Store, len(o.queues))
	for k, q := range o.queues {
		all[k] = q
	}
	return all
}

// Ledger is what the shards know, read as one.
func (o *Claim) Ledger() matrix.Ledger { return ledgerOf(o.trials, o.queues) }

func ledgerOf(trials int, queues []*local.Queue) matrix.Ledger {
	all := make([]matrix.Ledger, len(queues))
	for k, q := range queues {
		all[k] = q
	}
	return run.Ledgers(trials, all...)
}

// found is what was found at the place of a run's folder.
type found uint8

const (
	vacant  found = iota // nothing, or nothing of the names that a run uses
	begun                // a state and no config: a run that was killed as it began, or that lost its config
	aRun                 // the config that a run wrote
	foreign              // something else that uses these names
)

// For is the folder that a run of c writes to where nobody says otherwise: that of
// the config, or runs/NAME.
func For(c *spec.Config) (string, error) {
	dir := ""
	if c.Tree.Root().Get("out") != nil {
		dir = spec.Shorten(c.Run.Out)
	}
	if dir == "" {
		if strings.ContainsAny(c.Run.Name, `/\`) || c.Run.Name == "." || c.Run.Name == ".." {
			return "", spec.Usagef("name %q cannot be the name of a folder: give out=DIR", c.Run.Name)
		}
		dir = filepath.Join("runs", c.Run.Name)
	}
	return dir, nil
}

// ClaimOptions of NewClaim.
type ClaimOptions struct {
	Fresh  bool   // start over
	Accept bool   // go on although the config has changed
	Lead   Lead   // of a run of several heads, by that one which leads; nil of a run in one process
	Heads  string // with Lead: who they are, as people call them
}

// NewClaim looks at a folder, refuses one that is not a run's, and locks the state
// that it may have. Nothing is changed. The caller closes it.
func NewClaim(dir string, options ClaimOptions) (*Claim, error) {
	fresh := options.Fresh
	o := &Claim{Path: filepath.Clean(dir), fresh: fresh, accept: options.Accept, lead: options.Lead, heads: options.Heads}
	holds, err := o.inspect()
	if err != nil {
		return nil, err
	}
	switch h, err := readHeads(o.Path); {
	case err != nil:
		return nil, err
	case h == nil:
	case o.lead == nil && !(h.Begun && local.Exists(o.path(StateDir))):
		return nil, elsewhere(dir, h.Heads)
	default:
		o.begun = h.Begun
		if !local.Exists(o.path(StateDir)) {
			return o, nil
		}
	}
	if o.lead != nil && fresh {
		return nil, spec.Usagef("%s: several heads do not start a run over: each of them would", dir)
	}
	switch {
	case o.is == foreign && fresh:
		return nil, Refused(dir, NotOfRun, "%s is not the folder of a run: it has %s, and no %s with a %s that a run wrote", dir, holds, StateDir, ConfigFile)
	case o.is == foreign:
		return nil, spec.Usagef("%s is not the folder of a run, and has %s already: choose another with out=DIR", dir, holds)
	case o.is == vacant:
		return o, nil
	}
	if local.Clearing(o.path(StateDir)) { // whoever comes next has to end it
		o.fresh = true
	}
	if o.fresh {
		if err := o.plain(); err != nil {
			return nil, err
		}
		if err := (dataset.OS{}).Mkdir(o.path(StateDir)); err != nil { // of a run that has lost it
			return nil, err
		}
		o.held, err = local.LockDir(o.path(StateDir))
		return o, o.openError(err)
	}
	return o, o.openShard(context.Background(), local.Options{Existing: o.is == aRun})
}

// plain refuses to start over through links.
func (o *Claim) plain() error {
	for _, name := range []string{StateDir, DataDir, DroppedDir, ExpandedDir, FailedDir, ReuseDir} {
		info, err := os.Lstat(o.path(name))
		if err == nil && !info.IsDir() {
			return Refused(o.Path, NotOfRun, "%s is not a folder but %v", o.path(name), info.Mode().Type())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// inspect finds out what is there; holds names something that a run would write over.
func (o *Claim) inspect() (holds string, err error) {
	info, err := os.Stat(o.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("out: %w", err)
	case !info.IsDir():
		return "", spec.Usagef("out: %s is a file; give a folder with out=DIR", o.Path)
	}
	entries, err := os.ReadDir(o.Path)
	if err != nil {
		return "", fmt.Errorf("out: %w", err)
	}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	own, err := hasConfig(o.Path)
	if err != nil {
		return "", err
	}
	state := has[StateDir] && local.Exists(o.path(StateDir))
	for _, name := range []string{ConfigFile, StateDir, DataDir, FailedDir, SummaryFile, DroppedDir, ExpandedDir} {
		if has[name] && holds == "" {
			holds = name
		}
	}
	switch {
	case own:
		o.is = aRun
	case state && !has[ConfigFile]:
		o.is = begun
	case holds != "":
		o.is = foreign
	case o.fresh && len(entries) > 0:
		o.is, holds = foreign, entries[0].Name()
	}
	return holds, nil
}

func (o *Claim) path(name string) string { return filepath.Join(o.Path, name) }

func (o *Claim) openError(err error) error {
	if errors.Is(err, local.ErrLocked) {
		return fmt.Errorf("another process is running in %s: wait for it, stop it, or choose another folder with out=DIR", o.Path)
	}
	return err
}

// Open makes the folder ready for the run of a config, whose sections hold parts:
// it starts over where that was asked for, and refuses a config that has changed.
// What it does not refuse is written by Note.
func (o *Claim) Open(ctx context.Context, c *spec.Config, parts []config.Part) (err error) {
	if o.held != nil {
		if err := errors.Join(o.held.Clear(o.clear), o.held.Close()); err != nil {
			return fmt.Errorf("start over: %w", err)
		}
		o.held = nil
	}
	if len(o.queues) == 0 {
		if err := (dataset.OS{}).Mkdir(o.Path); err != nil {
			return fmt.Errorf("out: %w", err)
		}
		if o.lead != nil {
			if err := o.toHeads(); err != nil {
				return err
			}
		}
		if err := o.openShard(ctx, local.Options{Existing: o.begun}); err != nil {
			return err
		}
	}
	if err := o.openShards(ctx, c); err != nil {
		return err
	}
	if err := o.checkConfig(ctx, c, parts); err != nil {
		return err
	}
	switch {
	case o.onHeads:
		return o.note(true)
	case o.begun: // heads were stopped as they handed the run back
		return o.handedBack()
	case o.lead != nil && !o.finished(ctx):
		return o.bringIn(ctx, c.Run.Output)
	}
	return nil
}

// openShard opens the queue of the next shard.
func (o *Claim) openShard(ctx context.Context, options local.Options) error {
	if o.onHeads {
		return o.openOver(ctx, options)
	}
	q, err := local.Open(local.ShardDir(o.path(StateDir), len(o.queues)), options)
	if err != nil {
		return o.openError(err)
	}
	o.queues = append(o.queues, q)
	return nil
}

// openShards opens all shards but the first: as many as the run began with, or as
// its config says.
func (o *Claim) openShards(ctx context.Context, c *spec.Config) error {
	shards, trials, begun, err := run.LayoutOf(ctx, o.queues[0])
	if err != nil {
		return err
	}
	if want := max(1, c.Run.Shards); !begun {
		shards, trials = want, c.Run.MostTrials()
	} else if shards != want {
		return Refused(o.Path, ShardsChanged, "%s has a run of shards=%d, and that cannot change", o.Path, shards)
	} else if most := c.Run.MostTrials(); c.Run.Trials == spec.TrialsUntil && most > trials {
		trials = most
	} else if trials != most {
		return Refused(o.Path, TrialsChanged, "%s has a run of trials=%d, and that cannot change", o.Path, trials)
	}
	o.trials = trials
	for len(o.queues) < shards {
		if err := o.openShard(ctx, local.Options{Existing: begun && (o.begun || !o.onHeads)}); err != nil {
			return err
		}
	}
	return nil
}

// clear deletes what a run wrote beside its state, and nothing else.
func (o *Claim) clear() error {
	if err := dataset.RemoveFormats(o.path(FormatsDir)); err != nil {
		return err
	}
	for _, status := range matrix.Ends() {
		dir := o.path(OutputDir(status))
		if err := dataset.RemoveParts(dir); err != nil {
			return err
		}
		if lazy(status) {
			_ = os.Remove(dir) // where it holds nothing else
		}
	}
	for _, dir := range []string{ReuseDir, UniqueDir, PoolsDir} {
		if err := os.RemoveAll(o.path(dir)); err != nil {
			return err
		}
	}
	if err := local.ClearShards(o.path(StateDir)); err != nil {
		return err
	}
	files := []string{SummaryFile, ClusterFile, JoinFile, HeadsFile}
	if !o.spooled {
		files = append(files, StdinFile)
	}
	if own, err := hasConfig(o.Path); err != nil {
		return err
	} else if own {
		files = append(files, ConfigFile)
	}
	for _, name := range files {
		if err := os.Remove(o.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return dataset.OS{}.SyncDir(o.Path)
}

// SaveConfig writes the config of a run that nothing refuses.
func (o *Claim) SaveConfig() error {
	if o.config == nil {
		return nil
	}
	return replace(o.path(ConfigFile), o.config, 0o666)
}

// Secret reads a file of the folder that holds secrets; nil where there is none.
func (o *Claim) Secret(name string) ([]byte, error) {
	b, err := os.ReadFile(o.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// SaveSecret replaces a file of the folder that only the run's user may read, or
// removes it where content is nil.
func (o *Claim) SaveSecret(name string, content []byte) error {
	if content != nil {
		return replace(o.path(name), content, 0o600)
	}
	if err := os.Remove(o.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// configStood is the line of config.yaml that says which folder the paths of the
// config were relative to, and ends with it.
const configStood = "# Relative paths were relative to "

// checkConfig compares the config with the one that the folder holds.
func (o *Claim) checkConfig(ctx context.Context, c *spec.Config, parts []config.Part) error {
	now, err := o.render(c)
	if err != nil {
		return err
	}
	was, err := os.ReadFile(o.path(ConfigFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		begun, _, err := run.Fed(ctx, o.queues[0])
		if err != nil {
			return err
		}
		if begun && !o.accept {
			return Refused(o.Path, ConfigGone, "%s has a run whose %s is gone", o.Path, ConfigFile)
		}
	case err != nil:
		return err
	case o.fresh:
	default:
		o.Again = true
		if string(was) == string(now) {
			return nil
		}
		if err := o.compare(ctx, c, parts, was); err != nil {
			return err
		}
		if o.finished(ctx) && !o.accept {
			return nil // the config that made the data stays
		}
	}
	o.config = now
	return nil
}

// render is the config as the folder holds it.
func (o *Claim) render(c *spec.Config) ([]byte, error) {
	dir, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, err
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	head := configHeader
	if c.Tree.Dir() != "" {
		head += configStood + c.Tree.Dir() + "\n"
	}
	return slices.Concat([]byte(head), c.Tree.YAMLFor(dir, root), c.Tree.Marks()), nil
}

// CheckStandby refuses a config that is another one than that which the run in a folder
// has, for a head that stands by: it has no state yet. So models, which may be changed until the first
// reply is there, are looked at by who leads. Where the folder has no config that can be read, nothing is refused.
func CheckStandby(dir string, c *spec.Config, parts []config.Part) error {
	o := &Claim{Path: filepath.Clean(dir)}
	was, err := os.ReadFile(o.path(ConfigFile))
	if err != nil {
		return nil
	}
	_, keys, err := o.changed(c, parts, was)
	keys = slices.DeleteFunc(keys, func(key string) bool { return strings.HasPrefix(key, "models.") })
	if err != nil || len(keys) == 0 {
		return nil
	}
	return o.otherConfig(keys)
}

// changed are the keys of c that differ from those of the config that the folder holds,
// was, and may not be changed freely.
func (o *Claim) changed(c *spec.Config, parts []config.Part, was []byte) (before *config.Tree, keys []string, err error) {
	before, err = config.Load(spec.Run{}, o.path(ConfigFile), nil)
	if err != nil {
		return nil, nil, &RefusedError{Dir: o.Path, Cause: ConfigUnreadable, Err: fmt.Errorf("%w\nit cannot be compared with the config given", err)}
	}
	stood := ""
	if _, rest, ok := strings.Cut(string(was), "\n"+configStood); ok {
		stood, _, _ = strings.Cut(rest, "\n")
	}
	for _, key := range config.Diff(before, c.Tree, stood) {
		if !c.Tree.Free(key, parts...) {
			keys = append(keys, key)
		}
	}
	return before, keys, nil
}

func (o *Claim) otherConfig(keys []string) error {
	return &spec.UsageError{Err: &RefusedError{Dir: o.Path, Cause: ConfigChanged, Keys: keys,
		Err: fmt.Errorf("the config is not the one that the run in %s began with. These keys differ:\n  %s", o.Path, strings.Join(keys, "\n  "))}}
}

// compare refuses changes that could alter the data, unless they are accepted.
// was is the config that the folder holds.
func (o *Claim) compare(ctx context.Context, c *spec.Config, parts []config.Part, was []byte) error {
	before, keys, err := o.changed(c, parts, was)
	switch {
	case err != nil && o.accept:
		return nil
	case err != nil:
		return err
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return o.named(ctx, key, before, c.Tree) })
	if o.accept {
		o.OtherRoles = slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, "roles.") || strings.HasPrefix(key, "params.") })
		o.OtherRows = slices.ContainsFunc(keys, func(key string) bool {
			return strings.HasPrefix(key, "dataset.") && (key != "dataset.limit" || c.Run.Dataset.Limit > 0)
		})
		return nil
	}
	if len(keys) == 0 {
		return nil
	}
	if !slices.ContainsFunc(keys, func(key string) bool { return !strings.HasPrefix(key, "models.") }) {
		made, err := run.HasTurns(ctx, o.Ledger())
		if err != nil {
			return err
		}
		if !made { // a model that never answered may be another one
			return nil
		}
	}
	return o.otherConfig(keys)
}

// Configure has the run of c, whose config says how rows are written, write into the
// folder.
func (o *Claim) Configure(c *run.Config, rows spec.Output) {
	c.AcceptChanges, c.OtherRows = o.accept, o.OtherRows
	o.rows, o.formats = rows, dataset.NewFormats(dataset.OS{}, o.path(FormatsDir))
	for k, q := range o.queues {
		shard := run.Shard{Store: q, Outputs: map[matrix.Status]run.OpenSink{}, Tail: tail(o.Path, dataset.Shard{K: k, Of: len(o.queues)})}
		for _, status := range matrix.Ends() {
			shard.Outputs[status] = func(checkpoint []byte) (matrix.Sink, error) {
				s, err := dataset.OpenSink(dataset.OS{}, o.path(OutputDir(status)), o.sink(k, status), checkpoint)
				if err != nil {
					return nil, err
				}
				return s, nil
			}
		}
		c.Shards = append(c.Shards, shard)
	}
}

// sink says how tasks that ended so are written in a shard.
func (o *Claim) sink(shard int, status matrix.Status) dataset.SinkOptions {
	s := dataset.SinkOptions{
		Compress: o.rows.Compress, RowsPerPart: o.rows.RowsPerPart, Formats: o.formats,
		Shard: dataset.Shard{K: shard, Of: len(o.queues)}, Lazy: lazy(status),
	}
	if status == matrix.Dropped && o.rows.Dropped != "full" {
		s.Detail = dataset.Detail(o.rows.Dropped)
	}
	if o.onHeads {
		s.Epoch = o.lead.Epoch()
	}
	return s
}

// lazy reports whether the folder of an end is made with its first task.
func lazy(status matrix.Status) bool { return status == matrix.Dropped || status == matrix.Expanded }

// Summarize replaces the summary of the run.
func (o *Claim) Summarize(content []byte) error { return replace(o.path(SummaryFile), content, 0o666) }

// ErrRemoved says that the folder of a run was removed while it went on.
var ErrRemoved = errors.New("the folder of the run was removed while it went on, and what it held is lost")

// Removed reports whether the folder, which was open, is there no more.
func (o *Claim) Removed() bool {
	_, err := os.Stat(o.Path)
	return errors.Is(err, fs.ErrNotExist)
}

// Close releases the state.
func (o *Claim) Close() error {
	if o.held != nil {
		return o.held.Close()
	}
	return closeAll(o.queues)
}

func closeAll(queues []*local.Queue) (err error) {
	for i := len(queues) - 1; i >= 0; i-- { // the first one's lock is that of all
		err = errors.Join(err, queues[i].Close())
	}
	return err
}

// finished reports whether the run has finished.
func (o *Claim) finished(ctx context.Context) bool {
	over, err := run.Finished(ctx, o.Stores()...)
	return err == nil && over
}

// replace replaces a file whole, so that a reader or a crash finds the old
// one or the new one.
func replace(name string, content []byte, mode fs.FileMode) error {
	// Made anew: what a link of that name leads to is not ours.
	if err := os.Remove(name + ".tmp"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
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

// Index is where the index of the tasks that are kept stands: on a disk of this machine.
func (o *Claim) Index() string {
	if o.onHeads {
		return filepath.Join(filepath.Dir(o.lead.View(0)), UniqueDir)
	}
	return o.path(UniqueDir)
}
