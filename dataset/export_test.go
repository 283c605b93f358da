package dataset

import (
	"cmp"
	"io"
	"io/fs"
	"strings"
)

// ReadPartsFS is ReadParts over any file system, and reads open parts as well.
func ReadPartsFS(fsys fs.FS, f func(part, line int, raw []byte) error) error {
	return readOpen(snapshot{files: fsys}, "out", f)
}

// ReadOpen is ReadParts, and reads open parts as well.
func ReadOpen(dir string, f func(part, line int, raw []byte) error) error {
	return readOpen(OS{}, dir, f)
}

func readOpen(fsys FS, dir string, f func(part, line int, raw []byte) error) error {
	epoch, err := newestEpoch(fsys, dir)
	if err != nil || epoch == 0 {
		return readParts(fsys, dir, Shard{}, nil, f)
	}
	return readParts(fsys, dir, Shard{}, &checkpoint{Epoch: epoch}, f)
}

// ReadOutputFS is ReadOutput over any file system.
func ReadOutputFS(fsys fs.FS, checkpoint []byte, f func(part, line int, raw []byte) error) error {
	return ReadOutput(snapshot{files: fsys}, "out", Shard{}, checkpoint, f)
}

// snapshot is an FS to read from, of which the folder "out" is all.
type snapshot struct {
	FS
	files fs.FS
}

func (s snapshot) List(dir string) ([]string, error) {
	entries, err := fs.ReadDir(s.files, s.name(dir))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (s snapshot) Open(name string) (io.ReadCloser, error) { return s.files.Open(s.name(name)) }

// name is what is called path in "out".
func (s snapshot) name(path string) string {
	return cmp.Or(strings.Trim(strings.TrimPrefix(path, "out"), "/"), ".")
}
