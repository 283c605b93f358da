package inside

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// mark is the variable that a command and all that it starts are known by, also once a daemon has no parent and no session
// in common with it.
const mark = "MATRIX_COMMAND"

// procs are the processes that the supervisor started, and what these left it.
type procs struct {
	starts chan start

	mu      sync.Mutex
	some    sync.Cond // a process was started, or all is to end
	exits   map[int]chan exit
	ending  bool
	started uint64
	gone    chan struct{} // none is left, and none begins any more
}

type start struct {
	program string
	args    []string
	attr    *syscall.ProcAttr
	done    chan<- started
}

type started struct {
	pid  int
	exit <-chan exit
	err  error
}

type exit struct {
	status syscall.WaitStatus
	usage  syscall.Rusage
}

func newProcs(o Options) (*procs, error) {
	p := &procs{starts: make(chan start), exits: make(map[int]chan exit), gone: make(chan struct{})}
	p.some.L = &p.mu
	ready := make(chan error)
	go p.startAll(o, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	go p.reap()
	return p, nil
}

// startAll starts processes, in one thread: its children have no more rights than it has, and die with it.
func (p *procs) startAll(o Options, ready chan<- error) {
	runtime.LockOSThread()
	err := prctl(prSetNoNewPrivs, 1)
	if err == nil && o.Drop {
		err = dropCapabilities()
	}
	if err == nil && o.Seccomp {
		err = installFilter()
	}
	ready <- err
	if err != nil {
		return
	}
	for s := range p.starts {
		s.done <- p.start(s)
	}
}

func (p *procs) start(s start) started {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return started{err: os.ErrProcessDone}
	}
	pid, err := syscall.ForkExec(s.program, s.args, s.attr)
	if err != nil {
		return started{err: err}
	}
	// The kernel shall take commands for want of memory, and not the supervisor.
	if f, err := syscall.Open("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", syscall.O_WRONLY|syscall.O_CLOEXEC, 0); err == nil {
		_, _ = syscall.Write(f, []byte("1000"))
		syscall.Close(f)
	}
	ended := make(chan exit, 1)
	p.exits[pid] = ended
	p.started++
	p.some.Broadcast()
	return started{pid: pid, exit: ended}
}

// reap waits for all children: commands, and what they left behind.
func (p *procs) reap() {
	defer close(p.gone)
	for {
		p.mu.Lock()
		before := p.started
		p.mu.Unlock()
		var e exit
		pid, err := syscall.Wait4(-1, &e.status, 0, &e.usage)
		p.mu.Lock()
		switch {
		case err == syscall.EINTR:
		case err != nil: // there are none
			for p.started == before && !p.ending {
				p.some.Wait()
			}
			if p.started == before {
				p.mu.Unlock()
				return
			}
		case p.exits[pid] != nil:
			p.exits[pid] <- e
			delete(p.exits, pid)
		}
		p.mu.Unlock()
	}
}

// end ends all processes. Those that the kernel does not let go within seconds it gives up on.
func (p *procs) end() {
	p.mu.Lock()
	p.ending = true
	p.some.Broadcast()
	p.mu.Unlock()
	patience := time.After(5 * time.Second)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if alone() {
			syscall.Kill(-1, syscall.SIGKILL) // all at once, so that none can fork meanwhile
		} else {
			p.kill(func(process, map[int]bool) bool { return true })
		}
		select {
		case <-p.gone:
			return
		case <-patience:
			return
		case <-time.After(pause):
		}
	}
}

// killCommand ends a command and what it started.
func (p *procs) killCommand(pid int, number string) {
	syscall.Kill(-pid, syscall.SIGKILL)
	want := []byte(mark + "=" + number)
	p.kill(func(q process, found map[int]bool) bool {
		return q.pid == pid || q.group == pid || q.session == pid || found[q.parent] || q.marked(want)
	})
}

// kill ends those descendants that are to end; found are those that were found before, parents before their children.
// They are stopped first, until there are no new ones, so that they cannot outrun it.
func (p *procs) kill(which func(q process, found map[int]bool) bool) {
	found := make(map[int]bool)
	var held []int
	for range 100 {
		fresh := false
		for _, q := range descendants() {
			if found[q.pid] || !which(q, found) {
				continue
			}
			found[q.pid], fresh = true, true
			fd, err := pidfdOpen(q.pid)
			if err != nil {
				continue
			}
			if again, ok := readProcess(q.pid); !ok || again.begun != q.begun { // its number has another one by now
				syscall.Close(fd)
				delete(found, q.pid)
				continue
			}
			pidfdSignal(fd, syscall.SIGSTOP)
			if held = append(held, fd); len(held) == 64 {
				held = killAll(held)
			}
		}
		if !fresh {
			break
		}
	}
	killAll(held)
}

func killAll(held []int) []int {
	for _, fd := range held {
		pidfdSignal(fd, syscall.SIGKILL)
		syscall.Close(fd)
	}
	return held[:0]
}

// A process as /proc has it.
type process struct {
	pid, parent, group, session int
	begun                       uint64
}

// marked reports whether its environment has the variable.
func (q process) marked(variable []byte) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(q.pid) + "/environ")
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(v, variable) {
			return true
		}
	}
	return false
}

// readProcess returns a process. One that has ended is among them, since threads of it may go on.
func readProcess(pid int) (process, bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	at := bytes.LastIndexByte(stat, ')') // its name may hold anything
	if at < 0 {
		return process{}, false
	}
	f := bytes.Fields(stat[at+1:]) // state, parent, group, session ... the 22nd of all is when it began
	if len(f) < 20 {
		return process{}, false
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(string(f[i]))
		return n
	}
	return process{pid: pid, parent: number(1), group: number(2), session: number(3), begun: uint64(number(19))}, true
}

// descendants are the children of this process, their children, and so on, parents before their children. Whatever this
// process started is among them, since it is the subreaper.
func descendants() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	children := make(map[int][]process)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if q, ok := readProcess(pid); ok {
			children[q.parent] = append(children[q.parent], q)
		}
	}
	list := children[os.Getpid()]
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i].pid]...)
	}
	return list
}
