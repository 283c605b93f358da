package examples

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"matrix/spec"
)

// Names are those of the examples.
func Names() ([]string, error) {
	entries, err := FS.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Title is the heading of an example's README, less its name.
func Title(name string) string {
	readme, err := FS.ReadFile(path.Join(name, "README.md"))
	if err != nil {
		return ""
	}
	head, _, _ := strings.Cut(string(readme), "\n")
	head = strings.TrimSpace(strings.TrimLeft(head, "# "))
	if _, title, ok := strings.Cut(head, ": "); ok {
		return title
	}
	return head
}

// Write writes an example's files into dir, and says how many. Nothing is written
// where one of them exists, unless force is set: that is a spec.UsageError.
func Write(name, dir string, force bool) (int, error) {
	sub, err := fs.Sub(FS, name)
	if err != nil {
		return 0, err
	}
	files := map[string][]byte{}
	var taken []string
	err = fs.WalkDir(sub, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if files[p], err = fs.ReadFile(sub, p); err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(p))
		switch info, err := os.Lstat(to); {
		case err == nil && info.IsDir():
			return fmt.Errorf("%s is a folder, and the example has a file of that name: choose another DIR", to)
		case err == nil:
			taken = append(taken, to)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return 0, spec.Usagef("%s is a file: choose another DIR", dir)
	}
	if len(taken) > 0 && !force {
		slices.Sort(taken)
		return 0, spec.Usagef("%s: nothing was written; choose another DIR, or overwrite with --force", exists(taken))
	}
	for p, content := range files {
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(p)), content); err != nil {
			return 0, err
		}
	}
	return len(files), nil
}

func exists(files []string) string {
	switch {
	case len(files) == 1:
		return files[0] + " exists"
	case len(files) <= 3:
		return strings.Join(files, ", ") + " exist"
	}
	return fmt.Sprintf("%s and %d more files exist", strings.Join(files[:2], ", "), len(files)-2)
}

// writeFile writes a file of an example; a script may be run.
func writeFile(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mode := os.FileMode(0o666)
	if bytes.HasPrefix(content, []byte("#!")) {
		mode = 0o777
	}
	return os.WriteFile(name, content, mode)
}
