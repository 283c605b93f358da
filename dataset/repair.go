package dataset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// RepairParts makes the part files of a shard in dir an output again: one of whole lines, in
// parts that follow each other. keep is called for each line that is JSON, in
// order; those for which it says no are left out, with all that is not a line.
// dropped counts both. Of what an output holds of which the ledger had checkpoint, what
// stood before its beginning is left out, too. A part that has to change, or holds nothing, is kept in
// the folder old, which is made then; the others are at most renamed. A folder
// that does not exist holds no parts. Parts that sinks with epochs left open, none of which
// may live, become parts as all others.
//
// It may be stopped at any moment, and called again with the same checkpoint: what is
// left gets numbers behind what the checkpoint says is over.
func RepairParts(dir, old string, shard Shard, checkpointJSON []byte, keep func(raw []byte) bool) (dropped int64, err error) {
	names, err := OS{}.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		names, err = gatherOpen(dir, names, shard)
	}
	if err != nil {
		return 0, err
	}
	begin, _ := parseCheckpoint(dir, checkpointJSON)
	first := begin.First // of the parts that are left
	if begin.Line > 0 {
		first++
	}
	parts := partsOf(names, shard)
	var left []part
	for _, p := range parts {
		m := partRepair{dir: dir, old: old, p: p, to: p}
		if p.n < begin.First {
			m.gone = math.MaxInt
		} else if p.n == begin.First && begin.Line > 0 {
			m.gone = begin.Line
			m.to.n = max(first, parts[len(parts)-1].n+1) // its lines are not to be counted again
		}
		if err := m.scan(keep); err != nil {
			return dropped, err
		}
		dropped += m.dropped
		if m.dropped > 0 || m.gone > 0 || m.kept == 0 {
			if err := m.rewrite(); err != nil {
				return dropped, fmt.Errorf("repair %s: %w", filepath.Join(dir, p.name()), err)
			}
			p = m.to
		}
		if m.kept > 0 {
			left = append(left, p)
		}
	}
	slices.SortFunc(left, func(a, b part) int { return a.n - b.n })
	if err := renumber(dir, left, first); err != nil {
		return dropped, err
	}
	return dropped, OS{}.SyncDir(dir)
}

// gatherOpen moves the parts of a shard that sinks with epochs have left open to where all
// parts are, those of the newest epoch first. names are what dir holds; it returns what it
// holds then.
func gatherOpen(dir string, names []string, shard Shard) ([]string, error) {
	there := map[int]bool{}
	for _, p := range partsOf(names, shard) {
		there[p.n] = true
	}
	for _, epoch := range slices.Backward(epochsOf(names)) {
		open := openDir(dir, epoch)
		left, err := OS{}.List(open)
		if err != nil {
			return nil, err
		}
		for _, p := range partsOf(left, shard) {
			if there[p.n] {
				continue
			}
			if err := os.Rename(filepath.Join(open, p.name()), filepath.Join(dir, p.name())); err != nil {
				return nil, err
			}
			there[p.n] = true
			names = append(names, p.name())
		}
	}
	return names, nil
}

// renumber gives parts the numbers from first on. Each takes the name of one that
// was renamed before it, or a name that nobody has.
func renumber(dir string, parts []part, first int) error {
	rename := func(i int) error {
		to := filepath.Join(dir, part{n: first + i, compress: parts[i].compress, shard: parts[i].shard}.name())
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%s is in the way", to))
		}
		return os.Rename(filepath.Join(dir, parts[i].name()), to)
	}
	for i := range parts {
		if parts[i].n > first+i || parts[i].n == first+i && parts[i].old {
			if err := rename(i); err != nil {
				return err
			}
		}
	}
	for i := len(parts) - 1; i >= 0; i-- {
		if parts[i].n < first+i {
			if err := rename(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// partRepair is a part that is looked through, and written anew where it must be.
type partRepair struct {
	dir, old string
	p, to    part   // to: what it is when it has been written anew
	gone     int    // lines that are no more of the output
	keeps    []bool // for each line that is JSON
	kept     int
	dropped  int64
}

func (m *partRepair) path() string { return filepath.Join(m.dir, m.p.name()) }

// scan asks keep about each line.
func (m *partRepair) scan(keep func(raw []byte) bool) error {
	bad, err := m.lines(func(raw []byte) error {
		gone := len(m.keeps) < m.gone
		ok := !gone && keep(raw)
		m.keeps = append(m.keeps, ok)
		switch {
		case ok:
			m.kept++
		case !gone:
			m.dropped++
		}
		return nil
	})
	m.dropped += bad
	return err
}

// rewrite puts what is kept in the place of the part.
func (m *partRepair) rewrite() error {
	if err := os.MkdirAll(m.old, 0o777); err != nil {
		return err
	}
	was := filepath.Join(m.old, m.p.name())
	if err := os.Link(m.path(), was); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if m.kept == 0 {
		return os.Remove(m.path())
	}
	tmp := m.path() + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := OS{}.Create(tmp)
	if err != nil {
		return err
	}
	s := &Sink{part: m.p}
	w, end, err := s.compressor(f)
	if err == nil {
		b := bufio.NewWriterSize(w, flushBytes)
		n := 0
		_, err = m.lines(func(raw []byte) error {
			n++
			if !m.keeps[n-1] {
				return nil
			}
			_, err := b.Write(append(raw, '\n'))
			return err
		})
		err = errors.Join(err, b.Flush(), end(), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(m.dir, m.to.name())); err != nil || m.to == m.p {
		return err
	}
	if err := (OS{}).SyncDir(m.dir); err != nil {
		return err
	}
	return os.Remove(m.path())
}

// lines calls f for each line that is JSON; bad counts what is not, a last line
// without its end too.
func (m *partRepair) lines(f func(raw []byte) error) (bad int64, err error) {
	whole := func(r io.Reader) error {
		b := bufio.NewReaderSize(r, bufferBytes)
		for {
			raw, err := b.ReadBytes('\n')
			if text, ended := bytes.CutSuffix(raw, []byte("\n")); ended && json.Valid(text) {
				if err := f(text); err != nil {
					return err
				}
			} else if len(raw) > 0 {
				bad++
				if json.Valid(raw) { // all but its end
					if err := f(raw); err != nil {
						return err
					}
				}
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return &tornError{err}
			}
		}
	}
	in, err := os.Open(m.path())
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if m.p.compress == plain {
		return bad, whole(in)
	}
	frames, err := m.frames(in)
	if err != nil {
		return 0, err
	}
	for _, frame := range frames {
		r, end, err := uncompressed(frame, m.p.compress)
		if err != nil {
			bad++
			continue
		}
		err = whole(r)
		end()
		if torn := new(tornError); errors.As(err, &torn) {
			bad++
		} else if err != nil {
			return bad, err
		}
	}
	return bad, nil
}

// tornError says that a frame could not be read to its end.
type tornError struct{ error }

// frames splits a compressed part at what each batch of a Sink begins with: the
// one that is damaged does not hide those after it.
func (m *partRepair) frames(in *os.File) ([]io.Reader, error) {
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	if m.p.compress == gzipped {
		magic = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0}
	}
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	var frames []io.Reader
	from := int64(0)
	b := bufio.NewReaderSize(in, bufferBytes)
	at := int64(0)
	for at < info.Size() {
		seen, err := b.Peek(bufferBytes)
		if err != nil && err != io.EOF {
			return nil, err
		}
		i := bytes.Index(seen, magic)
		if i < 0 {
			n := max(1, len(seen)-len(magic)+1)
			at += int64(n)
			_, _ = b.Discard(n)
			continue
		}
		if begins := at + int64(i); begins > from {
			frames = append(frames, io.NewSectionReader(in, from, begins-from))
			from = begins
		}
		at += int64(i + len(magic))
		_, _ = b.Discard(i + len(magic))
	}
	return append(frames, io.NewSectionReader(in, from, info.Size()-from)), nil
}

// CheckpointAt is the checkpoint of a Sink that has written what dir holds of a shard: whole lines, in
// parts that follow each other. It is nil where there is nothing.
func CheckpointAt(dir string, shard Shard) ([]byte, error) {
	names, err := OS{}.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parts := partsOf(names, shard)
	if len(parts) == 0 {
		return nil, nil
	}
	last := parts[len(parts)-1]
	info, err := os.Stat(filepath.Join(dir, last.name()))
	if err != nil {
		return nil, err
	}
	at := checkpoint{Part: last.n, Bytes: info.Size(), First: parts[0].n}
	err = readPart(OS{}, placed{last, dir}, func(int, int, []byte) error {
		at.Lines++
		return nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(at)
}
