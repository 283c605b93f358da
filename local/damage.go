package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// DamagedError says that what a queue has on disk is not what it wrote: a bit
// has flipped, a file was cut or is gone.
type DamagedError struct {
	File string // or the folder, where it is not known which of its files
	Task string // whose records, where that is known
	Err  error
}

func (e *DamagedError) Error() string {
	msg := e.Err.Error()
	if e.File != "" {
		msg = e.File + " is damaged: " + msg
	}
	if e.Task != "" {
		msg = fmt.Sprintf("the records of task %q cannot be read: %s", e.Task, msg)
	}
	return msg
}

func (e *DamagedError) Unwrap() error { return e.Err }

// damaged gives an error of the store its type.
func (q *Queue) damaged(err error) error {
	if err == nil || errors.As(err, new(*DamagedError)) || !pebble.IsCorruptionError(err) {
		return err
	}
	d := &DamagedError{File: q.dir, Err: err}
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		d.File = info.Path
	}
	return d
}

// damagedOpen does so for what hindered a store from being opened: all that the
// system did not refuse. The view of a log was made anew: what hindered it is not
// on the disk.
func (q *Queue) damagedOpen(err error) error {
	err = q.damaged(err)
	var sys syscall.Errno
	if err == nil || q.journal != nil || errors.As(err, &sys) && sys != syscall.ENOENT || errors.As(err, new(*DamagedError)) {
		return err
	}
	return &DamagedError{File: q.dir, Err: err}
}

// ofTask says whose records an error is about.
func (q *Queue) ofTask(id string, err error) error {
	var d *DamagedError
	if err = q.damaged(err); !errors.As(err, &d) || d.Task != "" {
		return err
	}
	return &DamagedError{File: d.File, Task: id, Err: d.Err}
}

// listener is told what the store meets in its own goroutines. Callers get the
// faults that they meet as errors.
func (q *Queue) listener() *pebble.EventListener {
	return &pebble.EventListener{
		DataCorruption: func(pebble.DataCorruptionInfo) {},
		BackgroundError: func(err error) {
			if err = q.damaged(err); errors.As(err, new(*DamagedError)) {
				q.fail(err)
			}
		},
	}
}

// apart calls f in a goroutine of its own and waits for it. Where the store has
// nothing left to say (Fatalf) that goroutine ends and not the caller's, and a
// panic over what cannot be read becomes an error.
func (q *Queue) apart(f func() error) (err error) {
	done := make(chan struct{})
	err = errors.New("the store gave up")
	go func() {
		defer close(done)
		defer q.recovered(&err)
		err = f()
	}()
	<-done
	if isClosed(q.failed) {
		return q.fault
	}
	return err
}

// recovered makes a panic over what cannot be read an error: Pebble v2.1.7 panics
// where a blob file that it wants a value of cannot be opened.
func (q *Queue) recovered(err *error) {
	if x := recover(); x != nil {
		*err = &DamagedError{File: q.dir, Err: fmt.Errorf("the store cannot make sense of it: %v", x)}
	}
}

// get reads what stands under key.
func (q *Queue) get(key []byte) (v []byte, closer io.Closer, err error) {
	defer q.recovered(&err)
	if v, closer, err = q.db.Get(key); err != nil || len(v) > 0 {
		return v, closer, err
	}
	// Pebble v2.1.7 gives nothing for a value that it cannot read, and says so when
	// it is closed.
	if err = closer.Close(); err != nil {
		return nil, nil, err
	}
	return v, io.NopCloser(nil), nil
}

// value reads what it stands at.
func (q *Queue) value(it *pebble.Iterator) (v []byte, err error) {
	defer q.recovered(&err)
	return it.ValueAndErr()
}

// checkTables reads all tables of a store that is open: that a bit of them has
// flipped is told where nobody has read it yet, too.
func (q *Queue) checkTables(db *pebble.DB, o *pebble.Options) error {
	levels, err := db.SSTables()
	if err != nil {
		return err
	}
	for _, table := range slices.Concat(levels...) {
		name := q.opts.FS.PathJoin(q.dir, table.BackingSSTNum.String()+".sst")
		if err := checkTable(q.opts.FS, name, o.MakeReaderOptions()); pebble.IsCorruptionError(err) {
			return &DamagedError{File: name, Err: errors.New("what it holds does not fit its checksums")}
		} else if err != nil {
			return err
		}
	}
	return nil
}

func checkTable(fsys vfs.FS, name string, o sstable.ReaderOptions) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(context.Background(), readable, o)
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// checkBefore checks the tables of a store that is to be written to, before a
// compaction can meet what is damaged: it would panic where nobody can recover
// (Pebble v2.1.7).
func (q *Queue) checkBefore() error {
	names, err := q.opts.FS.List(q.dir)
	if err != nil || !slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, ".sst") }) {
		return err
	}
	return q.apart(func() error {
		o := q.pebbleOptions()
		o.ReadOnly, o.Lock = true, q.dirLock.lock
		db, err := pebble.Open(q.dir, o)
		if err != nil {
			return err
		}
		if err := q.checkTables(db, o); err != nil {
			_ = q.apart(db.Close) // as in Salvaged.Close
			return err
		}
		return db.Close()
	})
}

// Check reads all tables of the queue, and returns an error that says which of
// them is damaged.
func (q *Queue) Check() error { return q.checkTables(q.db, q.pebbleOptions()) }

// Names in the folder of a queue beside those of the store.
const (
	lockName    = "LOCK"     // locked by whoever has the folder open
	runningName = "RUNNING"  // locked, too, by whoever may write to it
	clearName   = "CLEARING" // Clear has begun and not ended
)

// storeName is a name that the store gives its files, or we do.
var storeName = regexp.MustCompile(`^(LOCK|RUNNING|CLEARING|CURRENT|\d{6,}(-\d{3})?\.(sst|blob|log)|(MANIFEST|OPTIONS)-\d{6,}` +
	`|marker\.[a-z-]+\.\d{6,}\.\S+|(CURRENT|temporary)\.\d{6,}\.dbtmp)$`)

// Exists reports whether dir holds a queue, or what is left of one. A folder
// that is empty does: who was to make one was killed.
func Exists(dir string) bool {
	names, err := vfs.Default.List(dir)
	for _, name := range names {
		if storeName.MatchString(name) {
			return true
		}
	}
	return err == nil && len(names) == 0
}

// DirLock is the folder of a queue that nobody else can open.
type DirLock struct {
	fs    vfs.FS
	dir   string
	locks []io.Closer
	lock  *pebble.Lock // the last of them
}

// How long whoever writes waits for those who only read, and they for a writer that is
// about to end.
const (
	lockWait   = 10 * time.Second
	readerWait = 300 * time.Millisecond
)

// LockDir locks the folder of a queue, whatever is in it. It waits a moment for a
// process that only reads, and returns ErrLocked where another one writes.
func LockDir(dir string) (*DirLock, error) { return hold(vfs.Default, dir, false, lockWait) }

func hold(fsys vfs.FS, dir string, readOnly bool, wait time.Duration) (*DirLock, error) {
	h := &DirLock{fs: fsys, dir: dir}
	for _, name := range []string{runningName, lockName} { // a lock is made anew: what a link leads to would be emptied
		if err := plainFile(fsys, fsys.PathJoin(dir, name)); err != nil {
			return nil, err
		}
	}
	if !readOnly {
		running, err := fsys.Lock(fsys.PathJoin(dir, runningName))
		if err != nil {
			return nil, lockError(err)
		}
		h.locks = append(h.locks, running)
	}
	for end := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		err := h.take(readOnly)
		if err == nil {
			return h, nil
		}
		if err = lockError(err); !errors.Is(err, ErrLocked) || time.Now().After(end) {
			return nil, errors.Join(err, h.Close())
		}
	}
}

// take locks the folder itself, which those who only read share, and LOCK, which
// they leave alone where the system can share locks.
func (h *DirLock) take(readOnly bool) error {
	fsys := h.fs
	folder, err := flock(fsys, h.dir, readOnly)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
	case err != nil:
		return err
	default:
		if readOnly {
			fsys = unlocked{fsys}
		}
	}
	if h.lock, err = pebble.LockDirectory(h.dir, fsys); err != nil {
		return errors.Join(err, folder.Close())
	}
	h.locks = append(h.locks, folder, h.lock)
	return nil
}

// flock locks a folder of this machine, as flock(2) does: many may share it, or one
// has it alone. It returns EAGAIN where others are in the way, and
// errors.ErrUnsupported, with what can be closed, where there is no such lock.
func flock(fsys vfs.FS, dir string, shared bool) (io.Closer, error) {
	if fsys != vfs.Default {
		return io.NopCloser(nil), errors.ErrUnsupported
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	err = syscall.Flock(int(d.Fd()), how|syscall.LOCK_NB)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, errors.Join(err, d.Close())
	}
	return d, err
}

func lockError(err error) error {
	if lockTaken(err) {
		return ErrLocked
	}
	return err
}

// plainFile refuses what is there and no file: a link, above all.
func plainFile(fsys vfs.FS, name string) error {
	if fsys != vfs.Default { // others have files alone
		return nil
	}
	info, err := os.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file but %v: nothing is written through it; remove it", name, info.Mode().Type())
	}
	return nil
}

// Close lets others open the queue.
func (h *DirLock) Close() (err error) {
	for i := len(h.locks) - 1; i >= 0; i-- {
		err = errors.Join(err, h.locks[i].Close())
	}
	h.locks = nil
	return err
}

// Clear deletes the files of the queue and no others: first notes durably that
// it has begun, then calls before, then deletes. Whoever finds the note
// (Clearing) has to clear again.
func (h *DirLock) Clear(before func() error) error {
	note := h.fs.PathJoin(h.dir, clearName)
	if err := plainFile(h.fs, note); err != nil {
		return err
	}
	f, err := h.fs.Create(note, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), h.syncDir()); err != nil {
		return err
	}
	if err := before(); err != nil {
		return err
	}
	names, err := h.fs.List(h.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !storeName.MatchString(name) || name == lockName || name == runningName || name == clearName {
			continue
		}
		if err := h.fs.Remove(h.fs.PathJoin(h.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := h.syncDir(); err != nil {
		return err
	}
	return errors.Join(h.fs.Remove(note), h.syncDir())
}

func (h *DirLock) syncDir() error {
	d, err := h.fs.OpenDir(h.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Clearing reports whether a Clear of dir has begun and not ended.
func Clearing(dir string) bool {
	_, err := vfs.Default.Stat(vfs.Default.PathJoin(dir, clearName))
	return err == nil
}
