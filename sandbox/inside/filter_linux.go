package inside

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// The refused system calls: those of the kernel's own keys, programs, modules, mounts, namespaces and other processes.
// Holes of kernels were found in these, and no program that is run in a sandbox needs them.
var refused = map[string][]uint32{
	"amd64": {
		101 /* ptrace */, 139 /* sysfs */, 155 /* pivot_root */, 161 /* chroot */, 163 /* acct */, 165 /* mount */, 166 /* umount2 */, 167 /* swapon */, 168, /* swapoff */
		169 /* reboot */, 172 /* iopl */, 173 /* ioperm */, 175 /* init_module */, 176 /* delete_module */, 246 /* kexec_load */, 248 /* add_key */, 249, /* request_key */
		250 /* keyctl */, 272 /* unshare */, 298 /* perf_event_open */, 303 /* name_to_handle_at */, 304 /* open_by_handle_at */, 308 /* setns */, 310, /* process_vm_readv */
		311 /* process_vm_writev */, 312 /* kcmp */, 313 /* finit_module */, 320 /* kexec_file_load */, 321 /* bpf */, 323 /* userfaultfd */, 425 /* io_uring_setup */, 426, 427,
		428 /* open_tree */, 429 /* move_mount */, 430 /* fsopen */, 431, 432 /* fsmount */, 433, 442, /* mount_setattr */
	},
	"arm64": {
		117 /* ptrace */, 41 /* pivot_root */, 51 /* chroot */, 89 /* acct */, 40 /* mount */, 39 /* umount2 */, 224 /* swapon */, 225 /* swapoff */, 142, /* reboot */
		105 /* init_module */, 106 /* delete_module */, 104 /* kexec_load */, 217 /* add_key */, 218 /* request_key */, 219 /* keyctl */, 97 /* unshare */, 241, /* perf_event_open */
		264 /* name_to_handle_at */, 265 /* open_by_handle_at */, 268 /* setns */, 270 /* process_vm_readv */, 271 /* process_vm_writev */, 272 /* kcmp */, 273, /* finit_module */
		294 /* kexec_file_load */, 280 /* bpf */, 282 /* userfaultfd */, 425 /* io_uring_setup */, 426, 427, 428 /* open_tree */, 429 /* move_mount */, 430 /* fsopen */, 431,
		432 /* fsmount */, 433, 442, /* mount_setattr */
	},
}

// An instruction of a filter, as the kernel has it.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

const (
	loadWord    = 0x20 // BPF_LD | BPF_W | BPF_ABS
	jumpEqual   = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	jumpAtLeast = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	jumpAny     = 0x45 // BPF_JMP | BPF_JSET | BPF_K
	give        = 0x06 // BPF_RET | BPF_K

	allow       = 0x7fff0000
	refuse      = 0x00050000 // | errno
	namespaces  = 0x7e020000 // CLONE_NEW*: time (0x80) is of unshare alone
	callNumber  = 0
	callArch    = 4
	firstArg    = 16
	otherABI    = 0x40000000 // x32
	clone3      = 435
	archAMD64   = 0xc000003e
	archARM64   = 0xc00000b7
	seccompMode = 2
)

// filter makes the program: another architecture and refused calls get EPERM, clone with new namespaces, too. Of clone3 the
// kernel does not show the flags: it gets ENOSYS, on which C libraries take clone.
func filter() []instruction {
	arch, clone := uint32(archAMD64), uint32(56)
	if runtime.GOARCH == "arm64" {
		arch, clone = archARM64, 220
	}
	eperm := instruction{give, 0, 0, refuse | uint32(syscall.EPERM)}
	p := []instruction{
		{loadWord, 0, 0, callArch}, {jumpEqual, 1, 0, arch}, eperm,
		{loadWord, 0, 0, callNumber}, {jumpAtLeast, 0, 1, otherABI}, eperm,
		{jumpEqual, 0, 1, clone3}, {give, 0, 0, refuse | uint32(syscall.ENOSYS)},
	}
	for _, n := range refused[runtime.GOARCH] {
		p = append(p, instruction{jumpEqual, 0, 1, n}, eperm)
	}
	return append(p, instruction{jumpEqual, 1, 0, clone}, instruction{give, 0, 0, allow},
		instruction{loadWord, 0, 0, firstArg}, instruction{jumpAny, 0, 1, namespaces}, eperm, instruction{give, 0, 0, allow})
}

// installFilter makes the filter that of this thread and its children. It needs PR_SET_NO_NEW_PRIVS.
func installFilter() error {
	p := filter()
	program := struct {
		n    uint16
		code *instruction
	}{uint16(len(p)), &p[0]}
	_, _, e := syscall.Syscall6(syscall.SYS_PRCTL, prSetSeccomp, seccompMode, uintptr(unsafe.Pointer(&program)), 0, 0, 0)
	if e != 0 {
		return os.NewSyscallError("seccomp", e)
	}
	return nil
}
