package inside

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Do does it. It returns where it cannot be done.
func (l Launch) Do() error {
	runtime.LockOSThread()
	for _, path := range l.Cgroups {
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			return err
		}
	}
	if l.At != "" {
		if err := l.mount(); err != nil {
			return err
		}
	}
	// What this process's ancestors left open is not for the sandbox.
	const closeRange, cloexec = 436, 1 << 2
	_, _, _ = syscall.RawSyscall(closeRange, 3, ^uintptr(0), cloexec)
	if l.UID > 0 {
		if err := l.become(); err != nil {
			return err
		}
	}
	err := syscall.Exec(l.Program[0], l.Program, os.Environ())
	return wrap(l.Program[0], err)
}

func (l Launch) become() error {
	if err := syscall.Setgroups(nil); err != nil {
		return wrap("give up groups", err)
	}
	if err := syscall.Setgid(l.GID); err != nil {
		return wrap("become group "+strconv.Itoa(l.GID), err)
	}
	if err := syscall.Setuid(l.UID); err != nil {
		return wrap("become user "+strconv.Itoa(l.UID), err)
	}
	return nil
}

func (l Launch) mount() error {
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	// Nothing of what follows is seen outside.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return wrap("mounts of its own", err)
	}
	options := "mode=0755"
	if l.Size > 0 {
		options += ",size=" + strconv.FormatInt(l.Size, 10)
	}
	if err := syscall.Mount("tmpfs", l.At, "tmpfs", flags, options); err != nil {
		return wrap("mount a file system in memory", err)
	}
	if l.In != "" {
		if err := os.Chdir(l.In); err != nil {
			return err
		}
		defer func() { _ = os.Chdir("/") }()
	}
	root, upper, work := filepath.Join(l.At, "root"), l.Upper, l.Work
	if upper == "" {
		upper, work = filepath.Join(l.At, "upper"), filepath.Join(l.At, "work")
	}
	for _, dir := range []string{root, upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if l.UID > 0 {
		if err := os.Chown(upper, l.UID, l.GID); err != nil {
			return err
		}
	}
	lower := make([]string, len(l.Lower))
	for i, dir := range l.Lower {
		lower[i] = escape(dir)
	}
	options = "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + escape(upper) + ",workdir=" + escape(work)
	if l.UserXattr {
		options += ",userxattr"
	}
	if err := syscall.Mount("overlay", root, "overlay", flags, options); err != nil {
		return wrap("mount an overlay", err)
	}
	return l.home(root)
}

// home makes l.Dir below root, wherever links there point.
func (l Launch) home(root string) error {
	in, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer in.Close()
	dir := strings.TrimPrefix(filepath.Clean(l.Dir), "/")
	if dir == "" || dir == "." {
		return nil
	}
	if _, err := in.Stat(dir); err == nil {
		return nil
	}
	if err := in.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if l.UID > 0 {
		return in.Lchown(dir, l.UID, l.GID)
	}
	return nil
}

// escape is path as the options of an overlay want it.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(path)
}

func wrap(what string, err error) error { return errors.New(what + ": " + err.Error()) }
