package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"matrix/sandbox/inside"
)

// A podman makes boxes of containers. The supervisor is the first process of each, and holds one end of a socket that podman
// hands on (--preserve-fds): nothing of podman stands between it and this process, and none stays but conmon, which
// removes the container when that has ended, also where this process has died.
type podman struct {
	kind    Podman
	options Options

	once    sync.Once
	err     error
	program string // podman
	base    string // folder of this process: the supervisor, and what podman tells
	inside  string // the supervisor

	mu     sync.Mutex
	images map[string]image // that are mounted

	flags []string // without which containers do not start here
	made  atomic.Int64
}

const (
	supervisorAt = "/run/matrix-inside" // the supervisor's path inside
	leaseTTL     = 2 * time.Minute      // of silence, after which a supervisor ends
	startTimeout = startMost
)

// Labels of containers.
const (
	labelRun   = "matrix.run"
	labelPool  = "matrix.pool"
	labelHost  = "matrix.host"
	labelOwner = "matrix.owner" // the boot, and the process that made it, as of owner
)

// NewPodman returns a pool of containers that podman makes of images that it has.
func NewPodman(p Podman, o Options) (Pool, error) {
	b := newPodman(p, o)
	if p.Restore == RestoreDisk && !b.layers() {
		return nil, errors.New("restore: disk of kind podman needs root, which alone may mount what a task changed over its image: run as root, or set restore: replay")
	}
	return newEngine(p.Config, o, b)
}

func newPodman(kind Podman, o Options) *podman {
	if o.Log == nil {
		o.Log = func(string) {}
	}
	return &podman{kind: kind, options: o}
}

// layers implements backend: only root may mount what is changed over an image.
func (p *podman) layers() bool { return os.Geteuid() == 0 }

func (p *podman) close() error {
	if p.base == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := unmountBelow(p.base); err != nil { // what is mounted is not to be removed with the folder
		return err
	}
	var err error
	for image := range p.images {
		_, e := p.podman(ctx, "image", "unmount", image)
		err = errors.Join(err, e)
	}
	return errors.Join(err, removeTree(p.base))
}

// prepare makes what all boxes share.
func (p *podman) prepare() error {
	p.once.Do(func() { p.err = p.setUp() })
	return p.err
}

func (p *podman) setUp() (err error) {
	if p.program, err = exec.LookPath("podman"); err != nil {
		return &ImageError{"podman", errors.New("there is no program podman here: install it (apt-get install podman, dnf install podman), or use kind: bwrap")}
	}
	var own syscall.Rlimit // podman would give more than this process may
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err == nil && (p.kind.Limits.Files == 0 || uint64(p.kind.Limits.Files) > own.Max) {
		p.kind.Limits.Files = int(min(own.Max, 1<<20))
	}
	if p.base, err = os.MkdirTemp("", runPrefix(p.options.Run)+"-"+p.options.Pool+owner()+"."); err != nil {
		return err
	}
	if err := os.Chmod(p.base, 0o755); err != nil { // a user inside may be another one
		return err
	}
	p.inside, err = Binary(p.base)
	return err
}

// check implements backend.
func (p *podman) check(ctx context.Context) ([]string, error) {
	if err := p.prepare(); err != nil {
		return nil, err
	}
	var info struct {
		Host struct {
			Remote   bool `json:"serviceIsRemote"`
			Security struct {
				Rootless bool `json:"rootless"`
			} `json:"security"`
			Controllers []string `json:"cgroupControllers"`
			Version     string   `json:"cgroupVersion"`
		} `json:"host"`
	}
	out, err := p.podman(ctx, "info", "--format", "json")
	if err == nil {
		err = json.Unmarshal(out, &info)
	}
	if err != nil {
		return nil, &ImageError{"podman info", err}
	}
	if info.Host.Remote {
		return nil, &ImageError{"podman", errors.New("it speaks to a service on another machine, and sandboxes are to be on this one: unset CONTAINER_HOST, or use kind: bwrap")}
	}
	warnings, err := p.lacks(info.Host.Security.Rootless, info.Host.Version, info.Host.Controllers)
	if err != nil {
		return nil, err
	}
	return warnings, p.find(ctx)
}

// lacks says which limits are not kept here.
func (p *podman) lacks(rootless bool, version string, controllers []string) ([]string, error) {
	var broken []string
	l := &p.kind.Limits
	if l.Disk > 0 {
		broken = append(broken, "limits.disk cannot be kept: podman limits no disk")
	}
	if rootless {
		for _, name := range l.wanted() {
			if version != "v1" && slices.Contains(controllers, name) {
				continue
			}
			broken = append(broken, "limits."+name+" cannot be kept: podman without root has no control group of it here (with version 2 of control groups, systemd's Delegate= gives users theirs)")
			switch name {
			case cpuGroup:
				l.CPU = 0
			case memoryGroup:
				l.Memory = 0
			case pidsGroup:
				l.PIDs = 0
			}
		}
	}
	if len(broken) > 0 && p.kind.Enforce != BestEffort {
		return nil, &ImageError{"limits", errors.New(strings.Join(broken, "; ") + ". Leave it out, or set enforce: best_effort")}
	}
	return broken, nil
}

// find finds with which flags containers start here: some kernels and users may not raise limits as podman does by itself, and
// not all runtimes know all hierarchies of control groups.
func (p *podman) find(ctx context.Context) error {
	root := filepath.Join(p.base, "root")
	for _, dir := range []string{"run", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	runtimes := []string{p.kind.Runtime}
	if p.kind.Runtime == "" {
		for _, r := range []string{"crun", "runc"} {
			if _, err := exec.LookPath(r); err == nil {
				runtimes = append(runtimes, r)
			}
		}
	}
	var first error
	for _, r := range runtimes {
		var runtime []string
		if r != "" {
			runtime = []string{"--runtime", r}
		}
		for _, limit := range []string{"", "nproc=32768:32768", "nproc=4096:4096"} {
			flags := slices.Clone(runtime)
			if limit != "" {
				flags = append(flags, "--ulimit", limit)
			}
			p.flags = flags
			c, err := p.run(ctx, runPrefix(p.options.Run)+"-"+p.options.Pool, Spec{}, nil, "--rootfs", root)
			if err == nil {
				c.kill()
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if first == nil {
				first = err
			}
		}
	}
	return &ImageError{"podman starts no containers here, with any of its runtimes", first}
}

// start implements backend.
func (p *podman) start(ctx context.Context, b boxSpec) (*box, error) {
	if err := p.prepare(); err != nil {
		return nil, err
	}
	if b.spec.Root != "" {
		return nil, &ImageError{"podman", errors.New("sandboxes of kind podman are made of an image, and take no root")}
	}
	name := b.spec.Image
	if name == "" || name[0] == '-' {
		return nil, &ImageError{"image", fmt.Errorf("%q is no name of one", name)}
	}
	c, err := p.over(ctx, b)
	if err == nil {
		return &box{conn: c.conn, gone: c.gone, kill: c.kill, oom: c.group.oom}, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var exit *exec.ExitError
	if _, e := p.podman(ctx, "image", "exists", name); errors.As(e, &exit) && exit.ExitCode() == 1 {
		return nil, &ImageError{"image " + name, errors.New("podman does not have it: podman pull " + name + ", or podman load -i FILE")}
	}
	return nil, err
}

// over makes a container of an image: over a copy of podman's own, or over the layers that are kept.
func (p *podman) over(ctx context.Context, b boxSpec) (*container, error) {
	if len(b.layers) == 0 {
		return p.run(ctx, b.name, b.spec, nil, b.spec.Image)
	}
	of, err := p.mounted(ctx, b.spec.Image)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp(p.base, "root-")
	if err != nil {
		return nil, err
	}
	if err := mountLayers(root, of.root, b.layers, b.work); err != nil {
		return nil, errors.Join(err, os.Remove(root))
	}
	after := func() {
		if err := errors.Join(syscall.Unmount(root, syscall.MNT_DETACH), os.Remove(root)); err != nil {
			p.options.Log(fmt.Sprintf("pool %s: %v", p.options.Pool, err))
		}
	}
	flags := []string{}
	for _, v := range of.Config.Env {
		flags = append(flags, "--env", v)
	}
	if of.Config.User != "" {
		flags = append(flags, "--user", of.Config.User)
	}
	c, err := p.run(ctx, b.name, b.spec, after, append(flags, "--rootfs", root)...)
	if err != nil {
		after()
	}
	return c, err
}

// An image as podman has it.
type image struct {
	root   string // where it is mounted, and not to be written to
	Config struct {
		Env  []string
		User string
	}
}

// mounted returns an image that is mounted until the pool is closed.
func (p *podman) mounted(ctx context.Context, name string) (image, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i, ok := p.images[name]; ok {
		return i, nil
	}
	about, err := p.podman(ctx, "image", "inspect", "--format", "json", name)
	if err != nil {
		return image{}, err
	}
	var list []image
	if err := json.Unmarshal(about, &list); err != nil || len(list) != 1 {
		return image{}, fmt.Errorf("podman image inspect %s: %d images, %w", name, len(list), err)
	}
	root, err := p.podman(ctx, "image", "mount", name)
	if err != nil {
		return image{}, err
	}
	i := list[0]
	i.root = strings.TrimSpace(string(root))
	if p.images == nil {
		p.images = map[string]image{}
	}
	p.images[name] = i
	return i, nil
}

// mountLayers shows layers, which are folders of one folder, over another one at a place. A kernel takes a page of options, and layers may
// be hundreds: their names are short since they are seen from their folder.
func mountLayers(at, bottom string, layers []string, work string) error {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace
	var lower []string
	for _, dir := range slices.Backward(layers[:len(layers)-1]) {
		lower = append(lower, escape(filepath.Base(dir)))
	}
	top := layers[len(layers)-1]
	options := "lowerdir=" + strings.Join(append(lower, escape(bottom)), ":") + ",upperdir=" + escape(filepath.Base(top)) + ",workdir=" + escape(work)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, whose current folder is its own, ends here
		err := syscall.Unshare(syscall.CLONE_FS)
		if err == nil {
			err = syscall.Chdir(filepath.Dir(top))
		}
		if err == nil {
			err = os.NewSyscallError("mount an overlay", syscall.Mount("overlay", at, "overlay", syscall.MS_NOSUID|syscall.MS_NODEV, options))
		}
		done <- err
	}()
	return <-done
}

// unmountBelow unmounts what is mounted below a folder.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			err = errors.Join(err, syscall.Unmount(f[4], syscall.MNT_DETACH))
		}
	}
	return err
}

// run makes a container of what of says, an image in the end, and returns when its supervisor is there. after is called when it is gone;
// where there is an error it never is.
func (p *podman) run(ctx context.Context, name string, spec Spec, after func(), of ...string) (*container, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	dir := spec.Dir
	if dir == "" {
		dir = DefaultDir
	}
	name = fmt.Sprintf("%s-%d-%d", name, os.Getpid(), p.made.Add(1))
	ours, its, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer its.Close()
	told, err := os.MkdirTemp(p.base, "start-")
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer os.RemoveAll(told)

	// The supervisor may make dir and put files wherever they are to be; commands have no capability (inside.Options.Drop).
	args := append([]string{"run", "--detach", "--rm", "--replace", "--name", name,
		"--label", labelRun + "=" + p.options.Run, "--label", labelPool + "=" + p.options.Pool, "--label", labelHost + "=" + hostLabel(), "--label", labelOwner + "=" + bootID() + owner(),
		"--pidfile", filepath.Join(told, "first"), "--conmon-pidfile", filepath.Join(told, "conmon"), "--preserve-fds", "1", "--log-driver", "none",
		"--pull", "never", "--network", "none", "--http-proxy=false", "--cap-drop", "all", "--cap-add", "dac_override", "--security-opt", "no-new-privileges", "--security-opt", "mask=/sys/kernel:/sys/module", "--workdir", "/",
		"--volume", p.inside + ":" + supervisorAt + ":ro", "--entrypoint", supervisorAt}, p.flags...)
	l := p.kind.Limits
	if l.Memory > 0 {
		args = append(args, "--memory", strconv.FormatInt(int64(l.Memory), 10), "--memory-swap", strconv.FormatInt(int64(l.Memory), 10))
	}
	if l.PIDs > 0 {
		args = append(args, "--pids-limit", strconv.Itoa(l.PIDs+ownThreads))
	}
	if l.CPU > 0 {
		args = append(args, "--cpus", strconv.FormatFloat(l.CPU, 'f', -1, 64))
	}
	args = append(args, "--ulimit", fmt.Sprintf("nofile=%d:%[1]d", l.Files))
	if p.kind.ReadOnly {
		args = append(args, "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,mode=1777", "--tmpfs", dir+":rw,exec,mode=0755")
	}
	environment := os.Environ()
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		if value := spec.Env[name]; readByPodman(name) {
			args = append(args, "--env", name+"="+value)
		} else { // not where all users of this machine see it
			args = append(args, "--env", name)
			environment = append(environment, name+"="+value)
		}
	}
	args = append(args, of...)
	args = append(args, inside.Options{FD: 3, Dir: dir, TTL: leaseTTL, Drop: true}.Args()...)

	cmd := exec.CommandContext(ctx, p.program, args...)
	var says bytes.Buffer
	cmd.Env, cmd.Dir = environment, p.base // conmon leaves files where it is
	cmd.Stderr, cmd.ExtraFiles = &says, []*os.File{its}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		ours.Close()
		err = fmt.Errorf("podman run: %w: %s", err, strings.TrimSpace(says.String()))
		return nil, errors.Join(err, p.remove(name)) // it may have been created
	}
	its.Close()
	c := &container{podman: p, name: name, after: after, conn: inside.NewConn(ours), gone: make(chan struct{})}
	if c.first, err = watchFile(filepath.Join(told, "first")); err == nil {
		c.conmon, err = watchFile(filepath.Join(told, "conmon"))
	}
	if err == nil {
		err = c.conn.Ready(ctx)
	}
	if err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("podman run: %w", errors.Join(err, p.remove(name)))
	}
	c.group.memory = memoryEvents(c.first.pid)
	c.group.oom()
	go c.watch()
	return c, nil
}

// readByPodman reports whether podman itself goes by a variable.
func readByPodman(name string) bool {
	switch name {
	case "PATH", "HOME", "USER", "TMPDIR", "LANG", "PWD", "NOTIFY_SOCKET", "DBUS_SESSION_BUS_ADDRESS", "REGISTRY_AUTH_FILE":
		return true
	}
	for _, prefix := range []string{"XDG_", "LC_", "CONTAINER", "STORAGE_", "LISTEN_", "GO", "_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// A container is a box of podman.
type container struct {
	podman        *podman
	name          string
	conn          *inside.Conn
	first, conmon *watched
	gone          chan struct{}
	after         func()

	group cgroup // its events of memory alone: the rest is podman's
}

// watch closes gone when nothing is left.
func (c *container) watch() {
	defer close(c.gone)
	select {
	case <-c.first.ended:
		c.conn.Close()
	case <-c.conn.Lost():
		select {
		case <-c.first.ended:
		case <-time.After(5 * time.Second): // a supervisor that does not see its lease end
			c.first.kill()
			<-c.first.ended
		}
	}
	removes := c.conmon.alive() // it removes the container before it ends
	select {
	case <-c.conmon.ended:
	case <-time.After(20 * time.Second):
		removes = false
	}
	if !removes {
		if err := c.podman.remove(c.name); err != nil {
			c.podman.options.Log(err.Error())
		}
	}
	c.first.close()
	c.conmon.close()
	if c.after != nil {
		c.after()
	}
}

func (c *container) kill() {
	c.conn.Close()
	<-c.gone
}

// remove removes containers, as far as they are there. Of one that has just ended without its conmon podman says that it cannot be
// stopped, and knows better when it is asked again.
func (p *podman) remove(names ...string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for range 5 {
		if _, err = p.podman(ctx, append([]string{"rm", "--force", "--ignore", "--time", "0"}, names...)...); err == nil {
			break
		}
	}
	return err
}

// sweep implements backend.
func (p *podman) sweep(ctx context.Context) (int, error) {
	if err := p.prepare(); err != nil {
		return 0, err
	}
	out, err := p.podman(ctx, "ps", "--all", "--filter", "label="+labelRun+"="+runPrefix(p.options.Run), "--filter", "label="+labelPool+"="+p.options.Pool,
		"--filter", "label="+labelHost+"="+hostLabel(), "--format", "json")
	if err != nil {
		return 0, err
	}
	var list []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	if len(bytes.TrimSpace(out)) > 0 {
		if err := json.Unmarshal(out, &list); err != nil {
			return 0, fmt.Errorf("podman ps: %w", err)
		}
	}
	var dead []string
	for _, c := range list {
		if of, ok := strings.CutPrefix(c.Labels[labelOwner], bootID()); !ok || !ownerLives(of) {
			dead = append(dead, c.ID)
		}
	}
	if len(dead) > 0 {
		err = p.remove(dead...)
	}
	prefix := runPrefix(p.options.Run) + "-" + p.options.Pool + "."
	left, globErr := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range left { // what it has mounted is not to be removed with the folder
		if !ownerLives(dir[:strings.LastIndexByte(dir, '.')]) {
			err = errors.Join(err, unmountBelow(dir))
		}
	}
	if err = errors.Join(err, globErr); err == nil {
		err = sweepBases(prefix)
	}
	return len(dead), err
}

// podman runs a command of podman, and returns what it printed.
func (p *podman) podman(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.program, args...)
	var out, says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &says
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("podman %s: %w: %s", args[0], err, strings.TrimSpace(says.String()))
	}
	return out.Bytes(), nil
}

// socketPair returns two ends of a connection: this process's own, and one for a child.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "lease")
	defer mine.Close()
	ours, err := net.FileConn(mine)
	if err != nil {
		syscall.Close(fds[1])
		return nil, nil, err
	}
	return ours, os.NewFile(uintptr(fds[1]), "lease"), nil
}
