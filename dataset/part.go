package dataset

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// part is a part file of an output.
type part struct {
	n        int
	compress compression
}

var partEnds = map[compression]string{plain: ".jsonl", gzipped: ".jsonl.gz", zstded: ".jsonl.zst"}

func (p part) name() string { return fmt.Sprintf("part-%05d%s", p.n, partEnds[p.compress]) }

// parsePart says which part name is, if it is one.
func parsePart(name string) (part, bool) {
	digits, ok := strings.CutPrefix(name, "part-")
	if !ok {
		return part{}, false
	}
	digits, _, _ = strings.Cut(digits, ".")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return part{}, false
	}
	for c := range partEnds {
		if p := (part{int(n), c}); p.name() == name {
			return p, true
		}
	}
	return part{}, false
}

// partsOf picks the parts out of the names of a folder, in order.
func partsOf(names []string) []part {
	var parts []part
	for _, name := range names {
		if p, ok := parsePart(name); ok {
			parts = append(parts, p)
		}
	}
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.compress, b.compress))
	})
	return parts
}

// ReadParts calls f for each line of the part files in dir, in order, until f
// returns an error, which it returns. part and line count from 0; raw is valid
// JSON without the newline, until f returns. A part that is missing, and a
// line that is cut short or not JSON, are errors that name file and line (from
// 1). A folder that does not exist holds no parts.
func ReadParts(dir string, f func(part, line int, raw []byte) error) error {
	return readParts(os.DirFS(dir), dir, f)
}

func readParts(fsys fs.FS, dir string, f func(part, line int, raw []byte) error) error {
	entries, err := fs.ReadDir(fsys, ".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for i, p := range partsOf(names) {
		switch {
		case p.n < i:
			return fmt.Errorf("%s: there are two files of part %d: one of them is not from this run", dir, p.n)
		case p.n > i:
			return fmt.Errorf("%s: part %d is missing", dir, i)
		}
		if err := readPart(fsys, dir, p, f); err != nil {
			return err
		}
	}
	return nil
}

func readPart(fsys fs.FS, dir string, p part, f func(part, line int, raw []byte) error) error {
	name := filepath.Join(dir, p.name())
	in, err := fsys.Open(p.name())
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer in.Close()
	r, end, err := uncompressed(in, p.compress)
	if err == io.EOF {
		return nil // empty, as it is when a crash comes between its making and its first batch
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer end()
	b := bufio.NewReaderSize(r, bufferBytes)
	var long []byte
	for line := 0; ; line++ {
		raw, err := b.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			long = append(long[:0], raw...)
			for err == bufio.ErrBufferFull {
				raw, err = b.ReadSlice('\n')
				long = append(long, raw...)
			}
			raw = long
		}
		switch {
		case err == io.EOF && len(raw) == 0:
			return nil
		case err == io.EOF:
			return fmt.Errorf("%s:%d: the line is cut short: a write did not come to its end; run again to mend it", name, line+1)
		case err != nil:
			return fmt.Errorf("%s:%d: cannot be read: %w", name, line+1, err)
		}
		raw = bytes.TrimSuffix(raw, []byte("\n"))
		if !json.Valid(raw) {
			return fmt.Errorf("%s:%d: the line is not JSON", name, line+1)
		}
		if err := f(p.n, line, raw); err != nil {
			return err
		}
	}
}

func uncompressed(in io.Reader, c compression) (io.Reader, func(), error) {
	switch c {
	case gzipped:
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case zstded:
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
}
