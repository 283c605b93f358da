package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"matrix/internal/child"
	"matrix/sandbox/inside"
)

// NewPlain returns a pool of processes that nothing keeps apart from this machine: they
// are this process's user, see its files and reach its network. They have a folder and
// an environment of their own, and end with their lease.
func NewPlain(p Plain, o Options) (Pool, error) {
	return newEngine(p.Config, o, &plain{config: p, options: o})
}

type plain struct {
	config  Plain
	options Options
	spawner child.Spawner

	once    sync.Once
	err     error
	base    string
	inside  string
	groups  cgroups
	without []string
	why     error
}

func (p *plain) layers() bool { return false }

func (p *plain) prepare() error {
	p.once.Do(func() {
		p.base = filepath.Join(os.TempDir(), runPrefix(p.options.Run)+"-"+p.options.Pool+owner()+"."+strconv.FormatInt(time.Now().UnixNano(), 36))
		if p.err = os.MkdirAll(p.base, 0o700); p.err == nil {
			p.inside, p.err = Binary(p.base)
		}
		p.groups, p.without, p.why = openCgroups(p.config.Limits)
	})
	return p.err
}

// start implements backend.
func (p *plain) start(ctx context.Context, b boxSpec) (*box, error) {
	if err := p.prepare(); err != nil {
		return nil, err
	}
	if b.spec.Root != "" || b.spec.Image != "" {
		return nil, &ImageError{"plain", errors.New("sandboxes of kind plain have the file system of this machine: they take no root and no image")}
	}
	own, err := os.MkdirTemp(p.base, "box-")
	if err != nil {
		return nil, err
	}
	dir := b.spec.Dir
	if dir == DefaultDir {
		dir = own
	}
	group := &cgroup{}
	if wanted := p.config.Limits; len(wanted.wanted()) > len(p.without) {
		if group, err = p.groups.make(b.name+owner()+"."+filepath.Base(own), wanted, p.without); err != nil {
			return nil, err
		}
	}
	after := func() {
		group.remove()
		_ = removeTree(own)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		after()
		return nil, err
	}
	s := b.spec
	s.Dir = dir
	supervisor := supervisorOptions(p.config.Limits, p.without, false)
	supervisor.Seccomp, supervisor.Root = false, dir
	l := inside.Launch{Cgroups: group.procs(), Program: append([]string{p.inside}, supervisor.Args()...)}
	cmd := exec.Command(p.inside, l.Args()...)
	cmd.Env, cmd.Dir = environment(s), dir
	x, err := spawn(ctx, &p.spawner, cmd, after)
	if err != nil {
		return nil, err
	}
	if group.memory != "" {
		x.oom = group.oom
	}
	return x, nil
}

// check implements backend.
func (p *plain) check(ctx context.Context) ([]string, error) {
	if err := p.prepare(); err != nil {
		return nil, err
	}
	broken := limitsBroken(p.config.Limits, p.without, p.why)
	if p.config.Limits.Disk > 0 {
		broken = append(broken, "limits.disk cannot be kept: sandboxes of kind plain write where they like")
	}
	if len(broken) > 0 && p.config.Enforce == Strict {
		return nil, &ImageError{"limits", errors.New(strings.Join(broken, "; ") + ". Leave it out, or set enforce: best_effort")}
	}
	s := boxSpec{name: runPrefix(p.options.Run) + "-" + p.options.Pool + "-check", spec: Spec{Dir: DefaultDir}}
	if err := tryBox(ctx, p, s); err != nil {
		return nil, &ImageError{"plain", err}
	}
	return append(broken, "sandboxes of kind plain are kept apart from nothing: what runs in them may read, write and send what you may"), nil
}

// sweep implements backend.
func (p *plain) sweep(context.Context) (int, error) {
	if err := p.prepare(); err != nil {
		return 0, err
	}
	prefix := runPrefix(p.options.Run) + "-" + p.options.Pool
	n, err := p.groups.sweep(prefix + "-")
	return n, errors.Join(err, sweepBases(prefix+"."))
}

// close implements backend.
func (p *plain) close() error {
	p.spawner.Close()
	if p.base == "" {
		return nil
	}
	return removeTree(p.base)
}
