package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"matrix/matrixtest"
	"matrix/sandbox"
)

// storm is what a process of TestStorm does.
type storm struct {
	Kind   string
	Config sandbox.Config
	Run    string
	Folder string
	Tasks  int
	Each   int // commands
}

const stormVariable = "MATRIX_TEST_STORM"

// Processes that hold sandboxes, what starts sandboxes, and supervisors are killed at
// random moments. Afterwards every command ran once, and nothing is left.
// MATRIX_SANDBOX_KILLS says how many are killed; 48 without it.
func TestStorm(t *testing.T) {
	kills := 48
	if text := os.Getenv("MATRIX_SANDBOX_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	config := func(r sandbox.Restore, d sandbox.InDoubt) sandbox.Config {
		c := matrixtest.SandboxConfig()
		c.Restore, c.InDoubt, c.Size, c.Park = r, d, 3, 20*time.Millisecond
		return c
	}
	modes := []storm{
		{Kind: "bwrap", Config: config(sandbox.RestoreReplay, sandbox.Rewind)},
		{Kind: "bwrap", Config: config(sandbox.RestoreDisk, sandbox.Rewind)},
		{Kind: "bwrap", Config: config(sandbox.RestoreDisk, sandbox.Rebuild)},
		{Kind: "plain", Config: config(sandbox.RestoreReplay, sandbox.Rewind)},
	}
	limit := limited(t, openPlain)
	for _, s := range modes {
		t.Run(fmt.Sprintf("%s %s %s", s.Kind, s.Config.Restore, s.Config.InDoubt), func(t *testing.T) {
			if s.Kind == "bwrap" {
				needBwrap(t)
			}
			if limit {
				s.Config.Limits.PIDs, s.Config.Limits.Memory = 100, 1<<30
			}
			s.Run, s.Folder, s.Tasks, s.Each = t.Name(), t.TempDir(), 5, 8
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			blow(t, s, kills/len(modes), rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func blow(t *testing.T, s storm, kills int, random *rand.Rand) {
	hosts := 0
	for round := 0; ; round++ {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStormProcess$", "-test.v")
		cmd.Env = append(os.Environ(), stormVariable+"="+string(text))
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		err = s.disturb(cmd, ended, &kills, &hosts, random)
		switch {
		case errors.Is(err, errKilled):
		case err != nil:
			t.Fatalf("round %d: %v\n%s", round, err, out.String())
		case kills > 0: // all has come to its end: once more, as another run
			if left := matrixtest.SandboxesLeft(s.Run); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
			s.Run, s.Folder = s.Run+"'", t.TempDir()
		default:
			t.Logf("%d times the process that holds all", hosts)
			if left := matrixtest.SandboxesLeft(s.Run); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
			return
		}
	}
}

var errKilled = errors.New("it was killed")

// disturb kills processes below cmd, until it has ended or is killed itself.
func (s storm) disturb(cmd *exec.Cmd, ended <-chan error, kills, hosts *int, random *rand.Rand) error {
	for *kills > 0 {
		wait := time.Duration(random.IntN(200)) * time.Millisecond
		if len(descendants(cmd.Process.Pid)) == 0 { // it has not begun
			wait = 2 * time.Millisecond
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(wait):
		}
		below := descendants(cmd.Process.Pid)
		if len(below) == 0 {
			continue
		}
		*kills--
		if random.IntN(3) > 0 {
			_ = syscall.Kill(below[random.IntN(len(below))], syscall.SIGKILL)
			continue
		}
		*hosts++
		_ = cmd.Process.Kill()
		<-ended
		return errKilled
	}
	return <-ended
}

// descendants are the processes below pid that hold sandboxes: supervisors, and what
// starts them. What a command started is its own: killed, it is a result.
func descendants(pid int) (all []int) {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, file := range tasks {
		b, _ := os.ReadFile(file)
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				comm, _ := os.ReadFile("/proc/" + f + "/comm")
				switch {
				case bytes.Contains(comm, []byte("inside")): // below are commands
					all = append(all, child)
				case bytes.Contains(comm, []byte("bwrap")):
					all = append(append(all, child), descendants(child)...)
				}
			}
		}
	}
	return all
}

// TestStormProcess is what TestStorm starts and kills.
func TestStormProcess(t *testing.T) {
	text := os.Getenv(stormVariable)
	if text == "" {
		t.Skip("it is of TestStorm")
	}
	var s storm
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	open := openBwrap
	if s.Kind == "plain" {
		open = openPlain
	}
	p, err := open(s.Config, sandbox.Options{Run: s.Run, Pool: "box", Folder: filepath.Join(s.Folder, "pool")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Sweep(t.Context(), func(sandbox.Key) bool { return true }); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range s.Tasks {
		all.Go(func() {
			if err := s.task(t.Context(), p, strconv.Itoa(i)); err != nil {
				t.Errorf("task %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// task runs the commands of a task, and commits each, as a run does.
func (s storm) task(ctx context.Context, p sandbox.Pool, task string) error {
	key, file := sandbox.Key{Run: s.Run, Pool: "box", Task: task}, filepath.Join(s.Folder, task)
	for {
		past, err := committed(file)
		if err != nil {
			return err
		}
		n := len(past) + 1
		c := sandbox.Command{Key: strconv.Itoa(n) + "/0", Shell: "echo " + strconv.Itoa(n) + " >> log; sleep 0.01; echo end >> log; cat log"}
		r, err := s.step(ctx, p, key, past, c)
		var lost *sandbox.LostError
		var full *sandbox.FullError
		if errors.As(err, &lost) || errors.As(err, &full) {
			continue
		}
		if err != nil {
			return err
		}
		want := ""
		for i := range n {
			want += strconv.Itoa(i+1) + "\nend\n"
		}
		if string(r.Out) != want || r.Code != 0 {
			return fmt.Errorf("after command %d: got %q (code %d, %s), want %q", n, r.Out, r.Code, r.Err, want)
		}
		if n == s.Each {
			return p.Release(ctx, key)
		}
		if err := commit(file, c); err != nil {
			return err
		}
	}
}

func (s storm) step(ctx context.Context, p sandbox.Pool, key sandbox.Key, past []sandbox.Command, c sandbox.Command) (sandbox.Result, error) {
	l, err := p.Lease(ctx, key, sandbox.Spec{Setup: []string{"mkdir made"}}, sandbox.Past{Calls: past})
	if err != nil {
		return sandbox.Result{}, err
	}
	defer l.Done()
	return l.Exec(ctx, c)
}

func committed(file string) (past []sandbox.Command, err error) {
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for text := range bytes.Lines(b) {
		var c sandbox.Command
		if bytes.HasSuffix(text, []byte("\n")) && json.Unmarshal(text, &c) == nil {
			past = append(past, c)
		}
	}
	return past, nil
}

func commit(file string, c sandbox.Command) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}
