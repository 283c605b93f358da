package dataset

import "io/fs"

// ReadPartsFS is ReadParts over any file system.
func ReadPartsFS(fsys fs.FS, f func(part, line int, raw []byte) error) error {
	return readParts(fsys, "out", f)
}
