package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// ErrEnded is the error of a Journal that has ended.
var ErrEnded = errors.New("the journal has ended: no row may be added to it")

// Journal is a file of JSON Lines that a program adds rows to, while a run that
// follows it works on them: see Follow. One process has it open. Its methods may be
// called by several goroutines at a time.
type Journal struct {
	path string

	mu   sync.Mutex
	f    *os.File
	size int64 // bytes of whole rows
	rows int64
	err  error // why nothing more can be added
}

// OpenJournal opens the journal at a path, or makes it. A file that Follow would not
// take is refused. A row that a kill has left half written at its end is removed: what
// begins with { and has no line end. Anything else without a line end is refused. The error is
// ErrEnded where the journal has ended.
func OpenJournal(path string) (_ *Journal, err error) {
	j := &Journal{path: path}
	f := file{path: path, grows: true}
	if err = f.check(); errors.Is(err, fs.ErrNotExist) {
		err = f.named()
	}
	if err == nil {
		err = f.canGrow()
	}
	if err != nil {
		return nil, err
	}
	if j.f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o666); err != nil {
		return nil, openError(err)
	}
	if err = syscall.Flock(int(j.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%s is open elsewhere: a journal is written by one process", path)
	} else if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	if err == nil {
		var ended bool
		if ended, err = f.ended(); ended { // not before: who had it open may have ended it
			err = fmt.Errorf("%s: %w; without %s it goes on, and so does a run that follows it, which must accept the change where it has finished", path, ErrEnded, path+EndSuffix)
		} else if err == nil {
			err = j.restore(&f)
		}
	}
	if err != nil {
		return nil, errors.Join(err, j.f.Close())
	}
	return j, nil
}

// restore finds out what there is. A last line without its end is a row where it is
// a whole one; else it was not accepted.
func (j *Journal) restore(f *file) error {
	end, _, err := f.whole()
	if err != nil {
		return err
	}
	info, err := j.f.Stat()
	if err != nil {
		return openError(err)
	}
	size := info.Size() - end
	tail := make([]byte, min(size, maxRecord+1))
	if _, err := j.f.ReadAt(tail, end); err != nil && len(tail) > 0 {
		return openError(err)
	}
	row := bytes.Trim(tail, " \t\r")
	switch {
	case len(bytes.Trim(row, "\x00")) == 0: // zeros are what a power cut may leave
		err = j.f.Truncate(end)
	case row[0] != '{' || size > maxRecord:
		return fmt.Errorf("%s: its last line has no line end, and is not a row of a journal that was left half written, which would be taken out: put a line end behind it if it is to stay, or take it out", j.path)
	case json.Valid(row):
		_, err = j.f.Write([]byte{'\n'})
		end += size + 1
	default:
		err = j.f.Truncate(end)
	}
	if err == nil {
		err = errors.Join(j.f.Sync(), OS{}.SyncDir(filepath.Dir(j.path)))
	}
	if err != nil {
		return openError(err)
	}
	r := jsonReader{lines: newLines(io.NewSectionReader(j.f, 0, end))}
	for j.size = end; ; j.rows++ {
		if err := r.pass(); err == io.EOF {
			return nil
		} else if err != nil {
			return openError(err)
		}
	}
}

// Append adds rows, each a JSON object or what encodes to one. Where it returns nil
// all of them are durable: no kill and no power cut loses them. An error of a row that
// is none adds nothing; after another one, such as a full disk, Rows says how many
// of them are there, and somebody may have read these.
func (j *Journal) Append(rows ...any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i, row := range rows {
		from := b.Len()
		if err := enc.Encode(row); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
		if line := b.Bytes()[from:]; line[0] != '{' {
			return fmt.Errorf("row %d: a row must be a JSON object, and this is %s", i, kindOf(line))
		} else if len(line) > maxRecord {
			return fmt.Errorf("row %d is longer than %d MiB", i, maxRecord>>20)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	n, err := j.f.Write(b.Bytes())
	whole := b.Bytes()[:n]
	whole = whole[:bytes.LastIndexByte(whole, '\n')+1]
	j.size += int64(len(whole))
	j.rows += int64(bytes.Count(whole, []byte{'\n'}))
	fault := j.f.Sync()
	if n > len(whole) {
		fault = errors.Join(fault, j.f.Truncate(j.size))
	}
	if fault != nil {
		j.err = fmt.Errorf("%s: what it holds on the disk is not known any more: open it again: %w", j.path, fault)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	return j.err
}

// Rows is how many rows there are. A program that was killed goes on behind them.
func (j *Journal) Rows() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rows
}

// End says that no row will be added, and closes the journal: a run that follows it
// comes to its end.
func (j *Journal) End() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	f, err := os.Create(j.path + EndSuffix)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err == nil {
		err = OS{}.SyncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return openError(err)
	}
	j.err = fmt.Errorf("%s: %w", j.path, ErrEnded)
	return j.f.Close()
}

// Close closes the journal; it may be opened again, unless it has ended.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.err, os.ErrClosed) || errors.Is(j.err, ErrEnded) {
		return nil
	}
	j.err = fmt.Errorf("%s: %w", j.path, os.ErrClosed)
	return j.f.Close()
}
