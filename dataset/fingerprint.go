package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"matrix"
	"matrix/internal/textfile"
)

// sampleBytes is how much of a file's beginning and of its end a fingerprint
// covers. With the size this tells files that were cut, appended to or
// replaced; an edit in the middle that keeps the size goes unseen.
const sampleBytes = 64 << 10

// Fingerprint implements matrix.Source: for each file a line of its name, its
// size in bytes, and the XXH3 hash of its first and last 64 KiB.
func (s *Source) Fingerprint() (string, error) {
	var b strings.Builder
	for i, f := range s.files {
		end, err := f.end()
		if err != nil {
			return "", err
		}
		size, hash, err := f.sample(end)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.print(size, hash))
	}
	return b.String(), nil
}

func (f *file) print(size int64, hash uint64) string {
	return fmt.Sprintf("%s %d %016x", f.name, size, hash)
}

// Extends implements matrix.Extender: the files that was names come first and
// are as they were, but for bytes that were appended to the last of them, where that is
// of lines or Parquet. Bytes that go on with its last line are an error.
func (s *Source) Extends(was string) (bool, error) {
	if s.o.Sample > 0 || s.o.Shuffle { // more rows are another choice among them, or another order
		now, err := s.Fingerprint()
		return now == was, err
	}
	then := strings.Split(was, "\n")
	if len(then) > len(s.files) {
		return false, nil
	}
	for i, line := range then {
		f := &s.files[i]
		end := int64(-1)
		if i == len(then)-1 {
			if fields := strings.Fields(line); len(fields) > 2 {
				n, err := strconv.ParseInt(fields[len(fields)-2], 10, 64)
				if err != nil {
					return false, nil
				}
				end = n
			}
		}
		size, hash, err := f.sample(end)
		if err != nil {
			return false, err
		}
		if f.print(size, hash) != line {
			return false, nil
		}
		if f.far != nil {
			continue
		}
		if end > 0 && f.format > parquetRows { // more rows are other files
			whole, _, err := f.sample(-1)
			if err != nil || whole != size {
				return false, err
			}
		} else if end > 0 {
			if err := f.joins(end); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// joins refuses what stands behind the first end bytes of a file where it goes on
// with a line that had no end.
func (f *file) joins(end int64) error {
	if f.format == parquetRows {
		return nil
	}
	was, err := f.bytes(context.Background(), end)
	if err != nil {
		return err
	}
	defer was.Close()
	l := newLines(was)
	l.cr = f.cr
	count := func() (err error) {
		for err == nil {
			_, _, err = l.next()
		}
		return err
	}
	at := matrix.Position{Offset: end}
	if f.compress != plain {
		if count() != io.EOF {
			return nil // it was cut short, and no line of it was whole
		}
		at.Offset = l.offset
	}
	r, err := f.open(context.Background(), at)
	switch {
	case errors.Is(err, errTorn):
		if f.compress == plain {
			_ = count() // for the message alone
		}
		return fmt.Errorf("%s:%d: the last line had no line end when it was read, and what was added stands on the same line: put a line end in before it; where it completes that line, its row is another one now: start a new run", f.path, l.n)
	case err != nil:
		return err
	}
	return r.Close()
}

// sample hashes the beginning and the end of a file, of which only the first
// end bytes count, if end is not negative.
//
// What is on another machine is known by its size and the word of the server for what is in
// it, asked for anew; where the server has none, by the sample as well.
func (f *file) sample(end int64) (size int64, hash uint64, err error) {
	if f.far != nil {
		return f.sampleFar()
	}
	opened, err := textfile.Open(f.path)
	if err != nil {
		return 0, 0, openError(err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return 0, 0, openError(err)
	}
	size = info.Size()
	if end >= 0 {
		size = min(size, end)
	}
	h := xxh3.New()
	head := min(size, sampleBytes)
	tail := max(size-sampleBytes, head) // not twice what the head has
	if _, err := io.Copy(h, io.MultiReader(io.NewSectionReader(opened, 0, head), io.NewSectionReader(opened, tail, size-tail))); err != nil {
		return 0, 0, openError(err)
	}
	return size, h.Sum64(), nil
}

func (f *file) sampleFar() (size int64, hash uint64, err error) {
	ctx := context.Background()
	now, err := f.far.Again(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", f.path, err)
	}
	if size = now.Size(); now.Version() != "" || size < 0 {
		return size, xxh3.HashString(now.Version()), nil
	}
	h := xxh3.New()
	r := now.Open(ctx)
	defer r.Close()
	head := min(size, sampleBytes)
	tail := max(size-sampleBytes, head)
	if _, err := io.Copy(h, io.MultiReader(io.NewSectionReader(r, 0, head), io.NewSectionReader(r, tail, size-tail))); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", f.path, err)
	}
	return size, h.Sum64(), nil
}
