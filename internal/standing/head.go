package standing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"matrix/cluster/natsnet"
	"matrix/internal/monitor"
	"matrix/internal/packed"
	"matrix/internal/rundir"
	"matrix/session"
	"matrix/spec"
)

// Files of a standing head in the folder of its runs.
const (
	JoinFile    = rundir.JoinFile // the line by which workers join: secret
	ClientsFile = "clients"       // the line by which clients ask: secret
	ownDir      = ".head"
)

// Options of a Head.
type Options struct {
	Dir       string   // with the folders of the runs, by their names
	Host      string   // to listen at; empty for all addresses of this machine
	Port      int      // 0 for that which it had before, or a free one
	Advertise []string // see natsnet.ServerOptions
	Version   string   // of this program
	Program   []string // the command that runs a config: its arguments are those of matrix run
	Tell      func(line string)
}

// Head is a standing head.
type Head struct {
	o       Options
	lock    *os.File
	server  *natsnet.Server
	workers *session.Standing
	ctx     context.Context
	end     context.CancelFunc
	drives  sync.WaitGroup

	mu          sync.Mutex
	runs        map[string]*kept
	submissions map[string]*submission
}

// secrets are what makes the next head of a folder the same one to workers and clients.
type secrets struct {
	natsnet.Secrets
	Clients string `json:"clients"`
	Host    string `json:"host"`
	Port    int    `json:"port"`
}

// LockedError says that another process is the head of a folder.
type LockedError struct{ Dir string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("another process is the head of the runs in %s", e.Dir)
}

// Open begins to serve workers and clients, and goes on with the runs that were under way. An
// address at which it cannot listen is a *net.OpError. The caller closes it.
func Open(o Options) (h *Head, err error) {
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	h = &Head{o: o, runs: map[string]*kept{}, submissions: map[string]*submission{}}
	h.ctx, h.end = context.WithCancel(context.Background())
	defer func(opened *Head) {
		if err != nil {
			opened.Close()
		}
	}(h)
	if err = os.MkdirAll(h.own("runs"), 0o700); err != nil {
		return nil, err
	}
	if h.lock, err = lockFile(h.own("LOCK")); err != nil {
		return nil, err
	}
	if h.lock == nil {
		return nil, &LockedError{o.Dir}
	}
	var s secrets
	switch b, err := os.ReadFile(h.own("cluster.json")); {
	case errors.Is(err, fs.ErrNotExist):
		made, err := natsnet.NewSecrets()
		if err != nil {
			return nil, err
		}
		s = secrets{Secrets: *made, Clients: natsnet.NewToken()}
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, fmt.Errorf("%s: %w; without it the head has new lines to join by", h.own("cluster.json"), err)
		}
	}
	if o.Port == 0 && s.Host == o.Host {
		o.Port = s.Port
	}
	if err = h.load(); err != nil {
		return nil, err
	}
	var tenants []natsnet.Tenant
	for _, r := range h.runs {
		tenants = append(tenants, r.Tenant)
	}
	h.server, err = natsnet.Serve(natsnet.ServerOptions{
		Secrets: &s.Secrets, Host: o.Host, Port: o.Port, Advertise: o.Advertise, Clients: s.Clients, Tenants: tenants,
	})
	if err != nil {
		return nil, err
	}
	s.Host, s.Port = o.Host, h.server.Port()
	for name, text := range map[string]string{JoinFile: h.server.Join().String() + "\n", ClientsFile: h.server.ClientJoin().String() + "\n"} {
		if err = writeWhole(filepath.Join(o.Dir, name), []byte(text)); err != nil {
			return nil, err
		}
	}
	b, err := json.MarshalIndent(&s, "", "  ")
	if err != nil {
		return nil, err
	}
	if err = writeWhole(h.own("cluster.json"), append(b, '\n')); err != nil {
		return nil, err
	}
	if h.workers, err = session.NewStanding(h.server.Net(), o.Version, o.Tell); err != nil {
		return nil, err
	}
	h.mu.Lock()
	for _, r := range h.runs {
		r.active = r.Want == wantRun || r.alive() // workers are offered all of them, or they would leave the others
	}
	for _, r := range h.runs {
		if r.active {
			h.begin(r)
		}
	}
	h.offer()
	h.mu.Unlock()
	if _, err = h.server.Net().AnswerEach(clientAddress, 64, h.answer); err != nil {
		return nil, err
	}
	h.drives.Go(h.tidy)
	return h, nil
}

// Close ends the network and nothing else: the runs go on, and wait for a head.
func (h *Head) Close() {
	h.end()
	if h.workers != nil {
		h.workers.Close()
	}
	if h.server != nil {
		h.server.Close()
	}
	h.drives.Wait()
	if h.lock != nil {
		_ = h.lock.Close() // it is only locked
	}
}

// Addresses are HOST:PORT at which it serves.
func (h *Head) Addresses() []string { return h.server.Join().Addresses }

// Active are the names of the runs that go on.
func (h *Head) Active() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name, r := range h.runs {
		if r.active {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (h *Head) own(names ...string) string {
	return filepath.Join(append([]string{h.o.Dir, ownDir}, names...)...)
}

// offer tells workers which runs there are. h.mu is held.
func (h *Head) offer() {
	offers := []session.OfferedRun{}
	for _, r := range h.runs {
		if r.active {
			offers = append(offers, session.OfferedRun{Name: r.Name, Join: h.server.JoinOf(r.Tenant).String(), Begun: r.Begun, Weight: r.Weight, Priority: r.Priority})
		}
	}
	slices.SortFunc(offers, func(a, b session.OfferedRun) int { return cmp.Compare(a.Name, b.Name) })
	h.workers.Offer(offers)
}

// tidy keeps what processes have said within bounds.
func (h *Head) tidy() {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		h.mu.Lock()
		for _, r := range h.runs {
			if r.active {
				trim(r.path("log"))
			}
		}
		h.mu.Unlock()
	}
}

// What is kept of what a process has said: the last of it.
const (
	mostLog = 8 << 20
	keepLog = 4 << 20
)

// trim has a log that a process appends to begin anew, once it is large; the end of it is kept
// beside it.
func trim(file string) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < mostLog {
		return
	}
	b := make([]byte, keepLog)
	n, err := f.ReadAt(b, info.Size()-keepLog)
	if err != nil && err != io.EOF || os.WriteFile(file+".1", b[:n], 0o600) != nil {
		return
	}
	_ = f.Truncate(0) // or it grows on until the next look
}

// tail is the last lines of a log, as many as asked for and an answer holds.
func tail(file string, lines int) []string {
	const most = 256 << 10
	var text []byte
	for _, name := range []string{file, file + ".1"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil {
			b := make([]byte, min(info.Size(), int64(most-len(text))))
			n, _ := f.ReadAt(b, info.Size()-int64(len(b)))
			text = append(b[:n], text...)
		}
		_ = f.Close() // it was read
		if len(text) >= most || strings.Count(string(text), "\n") > lines {
			break
		}
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return all[max(0, len(all)-lines):]
}

// answer answers a client.
func (h *Head) answer(body []byte) []byte {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return nil
	}
	a := answer{}
	if q.Version == h.o.Version { // else the client says so
		if err := h.do(&q, &a); err != nil {
			a = answer{Refused: err.Error(), Usage: errors.As(err, new(*spec.UsageError))}
		}
	}
	a.Version = h.o.Version
	return packed.Write(&a)
}

func (h *Head) do(q *question, a *answer) error {
	switch q.Ask {
	case "submit":
		return h.submitted(q, a)
	case "runs":
		a.Workers = h.workers.Workers()
		h.mu.Lock()
		defer h.mu.Unlock()
		a.Runs = []Info{}
		for _, r := range h.runs {
			a.Runs = append(a.Runs, r.info(a.Workers))
		}
		slices.SortFunc(a.Runs, func(x, y Info) int { return cmp.Compare(x.Name, y.Name) })
		return nil
	case "logs":
		return h.logs(q, a)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.runs[q.Run]
	if r == nil {
		return h.unknown(q.Run)
	}
	switch q.Ask {
	case "watch":
		r.watched(q, a)
	case "stop":
		h.stop(r, wantStop, q.Now)
	case "cancel":
		h.stop(r, wantCancel, true)
	default:
		return spec.Usagef("the head does not know %q", q.Ask)
	}
	return nil
}

// unknown says that there is no run of a name. h.mu is held.
func (h *Head) unknown(name string) error {
	var names []string
	for n := range h.runs {
		names = append(names, n)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return spec.Usagef("the cluster has no run %q: none was submitted", name)
	}
	return spec.Usagef("the cluster has no run %q; it has %s", name, strings.Join(names, ", "))
}

// logs finds what the process of a run or a worker has said.
func (h *Head) logs(q *question, a *answer) error {
	lines := min(max(q.Lines, 1), 10_000)
	h.mu.Lock()
	r := h.runs[q.Run]
	h.mu.Unlock()
	if r != nil {
		a.Lines = tail(r.path("log"), lines)
		return nil
	}
	var ids []string
	for _, w := range h.workers.Workers() {
		if w.ID == q.Run {
			ids = []string{w.ID}
			break
		}
		if strings.HasPrefix(w.ID, q.Run) {
			ids = append(ids, w.ID)
		}
	}
	if len(ids) != 1 {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(ids) > 1 {
			return spec.Usagef("%q is the beginning of several workers: %s", q.Run, strings.Join(ids, ", "))
		}
		return fmt.Errorf("%w, and no worker of that name is there", h.unknown(q.Run))
	}
	ctx, cancel := context.WithTimeout(h.ctx, 2*time.Second)
	defer cancel()
	said, err := h.workers.Logs(ctx, ids[0])
	if err != nil {
		return fmt.Errorf("worker %s does not answer: %w", ids[0], err)
	}
	a.Lines = said[max(0, len(said)-lines):]
	return nil
}

// lockFile opens a file and locks it; nil where another process has it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // it was opened for this alone
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	return f, nil
}

// writeWhole writes a file that only this user may read: whole, or not at all.
func writeWhole(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// last says how a run ended whose process has told nothing.
func last(code int, log string) *monitor.End {
	said := strings.Join(tail(log, 20), "\n")
	if code == 0 {
		return &monitor.End{Out: said + "\n"}
	}
	return &monitor.End{Code: code, Err: said}
}
