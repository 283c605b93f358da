package local

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// Pebble takes a record of its newest log that does not read well for the
// log's end, as a power cut leaves it, and what comes after it is gone without
// a word. Its own check, the offset that was synced when a later chunk was
// written, counts too few bytes to see most holes (v2.1.7: blocks that were
// written whole do not count). The format of a log is that of
// github.com/cockroachdb/pebble/v2/record: blocks of 32 KiB that hold chunks,
// each with checksum, length, encoding, the log's number and that offset.
const (
	logBlock    = 32 << 10
	chunkHeader = 19 // of a chunk that tells the synced offset
	shortHeader = 11 // of one that does not
	oldHeader   = 7  // of one that does not tell its log either: those of a manifest
)

// chunk is a piece of a record.
type chunk struct {
	full, last bool // the first piece of its record; the last one
	synced     uint64
	payload    []byte
}

// logFile is the write-ahead log n, read over what does not read well. The
// manifest, which has the same format, is 0.
type logFile struct {
	r     io.Reader
	n     uint32
	block [logBlock]byte
	rest  []byte // of the block
	at    int64  // where rest ends
	bad   []byte // of the block: what was passed over last
}

// next returns the next chunk that reads well. ok says that none was passed over
// before it.
func (l *logFile) next() (c chunk, ok bool, err error) {
	ok = true
	for {
		if len(l.rest) < oldHeader {
			n, err := io.ReadFull(l.r, l.block[:])
			if n == 0 {
				return c, ok, io.EOF
			}
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				return c, ok, err
			}
			l.rest = l.block[:n]
			l.at += int64(n)
		}
		c, size := parseChunk(l.rest, l.n)
		if size > 0 {
			l.rest = l.rest[size:]
			return c, ok, nil
		}
		if len(l.rest) >= chunkHeader || strings.Trim(string(l.rest), "\x00") != "" {
			ok = false // no chunk fits into less: it is left empty
			l.bad = l.rest
		}
		l.rest = nil
	}
}

// parseChunk reads the chunk that b begins with. size is 0 where there is none
// of log n.
func parseChunk(b []byte, n uint32) (c chunk, size int) {
	if len(b) < oldHeader || n > 0 && len(b) < shortHeader {
		return c, 0
	}
	header, kind := oldHeader, int(b[6])-1
	switch {
	case n > 0 && kind >= 8:
		header, kind = chunkHeader, kind-8
	case n > 0:
		header, kind = shortHeader, kind-4
	}
	size = header + int(binary.LittleEndian.Uint16(b[4:]))
	if kind < 0 || kind > 3 || size > len(b) || n > 0 && binary.LittleEndian.Uint32(b[7:]) != n {
		return c, 0
	}
	sum := crc32.Checksum(b[6:size], crc32.MakeTable(crc32.Castagnoli)) // the table is made once
	if binary.LittleEndian.Uint32(b) != (sum>>15|sum<<17)+0xa282ead8 {
		return c, 0
	}
	if header == chunkHeader {
		c.synced = binary.LittleEndian.Uint64(b[11:])
	}
	c.full, c.last, c.payload = kind == 0 || kind == 1, kind == 0 || kind == 3, b[header:size]
	return c, size
}

// records calls f for each record that reads well, until f returns an error.
func (l *logFile) records(f func(record []byte) error) error {
	var record []byte
	whole := false // as far as it goes
	for {
		c, ok, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.full {
			record, whole = record[:0], true
		} else if !ok {
			whole = false
		}
		record = append(record, c.payload...)
		if c.last && whole {
			if err := f(record); err != nil {
				return err
			}
			whole = false
		}
	}
}

// hole looks for a place that does not read well although it was synced, and
// returns where. Of what was never synced a power cut may leave any part. A sync
// covers what was written before the one before it ended, so a place that is
// followed by chunks of three different syncs was covered.
func (l *logFile) hole() (at int64, found bool, err error) {
	var after []uint64 // the syncs that chunks after a hole tell of
	for {
		before := l.at - int64(len(l.rest))
		c, ok, err := l.next()
		if errors.Is(err, io.EOF) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		if !ok && after == nil {
			at, after = before, []uint64{c.synced}
		} else if after != nil && !slices.Contains(after, c.synced) {
			after = append(after, c.synced)
		}
		if len(after) == 3 {
			return at, true, nil
		}
	}
}

// logs picks the write-ahead logs out of the names of a folder, the oldest first.
func logs(names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return logNumber(name) == 0 })
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(logNumber(a), logNumber(b)) })
	return names
}

// logNumber is the number of a log; 0 for the name of something else.
func logNumber(name string) uint32 {
	n, _, _ := wal.ParseLogFilename(name)
	return uint32(n)
}

// openLog opens a log to be read. The caller closes it.
func openLog(fsys vfs.FS, dir, name string) (*logFile, io.Closer, error) {
	f, err := fsys.Open(fsys.PathJoin(dir, name))
	if err != nil {
		return nil, nil, err
	}
	return &logFile{r: bufio.NewReaderSize(f, 8*logBlock), n: logNumber(name)}, f, nil
}

// checkFiles refuses a store that has lost what was durable and would not miss
// it: its logs, the name of its manifest, or what stood in the middle of a log.
func checkFiles(fsys vfs.FS, dir string, existing bool) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	manifest, marked := "", false // marker.manifest.000001.MANIFEST-000001; of two the later one
	for _, name := range slices.Sorted(slices.Values(names)) {
		if is, found := strings.CutPrefix(name, "marker.manifest."); found {
			_, manifest, marked = strings.Cut(is, ".")
		}
	}
	names = logs(names)
	switch {
	case existing && !marked:
		return &DamagedError{File: dir, Err: errors.New("marker.manifest.*, which names its files, is gone")}
	case existing && len(names) == 0:
		return &DamagedError{File: dir, Err: errors.New("*.log, which has what was committed last, is gone")}
	}
	if marked {
		if err := checkManifest(fsys, dir, manifest); err != nil {
			return err
		}
	}
	for _, name := range names {
		l, file, err := openLog(fsys, dir, name)
		if err != nil {
			return err
		}
		at, found, err := l.hole()
		err = errors.Join(err, file.Close())
		switch {
		case err != nil:
			return err
		case found:
			return &DamagedError{File: fsys.PathJoin(dir, name), Err: fmt.Errorf("what was written at byte %d and after it cannot be read, and later records can", at)}
		}
	}
	return nil
}

// checkManifest refuses a manifest that does not read well to its end: Pebble
// takes what it cannot read for the end, and the files named after it for left
// over. An edit that a power cut tore is cut short, or ends with zeros.
func checkManifest(fsys vfs.FS, dir, name string) error {
	l, file, err := openLog(fsys, dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Pebble tells
	}
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		_, ok, err := l.next()
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return err
		}
		if !ok && (!end || !torn(l.bad)) {
			return &DamagedError{File: fsys.PathJoin(dir, name), Err: errors.New("it cannot be read to its end")}
		}
		if end {
			return nil
		}
	}
}

// torn reports whether the chunk that b begins with was not written to its end.
func torn(b []byte) bool {
	return len(b) < oldHeader || oldHeader+int(binary.LittleEndian.Uint16(b[4:])) > len(b) || b[len(b)-1] == 0
}
