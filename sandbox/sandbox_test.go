package sandbox_test

import (
	"os/exec"
	"testing"

	"matrix/matrixtest"
	"matrix/sandbox"
)

// needBwrap skips, aloud, where no sandboxes can be made.
func needBwrap(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Skip("bubblewrap is not installed here")
	}
}

func openBwrap(c sandbox.Config, o sandbox.Options) (sandbox.Pool, error) {
	return sandbox.NewBwrap(sandbox.Bwrap{Config: c}, o)
}

func openPlain(c sandbox.Config, o sandbox.Options) (sandbox.Pool, error) {
	return sandbox.NewPlain(sandbox.Plain{Config: c}, o)
}

// limited reports whether limits of memory and processes can be kept here.
func limited(t *testing.T, open func(sandbox.Config, sandbox.Options) (sandbox.Pool, error)) bool {
	c := matrixtest.SandboxConfig()
	c.Limits.Memory, c.Limits.PIDs, c.Limits.CPU = 64<<20, 50, 1
	p, err := open(c, sandbox.Options{Run: t.Name(), Pool: "probe"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Check(t.Context()); err != nil {
		t.Logf("without tests of limits: %v", err)
		return false
	}
	return true
}

func TestBwrap(t *testing.T) {
	needBwrap(t)
	matrixtest.Sandbox(t, matrixtest.Sandboxes{Open: openBwrap, Isolated: true, Disk: true, Bounded: true, Limited: limited(t, openBwrap)})
}

func TestPlain(t *testing.T) {
	matrixtest.Sandbox(t, matrixtest.Sandboxes{Open: openPlain, Limited: limited(t, openPlain)})
}
