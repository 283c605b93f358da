package inside

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// below returns a path relative to the root.
func (s *server) below(path string) (string, error) {
	root := strings.TrimSuffix(s.options.Root, "/")
	rest := path
	if strings.HasPrefix(path, "/") {
		if path != root && !strings.HasPrefix(path, root+"/") {
			return "", &Error{Invalid, path + " is not below " + s.options.Root}
		}
		rest = path[len(root):]
	} else if root == "" {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		rest = dir + "/" + path
	}
	var parts []string
	for p := range strings.SplitSeq(rest, "/") {
		switch p {
		case "", ".":
		case "..":
			return "", &Error{Invalid, path + ": a path of a file has no .."}
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return ".", nil
	}
	return strings.Join(parts, "/"), nil
}

// openBelow opens what is below the root, never over a link that leads out of it, nor over those of /proc.
func (s *server) openBelow(path string, flags int, mode uint32) (int, error) {
	if s.options.Root == "/" {
		path = strings.TrimPrefix(path, "/")
	}
	fd, err := openat2(s.root, path, flags, mode)
	if err != syscall.ENOSYS && err != syscall.EPERM {
		return fd, err
	}
	// Without openat2: over no links at all.
	dir, parts := s.root, strings.Split(path, "/")
	for i, p := range parts {
		how, m := oPath|syscall.O_DIRECTORY, uint32(0)
		if i == len(parts)-1 {
			how, m = flags, mode
		}
		fd, err := syscall.Openat(dir, p, how|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, m)
		if dir != s.root {
			syscall.Close(dir)
		}
		if err != nil {
			return -1, err
		}
		dir = fd
	}
	return dir, nil
}

// folder opens a folder, which is made where it is missing.
func (s *server) folder(path string) (int, error) {
	fd, err := s.openBelow(path, oPath|syscall.O_DIRECTORY, 0)
	if err != syscall.ENOENT || path == "." {
		return fd, err
	}
	at := strings.LastIndexByte(path, '/')
	parent, name := ".", path
	if at >= 0 {
		parent, name = path[:at], path[at+1:]
	}
	dir, err := s.folder(parent)
	if err != nil {
		return -1, err
	}
	err = syscall.Mkdirat(dir, name, 0o755)
	syscall.Close(dir)
	if err != nil && err != syscall.EEXIST {
		return -1, err
	}
	return s.openBelow(path, oPath|syscall.O_DIRECTORY, 0)
}

// put writes a file beside its place, and renames it when it is whole.
func (s *server) put(c *call, path string, mode uint32) error {
	rel, err := s.below(path)
	if err != nil {
		return err
	}
	at := strings.LastIndexByte(rel, '/')
	parent, name := ".", rel
	if at >= 0 {
		parent, name = rel[:at], rel[at+1:]
	}
	if name == "." {
		return &Error{Invalid, strconv.Quote(path) + " is no name of a file"}
	}
	dir, err := s.folder(parent)
	if err != nil {
		return fileError(path, err)
	}
	defer syscall.Close(dir)
	temporary := ".put-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(c.id, 10)
	fd, err := syscall.Openat(dir, temporary, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fileError(path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	_, err = io.Copy(onlyWriter{f}, c.in)
	if err == nil {
		err = syscall.Fchmod(fd, mode)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = renameat(dir, temporary, dir, name)
	}
	if err != nil {
		_ = unlinkat(dir, temporary)
		return fileError(path, err)
	}
	return nil
}

// get sends a file: of a certain size when it is asked for, and not more than that.
func (s *server) get(c *call, path string, most int64) ([]byte, error) {
	rel, err := s.below(path)
	if err != nil {
		return nil, err
	}
	fd, err := s.openBelow(rel, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fileError(path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fileError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Failed, path + " is not a file"}
	}
	if info.Size() > most {
		return nil, &Error{TooLarge, path + " has " + strconv.FormatInt(info.Size(), 10) + " bytes; at most " + strconv.FormatInt(most, 10) + " are taken"}
	}
	s.started(c)
	buf := make([]byte, chunk)
	for most > 0 {
		n, err := f.Read(buf[:min(int64(len(buf)), most)])
		if n > 0 {
			most -= int64(n)
			if s.flow(c, pipeOut, buf[:n]) != nil {
				return nil, &Error{Canceled, "canceled"}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fileError(path, err)
		}
	}
	s.ended(c, pipeOut)
	return nil, nil
}

func fileError(path string, err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		err = e
	}
	switch err {
	case syscall.ENOENT:
		return &Error{NotExist, path + ": no such file"}
	case syscall.EXDEV, syscall.ELOOP:
		return &Error{Failed, path + ": a link on the way leads out of the sandbox, or round in a circle"}
	}
	return &Error{Failed, path + ": " + err.Error()}
}

// dial connects to a TCP port of this machine, or to a socket by its path.
func (s *server) dial(c *call, address string) error {
	family := syscall.AF_UNIX
	var to syscall.Sockaddr = &syscall.SockaddrUnix{Name: address}
	if port, err := strconv.ParseUint(address, 10, 16); err == nil {
		family, to = syscall.AF_INET, &syscall.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Error{Failed, "socket: " + err.Error()}
	}
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &syscall.Timeval{Sec: 10})
	if err := syscall.Connect(fd, to); err != nil {
		syscall.Close(fd)
		return &Error{Failed, "connect to " + address + ": " + err.Error()}
	}
	_ = syscall.SetNonblock(fd, true)
	f := os.NewFile(uintptr(fd), address)
	defer f.Close()
	s.started(c)
	over := make(chan struct{})
	defer close(over)
	go func() {
		if _, err := io.Copy(onlyWriter{f}, c.in); err == nil {
			_ = syscall.Shutdown(fd, syscall.SHUT_WR)
		}
	}()
	go func() {
		select {
		case <-c.canceled:
			_ = f.SetDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	buf := make([]byte, chunk)
	for {
		n, err := f.Read(buf)
		if n > 0 && s.flow(c, pipeOut, buf[:n]) != nil {
			return &Error{Canceled, "canceled"}
		}
		if err != nil {
			break
		}
	}
	s.ended(c, pipeOut)
	return nil
}
