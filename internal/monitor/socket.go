package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// SocketFile is the name of the socket in the folder of a run. Where a socket cannot
// stand there, because its path is too long or the file system has none, it is a
// symbolic link to one.
const SocketFile = "control.sock"

// maxSocket is how long the path of a socket may be: 104 bytes with its end on some
// systems, 108 on others.
const maxSocket = 100

// elsewhere is how the folders begin that hold sockets whose run has no place for them.
const elsewhere = "matrix-run-"

// socket is a listener in the folder of a run.
type socket struct {
	net.Listener
	path string      // in the folder of the run
	is   fs.FileInfo // what stands there
	dir  string      // where it is, if elsewhere
}

// listenIn makes the socket of the run in dir, which no other process drives: one
// that a process left that was killed is replaced. Only this user may connect.
func listenIn(dir string) (*socket, error) {
	path := filepath.Join(dir, SocketFile)
	if err := clear(path); err != nil {
		return nil, err
	}
	if len(path) <= maxSocket {
		if l, err := private(path); err == nil {
			return at(path, "", l)
		}
	}
	short, err := os.MkdirTemp("", elsewhere)
	if err != nil {
		return nil, err
	}
	l, err := private(filepath.Join(short, SocketFile))
	if err == nil {
		if err = os.Symlink(filepath.Join(short, SocketFile), path); err != nil {
			_ = l.Close()
		}
	}
	if err != nil {
		_ = os.RemoveAll(short)
		return nil, err
	}
	return at(path, short, l)
}

func at(path, dir string, l net.Listener) (*socket, error) {
	x := &socket{Listener: l, path: path, dir: dir}
	var err error
	if x.is, err = os.Lstat(path); err != nil { // the folder has been removed
		_ = l.Close()
		_ = x.remove()
		return nil, err
	}
	return x, nil
}

func private(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // remove sees to it, while the folder is still this process's
	return l, nil
}

// clear removes a socket, and what it is a link to.
func clear(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err == nil && filepath.Base(to) == SocketFile && strings.HasPrefix(filepath.Base(filepath.Dir(to)), elsewhere) {
			_ = os.Remove(to)
			_ = os.Remove(filepath.Dir(to)) // only where nothing else is in it
		}
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is no socket: move it away", path)
	}
	return os.Remove(path)
}

// remove takes the socket away, once nobody is served there any more: not that of
// another run, for which the folder was made anew.
func (x *socket) remove() error {
	if x.dir != "" {
		_ = os.RemoveAll(x.dir)
	}
	now, err := os.Lstat(x.path)
	if err != nil || !os.SameFile(now, x.is) {
		return nil
	}
	return os.Remove(x.path)
}

// socketOf is the path at which the socket of the run in dir is reached.
func socketOf(dir string) (string, error) {
	path := filepath.Join(dir, SocketFile)
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return os.Readlink(path)
	}
	return path, err
}
