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
	kind       Podman
	options    Options
	program    string   // podman
	supervisor string   // Binary
	flags      []string // without which containers do not start here
	owner      string   // this process, as label
	scratch    string   // a folder for what podman tells
	made       atomic.Int64
}

const (
	supervisorAt = "/run/matrix-inside" // the supervisor's path inside
	leaseTTL     = 2 * time.Minute      // of silence, after which a supervisor ends
	spare        = 16                   // threads that the supervisor may have beside limits.pids
	startTimeout = 2 * time.Minute
)

// Labels of containers.
const (
	labelRun   = "matrix.run"
	labelPool  = "matrix.pool"
	labelHost  = "matrix.host"
	labelOwner = "matrix.owner" // the process that made it: PID, when that began, boot
)

func newPodman(kind Podman, o Options) *podman {
	if o.Log == nil {
		o.Log = func(string) {}
	}
	var own syscall.Rlimit // podman would give more than this process may
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err == nil && (kind.Limits.Files == 0 || uint64(kind.Limits.Files) > own.Max) {
		kind.Limits.Files = int(min(own.Max, 1<<20))
	}
	return &podman{kind: kind, options: o, owner: processLabel(os.Getpid())}
}

func (p *podman) layers() bool { return false }

func (p *podman) close() error {
	if p.scratch == "" {
		return nil
	}
	return os.RemoveAll(p.scratch)
}

func (p *podman) check(ctx context.Context) ([]string, error) {
	var err error
	if p.program, err = exec.LookPath("podman"); err != nil {
		return nil, &ImageError{"podman", errors.New("the program podman is not there: install it (Debian: apt-get install podman), or use kind: bwrap")}
	}
	if p.supervisor, err = Binary(""); err != nil {
		return nil, err
	}
	if p.scratch == "" {
		if p.scratch, err = os.MkdirTemp("", "matrix-podman-"); err != nil {
			return nil, err
		}
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
	return warnings, p.try(ctx)
}

// lacks says which promises are not kept here.
func (p *podman) lacks(rootless bool, version string, controllers []string) (warnings []string, err error) {
	lack := func(what, why string) {
		if p.kind.Enforce == BestEffort {
			warnings = append(warnings, what+" is not kept: "+why)
		} else if err == nil {
			err = &ImageError{what, errors.New(why + "; leave it out, or set enforce: best_effort")}
		}
	}
	l := &p.kind.Limits
	if l.Disk > 0 {
		lack("limits.disk", "podman limits no disk; kind: bwrap does")
		l.Disk = 0
	}
	if len(p.kind.Network.Allow) > 0 {
		return nil, &ImageError{"network.allow", errors.New("kind podman has no network or none: use kind: bwrap for an allow-list")}
	}
	if rootless {
		for _, c := range []struct {
			controller, key string
			asked           bool
			drop            func()
		}{
			{"memory", "limits.memory", l.Memory > 0, func() { l.Memory = 0 }},
			{"pids", "limits.pids", l.PIDs > 0, func() { l.PIDs = 0 }},
			{"cpu", "limits.cpu", l.CPU > 0, func() { l.CPU = 0 }},
		} {
			if c.asked && (version == "v1" || !slices.Contains(controllers, c.controller)) {
				lack(c.key, "podman without root has no control group of "+c.controller+" here (systemd's Delegate= gives users theirs, with cgroups v2)")
				c.drop()
			}
		}
	}
	return warnings, err
}

// try finds with which flags containers start here: some kernels and users may not raise limits as podman does by itself, and
// not all runtimes know all hierarchies of control groups.
func (p *podman) try(ctx context.Context) error {
	root := filepath.Join(p.scratch, "root")
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
			c, err := p.run(ctx, runPrefix(p.options.Run)+"-"+p.options.Pool, Spec{}, "--rootfs", root)
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

func (p *podman) start(ctx context.Context, b boxSpec) (*box, error) {
	image := b.spec.Image
	if image == "" {
		image = p.kind.Image
	}
	c, err := p.run(ctx, b.name, b.spec, image)
	if err == nil {
		return &box{conn: c.conn, gone: c.gone, kill: c.kill, oom: c.oom}, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var exit *exec.ExitError
	if _, e := p.podman(ctx, "image", "exists", image); errors.As(e, &exit) && exit.ExitCode() == 1 {
		return nil, &ImageError{"image " + image, errors.New("podman does not have it: podman pull " + image + ", or podman load -i FILE")}
	}
	return nil, err
}

// run makes a container of an image, or of what of says, and returns when its supervisor is there.
func (p *podman) run(ctx context.Context, name string, spec Spec, of ...string) (*container, error) {
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
	told, err := os.MkdirTemp(p.scratch, "start-")
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer os.RemoveAll(told)

	// The supervisor may make dir and put files wherever they are to be; commands have no capability (inside.Options.Drop).
	args := append([]string{"run", "--detach", "--rm", "--replace", "--name", name,
		"--label", labelRun + "=" + p.options.Run, "--label", labelPool + "=" + p.options.Pool, "--label", labelHost + "=" + hostLabel(), "--label", labelOwner + "=" + p.owner,
		"--pidfile", filepath.Join(told, "first"), "--conmon-pidfile", filepath.Join(told, "conmon"), "--preserve-fds", "1", "--log-driver", "none",
		"--pull", "never", "--network", "none", "--http-proxy=false", "--cap-drop", "all", "--cap-add", "dac_override", "--security-opt", "no-new-privileges", "--workdir", "/",
		"--volume", p.supervisor + ":" + supervisorAt + ":ro", "--entrypoint", supervisorAt}, p.flags...)
	l := p.kind.Limits
	if l.Memory > 0 {
		args = append(args, "--memory", strconv.FormatInt(int64(l.Memory), 10), "--memory-swap", strconv.FormatInt(int64(l.Memory), 10))
	}
	if l.PIDs > 0 {
		args = append(args, "--pids-limit", strconv.Itoa(l.PIDs+spare))
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
	cmd.Env = environment
	cmd.Stderr, cmd.ExtraFiles = &says, []*os.File{its}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		ours.Close()
		err = fmt.Errorf("podman run: %w: %s", err, strings.TrimSpace(says.String()))
		return nil, errors.Join(err, p.remove(name)) // it may have been created
	}
	its.Close()
	c := &container{podman: p, name: name, conn: inside.NewConn(ours), gone: make(chan struct{})}
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
	c.counter = memoryCounter(c.first.pid)
	c.kills = c.counter()
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

	counter func() int64 // processes that were killed for want of memory
	mu      sync.Mutex
	kills   int64 // of which oom has told
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
}

func (c *container) kill() {
	c.conn.Close()
	<-c.gone
}

func (c *container) oom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.counter()
	more := now > c.kills
	c.kills = now
	return more
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

// sweep removes containers of this run whose processes on this machine have ended without them.
func (p *podman) sweep(ctx context.Context) (int, error) {
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
		if owner := c.Labels[labelOwner]; !labelLives(owner) {
			dead = append(dead, c.ID)
		}
	}
	if len(dead) == 0 {
		return 0, nil
	}
	return len(dead), p.remove(dead...)
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
