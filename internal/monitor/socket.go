package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// SocketFile is the name of the socket in the folder of a run.
const SocketFile = "control.sock"

// maxSocket is how long the path of a socket may be: 104 bytes with its end on some
// systems, 108 on others.
const maxSocket = 100

// socketIn is the path of the socket in dir, through a link where it is too long for a
// socket. The caller calls done once it is bound or connected.
func socketIn(dir string) (path string, done func(), err error) {
	path = filepath.Join(dir, SocketFile)
	if len(path) <= maxSocket {
		return path, func() {}, nil
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	short, err := os.MkdirTemp("", "matrix-")
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(short) }
	link := filepath.Join(short, "run")
	if err := os.Symlink(dir, link); err != nil {
		done()
		return "", nil, err
	}
	return filepath.Join(link, SocketFile), done, nil
}

// socket is a listener in the folder of a run.
type socket struct {
	net.Listener
	path string
	is   fs.FileInfo // what stands there
}

// listenIn makes the socket of the run in dir, which no other process drives: one
// that a process left that was killed is replaced. Only this user may connect.
func listenIn(dir string) (*socket, error) {
	x := &socket{path: filepath.Join(dir, SocketFile)}
	if info, err := os.Lstat(x.path); err == nil && info.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is no socket: move it away", x.path)
	} else if err == nil {
		err = os.Remove(x.path)
		if err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path, done, err := socketIn(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if x.Listener, err = net.Listen("unix", path); err != nil {
		return nil, err
	}
	x.Listener.(*net.UnixListener).SetUnlinkOnClose(false) // remove sees to it
	if err = os.Chmod(x.path, 0o600); err == nil {
		x.is, err = os.Lstat(x.path)
	}
	if err != nil {
		_ = x.Close()
		return nil, err
	}
	return x, nil
}

// remove takes the socket away, once nobody is served there any more: not that of
// another run, for which the folder was made anew.
func (x *socket) remove() error {
	now, err := os.Lstat(x.path)
	if err != nil || !os.SameFile(now, x.is) {
		return nil
	}
	return os.Remove(x.path)
}

// dial connects to the process that drives the run in dir.
func dial(dir string) (net.Conn, error) {
	path, done, err := socketIn(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return net.Dial("unix", path)
}
