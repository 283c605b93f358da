package spec

import (
	"os"
	"path/filepath"
)

// Shorten makes a path relative where it is below the working directory.
func Shorten(dir string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, dir); err == nil && filepath.IsAbs(dir) && filepath.IsLocal(rel) {
			return rel
		}
	}
	return dir
}
