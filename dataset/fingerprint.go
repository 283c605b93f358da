package dataset

import (
	"fmt"
	"io"
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
		size, hash, err := sample(f.path)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s %d %016x", f.name, size, hash)
	}
	return b.String(), nil
}

func sample(path string) (size int64, hash uint64, err error) {
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
