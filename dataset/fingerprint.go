package dataset

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

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
		size, hash, err := sample(f.path, -1)
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
// are as they were, but for bytes that were appended to the last of them.
func (s *Source) Extends(was string) (bool, error) {
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
		size, hash, err := sample(f.path, end)
		if err != nil {
			return false, err
		}
		if f.print(size, hash) != line {
			return false, nil
		}
	}
	return true, nil
}

// sample hashes the beginning and the end of a file, of which only the first
// end bytes count, if end is not negative.
func sample(path string, end int64) (size int64, hash uint64, err error) {
	f, err := textfile.Open(path)
	if err != nil {
		return 0, 0, openError(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, openError(err)
	}
	size = info.Size()
	if end >= 0 {
		size = min(size, end)
	}
	h := xxh3.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, min(size, sampleBytes))); err != nil {
		return 0, 0, openError(err)
	}
	tail := max(size-sampleBytes, sampleBytes) // not twice what the head has
	if tail < size {
		if _, err := io.Copy(h, io.NewSectionReader(f, tail, size-tail)); err != nil {
			return 0, 0, openError(err)
		}
	}
	return size, h.Sum64(), nil
}
