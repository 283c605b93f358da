package rundir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/run"
	"matrix/spec"
)

// Lead is what the head has that leads a run of several. It takes the place of the lock
// on the state, which is in their logs.
type Lead interface {
	Epoch() uint64                                         // larger than that of every head that led before
	View(shard int) string                                 // a folder on a disk of this machine
	Log(ctx context.Context, shard int) (local.Log, error) // closed by whoever gave it, after the Claim
}

// headsFile says that the state of the run is with its heads. It is there before anything
// is in their logs, and until the run's state is in the folder again.
type headsFile struct {
	Heads string `json:"heads"`
	Begun bool   `json:"begun"` // all that there is to say of the run is in their logs
}

// readHeads reads the headsFile of a folder; nil where there is none.
func readHeads(dir string) (*headsFile, error) {
	b, err := os.ReadFile(filepath.Join(dir, HeadsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	h := new(headsFile)
	if err := json.Unmarshal(b, h); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, HeadsFile), err)
	}
	return h, nil
}

// Elsewhere reports whether the state of the run in dir is not there, but with several
// heads, and who they are.
func Elsewhere(dir string) (heads string, is bool, err error) {
	h, err := readHeads(dir)
	if h == nil || err != nil || h.Begun && local.Exists(filepath.Join(dir, StateDir)) { // handed back, but for the file
		return "", false, err
	}
	return h.Heads, true, nil
}

// elsewhere is the error for a run whose state is with heads.
func elsewhere(dir, heads string) error {
	return Refused(dir, OnHeads, "%s has a run whose state is with its heads (%s)", dir, heads)
}

// awayError is a local.ErrLocked of a state that is not in the folder.
type awayError struct{ text string }

func (e *awayError) Error() string        { return e.text }
func (e *awayError) Is(target error) bool { return target == local.ErrLocked }

// note says where the state of the run is.
func (o *Claim) note(begun bool) error {
	b, err := json.MarshalIndent(headsFile{o.heads, begun}, "", "  ")
	if err == nil {
		err = replace(o.path(HeadsFile), append(b, '\n'), 0o666)
	}
	return err
}

// toHeads has the shards be opened over the logs of the heads.
func (o *Claim) toHeads() error {
	o.onHeads = true
	if o.begun {
		return nil
	}
	return o.note(false)
}

// openOver opens the queue of the next shard over its log, which is not empty then.
func (o *Claim) openOver(ctx context.Context, options local.Options) error {
	k := len(o.queues)
	log, err := o.lead.Log(ctx, k)
	if err != nil {
		return err
	}
	options.Log = log
	q, err := local.Open(o.lead.View(k), options)
	if errors.Is(err, local.ErrNoLog) {
		return Refused(o.Path, HeadsGone, "%s has a run whose state was with heads (%s), and those that are here know nothing of it", o.Path, o.heads)
	}
	if err != nil {
		return o.openError(err)
	}
	o.queues = append(o.queues, q)
	_, err = q.Seed(ctx, nil, map[string][]byte{"heads": fmt.Appendf(nil, `{"epoch":%d}`, o.lead.Epoch())})
	return err
}

// bringIn brings the run that one process began, and whose state is open here, onto the
// heads.
func (o *Claim) bringIn(ctx context.Context, rows spec.Output) (err error) {
	_, retrying, err := run.RetryOf(ctx, o.Stores()...)
	if err == nil && retrying {
		err = Refused(o.Path, RetryUnderWay, "%s has a run whose failed tasks are being tried again, and that has to end on one machine", o.Path)
	}
	if err == nil {
		err = o.cutOutputs(ctx, rows)
	}
	if err != nil {
		return err
	}
	plain := o.queues
	o.queues = nil
	err = o.toHeads()
	for k := 0; k < len(plain) && err == nil; k++ {
		err = o.openShard(ctx, local.Options{Import: plain[k]})
	}
	if err = errors.Join(err, closeAll(plain)); err != nil {
		return err
	}
	if err := o.setAside(); err != nil {
		return err
	}
	return o.note(true)
}

// setAside moves the state out of the way that is in the heads' logs now. Another head that
// is at it, too, has to lock it first; and who was stopped here and comes to life when the
// run has its state again finds that by the HeadsFile.
func (o *Claim) setAside() error {
	held, err := local.LockDir(o.path(StateDir))
	if err != nil {
		return o.openError(err)
	}
	h, err := readHeads(o.Path)
	switch {
	case err != nil:
	case h == nil || h.Begun:
		err = fmt.Errorf("%s: %w", o.Path, dataset.ErrTakenOver)
	default:
		err = errors.Join(os.RemoveAll(o.path(importedDir)), os.Rename(o.path(StateDir), o.path(importedDir)), dataset.OS{}.SyncDir(o.Path))
	}
	return errors.Join(err, held.Close())
}

// cutOutputs has the outputs of one process hold what its ledger says, and no more.
func (o *Claim) cutOutputs(ctx context.Context, rows spec.Output) error {
	var c run.Config
	o.Configure(&c, rows)
	if err := run.CheckOutputs(ctx, o.trials, c.Shards); err != nil {
		return err
	}
	for _, s := range c.Shards {
		for status, open := range s.Outputs {
			checkpoint, err := run.OutputCheckpoint(ctx, s.Store, status)
			if err != nil {
				return err
			}
			sink, err := open(checkpoint)
			if err == nil {
				err = sink.Close()
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// HandBack makes the folder of a run that has finished on several heads what it is when
// one process has run it: the outputs have all parts, and the state is there again. It
// is called after Configure and before Close; then nobody needs the logs any more. Of a run in one process it does nothing.
func (o *Claim) HandBack(ctx context.Context) error {
	if !o.onHeads {
		return nil
	}
	made := fmt.Sprintf("%s-%d", o.path(newStateDir), o.lead.Epoch()) // another head may be at it, too
	if err := os.RemoveAll(made); err != nil {
		return err
	}
	for k, q := range o.queues {
		checkpoints := map[string][]byte{}
		for _, status := range matrix.Ends() {
			name := run.OutputCheckpointName(status)
			checkpoint, err := q.Checkpoint(ctx, name)
			if err == nil && checkpoint != nil {
				checkpoints[name], err = dataset.SealOutput(dataset.OS{}, o.path(OutputDir(status)), o.sink(k, status), checkpoint)
			}
			if err != nil {
				return err
			}
		}
		if err := q.CopyTo(local.ShardDir(made, k), checkpoints); err != nil {
			return err
		}
	}
	if err := os.Rename(made, o.path(StateDir)); err != nil {
		if !local.Exists(o.path(StateDir)) {
			return err
		}
		_ = os.RemoveAll(made) // another head was first, with the same
	}
	if err := (dataset.OS{}).SyncDir(o.Path); err != nil {
		return err
	}
	return o.handedBack()
}

// handedBack removes what heads leave in the folder of a run whose state is there again.
func (o *Claim) handedBack() error {
	if err := removeOpen(o.path); err != nil {
		return err
	}
	left, err := fs.Glob(os.DirFS(o.Path), newStateDir+"-*")
	if err != nil {
		return err
	}
	for _, dir := range append(left, importedDir) {
		if err := os.RemoveAll(o.path(dir)); err != nil {
			return err
		}
	}
	if err := os.Remove(o.path(HeadsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return dataset.OS{}.SyncDir(o.Path)
}

// removeOpen removes what the sinks of heads leave in the outputs.
func removeOpen(path func(name string) string) error {
	for _, status := range matrix.Ends() {
		dir := path(OutputDir(status))
		if err := dataset.RemoveOpen(dataset.OS{}, dir); err != nil {
			return err
		}
		if lazy(status) {
			_ = os.Remove(dir) // where no task has ended so
		}
	}
	return nil
}

// openParts are the parts in dir of sinks with epochs that are not full, but for those
// that all has.
func openParts(dir string, all []partFile) ([]partFile, error) {
	open := dataset.OpenDir(dir)
	if open == "" {
		return nil, nil
	}
	there := map[int]bool{}
	for _, p := range all {
		there[p.n] = true
	}
	parts, err := partFiles(open, "part-")
	var more []partFile
	for _, p := range parts {
		if !there[p.n] {
			more = append(more, p)
		}
	}
	return more, err
}

// place is how people call a file in the folder of an output: data/part-00005.jsonl.
func place(path string) string {
	folder, name := filepath.Split(path)
	folder = filepath.Clean(folder)
	if strings.HasPrefix(filepath.Base(folder), ".") {
		folder = filepath.Dir(folder)
	}
	return filepath.Join(filepath.Base(folder), name)
}
