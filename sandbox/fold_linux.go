package sandbox

import (
	"errors"
	"os"
	"syscall"
)

// A folder of an overlay's layer that has this attribute hides the one below it
// (Documentation/filesystems/overlayfs.rst); the second name is that of a mount by a user.
var opaqueNames = []string{"trusted.overlay.opaque", "user.overlay.opaque"}

func opaque(dir string) bool {
	var b [1]byte
	for _, name := range opaqueNames {
		if n, err := syscall.Getxattr(dir, name, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

func setOpaque(dir string) error {
	err := syscall.Setxattr(dir, opaqueNames[0], []byte("y"), 0)
	if errors.Is(err, syscall.EPERM) {
		err = syscall.Setxattr(dir, opaqueNames[1], []byte("y"), 0)
	}
	return err
}

// likeDir gives a folder the mode, owner and time of another one.
func likeDir(dir, like string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, info.Mode()); err != nil {
		return err
	}
	return os.Chtimes(dir, info.ModTime(), info.ModTime())
}
