//go:build unix

package workers

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"debug/elf"
	"debug/macho"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// sshLauncher starts workers on hosts over ssh, the program, which honours the
// user's configuration. A worker hangs on its connection. With 0 workers there is
// one on each host, with more hosts take their turns.
type sshLauncher struct {
	kept
	file  string
	retry time.Duration // before a connection is tried again
}

// sshLost is the exit code of ssh where there is no connection.
const sshLost = 255

// sshTries is how often the first connection to a host is tried.
const sshTries = 3

func newSSH(file string) (Launcher, error) {
	if file == "" {
		return nil, errors.New("want a file of hosts behind ssh:, one a line: HOST [slots=N] [label KEY=VALUE]")
	}
	return &sshLauncher{file: file, retry: time.Second}, nil
}

// HostsError says on which hosts no worker could be started.
type HostsError struct {
	Failed []error // one for each
	Of     int     // hosts
}

func (e *HostsError) Error() string {
	return fmt.Sprintf("%d of %d hosts failed:\n%v", len(e.Failed), e.Of, errors.Join(e.Failed...))
}

func (e *HostsError) Unwrap() []error { return e.Failed }

func (l *sshLauncher) Start(ctx context.Context, g *Group, n int, s Spec) error {
	hosts, err := readHosts(l.file)
	if err != nil {
		return err
	}
	if n > 0 && n < len(hosts) {
		hosts = hosts[:n]
	}
	b, err := openBinary(s.Program)
	if err != nil {
		return err
	}
	failed := make([]error, len(hosts))
	slots := make(chan struct{}, atOnce)
	var wait sync.WaitGroup
	copied := map[string]bool{} // hosts that are listed twice get one copy
	for i, h := range hosts {
		if copied[h.name] {
			continue
		}
		copied[h.name] = true
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			failed[i] = l.copy(ctx, h.name, b)
		})
	}
	wait.Wait()
	bad := map[string]bool{}
	fault := &HostsError{Of: len(copied)}
	for i, err := range failed {
		if err != nil {
			bad[hosts[i].name] = true
			fault.Failed = append(fault.Failed, err)
		}
	}
	var all []keptWorker
	for i := range max(n, len(hosts)) {
		h := hosts[i%len(hosts)]
		if bad[h.name] {
			continue
		}
		name := fmt.Sprintf("%s-%d", g.ID, i)
		begins := rand.Text()
		run := append([]string{}, s.Command(Worker{Join: "-", Name: name, Slots: h.slots, Labels: h.labels})...)
		script := cd + " && echo " + begins + " && exec ./" + b.name + " " + quoteAll(run)
		all = append(all, keptWorker{
			Unit: Unit{Name: name, Where: h.name, State: Waiting, Log: filepath.Join(g.Dir, fmt.Sprintf("%d.log", i))},
			Argv: ssh(h.name, login(script)), Begins: begins, Lost: sshLost,
		})
	}
	if len(all) > 0 {
		if err := startKeeper(ctx, g, s, all); err != nil {
			return err
		}
	}
	if len(fault.Failed) > 0 {
		return fault
	}
	return nil
}

// ssh is a command line that runs a script on a host. A host that has vanished is
// noticed within 20 s.
func ssh(host, script string) []string {
	return []string{"ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "--", host, script}
}

// cd goes to the folder of programs on a host.
const cd = `umask 077; d=${XDG_CACHE_HOME:-$HOME/.cache}/matrix; mkdir -p "$d" && cd "$d"`

// plain has sh run a script, whatever the user's shell is.
func plain(script string) string { return "exec sh -c " + quote(script) }

// login has the user's shell run a script as one of a login, so that the worker has
// the environment that the user has there; or sh, where that shell speaks another language.
func login(script string) string {
	return plain(`s=` + quote(script) + `; case $SHELL in */bash|*/zsh|*/ksh|*/dash|*/sh) exec "$SHELL" -lc "$s";; esac; exec sh -c "$s"`)
}

// copy sees to it that a host has the binary.
func (l *sshLauncher) copy(ctx context.Context, host string, b *binary) error {
	script := cd + fmt.Sprintf(` && uname -sm && if [ -x %[1]s ] && [ "$(wc -c <%[1]s)" -eq %[2]d ]; then echo there; fi`, b.name, b.size)
	var out string
	err := l.again(ctx, func() (err error) {
		out, err = tool(ctx, " "+host, nil, ssh(host, plain(script))...)
		return err
	})
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n") // a shell's own start may print before
	there := lines[len(lines)-1] == "there"
	if there {
		lines = lines[:len(lines)-1]
	}
	if err := b.fits(lines[len(lines)-1]); err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	if there {
		return nil
	}
	// A connection that breaks ends the file, too: what counts is its size.
	script = cd + fmt.Sprintf(` && t=%[1]s.$$ && cat >"$t" && [ "$(wc -c <"$t")" -eq %[2]d ] && chmod 700 "$t" && mv -f "$t" %[1]s || { rm -f "$t"; echo "the copy is not whole" >&2; exit 1; }`, b.name, b.size)
	return l.again(ctx, func() error {
		f, err := os.Open(b.path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = tool(ctx, " "+host+", copying "+filepath.Base(b.path), f, ssh(host, plain(script))...)
		return err
	})
}

// again does f until there is a connection.
func (l *sshLauncher) again(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var exit *exec.ExitError
		if err == nil || n == sshTries || !errors.As(err, &exit) || exit.ExitCode() != sshLost {
			return err
		}
		select {
		case <-time.After(time.Duration(n) * l.retry):
		case <-ctx.Done():
			return err
		}
	}
}

// binary is the program that is copied to hosts.
type binary struct {
	path, name string // on this machine, and on the others: by its content
	size       int64
	platform   string // as uname -sm says it, with x86_64 and arm64; empty for what is not known
}

func openBinary(path string) (*binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, err
	}
	b := &binary{path: path, name: "matrix-" + hex.EncodeToString(h.Sum(nil)[:8]), size: n}
	if e, err := elf.NewFile(f); err == nil {
		b.platform = "Linux " + map[elf.Machine]string{elf.EM_X86_64: "x86_64", elf.EM_AARCH64: "arm64"}[e.Machine]
	} else if m, err := macho.NewFile(f); err == nil {
		b.platform = "Darwin " + map[macho.Cpu]string{macho.CpuAmd64: "x86_64", macho.CpuArm64: "arm64"}[m.Cpu]
	}
	return b, nil
}

// PlatformError says that the program is built for other machines than a host is.
type PlatformError struct{ Program, Is, Host string }

func (e *PlatformError) Error() string {
	return fmt.Sprintf("this machine is %s, and %s is a program for %s", e.Host, e.Program, e.Is)
}

// fits compares the platform with what uname -sm says of a host.
func (b *binary) fits(uname string) error {
	system, machine, _ := strings.Cut(strings.TrimSpace(uname), " ")
	is := system + " " + cmp.Or(map[string]string{"aarch64": "arm64", "amd64": "x86_64"}[machine], machine)
	if b.platform != "" && is != b.platform {
		return &PlatformError{b.path, b.platform, uname}
	}
	return nil
}
