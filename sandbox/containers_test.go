//go:build linux

package sandbox_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"matrix/matrixtest"
	"matrix/sandbox"
)

func openPodman(c sandbox.Config, o sandbox.Options) (sandbox.Pool, error) {
	return sandbox.NewPodman(sandbox.Podman{Config: c}, o)
}

func TestPodmanSuite(t *testing.T) {
	if os.Getenv("MATRIX_TEST_PODMAN") == "" {
		t.Skip("takes minutes: set MATRIX_TEST_PODMAN")
	}
	sandbox.NeedPodman(t)
	p, err := openPodman(matrixtest.SandboxConfig(), sandbox.Options{Run: t.Name(), Pool: "probe"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Check(t.Context()); err != nil {
		t.Skipf("podman starts no containers here: %v", err)
	}
	matrixtest.Sandbox(t, matrixtest.Sandboxes{Open: openPodman, Spec: sandbox.Spec{Image: sandbox.TestImage}, Isolated: true, Root: true, Disk: os.Geteuid() == 0, Limited: limited(t, openPodman), Slow: true,
		Processes: firstProcesses})
}

// firstProcesses are the supervisors of the containers of a run.
func firstProcesses(t *testing.T, run string) (all []int) {
	out, err := exec.Command("podman", "ps", "--filter", "name="+sandbox.Key{Run: run}.Name()[:len("mx-00000000")], "--format", "{{.Pid}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			all = append(all, pid)
		}
	}
	return all
}
