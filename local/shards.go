package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ShardDir is the folder of a shard's queue, where dir is that of the first: all of
// them are within it, and its lock is that of all.
func ShardDir(dir string, shard int) string {
	if shard == 0 {
		return dir
	}
	return vfs.Default.PathJoin(dir, fmt.Sprintf("shard-%05d", shard))
}

var shardName = regexp.MustCompile(`^shard-\d{5}$`)

// ClearShards deletes the queues of all shards but the first, whose folder is dir,
// and no other files. It is to be called within a Clear of the first.
func ClearShards(dir string) error {
	names, err := vfs.Default.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if !shardName.MatchString(name) {
			continue
		}
		shard := vfs.Default.PathJoin(dir, name)
		if info, err := os.Lstat(shard); err != nil {
			return err
		} else if !info.IsDir() {
			return fmt.Errorf("%s is not a folder but %v: nothing is deleted through it; remove it yourself", shard, info.Mode().Type())
		}
		held, err := LockDir(shard)
		if err != nil {
			return err
		}
		if err := errors.Join(held.Clear(func() error { return nil }), held.Close()); err != nil {
			return err
		}
		for _, lock := range []string{lockName, runningName} {
			if err := vfs.Default.Remove(vfs.Default.PathJoin(shard, lock)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		_ = vfs.Default.Remove(shard) // it stays where it has a file that is not ours
	}
	return nil
}
