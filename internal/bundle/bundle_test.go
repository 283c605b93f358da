package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// wire carries questions and answers within this process, and counts.
type wire struct {
	mu      sync.Mutex
	frame   int
	answer  func([]byte) []byte
	twist   func(q question, answer []byte) []byte // what becomes of an answer; nil: nothing
	asked   []question
	carried int // bytes of content
	down    bool
}

func (w *wire) MaxFrame() int { return w.frame }

func (w *wire) Answer(address string, f func([]byte) []byte) (func(), error) {
	if address != Address {
		return nil, fmt.Errorf("answers at %s", address)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.answer = nil
	}, nil
}

func (w *wire) Request(ctx context.Context, address string, ask []byte) ([]byte, error) {
	w.mu.Lock()
	answer, down := w.answer, w.down
	w.mu.Unlock()
	if down {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if address != Address || answer == nil {
		return nil, fmt.Errorf("nobody answers at %s", address)
	}
	var q question
	if err := json.Unmarshal(ask, &q); err != nil {
		return nil, err
	}
	a := answer(ask)
	if len(a) > w.frame {
		return nil, fmt.Errorf("an answer with %d bytes, and frames have %d", len(a), w.frame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, q)
	_, content, _ := bytes.Cut(a, []byte("\n"))
	w.carried += len(content)
	if w.twist != nil {
		a = w.twist(q, a)
	}
	return a, nil
}

func (w *wire) count() (asked, carried int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked), w.carried
}

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve serves what c says over a wire of its own.
func serve(t *testing.T, c Contents) (*Bundle, *wire) {
	t.Helper()
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{frame: 8 << 10}
	if _, err := b.Serve(w); err != nil {
		t.Fatal(err)
	}
	return b, w
}

func fetch(t *testing.T, w *wire, cache string) *Copy {
	t.Helper()
	c, err := Open(t.Context(), w, cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCopy(t *testing.T) {
	home, cache := t.TempDir(), t.TempDir()
	long := strings.Repeat("a line of a recording\n", 5000) // many frames
	c := Contents{Config: []byte("name: x\n"), Note: json.RawMessage(`{"k":1}`), Folders: []string{"files/empty"}, Files: []File{
		{Name: "files/a/long.jsonl", Path: write(t, home, "long.jsonl", long), Key: "models.m.path"},
		{Name: "files/a/agent.py", Path: write(t, home, "agent.py", "print(1)\n"), Key: "roles.r.command.run.1", Exec: true},
		{Name: "files/b/none", Path: write(t, home, "none", ""), Key: "models.n.path"},
		{Name: "files/b/same.jsonl", Path: write(t, home, "same.jsonl", long), Key: "models.o.path"},
	}}
	b, w := serve(t, c)
	got := fetch(t, w, cache)
	if got.Sum != b.Sum() || string(got.Note) != `{"k":1}` || len(got.Missing) > 0 {
		t.Errorf("got %s, note %s, missing %v; want %s", got.Sum, got.Note, got.Missing, b.Sum())
	}
	for name, want := range map[string]string{"config.yaml": "name: x\n", "files/a/long.jsonl": long, "files/a/agent.py": "print(1)\n", "files/b/none": "", "files/b/same.jsonl": long} {
		if is := read(t, filepath.Join(got.Dir, name)); is != want {
			t.Errorf("%s: got %d bytes, want %d", name, len(is), len(want))
		}
	}
	if info, err := os.Stat(filepath.Join(got.Dir, "files/a/agent.py")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("agent.py: %v, %v; want it executable", info, err)
	}
	if info, err := os.Stat(filepath.Join(got.Dir, "files/empty")); err != nil || !info.IsDir() {
		t.Errorf("files/empty: %v, %v; want a folder", info, err)
	}
	_, carried := w.count()
	if most := 2 * len(long); carried > most {
		t.Errorf("%d bytes were sent; want less than %d: what is the same goes once", carried, most)
	}

	// The next one, while the first is there, has its own folder and fetches nothing.
	asked, _ := w.count()
	next := fetch(t, w, cache)
	if again, _ := w.count(); again != asked+1 || next.Dir == got.Dir {
		t.Errorf("the second copy, in %s beside %s, asked %d times; want once", next.Dir, got.Dir, again-asked)
	}
	if current, err := next.current(t.Context()); !current || err != nil {
		t.Errorf("current: %v, %v", current, err)
	}

	// Where a content is damaged in the cache, it is fetched anew.
	sum := sumOf([]byte(long))
	if err := os.WriteFile(filepath.Join(cache, "content", sum[:2], sum), []byte(long[1:]+"x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if is := read(t, filepath.Join(fetch(t, w, cache).Dir, "files/a/long.jsonl")); is != long {
		t.Error("a damaged content was laid out")
	}
}

// TestLeftOver: folders of processes that were killed go with the next one, those of
// living ones stay.
func TestLeftOver(t *testing.T) {
	cache := t.TempDir()
	_, w := serve(t, Contents{Config: []byte("{}\n")})
	alive := fetch(t, w, cache)
	dead := fetch(t, w, cache)
	if err := dead.lock.Close(); err != nil { // as the end of a process does
		t.Fatal(err)
	}
	next := fetch(t, w, cache)
	if _, err := os.Stat(dead.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a process that ended: %v", err)
	}
	for _, c := range []*Copy{alive, next} {
		if _, err := os.Stat(filepath.Join(c.Dir, ConfigFile)); err != nil {
			t.Error(err)
		}
	}
	dead.lock = nil
}

func TestLock(t *testing.T) {
	open := func() *os.File {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "a.lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	f := open()
	other, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if !lock(f) || lock(other) {
		t.Error("a lock is had by two, or by none")
	}
	for _, then := range []func(name string) error{
		func(string) error { return nil },
		func(name string) error { return os.WriteFile(name, nil, 0o600) },
	} { // somebody has removed it, and another may have made it anew
		f := open()
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
		if err := then(f.Name()); err != nil {
			t.Fatal(err)
		}
		if lock(f) {
			t.Error("a file was locked that is not there any more")
		}
	}
}

// TestManyAtOnce: processes that come and go beside each other keep their folders.
func TestManyAtOnce(t *testing.T) {
	cache := t.TempDir()
	_, w := serve(t, Contents{Config: []byte("{}\n"), Files: []File{{Name: "f", Path: write(t, t.TempDir(), "f", "content"), Key: "k"}}})
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			for range 15 {
				c, err := Open(t.Context(), w, cache)
				if err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					if b, err := os.ReadFile(filepath.Join(c.Dir, "f")); err != nil || string(b) != "content" {
						t.Errorf("got %q, %v", b, err)
					}
					runtime.Gosched()
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if left, _ := filepath.Glob(filepath.Join(cache, "copy-*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestEscape: whatever names a bundle has, nothing is written outside of the copy.
func TestEscape(t *testing.T) {
	home := t.TempDir()
	file := write(t, home, "f", "gotcha")
	for _, name := range []string{"../f", "/f", "a/../../f", "", ".", "a/./f", "a//f", `..\f`, "a\x00f", "config.yaml", "a/..", "//f"} {
		cache := t.TempDir()
		_, w := serve(t, Contents{Config: []byte("{}\n"), Files: []File{{Name: name, Path: file, Key: "k"}}})
		if c, err := Open(t.Context(), w, cache); err == nil {
			t.Errorf("name %q: opened in %s", name, c.Dir)
		}
		_, w = serve(t, Contents{Config: []byte("{}\n"), Folders: []string{name}})
		if c, err := Open(t.Context(), w, cache); err == nil {
			t.Errorf("folder %q: opened in %s", name, c.Dir)
		}
		left, err := filepath.Glob(filepath.Join(cache, "copy-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("name %q: left %v", name, left)
		}
	}

	// A link of the one file, which may lead out, is not followed by another one.
	outside := t.TempDir()
	_, w := serve(t, Contents{Config: []byte("{}\n"), Files: []File{{Name: "d/f", Path: file, Key: "k"}}})
	c := fetch(t, w, t.TempDir())
	if err := os.Symlink(outside, filepath.Join(c.Dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := c.write("out/f", []byte("x"), 0o600); err == nil {
		t.Error("a file was written through a link that leads out")
	}
}

// TestDishonest: what comes is held against its sum and size.
func TestDishonest(t *testing.T) {
	home := t.TempDir()
	long := strings.Repeat("0123456789", 2000)
	c := Contents{Config: []byte("{}\n"), Files: []File{{Name: "f", Path: write(t, home, "f", long), Key: "k"}}}
	sum := sumOf([]byte(long))
	for name, twist := range map[string]func([]byte) []byte{
		"other bytes":   func(a []byte) []byte { return bytes.Replace(a, []byte("123"), []byte("321"), 1) },
		"cut":           func(a []byte) []byte { head, _, _ := bytes.Cut(a, []byte("\n")); return append(head, '\n') },
		"more":          func(a []byte) []byte { return append(a, bytes.Repeat([]byte("x"), 30000)...) },
		"another sum":   func(a []byte) []byte { return bytes.Replace(a, []byte(sum), []byte(sumOf(nil)), 1) },
		"no answer":     func([]byte) []byte { return nil },
		"not an answer": func([]byte) []byte { return []byte("hello\n") },
		"refused":       func([]byte) []byte { return []byte(`{"error":"no"}` + "\n") },
	} {
		_, w := serve(t, c)
		w.twist = func(q question, a []byte) []byte {
			if q.Sum == sum {
				return twist(a)
			}
			return a
		}
		cache := t.TempDir()
		if got, err := Open(t.Context(), w, cache); err == nil {
			t.Errorf("%s: opened in %s", name, got.Dir)
		}
		w.twist = nil
		if is := read(t, filepath.Join(fetch(t, w, cache).Dir, "f")); is != long {
			t.Errorf("%s: left something else behind", name)
		}
	}
}

func TestChanged(t *testing.T) {
	home := t.TempDir()
	path := write(t, home, "replies.jsonl", "one")
	var told []error
	_, w := serve(t, Contents{Config: []byte("{}\n"), Files: []File{{Name: "f", Path: path, Key: "k"}}, Warn: func(err error) { told = append(told, err) }})
	write(t, home, "replies.jsonl", "two") // in the same second, perhaps
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := Open(t.Context(), w, t.TempDir())
		if refused := (*RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), path+" has changed since the run was started") {
			t.Errorf("got %v, want that %s has changed", err, path)
		}
	}
	if len(told) != 1 || !errors.Is(told[0], ErrChanged) {
		t.Errorf("told %v, want ErrChanged once", told)
	}
	write(t, home, "replies.jsonl", "one")
	if is := read(t, filepath.Join(fetch(t, w, t.TempDir()).Dir, "f")); is != "one" {
		t.Errorf("got %q once it is as it was", is)
	}
}

// TestOtherMeanwhile: where the run has other files once it is asked for the first ones,
// as when its head begins again with another config, the copy is of those.
func TestOtherMeanwhile(t *testing.T) {
	made := func(text string) Contents {
		home := t.TempDir()
		return Contents{Config: []byte("# " + text + "\n"), Files: []File{{Name: "f", Path: write(t, home, "f", text), Key: "k"}}}
	}
	_, w := serve(t, made("one"))
	b, other := serve(t, made("two"))
	for at := 1; at <= 2; at++ { // behind the question for what there is, and behind that for the manifest
		asked := 0
		w.twist = func(_ question, answer []byte) []byte {
			if asked++; asked == at {
				w.answer, other.answer = other.answer, w.answer
			}
			return answer
		}
		c := fetch(t, w, t.TempDir())
		if is := read(t, filepath.Join(c.Dir, "f")); at == 1 && (is != "two" || c.Sum != b.Sum()) || at == 2 && is != "one" {
			t.Errorf("changed after question %d: got %q", at, is)
		}
	}
}

// TestLarge: of more than 256 MiB the largest files are not sent; they are used where
// they are at the same path.
func TestLarge(t *testing.T) {
	home := t.TempDir()
	small := write(t, home, "small", "small")
	large := write(t, home, "large", "")
	if err := os.Truncate(large, MaxSent); err != nil { // with the small one there is more
		t.Fatal(err)
	}
	b, w := serve(t, Contents{Config: []byte("{}\n"), Files: []File{{Name: "small", Path: small, Key: "a"}, {Name: "large", Path: large, Key: "b"}}})
	if len(b.Large) != 1 || b.Large[0].Path != large {
		t.Fatalf("got large %v, want %s", b.Large, large)
	}
	c := fetch(t, w, t.TempDir())
	if info, err := os.Stat(filepath.Join(c.Dir, "large")); err != nil || info.Size() != MaxSent || len(c.Missing) > 0 {
		t.Errorf("got %v, %v, missing %v; want the file that is there", info, err, c.Missing)
	}
	if _, carried := w.count(); carried > 10000 {
		t.Errorf("%d bytes were sent", carried)
	}
	if err := os.WriteFile(large, []byte("another"), 0o666); err != nil {
		t.Fatal(err)
	}
	c = fetch(t, w, t.TempDir())
	if len(c.Missing) != 1 || c.Missing[0].Key != "b" || read(t, filepath.Join(c.Dir, "small")) != "small" {
		t.Errorf("got missing %v, want b, whose file is another one", c.Missing)
	}
}

// TestNothingElse: only what the bundle has is answered.
func TestNothingElse(t *testing.T) {
	home := t.TempDir()
	secret := write(t, home, "secret", "a secret")
	pictures := filepath.Join(home, "pictures")
	write(t, pictures, "note.txt", "not an image")
	write(t, home, "pictures2/p.png", string(pngOf(t, 1)))
	b, _ := serve(t, Contents{Config: []byte("{}\n"), Images: []string{pictures},
		Files: []File{{Name: "f", Path: write(t, home, "f", "content"), Key: "k"}, {Name: "m", Path: filepath.Join(home, "m"), Key: "l", Mirrored: true}}})
	for _, q := range []question{
		{Sum: sumOf([]byte("a secret"))}, {Sum: secret}, {Sum: "f"}, {Image: secret}, {Image: "secret"}, {Image: pictures + "/../secret"},
		{Image: filepath.Join(pictures, "note.txt")}, {Image: pictures}, {Image: home + "/pictures2/p.png"}, {Image: pictures + "/none.png"}, {Image: "/dev/zero"},
		{Mirror: "f"}, {Mirror: secret}, {Mirror: "../secret"},
	} {
		q.Most = 1000
		if a, content, err := b.answer(q); err == nil {
			t.Errorf("%+v: got %+v, %q", q, a, content)
		}
	}
	for _, q := range []question{{Sum: sumOf([]byte("content")), From: -5, Most: 3}, {Sum: b.Sum(), From: 1 << 40, Most: 3}, {Sum: b.Sum(), From: -1, Most: 3}, {Mirror: "m"}} {
		if _, content, err := b.answer(q); err != nil || len(content) > 3 {
			t.Errorf("%+v: got %q, %v", q, content, err)
		}
	}
}

// pngOf is an image; n tells it from others.
func pngOf(t *testing.T, n int) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 8+n, 8))
	for i := range m.Pix {
		m.Pix[i] = byte(i * n)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImages(t *testing.T) {
	home, cache := t.TempDir(), t.TempDir()
	want := pngOf(t, 3)
	path := write(t, home, "a.png", string(want))
	big := append(pngOf(t, 4), make([]byte, 50000)...)
	bigPath := write(t, home, "deep/b.png", string(big))
	_, w := serve(t, Contents{Config: []byte("{}\n"), Images: []string{home}})
	c := fetch(t, w, cache)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got, err := c.Image(t.Context(), path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	asked := 0
	for _, q := range w.asked {
		if q.Image == path {
			asked++
		}
	}
	if asked != 2 { // for its sum, and its content
		t.Errorf("one image was asked for %d times, want 2", asked)
	}
	if got, err := c.Image(t.Context(), bigPath); err != nil || !bytes.Equal(got, big) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(big))
	}
	for _, path := range []string{home + "/none.png", "/etc/hostname", home + "/../x.png"} {
		_, err := c.Image(t.Context(), path)
		if refused := (*RefusedError)(nil); !errors.As(err, &refused) {
			t.Errorf("%s: got %v, want a RefusedError", path, err)
		}
	}
	before, _ := w.count()
	_, carried := w.count()
	next := fetch(t, w, cache) // of the same machine: the content is there
	if got, err := next.Image(t.Context(), bigPath); err != nil || !bytes.Equal(got, big) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if after, more := w.count(); after != before+2 || more != carried {
		t.Errorf("asked %d times for %d bytes, want 2 and none", after-before, more-carried)
	}

	w.down = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Image(ctx, filepath.Join(home, "later.png"))
	if refused := (*RefusedError)(nil); err == nil || errors.As(err, &refused) {
		t.Errorf("while nobody answers: got %v, want an error that is no refusal", err)
	}
	w.down = false
	write(t, home, "later.png", string(want))
	if got, err := c.Image(t.Context(), filepath.Join(home, "later.png")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("once somebody answers: got %d bytes, %v", len(got), err)
	}
}

func TestMirror(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, "endpoints")
	_, w := serve(t, Contents{Config: []byte("{}\n"), Files: []File{{Name: "files/endpoints", Path: path, Key: "k", Mirrored: true}}})
	c := fetch(t, w, t.TempDir())
	at := filepath.Join(c.Dir, "files/endpoints")
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a file that is not there yet", err)
	}
	for _, text := range []string{"http://a\n", "http://a\nhttp://b\n", ""} {
		write(t, home, "endpoints", text)
		if err := c.mirror(t.Context(), c.files[0]); err != nil || read(t, at) != text {
			t.Errorf("got %q, %v, want %q", read(t, at), err, text)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := c.mirror(t.Context(), c.files[0]); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a file that was removed", err)
	}
}

func TestSweep(t *testing.T) {
	c := &cache{dir: t.TempDir(), most: 100}
	for i := range 20 {
		content := bytes.Repeat([]byte{byte(i)}, 20)
		if err := c.put(sumOf(content), content); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for i := range 20 {
		if _, ok := c.get(sumOf(bytes.Repeat([]byte{byte(i)}, 20)), 20); ok {
			kept++
		}
	}
	if kept > 5 || kept < 4 {
		t.Errorf("%d contents of 20 bytes are kept, and there is place for 100", kept)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"files":[{"name":"../x","sum":"00","size":-1}],"folders":["a"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m manifest
		if json.Unmarshal(raw, &m) != nil || m.check() != nil {
			return
		}
		for _, file := range m.Files {
			if at := filepath.Join("/copy", filepath.FromSlash(file.Name)); !strings.HasPrefix(at, "/copy/") {
				t.Errorf("%q leads to %s", file.Name, at)
			}
		}
	})
}
