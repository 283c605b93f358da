package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"matrix/sandbox/inside"
)

// entry is what a pool knows of a lease. Whoever has put a token into hand may use the rest.
type entry struct {
	e    *engine
	key  Key
	name string
	hand chan struct{}
	used time.Time   // guarded by engine.mu
	held atomic.Bool // it has a box

	loaded     bool
	journal    *journal // nil where nothing is kept
	state      state
	spec       Spec
	box        *box
	generation int
	committed  int          // commands that ran and are the task's for good
	restored   Restored     // how prepare came by the state
	streams    atomic.Int32 // that are open: the box stays
}

func newEntry(e *engine, key Key) *entry {
	return &entry{e: e, key: key, name: key.Name(), hand: make(chan struct{}, 1)}
}

func (s Spec) hash() string {
	b, err := json.Marshal(s)
	if err != nil { // strings and bytes
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// load reads what an earlier process left.
func (n *entry) load() error {
	if n.loaded {
		return nil
	}
	s, err := n.e.shelved()
	if err != nil {
		return err
	}
	if s != nil {
		j := s.journal(n.name)
		st, err := j.read()
		trusted := err == nil && st.lease.Key == n.key && st.lease.Boot == bootID() && st.lease.Boot != ""
		switch {
		case trusted:
			n.state, n.generation = st, st.lease.Generation
			if len(st.folded) > 0 {
				if err := n.refold(j, st.folded); err != nil {
					return err
				}
			}
		case err == nil || !errors.Is(err, fs.ErrNotExist):
			if err := j.remove(); err != nil {
				return err
			}
		}
		n.journal = j
	}
	n.loaded = true
	if d := n.state.doubt; d != nil {
		return n.doubted(*d)
	}
	return nil
}

// prepare brings the lease to the state after past, or one in which commands of the
// hop that follows ran already, and returns how long it waited for room.
func (n *entry) prepare(ctx context.Context, s Spec, past []Command) (time.Duration, error) {
	if err := n.load(); err != nil {
		return 0, err
	}
	n.restored = Live
	if hash := s.hash(); hash != n.state.lease.Spec {
		if len(n.state.calls) > 0 && n.e.config.Restore == RestoreNone {
			return 0, n.gone(errors.New("it is asked for with other contents than it was made of"))
		}
		if err := n.reset(); err != nil {
			return 0, err
		}
		n.state.lease.Spec = hash
	}
	n.spec = s
	if n.box != nil && !n.box.alive() {
		n.endBox()
		n.forget()
	}
	k := n.common(past)
	if k < len(past) && k < len(n.state.calls) || k < len(past) && n.state.doubt != nil {
		if n.e.config.Restore == RestoreNone {
			return 0, n.gone(errors.New("commands ran in it that are not the task's"))
		}
		if err := n.rewind(k); err != nil {
			return 0, err
		}
	}
	n.committed = len(past)
	for i := range min(len(past), len(n.state.calls)) {
		n.state.calls[i].Result = nil // committed: nobody asks for it again
	}
	return n.catchUp(ctx, past)
}

// common is how many commands of past are those that ran.
func (n *entry) common(past []Command) int {
	for i, c := range past {
		if i == len(n.state.calls) || n.state.calls[i].Key != c.Key || n.state.calls[i].Hash != c.hash() {
			return i
		}
	}
	return len(past)
}

// catchUp starts a box where there is none, and runs what of past did not run in it.
func (n *entry) catchUp(ctx context.Context, past []Command) (time.Duration, error) {
	var waited time.Duration
	if n.box == nil {
		if n.e.config.Restore == RestoreNone && (len(past) > 0 || n.generation > 0) && n.e.config.Keep == KeepTask {
			return 0, n.gone(errors.New("its process has ended"))
		}
		var err error
		if waited, err = n.start(ctx); err != nil {
			return waited, err
		}
	}
	for len(n.state.calls) < len(past) {
		if n.e.config.Restore == RestoreNone {
			return waited, n.gone(errors.New("it was elsewhere"))
		}
		n.restored = Replay
		c := past[len(n.state.calls)]
		ran := record{Key: c.Key, Hash: c.hash(), Again: true}
		if err := n.write(line{Begin: &ran}); err != nil {
			return waited, err
		}
		_, err := n.exec(ctx, n.box, c)
		if err != nil {
			n.endBox()
			if resetErr := n.rewind(len(n.state.calls)); resetErr != nil {
				return waited, resetErr
			}
			return waited, n.lostOr(ctx, err)
		}
		n.state.calls = append(n.state.calls, ran)
		if err := n.write(line{End: &ran}); err != nil {
			return waited, err
		}
	}
	return waited, nil
}

// gone is the error of a lease that is not made again.
func (n *entry) gone(err error) error {
	return &LostError{n.name, fmt.Errorf("%w, and restore is none", err), true}
}

// lostOr is the error of something that a box did not do.
func (n *entry) lostOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var lost *inside.LostError
	if errors.As(err, &lost) {
		return &LostError{Name: n.name, Err: err}
	}
	return err
}

// start starts a box in the state that is kept, which is none where nothing is.
func (n *entry) start(ctx context.Context) (time.Duration, error) {
	kept := n.journal != nil
	if !kept {
		n.state.calls, n.state.setup = nil, false
	}
	if len(n.spec.Setup) == 0 && len(n.spec.Files) == 0 && !n.state.setup && kept {
		if err := n.addLayer(); err != nil {
			return 0, err
		}
		if err := n.setUp(); err != nil {
			return 0, err
		}
	}
	made := !n.state.setup
	if n.restored = Disk; made || len(n.state.calls) == 0 && len(n.state.layers) < 2 {
		n.restored = Fresh
		n.generation++
	}
	n.state.lease = leaseLine{Key: n.key, Boot: bootID(), Spec: n.spec.hash(), Generation: n.generation}
	if err := n.write(line{Lease: &n.state.lease}); err != nil {
		return 0, err
	}
	b := boxSpec{name: n.name, spec: n.spec}
	if kept {
		if err := n.topLayer(); err != nil {
			return 0, err
		}
		for _, l := range n.state.layers {
			b.layers = append(b.layers, n.journal.layer(l.N))
		}
		var err error
		if b.work, err = n.journal.work(); err != nil {
			return 0, err
		}
	}
	box, waited, err := n.e.start(ctx, b)
	if err != nil {
		return waited, err
	}
	n.box = box
	n.held.Store(true)
	if !n.state.setup {
		if err := n.runSetup(ctx); err != nil {
			n.endBox()
			return waited, errors.Join(n.lostOr(ctx, err), n.reset())
		}
		if err := n.setUp(); err != nil {
			return waited, err
		}
		if kept { // what follows goes into a layer of its own
			n.endBox()
			n.generation-- // it is the same one
			again, err := n.start(ctx)
			return waited + again, err
		}
	}
	return waited, nil
}

func (n *entry) setUp() error {
	n.state.setup = true
	return n.write(line{Setup: true})
}

func (n *entry) runSetup(ctx context.Context) error {
	for _, path := range slices.Sorted(maps.Keys(n.spec.Files)) {
		if err := n.box.conn.Put(ctx, path, 0o644, bytes.NewReader(n.spec.Files[path])); err != nil {
			var bad *inside.Error
			if errors.As(err, &bad) {
				return &SetupError{"put " + path, Result{Code: 1, Err: []byte(bad.Message)}}
			}
			return err
		}
	}
	for _, text := range n.spec.Setup {
		r, err := n.exec(ctx, n.box, Command{Shell: text})
		if err != nil {
			return err
		}
		if r.Code != 0 || r.TimedOut {
			return &SetupError{text, r}
		}
	}
	return nil
}

// topLayer sees to it that what is written now goes into a layer that the state before can be told from.
func (n *entry) topLayer() error {
	s := &n.state
	top := len(s.layers) - 1
	switch {
	case !s.setup && top == 0: // an earlier setup did not end
		if err := n.rewindTo(0); err != nil {
			return err
		}
	case !s.setup:
	case top == 0:
	case n.layered() && s.layers[top].At < len(s.calls):
	default:
		return nil
	}
	return n.addLayer()
}

// layered reports whether each command has a layer of its own.
func (n *entry) layered() bool { return n.journal != nil && n.e.config.InDoubt == Rewind }

func (n *entry) addLayer() error {
	l := layer{N: 1, At: len(n.state.calls)}
	for _, x := range n.state.layers {
		l.N = max(l.N, x.N+1)
	}
	dir := n.journal.layer(l.N)
	if err := removeTree(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	n.state.layers = append(n.state.layers, l)
	return n.write(line{Layer: &l})
}

func (n *entry) write(l line) error {
	if n.journal == nil {
		return nil
	}
	return n.journal.write(l)
}

// reset forgets all that was done.
func (n *entry) reset() error {
	n.endBox()
	n.state = state{}
	if n.journal != nil {
		return n.journal.remove()
	}
	return nil
}

// forget is of a box that is gone: what is not kept is gone with it.
func (n *entry) forget() {
	if n.journal == nil {
		n.state.calls, n.state.setup = nil, false
	}
}

// rewind goes back to a state in which the first i commands ran, or fewer of them.
func (n *entry) rewind(i int) error {
	n.endBox()
	if n.journal == nil {
		n.forget()
		return nil
	}
	s := &n.state
	if len(s.layers) == 0 {
		return nil
	}
	top := len(s.layers) - 1
	for top > 0 && s.layers[top].At > i {
		top--
	}
	if top == 0 && s.setup {
		top = 1
	}
	return n.rewindTo(top)
}

func (n *entry) rewindTo(layers int) error {
	drop := slices.Clone(n.state.layers[min(layers, len(n.state.layers)):])
	n.state.rewind(layers)
	if err := n.write(line{Rewind: &layers}); err != nil {
		return err
	}
	for _, l := range drop {
		if err := removeTree(n.journal.layer(l.N)); err != nil {
			return err
		}
	}
	return nil
}

// endBox ends the box, and returns when it is gone.
func (n *entry) endBox() {
	if n.box != nil {
		if n.box.alive() {
			n.box.end.Store(true)
		}
		n.box.kill()
		n.box = nil
		n.held.Store(false)
	}
	n.journal.close()
}

// park gives up the box. What is not kept has to be run again.
func (n *entry) park() {
	n.endBox()
	n.forget()
}

// doubted says what becomes of a command that had begun when its box was lost.
func (n *entry) doubted(r record) error {
	n.endBox()
	if n.journal == nil {
		n.forget()
		return nil
	}
	how := n.e.config.InDoubt
	if r.Again { // it is known that it ran
		how = Rewind
	}
	switch how {
	case Rerun:
		n.state.doubt = &r
		return nil
	case Turn:
		r.Doubt = true
		n.state.calls, n.state.doubt = append(n.state.calls, r), nil
		return n.write(line{End: &r})
	}
	return n.rewind(len(n.state.calls))
}

// exec runs c in box.
func (n *entry) exec(ctx context.Context, box *box, c Command) (Result, error) {
	conn, limits := box.conn, n.e.config.Limits
	for _, path := range slices.Sorted(maps.Keys(c.Files)) {
		if err := conn.Put(ctx, path, 0o644, bytes.NewReader(c.Files[path])); err != nil {
			var bad *inside.Error
			if errors.As(err, &bad) && bad.Code == inside.Failed {
				return Result{Code: 126, Err: []byte(path + ": " + bad.Message)}, nil
			}
			return Result{}, err
		}
	}
	timeout, output := limits.Timeout, int64(limits.Output)
	if c.Timeout > 0 && (timeout == 0 || c.Timeout < timeout) {
		timeout = c.Timeout
	}
	if c.Output > 0 && (output == 0 || c.Output < output) {
		output = c.Output
	}
	got, err := conn.Exec(ctx, inside.Command{Args: c.Args, Shell: c.Shell, Stdin: c.Stdin, Dir: c.Dir, Env: c.Env, Timeout: timeout, Output: output, Merge: c.Merge})
	if err != nil {
		return Result{}, err
	}
	r := Result{Code: got.Code, Signal: got.Signal, Out: got.Out, Err: got.Err, Cut: got.Cut, TimedOut: got.TimedOut, Took: got.Took, CPU: got.CPU, Peak: got.Peak}
	if box.oom != nil && (r.Code != 0 || r.TimedOut) {
		r.OOM = box.oom()
	}
	for _, path := range c.Get {
		b, err := readAll(ctx, conn, path)
		var bad *inside.Error
		if errors.As(err, &bad) {
			continue
		}
		if err != nil {
			return Result{}, err
		}
		if r.Files == nil {
			r.Files = map[string][]byte{}
		}
		r.Files[path] = b
	}
	n.e.mu.Lock()
	n.e.stats.Execs++
	n.e.mu.Unlock()
	return r, nil
}

// maxFile is how many bytes a file may have that a command brings along. One that is larger is not brought.
const maxFile = 16 << 20

func readAll(ctx context.Context, conn *inside.Conn, path string) ([]byte, error) {
	r, err := conn.Get(ctx, path, maxFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// lease is an entry in somebody's hand.
type lease struct {
	n      *entry
	info   Info
	shared bool
	box    *box // of a shared one

	mu   sync.Mutex // of who runs a command
	past []Command  // that ran, as this lease's holder sees it
	done bool
}

// Info implements Lease.
func (l *lease) Info() Info { return l.info }

// tries is how often a command is run under which its box is lost: it may be what ends it.
const tries = 3

// Exec implements Lease.
func (l *lease) Exec(ctx context.Context, c Command) (Result, error) {
	hop, err := c.hop()
	if err != nil {
		return Result{}, err
	}
	if l.shared {
		return l.execShared(ctx, c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return Result{}, errDone
	}
	n, hash := l.n, c.hash()
	if i := len(l.past); i < len(n.state.calls) {
		r := n.state.calls[i]
		at, err := Command{Key: n.state.calls[len(n.state.calls)-1].Key}.hop()
		switch {
		case err != nil:
			return Result{}, err
		case r.Key == c.Key && r.Hash == hash && r.Doubt:
			l.past = append(l.past, c)
			return Result{}, &InDoubtError{n.name, c.Key, errors.New("it had begun, and its end is not known")}
		case r.Key == c.Key && r.Hash == hash && r.Result != nil:
			l.past = append(l.past, c)
			again := *r.Result
			again.Replayed = true
			return again, nil
		case at > hop:
			return Result{}, &FencedError{n.name, hop, at}
		case n.e.config.Restore == RestoreNone:
			return Result{}, n.gone(errors.New("another command ran in it under this key"))
		}
		if err := n.rewind(i); err != nil {
			return Result{}, err
		}
	}
	if d := n.state.doubt; d != nil && (d.Key != c.Key || d.Hash != hash) {
		if err := n.rewind(len(l.past)); err != nil {
			return Result{}, err
		}
	}
	var lost error
	for range tries {
		r, err := l.run(ctx, c, hash)
		var gone *inside.LostError
		var doubt *InDoubtError
		if err == nil || !errors.As(err, &gone) || errors.As(err, &doubt) {
			return r, err
		}
		lost = err
		if n.e.config.Restore == RestoreNone {
			break
		}
	}
	return Result{}, &LostError{Name: n.name, Err: lost}
}

var errDone = errors.New("the lease was given back")

// run runs c once, in the state after l.past.
func (l *lease) run(ctx context.Context, c Command, hash string) (Result, error) {
	n := l.n
	if n.box != nil && !n.box.alive() {
		n.endBox()
		n.forget()
	}
	if _, err := n.catchUp(ctx, l.past); err != nil {
		return Result{}, err
	}
	l.info.Generation = n.generation
	if s := &n.state; n.layered() && n.streams.Load() == 0 && s.layers[len(s.layers)-1].At < len(s.calls) {
		n.endBox()
		if _, err := n.start(ctx); err != nil {
			return Result{}, err
		}
	}
	r := record{Key: c.Key, Hash: hash}
	if err := n.write(line{Begin: &r}); err != nil {
		return Result{}, err
	}
	result, err := n.exec(ctx, n.box, c)
	var bad *inside.Error
	switch {
	case err == nil:
	case errors.As(err, &bad) && bad.Code != inside.Canceled:
		return Result{}, errors.Join(fmt.Errorf("sandbox %s: command %s: %w", n.name, c.Key, bad), n.write(line{Undone: true}))
	case ctx.Err() != nil:
		return Result{}, errors.Join(ctx.Err(), n.doubted(r))
	default:
		if doubtErr := n.doubted(r); doubtErr != nil {
			return Result{}, doubtErr
		}
		if n.e.config.InDoubt == Turn && n.e.config.Restore != RestoreNone {
			l.past = append(l.past, c)
			err = &InDoubtError{n.name, c.Key, err}
		}
		return Result{}, err
	}
	r.Result = &result
	n.state.calls, n.state.doubt = append(n.state.calls, r), nil
	if err := n.write(line{End: &r}); err != nil {
		return Result{}, err
	}
	l.past = append(l.past, c)
	switch {
	case n.e.config.Keep == KeepCall:
		n.park()
		l.past = nil
	case n.layered() && n.streams.Load() == 0:
		n.endBox()
		if err := n.fold(); err != nil {
			return Result{}, err
		}
	}
	return result, nil
}

// execShared runs c in a sandbox that all have.
func (l *lease) execShared(ctx context.Context, c Command) (Result, error) {
	r, err := l.n.exec(ctx, l.box, c)
	if err != nil {
		return Result{}, l.n.lostOr(ctx, err)
	}
	return r, nil
}

// ready returns a box for what is no command.
func (l *lease) ready(ctx context.Context) (*inside.Conn, error) {
	if l.shared {
		return l.box.conn, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return nil, errDone
	}
	if l.n.box != nil && !l.n.box.alive() {
		l.n.endBox()
		l.n.forget()
	}
	if _, err := l.n.catchUp(ctx, l.past); err != nil {
		return nil, err
	}
	return l.n.box.conn, nil
}

// Put implements Lease.
func (l *lease) Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	conn, err := l.ready(ctx)
	if err != nil {
		return err
	}
	return l.n.lostOr(ctx, conn.Put(ctx, path, mode, r))
}

// Get implements Lease.
func (l *lease) Get(ctx context.Context, path string, most int64) (io.ReadCloser, error) {
	conn, err := l.ready(ctx)
	if err != nil {
		return nil, err
	}
	r, err := conn.Get(ctx, path, most)
	if err != nil {
		return nil, l.n.lostOr(ctx, err)
	}
	return r, nil
}

// Open implements Lease.
func (l *lease) Open(ctx context.Context, c Command) (Stream, error) {
	conn, err := l.ready(ctx)
	if err != nil {
		return nil, err
	}
	s, err := conn.Open(ctx, inside.Command{Args: c.Args, Shell: c.Shell, Dir: c.Dir, Env: c.Env, Timeout: c.Timeout})
	if err != nil {
		return nil, l.n.lostOr(ctx, err)
	}
	l.n.streams.Add(1)
	st := &stream{Stream: s, n: l.n}
	go st.drain()
	return st, nil
}

// Dial implements Lease.
func (l *lease) Dial(ctx context.Context, port int) (net.Conn, error) {
	conn, err := l.ready(ctx)
	if err != nil {
		return nil, err
	}
	s, err := conn.Dial(ctx, port)
	if err != nil {
		return nil, l.n.lostOr(ctx, err)
	}
	return dialed{s}, nil
}

// Done implements Lease.
func (l *lease) Done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return
	}
	l.done = true
	if !l.shared {
		l.n.e.put(l.n)
	}
}

// stream is a program that stays.
type stream struct {
	*inside.Stream
	n    *entry
	once sync.Once

	mu   sync.Mutex
	last []byte
}

const keptStderr = 8 << 10

// drain keeps the end of standard error.
func (s *stream) drain() {
	buf := make([]byte, 4096)
	for {
		k, err := s.Stream.Stderr().Read(buf)
		s.mu.Lock()
		s.last = append(s.last, buf[:k]...)
		s.last = s.last[max(0, len(s.last)-keptStderr):]
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Stderr implements Stream.
func (s *stream) Stderr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.last)
}

// Wait implements Stream.
func (s *stream) Wait(ctx context.Context) (Result, error) {
	r, err := s.Stream.Wait(ctx)
	if err != nil {
		return Result{}, s.n.lostOr(ctx, err)
	}
	return Result{Code: r.Code, Signal: r.Signal, TimedOut: r.TimedOut, Took: r.Took, CPU: r.CPU, Peak: r.Peak}, nil
}

// Close implements Stream.
func (s *stream) Close() error {
	s.once.Do(func() { s.n.streams.Add(-1) })
	return s.Stream.Close()
}

// dialed is a connection into a sandbox. It has no deadlines: close it.
type dialed struct{ *inside.Stream }

type address struct{}

func (address) Network() string { return "sandbox" }
func (address) String() string  { return "sandbox" }

func (dialed) LocalAddr() net.Addr              { return address{} }
func (dialed) RemoteAddr() net.Addr             { return address{} }
func (dialed) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (dialed) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (dialed) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
