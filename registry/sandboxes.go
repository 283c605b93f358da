package registry

import (
	"errors"

	"matrix/agent"
	"matrix/lang"
	"matrix/sandbox"
)

// sandboxKinds adds the kinds of pools of sandboxes.
func sandboxKinds(r *Registry) {
	PoolKind(r, "bwrap", func(b Build, c sandbox.Bwrap) (agent.Pool, error) {
		return r.sandboxes(b, c.Config, agent.SandboxContents{Contents: c.Contents, Root: c.Root}, func(o sandbox.Options) (sandbox.Pool, error) { return sandbox.NewBwrap(c, o) })
	}, Doc("Sandboxes of Linux namespaces, by bubblewrap: no network, nothing of this machine but its programs or a root of their own, limits by cgroups."))
	PoolKind(r, "podman", func(b Build, c sandbox.Podman) (agent.Pool, error) {
		if c.Image == "" {
			return nil, errNoImage
		}
		return r.sandboxes(b, c.Config, agent.SandboxContents{Contents: c.Contents, Image: c.Image}, func(o sandbox.Options) (sandbox.Pool, error) { return sandbox.NewPodman(c, o) })
	}, Doc("Containers of images that podman has, rootless where the machine allows it: no network, limits by cgroups."))
	PoolKind(r, "apptainer", func(b Build, c sandbox.Apptainer) (agent.Pool, error) {
		if c.Image == "" {
			return nil, errNoImage
		}
		return r.sandboxes(b, c.Config, agent.SandboxContents{Contents: c.Contents, Image: c.Image}, func(o sandbox.Options) (sandbox.Pool, error) { return sandbox.NewApptainer(c, o) })
	}, Doc("Containers of image files, by apptainer, without root."))
	PoolKind(r, "plain", func(b Build, c sandbox.Plain) (agent.Pool, error) {
		return r.sandboxes(b, c.Config, agent.SandboxContents{Contents: c.Contents, Code: ".code"}, func(o sandbox.Options) (sandbox.Pool, error) { return sandbox.NewPlain(c, o) })
	}, Doc("No isolation: commands run as the user of this process, in a folder of their own. For programs that are trusted as one's own are."))
}

var errNoImage = &lang.FieldError{Field: "image", Err: errors.New("is missing: containers are made of one")}

// sandboxes is a pool that is made, by open, once a run begins.
func (r *Registry) sandboxes(b Build, c sandbox.Config, contents agent.SandboxContents, open func(o sandbox.Options) (sandbox.Pool, error)) (agent.Pool, error) {
	tried, err := open(sandbox.Options{Run: "check", Pool: b.Name, Folder: "check"}) // nothing is there before a Lease
	switch {
	case errors.As(err, new(*sandbox.ImageError)): // of this machine, which need not run it
	case err != nil:
		return nil, err
	default:
		if err := tried.Close(); err != nil {
			return nil, err
		}
	}
	return agent.NewSandboxes(b.Name, c.Keep, contents, b.Params, func(run, dir string) (sandbox.Pool, error) {
		return open(sandbox.Options{Run: run, Pool: b.Name, Folder: dir, Log: r.Log})
	})
}
