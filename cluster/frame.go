package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"matrix"
)

// Version is that of the protocol between owners and workers. Who speaks another one is
// refused with a *VersionError.
//
// # Frames
//
// A frame is a header and items. Numbers are varints (those that may be negative in
// zigzag), text and bytes have their length before them.
//
//	to x.SHARD    version  worker  incarnation | seq  epoch  seen | items
//	to d.WORKER   version  shard   epoch  incarnation | seq | items
//
// What stands before the first bar is the same in every version, so that each side can
// tell of the other that it is another one. An incarnation is one life of a worker, an
// epoch one of an owner; later ones are greater. seq numbers the frames from one
// side to the other, from 1; seen is the greatest seq that came from the owner of that
// epoch. A frame to all workers has incarnation and seq 0.
//
//	worker to owner                                     owner to worker
//	1 hello: places, held (REF returned)                1 task: REF, message, records from one on
//	2 places: role slots extra                          2 ack: REF
//	3 step: REF, role record children ..                3 stale: REF
//	4 failure: REF attempt, error                       4 records: REF, records from one on
//	5 beat: count and hash of what is held              5 who: say hello
//	6 fetch: REF from                                   6 alive: stopping, roles that more waits for
//	7 leave                                             7 settled: tasks that have ended
//	15 piece of an item that is larger than a frame: id index count bytes
//
// A REF is task hop base serial: base is the checksum of the newest record, upon which
// the hop is.
//
// # Losses
//
// Every frame may be lost, doubled or late. A worker takes each frame of an owner
// once, by its seq. What it did is sent until it is acknowledged, or stale; all else is
// either said again with each beat, or found out by it: where count and hash of
// what a worker holds are not what its owner thinks, it is asked for a hello. Places are
// totals, no increments. A serial is one delivery in an epoch; it is 0 for what was
// delivered in another one. That a task has ended is said once, to all workers that are
// there, and may be lost: what somebody keeps for it must end by itself, too.
const Version = 2

// VersionError says that a worker and the owner of a shard speak different versions of
// the protocol: one of the two programs is to be replaced.
type VersionError struct{ Owner, Worker int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the run's head speaks version %d of the workers' protocol and this worker version %d: both must be the same version of the program", e.Owner, e.Worker)
}

const (
	maxFrame = 512 << 10
	minFrame = 4 << 10
	maxItem  = 1 << 30 // bytes
	maxText  = 1 << 10 // of an error
	pieceTop = 32      // bytes of a piece beside its content, at most
)

// frameSize is how large frames over net are.
func frameSize(net Net) (int, error) {
	n := min(maxFrame, net.MaxFrame()/2)
	if n < minFrame {
		return 0, fmt.Errorf("a network whose frames have %d bytes is of no use to a cluster; want %d or more", net.MaxFrame(), 2*minFrame)
	}
	return n, nil
}

// Kinds of items.
const (
	kindHello = iota + 1
	kindPlaces
	kindStep
	kindFailure
	kindBeat
	kindFetch
	kindLeave

	kindPiece = 15
)

const (
	kindTask = iota + 1
	kindAck
	kindStale
	kindRecords
	kindWho
	kindAlive
	kindSettled
)

// ref names what was delivered.
type ref struct {
	task   string
	hop    int
	base   uint32 // the checksum of the record that it waits with: it may come to a hop again with another, where it is tried again
	serial uint64
}

// hold is a task that a worker has.
type hold struct {
	ref
	returned bool // it is on its way back, with an error or without
}

// mark is a hash of a task at a hop, which both sides take.
func mark(task string, hop int) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(task) {
		h = (h ^ uint64(task[i])) * 1099511628211
	}
	h += uint64(hop+1) * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// places are how many tasks of a role a worker takes.
type places struct {
	role  string
	slots int // at once
	extra int // and so many more that wait for a slot there
}

// result is what a handler did.
type result struct {
	ref
	failed  bool
	step    matrix.Step
	attempt int   // of what failed
	err     error // of what failed; nil gives it back
}

// fetch asks for records from one on.
type fetch struct {
	ref
	from int
}

type piece struct {
	id           uint64
	index, count int
	content      []byte
}

// workerFrame is a frame of a worker.
type workerFrame struct {
	version          int
	worker           string
	incarnation      uint64
	seq, epoch, seen uint64

	hello   bool
	holds   []hold
	placed  bool
	places  []places
	beat    bool
	count   int
	hash    uint64
	leave   bool
	results []result
	fetches []fetch
	pieces  []piece
}

type delivery struct {
	serial  uint64
	m       matrix.Message // without Log
	from    int
	records [][]byte
}

// fetched is an answer to a fetch.
type fetched struct {
	fetch
	records [][]byte
}

// ownerFrame is a frame of an owner.
type ownerFrame struct {
	version     int
	shard       int
	epoch       uint64
	incarnation uint64
	seq         uint64

	tasks    []delivery
	acks     []ref
	stales   []ref
	fetched  []fetched
	who      bool
	alive    bool
	stopping bool
	waiting  []string
	settled  []string // tasks
	pieces   []piece
}

// Writing.

func putUint(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

func putInt(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)) }

func putText[T string | []byte](b []byte, x T) []byte { return append(putInt(b, len(x)), x...) }

func putBool(b []byte, x bool) []byte {
	if x {
		return append(b, 1)
	}
	return append(b, 0)
}

func putRef(b []byte, r ref) []byte {
	return putUint(putUint(putInt(putText(b, r.task), r.hop), uint64(r.base)), r.serial)
}

func (f *workerFrame) header(b []byte) []byte {
	b = putInt(b, f.version)
	b = putText(b, f.worker)
	b = putUint(b, f.incarnation)
	b = putUint(b, f.seq)
	b = putUint(b, f.epoch)
	return putUint(b, f.seen)
}

func (f *ownerFrame) header(b []byte) []byte {
	b = putInt(b, f.version)
	b = putInt(b, f.shard)
	b = putUint(b, f.epoch)
	b = putUint(b, f.incarnation)
	return putUint(b, f.seq)
}

func putPlaceList(b []byte, list []places) []byte {
	b = putInt(b, len(list))
	for _, p := range list {
		b = putInt(putInt(putText(b, p.role), p.slots), p.extra)
	}
	return b
}

func putPlaces(b []byte, list []places) []byte {
	return putPlaceList(append(b, kindPlaces), list)
}

func putHello(b []byte, list []places, holds []hold) []byte {
	b = putPlaceList(append(b, kindHello), list)
	b = putInt(b, len(holds))
	for _, h := range holds {
		b = putBool(putRef(b, h.ref), h.returned)
	}
	return b
}

func putStep(b []byte, r ref, s *matrix.Step) []byte {
	b = putRef(append(b, kindStep), r)
	b = putText(b, s.Role)
	b = binary.AppendVarint(b, int64(s.Priority))
	b = putUint(b, uint64(s.Sum))
	b = putText(b, s.Record)
	b = putInt(b, len(s.Children))
	for i := range s.Children {
		c := &s.Children[i]
		b = putText(b, c.Task)
		b = binary.AppendVarint(b, c.Row)
		b = putText(b, c.Role)
		b = binary.AppendVarint(b, int64(c.Priority))
		b = putUint(b, uint64(c.Sum))
		b = putText(b, c.Record)
	}
	return b
}

// Errors, by what becomes of the task: see errors.go of the root.
const (
	fateBack  = iota // as it was, at once
	fateRetry        // later
	fateFree         // later, and no attempt is spent
	fateStop         // as it was, at once: the worker stops
	fateOther
	fates
)

func putFailure(b []byte, r ref, attempt int, err error) []byte {
	fate, after, text := byte(fateBack), time.Duration(0), ""
	var retry *matrix.RetryError
	switch {
	case err == nil:
	case errors.As(err, new(*matrix.StopError)):
		fate = fateStop
	case errors.As(err, &retry):
		fate, after = fateRetry, max(0, retry.After)
		if retry.Free {
			fate = fateFree
		}
	default:
		fate = fateOther
	}
	if err != nil {
		text = err.Error()
		text = strings.ToValidUTF8(text[:min(len(text), maxText)], "?")
	}
	b = putRef(append(b, kindFailure), r)
	b = append(putInt(b, attempt), fate)
	return putText(putUint(b, uint64(after)), text)
}

func putBeat(b []byte, count int, hash uint64) []byte {
	return putUint(putInt(append(b, kindBeat), count), hash)
}

func putFetch(b []byte, f fetch) []byte { return putInt(putRef(append(b, kindFetch), f.ref), f.from) }

func putRecords(b []byte, from int, records [][]byte) []byte {
	b = putInt(putInt(b, from), len(records))
	for _, r := range records {
		b = putText(b, r)
	}
	return b
}

func putTask(b []byte, serial uint64, m *matrix.Message, from int, records [][]byte) []byte {
	b = putRef(append(b, kindTask), ref{m.Task, m.Hop, m.Sum, serial})
	b = putText(b, m.Role)
	b = binary.AppendVarint(b, int64(m.Priority))
	b = putInt(b, m.Attempt)
	b = putUint(b, uint64(m.Queued))
	b = putUint(b, uint64(m.Delayed))
	return putRecords(b, from, records)
}

func putFetched(b []byte, f fetch, records [][]byte) []byte {
	return putRecords(putRef(append(b, kindRecords), f.ref), f.from, records)
}

func putAlive(b []byte, stopping bool, waiting []string) []byte {
	b = putBool(append(b, kindAlive), stopping)
	b = putInt(b, len(waiting))
	for _, role := range waiting {
		b = putText(b, role)
	}
	return b
}

func putSettled(b []byte, tasks []string) []byte {
	b = putInt(append(b, kindSettled), len(tasks))
	for _, task := range tasks {
		b = putText(b, task)
	}
	return b
}

// framer writes items for one address, as many in a frame as it has room for, and
// larger ones in pieces.
type framer struct {
	size  int                   // of a frame, at most
	begin func(b []byte) []byte // appends the next frame's header
	send  func(frame []byte)    // sends a frame, which is not kept

	id    uint64 // names the next item, should it be sent in pieces
	b     []byte // the frame
	head  int    // bytes of its header
	spare []byte
}

// start begins the first frame. An item is appended to b, and then ended.
func (f *framer) start() {
	f.b = f.begin(f.b[:0])
	f.head = len(f.b)
}

// end ends an item that begins at start.
func (f *framer) end(start int) {
	if len(f.b) <= f.size {
		return
	}
	item := append(f.spare[:0], f.b[start:]...)
	f.b = f.b[:start]
	f.flush()
	if f.head+len(item) <= f.size {
		f.b = append(f.b, item...)
		f.spare = item
		return
	}
	each := f.size - f.head - pieceTop
	count := (len(item) + each - 1) / each
	for i := range count {
		b := putUint(append(f.b, kindPiece), f.id)
		b = putInt(putInt(b, i), count)
		f.b = putText(b, item[i*each:min(len(item), (i+1)*each)])
		f.flush()
	}
	if f.spare = item; cap(item) > 2*maxFrame {
		f.spare, f.b = nil, append([]byte(nil), f.b...)
	}
}

// flush sends the frame, if anything is in it, and begins the next one.
func (f *framer) flush() {
	if len(f.b) > f.head {
		f.finish()
		f.start()
	}
}

// finish sends the frame.
func (f *framer) finish() { f.send(f.b) }

// Reading.

var errFrame = errors.New("a frame is damaged")

// reader reads a frame. Its first error stays.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() {
	r.bad, r.b = true, nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) bool() bool {
	c := r.byte()
	if c > 1 {
		r.fail()
	}
	return c == 1
}

func (r *reader) uint() uint64 {
	n, k := binary.Uvarint(r.b)
	if k <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *reader) int() int {
	n := r.uint()
	if n > math.MaxInt32 {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) signed() int64 {
	n, k := binary.Varint(r.b)
	if k <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *reader) priority() int {
	n := r.signed()
	if n < math.MinInt16 || n > math.MaxInt16 {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) sum() uint32 {
	n := r.uint()
	if n > math.MaxUint32 {
		r.fail()
		return 0
	}
	return uint32(n)
}

func (r *reader) duration() time.Duration {
	n := r.uint()
	if n > math.MaxInt64 {
		r.fail()
		return 0
	}
	return time.Duration(n)
}

func (r *reader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	x := r.b[:n:n]
	r.b = r.b[n:]
	return x
}

// text reads text of 1 to most bytes.
func (r *reader) text(most int) string {
	x := r.bytes()
	if len(x) == 0 || len(x) > most {
		r.fail()
		return ""
	}
	return string(x)
}

// count reads how many things follow, each of which has at least so many bytes.
func (r *reader) count(least int) int {
	n := r.uint()
	if n > uint64(len(r.b)/least) {
		r.fail()
		return 0
	}
	return int(n)
}

const maxID = 1 << 16 // bytes of a task's id

func (r *reader) ref() ref { return ref{r.text(maxID), r.int(), r.sum(), r.uint()} }

func (r *reader) role() string { return r.text(255) }

func (r *reader) places() []places {
	n := r.count(4)
	list := make([]places, 0, n)
	for range n {
		list = append(list, places{r.role(), r.int(), r.int()})
	}
	return list
}

func (r *reader) step() matrix.Step {
	s := matrix.Step{Role: r.role(), Priority: r.priority(), Sum: r.sum(), Record: r.bytes()}
	if n := r.count(6); n > 0 {
		s.Children = make([]matrix.Seed, n)
		for i := range s.Children {
			s.Children[i] = matrix.Seed{Task: r.text(maxID), Row: r.signed(), Role: r.role(), Priority: r.priority(), Sum: r.sum(), Record: r.bytes()}
		}
	}
	return s
}

func (r *reader) failure() (attempt int, err error) {
	attempt = r.int()
	fate, after, text := r.byte(), r.duration(), string(r.bytes())
	if fate >= fates || len(text) > maxText || !utf8.ValidString(text) {
		r.fail()
	}
	switch fate {
	case fateRetry, fateFree:
		err = &matrix.RetryError{Err: errors.New(text), After: after, Free: fate == fateFree}
	case fateStop:
		err = &matrix.StopError{Err: errors.New(text)}
	case fateOther:
		err = errors.New(text)
	}
	return attempt, err
}

func (r *reader) records() (from int, records [][]byte) {
	from = r.int()
	n := r.count(1)
	records = make([][]byte, n)
	for i := range records {
		records[i] = r.bytes()
	}
	return from, records
}

func (r *reader) piece() piece {
	p := piece{r.uint(), r.int(), r.int(), r.bytes()}
	if p.index >= p.count || len(p.content) == 0 {
		r.fail()
	}
	return p
}

func (r *reader) err() error {
	if r.bad {
		return errFrame
	}
	return nil
}

// readWorker reads a frame of a worker. Of another version it reads what tells so. What it
// returns lies in the frame's memory.
func readWorker(b []byte) (*workerFrame, error) {
	r := &reader{b: b}
	f := &workerFrame{version: r.int(), worker: r.text(maxWorker), incarnation: r.uint()}
	if !r.bad && !validWorker(f.worker) {
		r.fail()
	}
	if r.bad || f.version != Version {
		return f, r.err()
	}
	f.seq, f.epoch, f.seen = r.uint(), r.uint(), r.uint()
	f.items(r)
	return f, r.err()
}

// isBeat reports whether a worker's frame is a sign of life, with the places that it
// has, and nothing more.
func isBeat(b []byte) bool {
	r := &reader{b: b}
	r.int()
	r.text(maxWorker)
	for range 4 { // incarnation, seq, epoch, seen
		r.uint()
	}
	kind := r.kind()
	if kind == kindPlaces {
		r.places()
		kind = r.kind()
	}
	if kind != kindBeat {
		return false
	}
	r.int()
	r.uint()
	return !r.bad && len(r.b) == 0
}

// kind is that of the next item; 0 where there is none.
func (r *reader) kind() byte {
	if len(r.b) == 0 {
		return 0
	}
	return r.byte()
}

func (f *workerFrame) items(r *reader) {
	for len(r.b) > 0 {
		switch r.byte() {
		case kindHello:
			f.hello, f.placed = true, true
			f.places = r.places()
			n := r.count(6)
			f.holds = make([]hold, 0, n)
			for range n {
				f.holds = append(f.holds, hold{r.ref(), r.bool()})
			}
		case kindPlaces:
			f.placed, f.places = true, r.places()
		case kindStep:
			f.results = append(f.results, result{ref: r.ref(), step: r.step()})
		case kindFailure:
			x := result{ref: r.ref(), failed: true}
			x.attempt, x.err = r.failure()
			f.results = append(f.results, x)
		case kindBeat:
			f.beat, f.count, f.hash = true, r.int(), r.uint()
		case kindFetch:
			f.fetches = append(f.fetches, fetch{r.ref(), r.int()})
		case kindLeave:
			f.leave = true
		case kindPiece:
			f.pieces = append(f.pieces, r.piece())
		default:
			r.fail()
		}
	}
}

// readOwner reads a frame of an owner, as readWorker does one of a worker.
func readOwner(b []byte) (*ownerFrame, error) {
	r := &reader{b: b}
	f := &ownerFrame{version: r.int(), shard: r.int(), epoch: r.uint(), incarnation: r.uint()}
	if r.bad || f.version != Version {
		return f, r.err()
	}
	f.seq = r.uint()
	f.items(r)
	return f, r.err()
}

func (f *ownerFrame) items(r *reader) {
	for len(r.b) > 0 {
		switch r.byte() {
		case kindTask:
			x := r.ref()
			d := delivery{serial: x.serial, m: matrix.Message{Task: x.task, Hop: x.hop, Sum: x.base, Role: r.role(), Priority: r.priority(), Attempt: r.int(), Queued: r.duration(), Delayed: r.duration()}}
			d.from, d.records = r.records()
			if d.from+len(d.records) != x.hop+1 {
				r.fail()
			}
			f.tasks = append(f.tasks, d)
		case kindAck:
			f.acks = append(f.acks, r.ref())
		case kindStale:
			f.stales = append(f.stales, r.ref())
		case kindRecords:
			x := fetched{fetch: fetch{ref: r.ref()}}
			x.from, x.records = r.records()
			if x.from+len(x.records) != x.hop+1 {
				r.fail()
			}
			f.fetched = append(f.fetched, x)
		case kindWho:
			f.who = true
		case kindAlive:
			f.alive, f.stopping = true, r.bool()
			n := r.count(2)
			f.waiting = make([]string, 0, n)
			for range n {
				f.waiting = append(f.waiting, r.role())
			}
		case kindSettled:
			for range r.count(2) {
				f.settled = append(f.settled, r.text(maxID))
			}
		case kindPiece:
			f.pieces = append(f.pieces, r.piece())
		default:
			r.fail()
		}
	}
}

const maxWorker = 64

// validWorker reports whether id may name a worker.
func validWorker(id string) bool {
	if id == "" || len(id) > maxWorker || id == "all" {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// pieces puts items together again that came in pieces.
type pieces struct {
	items map[uint64]*parts
	bytes int
}

type parts struct {
	count int
	bytes int
	got   map[int][]byte
	at    time.Time // of the newest
}

// add adds a piece, and returns the item where it is whole.
func (p *pieces) add(x piece, at time.Time) (item []byte) {
	if p.items == nil {
		p.items = map[uint64]*parts{}
	}
	i := p.items[x.id]
	if i == nil || i.count != x.count {
		p.drop(x.id)
		i = &parts{count: x.count, got: map[int][]byte{}}
		p.items[x.id] = i
	}
	i.at = at
	if i.got[x.index] != nil {
		return nil
	}
	i.got[x.index] = x.content
	i.bytes += len(x.content)
	p.bytes += len(x.content)
	if len(i.got) < i.count {
		for p.bytes > maxItem+maxItem/4 {
			p.drop(p.oldest())
		}
		return nil
	}
	item = make([]byte, 0, i.bytes)
	for k := range i.count {
		item = append(item, i.got[k]...)
	}
	p.drop(x.id)
	return item
}

func (p *pieces) drop(id uint64) {
	if i := p.items[id]; i != nil {
		p.bytes -= i.bytes
		delete(p.items, id)
	}
}

func (p *pieces) oldest() (id uint64) {
	var at time.Time
	for k, i := range p.items {
		if at.IsZero() || i.at.Before(at) {
			id, at = k, i.at
		}
	}
	return id
}

// expire forgets what has not grown since then.
func (p *pieces) expire(since time.Time) {
	for id, i := range p.items {
		if i.at.Before(since) {
			p.drop(id)
		}
	}
}
