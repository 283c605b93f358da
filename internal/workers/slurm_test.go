package workers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Programs that are called as those of Slurm are: sbatch runs the tasks of the array 0-1
// here, squeue tells of them, and scancel ends them. What they were called with is in calls.
const (
	playedSbatch = `#!/bin/sh
dir=$(dirname "$0")
echo "sbatch $*" >>"$dir/calls"
case "$*" in *--partition=none*) echo "sbatch: error: invalid partition specified: none" >&2; exit 1;; esac
for job; do :; done
cp "$job" "$dir/job.sh"
for i in 0 1; do
	SLURM_ARRAY_TASK_ID=$i setsid sh "$job" >>"$dir/$i.log" 2>&1 </dev/null &
	echo $! >"$dir/pid.$i"
done
`
	playedSqueue = `#!/bin/sh
dir=$(dirname "$0")
echo "squeue $*" >>"$dir/calls"
for i in 0 1; do
	[ -f "$dir/pid.$i" ] || continue
	if kill -0 $(cat "$dir/pid.$i") 2>/dev/null && ! grep -q '^State:.Z' /proc/$(cat "$dir/pid.$i")/status; then echo "$i|RUNNING|n$i|None"; else echo "$i|COMPLETED|n$i|None"; fi
done
[ ! -f "$dir/pending" ] || echo "2|PENDING||Priority"
`
	playedScancel = `#!/bin/sh
dir=$(dirname "$0")
echo "scancel $*" >>"$dir/calls"
case "$*" in
*PENDING*) rm -f "$dir/pending";;
*TERM*) kill -TERM $(cat "$dir/pid.0" "$dir/pid.1");;
*) kill -KILL $(cat "$dir/pid.0" "$dir/pid.1");;
esac
`
)

func playSlurm(t *testing.T) (dir string) {
	t.Helper()
	dir = script(t, "sbatch", playedSbatch)
	for name, text := range map[string]string{"squeue": playedSqueue, "scancel": playedScancel} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSlurmPlayed(t *testing.T) {
	dir := playSlurm(t)
	p := newPlace(t, "it's $HOME")
	l, g, err := p.start(`slurm:--partition=spot "--comment=two words"`, 2)
	if err != nil {
		t.Fatal(err)
	}
	got := p.joined(g.ID+"-0-0", g.ID+"-1-0")
	if want := "slots 0\nit's $HOME"; got[0] != want {
		t.Errorf("got %q, want %q", got[0], want)
	}
	p.hidden()
	if err := os.WriteFile(filepath.Join(dir, "pending"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	units := p.list(l, g)
	if states(units) != "running running waiting" || units[1].Where != "n1" || units[2].Text != "pending (Priority)" {
		t.Errorf("got %+v, want two that are running and one that is not", units)
	}
	l.(*slurm).look = time.Millisecond
	p.stop(l, g)
	if !p.left(g.ID+"-0-0") || !p.left(g.ID+"-1-0") {
		t.Error("want both told to leave")
	}
	me, _ := user.Current()
	b, _ := os.ReadFile(filepath.Join(dir, "calls"))
	for _, want := range []string{
		fmt.Sprintf("sbatch --job-name=%[1]s --array=0-1 --export=NONE --requeue --signal=B:TERM@60 --chdir=%[2]s --open-mode=append --output=%[2]s/%%a.log --partition=spot --comment=two words %[2]s/job.sh\n", g.ID, g.Dir),
		fmt.Sprintf("squeue --noheader --array --name %s --user %s --format=%%K|%%T|%%N|%%r\n", g.ID, me.Username),
		fmt.Sprintf("scancel --name %s --user %s --state=PENDING\n", g.ID, me.Username),
		fmt.Sprintf("scancel --name %s --user %s --state=RUNNING --batch --signal=TERM\n", g.ID, me.Username),
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("got %s\nwant in it %s", b, want)
		}
	}
	if err := p.Remove(g); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.Dir); err == nil {
		t.Errorf("%s is left", p.Dir)
	}
}

func TestSlurmCancelled(t *testing.T) {
	playSlurm(t)
	p := newPlace(t, "deaf")
	l, g, err := p.start("slurm", 2)
	if err != nil {
		t.Fatal(err)
	}
	p.joined(g.ID+"-0-0", g.ID+"-1-0")
	l.(*slurm).look = time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Stop(ctx, g); err != nil {
		t.Fatal(err)
	}
	if got := states(p.list(l, g)); got != "ended ended" {
		t.Errorf("got %s, want both ended", got)
	}
}

func TestSlurmRefuses(t *testing.T) {
	playSlurm(t)
	p := newPlace(t)
	_, _, err := p.start("slurm:--partition=none", 2)
	if want := "sbatch: exit status 1: sbatch: error: invalid partition specified: none"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A node that does not share the file system says so.
func TestSlurmScript(t *testing.T) {
	dir := playSlurm(t)
	p := newPlace(t)
	if _, _, err := p.start("slurm", 2); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p.Join); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", filepath.Join(dir, "job.sh")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "there is no "+p.Join+" here") {
		t.Errorf("got %v and %s, want that the file is not there", err, out)
	}
}

// slurmConf is a cluster of two nodes on one host.
const slurmConf = `ClusterName=here
SlurmctldHost=%[2]s(127.0.0.1)
SlurmUser=root
SlurmctldPort=15817
AuthType=auth/munge
AuthInfo=socket=%[1]s/munge.socket
StateSaveLocation=%[1]s/state
SlurmdSpoolDir=%[1]s/spool.%%n
SlurmctldPidFile=%[1]s/slurmctld.pid
SlurmdPidFile=%[1]s/slurmd.%%n.pid
SlurmctldLogFile=%[1]s/slurmctld.log
SlurmdLogFile=%[1]s/slurmd.%%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName=n1 NodeHostname=%[2]s NodeAddr=127.0.0.1 Port=15821 CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname=%[2]s NodeAddr=127.0.0.1 Port=15822 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=spot Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
`

// TestSlurm runs a real cluster of two nodes on this host.
func TestSlurm(t *testing.T) {
	if os.Getenv("MATRIX_TEST_SLURM") == "" {
		t.Skip("MATRIX_TEST_SLURM is not set (it needs root, and Debian's slurmctld, slurmd and munge): Slurm is played only")
	}
	dir := realSlurm(t)
	p := newPlace(t)
	p.Keeper = nil
	l, g, err := p.start("slurm:--partition=spot --cpus-per-task=2", 3)
	if err != nil {
		t.Fatal(err)
	}
	p.joined(g.ID+"-0-0", g.ID+"-1-0")
	p.hidden()
	until(t, "two are told to be running, and one to wait", func() bool {
		units := p.list(l, g)
		return len(units) == 3 && strings.Count(states(units), "running") == 2 && strings.Count(states(units), "waiting") == 1
	})
	for _, u := range p.list(l, g) {
		t.Logf("%+v", u)
	}
	// Others are more important: what runs is told to leave, and waits again.
	if out, err := exec.Command("sbatch", "--array=0-1", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 600").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	until(t, "both leave when they are preempted", func() bool { return p.left(g.ID+"-0-0") && p.left(g.ID+"-1-0") })
	until(t, "all three wait", func() bool { return states(p.list(l, g)) == "waiting waiting waiting" })
	for _, u := range p.list(l, g) {
		t.Logf("%+v", u)
	}
	if out, err := exec.Command("scancel", "--partition=main").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.joined(g.ID + "-2-0") // those that were requeued wait for two minutes
	began := time.Now()
	p.stop(l, g)
	t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	if !p.left(g.ID + "-2-0") {
		t.Error("want it told to leave")
	}
	_, _, err = p.start("slurm:--partition=nowhere", 1)
	t.Logf("a partition that is not there: %v", err)
	if err == nil {
		t.Error("want it refused")
	}
	_ = dir
}

// realSlurm starts munged, slurmctld and two slurmd, and puts their config into the environment.
func realSlurm(t *testing.T) string {
	dir := t.TempDir()
	host, _ := os.Hostname()
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "slurm.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, slurmConf, dir, host), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "munge.key"), []byte(strings.Repeat("0123456789abcdef", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLURM_CONF", conf)
	daemon := func(argv ...string) {
		log, err := os.CreateTemp(dir, argv[0]+".out")
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		c := exec.Command(argv[0], argv[1:]...)
		c.Stdout, c.Stderr = log, log
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Process.Signal(syscall.SIGTERM)
			ended := make(chan struct{})
			go func() { _ = c.Wait(); close(ended) }()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				_ = c.Process.Kill()
				<-ended
			}
		})
	}
	socket := filepath.Join(dir, "munge.socket")
	daemon("munged", "--foreground", "--force", "--key-file="+filepath.Join(dir, "munge.key"), "--socket="+socket,
		"--log-file="+filepath.Join(dir, "munged.log"), "--pid-file="+filepath.Join(dir, "munged.pid"), "--seed-file="+filepath.Join(dir, "munged.seed"))
	until(t, "munged answers", func() bool { return exec.Command("munge", "--no-input", "--socket="+socket).Run() == nil })
	daemon("slurmctld", "-D", "-f", conf)
	daemon("slurmd", "-D", "-f", conf, "-N", "n1")
	daemon("slurmd", "-D", "-f", conf, "-N", "n2")
	until(t, "both nodes are idle", func() bool {
		out, _ := exec.Command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").Output()
		return strings.TrimSpace(string(out)) == "idle\nidle"
	})
	return dir
}
