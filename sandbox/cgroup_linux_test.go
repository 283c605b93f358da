package sandbox

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestFindCgroups(t *testing.T) {
	for _, c := range []struct {
		name, self, mounts string
		want               cgroups
	}{
		{"version 2", "0::/user.slice/run.scope\n",
			"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			cgroups{map[string]string{}, "/sys/fs/cgroup/user.slice/run.scope"}},
		{"version 1, hybrid", "5:memory:/a\n3:cpu,cpuacct:/\n2:pids:/b\n0::/c\n",
			"31 24 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n32 24 0:28 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n33 24 0:29 / /cg/unified rw - cgroup2 cgroup2 rw\n",
			cgroups{map[string]string{"memory": "/cg/memory/a", "cpu": "/cg/cpu", "cpuacct": "/cg/cpu"}, "/cg/unified/c"}},
		{"in a container, which sees its own part", "0::/docker/x\n5:memory:/docker/x\n",
			"40 39 0:26 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n41 39 0:27 /docker/y /cg/memory ro - cgroup cgroup rw,memory\n",
			cgroups{map[string]string{}, "/sys/fs/cgroup"}},
		{"none", "", "", cgroups{v1: map[string]string{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := findCgroups([]byte(c.self), []byte(c.mounts)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// What is written for each version, in folders that stand for the kernel's.
func TestMakeCgroups(t *testing.T) {
	l := Limits{CPU: 1.5, Memory: 64 << 20, PIDs: 10}
	v1, v2 := t.TempDir(), t.TempDir()
	two := cgroups{v2: v2}
	if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte("cpu pids memory\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v2, "cgroup.subtree_control"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if missing, err := two.enable(l.wanted()); len(missing) > 0 || err != nil {
		t.Fatalf("missing %q, %v", missing, err)
	}
	if missing, err := (&cgroups{}).enable(l.wanted()); len(missing) != 3 || err == nil {
		t.Fatalf("without control groups: missing %q, %v", missing, err)
	}
	one := cgroups{v1: map[string]string{"memory": filepath.Join(v1, "m"), "pids": filepath.Join(v1, "p"), "cpu": filepath.Join(v1, "c")}}
	for _, dir := range one.v1 {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		in   cgroups
		want map[string]string
	}{
		{"version 2", two, map[string]string{v2 + "/x/cpu.max": "150000 100000", v2 + "/x/memory.max": "67108864", v2 + "/x/pids.max": "26"}},
		{"version 1", one, map[string]string{v1 + "/c/x/cpu.cfs_quota_us": "150000", v1 + "/m/x/memory.limit_in_bytes": "67108864", v1 + "/p/x/pids.max": "26"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := c.in.make("x", l, nil)
			if err != nil {
				t.Fatal(err)
			}
			for file, want := range c.want {
				if got, err := os.ReadFile(file); err != nil || string(got) != want {
					t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
				}
			}
			if g.oom() {
				t.Error("nothing was killed yet")
			}
			if err := os.WriteFile(g.memory, []byte("low 0\noom_kill 1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if !g.oom() || g.oom() {
				t.Error("a kill is told once")
			}
			for _, file := range g.procs() {
				if !strings.HasSuffix(file, "/x/cgroup.procs") {
					t.Errorf("got %s", file)
				}
			}
		})
	}
}

func TestOwner(t *testing.T) {
	for name, want := range map[string]bool{"mx-0-p-1" + owner(): true, "mx-0-p-1.1.0": false, "mx-0-p-1.4194305.5": false, "mx-0-p-1": true} {
		if got := ownerLives(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}
