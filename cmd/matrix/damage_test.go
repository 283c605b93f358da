package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// patience is how long a command may take over a damaged folder.
const patience = 2 * time.Minute

// TestCrashDamage kills the program, or lets it end, then does to its folder what
// disks, cleaners and people do, and types the commands that the messages name.
// None hangs or panics; what run does not take, repair fixes; what was finished
// and is whole stays as it was to the byte; and in the end the output is that of a
// run that nobody disturbed. MATRIX_CRASH_KILLS says how many times, as for
// TestCrash.
func TestCrashDamage(t *testing.T) {
	t.Parallel()
	kills, bin := crashKills(t), buildMatrix(t)
	t.Run("files", func(t *testing.T) { damageFiles(t, bin, max(1, kills/2)) })
	t.Run("full disk", func(t *testing.T) { fillDisk(t, bin, max(1, kills/20)) })
	t.Run("few files", func(t *testing.T) { fewFiles(t, bin) })
}

func damageFiles(t *testing.T, bin string, rounds int) {
	const rows = 500
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance starts from %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var want map[string]string
	refused := 0
	for round := range rounds {
		h := &crashBed{T: t, bin: bin, rng: rng, dir: t.TempDir()}
		h.write(fmt.Sprintf(crashConfig, []string{"none", "zstd", "gzip"}[rng.IntN(3)]), rows)
		if want == nil {
			h.out = filepath.Join(h.dir, "undisturbed")
			if code := h.run(0); code != 0 {
				t.Fatalf("undisturbed run: exit %d\n%s", code, h.log())
			}
			want = h.output()
		}
		h.out = filepath.Join(h.dir, "damaged")
		older := filepath.Join(h.dir, "older")
		for i := range 1 + rng.IntN(3) {
			if i == 1 { // the state that the second session began with
				if err := os.CopyFS(older, os.DirFS(filepath.Join(h.out, "state"))); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			if h.run(time.Duration(50+rng.IntN(600))*time.Millisecond) == 0 {
				break
			}
		}
		if _, err := os.Stat(filepath.Join(h.out, "config.yaml")); err != nil {
			continue // killed before there was a run
		}
		d := h.damage(older)
		what := fmt.Sprintf("round %d: %s", round, d)
		before := h.whole()
		for _, args := range [][]string{{"verify", h.out}, {"show", h.out}, {"explain", h.out, "q1"}} {
			if code, out := h.command(args...); code != 0 && code != 1 && code != 2 {
				t.Fatalf("%s: %v: exit %d\n%s", what, args, code, out)
			}
		}
		args := []string{"run", h.dir, "out=" + h.out, "display=plain"}
		if rng.IntN(5) == 0 {
			before = nil
			args = append(args, "--fresh")
		}
		code, out := h.command(args...)
		if code == 1 && before != nil {
			refused++
			if !strings.Contains(out, "matrix repair ") {
				t.Fatalf("%s: run was refused without a way on\n%s", what, out)
			}
			// A run that met what it cannot read at its end alone has finished rows before.
			if now := h.whole(); !contains(now, before) {
				t.Fatalf("%s: the run that was refused left %d lines, and not all of the %d before\n%s", what, len(now), len(before), out)
			}
			code, out = h.repair(what, args)
		}
		if code != 0 {
			t.Fatalf("%s: %v: exit %d\n%s", what, args, code, out)
		}
		if code, _ := h.command("verify", h.out); code == 1 && before != nil { // of what run does not read
			if code, out := h.repair(what, args); code != 0 {
				t.Fatalf("%s: %v: exit %d\n%s", what, args, code, out)
			}
		}
		if code, out := h.command("verify", h.out, "--complete"); code != 0 {
			t.Fatalf("%s: verify --complete: exit %d\n%s", what, code, out)
		}
		if got := h.output(); !maps.Equal(got, want) {
			t.Errorf("%s: the output differs from an undisturbed run's:\n%s", what, difference(got, want))
		}
		after := h.whole()
		for id, line := range before {
			if after[id] != line {
				t.Errorf("%s: %s was finished, and was made again:\n  was %s\n  is  %s", what, id, line, after[id])
				break
			}
		}
	}
	t.Logf("%d folders damaged, %d of them beyond what run takes: nothing hung, nothing finished was lost", rounds, refused)
}

// contains reports whether all lines of part are in all.
func contains(all, part map[string]string) bool {
	for id, line := range part {
		if all[id] != line {
			return false
		}
	}
	return true
}

// repair repairs the folder, and types the command again.
func (h *crashBed) repair(what string, args []string) (int, string) {
	h.Helper()
	code, out := h.command("repair", h.out)
	if code != 0 {
		h.Fatalf("%s: repair: exit %d\n%s", what, code, out)
	}
	code, more := h.command(args...)
	return code, out + more
}

// command runs the program, which must come to its end. What is said is returned.
func (h *crashBed) command(args ...string) (int, string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.bin, args...)
	out, _ := cmd.CombinedOutput()
	if ctx.Err() != nil {
		h.Fatalf("%v: hangs\n%s", args, out)
	}
	if bytes.Contains(out, []byte("panic: ")) || bytes.Contains(out, []byte("goroutine ")) {
		h.Fatalf("%v: exit %d\n%s", args, cmd.ProcessState.ExitCode(), out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// damage does something to the folder, and says what.
func (h *crashBed) damage(older string) string {
	h.Helper()
	folder := "state"
	if h.rng.IntN(3) == 0 {
		folder = "data"
	}
	dir := filepath.Join(h.out, folder)
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		h.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "LOCK" && e.Name() != "RUNNING" {
			names = append(names, e.Name())
		}
	}
	must := func(err error) {
		if err != nil {
			h.Fatal(err)
		}
	}
	if folder == "state" {
		switch h.rng.IntN(8) {
		case 0:
			for _, name := range names {
				if strings.HasSuffix(name, ".log") {
					must(os.Remove(filepath.Join(dir, name)))
				}
			}
			return "all logs deleted"
		case 1:
			if h.rng.IntN(2) == 0 {
				must(os.RemoveAll(dir))
				return "the state deleted"
			}
			for _, name := range names {
				must(os.Remove(filepath.Join(dir, name)))
			}
			return "the state emptied"
		case 2:
			if _, err := os.Stat(older); err == nil {
				must(os.RemoveAll(dir))
				must(os.CopyFS(dir, os.DirFS(older)))
				return "an older state restored"
			}
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	name := names[h.rng.IntN(len(names))]
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	must(err)
	at := 0
	if len(b) > 0 {
		at = h.rng.IntN(len(b))
	}
	name = folder + "/" + name
	switch kind := h.rng.IntN(4); {
	case kind == 0 || len(b) == 0:
		must(os.Remove(path))
		return name + " deleted"
	case kind == 1:
		must(os.Truncate(path, int64(at)))
		return fmt.Sprintf("%s of %d bytes cut at %d", name, len(b), at)
	case kind == 2 && folder == "state": // in a line it may be a letter of a text, which nothing tells
		b[at] ^= 1 << h.rng.IntN(8)
		must(os.WriteFile(path, b, 0o666))
		return fmt.Sprintf("a bit of %s of %d bytes flipped at %d", name, len(b), at)
	default:
		n := min(len(b)-at, 4096)
		clear(b[at : at+n])
		must(os.WriteFile(path, b, 0o666))
		return fmt.Sprintf("%d bytes of %s of %d cleared at %d", n, name, len(b), at)
	}
}

// whole reads the lines of the output that are tasks, by id, whatever is between
// them.
func (h *crashBed) whole() map[string]string {
	all := map[string]string{}
	for _, folder := range []string{"data", "failed"} {
		paths, _ := filepath.Glob(filepath.Join(h.out, folder, "part-*"))
		slices.Sort(paths)
		for _, path := range paths {
			for _, line := range plainLines(h, path) {
				var t struct{ ID string }
				if json.Unmarshal([]byte(line), &t) == nil && all[t.ID] == "" {
					all[t.ID] = line
				}
			}
		}
	}
	return all
}

// plainLines reads a part as far as it can be read from its beginning.
func plainLines(h *crashBed, path string) []string {
	h.Helper()
	f, err := os.Open(path)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	b := decompressed(f, path)
	lines := strings.SplitAfter(string(b), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return !strings.HasSuffix(l, "\n") })
}

// decompressed reads f until it ends or cannot be read.
func decompressed(f *os.File, path string) []byte {
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".gz":
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil
		}
		r = z
	case ".zst":
		z, err := zstd.NewReader(f)
		if err != nil {
			return nil
		}
		defer z.Close()
		r = z
	}
	b, _ := io.ReadAll(r)
	return b
}

// fillDisk fills a small disk under a run, again and again: it says so,
// verify holds, and with more room the same command goes on.
func fillDisk(t *testing.T, bin string, rounds int) {
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "none", disk).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small disk here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	size := func(kib int) {
		if out, err := exec.Command("mount", "-o", fmt.Sprintf("remount,size=%dk", kib), disk).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for round := range rounds {
		h := &crashBed{T: t, bin: bin, rng: rng, dir: t.TempDir(), out: filepath.Join(disk, fmt.Sprint(round))}
		h.write(fmt.Sprintf(crashConfig, "none"), 500)
		full := 0
		for kib := 256 + rng.IntN(512); ; kib += 512 + rng.IntN(1024) {
			size(kib)
			code, out := h.command("run", h.dir, "out="+h.out)
			if code == 0 {
				break
			}
			if full++; code != 1 || !strings.Contains(out, "The disk is full") {
				t.Fatalf("%d KiB: exit %d\n%s", kib, code, out)
			}
		}
		if code, out := h.command("verify", h.out, "--complete"); code != 0 {
			t.Fatalf("verify --complete: exit %d\n%s", code, out)
		}
		t.Logf("the disk was full %d times", full)
		if err := os.RemoveAll(h.out); err != nil {
			t.Fatal(err)
		}
	}
}

// fewFiles lets a run have fewer and fewer open files: it ends, and says
// what it lacks.
func fewFiles(t *testing.T, bin string) {
	h := &crashBed{T: t, bin: bin, dir: t.TempDir()}
	h.write(fmt.Sprintf(crashConfig, "none"), 20)
	for n := 22; n >= 10; n -= 4 {
		h.out = filepath.Join(h.dir, fmt.Sprint(n))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		out, err := exec.CommandContext(ctx, "sh", "-c", fmt.Sprintf("ulimit -n %d; exec %s run %s out=%s", n, bin, h.dir, h.out)).CombinedOutput()
		if ctx.Err() != nil {
			t.Fatalf("%d files: hangs\n%s", n, out)
		}
		cancel()
		if err != nil && !bytes.Contains(out, []byte("too many open files")) {
			t.Errorf("%d files: %v\n%s", n, err, out)
		}
		if code, said := h.command("run", h.dir, "out="+h.out); code != 0 {
			t.Errorf("after %d files: exit %d\n%s", n, code, said)
		}
	}
}
