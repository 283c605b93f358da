package standing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"matrix"
	"matrix/cluster/natsnet"
	"matrix/internal/monitor"
	"matrix/internal/rundir"
	"matrix/session"
)

// What is wanted of a run.
const (
	wantRun    = "run"
	wantStop   = "stop"
	wantCancel = "cancel"
)

// record is what is kept of a run over the life of its head.
type record struct {
	Name      string          `json:"name"`
	Tenant    natsnet.Tenant  `json:"tenant"`
	Weight    int             `json:"weight"`
	Priority  matrix.Priority `json:"priority"`
	Sum       string          `json:"sum"`              // of what was submitted: the folder with it
	Before    string          `json:"before,omitempty"` // the one before, until its process takes this one
	Submitted time.Time       `json:"submitted"`
	Want      string          `json:"want"`
	Begun     int64           `json:"begun"`           // how often its process began
	Flags     []string        `json:"flags,omitempty"` // of the next process alone
	Words     []string        `json:"words"`
	PID       int             `json:"pid,omitempty"` // of its process, as long as that lives
	End       *monitor.End    `json:"end,omitempty"` // nil while it goes on, and of one that never did
}

// kept is a run. Its head's mutex guards it.
type kept struct {
	record
	dir    string // of the head's own files of it
	folder string // of the run

	active bool          // a goroutine sees to it
	kick   chan struct{} // holds one: somebody wants it to stop
	now    bool          // it is to stop without waiting
	status *monitor.Status
	lines  []string
	next   int64 // of lines, the number of the one that comes
}

func (r *kept) path(name string) string { return filepath.Join(r.dir, name) }

func (h *Head) newKept(name string) *kept {
	return &kept{record: record{Name: name}, dir: h.own("runs", name), folder: filepath.Join(h.o.Dir, name), kick: make(chan struct{}, 1), next: time.Now().UnixNano()}
}

// load reads what is kept of runs.
func (h *Head) load() error {
	files, err := filepath.Glob(h.own("runs", "*", "run.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		r := h.newKept(filepath.Base(filepath.Dir(file)))
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &r.record)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		h.runs[r.Name] = r
	}
	return nil
}

// save keeps what is known of a run. h.mu is held.
func (r *kept) save() error {
	b, err := json.MarshalIndent(&r.record, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(r.path("run.json"), append(b, '\n'))
}

// alive reports whether a process has the run: it holds a lock as long as it lives.
func (r *kept) alive() bool {
	f, err := lockFile(r.path("LOCK"))
	if f != nil {
		_ = f.Close()
	}
	return err == nil && f == nil
}

// say tells viewers of something. h.mu is held.
func (r *kept) say(line string) {
	const most = 200
	r.lines = append(r.lines, line)
	r.lines = r.lines[max(0, len(r.lines)-most):]
	r.next++
}

// watched answers who watches a run. h.mu is held.
func (r *kept) watched(q *question, a *answer) {
	if q.After > 0 {
		first := r.next - int64(len(r.lines))
		a.Lines = append(a.Lines, r.lines[min(max(q.After-first, 0), int64(len(r.lines))):]...)
	}
	a.Next, a.Status = r.next, r.status
	switch {
	case !r.active && r.End != nil:
		a.End = r.End
	case !r.active:
		a.End = &monitor.End{Code: 4, Err: "The run " + r.stateNow() + "; its command goes on."}
	case a.Status == nil:
		a.Status = &monitor.Status{State: monitor.Starting, Why: "Starting."}
	}
}

// stateNow is the state of a run. h.mu is held.
func (r *kept) stateNow() string {
	switch {
	case r.active && r.Want != wantRun:
		return Stopping
	case r.active && r.status == nil:
		return Starting
	case r.active:
		return Running
	case r.Want == wantCancel:
		return Cancelled
	case r.End == nil:
		return Stopped
	}
	switch r.End.Code {
	case 0:
		return Finished
	case 4:
		return Stopped
	}
	return Failed
}

// info is how a run stands. h.mu is held.
func (r *kept) info(workers []session.WorkerState) Info {
	x := Info{Name: r.Name, State: r.stateNow(), Weight: r.Weight, Priority: r.Priority, Since: r.Submitted, PID: r.PID, Pending: -1}
	for i := range workers {
		for _, name := range workers[i].Runs {
			if name == r.Name && workers[i].Silent == 0 {
				x.Workers++
			}
		}
	}
	if r.status == nil && !r.active { // of a head before this one
		r.status = r.summary()
	}
	if r.End != nil && !r.active && r.End.Code != 0 {
		x.Why, _, _ = strings.Cut(r.End.Err, "\n")
	}
	if r.status == nil || r.status.Snapshot == nil {
		return x
	}
	if r.active {
		x.Why = r.status.Why
	}
	v := r.status.Snapshot
	x.Done, x.Dropped, x.Expanded, x.Failed = v.Done, v.Dropped, v.Expanded, v.Failed
	x.Pending = v.Pending
	if v.Spending != nil {
		x.USD, x.Tokens = v.Spending.USD, v.Spending.Tokens
	}
	if !r.active {
		return x
	}
	x.Live, x.Rate = v.Live, v.Rate
	for i := range v.Roles {
		if !v.Roles[i].Inline {
			x.Acting += v.Roles[i].Acting
		}
	}
	x.Waits = strings.Join(v.Unserved(), ", ")
	return x
}

// summary is how far a run came that no process has now, as its folder says.
func (r *kept) summary() *monitor.Status {
	v := &session.Snapshot{}
	b, err := os.ReadFile(filepath.Join(r.folder, rundir.SummaryFile))
	if err != nil || json.Unmarshal(b, v) != nil {
		return &monitor.Status{}
	}
	return &monitor.Status{Snapshot: v}
}

// begin sees to a run from now on. h.mu is held.
func (h *Head) begin(r *kept) {
	r.active, r.status, r.End, r.now = true, nil, nil, false
	h.drives.Go(func() { h.drive(r) })
	h.offer()
}

// A process that is killed is begun again after a while, which grows.
const (
	firstAgain = time.Second
	mostAgain  = time.Minute
	whole      = time.Minute // after so long it counts as one that went well
)

// Exit codes of the process of a run: of what is wrong with its config, before it has
// begun, and of a program that fails in the middle.
const usage, crashed = 2, 2

// drive sees to a run until it has ended, or this head has.
func (h *Head) drive(r *kept) {
	wait := firstAgain
	for {
		var child *exec.Cmd
		began := time.Now()
		if !r.alive() {
			h.mu.Lock()
			if r.Want != wantRun {
				h.over(r, nil)
				h.mu.Unlock()
				return
			}
			var err error
			if child, err = h.start(r); err != nil {
				h.over(r, &monitor.End{Code: 1, Err: "Error: " + err.Error()})
				h.mu.Unlock()
				return
			}
			h.mu.Unlock()
		}
		end, published := h.follow(r, child)
		if h.ctx.Err() != nil {
			return
		}
		h.mu.Lock()
		if end == nil && child != nil {
			code := child.ProcessState.ExitCode() // -1 of one that was killed
			if code >= 0 && (!published || code != crashed) {
				end = last(code, r.path("log"))
			}
			if code == usage && !published && r.Before != "" { // what was submitted does not fit the run
				r.Sum, r.Before = r.Before, ""
			}
		}
		if end != nil {
			h.over(r, end)
			h.mu.Unlock()
			return
		}
		r.status, r.PID = nil, 0 // the number may be another process's soon
		if time.Since(began) > whole {
			wait = firstAgain
		}
		r.say(fmt.Sprintf("The process of the run was killed; it begins again in %v.", wait))
		h.o.Tell(fmt.Sprintf("The process of %s was killed; it begins again in %v.", r.Name, wait))
		h.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-r.kick:
		case <-h.ctx.Done():
			return
		}
		wait = min(2*wait, mostAgain)
	}
}

// over notes that a run has ended, and how. h.mu is held.
func (h *Head) over(r *kept, end *monitor.End) {
	r.active, r.PID = false, 0
	r.Flags = nil
	if end != nil {
		r.End = end
	}
	if r.Want == wantRun {
		r.Want = wantStop
	}
	if r.Want == wantCancel {
		h.server.Dismiss(r.Tenant.Run)
		r.End = &monitor.End{Code: 4, Err: fmt.Sprintf("%s is cancelled. What is finished stands in the head's folder %s.", r.Name, r.folder)}
	}
	if err := r.save(); err != nil {
		h.o.Tell(err.Error())
	}
	h.o.Tell(fmt.Sprintf("%s is %s.", r.Name, r.stateNow()))
	h.offer()
}

// start begins the process of a run. h.mu is held.
func (h *Head) start(r *kept) (*exec.Cmd, error) {
	at := fmt.Sprintf("%s:%d", localHost(h.o.Host), h.server.Port())
	b, err := json.Marshal(&Seat{natsnet.Seat{Join: h.server.JoinOf(r.Tenant), At: at, Head: r.Tenant.Head}, r.Words})
	if err != nil {
		return nil, err
	}
	if err := writeWhole(r.path("seat.json"), b); err != nil {
		return nil, err
	}
	lock, err := lockFile(r.path("LOCK"))
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, errors.New("another process has the run")
	}
	defer lock.Close() // the process has it, too
	log, err := os.OpenFile(r.path("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{"run", r.path(r.Sum), "-o", r.folder, "--seat", r.path("seat.json")}, r.Flags...)
	c := exec.Command(h.o.Program[0], append(h.o.Program[1:], args...)...)
	c.Stdout, c.Stderr = log, log
	c.ExtraFiles = []*os.File{lock}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this one, and the terminal
	r.Begun++
	if err := c.Start(); err != nil {
		return nil, err
	}
	r.PID = c.Process.Pid
	h.offer()
	return c, r.save()
}

// localHost is where this machine reaches what listens at host.
func localHost(host string) string {
	switch {
	case host == "":
		return "127.0.0.1"
	case strings.Contains(host, ":"):
		return "[" + host + "]"
	}
	return host
}

// follow watches the process of a run until it is gone, and returns its last word.
// published says that it came so far that others could look at it.
func (h *Head) follow(r *kept, child *exec.Cmd) (end *monitor.End, published bool) {
	gone := make(chan struct{})
	if child != nil {
		go func() {
			_ = child.Wait() // its state is looked at
			close(gone)
		}()
	}
	is := func() bool { // there
		select {
		case <-gone:
			return false
		default:
			return child != nil || r.alive()
		}
	}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for is() && h.ctx.Err() == nil {
		if c, err := monitor.Dial(r.folder); err == nil && end == nil {
			published = true
			e, _ := c.Watch(h.ctx, time.Second, func(e monitor.Event) { h.hear(r, c, e) })
			if e != nil {
				end = e
			}
			c.Close()
		}
		select {
		case <-look.C:
		case <-h.ctx.Done():
		}
	}
	return end, published
}

// hear takes in what the process of a run tells.
func (h *Head) hear(r *kept, c *monitor.Client, e monitor.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Line != "" {
		r.say(e.Line)
	}
	if e.Status == nil {
		return
	}
	first := r.status == nil
	r.status = e.Status
	if !first {
		return
	}
	r.Flags, r.Before = nil, "" // it has begun as it was told to
	if err := r.save(); err != nil {
		h.o.Tell(err.Error())
	}
	r.tidyConfigs()
	if r.Want != wantRun {
		now := r.now
		h.drives.Go(func() { _ = c.Stop(h.ctx, now) }) // one that is gone has stopped
	}
}

// tidyConfigs removes what was submitted before. h.mu is held.
func (r *kept) tidyConfigs() {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != r.Sum {
			_ = os.RemoveAll(r.path(e.Name())) // or next time
		}
	}
}

// stop has a run stop, or ends it for good. h.mu is held.
func (h *Head) stop(r *kept, want string, now bool) {
	if r.Want == wantCancel {
		return
	}
	r.Want, r.now = want, now
	if !r.active {
		if want == wantCancel {
			h.over(r, nil)
		}
		return
	}
	select {
	case r.kick <- struct{}{}:
	default:
	}
	if err := r.save(); err != nil {
		h.o.Tell(err.Error())
	}
	folder, pid := r.folder, r.PID
	h.drives.Go(func() {
		if c, err := monitor.Dial(folder); err == nil {
			_ = c.Stop(h.ctx, now) // one that is gone has stopped
			c.Close()
		} else if pid != 0 && r.alive() { // it is not so far that it could be asked
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		if !now {
			return
		}
		ctx, cancel := context.WithTimeout(h.ctx, 30*time.Second)
		defer cancel()
		for ctx.Err() == nil && r.alive() {
			time.Sleep(50 * time.Millisecond)
		}
		if h.ctx.Err() == nil && pid != 0 && r.alive() { // it hears nothing
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}
