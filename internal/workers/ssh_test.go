package workers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hosts writes a file of hosts.
func (p *place) hosts(lines ...string) string {
	p.Helper()
	file := filepath.Join(p.TempDir(), "hosts.txt")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o666); err != nil {
		p.Fatal(err)
	}
	return "ssh:" + file
}

// startSSH is start with short waits.
func (p *place) startSSH(on string, n int) (Launcher, *Group, error) {
	p.Helper()
	l, err := New(on)
	if err != nil {
		p.Fatal(err)
	}
	l.(*sshLauncher).retry = time.Millisecond
	g, err := p.New(on)
	if err != nil {
		p.Fatal(err)
	}
	err = l.Start(p.Context(), g, n, p.Spec)
	p.Cleanup(func() { p.stop(l, g) })
	return l, g, err
}

// A program that is called as ssh is and runs the script here, with a home for each
// host: "down" never answers, "busy" drops the first two connections, "arm" is another machine.
// What it was called with is in calls.
const playedSSH = `#!/bin/sh
dir=$(dirname "$0")
printf '%s\n' "$*" | tr '\n' ' ' >>"$dir/calls"; echo >>"$dir/calls"
while [ "$1" != -- ]; do shift; done
host=$2
case $host in
down) echo "ssh: connect to host down port 22: No route to host" >&2; exit 255;;
busy) echo x >>"$dir/busy"; [ $(wc -l <"$dir/busy") -gt 2 ] || { echo "Connection reset by peer" >&2; exit 255; };;
arm) mkdir -p "$dir/bin"; printf '#!/bin/sh\necho Linux aarch64\n' >"$dir/bin/uname"; chmod +x "$dir/bin/uname"; PATH=$dir/bin:$PATH;;
esac
mkdir -p "$dir/home/$host"
cd "$dir/home/$host"
unset XDG_CACHE_HOME
HOME=$PWD SHELL=/bin/sh exec sh -c "$3"
`

func TestSSHPlayed(t *testing.T) {
	dir := script(t, "ssh", playedSSH)
	p := newPlace(t, "it's $HOME", "two words")
	l, g, err := p.startSSH(p.hosts("down", "a slots=7 label gpu=h100", "me@b", "arm", "busy label zone=x"), 8)
	var hosts *HostsError
	var platform *PlatformError
	var tool *ToolError
	if !errors.As(err, &hosts) || len(hosts.Failed) != 2 || hosts.Of != 5 || !errors.As(err, &platform) || !errors.As(err, &tool) {
		t.Fatalf("got %v, want that 2 of 5 hosts failed, one by its platform", err)
	}
	for _, want := range []string{"2 of 5 hosts failed", "ssh down: exit status 255: ssh: connect to host down port 22: No route to host", "this machine is Linux aarch64, and "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	// down, a, me@b, arm, busy, down, a, me@b
	got := p.joined(g.ID+"-1", g.ID+"-2", g.ID+"-4", g.ID+"-6", g.ID+"-7")
	if want := "slots 7\ngpu=h100\nit's $HOME\ntwo words"; got[0] != want || got[3] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := "slots 0\nzone=x\nit's $HOME\ntwo words"; got[2] != want {
		t.Errorf("got %q, want %q", got[2], want)
	}
	p.hidden()
	if units := p.list(l, g); states(units) != "running running running running running" || units[0].Where != "a" {
		t.Errorf("got %+v, want five that are running, the first on a", units)
	}
	calls := func() (copies, all int) {
		b, _ := os.ReadFile(filepath.Join(dir, "calls"))
		return strings.Count(string(b), "the copy is not whole"), strings.Count(string(b), "\n")
	}
	if copies, _ := calls(); copies != 3 {
		t.Errorf("the program was copied %d times, want once to each of a, me@b and busy", copies)
	}
	programs, _ := filepath.Glob(filepath.Join(dir, "home/*/.cache/matrix/*"))
	if len(programs) != 3 {
		t.Errorf("got %q, want one program on each host", programs)
	}
	_, again, err := p.startSSH(p.hosts("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	p.joined(again.ID + "-0")
	if copies, _ := calls(); copies != 3 {
		t.Errorf("the program was copied again")
	}
	p.stop(l, g)
	if !p.left(g.ID+"-1") || !p.left(g.ID+"-7") || p.left(again.ID+"-0") {
		t.Error("want those of the first group to have left, and the other not")
	}
}

// A file that is cut while it is copied is not taken for the program.
func TestSSHCutCopy(t *testing.T) {
	script(t, "ssh", strings.Replace(playedSSH, "HOME=$PWD SHELL", `case $3 in *"cat >"*) head -c 1000 | HOME=$PWD sh -c "$3"; exit;; esac; HOME=$PWD SHELL`, 1))
	p := newPlace(t)
	_, _, err := p.startSSH(p.hosts("a"), 0)
	if err == nil || !strings.Contains(err.Error(), "the copy is not whole") {
		t.Errorf("got %v, want that the copy is not whole", err)
	}
}

// A connection that is lost is made again.
func TestSSHLost(t *testing.T) {
	script(t, "ssh", playedSSH)
	p := newPlace(t, "dropped")
	l, g, err := p.startSSH(p.hosts("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	name := g.ID + "-0"
	until(t, "it joins again", func() bool {
		b, _ := os.ReadFile(p.list(l, g)[0].Log)
		return strings.Count(string(b), "worker "+name+" has joined") == 2 && states(p.list(l, g)) == "running"
	})
	p.stop(l, g)
	if !p.left(name) {
		t.Error("it was not told to leave")
	}
}

func TestNoSSH(t *testing.T) {
	p := newPlace(t)
	on := p.hosts("a")
	t.Setenv("PATH", t.TempDir())
	_, _, err := p.startSSH(on, 0)
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "there is no program ssh on PATH here") {
		t.Errorf("got %v, want that there is no ssh", err)
	}
}

// sshd is a real one on loopback; ssh on PATH reaches it as any host h0, h1, ...
type sshd struct {
	*testing.T
	dir, program string
	cmd          *exec.Cmd
}

func newSSHD(t *testing.T) *sshd {
	program := "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("no sshd is installed here (Debian: openssh-server): ssh is played only, by TestSSHPlayed")
	}
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh is installed here: it is played only, by TestSSHPlayed")
	}
	if os.Getuid() == 0 {
		_ = os.MkdirAll("/run/sshd", 0o755) // where it has no privileges
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	home := filepath.Join(dir, "home")
	for name, text := range map[string]string{
		"sshd_config": fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv XDG_CACHE_HOME=%s\n", port, dir, dir, home),
		"ssh_config":  fmt.Sprintf("Host h*\nHostName 127.0.0.1\nPort %d\nIdentityFile %s/user\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile %s/known\nLogLevel ERROR\n", port, dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script(t, "ssh", fmt.Sprintf("#!/bin/sh\nexec %s -F %s/ssh_config \"$@\"\n", real, dir))
	s := &sshd{T: t, dir: dir, program: program}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts it and returns once it answers.
func (s *sshd) start() {
	s.Helper()
	s.cmd = exec.Command(s.program, "-D", "-e", "-f", filepath.Join(s.dir, "sshd_config"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with all that it starts
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	until(s.T, "sshd answers", func() bool { return exec.Command("ssh", "h0", "true").Run() == nil })
}

// kill ends it with its connections.
func (s *sshd) kill() {
	if s.cmd.ProcessState != nil {
		return
	}
	for _, child := range children(s.cmd.Process.Pid) { // each a session of its own
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func children(of int) []int {
	var all []int
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", of, of))
	for _, w := range strings.Fields(string(b)) {
		var pid int
		if _, err := fmt.Sscan(w, &pid); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// TestSSH starts workers over real connections, loses all of them, and finds the
// workers again.
func TestSSH(t *testing.T) {
	s := newSSHD(t)
	p := newPlace(t)
	n := 30 // more than sshd takes at once, were they not made in turns
	if os.Getenv("MATRIX_TEST_SSH") == "" {
		n = 3
		small := filepath.Join(t.TempDir(), "small")
		if err := os.WriteFile(small, []byte("#!/bin/sh\nexec "+quote(p.Program)+` "$@"`+"\n"), 0o777); err != nil {
			t.Fatal(err)
		}
		p.Program = small
	}
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("h%d slots=%d", i, i+1))
	}
	began := time.Now()
	l, g, err := p.startSSH(p.hosts(hosts...), 0)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		t.Fatalf("%v; sshd says:\n%s", err, log)
	}
	t.Logf("%d hosts after %v", n, time.Since(began).Round(time.Millisecond))
	var names []string
	for i := range hosts {
		names = append(names, fmt.Sprintf("%s-%d", g.ID, i))
	}
	for i, got := range p.joined(names...) {
		if want := fmt.Sprintf("slots %d", i+1); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	p.hidden()
	s.kill()
	until(t, "the workers leave with their connections", func() bool {
		for _, n := range names {
			if !p.left(n) {
				return false
			}
		}
		return true
	})
	for _, n := range names {
		_ = os.Remove(filepath.Join(p.notes, n))
	}
	s.start()
	p.joined(names...)
	until(t, "all are told to be running", func() bool {
		return states(p.list(l, g)) == strings.TrimSpace(strings.Repeat("running ", len(names)))
	})
	p.stop(l, g)
	if got := p.list(l, g); got[0].State != Ended || got[0].Text != "exit status 0" {
		t.Errorf("got %+v, want that it ended with 0", got[0])
	}
}
