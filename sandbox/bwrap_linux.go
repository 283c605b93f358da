package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"matrix/internal/child"
	"matrix/sandbox/inside"
)

// NewBwrap returns a pool of sandboxes that bubblewrap makes: namespaces of their own of
// this machine's kernel, and nothing of this machine but what programs need.
func NewBwrap(b Bwrap, o Options) (Pool, error) {
	w := &bwrap{config: b, options: o}
	return newEngine(b.Config, o, w)
}

type bwrap struct {
	config  Bwrap
	options Options
	spawner child.Spawner

	once    sync.Once
	err     error
	program string   // bwrap
	base    string   // folder of this process: the supervisor, the skeleton of a file system, where others are mounted
	inside  string   // the supervisor
	root    bool     // this process is root
	groups  cgroups  //
	without []string // controllers that are not to be had
	why     error    // why they are not
}

const (
	nobody   = 65534
	innerID  = "1000" // user and group of commands, as they see it
	innerSup = "/.inside"
)

func (w *bwrap) layers() bool { return true }

// prepare makes what all boxes share.
func (w *bwrap) prepare() error {
	w.once.Do(func() { w.err = w.setUp() })
	return w.err
}

func (w *bwrap) setUp() (err error) {
	if w.program, err = exec.LookPath("bwrap"); err != nil {
		return &ImageError{"bwrap", errors.New("there is no program bwrap here: install bubblewrap (apt-get install bubblewrap, dnf install bubblewrap)")}
	}
	if w.program, err = filepath.Abs(w.program); err != nil {
		return err
	}
	w.root = os.Geteuid() == 0
	w.base = filepath.Join(os.TempDir(), runPrefix(w.options.Run)+"-"+w.options.Pool+owner()+"."+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := os.MkdirAll(filepath.Join(w.base, "m"), 0o755); err != nil {
		return err
	}
	if w.inside, err = Binary(w.base); err != nil {
		return err
	}
	if err := skeleton(filepath.Join(w.base, "skeleton")); err != nil {
		return err
	}
	w.groups, w.without, w.why = openCgroups(w.config.Limits)
	return nil
}

// openCgroups finds the control groups that limits need, those that are not to be had, and why.
func openCgroups(l Limits) (cgroups, []string, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return cgroups{}, l.wanted(), err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, l.wanted(), err
	}
	c := findCgroups(self, mounts)
	missing, why := c.enable(l.wanted())
	for _, name := range l.wanted() { // each for itself: one may be ours and another one not
		if slices.Contains(missing, name) {
			continue
		}
		one := Limits{}
		switch name {
		case cpuGroup:
			one.CPU = 1
		case memoryGroup:
			one.Memory = 1 << 30
		case pidsGroup:
			one.PIDs = 100
		}
		g, err := c.make("mx-check-"+name+strconv.FormatInt(time.Now().UnixNano(), 36)+owner(), one, nil) // several pools may ask at once
		if err != nil {
			missing, why = append(missing, name), err
			continue
		}
		g.remove()
	}
	return c, missing, why
}

// skeleton makes the file system that a sandbox has where it is given none: folders,
// and of /etc what programs cannot do without.
func skeleton(dir string) error {
	for _, d := range []string{"dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "tmp", "usr", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"home", "tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if to, err := os.Readlink("/" + d); err == nil {
			if err := os.Symlink(to, filepath.Join(dir, d)); err != nil {
				return err
			}
		} else if _, err := os.Stat("/" + d); err == nil { // bound, by args
			if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
				return err
			}
		}
	}
	for name, text := range map[string]string{
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nuser:x:" + innerID + ":" + innerID + "::" + DefaultDir + ":/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"group":         "root:x:0:\nuser:x:" + innerID + ":\nnogroup:x:65534:\n",
		"hosts":         "127.0.0.1 localhost sandbox\n::1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"ld.so.cache", "ld.so.conf", "localtime", "mime.types"} {
		if text, err := os.ReadFile("/etc/" + name); err == nil {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), text, 0o644); err != nil {
				return err
			}
		}
	}
	links, _ := filepath.Glob("/etc/alternatives/*")
	if err := os.MkdirAll(filepath.Join(dir, "etc/alternatives"), 0o755); err != nil {
		return err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
				return err
			}
		}
	}
	return nil
}

// start implements backend.
func (w *bwrap) start(ctx context.Context, b boxSpec) (*box, error) {
	if err := w.prepare(); err != nil {
		return nil, err
	}
	l := inside.Launch{At: filepath.Join(w.base, "m"), Size: int64(w.config.Limits.Disk), Dir: b.spec.Dir, UserXattr: !w.root}
	bottom := filepath.Join(w.base, "skeleton")
	if w.root {
		l.UID, l.GID = nobody, nobody
	}
	if b.spec.Root != "" {
		info, err := os.Stat(b.spec.Root)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no folder", b.spec.Root)
		}
		if err != nil {
			return nil, &ImageError{"root", err}
		}
		if bottom, err = filepath.Abs(b.spec.Root); err != nil {
			return nil, err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && w.root && st.Uid != 0 {
			l.UID, l.GID = int(st.Uid), int(st.Gid)
		}
	}
	for _, dir := range slices.Backward(b.layers) {
		if l.Upper == "" {
			l.In, l.Upper, l.Work, l.Size = filepath.Dir(dir), filepath.Base(dir), b.work, 64<<10
		} else {
			l.Lower = append(l.Lower, filepath.Base(dir))
		}
	}
	l.Lower = append(l.Lower, bottom)
	l.Program = w.args(b.spec)

	group := &cgroup{}
	if wanted := w.config.Limits; len(wanted.wanted()) > len(w.without) {
		var err error
		if group, err = w.groups.make(b.name+owner(), wanted, w.without); err != nil {
			return nil, err
		}
		l.Cgroups = group.procs()
	}
	cmd := exec.Command(w.inside, l.Args()...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if !w.root {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	x, err := spawn(ctx, &w.spawner, cmd, group.remove)
	if err != nil {
		return nil, err
	}
	if group.memory != "" {
		x.oom = group.oom
	}
	return x, nil
}

// args are bwrap's, and those of the supervisor behind them.
func (w *bwrap) args(s Spec) []string {
	a := []string{w.program, "--unshare-all", "--new-session", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL",
		"--clearenv", "--hostname", "sandbox", "--uid", innerID, "--gid", innerID, "--bind", filepath.Join(w.base, "m", "root"), "/"}
	if s.Root == "" {
		a = append(a, "--ro-bind", "/usr", "/usr")
		for _, d := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
			if info, err := os.Lstat(d); err == nil && info.IsDir() {
				a = append(a, "--ro-bind", d, d)
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(w.config.Bind)) {
		a = append(a, "--ro-bind", w.config.Bind[at], at)
	}
	a = append(a, "--proc", "/proc", "--dev", "/dev", "--ro-bind", w.inside, innerSup, "--chdir", s.Dir)
	for _, e := range environment(s) {
		name, value, _ := strings.Cut(e, "=")
		a = append(a, "--setenv", name, value)
	}
	return append(append(a, "--", innerSup), w.supervisor().Args()...)
}

func (w *bwrap) supervisor() inside.Options {
	return supervisorOptions(w.config.Limits, w.without, w.config.Restore == RestoreDisk)
}

// supervisorOptions are of a supervisor that keeps those limits for which there are no control groups.
func supervisorOptions(l Limits, without []string, disk bool) inside.Options {
	o := inside.Options{Seccomp: true, Files: uint64(l.Files)}
	if slices.Contains(without, memoryGroup) {
		o.Data = uint64(l.Memory)
	}
	if slices.Contains(without, pidsGroup) {
		o.Procs = uint64(l.PIDs) + ownThreads
	}
	if disk {
		o.FileSize = uint64(l.Disk)
	}
	return o
}

// environment is that of all commands.
func environment(s Spec) []string {
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": s.Dir, "USER": "user", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
	maps.Copy(env, s.Env)
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// check implements backend.
func (w *bwrap) check(ctx context.Context) ([]string, error) {
	if err := w.prepare(); err != nil {
		return nil, err
	}
	broken := limitsBroken(w.config.Limits, w.without, w.why)
	if w.config.Limits.Disk > 0 && w.config.Restore == RestoreDisk {
		broken = append(broken, "limits.disk cannot be kept with restore: disk, whose files are in a folder of the run; it bounds each file")
	}
	if len(broken) > 0 && w.config.Enforce == Strict {
		return nil, &ImageError{"limits", errors.New(strings.Join(broken, "; ") + ". Leave it out, or set enforce: best_effort")}
	}
	s := boxSpec{name: runPrefix(w.options.Run) + "-" + w.options.Pool + "-check", spec: Spec{Dir: DefaultDir}}
	if err := tryBox(ctx, w, s); err != nil {
		return nil, &ImageError{"bwrap", fmt.Errorf("it makes no sandbox here: %w. It needs user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), and overlays in them (Linux 5.11)", err)}
	}
	return broken, nil
}

// limitsBroken says which limits cannot be kept, and why.
func limitsBroken(l Limits, without []string, why error) []string {
	var broken []string
	for _, name := range l.wanted() {
		if slices.Contains(without, name) {
			broken = append(broken, fmt.Sprintf("limits.%s cannot be kept: no control group of this kind (%v)", name, why))
		}
	}
	return broken
}

// tryBox makes a box, and has it do something.
func tryBox(ctx context.Context, b backend, s boxSpec) error {
	x, err := b.start(ctx, s)
	if err != nil {
		return err
	}
	defer x.kill()
	r, err := x.conn.Exec(ctx, inside.Command{Shell: "exit 7", Timeout: time.Minute})
	if err == nil && r.Code != 7 {
		err = fmt.Errorf("/bin/sh -c 'exit 7' ended with code %d: %s", r.Code, r.Err)
	}
	return err
}

// sweep implements backend.
func (w *bwrap) sweep(context.Context) (int, error) {
	if err := w.prepare(); err != nil {
		return 0, err
	}
	prefix := runPrefix(w.options.Run) + "-" + w.options.Pool
	n, err := w.groups.sweep(prefix + "-")
	return n, errors.Join(err, sweepBases(prefix+"."))
}

// sweepBases removes the folders that dead processes left.
func sweepBases(prefix string) error {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range left {
		name := filepath.Base(dir)
		if !ownerLives(name[:max(0, strings.LastIndexByte(name, '.'))]) {
			err = errors.Join(err, removeTree(dir))
		}
	}
	return err
}

// close implements backend.
func (w *bwrap) close() error {
	w.spawner.Close()
	if w.base == "" {
		return nil
	}
	return removeTree(w.base)
}
