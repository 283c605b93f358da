package sandbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// A shelf is a folder of leases whose files are kept. Several processes of a run on one
// machine may share the folder above: each claims a shelf of its own there, the first
// that is free, so that whoever comes after a process has what that one left.
type shelf struct {
	dir  string
	lock *os.File
}

const maxShelves = 1000

func openShelf(folder string) (*shelf, error) {
	for i := range maxShelves {
		s, err := claimShelf(filepath.Join(folder, strconv.Itoa(i)))
		if !errors.Is(err, errHeld) {
			return s, err
		}
	}
	return nil, fmt.Errorf("%s: more than %d processes have leases there", folder, maxShelves)
}

var errHeld = errors.New("another process has it")

func claimShelf(dir string) (*shelf, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return &shelf{dir, f}, nil
}

func (s *shelf) close() error { return s.lock.Close() }

// leases are the journals that are there, by name.
func (s *shelf) leases() (map[string]*journal, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	all := make(map[string]*journal, len(entries))
	for _, e := range entries {
		all[e.Name()] = s.journal(e.Name())
	}
	return all, nil
}

func (s *shelf) journal(name string) *journal { return &journal{dir: filepath.Join(s.dir, name)} }

// A journal is the folder of one lease: what was done in it, a line each, and its
// layers. It is true as long as the machine runs: nothing is forced to the disk, and
// what an earlier boot left is not trusted.
type journal struct {
	dir string
	f   *os.File
}

// line is a line of a journal. One of its fields is set.
type line struct {
	Lease  *leaseLine `json:"lease,omitempty"`
	Layer  *layer     `json:"layer,omitempty"`  // a layer was put on top
	Setup  bool       `json:"setup,omitempty"`  // what stands in Spec.Files and Spec.Setup is done
	Begin  *record    `json:"begin,omitempty"`  // a command is about to be sent
	End    *record    `json:"end,omitempty"`    // its result
	Undone bool       `json:"undone,omitempty"` // it was not done at all
	Rewind *int       `json:"rewind,omitempty"` // so many layers are left
	Folded []int      `json:"folded,omitempty"` // these layers are moved into the one below them
}

type leaseLine struct {
	Key        Key    `json:"key"`
	Boot       string `json:"boot"`
	Spec       string `json:"spec"`
	Generation int    `json:"generation"`
}

// layer is a folder of changes.
type layer struct {
	N  int `json:"n"`  // its name
	At int `json:"at"` // commands before the first one whose changes it has
}

// record is a command that ran.
type record struct {
	Key    string  `json:"key"`
	Hash   string  `json:"hash"`
	Result *Result `json:"result,omitempty"` // nil: no longer known, since it is committed
	Again  bool    `json:"again,omitempty"`  // it is committed, and ran to bring the state back
	Doubt  bool    `json:"doubt,omitempty"`  // its sandbox was lost under it, and it is not run again
}

// state is what a journal says.
type state struct {
	lease  leaseLine
	setup  bool
	calls  []record
	layers []layer
	doubt  *record // begun, and not ended
	folded []int   // of the last time: it may not have come to its end
}

// read returns what the journal says. A last line that is not whole was not written.
func (j *journal) read() (state, error) {
	var s state
	f, err := os.Open(filepath.Join(j.dir, "journal"))
	if err != nil {
		return s, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return s, fmt.Errorf("%s: %w", f.Name(), err)
		}
		s.apply(l)
	}
}

func (s *state) apply(l line) {
	switch {
	case l.Lease != nil:
		s.lease = *l.Lease
	case l.Layer != nil:
		s.layers = append(s.layers, *l.Layer)
	case l.Setup:
		s.setup = true
	case l.Begin != nil:
		s.doubt = l.Begin
	case l.End != nil:
		s.calls, s.doubt = append(s.calls, *l.End), nil
	case l.Undone:
		s.doubt = nil
	case l.Rewind != nil:
		s.rewind(*l.Rewind)
	case len(l.Folded) > 0:
		s.folded = l.Folded
		s.layers = slices.DeleteFunc(s.layers, func(x layer) bool { return slices.Contains(l.Folded, x.N) })
	}
}

// rewind leaves so many layers, and what was done before those that are gone.
func (s *state) rewind(layers int) {
	if layers < len(s.layers) {
		s.calls = s.calls[:min(len(s.calls), s.layers[layers].At)]
		s.layers = s.layers[:layers]
	}
	s.doubt, s.folded = nil, nil // what was folded came to its end, or nothing would have gone back
}

// write appends a line.
func (j *journal) write(l line) error {
	if j.f == nil {
		if err := os.MkdirAll(j.dir, 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(j.dir, "journal"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		if err := cutTorn(f); err != nil {
			f.Close()
			return err
		}
		j.f = f
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = j.f.Write(append(b, '\n'))
	return err
}

// cutTorn cuts off a last line that is not whole.
func cutTorn(f *os.File) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for at := end; at > 0; {
		n := min(at, int64(len(buf)))
		at -= n
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return f.Truncate(at + int64(i) + 1)
		}
	}
	return f.Truncate(0)
}

func (j *journal) close() {
	if j != nil && j.f != nil {
		j.f.Close()
		j.f = nil
	}
}

func (j *journal) layer(n int) string { return filepath.Join(j.dir, "layers", strconv.Itoa(n)) }

// work is an empty folder for the kernel.
func (j *journal) work() (string, error) {
	dir := filepath.Join(j.dir, "work")
	if err := removeTree(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func (j *journal) remove() error {
	j.close()
	return removeTree(j.dir)
}

// removeTree removes a folder in which a sandbox made what it liked: folders that
// their owner may not read as well.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
