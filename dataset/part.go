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
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Shard is one of several outputs that share a folder: the n-th part of the K-th
// of them is part n*Of+K there. The zero value is an output that has its folder for
// itself.
type Shard struct{ K, Of int }

// number is that of the n-th part in the folder.
func (s Shard) number(n int) int { return n*max(1, s.Of) + s.K }

// Has reports whether the part of a number belongs to the shard.
func (s Shard) Has(number int) bool {
	_, ok := s.nth(number)
	return ok
}

// nth says which part of the shard has a number, if it is one of its own.
func (s Shard) nth(number int) (n int, ok bool) {
	return number / max(1, s.Of), number%max(1, s.Of) == s.K
}

// part is a part file of an output.
type part struct {
	n        int // from 0, in its shard
	compress compression
	old      bool // set aside, to be gone through again: see Sink.Revise
	shard    Shard
}

// number is that of the part in the folder.
func (p part) number() int { return p.shard.number(p.n) }

var partEnds = map[compression]string{plain: ".jsonl", gzipped: ".jsonl.gz", zstded: ".jsonl.zst"}

func (p part) name() string {
	begin := "part"
	if p.old {
		begin = "retry"
	}
	return fmt.Sprintf("%s-%05d%s", begin, p.number(), partEnds[p.compress])
}

// parsePart says which part of a shard name is, if it is one.
func parsePart(name string, shard Shard) (part, bool) {
	begin, digits, _ := strings.Cut(name, "-")
	digits, _, _ = strings.Cut(digits, ".")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return part{}, false
	}
	nth, own := shard.nth(int(n))
	for c := range partEnds {
		if p := (part{nth, c, begin == "retry", shard}); own && p.name() == name {
			return p, true
		}
	}
	return part{}, false
}

// partsOf picks the parts of a shard out of the names of a folder, in order.
func partsOf(names []string, shard Shard) []part {
	var parts []part
	for _, name := range names {
		if p, ok := parsePart(name, shard); ok {
			parts = append(parts, p)
		}
	}
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.compress, b.compress))
	})
	return parts
}

// ReadParts calls f for each line of the part files of a shard in dir, in order, until f
// returns an error, which it returns. part and line count from 0; raw is valid
// JSON without the newline, until f returns. A part that is missing between
// others, and a line that is cut short or not JSON, are errors that name file
// and line (from 1). A folder that does not exist holds no parts.
func ReadParts(dir string, shard Shard, f func(part, line int, raw []byte) error) error {
	return readParts(OS{}, dir, shard, nil, f)
}

// readParts reads what m says that an output holds, and what stands behind that;
// all parts that are not set aside where m is nil.
func readParts(fsys FS, dir string, shard Shard, m *checkpoint, f func(part, line int, raw []byte) error) error {
	var epoch uint64
	if m != nil {
		epoch = m.Epoch
	}
	all, err := listParts(fsys, dir, shard, epoch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	parts := slices.DeleteFunc(all, func(p placed) bool {
		if m == nil {
			return p.old
		}
		return p.n < m.First
	})
	next := 0
	switch {
	case m != nil:
		next = m.First
		g := f
		f = func(part, line int, raw []byte) error {
			if part == shard.number(m.First) && line < m.Line {
				return nil
			}
			return g(part, line, raw)
		}
	case len(parts) > 0:
		next = parts[0].n
	}
	for _, p := range parts {
		switch {
		case p.n < next:
			return fmt.Errorf("%s: %w: there are two files of part %d", dir, ErrChanged, p.number())
		case p.n > next:
			return fmt.Errorf("%s: %w: part %d is missing", dir, ErrChanged, shard.number(next))
		}
		if err := readPart(fsys, p, f); err != nil {
			return err
		}
		next++
	}
	return nil
}

func readPart(fsys FS, p placed, f func(part, line int, raw []byte) error) error {
	name := p.path()
	in, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer in.Close()
	return readLines(in, name, p.part, f)
}

// readLines calls f for the lines of a part; name is for errors.
func readLines(in io.Reader, name string, p part, f func(part, line int, raw []byte) error) error {
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
			return fmt.Errorf("%s:%d: the line is cut short: a write was interrupted", name, line+1)
		case err != nil:
			return fmt.Errorf("%s:%d: cannot be read: %w", name, line+1, err)
		}
		raw = bytes.TrimSuffix(raw, []byte("\n"))
		if !json.Valid(raw) {
			return fmt.Errorf("%s:%d: the line is not JSON", name, line+1)
		}
		if err := f(p.number(), line, raw); err != nil {
			return err
		}
	}
}

// ErrChanged says that an output does not hold what was written to it.
var ErrChanged = errors.New("the output is not as it was written")

// ReadTail calls f for each line that the part files of a shard in dir hold after a checkpoint of
// a Sink, until f returns an error, which it returns; raw is as of ReadParts. An
// end that is torn, and lines that are not JSON, are passed over: that is what a
// crash leaves. Parts that do not hold what the checkpoint says are ErrChanged. No checkpoint
// is the beginning.
func ReadTail(dir string, shard Shard, checkpointJSON []byte, f func(raw []byte) error) error {
	m, err := parseCheckpoint(dir, checkpointJSON)
	if err != nil {
		return err
	}
	all, err := listParts(OS{}, dir, shard, m.Epoch)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	next := m.First // part that the checkpoint covers, whole or not
	for _, p := range all {
		from := int64(0)
		if p.n < m.First { // gone through again
			continue
		}
		if p.n < m.Part || p.n == m.Part && m.Bytes > 0 {
			if p.n != next {
				return changed(dir, p.number(), shard.number(next))
			}
			if next++; p.n < m.Part {
				continue
			}
			from = m.Bytes
		}
		if err := readTail(p, from, f); err != nil {
			return err
		}
	}
	if next < m.Part || next == m.Part && m.Bytes > 0 {
		return changed(dir, shard.number(next), shard.number(next))
	}
	return nil
}

// changed says that the parts are not those that were written.
func changed(dir string, n, want int) error {
	if n < want {
		return fmt.Errorf("output %s: %w: there are two files of part %d, one of which is not from this run; move it away", dir, ErrChanged, n)
	}
	return fmt.Errorf("output %s: %w: part %d, which was written before, is missing; restore it", dir, ErrChanged, want)
}

// shortenedPart says that a part holds less than was written.
func shortenedPart(dir, name string, size, want int64) error {
	return fmt.Errorf("output %s: %w: %s has %d bytes, and %d were written before: somebody changed it; restore it", dir, ErrChanged, name, size, want)
}

// readTail reads the lines of a part from byte from on, which a line or a frame
// begins.
func readTail(p placed, from int64, f func(raw []byte) error) error {
	name := p.path()
	in, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if info.Size() < from {
		return shortenedPart(p.dir, p.name(), info.Size(), from)
	}
	if from > 0 && p.compress == plain {
		end := make([]byte, 1)
		if _, err := in.ReadAt(end, from-1); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if end[0] != '\n' {
			return fmt.Errorf("output %s: %w: in %s no line ends at byte %d, and one was written that does; restore it", p.dir, ErrChanged, p.name(), from)
		}
	}
	if _, err := in.Seek(from, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	r, end, err := uncompressed(in, p.compress)
	if err != nil {
		return nil // nothing, or a torn frame
	}
	defer end()
	l := newLines(r)
	l.max = math.MaxInt
	for {
		raw, _, err := l.next()
		if err != nil {
			return nil
		}
		if json.Valid(raw) {
			if err := f(raw); err != nil {
				return err
			}
		}
	}
}

// RemoveParts removes the part files of an output, and the folders of epochs, and nothing else. A folder
// that does not exist holds none, and through a link nothing is removed.
func RemoveParts(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder but %v: nothing is deleted through it; remove it yourself", dir, info.Mode().Type())
	}
	names, err := OS{}.List(dir)
	if err != nil {
		return err
	}
	for _, p := range partsOf(names, Shard{}) {
		if err := os.Remove(filepath.Join(dir, p.name())); err != nil {
			return err
		}
	}
	return RemoveOpen(OS{}, dir)
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
