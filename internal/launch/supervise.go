//go:build unix

package launch

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// job is what a supervisor is to run: the first line on its stdin.
type job struct {
	Argv  []string
	Env   []string
	Dir   string
	Log   string        // file that the server's stdout and stderr are added to
	Grace time.Duration // between SIGTERM and SIGKILL
}

// report is a line that a supervisor writes.
type report struct {
	PID   int    `json:",omitempty"` // of the server, which leads a process group
	Error string `json:",omitempty"` // why it did not start
	Exit  string `json:",omitempty"` // how it ended; nothing of it is left
}

const (
	reportFD  = 3
	killEvery = 20 * time.Millisecond
	killFor   = 10 * time.Second // a process that the system holds cannot be waited for without end
)

// Supervise is what a supervisor does: it starts the server that pipe, its stdin,
// describes, and ends it with all that it started when pipe ends, when SIGTERM
// says so, or when the server's first process ends. It returns the exit code of
// the process, which must be about nothing else: Supervise waits for any child.
func Supervise(pipe io.Reader) int {
	runtime.LockOSThread() // the system kills the server with the thread that started it
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	syscall.CloseOnExec(reportFD) // its end says that this process has ended
	out := os.NewFile(reportFD, "report")
	say := func(r report) {
		b, _ := json.Marshal(r)
		_, _ = out.Write(append(b, '\n')) // whoever it is for may be dead
	}

	in := bufio.NewReader(pipe)
	line, err := in.ReadBytes('\n')
	var j job
	if err == nil {
		err = json.Unmarshal(line, &j)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "this command is for matrix itself: it wants a job on stdin")
		return 2
	}
	let := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(let)
	}()
	adopt()
	pid, err := start(j)
	if err != nil {
		say(report{Error: err.Error()})
		return 1
	}
	say(report{PID: pid})
	k := &supervised{pid: pid, first: make(chan syscall.WaitStatus, 1), gone: make(chan struct{})}
	go k.reap()

	var status syscall.WaitStatus
	ended := false
	select {
	case status = <-k.first:
		ended = true
	case <-let:
	case <-end:
	}
	if !ended {
		_ = syscall.Kill(-pid, syscall.SIGTERM)
		select {
		case <-k.gone:
		case <-time.After(j.Grace):
		}
	}
	k.kill()
	if !ended {
		select {
		case status = <-k.first:
		default:
		}
	}
	say(report{Exit: describe(status)})
	return 0
}

// start starts the server in a process group of its own.
func start(j job) (int, error) {
	if _, err := os.Stat(j.Dir); err != nil && j.Dir != "" {
		return 0, err
	}
	log, err := os.OpenFile(j.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(j.Argv[0], j.Argv, &os.ProcAttr{
		Dir: j.Dir, Env: j.Env, Files: []*os.File{null, log, log}, Sys: serverAttr(),
	})
	if err != nil {
		return 0, err
	}
	pid := p.Pid
	_ = p.Release() // reap waits
	return pid, nil
}

// supervised is a server and all that it started.
type supervised struct {
	pid   int
	first chan syscall.WaitStatus // of the server's first process
	gone  chan struct{}           // closed once no child is left
}

// reap waits for all children, adopted ones too.
func (k *supervised) reap() {
	defer close(k.gone)
	for {
		var s syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &s, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // no children
			return
		case pid == k.pid:
			k.first <- s
		}
	}
}

// kill kills what is left of the server and returns when it is gone.
func (k *supervised) kill() {
	_ = syscall.Kill(-k.pid, syscall.SIGKILL)
	for deadline := time.Now().Add(killFor); time.Now().Before(deadline); {
		for _, pid := range descendants(os.Getpid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-k.gone:
			return
		case <-time.After(killEvery):
		}
	}
}

func describe(s syscall.WaitStatus) string {
	switch {
	case s.Signaled():
		return "killed: " + s.Signal().String()
	case s.Exited():
		return fmt.Sprintf("exit code %d", s.ExitStatus())
	}
	return fmt.Sprintf("status %#x", int(s))
}
