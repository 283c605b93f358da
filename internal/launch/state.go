//go:build unix

package launch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// State is the folder with what is known of the servers of one config on this
// machine. Below it each model has a folder:
//
//	endpoints       base URLs of the servers that are ready, for endpoints: {file: ...}
//	replica-0.log   what the first server writes
//	lock            held by the process that keeps the servers, which it names
//	gpus            a JSON list of those that the servers have
//	down            there when that process is asked to end them
type State struct{ Dir string }

// StateOf is the state of a config, by its path:
// $XDG_STATE_HOME/matrix/models/HOST/NAME-HASH, in ~/.local/state where
// XDG_STATE_HOME is not set.
func StateOf(config string) (State, error) {
	path, err := filepath.Abs(config)
	if err != nil {
		return State{}, err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	root := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(root) {
		home, err := os.UserHomeDir()
		if err != nil {
			return State{}, fmt.Errorf("no folder for the state of model servers: set XDG_STATE_HOME (%w)", err)
		}
		root = filepath.Join(home, ".local", "state")
	}
	host, err := os.Hostname() // homes are shared between machines
	if err != nil {
		host = "localhost"
	}
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if name == "config" {
		name = filepath.Base(filepath.Dir(path))
	}
	sum := sha256.Sum256([]byte(path))
	return State{filepath.Join(root, "matrix", "models", host, name+"-"+hex.EncodeToString(sum[:4]))}, nil
}

func (s State) of(model, file string) string {
	return filepath.Join(s.Dir, url.PathEscape(model), file)
}

// Endpoints is the file with the base URLs of a model's servers.
func (s State) Endpoints(model string) string { return s.of(model, "endpoints") }

// Log is the file with what a server writes.
func (s State) Log(model string, replica int) string {
	return s.of(model, fmt.Sprintf("replica-%d.log", replica))
}

func (s State) mark(model string, replica int) string {
	return fmt.Sprintf("%s%d;", s.marks(model), replica)
}

// marks is how the marks of all servers of a model begin, and of no other model.
func (s State) marks(model string) string { return s.Dir + "#" + url.PathEscape(model) + "/" }

// publish writes the file of endpoints, whole or not at all.
func (s State) publish(model string, urls []string) error {
	text := "# Servers that are ready; written by matrix.\n"
	for _, u := range urls {
		text += u + "\n"
	}
	file := s.Endpoints(model)
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Owner is the process that keeps the servers of a model up.
type Owner struct {
	PID   int
	Since time.Time
}

// UpError says that the servers of a model are up already.
type UpError struct {
	Model string
	By    Owner
}

func (e *UpError) Error() string {
	return fmt.Sprintf("model %q is up already, kept by process %d since %s", e.Model, e.By.PID, e.By.Since.Format(time.DateTime))
}

// modelLock is held by the process that owns the servers of a model.
type modelLock struct {
	state State
	model string
	file  *os.File
	once  sync.Once
}

// claim makes this process the one that keeps the servers of a model, and ends
// what a former one has left. An error may be an *UpError.
func (s State) claim(model string) (*modelLock, error) {
	if err := os.MkdirAll(s.of(model, ""), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.of(model, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for tries := 0; ; tries++ { // Owner holds it for a moment
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil || tries == 5 {
			break
		}
		time.Sleep(killEvery)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			by, _ := s.Owner(model)
			return nil, &UpError{model, by}
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	l := &modelLock{state: s, model: model, file: f}
	_ = os.Remove(s.of(model, "down"))
	_ = os.Remove(s.of(model, "gpus")) // of a former one
	killMarked(s.marks(model))
	b, _ := json.Marshal(Owner{os.Getpid(), time.Now().Truncate(time.Second)})
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = s.publish(model, nil)
	}
	if err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// endAsked reports whether somebody wants the servers to end.
func (l *modelLock) endAsked() bool {
	_, err := os.Stat(l.state.of(l.model, "down"))
	return err == nil
}

// release is for when no server is left.
func (l *modelLock) release() {
	l.once.Do(func() {
		_ = os.Remove(l.state.Endpoints(l.model))
		_ = os.Remove(l.state.of(l.model, "down"))
		l.file.Close()
	})
}

// Owner returns the process that keeps the servers of a model up; false where none does.
func (s State) Owner(model string) (Owner, bool) {
	f, err := os.Open(s.of(model, "lock"))
	if err != nil {
		return Owner{}, false
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return Owner{}, false
	}
	var k Owner
	err = json.NewDecoder(f).Decode(&k)
	return k, err == nil
}

// takeGPUs notes which GPUs the servers of a model have, for gpusTaken.
func (s State) takeGPUs(model string, gpus [][]string) error {
	b, _ := json.Marshal(slices.Concat(gpus...))
	return os.WriteFile(s.of(model, "gpus"), b, 0o600)
}

// gpusTaken are the GPUs of all servers on this machine that some process keeps,
// of this config or of others.
func (s State) gpusTaken() []string {
	var all []string
	states, _ := os.ReadDir(filepath.Dir(s.Dir))
	for _, e := range states {
		other := State{filepath.Join(filepath.Dir(s.Dir), e.Name())}
		for _, m := range other.Models() {
			if _, up := other.Owner(m); !up {
				continue
			}
			var gpus []string
			if b, err := os.ReadFile(other.of(m, "gpus")); err == nil && json.Unmarshal(b, &gpus) == nil {
				all = append(all, gpus...)
			}
		}
	}
	return all
}

// Models lists the models that have a folder here.
func (s State) Models() []string {
	var all []string
	entries, _ := os.ReadDir(s.Dir)
	for _, e := range entries {
		if name, err := url.PathUnescape(e.Name()); err == nil && e.IsDir() {
			all = append(all, name)
		}
	}
	return all
}

// Down ends the servers of a model, whoever keeps them, and returns when they
// are gone; up is false when there were none. It asks first, and kills the
// process that keeps them after grace.
func (s State) Down(ctx context.Context, model string, grace time.Duration) (up bool, err error) {
	k, up := s.Owner(model)
	if !up {
		left := killMarked(s.marks(model))
		_ = os.Remove(s.Endpoints(model))
		return left > 0, nil
	}
	if err := os.WriteFile(s.of(model, "down"), nil, 0o600); err != nil {
		return true, err
	}
	deadline := time.Now().Add(grace)
	for killed := false; ; {
		now, up := s.Owner(model)
		switch {
		case !up:
			killMarked(s.marks(model))
			_ = os.Remove(s.Endpoints(model))
			return true, nil
		case now.PID != k.PID:
			return true, nil // somebody has started others
		case time.Now().After(deadline) && !killed:
			killed = true
			deadline = time.Now().Add(grace)
			if err := syscall.Kill(k.PID, syscall.SIGKILL); err != nil {
				return true, fmt.Errorf("model %q: process %d keeps its servers and does not end: %w", model, k.PID, err)
			}
		case time.Now().After(deadline):
			return true, fmt.Errorf("model %q: process %d keeps its servers and does not end", model, k.PID)
		}
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-time.After(killEvery):
		}
	}
}
