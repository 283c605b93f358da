//go:build unix

package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Local starts servers on this machine.
type Local struct {
	self  []string
	state State
	grace time.Duration
	gpus  map[string][][]string
	argv  map[string][]string

	mu    sync.Mutex
	ports map[string]int // given last, by server
}

const (
	markVar      = "MATRIX_SERVER"
	defaultGrace = 10 * time.Second
	tailLines    = 20
	tailBytes    = 4 << 10
)

// NewLocal returns a launcher of the servers of models, which has been checked
// to be possible: engines are installed, GPUs and ports are there. self is the
// command line that runs Supervise on its stdin.
func NewLocal(self []string, state State, models []Model) (*Local, error) {
	l := &Local{self: self, state: state, grace: defaultGrace, argv: map[string][]string{}, ports: map[string]int{}}
	var errs []error
	for i := range models {
		m := &models[i]
		c, err := m.command()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.argv[m.Name] = c
		for r := range m.replicas() {
			if p := m.Serve.Port; p != 0 && !free(p+r) {
				errs = append(errs, fmt.Errorf("model %q: port %d is taken by another program: choose another, or port: 0 for any that is free", m.Name, p+r))
			}
		}
	}
	env, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	var visible, taken []string
	if slices.ContainsFunc(models, func(m Model) bool { n, _ := m.Serve.gpus(); return n > 0 }) {
		visible, taken = visibleGPUs(env, set), state.gpusTaken()
	}
	var err error
	if l.gpus, err = shareGPUs(models, visible, taken); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return l, nil
}

func free(port int) bool {
	ln, err := net.Listen("tcp", net.JoinHostPort(Host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

// port finds a port for a server: the one it had, if it is free.
func (l *Local) port(m *Model, replica int) (int, error) {
	if m.Serve.Port != 0 {
		p := m.Serve.Port + replica
		if !free(p) {
			return 0, fmt.Errorf("port %d is taken by another program", p)
		}
		return p, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := fmt.Sprintf("%s/%d", m.Name, replica)
	if p := l.ports[key]; p != 0 && free(p) {
		return p, nil
	}
	delete(l.ports, key)
	for {
		ln, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
		if err != nil {
			return 0, err
		}
		p := ln.Addr().(*net.TCPAddr).Port
		ln.Close()
		given := false
		for _, other := range l.ports {
			given = given || other == p
		}
		if !given {
			l.ports[key] = p
			return p, nil
		}
	}
}

// launch starts one server of a model and does not wait for it to be ready.
// Launching a replica again is for when its last server has ended.
func (l *Local) launch(ctx context.Context, m *Model, replica int) (*server, error) {
	port, err := l.port(m, replica)
	if err != nil {
		return nil, err
	}
	gpus := l.gpus[m.Name][replica]
	mark := l.state.mark(m.Name, replica)
	j := job{Dir: m.Dir, Log: l.state.Log(m.Name, replica), Grace: l.grace}
	for _, a := range l.argv[m.Name] {
		j.Argv = append(j.Argv, m.fill(a, replica, port, gpus))
	}
	env := map[string]string{"PYTHONUNBUFFERED": "1", markVar: mark}
	if _, only := m.Serve.gpus(); only {
		env["CUDA_VISIBLE_DEVICES"] = strings.Join(gpus, ",")
	}
	for k, v := range m.Serve.Env {
		env[k] = m.fill(v, replica, port, gpus)
	}
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		if _, ours := env[k]; !ours {
			j.Env = append(j.Env, kv)
		}
	}
	for k, v := range env {
		j.Env = append(j.Env, k+"="+v)
	}
	note := fmt.Sprintf("--- %s: %s\n", time.Now().Format(time.RFC3339), strings.Join(j.Argv, " "))
	logFrom, err := appendTo(j.Log, note)
	if err != nil {
		return nil, err
	}
	if err := l.state.takeGPUs(m.Name, l.gpus[m.Name]); err != nil {
		return nil, err
	}
	health, anyAnswer := m.health(port)
	s := &server{url: m.base(port), health: health, anyAnswer: anyAnswer, log: j.Log, logFrom: logFrom, mark: mark, done: make(chan struct{})}
	if err := s.start(l.self, j); err != nil {
		return nil, err
	}
	return s, nil
}

// appendTo adds text to a file, and says where in it the text begins.
func appendTo(file, text string) (at int64, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	at, err = f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.WriteString(text)
	}
	return at, errors.Join(err, f.Close())
}

// server is a process on this machine, behind its supervisor.
type server struct {
	url, health string // base URL of its API; what is asked whether it is ready
	anyAnswer   bool
	log, mark   string
	logFrom     int64 // where in log its own part begins
	pipe        *os.File
	supervisor  *exec.Cmd
	pid         int
	done        chan struct{} // closed when nothing of it is left
	err         error         // how it ended; after done
	once        sync.Once
}

// start starts the supervisor and waits for it to have started the server.
func (s *server) start(self []string, j job) error {
	in, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	reports, out, err := os.Pipe()
	if err != nil {
		pipe.Close()
		return err
	}
	s.supervisor = exec.Command(self[0], self[1:]...)
	s.supervisor.Stdin, s.supervisor.ExtraFiles = in, []*os.File{out}
	s.supervisor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = s.supervisor.Start()
	out.Close()
	if err != nil {
		pipe.Close()
		reports.Close()
		return err
	}
	s.pipe = pipe
	b, _ := json.Marshal(j)
	_, err = pipe.Write(append(b, '\n'))
	lines := bufio.NewReader(reports)
	r, rerr := next(lines)
	if err = errors.Join(err, rerr); err != nil || r.Error != "" {
		pipe.Close()
		werr := s.supervisor.Wait()
		reports.Close()
		if r.Error != "" {
			return errors.New(r.Error)
		}
		return fmt.Errorf("the supervisor of the server did not start: %w", errors.Join(err, werr))
	}
	s.pid = r.PID
	go func() {
		defer close(s.done)
		last, err := next(lines)
		reports.Close()
		_ = s.supervisor.Wait() // how the server ended counts
		s.drop()
		if s.err = errors.New(last.Exit); err != nil { // the supervisor was killed
			s.sweep()
			s.err = errors.New("its supervisor was killed")
		}
	}()
	return nil
}

func next(r *bufio.Reader) (report, error) {
	var rep report
	line, err := r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &rep)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it ended without a word")
	}
	return rep, err
}

// sweep kills what a dead supervisor has left.
func (s *server) sweep() {
	_ = syscall.Kill(-s.pid, syscall.SIGKILL)
	killMarked(s.mark)
}

// killMarked kills the processes that have a mark until there are none.
func killMarked(prefix string) (killed int) {
	for deadline := time.Now().Add(killFor); time.Now().Before(deadline); time.Sleep(killEvery) {
		pids := marked(prefix)
		if len(pids) == 0 {
			break
		}
		killed = max(killed, len(pids))
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return killed
}

func (s *server) drop() { s.once.Do(func() { s.pipe.Close() }) }

// stop ends the server and returns when nothing of it is left.
func (s *server) stop() {
	s.drop()
	<-s.done
}

// tailOf is the end of what a file holds from an offset on: some lines, each of
// them whole.
func tailOf(file string, from int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(from, info.Size()-tailBytes), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimRight(strings.ToValidUTF8(string(b), "\uFFFD"), "\n"), "\n")
	if len(b) == tailBytes && len(lines) > 1 {
		lines = lines[1:]
	}
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
