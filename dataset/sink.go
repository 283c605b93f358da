package dataset

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"matrix"
)

// SinkOptions say how finished tasks are written.
type SinkOptions struct {
	Compress    string   // "none" (as ""), "gzip" or "zstd"
	RowsPerPart int      // rows after which a new part begins; 0 for 100,000
	Formats     *Formats // nil: calls keep their formats in each line
	Lazy        bool     // the folder is made with the first row; with an epoch when it is opened
	Detail      Detail   // what of a task is written
	Shard       Shard    // of the folder
	Epoch       uint64   // larger than that of whoever wrote the output before and may still live; 0: nobody can
}

// Detail is how much of a task an output holds.
type Detail string

// The details, from all to nothing.
const (
	Full   Detail = ""       // the whole task
	Turns  Detail = "turns"  // all but its item
	Reason Detail = "reason" // which task it is and how it ended: without item, turns and metrics
	None   Detail = "none"   // nothing: its Place has Part -1
)

// of is what is written of a task.
func (d Detail) of(t *matrix.Task) *matrix.Task {
	if d == Full {
		return t
	}
	x := *t
	x.Item = matrix.Value{}
	if d == Reason {
		x.Turns, x.Metrics = nil, nil
	}
	return &x
}

const defaultRowsPerPart = 100_000

// checkpoint says how far an output goes: all parts before Part, and of Part the
// first Bytes bytes, which are Lines lines. It begins at line Line of part First:
// what stood before has been gone through again (see Sink.Revise), and the parts
// before Old are still to be.
type checkpoint struct {
	Part  int   `json:"part"`
	Bytes int64 `json:"bytes"`
	Lines int   `json:"lines"`
	First int   `json:"first,omitempty"`
	Line  int   `json:"line,omitempty"`
	Old   int   `json:"old,omitempty"`

	Epoch uint64 `json:"epoch,omitempty"` // of the sink; parts that are not over are in its folder
}

// next is the checkpoint where the next part begins.
func (m checkpoint) next() checkpoint {
	return checkpoint{Part: m.Part + 1, First: m.First, Line: m.Line, Old: m.Old, Epoch: m.Epoch}
}

// Sink writes tasks, a line of JSON each, to part-00000.jsonl and so on in a
// folder. Each batch is synced to disk before Write returns; of a compressed
// part each batch is a whole frame (zstd) or member (gzip), so that what a
// checkpoint cuts off leaves a file that reads well.
//
// After a Write that failed the Sink takes nothing more: what the disk then
// holds is known again when it is opened with the last checkpoint.
type Sink struct {
	fs     FS
	dir    string
	home   string // where parts are written: dir, or the folder of the epoch
	perN   int
	part   part       // being written
	at     checkpoint // where it ends
	file   File       // nil before the first row of a part
	failed error

	epoch   uint64
	full    []part // that are to move from home to dir
	written bool   // since the last Committed
	alone   bool   // nothing is left of older epochs

	looked time.Time                 // when the part was last seen to be there
	rows   func() (row, error, bool) // of a part that is gone through again; nil while none is
	stop   func()                    // ends rows
	hidden int                       // First+1 as hide saw it last

	formats *Formats
	lazy    bool
	detail  Detail
	buf     []byte
	gzip    *gzip.Writer
	zstd    *zstd.Encoder
}

var _ matrix.Sealer = (*Sink)(nil)

// OpenSink opens an output folder, makes it where it is missing, and cuts what
// it holds back to checkpoint: what a Write returned last as far as the caller knows.
// Without a checkpoint it starts afresh and removes all parts; files that are not
// parts it never touches. A part that holds less than checkpoint says is an error,
// and nothing is removed then. With an epoch it removes nothing at all: then there may not
// be parts that checkpoint does not know of.
func OpenSink(fsys FS, dir string, o SinkOptions, checkpointJSON []byte) (*Sink, error) {
	s := &Sink{fs: fsys, dir: dir, home: openDir(dir, o.Epoch), epoch: o.Epoch, perN: cmp.Or(o.RowsPerPart, defaultRowsPerPart), formats: o.Formats, lazy: o.Lazy, detail: o.Detail, part: part{shard: o.Shard}}
	if s.perN < 0 {
		return nil, fmt.Errorf("output: rows_per_part is %d: it must be positive", o.RowsPerPart)
	}
	switch o.Compress {
	case "", "none":
	case "gzip":
		s.part.compress = gzipped
	case "zstd":
		s.part.compress = zstded
	default:
		return nil, fmt.Errorf("output: compress is %q: it must be none, gzip or zstd", o.Compress)
	}
	var err error
	if s.at, err = parseCheckpoint(dir, checkpointJSON); err != nil {
		return nil, err
	}
	switch o.Detail {
	case Full, Turns, Reason, None:
	default:
		return nil, fmt.Errorf("output: detail is %q: it must be empty, turns, reason or none", o.Detail)
	}
	if !o.Lazy {
		if err := s.makeFolder(); err != nil {
			return nil, err
		}
	}
	switch {
	case s.epoch > 0:
		err = s.takeOver()
	case s.at.Epoch > 0:
		err = fmt.Errorf("output %s: it was written by one process after another, of which the last has not sealed it", dir)
	default:
		err = s.cutBack(len(checkpointJSON) == 0)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Sink) makeFolder() error {
	if err := s.fs.Mkdir(s.home); err != nil {
		return s.explain("make the folder", "", err)
	}
	return nil
}

// parseCheckpoint reads the checkpoint of a folder; none is the beginning. It is strict: a checkpoint
// that is read wrong would cut off what is good.
func parseCheckpoint(dir string, text []byte) (m checkpoint, err error) {
	if len(text) == 0 {
		return m, nil
	}
	err = json.Unmarshal(text, &m)
	again, _ := json.Marshal(m) // of numbers
	if err != nil || min(int64(m.Part), m.Bytes, int64(m.Lines), int64(m.First), int64(m.Line), int64(m.Old)) < 0 || !bytes.Equal(again, text) {
		return checkpoint{}, fmt.Errorf("output %s: the checkpoint %.100q is not one of this version's", dir, text)
	}
	return m, nil
}

// cutBack makes the folder hold what s.at says and no more.
func (s *Sink) cutBack(afresh bool) error {
	names, err := s.fs.List(s.dir)
	if missing := errors.Is(err, fs.ErrNotExist); err != nil && !(missing && s.lazy) {
		return s.explain("list the folder", "", err)
	} else if missing && s.at == (checkpoint{}) {
		return nil
	}
	var remove []part
	current, begun := part{n: s.at.Part, compress: s.part.compress, shard: s.part.shard}, false
	next := s.at.First
	for _, p := range partsOf(names, s.part.shard) {
		last := p.n == s.at.Part && s.at.Bytes > 0
		switch {
		case afresh || p.n < s.at.First || p.n > s.at.Part || p.n == s.at.Part && !last:
			remove = append(remove, p)
			continue
		case p.n != next:
			return changed(s.dir, p.number(), s.part.shard.number(next))
		case last:
			current, begun = p, true
		}
		next++
	}
	if !afresh && (next < s.at.Part || s.at.Bytes > 0 && !begun) {
		return changed(s.dir, s.part.shard.number(next), s.part.shard.number(next))
	}
	if begun {
		if err := s.cut(placed{current, s.dir}); err != nil {
			return err
		}
	}
	for i := len(remove) - 1; i >= 0; i-- {
		if err := s.fs.Remove(filepath.Join(s.dir, remove[i].name())); err != nil {
			return s.explain("remove", remove[i].name(), err)
		}
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return s.explain("sync the folder", "", err)
	}
	if begun && current.compress != s.part.compress { // another setting than before: go on in a new part
		s.file.Close()
		s.file, s.at = nil, s.at.next()
	}
	s.part.n = s.at.Part
	return nil
}

// cut opens part p and cuts it back to the checkpoint.
func (s *Sink) cut(p placed) error {
	f, err := s.fs.Append(p.path())
	if err != nil {
		return s.explain("open", p.name(), err)
	}
	size, err := f.Size()
	switch {
	case err != nil:
		err = s.explain("look at", p.name(), err)
	case size < s.at.Bytes:
		err = shortenedPart(s.dir, p.name(), size, s.at.Bytes)
	case size > s.at.Bytes:
		if err = f.Truncate(s.at.Bytes); err == nil {
			err = f.Sync()
		}
		if err != nil {
			err = s.explain("cut", p.name(), err)
		}
	}
	if err != nil {
		f.Close()
		return err
	}
	s.file = f
	return nil
}

// Write implements matrix.Sink.
func (s *Sink) Write(ctx context.Context, tasks []*matrix.Task) ([]matrix.Place, []byte, error) {
	if s.failed != nil {
		return nil, nil, fmt.Errorf("output %s: nothing is written after an earlier error: %w", s.dir, s.failed)
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	places := make([]matrix.Place, 0, len(tasks))
	s.written = true
	if s.detail == None {
		for range tasks {
			places = append(places, matrix.Place{Part: -1})
		}
		tasks = nil
	}
	for len(tasks) > 0 {
		if s.at.Lines >= s.perN { // of a sink that had more rows in a part
			if err := s.roll(); err != nil {
				return nil, nil, s.fail(err)
			}
		}
		n := min(len(tasks), s.perN-s.at.Lines)
		first := s.at.Lines
		if err := s.append(tasks[:n]); err != nil {
			return nil, nil, s.fail(err)
		}
		for i := range n {
			places = append(places, matrix.Place{Part: s.part.shard.number(s.at.Part), Line: first + i})
		}
		tasks = tasks[n:]
		if s.epoch > 0 && s.at.Lines >= s.perN { // so that the checkpoint says that it is over
			if err := s.roll(); err != nil {
				return nil, nil, s.fail(err)
			}
		}
	}
	m, err := json.Marshal(s.at)
	if err != nil {
		return nil, nil, s.fail(err)
	}
	return places, m, nil
}

func (s *Sink) fail(err error) error {
	s.failed = err
	return err
}

// roll ends the part; the next begins with its first row.
func (s *Sink) roll() error {
	if s.file != nil {
		if err := s.checkInPlace(); err != nil {
			return err
		}
		if err := s.file.Close(); err != nil {
			s.file = nil
			return s.explain("close", s.part.name(), err)
		}
		if s.epoch > 0 {
			s.full = append(s.full, s.part)
		}
	}
	s.file, s.at = nil, s.at.next()
	s.part.n = s.at.Part
	return nil
}

// keptBytes is how large a buffer the Sink keeps from batch to batch, and
// flushBytes how much it gathers before it writes.
const (
	flushBytes = 1 << 20
	keptBytes  = 4 << 20
)

// append writes tasks to the part and syncs them.
func (s *Sink) append(tasks []*matrix.Task) error {
	made := s.file == nil
	if made && s.lazy {
		if err := s.makeFolder(); err != nil {
			return err
		}
		s.lazy = s.epoch == 0 // who takes over removes the folder of an epoch for good
	}
	if made {
		f, err := s.fs.Create(filepath.Join(s.home, s.part.name()))
		if err != nil {
			return s.explain("create", s.part.name(), err)
		}
		s.file = f
	}
	out := &counting{w: s.file}
	if err := s.encode(out, tasks); err != nil {
		return s.explain("write", s.part.name(), err)
	}
	if err := s.file.Sync(); err != nil {
		return s.explain("sync", s.part.name(), err)
	}
	if made {
		if err := s.fs.SyncDir(s.home); err != nil {
			return s.explain("sync the folder", "", err)
		}
	}
	s.at.Bytes += out.n
	s.at.Lines += len(tasks)
	if time.Since(s.looked) >= lookEvery {
		s.looked = time.Now()
		return s.checkInPlace()
	}
	return nil
}

// lookEvery is how often the Sink looks whether what it writes to is still there.
const lookEvery = 100 * time.Millisecond

// checkInPlace refuses a part that somebody has removed or replaced while it was written:
// the system lets a file without a name be written to.
func (s *Sink) checkInPlace() error {
	if s.file == nil {
		return nil
	}
	ok, err := s.fs.Holds(filepath.Join(s.home, s.part.name()), s.file)
	switch {
	case err != nil:
		return s.explain("look at", s.part.name(), err)
	case !ok && s.isOver():
		return fmt.Errorf("output %s: %w", s.dir, ErrTakenOver)
	case !ok:
		return fmt.Errorf("output %s: %w: %s was removed or replaced while the run wrote to it", s.dir, ErrChanged, s.part.name())
	}
	return nil
}

// whole refuses an output that has lost a part.
func (s *Sink) whole() error {
	if err := s.checkInPlace(); err != nil || s.at.Part == s.at.First && s.at.Bytes == 0 {
		return err
	}
	all, err := listParts(s.fs, s.dir, s.part.shard, s.epoch)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.explain("list the folder", "", err)
	}
	there := map[int]bool{}
	for _, p := range all {
		there[p.n] = true
	}
	for n := s.at.First; n < s.at.Part || n == s.at.Part && s.at.Bytes > 0; n++ {
		if !there[n] && s.isOver() {
			return fmt.Errorf("output %s: %w", s.dir, ErrTakenOver)
		} else if !there[n] {
			return changed(s.dir, s.part.shard.number(n), s.part.shard.number(n))
		}
	}
	return nil
}

// encode writes tasks to out, as one frame where they are compressed.
func (s *Sink) encode(out io.Writer, tasks []*matrix.Task) error {
	w, end, err := s.compressor(out)
	if err != nil {
		return err
	}
	b := s.buf[:0]
	for _, t := range tasks {
		t = s.detail.of(t)
		if s.formats != nil {
			if t, err = s.formats.shorten(t); err != nil {
				return err
			}
		}
		b = append(AppendTask(b, t), '\n')
		if len(b) >= flushBytes {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if len(b) > 0 {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	if cap(b) <= keptBytes {
		s.buf = b
	}
	return end()
}

// compressor returns what compresses to out, and what ends the frame.
func (s *Sink) compressor(out io.Writer) (io.Writer, func() error, error) {
	switch s.part.compress {
	case gzipped:
		if s.gzip == nil {
			s.gzip = gzip.NewWriter(out)
		} else {
			s.gzip.Reset(out)
		}
		return s.gzip, s.gzip.Close, nil
	case zstded:
		if s.zstd == nil {
			z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
			if err != nil {
				return nil, nil, err
			}
			s.zstd = z
		} else {
			s.zstd.Reset(out)
		}
		return s.zstd, s.zstd.Close, nil
	}
	return out, func() error { return nil }, nil
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// explain says what failed, and what to do where that is known.
func (s *Sink) explain(what, name string, err error) error {
	if s.epoch > 0 && errors.Is(err, fs.ErrNotExist) { // who took over has removed it
		return fmt.Errorf("output %s: %w", s.dir, ErrTakenOver)
	}
	where := s.dir
	if name != "" {
		where = filepath.Join(s.home, name)
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err // the path is named already
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "; free some space and run again, nothing is lost"
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		hint = "; make the folder writable, or choose another"
	}
	return fmt.Errorf("output: cannot %s %s: %w%s", what, where, err, hint)
}

// Close releases the Sink, and makes sure that all parts are still there. What
// Write returned is durable without it.
func (s *Sink) Close() (err error) {
	if s.failed == nil {
		err = s.whole()
		s.failed = errors.New("the output is closed")
	}
	if s.rows != nil {
		s.stop()
		s.rows = nil
	}
	if s.file == nil {
		return err
	}
	f := s.file
	s.file = nil
	if fault := f.Close(); fault != nil {
		err = errors.Join(err, s.explain("close", s.part.name(), fault))
	}
	return err
}
