package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Asker is what a bundle is asked for over. See cluster.Requester.
type Asker interface {
	Request(ctx context.Context, address string, question []byte) ([]byte, error)
}

// ConfigFile is where the config stands in a copy.
const ConfigFile = "config.yaml"

// Copy is what a bundle has, on the disk of this process. Close it.
type Copy struct {
	Dir     string // of this process alone; config.yaml is in it
	Sum     string // as Bundle.Sum
	Note    json.RawMessage
	Missing []File // shared files that are not at their path here, or are others

	from  Asker
	cache *cache
	lock  *os.File
	files []File
	root  *os.Root

	mu     sync.Mutex
	images map[string]*picture // by path
}

// RefusedError is what the other side says to a question.
type RefusedError struct{ Msg string }

func (e *RefusedError) Error() string { return e.Msg }

// Open fetches what there is and lays it out in a folder of its own below dir, which
// keeps contents for the next one. What is there is not fetched again. It waits for
// who answers until ctx ends. Where the other side has another bundle meanwhile it
// begins anew.
func Open(ctx context.Context, from Asker, dir string) (*Copy, error) {
	for {
		c, err := open(ctx, from, dir)
		if err == nil {
			return c, nil
		}
		if c.Sum == "" {
			return nil, err
		}
		if current, wrong := c.current(ctx); current || wrong != nil {
			return nil, err
		}
	}
}

// open tries to. A copy that it returns with an error is closed.
func open(ctx context.Context, from Asker, dir string) (c *Copy, err error) {
	c = &Copy{from: from, images: map[string]*picture{}}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	if c.cache, err = openCache(filepath.Join(dir, "content")); err != nil {
		return c, err
	}
	a, _, err := c.ask(ctx, question{})
	if err != nil {
		return c, err
	}
	if a.Size > maxConfig {
		return c, fmt.Errorf("a config with %s is too large", MiB(a.Size))
	}
	c.Sum = a.Sum
	raw, err := c.content(ctx, question{Sum: a.Sum}, a.Sum, a.Size)
	if err != nil {
		return c, err
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return c, fmt.Errorf("what the run has for its workers cannot be read: %w", err)
	}
	if err := m.check(); err != nil {
		return c, err
	}
	c.Note, c.files = m.Note, m.Files
	if err := c.claim(dir); err != nil {
		return c, err
	}
	return c, c.layOut(ctx, &m)
}

// check refuses what would leave the folder of a copy, or fill the disk.
func (m *manifest) check() error {
	if m.Version != version {
		return fmt.Errorf("what the run has for its workers is of version %d, and this is version %d: use the same matrix", m.Version, version)
	}
	if len(m.Files) > maxFiles || len(m.Folders) > maxFiles {
		return errors.New("the run has too many files for its workers")
	}
	local := func(name string) error {
		if !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsAny(name, "\\\x00") || path.Clean(name) != name || name == "." || name == ConfigFile {
			return fmt.Errorf("the head of the run names a file that leads out of the folder of its workers, and is not made here: %q", name)
		}
		return nil
	}
	var total int64
	for _, f := range m.Files {
		if err := local(f.Name); err != nil {
			return err
		}
		if f.Mirrored {
			continue
		}
		if !isSum(f.Sum) || f.Size < 0 || f.Shared && !filepath.IsAbs(f.Path) {
			return fmt.Errorf("the run does not say what is in its file %q", f.Name)
		}
		if !f.Shared {
			total += f.Size
		}
		if total > MaxSent || f.Size > MaxSent && !f.Shared {
			return fmt.Errorf("the run has more than %s of files for its workers", MiB(MaxSent))
		}
	}
	for _, name := range m.Folders {
		if err := local(name); err != nil {
			return err
		}
	}
	return nil
}

func isSum(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// layOut makes the folder of the copy.
func (c *Copy) layOut(ctx context.Context, m *manifest) (err error) {
	if c.root, err = os.OpenRoot(c.Dir); err != nil { // nothing is written outside of it, whatever leads there
		return err
	}
	for _, name := range m.Folders {
		if err := c.root.MkdirAll(filepath.FromSlash(name), 0o700); err != nil {
			return err
		}
	}
	for _, f := range m.Files {
		if err := c.root.MkdirAll(filepath.FromSlash(path.Dir(f.Name)), 0o700); err != nil {
			return err
		}
		switch {
		case f.Mirrored:
			err = c.mirror(ctx, f)
		case f.Shared:
			err = c.share(f)
		default:
			err = c.place(ctx, f)
		}
		if err != nil {
			return err
		}
	}
	return c.write(ConfigFile, []byte(m.Config), 0o600)
}

// place puts a file that is sent where it belongs.
func (c *Copy) place(ctx context.Context, f File) error {
	content, err := c.content(ctx, question{Sum: f.Sum}, f.Sum, f.Size)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o600)
	if f.Exec {
		mode = 0o700
	}
	return c.write(f.Name, content, mode)
}

// share leads to a file that is not sent, where this machine has the same.
func (c *Copy) share(f File) error {
	d, err := look(f.Path)
	if err != nil || d.sum != f.Sum {
		c.Missing = append(c.Missing, f)
		return nil
	}
	return c.root.Symlink(f.Path, filepath.FromSlash(f.Name))
}

// write writes a file of the copy: whole, or not at all.
func (c *Copy) write(name string, content []byte, mode fs.FileMode) error {
	name = filepath.FromSlash(name)
	tmp := name + ".tmp"
	f, err := c.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return c.root.Rename(tmp, name)
}

// mirror makes a file that changes what it is at the other side now.
func (c *Copy) mirror(ctx context.Context, f File) error {
	a, content, err := c.ask(ctx, question{Mirror: f.Name, Most: maxMirrored})
	if err != nil {
		return err
	}
	if a.Absent {
		if err := c.root.Remove(filepath.FromSlash(f.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if sumOf(content) != a.Sum {
		return fmt.Errorf("%s came damaged", f.Path)
	}
	if was, err := c.root.ReadFile(filepath.FromSlash(f.Name)); err == nil && string(was) == string(content) {
		return nil
	}
	return c.write(f.Name, content, 0o600)
}

// mirrorEvery is how often files that change are asked for.
const mirrorEvery = 2 * time.Second

// Mirror keeps files that change what they are at the other side, until ctx ends. While
// nobody answers they stay as they are.
func (c *Copy) Mirror(ctx context.Context) {
	t := time.NewTicker(mirrorEvery)
	defer t.Stop()
	for ctx.Err() == nil {
		any := false
		for _, f := range c.files {
			if f.Mirrored {
				any = true
				_ = c.mirror(ctx, f) // what hinders it may pass
			}
		}
		if !any {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// current reports whether the other side still has the bundle that this is a copy of.
func (c *Copy) current(ctx context.Context) (bool, error) {
	a, _, err := c.ask(ctx, question{})
	return a.Sum == c.Sum, err
}

// ask asks one question.
func (c *Copy) ask(ctx context.Context, q question) (answer, []byte, error) {
	raw, err := json.Marshal(q)
	if err != nil {
		return answer{}, nil, err
	}
	if raw, err = c.from.Request(ctx, Address, raw); err != nil {
		return answer{}, nil, fmt.Errorf("ask the run: %w", err)
	}
	a, content, err := cutAnswer(raw)
	if err == nil && a.Err != "" {
		err = &RefusedError{a.Err}
	}
	return a, content, err
}

// content is what has a sum: from the cache, or as q asks for it.
func (c *Copy) content(ctx context.Context, q question, sum string, size int64) ([]byte, error) {
	if !isSum(sum) || size < 0 {
		return nil, errors.New("not an answer of a run")
	}
	if content, ok := c.cache.get(sum, size); ok {
		return content, nil
	}
	content := make([]byte, 0, min(size, MaxSent))
	for int64(len(content)) < size {
		q.From, q.Most = int64(len(content)), 1<<30 // as much as an answer holds
		a, more, err := c.ask(ctx, q)
		if err != nil {
			return nil, err
		}
		if a.Sum != sum {
			return nil, fmt.Errorf("%s changed while it was fetched", q.Image)
		}
		if len(more) == 0 || int64(len(content)+len(more)) > size {
			return nil, errors.New("a file of the run ended early, or went on: it may have changed")
		}
		content = append(content, more...)
	}
	if sumOf(content) != sum {
		return nil, errors.New("a file of the run came damaged, or changed while it was fetched")
	}
	_ = c.cache.put(sum, content) // where there is no place for it, it is fetched again
	return content, nil
}

// picture is an image that is known, or being fetched.
type picture struct {
	done chan struct{} // closed once the rest is there
	sum  string
	size int64
	err  error
}

// Image reads an image at an absolute path of the other side. Each is asked for once.
func (c *Copy) Image(ctx context.Context, path string) ([]byte, error) {
	for {
		c.mu.Lock()
		m := c.images[path]
		mine := m == nil
		if mine {
			if len(c.images) >= maxKnown {
				clear(c.images)
			}
			m = &picture{done: make(chan struct{})}
			c.images[path] = m
		}
		c.mu.Unlock()
		if mine {
			content, err := c.fetchImage(ctx, path, m)
			if m.err = err; err != nil {
				c.forget(path, m)
			}
			close(m.done)
			return content, err
		}
		select {
		case <-m.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if m.err == nil {
			content, err := c.content(ctx, question{Image: path}, m.sum, m.size)
			if err != nil { // it is another one now
				c.forget(path, m)
			}
			return content, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if refused := (*RefusedError)(nil); errors.As(m.err, &refused) {
			return nil, m.err
		} // else who asked gave up: ask anew
	}
}

func (c *Copy) forget(path string, m *picture) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[path] == m {
		delete(c.images, path)
	}
}

func (c *Copy) fetchImage(ctx context.Context, path string, m *picture) ([]byte, error) {
	a, _, err := c.ask(ctx, question{Image: path})
	if err != nil {
		return nil, err
	}
	if a.Size > maxImage {
		return nil, &RefusedError{fmt.Sprintf("%s is larger than %s", path, MiB(maxImage))}
	}
	m.sum, m.size = a.Sum, a.Size
	return c.content(ctx, question{Image: path}, a.Sum, a.Size)
}

// claim makes the folder of this process, and removes those of processes that are
// there no more.
func (c *Copy) claim(dir string) error {
	left, _ := fs.Glob(os.DirFS(dir), "copy-*.lock")
	for _, name := range left {
		name = filepath.Join(dir, name)
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if lock(f) {
			_ = os.RemoveAll(strings.TrimSuffix(name, ".lock"))
			_ = os.Remove(name)
		}
		_ = f.Close()
	}
	for range 100 {
		f, err := os.CreateTemp(dir, "copy-*.lock")
		if err != nil {
			return err
		}
		if !lock(f) {
			_ = f.Close()
			continue // somebody took it for one that is left over
		}
		c.lock = f
		c.Dir = strings.TrimSuffix(f.Name(), ".lock")
		return os.Mkdir(c.Dir, 0o700)
	}
	return fmt.Errorf("%s: cannot lock a folder in it", dir)
}

// lock locks a file for this process, where no other one has it and it still stands under
// its name.
func lock(f *os.File) bool {
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return false
	}
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(f.Name())
	return err == nil && os.SameFile(mine, there)
}

// Close removes the folder of the copy.
func (c *Copy) Close() error {
	var err error
	if c.root != nil {
		err = c.root.Close()
	}
	if c.lock != nil {
		err = errors.Join(err, os.RemoveAll(c.Dir), os.Remove(c.lock.Name()), c.lock.Close())
	}
	c.root, c.lock = nil, nil
	return err
}
