//go:build unix

package workers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// keeping is what a keeper is to do: the first line on its stdin.
type keeping struct {
	Dir     string // folder of the group
	Join    string // the line by which workers join
	Workers []keptWorker
}

// keptWorker is a command that a keeper runs.
type keptWorker struct {
	Unit
	Argv []string
	// Begins is a line that the command writes to its stdout once it is connected
	// and the worker is about to begin. Empty: it begins as it is started.
	Begins string
	// Lost is the exit code that says that the connection was lost or never there, and
	// the command is run again; 0 is none.
	Lost int
}

const (
	keeperFile = "keeper"     // locked by the keeper, which it names
	unitsFile  = "units.json" // what it says of its workers
	atOnce     = 8            // connections that are made at once: sshd drops more than 10 by default
)

// pace says how a lost connection is made again.
type pace struct {
	first, most time.Duration // before it is tried again: doubled each time
	whole       time.Duration // a connection that lasted that long was one: the count begins anew
	give        int           // failures in a row after which it is given up
}

var paced = pace{first: time.Second, most: time.Minute, whole: time.Minute, give: 20}

// keeperOwner is the process that keeps a group.
type keeperOwner struct {
	PID  int    `json:"pid"`
	Host string `json:"host"`
}

// Keep is what the process does that workers on this machine and over ssh hang on: it
// runs the commands that the first line of in describes, gives each the line to join
// with and holds its stdin open, so that the workers end with this process. SIGTERM
// closes them, and a second one kills the commands. Nothing else may run in the
// process. It returns the exit code once none is left; it writes a line to report
// as soon as each worker has begun or has ended.
func Keep(in io.Reader, report io.Writer) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	told := make(chan os.Signal, 2)
	signal.Notify(told, syscall.SIGTERM)
	var k keeping
	line, err := bufio.NewReader(in).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &k)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "this command is for matrix itself: it wants a list of workers on stdin")
		return 2
	}
	if err := keep(k, paced, told, report); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func keep(k keeping, p pace, told <-chan os.Signal, report io.Writer) error {
	f, err := os.OpenFile(filepath.Join(k.Dir, keeperFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for tries := 0; ; tries++ { // who looks for its owner holds it for a moment
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if tries == 50 {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		time.Sleep(lookEvery)
	}
	host, _ := os.Hostname()
	b, _ := json.Marshal(keeperOwner{os.Getpid(), host})
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}

	// ask ends the workers, kill the commands.
	asked, ask := context.WithCancel(context.Background())
	killed, kill := context.WithCancel(context.Background())
	defer ask()
	defer kill()
	over := make(chan struct{})
	defer close(over)
	go func() {
		for _, end := range []func(){ask, kill} {
			select {
			case <-told:
				end()
			case <-over:
				return
			}
		}
	}()

	g := &keeper{keeping: k, pace: p, asked: asked, killed: killed, slots: make(chan struct{}, atOnce), report: report}
	g.mu.Lock()
	err = g.write()
	g.mu.Unlock()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for i := range k.Workers {
		all.Go(func() { g.one(i) })
	}
	all.Wait()
	return nil
}

type keeper struct {
	keeping
	pace          pace
	asked, killed context.Context
	slots         chan struct{} // for connections that are being made
	report        io.Writer

	mu sync.Mutex // for Units, their file, and report
}

// tell notes what a worker is at.
func (k *keeper) tell(i int, s State, text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	u := &k.Workers[i].Unit
	*u = Unit{Name: u.Name, Where: u.Where, State: s, Text: text, Log: u.Log}
	if err := k.write(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if s != Waiting { // who is told looks at the file
		fmt.Fprintln(k.report, u.Name) // and may be gone
	}
}

// write writes the file of units; mu is held.
func (k *keeper) write() error {
	units := make([]Unit, len(k.Workers))
	for i, w := range k.Workers {
		units[i] = w.Unit
	}
	b, err := json.Marshal(units)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(k.Dir, unitsFile), b, 0o600)
}

// one runs a worker until it has ended.
func (k *keeper) one(i int) {
	w := &k.Workers[i]
	k.tell(i, Waiting, "")
	for failed := 0; ; {
		began := time.Now()
		err := k.run(i)
		if time.Since(began) >= k.pace.whole {
			failed = 0
		}
		failed++
		var exit *exec.ExitError
		lost := w.Lost != 0 && errors.As(err, &exit) && exit.ExitCode() == w.Lost
		switch {
		case !lost || k.asked.Err() != nil:
			s := Ended
			if err != nil && k.asked.Err() == nil {
				s = Failed
			}
			k.tell(i, s, how(err))
			return
		case failed >= k.pace.give:
			k.tell(i, Failed, fmt.Sprintf("given up: %d connections in a row failed", failed))
			return
		}
		wait := min(k.pace.first<<(failed-1), k.pace.most)
		k.tell(i, Waiting, fmt.Sprintf("no connection; trying again in %v", wait))
		select {
		case <-time.After(wait):
		case <-k.asked.Done():
		}
	}
}

func how(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// run runs a worker's command once.
func (k *keeper) run(i int) error {
	w := &k.Workers[i]
	hold := w.Begins != ""
	if hold {
		select {
		case k.slots <- struct{}{}:
		case <-k.asked.Done():
			return errors.New("told to end before it began")
		}
	}
	var once sync.Once
	begun := func() {
		once.Do(func() {
			if hold {
				<-k.slots
			}
		})
	}
	defer begun()
	log, err := os.OpenFile(w.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.CommandContext(k.killed, w.Argv[0], w.Argv[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of reach of the terminal
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.Stderr = log
	c.WaitDelay = time.Second
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if hold {
		c.Stdout = &afterLine{line: []byte(w.Begins + "\n"), then: func() {
			begun()
			k.tell(i, Running, "")
		}, to: log}
	} else {
		c.Stdout = log
	}
	if err := c.Start(); err != nil {
		in.Close()
		return err
	}
	if !hold {
		k.tell(i, Running, "")
	}
	ended := make(chan struct{})
	var fed sync.WaitGroup
	fed.Go(func() {
		defer in.Close()
		if _, err := io.WriteString(in, k.Join+"\n"); err != nil {
			return // it has ended, and says why
		}
		select {
		case <-k.asked.Done():
		case <-ended:
		}
	})
	err = c.Wait()
	close(ended)
	fed.Wait()
	return err
}

// afterLine writes what comes after a line, and calls then once at it. Before it is what
// the login to a host prints.
type afterLine struct {
	line   []byte
	then   func()
	to     io.Writer
	before []byte // the last bytes, fewer than line has
	past   bool
}

func (a *afterLine) Write(p []byte) (int, error) {
	n := len(p)
	if !a.past {
		seen := append(a.before, p...)
		at := bytes.Index(seen, a.line)
		if at < 0 {
			a.before = append([]byte(nil), seen[max(0, len(seen)-len(a.line)+1):]...)
			return n, nil
		}
		a.past, a.before = true, nil
		a.then()
		p = seen[at+len(a.line):]
	}
	if len(p) > 0 {
		if _, err := a.to.Write(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}
