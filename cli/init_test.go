package cli

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix/examples"
)

func TestInit(t *testing.T) {
	t.Chdir(t.TempDir())
	code, out, errs := command(t, "init", "coral")
	if code != 0 || !strings.Contains(out, " run coral\n") {
		t.Fatalf("init coral: exit code %d, got\n%s%s", code, out, errs)
	}
	sub, err := fs.Sub(examples.FS, "coral")
	if err != nil {
		t.Fatal(err)
	}
	err = fs.WalkDir(sub, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, err := fs.ReadFile(sub, p)
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(filepath.Join("coral", p)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not as in the example: %v", p, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	own := filepath.Join("coral", "config.yaml")
	if err := os.WriteFile(own, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join("coral", "README.md")); err != nil {
		t.Fatal(err)
	}
	code, _, errs = command(t, "init", "coral")
	if code != 2 || !strings.Contains(errs, "nothing was written") {
		t.Errorf("init over files: exit code %d and %q", code, errs)
	}
	if got, _ := os.ReadFile(own); string(got) != "mine" {
		t.Errorf("init has overwritten %s with %q", own, got)
	}
	if _, err := os.Stat(filepath.Join("coral", "README.md")); err == nil {
		t.Error("init has written README.md beside files that it must not overwrite")
	}
	if code, _, errs = command(t, "init", "coral", "--force"); code != 0 {
		t.Errorf("init --force: exit code %d and %q", code, errs)
	}
	if got, _ := os.ReadFile(own); string(got) == "mine" {
		t.Error("init --force has left config.yaml as it was")
	}
}

func TestInitElsewhere(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"command", filepath.Join(dir, "a b")}, 0, "run '" + filepath.Join(dir, "a b") + "'"},
		{[]string{"command", file}, 2, "is a file"},
		{[]string{"command", filepath.Join(file, "x")}, 1, file},
		{[]string{"corall"}, 2, `there is no example "corall" (did you mean "coral"?)`},
		{[]string{"nothing-like-it"}, 2, "there are code, command, coral, curation"},
		{[]string{"a", "b", "c"}, 2, `got "c" too`},
		{nil, 0, "coral  "},
		{[]string{"--list"}, 0, "coral  "},
	} {
		code, out, errs := command(t, append([]string{"init"}, test.args...)...)
		if code != test.code || !strings.Contains(out+errs, test.want) {
			t.Errorf("init %q: exit code %d, want %d with %q; got\n%s%s", test.args, code, test.code, test.want, out, errs)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "a b", "agent.py")); err != nil {
		t.Error(err)
	} else if info.Mode().Perm()&0o600 != 0o600 {
		t.Errorf("agent.py has mode %v", info.Mode())
	}
}
