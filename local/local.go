// Package local is the queue and the ledger of one machine: Pebble on disk, or
// the same code over memory. It knows nothing of what a record holds.
//
// # What is stored
//
//	v                 format version
//	m NAME            a checkpoint
//	i ID              seq, fate and row of a task: the ledger, never deleted
//	t SEQ HOP         one record of a live task's log, with the role and the
//	                  priority under which the task waits after it
//	s                 the next SEQ
//	a SEQ             attempts spent at the current hop, where there are any
//
// A hop is one Set: where a task waits is told by the newest record of its
// log, and no record is written anew. A finished task's records are deleted, most
// of them before they ever leave the memtable.
package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"matrix"
)

// Version of the stored format. An older binary refuses a newer one.
const Version = 2 // 1 had no fates but pending, done and failed

// ErrLocked is returned by Open when another process, or another Queue of this
// one, has the folder open.
var ErrLocked = errors.New("another process is using it")

// Options of Open. The zero value is a durable queue on the disk.
type Options struct {
	// Memory keeps everything in memory: nothing survives Close.
	Memory bool
	// ReadOnly opens an existing queue to look at its ledger.
	ReadOnly bool
	// Existing says that the queue was made before and has been committed to: a
	// folder that has lost its log, or a Log that is empty, is refused and not taken
	// for a new one.
	Existing bool
	// Log is where what is committed is durable, in place of the log on this disk.
	// The store is then a view of it, without a log: Open makes it anew, in dir/view
	// or in memory, and Close removes it. Such a queue cannot be opened ReadOnly.
	Log Log
	// Import is a queue with which an empty Log begins, and one in which that was not
	// ended. It is durable there when Open returns. Nobody may use it meanwhile, nor go on
	// with it afterwards.
	Import *Queue
	// LogSlack is how many bytes a Log grows, beyond twice what it has to hold,
	// before it is swept; 64 MiB where it is 0.
	LogSlack int
	// FS replaces the file system, for tests.
	FS vfs.FS
}

// Queue is a matrix.Queue and a matrix.Ledger.
type Queue struct {
	dir     string
	db      *pebble.DB
	dirLock *DirLock
	opts    Options
	commit  *committer

	journal *journal // nil where there is no Options.Log

	live     live
	handling atomic.Int64 // handlers that run
	seen     *idFilter    // of all tasks; nil where the ledger held some at Open
	nextSeq  uint64       // guarded by seedMu
	seedMu   sync.Mutex   // what it guards is committed in the order in which it was held
	coming   coming       // children of steps

	mu     sync.RWMutex
	roles  map[string]*role
	active sync.WaitGroup // calls that use the store, and messages in somebody's hands; Add under mu, not after closed

	delays delays // of messages that come back later

	closing  sync.Once
	closeErr error
	closed   chan struct{} // closed by Close
	done     chan struct{} // closed with closed or failed, whichever is first
	ending   sync.Once     // of done
	failed   chan struct{} // closed by the first failure of the store
	fault    error         // set before failed is closed
	once     sync.Once     // of the failure
}

var (
	_ matrix.Queue  = (*Queue)(nil)
	_ matrix.Ledger = (*Queue)(nil)
)

// Open opens the queue in dir, or makes it. Tasks that were in a handler's
// hands when the last process ended wait again where they were.
func Open(dir string, o Options) (*Queue, error) {
	if o.FS == nil {
		o.FS = vfs.Default
		if o.Memory {
			o.FS = vfs.NewMem()
		}
	}
	q := &Queue{dir: dir, opts: o, roles: map[string]*role{}, closed: make(chan struct{}), failed: make(chan struct{}), done: make(chan struct{})}
	q.commit = newCommitter(q)
	if o.Log != nil {
		q.journal = newJournal(q)
		q.dir = o.FS.PathJoin(dir, "view")
	}
	if err := q.open(q.dir); err != nil {
		return nil, fmt.Errorf("open queue in %s: %w", dir, err)
	}
	q.commit.start()
	return q, nil
}

func (q *Queue) open(dir string) (err error) {
	o := q.opts
	switch {
	case o.Log == nil:
	case o.ReadOnly:
		return errors.New("a queue over a log of its own has one process: it cannot be opened to be read alone")
	case o.Log.MaxGroup() < 1<<10:
		return fmt.Errorf("its log takes groups of %d bytes; want 1024 or more", o.Log.MaxGroup())
	}
	if o.Existing && o.Log == nil {
		if _, err := o.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return &DamagedError{Err: fmt.Errorf("%s is gone", dir)}
		}
	} else if !o.ReadOnly {
		if err := o.FS.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	wait := lockWait
	if q.opts.ReadOnly {
		wait = readerWait
	}
	q.dirLock, err = hold(q.opts.FS, dir, q.opts.ReadOnly, wait)
	if err != nil && q.opts.ReadOnly && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) {
		// Somebody else's run, or an archive: who may not write cannot lock.
		q.opts.FS = unlocked{q.opts.FS}
		q.dirLock, err = hold(q.opts.FS, dir, true, 0)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(q.damagedOpen(err), q.dirLock.Close())
		}
	}()
	if o.Log != nil {
		if err = q.clear(); err != nil {
			return err
		}
	}
	if err = checkFiles(q.opts.FS, dir, o.Existing && o.Log == nil); err != nil {
		return err
	}
	if !q.opts.ReadOnly && !q.opts.Memory {
		if err = q.checkBefore(); err != nil {
			return err
		}
	}
	options := q.pebbleOptions()
	options.Lock = q.dirLock.lock
	disk := newFreezer(options.FS, q.fail)
	if !q.opts.ReadOnly && !q.opts.Memory {
		options.FS = disk
	}
	err = q.apart(func() error {
		db, err := pebble.Open(dir, options)
		q.db = db
		return err
	})
	if isClosed(q.failed) { // it only seemed well: see freezer
		q.abandon()
		return q.fault
	}
	if err != nil {
		return err
	}
	disk.armed.Store(true)
	if q.journal != nil {
		if err = q.apart(q.journal.replay); err != nil {
			return errors.Join(err, q.apart(q.db.Close))
		}
	}
	if err = q.apart(q.load); err != nil {
		return errors.Join(err, q.apart(q.db.Close))
	}
	return nil
}

// volatile reports whether nothing survives Close.
func (q *Queue) volatile() bool { return q.opts.Memory && q.journal == nil }

// clear removes the store's files.
func (q *Queue) clear() error { return q.dirLock.Clear(func() error { return nil }) }

func (q *Queue) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                    q.opts.FS,
		ReadOnly:              q.opts.ReadOnly,
		DisableWAL:            q.opts.Memory || q.journal != nil,
		FormatMajorVersion:    pebble.FormatValueSeparation,
		Logger:                logger{q},
		EventListener:         q.listener(),
		MemTableSize:          64 << 20,
		LBaseMaxBytes:         256 << 20,
		L0CompactionThreshold: 4,
		MaxOpenFiles:          500,
		BytesPerSync:          1 << 20,
		WALBytesPerSync:       1 << 20,
		// A memtable that waits for its flush is cheaper than a stalled hop.
		MemTableStopWritesThreshold: 4,
	}
	// Records go to blob files at the flush and are not rewritten by later
	// compactions of their keys: what a hop adds is written about twice in all,
	// once to the log and once here.
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 256, MaxBlobReferenceDepth: 16, TargetGarbageRatio: 0.6}
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // Seed asks for ids that are not there
	}
	return o
}

// enter begins a call that may commit. The caller ends it with q.active.Done.
func (q *Queue) enter() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.over()
	if err == nil {
		q.active.Add(1)
	}
	return err
}

// Close ends every Consume and Collect, waits until what was taken is committed
// or returned, and closes the store. It must not be called by a handler.
func (q *Queue) Close() error {
	q.closing.Do(func() {
		q.mu.Lock()
		close(q.closed)
		q.mu.Unlock()
		q.end()
		q.active.Wait()
		q.delays.stop()
		q.commit.close()
		flushed := q.flush()
		if isClosed(q.failed) {
			q.abandon()
			q.closeErr = errors.Join(q.fault, q.dirLock.Close())
			return
		}
		q.closeErr = q.apart(q.db.Close)
		switch {
		case q.closeErr != nil:
		case flushed:
			q.closeErr = q.removeLogs()
		case q.journal != nil:
			q.closeErr = q.clear()
		}
		q.closeErr = errors.Join(q.closeErr, q.dirLock.Close())
	})
	return q.closeErr
}

// flush moves what the log holds into tables, where it takes the least room and
// has checksums, and reports whether it did. A store that fails on the way has
// failed.
func (q *Queue) flush() bool {
	if q.opts.ReadOnly || q.opts.Memory || q.journal != nil || isClosed(q.failed) {
		return false
	}
	var done <-chan struct{}
	if err := q.apart(func() (err error) {
		done, err = q.db.AsyncFlush()
		return err
	}); err != nil {
		q.fail(err)
		return false
	}
	select {
	case <-done:
		return !isClosed(q.failed) // it only seemed well: see freezer
	case <-q.failed:
		return false
	}
}

// removeLogs removes the logs of a closed store that was flushed, but for the
// newest one, which is empty: Pebble keeps some to write over them.
func (q *Queue) removeLogs() error {
	names, err := q.opts.FS.List(q.dir)
	if err != nil {
		return err
	}
	var newest wal.NumWAL
	for _, name := range names {
		n, _, _ := wal.ParseLogFilename(name)
		newest = max(newest, n)
	}
	for _, name := range names {
		if n, _, ok := wal.ParseLogFilename(name); ok && n < newest {
			if err := q.opts.FS.Remove(q.opts.FS.PathJoin(q.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unlocked is a file system whose locks are not taken.
type unlocked struct{ vfs.FS }

func (unlocked) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// lockTaken reports whether a folder could not be locked because somebody has it.
func lockTaken(err error) bool {
	var sys syscall.Errno
	if errors.As(err, &sys) {
		return sys == syscall.EAGAIN || sys == syscall.EACCES && !errors.As(err, new(*fs.PathError))
	}
	return !errors.As(err, new(*fs.PathError)) // held by this process: Pebble has no type for it
}

// abandon closes a store that has failed as far as it lets itself be closed.
// What it holds is safe; what it was doing may never end.
func (q *Queue) abandon() {
	if q.db == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		q.commit.loops.Wait()            // they may be inside the store
		defer func() { _ = recover() }() // it does not expect to be closed now
		_ = q.db.Close()
	}()
	select {
	case <-closed:
	case <-time.After(2 * time.Second):
		_ = q.dirLock.lock.Close() // the store's share
	}
}

// fail ends the queue for good: nothing is handed out or committed any more.
func (q *Queue) fail(err error) {
	q.once.Do(func() {
		q.fault = fmt.Errorf("queue store: %w", err)
		close(q.failed)
		q.end()
		q.commit.mu.Lock() // or a handler might be about to wait
		q.commit.room.Broadcast()
		q.commit.mu.Unlock()
	})
}

func (q *Queue) end() { q.ending.Do(func() { close(q.done) }) }

// BytesWritten counts what went to disk since Open: the log, flushes and
// compactions.
func (q *Queue) BytesWritten() int64 {
	m := q.db.Metrics()
	n := m.WAL.BytesWritten
	for i := range m.Levels {
		l := &m.Levels[i]
		n += l.TableBytesFlushed + l.TableBytesCompacted
		n += l.BlobBytesCompacted // by flushes too, in this version of Pebble
	}
	return int64(n)
}

// Keys.

func idKey(b []byte, id string) []byte           { return append(append(b, 'i'), id...) }
func checkpointKey(b []byte, name string) []byte { return append(append(b, 'm'), name...) }

const recordKeyLen = 1 + 8 + 4

func recordKey(b []byte, seq uint64, hop uint32) []byte {
	b = append(b, 't')
	b = binary.BigEndian.AppendUint64(b, seq)
	return binary.BigEndian.AppendUint32(b, hop)
}

func attemptKey(b []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 'a'), seq)
}
