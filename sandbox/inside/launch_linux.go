package inside

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// ExitLaunch is the exit code of a Launch that failed. Its standard error says why.
const ExitLaunch = 125

// DoLaunch is cmd/inside with the arguments launch and arg. It does not return.
func DoLaunch(arg string) {
	var l Launch
	err := json.Unmarshal([]byte(arg), &l)
	if err == nil {
		err = l.do()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(ExitLaunch)
}

func (l *Launch) do() error {
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
	syscall.RawSyscall(closeRange, 3, ^uintptr(0), cloexec)
	if l.UID > 0 {
		if err := l.become(); err != nil {
			return err
		}
	}
	if err := syscall.Exec(l.Args[0], l.Args, os.Environ()); err != nil {
		return fmt.Errorf("%s: %w", l.Args[0], err)
	}
	return nil
}

func (l *Launch) become() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("give up groups: %w", err)
	}
	if err := syscall.Setgid(l.GID); err != nil {
		return fmt.Errorf("become group %d: %w", l.GID, err)
	}
	if err := syscall.Setuid(l.UID); err != nil {
		return fmt.Errorf("become user %d: %w", l.UID, err)
	}
	return nil
}

func (l *Launch) mount() error {
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	// Nothing of what follows is seen outside.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	options := "mode=0755"
	if l.Size > 0 {
		options += fmt.Sprintf(",size=%d", l.Size)
	}
	if err := syscall.Mount("tmpfs", l.At, "tmpfs", flags, options); err != nil {
		return fmt.Errorf("mount a file system in memory: %w", err)
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
		return fmt.Errorf("mount an overlay: %w", err)
	}
	return l.home(root)
}

// home makes l.Dir below root, wherever links there point.
func (l *Launch) home(root string) error {
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
