package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Where one process after another writes an output, each may find that the one before it,
// which was taken for dead, is not: it was stopped for a while. So each has an epoch,
// larger than those before it, and writes its parts in a folder of its own, .open-EPOCH.
// What a checkpoint says is over moves from there into the folder of the output, by
// whoever knows that the checkpoint is committed. Who takes over copies what is left of the
// part under way. So who comes to life again has nothing that anybody reads: its files
// are of an epoch that is over, and what it could move the ledger has as written.

// ErrTakenOver says that another process writes the output now.
var ErrTakenOver = errors.New("another process writes the output now")

const openPrefix = ".open-"

// openDir is the folder in which the sinks of an epoch write; of 0, that of the output.
func openDir(dir string, epoch uint64) string {
	if epoch == 0 {
		return dir
	}
	return filepath.Join(dir, openPrefix+strconv.FormatUint(epoch, 10))
}

// epochsOf picks the epochs out of the names of a folder, in order.
func epochsOf(names []string) []uint64 {
	var epochs []uint64
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, openPrefix)
		if epoch, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && openPrefix+strconv.FormatUint(epoch, 10) == name {
			epochs = append(epochs, epoch)
		}
	}
	slices.Sort(epochs)
	return epochs
}

// placed is a part and the folder that has it.
type placed struct {
	part
	dir string
}

func (p placed) path() string { return filepath.Join(p.dir, p.name()) }

// listParts lists the parts of a shard: those in dir, and of those that are not there the ones
// of an epoch.
func listParts(fsys FS, dir string, shard Shard, epoch uint64) ([]placed, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	var all []placed
	there := map[int]bool{}
	for _, p := range partsOf(names, shard) {
		all, there[p.n] = append(all, placed{p, dir}), true
	}
	if epoch == 0 {
		return all, nil
	}
	open := openDir(dir, epoch)
	names, err = fsys.List(open)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, p := range partsOf(names, shard) {
		if !there[p.n] {
			all = append(all, placed{p, open})
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int { return a.n - b.n })
	return all, nil
}

// newestEpoch is that of the sinks which write in dir; 0 where they write there itself.
func newestEpoch(fsys FS, dir string) (uint64, error) {
	names, err := fsys.List(dir)
	if epochs := epochsOf(names); len(epochs) > 0 {
		return epochs[len(epochs)-1], err
	}
	return 0, err
}

// OpenDir is the folder of the newest epoch in that of an output: it has the parts that
// are not full, while sinks with epochs write. It is empty where there is none.
func OpenDir(dir string) string {
	if epoch, err := newestEpoch(OS{}, dir); err == nil && epoch > 0 {
		return openDir(dir, epoch)
	}
	return ""
}

// takeOver makes the output one that goes on in the folder of the sink's epoch. Nothing
// is removed and nothing changed that who wrote before, or comes after, may need.
func (s *Sink) takeOver() error {
	if s.at.Epoch > s.epoch {
		return fmt.Errorf("output %s: %w", s.dir, ErrTakenOver)
	}
	if s.at.Old > s.at.First {
		return fmt.Errorf("output %s: its rows are being gone through, which one process has to end", s.dir)
	}
	if _, err := s.fs.List(s.dir); s.lazy && s.at == (checkpoint{Epoch: s.at.Epoch}) && errors.Is(err, fs.ErrNotExist) {
		s.at.Epoch = s.epoch
		return nil
	}
	s.lazy = false
	if err := s.clearHome(); err != nil {
		return err
	}
	all, err := listParts(s.fs, s.dir, s.part.shard, s.at.Epoch)
	if err != nil {
		return s.explain("list the folder", "", err)
	}
	last, err := s.sealFull(all)
	if err != nil {
		return err
	}
	was := s.at.Epoch
	s.at.Epoch = s.epoch
	switch {
	case s.at.Bytes == 0:
	case last.dir == s.home:
		err = s.cut(last)
	case was == 0: // it stands where it is to stay
		s.at = s.at.next()
	default:
		err = s.copy(last)
	}
	if err != nil {
		return err
	}
	if s.file != nil && last.compress != s.part.compress { // another setting than before: go on in a new part
		err = s.file.Close()
		s.full = append(s.full, last.part)
		s.file, s.at = nil, s.at.next()
	}
	s.part.n = s.at.Part
	return err
}

// clearHome makes the folder of the epoch, without what this process wrote there that no
// checkpoint knows of.
func (s *Sink) clearHome() error {
	if err := s.makeFolder(); err != nil {
		return err
	}
	names, err := s.fs.List(s.home)
	if err != nil {
		return s.explain("list the folder", "", err)
	}
	for _, p := range partsOf(names, s.part.shard) {
		if s.at.Epoch == s.epoch && (p.n < s.at.Part || p.n == s.at.Part && s.at.Bytes > 0) {
			continue
		}
		if err := s.fs.Remove(filepath.Join(s.home, p.name())); err != nil {
			return s.explain("remove", p.name(), err)
		}
	}
	return nil
}

// sealFull moves the full parts of a former epoch to where they stay, and finds the one
// that is not full.
func (s *Sink) sealFull(all []placed) (last placed, err error) {
	next, moved := s.at.First, false
	for _, p := range all {
		switch {
		case p.n < s.at.First:
			continue
		case p.n > s.at.Part || p.n == s.at.Part && s.at.Bytes == 0:
			if p.dir == s.dir {
				err := ErrChanged
				if s.isOver() {
					err = ErrTakenOver
				}
				return last, fmt.Errorf("output %s: %w: it has %s, of which the ledger does not know", s.dir, err, p.name())
			}
			continue // of a commit that never came
		case p.n != next:
			return last, changed(s.dir, p.number(), s.part.shard.number(next))
		case p.n == s.at.Part:
			last = p
		case p.dir != s.dir:
			if err := s.move(p); err != nil {
				return last, err
			}
			moved = true
		}
		next++
	}
	if next < s.at.Part || s.at.Bytes > 0 && next == s.at.Part {
		return last, changed(s.dir, s.part.shard.number(next), s.part.shard.number(next))
	}
	if moved {
		err = s.syncMoved(openDir(s.dir, s.at.Epoch))
	}
	return last, err
}

// move moves a part that is full to where it stays. Somebody else who knows that it is
// full may have done so.
func (s *Sink) move(p placed) error {
	err := s.fs.Rename(p.path(), filepath.Join(s.dir, p.name()))
	if errors.Is(err, fs.ErrNotExist) {
		names, listErr := s.fs.List(s.dir)
		if listErr == nil && slices.Contains(names, p.name()) {
			return nil
		}
	}
	if err != nil {
		return s.explain("move", p.name(), err)
	}
	return nil
}

// syncMoved makes durable what has moved from a folder.
func (s *Sink) syncMoved(from string) error {
	if err := errors.Join(s.fs.SyncDir(s.dir), s.fs.SyncDir(from)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.explain("sync the folder", "", err)
	}
	return nil
}

// copy copies what the checkpoint covers of a part, and goes on there. Whoever has the old
// one open may write to it as he likes.
func (s *Sink) copy(p placed) (err error) {
	in, err := s.fs.Open(p.path())
	if err != nil {
		return s.explain("open", p.name(), err)
	}
	defer in.Close()
	own := placed{p.part, s.home}.path()
	made := own + ".new" // nobody takes it for the part before it is whole
	if err := s.fs.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.explain("remove", p.name()+".new", err)
	}
	out, err := s.fs.Create(made)
	if err != nil {
		return s.explain("create", p.name()+".new", err)
	}
	n, err := io.Copy(out, io.LimitReader(in, s.at.Bytes))
	switch {
	case err == nil && n < s.at.Bytes:
		err = shortenedPart(s.dir, p.name(), n, s.at.Bytes)
	case err == nil:
		err = out.Sync()
	}
	if err == nil {
		err = s.fs.Rename(made, own)
	}
	if err == nil {
		err = s.fs.SyncDir(s.home)
	}
	if err != nil {
		return errors.Join(s.explain("copy", p.name(), err), out.Close())
	}
	s.file = out
	return nil
}

// isOver reports whether a later epoch has begun.
func (s *Sink) isOver() bool {
	newest, err := newestEpoch(s.fs, s.dir)
	return s.epoch > 0 && err == nil && newest != s.epoch
}

// Committed implements matrix.Sealer: parts that are full move to where they stay.
func (s *Sink) Committed() {
	if s.epoch == 0 || s.failed != nil || !s.written {
		return
	}
	s.written = false
	if err := s.seal(); err != nil {
		s.failed = err
		return
	}
	if !s.alone {
		s.alone = true
		s.removeBefore()
	}
}

// seal moves the parts that are full by a committed checkpoint.
func (s *Sink) seal() error {
	if len(s.full) == 0 {
		return nil
	}
	for _, p := range s.full {
		if err := s.move(placed{p, s.home}); err != nil {
			return err
		}
	}
	s.full = nil
	return s.syncMoved(s.home)
}

// removeBefore removes the shard's parts of epochs before this one, which the committed
// checkpoint has no use for. What cannot be removed now SealOutput and RemoveOpen see to.
func (s *Sink) removeBefore() {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return
	}
	for _, epoch := range epochsOf(names) {
		if epoch >= s.epoch {
			return
		}
		dir := openDir(s.dir, epoch)
		names, _ := s.fs.List(dir)
		for _, p := range partsOf(names, s.part.shard) {
			_ = s.fs.Remove(filepath.Join(dir, p.name()))
		}
		_ = s.fs.Remove(dir) // which it is once all shards have left it
	}
}

// SealOutput ends the output of a shard that sinks with epochs have written, as far as a
// checkpoint says: all of its parts then stand in dir. It returns the checkpoint with which a
// sink without an epoch goes on. RemoveOpen is called once all shards are sealed.
func SealOutput(fsys FS, dir string, o SinkOptions, checkpointJSON []byte) ([]byte, error) {
	if len(checkpointJSON) == 0 {
		return nil, nil
	}
	s, err := OpenSink(fsys, dir, o, checkpointJSON)
	if err != nil {
		return nil, err
	}
	if s.file != nil {
		s.full = append(s.full, s.part)
	}
	err = s.seal()
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
	}
	if err != nil {
		return nil, err
	}
	s.at.Epoch = 0
	return json.Marshal(s.at)
}

// RemoveOpen removes the folders in dir in which sinks with epochs have written. Who
// wrote there and is not dead cannot write any more then.
func RemoveOpen(fsys FS, dir string) error {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range epochsOf(names) {
		if err := removeFolder(fsys, openDir(dir, e)); err != nil {
			return err
		}
	}
	return fsys.SyncDir(dir)
}

// removeFolder removes a folder and the files in it, also where somebody makes another one
// meanwhile.
func removeFolder(fsys FS, dir string) (err error) {
	for range 10 {
		names, gone := fsys.List(dir)
		for _, name := range names {
			_ = fsys.Remove(filepath.Join(dir, name))
		}
		err = fsys.Remove(dir)
		if errors.Is(gone, fs.ErrNotExist) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			return nil
		}
	}
	return err
}
