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
	"strings"
	"sync"

	"matrix/internal/child"
	"matrix/sandbox/inside"
)

// NewApptainer returns a pool of containers that Apptainer makes, or Singularity, of image files, without root.
func NewApptainer(a Apptainer, o Options) (Pool, error) {
	return newEngine(a.Config, o, &apptainer{kind: a, options: o})
}

type apptainer struct {
	kind    Apptainer
	options Options
	spawner child.Spawner

	once    sync.Once
	err     error
	program string // apptainer
	prefix  string // of variables that are for the inside
	base    string // folder of this process: the supervisor, and what sandboxes write
	inside  string // the supervisor
	groups  cgroups
	without []string // controllers that are not to be had
	why     error    // why they are not

	memory bool // what a sandbox writes is in memory, in the little that Apptainer allows: it can mount no overlay of a folder here
}

func (a *apptainer) layers() bool { return false }

func (a *apptainer) prepare() error {
	a.once.Do(func() { a.err = a.setUp() })
	return a.err
}

func (a *apptainer) setUp() (err error) {
	a.prefix = "APPTAINERENV_"
	if a.program, err = exec.LookPath("apptainer"); err != nil {
		a.prefix = "SINGULARITYENV_"
		if a.program, err = exec.LookPath("singularity"); err != nil {
			return &ImageError{"apptainer", errors.New("there is no program apptainer here, and no singularity: install it (https://apptainer.org/docs/admin/main/installation.html), or use kind: bwrap with an unpacked image as root")}
		}
	}
	if a.program, err = filepath.Abs(a.program); err != nil {
		return err
	}
	if a.base, err = os.MkdirTemp("", runPrefix(a.options.Run)+"-"+a.options.Pool+owner()+"."); err != nil {
		return err
	}
	if a.inside, err = Binary(a.base); err != nil {
		return err
	}
	a.groups, a.without, a.why = openCgroups(a.kind.Limits)
	return nil
}

// check implements backend.
func (a *apptainer) check(ctx context.Context) ([]string, error) {
	if err := a.prepare(); err != nil {
		return nil, err
	}
	broken := limitsBroken(a.kind.Limits, a.without, a.why)
	if a.kind.Limits.Disk > 0 {
		broken = append(broken, "limits.disk cannot be kept: apptainer limits no folder")
	}
	if len(broken) > 0 && a.kind.Enforce != BestEffort {
		return nil, &ImageError{"limits", errors.New(strings.Join(broken, "; ") + ". Leave it out, or set enforce: best_effort")}
	}
	root := filepath.Join(a.base, "root") // an image with nothing in it: the supervisor is all that there is to run
	for _, dir := range []string{"dev", "etc", "proc", "sys", "tmp", "var/tmp", "home"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	s := boxSpec{name: runPrefix(a.options.Run) + "-" + a.options.Pool + "-check", spec: Spec{Image: root, Dir: "/tmp"}}
	x, err := a.start(ctx, s)
	if err != nil && ctx.Err() == nil {
		a.memory = true
		var again error
		if x, again = a.start(ctx, s); again == nil {
			broken = append(broken, fmt.Sprintf("sandboxes write to memory, and no more than apptainer's \"sessiondir max size\": no overlay of a folder can be mounted here (%v)", err))
		}
		err = errors.Join(err, again)
		if again == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, &ImageError{"apptainer", fmt.Errorf("it starts no container here: %w. Without setuid it needs user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", err)}
	}
	x.kill()
	return broken, nil
}

// start implements backend.
func (a *apptainer) start(ctx context.Context, b boxSpec) (*box, error) {
	if err := a.prepare(); err != nil {
		return nil, err
	}
	if b.spec.Root != "" {
		return nil, &ImageError{"apptainer", errors.New("sandboxes of kind apptainer are made of an image, which may be a folder, and take no root")}
	}
	image, err := filepath.Abs(b.spec.Image)
	if err == nil {
		_, err = os.Stat(image)
	}
	if b.spec.Image == "" || err != nil {
		return nil, &ImageError{"image", fmt.Errorf("%q is no file and no folder here: apptainer pull FILE.sif docker://NAME makes one of an image in a registry", b.spec.Image)}
	}
	own, err := os.MkdirTemp(a.base, "box-")
	if err != nil {
		return nil, err
	}
	group := &cgroup{}
	after := func() {
		group.remove()
		_ = removeTree(own)
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(own, dir), 0o755); err != nil {
			after()
			return nil, err
		}
	}
	if wanted := a.kind.Limits; len(wanted.wanted()) > len(a.without) {
		g, err := a.groups.make(b.name+owner()+"."+filepath.Base(own), wanted, a.without)
		if err != nil {
			after()
			return nil, err
		}
		group = g
	}
	l := inside.Launch{Cgroups: group.procs(), Program: a.args(image, own, b.spec)}
	cmd := exec.Command(a.inside, l.Args()...)
	cmd.Dir = "/"
	for _, v := range os.Environ() { // Apptainer's own, as where its cache is, but nothing for the inside
		if !strings.HasPrefix(v, "APPTAINERENV_") && !strings.HasPrefix(v, "SINGULARITYENV_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.spec.Env)) { // not where all users of this machine see it
		cmd.Env = append(cmd.Env, a.prefix+name+"="+b.spec.Env[name])
	}
	x, err := spawn(ctx, &a.spawner, cmd, after)
	if err != nil {
		return nil, err
	}
	if group.memory != "" {
		x.oom = group.oom
	}
	return x, nil
}

// args are Apptainer's, and those of the supervisor behind them.
func (a *apptainer) args(image, own string, s Spec) []string {
	args := []string{a.program, "--silent", "exec",
		"--userns",                   // without setuid, as any user may
		"--containall", "--cleanenv", // nothing of this machine but the kernel: no folders, no processes, no environment
		"--no-home", "--no-init", // the supervisor is the first process
		"--net", "--network", "none", // loopback alone
		"--no-privs", "--pwd", "/", //
		"--bind", a.inside + ":" + supervisorAt + ":ro",
	}
	if a.memory {
		args = append(args, "--writable-tmpfs")
	} else {
		args = append(args, "--overlay", own)
	}
	o := supervisorOptions(a.kind.Limits, a.without, false)
	o.Drop, o.Dir = true, s.Dir
	return append(append(args, image, supervisorAt), o.Args()...)
}

// sweep implements backend.
func (a *apptainer) sweep(context.Context) (int, error) {
	if err := a.prepare(); err != nil {
		return 0, err
	}
	prefix := runPrefix(a.options.Run) + "-" + a.options.Pool
	n, err := a.groups.sweep(prefix + "-")
	return n, errors.Join(err, sweepBases(prefix+"."))
}

// close implements backend.
func (a *apptainer) close() error {
	a.spawner.Close()
	if a.base == "" {
		return nil
	}
	return removeTree(a.base)
}
