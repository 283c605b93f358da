package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"matrix/sandbox/inside"
)

// fakeApptainer is a program of that name which notes its arguments, a line each, and runs the command on this machine, with the
// environment that Apptainer would give it. It shows that pools and Apptainer's command line fit together, and nothing of
// what Apptainer does.
const fakeApptainer = `#!/bin/sh
for a in "$@"; do echo "$a"; done > "RECORD"
while [ $# -gt 0 ]; do
	case $1 in
	--bind) supervisor=${2%%:*}; shift 2 ;;
	--pwd|--network) shift 2 ;;
	--overlay) [ -z "REFUSED" ] || { echo "no overlay here" >&2; exit 255; }; shift 2 ;;
	--*|exec) shift ;;
	*) break ;;
	esac
done
[ -e "$1" ] || exit 255
shift 2
for v in $(env | sed -n 's/^APPTAINERENV_\([A-Z]*\)=.*/\1/p'); do eval "export $v=\"\$APPTAINERENV_$v\""; done
exec "$supervisor" "$@"
`

func installFake(t *testing.T, refused string) (record string) {
	t.Helper()
	dir := t.TempDir()
	record = filepath.Join(dir, "record")
	script := strings.NewReplacer("RECORD", record, "REFUSED", refused).Replace(fakeApptainer)
	if err := os.WriteFile(filepath.Join(dir, "apptainer"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return record
}

func TestApptainerArguments(t *testing.T) {
	record := installFake(t, "")
	image := filepath.Join(t.TempDir(), "image.sif")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	a := &apptainer{options: Options{Run: t.Name(), Pool: "repo"}}
	defer a.close()
	if warnings, err := a.check(t.Context()); err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	dir := filepath.Join(t.TempDir(), "made")
	b, err := a.start(t.Context(), boxSpec{name: "mx-test", spec: Spec{Image: image, Dir: dir, Env: map[string]string{"OWN": "a b"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.kill()
	r, err := b.conn.Exec(t.Context(), inside.Command{Shell: `pwd; echo "$OWN"; grep CapEff /proc/self/status`})
	if want := dir + "\na b\nCapEff:\t0000000000000000\n"; err != nil || string(r.Out) != want {
		t.Errorf("got %q %q, %v; want %q", r.Out, r.Err, err, want)
	}
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, want := range []string{"--userns", "--containall", "--cleanenv", "--no-home", "--no-privs", "--net", "--network", "none", "--overlay"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
	if i := slices.Index(args, image); i < 0 || args[i+1] != supervisorAt || !slices.Contains(args[i:], "-drop") {
		t.Errorf("got %q, want the image and the supervisor behind it", args)
	}
	for _, arg := range args {
		if strings.Contains(arg, "a b") {
			t.Errorf("the environment is seen in %q", args)
		}
	}
	b.kill()
	left, err := filepath.Glob(filepath.Join(a.base, "box-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}

	var none *ImageError
	if _, err := a.start(t.Context(), boxSpec{spec: Spec{Image: "docker://busybox"}}); !errors.As(err, &none) || !strings.Contains(err.Error(), "apptainer pull") {
		t.Errorf("got %v, want an ImageError that says what to do", err)
	}
}

func TestApptainerWithoutOverlay(t *testing.T) {
	record := installFake(t, "yes")
	a := &apptainer{options: Options{Run: t.Name(), Pool: "repo"}}
	defer a.close()
	warnings, err := a.check(t.Context())
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "no overlay here") {
		t.Fatalf("got %q, %v; want one warning", warnings, err)
	}
	if text, _ := os.ReadFile(record); !strings.Contains(string(text), "--writable-tmpfs") {
		t.Errorf("got %s", text)
	}
}

func TestApptainerIsNotThere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	a := &apptainer{options: Options{Run: t.Name(), Pool: "repo"}}
	var image *ImageError
	if _, err := a.check(t.Context()); !errors.As(err, &image) || !strings.Contains(err.Error(), "install") {
		t.Errorf("got %v, want an ImageError that says what to install", err)
	}
}
