package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"matrix"
	"matrix/internal/textfile"
)

// EndSuffix is what stands behind the name of a file that grows in the name of the
// file which says that it has ended: rows.jsonl, rows.jsonl.end. What is in that
// counts for nothing.
const EndSuffix = ".end"

// pollEvery is how often a file that grows is looked at.
const pollEvery = 100 * time.Millisecond

// Growing is a Source to whose last file lines are appended, by a Journal or by any
// program, until the file has ended: see EndSuffix. A line without a line end is not
// written yet.
type Growing struct{ *Source }

var _ matrix.Grower = (*Growing)(nil)

// Follow is the dataset of s as one that grows. Its last file must be JSON Lines that
// are not compressed.
func Follow(s *Source) (*Growing, error) {
	if s.o.Sample > 0 || s.o.Shuffle {
		return nil, errors.New("sample and shuffle want all rows, and a dataset that grows has no end: leave one of them out")
	}
	g := &Source{o: s.o, files: append([]file(nil), s.files...)}
	last := &g.files[len(g.files)-1]
	if err := last.canGrow(); err != nil {
		return nil, err
	}
	last.grows = true
	return &Growing{g}, nil
}

// Count implements matrix.Source.
func (g *Growing) Count(ctx context.Context) (int64, error) {
	if _, ended, err := g.last().whole(); err != nil || !ended {
		return -1, err
	}
	return g.Source.Count(ctx)
}

func (g *Growing) last() *file { return &g.files[len(g.files)-1] }

// More implements matrix.Grower. It looks ten times a second.
func (g *Growing) More(ctx context.Context, from matrix.Position) (bool, error) {
	found := false
	w := g.walk(from, false, func(matrix.Row) error {
		found = true
		return errEnough
	})
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for read := int64(-1); ; {
		size, ended, err := g.last().look()
		if err != nil {
			return false, err
		}
		if size != read || ended {
			if from, err = w.on(ctx, from); err != nil && !errors.Is(err, errEnough) {
				return false, err
			}
			if found || ended || err != nil { // err: at the limit
				return found, nil
			}
			read = size
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// canGrow says why a file that was checked cannot grow.
func (f *file) canGrow() error {
	if f.format != jsonLines || f.compress != plain || f.cr {
		return fmt.Errorf("%s cannot grow: only JSON Lines that are not compressed do", f.path)
	}
	return nil
}

// end is how much of a file counts; -1 for all of it.
func (f *file) end() (int64, error) {
	if !f.grows {
		return -1, nil
	}
	end, _, err := f.whole()
	return end, err
}

// look is the size of a file that grows, and whether it has ended.
func (f *file) look() (size int64, ended bool, err error) {
	if ended, err = f.ended(); err != nil { // before the size: nothing comes behind it
		return 0, false, err
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return 0, false, openError(err)
	}
	return info.Size(), ended, nil
}

// ended reports whether a file that grows has ended.
func (f *file) ended() (bool, error) {
	info, err := os.Stat(f.path + EndSuffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, openError(err)
	case info.IsDir():
		return false, fmt.Errorf("%s is a folder, and a file of that name says that %s has ended: give it another name", f.path+EndSuffix, f.path)
	}
	return true, nil
}

// whole says where the whole lines of a file that grows end, all of which it makes
// durable, and whether it has ended.
func (f *file) whole() (end int64, ended bool, err error) {
	if ended, err = f.ended(); err != nil { // before the size, as look
		return 0, false, err
	}
	file, err := textfile.Open(f.path)
	if err != nil {
		return 0, false, openError(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil {
		err = file.Sync() // a run must not know of rows that a power cut takes back
	}
	if err != nil {
		return 0, false, openError(err)
	}
	if end = info.Size(); ended {
		return end, true, nil
	}
	buf := make([]byte, 64<<10)
	for end > 0 {
		tail := buf[:min(end, int64(len(buf)))]
		if _, err := file.ReadAt(tail, end-int64(len(tail))); err != nil {
			return 0, false, fmt.Errorf("%s: %w", f.path, err)
		}
		if i := bytes.LastIndexByte(tail, '\n'); i >= 0 {
			return end - int64(len(tail)-i-1), false, nil
		}
		end -= int64(len(tail))
	}
	return 0, false, nil
}
