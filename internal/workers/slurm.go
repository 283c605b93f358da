package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// slurm starts workers as a job array, by the name of the group. The folder of the
// group and the file with the line to join by must be on a file system that the nodes share.
type slurm struct {
	options []string // of sbatch
	look    time.Duration
}

func newSlurm(arg string) (Launcher, error) {
	options, err := words(arg)
	for _, o := range options {
		if !strings.HasPrefix(o, "-") && err == nil {
			err = fmt.Errorf("%q is no option of sbatch: write them as --partition=gpu", o)
		}
	}
	return &slurm{options, time.Second}, err
}

// nameMark stands for the name of a worker where only its system knows it.
const nameMark = "\x00name"

func (l *slurm) Start(ctx context.Context, g *Group, n int, s Spec) error {
	program, err := l.program(g, s.Program)
	if err != nil {
		return err
	}
	if _, err := readJoin(s.Join); err != nil {
		return err
	}
	command := strings.ReplaceAll(quoteAll(s.Command(Worker{Join: s.Join, Name: nameMark})), quote(nameMark), `"$name"`)
	script := fmt.Sprintf(`#!/bin/sh
# A worker of matrix; written by it, and the same for each task of the array.
name=%s-${SLURM_ARRAY_TASK_ID}-${SLURM_RESTART_COUNT:-0}
for f in %[2]s %[3]s; do
	[ -r "$f" ] && continue
	echo "$(hostname): there is no $f here: the run has ended, or it is not on a file system that the nodes share" >&2
	exit 1
done
exec %[2]s %[4]s
`, g.ID, quote(program), quote(s.Join), command)
	file := filepath.Join(g.Dir, "job.sh")
	if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
		return err
	}
	// Without --export the environment would be that of this process, secrets included;
	// the signal comes a minute before the time limit, to the worker, which the script becomes.
	argv := append([]string{"sbatch", "--job-name=" + g.ID, fmt.Sprintf("--array=0-%d", max(1, n)-1), "--export=NONE",
		"--requeue", "--signal=B:TERM@60", "--chdir=" + g.Dir, "--open-mode=append",
		"--output=" + filepath.Join(strings.ReplaceAll(g.Dir, "%", "%%"), "%a.log")}, l.options...)
	_, err = tool(ctx, "", nil, append(argv, file)...)
	return err
}

// program copies the program to where the nodes find it, once for all groups.
func (l *slurm) program(g *Group, path string) (string, error) {
	b, err := openBinary(path)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(g.Dir), "bin")
	to := filepath.Join(dir, b.name)
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return to, writeWhole(to, content, 0o700)
}

func (l *slurm) List(ctx context.Context, g *Group) ([]Unit, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	out, err := tool(ctx, "", nil, "squeue", "--noheader", "--array", "--name", g.ID, "--user", me.Username, "--format=%K|%T|%N|%r")
	if err != nil {
		return nil, err
	}
	var all []Unit
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(f) < 4 {
			return nil, &ToolError{"squeue", line, errors.New("wrote a line that is not as asked for")}
		}
		u := Unit{Name: g.ID + "-" + f[0], Where: f[2], State: Waiting, Text: strings.ToLower(f[1]), Log: filepath.Join(g.Dir, f[0]+".log")}
		switch f[1] {
		case "RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING":
			u.State = Running
		case "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "RESIZING":
			if f[3] != "None" && f[3] != "" {
				u.Text += " (" + f[3] + ")"
			}
		case "COMPLETED", "CANCELLED", "TIMEOUT", "PREEMPTED": // these and others are told for some minutes
			u.State = Ended
		default:
			u.State = Failed
		}
		all = append(all, u)
	}
	return all, nil
}

func (l *slurm) Stop(ctx context.Context, g *Group) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	cancel := func(ctx context.Context, how ...string) error {
		_, err := tool(ctx, "", nil, append([]string{"scancel", "--name", g.ID, "--user", me.Username}, how...)...)
		return err
	}
	late := context.WithoutCancel(ctx)
	if err := cancel(ctx, "--state=PENDING"); err != nil && ctx.Err() == nil {
		return err
	}
	for told := map[string]bool{}; ctx.Err() == nil; {
		all, err := l.List(ctx, g)
		if err != nil && ctx.Err() == nil {
			return err
		}
		left, fresh := false, false
		for _, u := range all {
			left = left || !u.State.Over()
			if u.State == Running && !told[u.Name] {
				told[u.Name], fresh = true, true
			}
		}
		if !left && err == nil {
			return nil
		}
		if fresh { // one that was about to begin is told when it has
			if err := cancel(ctx, "--state=RUNNING", "--batch", "--signal=TERM"); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-time.After(l.look):
		case <-ctx.Done():
		}
	}
	end, done := context.WithTimeout(late, time.Minute)
	defer done()
	if err := cancel(end); err != nil {
		return err
	}
	for {
		all, err := l.List(end, g)
		if err != nil {
			return err
		}
		left := 0
		for _, u := range all {
			if !u.State.Over() {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(l.look):
		case <-end.Done():
			return fmt.Errorf("%d jobs of %s are cancelled and have not ended", left, g.ID)
		}
	}
}
