//go:build unix

package workers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	lookEvery = 20 * time.Millisecond
	killAfter = 5 * time.Second // from a keeper's second SIGTERM to its SIGKILL
)

// kept are workers that hang on a keeper of this machine: the launcher of
// processes of this machine, and what those over ssh share with it.
type kept struct{}

func (kept) Start(ctx context.Context, g *Group, n int, s Spec) error {
	all := make([]keptWorker, max(1, n))
	host, _ := os.Hostname()
	for i := range all {
		name := fmt.Sprintf("%s-%d", g.ID, i)
		all[i] = keptWorker{
			Unit: Unit{Name: name, Where: host, State: Waiting, Log: filepath.Join(g.Dir, fmt.Sprintf("%d.log", i))},
			Argv: append([]string{s.Program}, s.Command(Worker{Join: "-", Name: name})...),
		}
	}
	return startKeeper(ctx, g, s, all)
}

// startKeeper starts a keeper, detached, and returns when each worker has begun or
// ended, or ctx has.
func startKeeper(ctx context.Context, g *Group, s Spec, all []keptWorker) error {
	join, err := readJoin(s.Join)
	if err != nil {
		return err
	}
	b, err := json.Marshal(keeping{Dir: g.Dir, Join: join, Workers: all})
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(g.Dir, "keeper.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.Command(s.Keeper[0], s.Keeper[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Stderr = log
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := in.Write(append(b, '\n')); err != nil {
			return
		}
		in.Close()
		lines := bufio.NewScanner(out)
		seen := map[string]bool{}
		for len(seen) < len(all) && lines.Scan() {
			seen[lines.Text()] = true
		}
	}()
	select {
	case <-ended:
		out.Close()
	case <-ctx.Done():
		out.Close()
		<-ended
		_ = c.Process.Release()
		return ctx.Err()
	}
	if _, err := owner(g); errors.Is(err, fs.ErrNotExist) {
		err := c.Wait()
		words, _ := os.ReadFile(log.Name())
		return &ToolError{"the process that keeps workers", string(words), errors.Join(err, errors.New("ended at once"))}
	}
	return c.Process.Release()
}

func (kept) List(_ context.Context, g *Group) ([]Unit, error) {
	var all []Unit
	b, err := os.ReadFile(filepath.Join(g.Dir, unitsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, err
	}
	if up, err := owner(g); err == nil && up == nil { // it was killed, and its workers end with it
		for i := range all {
			if !all[i].State.Over() {
				all[i].State, all[i].Text = Failed, "with the process that kept it"
			}
		}
	}
	return all, nil
}

func (kept) Stop(ctx context.Context, g *Group) error {
	var first, second bool
	var deadline <-chan time.Time
	for {
		o, err := owner(g)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case o == nil:
			return nil
		}
		if host, _ := os.Hostname(); host != o.Host {
			return fmt.Errorf("the workers of %s hang on process %d of %s: end them there", g.ID, o.PID, o.Host)
		}
		if !first || !second && ctx.Err() != nil {
			second = first
			first = true
			if err := syscall.Kill(o.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d, which keeps the workers of %s: %w", o.PID, g.ID, err)
			}
			if second {
				deadline = time.After(killAfter)
			}
		}
		select {
		case <-deadline:
			_ = syscall.Kill(o.PID, syscall.SIGKILL)
		case <-time.After(lookEvery):
		}
	}
}

// owner is the keeper of a group; nil where there was one. An error may be
// fs.ErrNotExist: there never was.
func owner(g *Group) (*keeperOwner, error) {
	f, err := os.Open(filepath.Join(g.Dir, keeperFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
			return nil, nil
		}
		o := &keeperOwner{}
		if b, err := os.ReadFile(f.Name()); err != nil {
			return nil, err
		} else if json.Unmarshal(b, o) == nil {
			return o, nil
		}
		time.Sleep(time.Millisecond) // it is writing it
	}
}
