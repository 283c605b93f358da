package dataset

import (
	"io"
	"io/fs"
	"path"
)

// ReadPartsFS is ReadParts over any file system.
func ReadPartsFS(fsys fs.FS, f func(part, line int, raw []byte) error) error {
	return readParts(snapshot{files: fsys}, "out", Shard{}, nil, f)
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

func (s snapshot) List(string) ([]string, error) {
	entries, err := fs.ReadDir(s.files, ".")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (s snapshot) Open(name string) (io.ReadCloser, error) { return s.files.Open(path.Base(name)) }
