package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// maxCached is how many bytes of contents a cache keeps.
const maxCached = 2 << 30

// cache keeps contents by their sums in a folder, which several processes may use.
type cache struct {
	dir  string
	most int64

	mu    sync.Mutex
	added int64 // bytes since it was looked how many there are
}

func openCache(dir string) (*cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &cache{dir: dir, most: maxCached}
	c.sweep()
	return c, nil
}

func (c *cache) path(sum string) string { return filepath.Join(c.dir, sum[:2], sum) }

// get is a content that is there. One that is damaged is removed.
func (c *cache) get(sum string, size int64) ([]byte, bool) {
	if size == 0 && sum == sumOf(nil) {
		return nil, true
	}
	name := c.path(sum)
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, false
	}
	if int64(len(content)) != size || sumOf(content) != sum {
		_ = os.Remove(name)
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // of those that were not used for longest there are soon none
	return content, true
}

// put keeps a content: whole, or not at all.
func (c *cache) put(sum string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(c.path(sum)), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, "new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(sum))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	c.mu.Lock()
	c.added += int64(len(content))
	full := c.added > c.most/8
	c.mu.Unlock()
	if full {
		c.sweep()
	}
	return nil
}

// sweep removes what was not used for longest, until few enough bytes are left, and
// what processes left behind that ended as they wrote.
func (c *cache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.added = 0
	var all []fs.FileInfo
	names := map[fs.FileInfo]string{}
	var total int64
	_ = filepath.WalkDir(c.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if filepath.Dir(name) == c.dir {
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.Remove(name)
			}
			return nil
		}
		all = append(all, info)
		names[info] = name
		total += info.Size()
		return nil
	})
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range all {
		if total <= c.most {
			return
		}
		if os.Remove(names[info]) == nil {
			total -= info.Size()
		}
	}
}
