package inside

import (
	"os"
	"syscall"
	"unsafe"
)

// What package syscall does not have, as in the kernel's headers; the same on amd64 and arm64.
const (
	prSetDumpable       = 4
	prSetSeccomp        = 22
	prSetNoNewPrivs     = 38
	prSetChildSubreaper = 36

	rlimitNproc = 6

	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434
	sysOpenat2         = 437

	oPath = 0x200000

	resolveNoMagicLinks = 2
	resolveBeneath      = 8
)

func prctl(option, value uintptr) error {
	if _, _, e := syscall.Syscall6(syscall.SYS_PRCTL, option, value, 0, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// dropCapabilities leaves this thread none. With PR_SET_NO_NEW_PRIVS no program that it starts gets them back, be it root's.
func dropCapabilities() error {
	head := struct{ version, pid uint32 }{version: 0x20080522}
	var none [2]struct{ effective, permitted, inheritable uint32 }
	if _, _, e := syscall.Syscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&none)), 0); e != 0 {
		return os.NewSyscallError("capset", e)
	}
	return nil
}

func setLimits(o Options) error {
	for _, l := range []struct {
		name  string
		which int
		value uint64
	}{
		{"data", syscall.RLIMIT_DATA, o.Data},
		{"procs", rlimitNproc, o.Procs},
		{"filesize", syscall.RLIMIT_FSIZE, o.FileSize},
		{"files", syscall.RLIMIT_NOFILE, o.Files},
	} {
		if l.value == 0 {
			continue
		}
		if err := syscall.Setrlimit(l.which, &syscall.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return os.NewSyscallError("setrlimit "+l.name, err)
		}
	}
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

// openat2 opens a path below root, over links that stay below it.
func openat2(root int, path string, flags int, mode uint32) (int, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	how := struct{ flags, mode, resolve uint64 }{uint64(flags | syscall.O_CLOEXEC), uint64(mode), resolveBeneath | resolveNoMagicLinks}
	for {
		fd, _, e := syscall.Syscall6(sysOpenat2, uintptr(root), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		switch e {
		case 0:
			return int(fd), nil
		case syscall.EINTR, syscall.EAGAIN: // EAGAIN: something was renamed meanwhile
		default:
			return -1, e
		}
	}
}

func renameat(from int, old string, to int, name string) error {
	o, err := syscall.BytePtrFromString(old)
	if err != nil {
		return err
	}
	n, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, e := syscall.Syscall6(syscall.SYS_RENAMEAT, uintptr(from), uintptr(unsafe.Pointer(o)), uintptr(to), uintptr(unsafe.Pointer(n)), 0, 0); e != 0 {
		return e
	}
	return nil
}

func unlinkat(dir int, name string) error {
	n, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, e := syscall.Syscall(syscall.SYS_UNLINKAT, uintptr(dir), uintptr(unsafe.Pointer(n)), 0); e != 0 {
		return e
	}
	return nil
}

func pidfdOpen(pid int) (int, error) {
	fd, _, e := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

func pidfdSignal(fd int, sig syscall.Signal) {
	_, _, _ = syscall.Syscall6(sysPidfdSendSignal, uintptr(fd), uintptr(sig), 0, 0, 0, 0)
}
