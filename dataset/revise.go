package dataset

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"path/filepath"

	"matrix"
)

// row is one that a Sink goes through again.
type row struct {
	line int
	raw  []byte
}

var _ matrix.Reviser = (*Sink)(nil)

// Revise implements matrix.Reviser. The parts that hold what was written so far
// are closed. Once the checkpoint is committed they are called retry-00000.jsonl and
// so on until Next has gone through them, and are then removed.
func (s *Sink) Revise() ([]byte, error) {
	if s.failed != nil {
		return nil, fmt.Errorf("output %s: nothing is done after an earlier error: %w", s.dir, s.failed)
	}
	if s.epoch > 0 {
		return nil, s.fail(fmt.Errorf("output %s: its rows are gone through by one process alone", s.dir))
	}
	if s.at.Bytes > 0 {
		if err := s.roll(); err != nil {
			return nil, s.fail(err)
		}
	}
	s.at.Old, s.hidden = s.at.Part, 0
	return json.Marshal(s.at)
}

// Next implements matrix.Reviser.
func (s *Sink) Next(n, size int) ([]*matrix.Task, error) {
	if s.failed != nil {
		return nil, fmt.Errorf("output %s: nothing is done after an earlier error: %w", s.dir, s.failed)
	}
	tasks, err := s.next(n, size)
	if err != nil {
		return nil, s.fail(err)
	}
	return tasks, nil
}

func (s *Sink) next(n, size int) ([]*matrix.Task, error) {
	if err := s.hide(); err != nil {
		return nil, err
	}
	var tasks []*matrix.Task
	for len(tasks) < n && size > 0 && s.at.First < s.at.Old {
		if s.rows == nil {
			if err := s.read(); err != nil {
				return nil, err
			}
		}
		x, err, ok := s.rows()
		switch {
		case err != nil:
			return nil, err
		case !ok:
			s.rows = nil
			s.at.First, s.at.Line = s.at.First+1, 0
			continue
		case x.line < s.at.Line:
			continue // gone through before a restart
		}
		t, err := ParseTask(x.raw)
		if err != nil {
			return nil, fmt.Errorf("output %s: part %d line %d is not a task: %w", s.dir, s.part.shard.number(s.at.First), x.line+1, err)
		}
		tasks = append(tasks, t)
		size -= len(x.raw)
		s.at.Line = x.line + 1
	}
	return tasks, nil
}

// hide sets aside the parts that are being gone through, and removes those that
// have been, by the last checkpoint that was handed out: it is committed.
func (s *Sink) hide() error {
	if s.hidden == s.at.First+1 { // all is as it should be
		return nil
	}
	names, err := s.fs.List(s.dir)
	if err != nil {
		return s.explain("list the folder", "", err)
	}
	changed := false
	for _, p := range partsOf(names, s.part.shard) {
		switch {
		case p.n < s.at.First:
			err = s.fs.Remove(filepath.Join(s.dir, p.name()))
		case p.n < s.at.Old && !p.old:
			hidden := p
			hidden.old = true
			err = s.fs.Rename(filepath.Join(s.dir, p.name()), filepath.Join(s.dir, hidden.name()))
		default:
			continue
		}
		if err != nil {
			return s.explain("set aside", p.name(), err)
		}
		changed = true
	}
	if changed {
		if err := s.fs.SyncDir(s.dir); err != nil {
			return s.explain("sync the folder", "", err)
		}
	}
	s.hidden = s.at.First + 1
	return nil
}

// read begins to read the first part that has not been gone through.
func (s *Sink) read() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return s.explain("list the folder", "", err)
	}
	for _, p := range partsOf(names, s.part.shard) {
		if p.n != s.at.First {
			continue
		}
		s.rows, s.stop = iter.Pull2(func(yield func(row, error) bool) {
			f, err := s.fs.Open(filepath.Join(s.dir, p.name()))
			if err != nil {
				yield(row{}, s.explain("open", p.name(), err))
				return
			}
			defer f.Close()
			err = readLines(f, filepath.Join(s.dir, p.name()), p, func(_, line int, raw []byte) error {
				if !yield(row{line, raw}, nil) {
					return io.EOF
				}
				return nil
			})
			if err != nil && err != io.EOF {
				yield(row{}, err)
			}
		})
		return nil
	}
	return changed(s.dir, s.part.shard.number(s.at.First+1), s.part.shard.number(s.at.First))
}

// ReadOutput calls f as ReadParts does, for the output of a shard of which the ledger holds
// checkpoint: rows that were taken out of it and still stand in a file are passed over,
// and a first part that is missing is an error.
func ReadOutput(fsys FS, dir string, shard Shard, checkpointJSON []byte, f func(part, line int, raw []byte) error) error {
	m, err := parseCheckpoint(dir, checkpointJSON)
	if err != nil {
		return err
	}
	return readParts(fsys, dir, shard, &m, f)
}

// OutputStart says where the output of a shard begins of which the ledger holds checkpoint.
func OutputStart(checkpointJSON []byte, shard Shard) (part, line int) {
	m, _ := parseCheckpoint("", checkpointJSON)
	return shard.number(m.First), m.Line
}

// OutputEnd says which part of a shard is being written, of which the ledger holds checkpoint:
// nothing is added any more to those before it.
func OutputEnd(checkpointJSON []byte, shard Shard) (part int, err error) {
	m, err := parseCheckpoint("", checkpointJSON)
	return shard.number(m.Part), err
}
