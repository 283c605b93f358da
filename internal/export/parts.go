package export

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"

	"matrix"
)

// Part is a part of a run's output of which rows are made.
type Part struct {
	Number int
	State  string // tells it from what it was before, or will be: its size, for instance
}

// Parts is a training set that is made while its run goes on, in a folder of its own:
// of each part of the output the rows as part-00000.jsonl, once that part is whole, and
// of all of them at the end what Run writes. What was made is found again by who comes
// later, and made anew where options or part are other ones.
type Parts struct {
	o     Options
	state string // of the options, and of who asks
}

// NewParts checks options, and touches nothing. Out is the folder; Force is implied.
func NewParts(o Options) (*Parts, error) {
	o.Force, o.Splits = true, byName(o.Splits)
	if _, err := newRows(o); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	stated := o
	stated.Asker, stated.Recipe, stated.Out = nil, nil, ""
	b, err := json.Marshal(stated)
	if err != nil {
		return nil, err
	}
	if o.Asker != nil {
		b = append(b, o.Asker.Revision()...)
	}
	return &Parts{o: o, state: digest(b)}, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Names in the folder, beside those of the set.
const (
	partEnd = ".jsonl"
	keysEnd = ".keys"   // behind a dot and the name of a part: what its rows are ordered by, and what was counted
	setFile = ".export" // what the set was made of
)

func (p *Parts) path(part Part) string {
	return filepath.Join(p.o.Out, fmt.Sprintf("part-%05d%s", part.Number, partEnd))
}

func (p *Parts) keys(part Part) string {
	return filepath.Join(p.o.Out, fmt.Sprintf(".part-%05d%s", part.Number, keysEnd))
}

// header is the first line of the keys of a part.
type header struct {
	Options, Part string // states
}

// tally is what making the rows of a part came to.
type tally struct {
	Result  Result
	SortIs  string            `json:",omitempty"`
	SortID  string            `json:",omitempty"`
	Columns map[string]*shape `json:",omitempty"`
}

// Has reports whether the rows of a part are there.
func (p *Parts) Has(part Part) bool {
	f, err := os.Open(p.keys(part))
	if err != nil {
		return false
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadBytes('\n')
	var h header
	if err != nil || json.Unmarshal(line, &h) != nil || h != (header{p.state, part.State}) {
		return false
	}
	_, err = os.Stat(p.path(part))
	return err == nil
}

// Make makes the rows of a part of these tasks, where they are not there. They appear
// whole or not at all.
func (p *Parts) Make(ctx context.Context, part Part, tasks iter.Seq2[*matrix.Task, error]) error {
	if p.Has(part) {
		return nil
	}
	r, err := newRows(p.o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.o.Out, 0o777); err != nil {
		return err
	}
	rows, err := newScratch(p.path(part))
	if err != nil {
		return err
	}
	defer rows.discard()
	keys, err := newScratch(p.keys(part))
	if err != nil {
		return err
	}
	defer keys.discard()
	h, _ := json.Marshal(header{p.state, part.State}) // of texts
	keys.put(h, []byte("\n"))
	for e, err := range r.of(ctx, tasks) {
		if err != nil {
			return err
		}
		rows.put(e.row, []byte("\n"))
		keys.put([]byte{1}, appendKey(nil, &e))
	}
	t := tally{Result: r.result, SortIs: r.sortIs, SortID: r.sortID, Columns: map[string]*shape{}}
	for _, c := range r.make.columns {
		t.Columns[c.name] = c.shape
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	keys.put([]byte{0}, b)
	if err := rows.finish(); err != nil { // the keys say that the rows are there
		return err
	}
	return keys.finish()
}

// Made reports whether the set is there, of these parts.
func (p *Parts) Made(parts []Part) bool {
	b, err := os.ReadFile(filepath.Join(p.o.Out, setFile))
	return err == nil && string(b) == p.stateOf(parts)
}

func (p *Parts) stateOf(parts []Part) string {
	b, _ := json.Marshal(parts) // of numbers and texts
	return p.state + " " + digest(b) + "\n"
}

// Finish makes the set of the rows of these parts, all of which are there, and removes
// these. A recipe is for its card.
func (p *Parts) Finish(ctx context.Context, parts []Part, recipe *Recipe) (*Result, error) {
	if err := p.sweep(); err != nil {
		return nil, err
	}
	o := p.o
	o.Recipe = recipe
	s, err := newSet(o)
	if err != nil {
		return nil, err
	}
	defer s.discard()
	r, err := newRows(o)
	if err != nil {
		return nil, err
	}
	if err := write(ctx, p.all(ctx, parts, r), s); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(p.o.Out, setFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	empty := (*EmptyError)(nil)
	err = s.finish(ctx, &r.result)
	if errors.As(err, &empty) {
		if err := s.clean(nil); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	f, fault := newScratch(filepath.Join(p.o.Out, setFile))
	if fault != nil {
		return nil, fault
	}
	defer f.discard()
	f.put([]byte(p.stateOf(parts)))
	if err := f.finish(); err != nil {
		return nil, err
	}
	for _, part := range parts {
		os.Remove(p.keys(part))
		os.Remove(p.path(part))
	}
	return &r.result, err
}

// all are the rows of parts, in order. r learns what was counted.
func (p *Parts) all(ctx context.Context, parts []Part, r *rows) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for _, part := range parts {
			more, err := p.read(ctx, part, r, yield)
			if err != nil {
				yield(entry{}, fmt.Errorf("%s: %w", p.path(part), err))
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// read hands on the rows of a part.
func (p *Parts) read(ctx context.Context, part Part, r *rows, yield func(entry, error) bool) (more bool, err error) {
	rows, err := os.Open(p.path(part))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	keys, err := os.Open(p.keys(part))
	if err != nil {
		return false, err
	}
	defer keys.Close()
	in, lines := bufio.NewReaderSize(keys, 64<<10), bufio.NewReaderSize(rows, 1<<20)
	if _, err := in.ReadBytes('\n'); err != nil {
		return false, unexpected(err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		kind, err := in.ReadByte()
		if err != nil {
			return false, unexpected(err)
		}
		if kind == 0 {
			b, err := io.ReadAll(in)
			if err != nil {
				return false, err
			}
			return true, r.learn(b)
		}
		e, err := readKey(in)
		if err != nil {
			return false, err
		}
		if e.row, err = lines.ReadBytes('\n'); err != nil {
			return false, unexpected(err)
		}
		e.row = e.row[:len(e.row)-1]
		if !yield(e, nil) {
			return false, nil
		}
	}
}

// learn adds what a part came to.
func (x *rows) learn(b []byte) error {
	var t tally
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	x.result.Tasks += t.Result.Tasks
	x.result.Stale += t.Result.Stale
	x.result.Mute += t.Result.Mute
	for why, n := range t.Result.Left {
		x.result.Left[why] += n
	}
	x.result.Made.merge(&t.Result.Made)
	switch {
	case t.SortIs == "":
	case x.sortIs == "":
		x.sortIs, x.sortID = t.SortIs, t.SortID
	case x.sortIs != t.SortIs:
		return &TypeError{"to sort by", x.sortIs, t.SortIs, x.sortID, t.SortID}
	}
	for _, c := range x.make.columns {
		if s := t.Columns[c.name]; s != nil {
			if err := c.shape.merge(c.name, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep removes what a process left that was killed.
func (p *Parts) sweep() error {
	for _, dir := range []string{p.o.Out, filepath.Join(p.o.Out, DataDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), scratchName) {
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Clear removes a set that Parts made in a folder, finished or not, and the folder where
// nothing else is in it.
func Clear(dir string) error {
	for _, pattern := range []string{"part-[0-9]*" + partEnd, ".part-[0-9]*" + keysEnd, setFile, scratchName + "*", path.Join(DataDir, scratchName+"*"), path.Join(DataDir, "*-of-*")} {
		names, err := fs.Glob(os.DirFS(dir), pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if base := path.Base(name); path.Dir(name) == DataDir && !Owns(base) && !strings.HasPrefix(base, scratchName) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, CardFile)); err == nil && bytes.Contains(b, []byte(cardMark)) {
		os.Remove(filepath.Join(dir, CardFile))
	}
	os.Remove(filepath.Join(dir, DataDir))
	os.Remove(dir)
	return nil
}

// scratch is a file that has its name once it is whole.
type scratch struct {
	path string
	f    *os.File
	w    *bufio.Writer
	err  error
}

func newScratch(path string) (*scratch, error) {
	f, err := os.CreateTemp(filepath.Dir(path), scratchName)
	if err != nil {
		return nil, err
	}
	return &scratch{path: path, f: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

func (s *scratch) put(all ...[]byte) {
	for _, b := range all {
		if s.err == nil {
			_, s.err = s.w.Write(b)
		}
	}
}

func (s *scratch) finish() error {
	err := s.err
	if err == nil {
		err = s.w.Flush()
	}
	if err == nil {
		err = s.f.Sync()
	}
	if err == nil {
		err = s.f.Chmod(0o644)
	}
	if err = errors.Join(err, s.f.Close()); err != nil {
		return full(s.path, err)
	}
	return os.Rename(s.f.Name(), s.path)
}

// discard removes the file where it has no name.
func (s *scratch) discard() {
	s.f.Close()
	os.Remove(s.f.Name())
}
