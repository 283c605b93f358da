package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// cgroups are where control groups of boxes are made: below the one that this process
// is in, by controller (man 7 cgroups). Both versions may be there at once.
type cgroups struct {
	v1 map[string]string // controller to folder
	v2 string            // folder; empty for none, or one that has none of the controllers
}

const (
	cpuGroup    = "cpu"
	memoryGroup = "memory"
	pidsGroup   = "pids"
)

// wanted are the controllers that limits need.
func (l Limits) wanted() []string {
	var all []string
	if l.CPU > 0 {
		all = append(all, cpuGroup)
	}
	if l.Memory > 0 {
		all = append(all, memoryGroup)
	}
	if l.PIDs > 0 {
		all = append(all, pidsGroup)
	}
	return all
}

// findCgroups finds the control groups of this process.
func findCgroups(self, mountinfo []byte) cgroups {
	type mount struct{ root, point, kind, options string }
	var mounts []mount
	for text := range bytes.Lines(mountinfo) {
		before, after, ok := strings.Cut(string(text), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if ok && len(f) > 4 && len(g) > 2 {
			mounts = append(mounts, mount{f[3], f[4], g[0], g[2]})
		}
	}
	c := cgroups{v1: map[string]string{}}
	for text := range bytes.Lines(self) {
		f := strings.SplitN(strings.TrimSpace(string(text)), ":", 3)
		if len(f) < 3 {
			continue
		}
		for _, m := range mounts {
			rel, err := filepath.Rel(m.root, f[2])
			if err != nil || strings.HasPrefix(rel, "..") {
				continue
			}
			dir := filepath.Join(m.point, rel)
			if f[0] == "0" && m.kind == "cgroup2" {
				c.v2 = dir
			}
			for _, name := range strings.Split(f[1], ",") {
				if m.kind == "cgroup" && name != "" && slices.Contains(strings.Split(m.options, ","), name) {
					c.v1[name] = dir
				}
			}
		}
	}
	return c
}

// enable makes the controllers of version 2 usable for groups below, where they are not.
// It returns those that are to be had in neither version, and why.
func (c *cgroups) enable(wanted []string) (missing []string, why error) {
	var v2 []string
	for _, name := range wanted {
		if c.v1[name] == "" {
			v2 = append(v2, name)
		}
	}
	if len(v2) == 0 {
		return nil, nil
	}
	if c.v2 == "" {
		return v2, errors.New("no control groups are mounted here")
	}
	text, err := os.ReadFile(filepath.Join(c.v2, "cgroup.controllers"))
	if err != nil {
		return v2, err
	}
	for _, name := range v2 {
		if !slices.Contains(strings.Fields(string(text)), name) {
			missing = append(missing, name)
			why = fmt.Errorf("%s has no controller %s", c.v2, name)
			continue
		}
		if err := c.enableBelow(name); err != nil {
			missing, why = append(missing, name), err
		}
	}
	return missing, why
}

// enableBelow lets groups below have a controller. A group that gives one away may have no
// processes: this one moves into a group of its own, if it is the only one.
func (c *cgroups) enableBelow(name string) error {
	control := filepath.Join(c.v2, "cgroup.subtree_control")
	err := os.WriteFile(control, []byte("+"+name), 0)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	procs, err := os.ReadFile(filepath.Join(c.v2, "cgroup.procs"))
	if err != nil {
		return err
	}
	if ids := strings.Fields(string(procs)); len(ids) != 1 || ids[0] != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("%s has other processes beside this one: run matrix in a group of its own, as by systemd-run --user --scope -p Delegate=yes matrix ...", c.v2)
	}
	own := filepath.Join(c.v2, "matrix")
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	return os.WriteFile(control, []byte("+"+name), 0)
}

// cgroup is the control groups of one box.
type cgroup struct {
	dirs   []string
	memory string // file in which kills for want of memory are counted
	kills  atomic.Int64
}

// make makes the groups of a box.
func (c *cgroups) make(name string, l Limits, without []string) (*cgroup, error) {
	g := &cgroup{}
	made := map[string]bool{}
	set := func(controller, v1File, v1Value, v2File, v2Value string) error {
		if slices.Contains(without, controller) {
			return nil
		}
		parent, file, value := c.v2, v2File, v2Value
		if c.v1[controller] != "" {
			parent, file, value = c.v1[controller], v1File, v1Value
		}
		dir := filepath.Join(parent, name)
		if !made[dir] {
			made[dir] = true
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			g.dirs = append(g.dirs, dir)
		}
		if controller == memoryGroup {
			g.memory = filepath.Join(dir, "memory.events")
			if c.v1[controller] != "" {
				g.memory = filepath.Join(dir, "memory.oom_control")
			}
		}
		return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644)
	}
	var err error
	if l.Memory > 0 {
		n := strconv.FormatInt(int64(l.Memory), 10)
		err = errors.Join(err, set(memoryGroup, "memory.limit_in_bytes", n, "memory.max", n))
	}
	if l.PIDs > 0 {
		n := strconv.Itoa(l.PIDs + ownThreads)
		err = errors.Join(err, set(pidsGroup, "pids.max", n, "pids.max", n))
	}
	if l.CPU > 0 {
		const period = 100_000 // microseconds
		quota := strconv.FormatInt(max(1000, int64(l.CPU*period)), 10)
		err = errors.Join(err, set(cpuGroup, "cpu.cfs_quota_us", quota, "cpu.max", quota+" "+strconv.Itoa(period)))
	}
	if err != nil {
		g.remove()
		return nil, fmt.Errorf("control group %s: %w", name, err)
	}
	return g, nil
}

// ownThreads are those of the supervisor and of what starts it, beside what commands may have.
const ownThreads = 16

// procs are the files that a process is written into.
func (g *cgroup) procs() []string {
	var all []string
	for _, d := range g.dirs {
		all = append(all, filepath.Join(d, "cgroup.procs"))
	}
	return all
}

// oom reports whether a process was killed for want of memory since it was asked last.
func (g *cgroup) oom() bool {
	f, err := os.Open(g.memory)
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "oom_kill "); ok {
			n, _ := strconv.ParseInt(text, 10, 64)
			return n > g.kills.Swap(n)
		}
	}
	return false
}

// remove kills what is in the groups, and removes them.
func (g *cgroup) remove() {
	for _, d := range g.dirs {
		_ = removeCgroup(d) // what is left is swept
	}
}

// removeCgroup removes a group, and what it has below, as a process inside may have made.
func removeCgroup(dir string) error {
	var err error
	for wait := 100 * time.Microsecond; wait < 4*time.Second; wait *= 2 {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		killCgroup(dir)
		if below, readErr := os.ReadDir(dir); readErr == nil {
			for _, e := range below {
				if e.IsDir() {
					_ = removeCgroup(filepath.Join(dir, e.Name()))
				}
			}
		}
		time.Sleep(wait) // the kernel tells nobody when the last process is gone
	}
	return fmt.Errorf("%s: %w", dir, err)
}

func killCgroup(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, id := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(id); err == nil && pid > 1 && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// sweep removes the groups that dead processes of a run left for a pool: their names begin with prefix.
func (c *cgroups) sweep(prefix string) (int, error) {
	dirs := map[string]bool{}
	for _, dir := range c.v1 {
		dirs[dir] = true
	}
	if c.v2 != "" {
		dirs[c.v2] = true
	}
	swept := map[string]bool{}
	var errs error
	for parent := range dirs {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), prefix) && !ownerLives(e.Name()) {
				swept[e.Name()] = true
				errs = errors.Join(errs, removeCgroup(filepath.Join(parent, e.Name())))
			}
		}
	}
	return len(swept), errs
}
