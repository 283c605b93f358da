package dataset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix/internal/near"
	"matrix/internal/remote"
)

// resolve turns paths and globs into files.
func resolve(ctx context.Context, o Options) ([]file, error) {
	paths := o.Paths
	format, ok := formatNames[o.Format]
	if !ok {
		return nil, fmt.Errorf("format is %q%s, want one of %s", o.Format, hint(o.Format), strings.Join(FormatNames(), ", "))
	}
	if len(paths) == 0 {
		return nil, errors.New("no path is given")
	}
	var files []file
	from := map[string]string{} // file to the path that named it
	add := func(f file, by string) error {
		key, err := f.place()
		if err != nil {
			return err
		}
		if first, ok := from[key]; ok {
			return fmt.Errorf("%s is named twice, by %q and %q: its rows would be fed twice", f.path, first, by)
		}
		from[key] = by
		f.given = format
		files = append(files, f)
		return nil
	}
	for _, path := range paths {
		if path == "" {
			return nil, errors.New("a path is empty")
		}
		if path == Stdin {
			if o.Stdin == "" {
				return nil, errors.New("- is what comes in by the standard input, and that only matrix run reads: write it to a file, and name that")
			}
			if err := add(file{path: o.Stdin, name: stdinName}, path); err != nil {
				return nil, err
			}
			continue
		}
		if remote.Is(path) {
			found, err := remote.Find(ctx, path)
			if err != nil {
				return nil, err
			}
			for _, f := range found {
				if err := add(file{path: f.Path, far: f}, path); err != nil {
					return nil, err
				}
			}
			continue
		}
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			return nil, fmt.Errorf("%s is a folder: did you mean %s?", path, inFolder(path))
		case err == nil && !info.Mode().IsRegular():
			return nil, fmt.Errorf("%s is not a regular file", path)
		case err == nil:
			if err := add(file{path: path}, path); err != nil {
				return nil, err
			}
		case strings.ContainsAny(path, "*?["):
			found, err := expand(path)
			if err != nil {
				return nil, err
			}
			for _, f := range found {
				if err := add(file{path: f}, path); err != nil {
					return nil, err
				}
			}
		case errors.Is(err, fs.ErrNotExist):
			return nil, missing(path)
		default:
			return nil, openError(err)
		}
	}
	nameFiles(files)
	return files, nil
}

// Stdin is the path that stands for Options.Stdin.
const Stdin = "-"

// stdinName is what its rows are called by.
const stdinName = "stdin"

// formatNames are the formats that a config may give, beside "", which is none.
var formatNames = map[string]fileFormat{"": unknown, "jsonl": jsonLines, "json": jsonArray, "csv": csvRecords, "parquet": parquetRows, "text": textDocument, "html": pageDocument, "warc": warcRecords}

// FormatNames are what Options.Format may be.
func FormatNames() []string {
	return slices.Sorted(maps.Keys(formatNames))[1:]
}

func hint(name string) string {
	if n := near.Name(name, FormatNames()); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return ""
}

// place tells the file from all others, as an absolute path.
func (f *file) place() (string, error) {
	if f.far != nil {
		return "/" + strings.Replace(f.path, "://", "/", 1), nil
	}
	return filepath.Abs(f.path)
}

// expand finds the files that a glob matches.
func expand(glob string) ([]string, error) {
	if strings.Contains(glob, "**") {
		return nil, fmt.Errorf("%s: ** is not supported; name the folders, or list several globs", glob)
	}
	found, err := filepath.Glob(glob)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", glob, err)
	}
	all := len(found)
	found = slices.DeleteFunc(found, func(p string) bool {
		i, err := os.Stat(p)
		return err == nil && !i.Mode().IsRegular() // what cannot be looked at, opening it will tell
	})
	if len(found) > 0 {
		return found, nil
	}
	if all > 0 {
		return nil, fmt.Errorf("%s matches folders alone: did you mean %s?", glob, filepath.Join(glob, "*"))
	}
	dir := filepath.Dir(glob)
	if strings.ContainsAny(dir, "*?[") {
		return nil, fmt.Errorf("%s matches no file", glob)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s matches no file: there is no folder %s", glob, dir)
	} else if err != nil {
		return nil, fmt.Errorf("%s matches no file: %w", glob, openError(err))
	}
	return nil, fmt.Errorf("%s matches no file: %s", glob, holds(dir, entries))
}

// holds says in a few words what a folder holds.
func holds(dir string, entries []os.DirEntry) string {
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	switch n := len(names); {
	case n == 0:
		return "the folder " + dir + " holds no files"
	case n > 4:
		return fmt.Sprintf("the folder %s holds %s and %d more", dir, strings.Join(names[:3], ", "), n-3)
	}
	return "the folder " + dir + " holds " + strings.Join(names, ", ")
}

// inFolder is the glob that somebody who names a folder may have meant.
func inFolder(dir string) string {
	for _, ext := range []string{".jsonl", ".jsonl.zst", ".jsonl.gz", ".ndjson", ".json", ".csv", ".csv.gz", ".parquet", ".txt", ".md", ".html", ".warc.gz", ".warc.wet.gz", ".wet"} {
		if found, _ := filepath.Glob(filepath.Join(dir, "*"+ext)); len(found) > 0 {
			return filepath.Join(dir, "*"+ext)
		}
	}
	return filepath.Join(dir, "*.jsonl")
}

// missing says that there is no such file, and which one is meant perhaps.
func missing(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			if up := filepath.Dir(dir); up != dir {
				continue
			}
			return fmt.Errorf("%s: no such file", path)
		}
		rest, err := filepath.Rel(dir, path)
		if err != nil {
			return fmt.Errorf("%s: no such file", path)
		}
		name, _, deeper := strings.Cut(filepath.ToSlash(rest), "/")
		hint := ""
		if near := nearest(name, entries, deeper); near != "" {
			hint = fmt.Sprintf("; did you mean %s?", filepath.Join(dir, near, strings.TrimPrefix(filepath.ToSlash(rest), name)))
		}
		if deeper {
			return fmt.Errorf("%s: no such file: there is no folder %s%s", path, filepath.Join(dir, name), hint)
		}
		return fmt.Errorf("%s: no such file%s", path, hint)
	}
}

// nearest is the entry that may be meant by name: the same data under another
// ending or compression, or a name that is near. A file that is not data is not
// meant.
func nearest(name string, entries []os.DirEntry, dirs bool) string {
	var names []string
	for _, e := range entries {
		if e.IsDir() != dirs {
			continue
		}
		if f := (file{path: e.Name()}); !dirs {
			if f.byName(); f.format == unknown {
				continue
			}
		}
		if stem(name) == stem(e.Name()) {
			return e.Name()
		}
		names = append(names, e.Name())
	}
	return near.Name(name, names)
}

func stem(name string) string {
	s, _, _ := strings.Cut(name, ".")
	return s
}

// nameFiles gives each file the shortest name that is safe in an address: its
// path below the deepest folder that holds all files.
func nameFiles(files []file) {
	dir := ""
	for i, f := range files {
		d := filepath.Dir(f.path)
		if abs, err := f.place(); err == nil {
			d = filepath.Dir(abs)
		}
		if i == 0 {
			dir = d
		}
		for !within(d, dir) {
			dir = filepath.Dir(dir)
		}
	}
	for i := range files {
		if files[i].name != "" {
			continue
		}
		files[i].name = filepath.Base(files[i].path)
		abs, err := files[i].place()
		if err != nil {
			continue
		}
		if rel, err := filepath.Rel(dir, abs); err == nil {
			files[i].name = filepath.ToSlash(rel)
		}
	}
}

// within reports whether the folder d is dir or below it.
func within(d, dir string) bool {
	rel, err := filepath.Rel(dir, d)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) || filepath.Dir(dir) == dir
}
