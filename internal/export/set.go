package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// DataDir is the folder of the files in a folder that is written, as
// datasets.load_dataset and the hub look for them.
const DataDir = "data"

// scratchName begins the names of what is not whole yet.
const scratchName = ".export-"

// maxBytes is how much JSON of rows stands in one file of a folder, as in those that
// datasets writes.
const maxBytes = 500_000_000

// set is the files of an export, under way. They have their names once all are whole.
type set struct {
	Options
	splits  []string
	files   [][]*file // of each split, the last one being written
	shape   shape     // of rows, where files have typed columns
	scratch string    // folder of what is thrown away
	made    []string  // folders that were made for the export, the outermost first
}

func newSet(o Options) (*set, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	x := &set{Options: o, splits: o.splits()}
	x.MaxBytes = cmp.Or(o.MaxBytes, maxBytes)
	if err := x.vacant(); err != nil {
		return nil, err
	}
	x.files = make([][]*file, len(x.splits))
	return x, x.open()
}

// check checks what is said of files.
func (o *Options) check() error {
	if len(o.Splits) > 0 {
		if o.Ending == "" {
			return usagef("%s is one file, and several are to be written: name a folder", o.Out)
		}
		if err := checkSplits(o.Splits); err != nil {
			return err
		}
	}
	switch ending := o.ending(); {
	case !slices.Contains(Endings, ending):
		return usagef("%s: the ending of a file says what is written: %s", o.Out, strings.Join(Endings, ", "))
	case ending == ".json" && o.Format != Predictions:
		return usagef("%s is one object, for %s alone: write %s", ending, Predictions, Endings[0])
	case o.Format.trajectory() && ending != ".json" && !strings.HasPrefix(ending, Endings[0]):
		return usagef("%s has other fields in each row: write %s", o.Format, Endings[0])
	case ending == ".csv" && o.Format != Columns:
		return usagef("CSV holds columns alone, not %s: write %s or .parquet", o.Format, Endings[0])
	}
	return nil
}

// vacant reports what is in the way.
func (x *set) vacant() error {
	info, err := os.Stat(x.Out)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case x.Ending == "" && info.IsDir():
		return usagef("%s is a folder", x.Out)
	case x.Ending != "" && !info.IsDir():
		return usagef("%s is a file, and a folder is to be written", x.Out)
	case x.Force:
		return nil
	case x.Ending == "":
		return &ExistsError{x.Out}
	}
	entries, err := os.ReadDir(x.Out)
	if err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !strings.HasPrefix(e.Name(), ".") }) {
		err = &ExistsError{x.Out}
	}
	return err
}

// dir is the folder in which the files will be.
func (x *set) dir() string {
	if x.Ending != "" {
		return filepath.Join(x.Out, DataDir)
	}
	return filepath.Dir(x.Out)
}

// open makes the folders. What is written stands beside its name, so that a rename is
// all that is left.
func (x *set) open() (err error) {
	for dir := x.dir(); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			break
		}
		x.made = slices.Insert(x.made, 0, dir)
	}
	if err = os.MkdirAll(x.dir(), 0o777); err != nil {
		return err
	}
	if x.scratch, err = os.MkdirTemp(x.dir(), scratchName); err != nil {
		x.discard()
	}
	return err
}

// write writes a row.
func (x *set) write(e entry) error {
	files := x.files[e.split]
	if n := len(files); n == 0 || x.Ending != "" && files[n-1].bytes > 0 && files[n-1].bytes+int64(len(e.row)) > x.MaxBytes {
		f, err := newFile(filepath.Join(x.scratch, fmt.Sprintf("%s-%d", x.splits[e.split], n)), &x.Options, &x.shape)
		if err != nil {
			return err
		}
		files = append(files, f)
		x.files[e.split] = files
	}
	return files[len(files)-1].write(e.id, e.row)
}

// single begins the one file of an export that writes it with a writer of its own.
func (x *set) single(writer func(*os.File) rowWriter) (*file, error) {
	f, err := os.OpenFile(filepath.Join(x.scratch, "single"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	x.files[0] = []*file{{temp: f.Name(), f: f, w: writer(f)}}
	return x.files[0][0], nil
}

// finish gives all files their names, and tells r of them. Those of a former export in
// the folder are removed.
func (x *set) finish(ctx context.Context, r *Result) error {
	var all []*file
	for i, files := range x.files {
		for n, f := range files {
			f.path, f.split = x.Out, x.splits[i]
			if x.Ending != "" {
				f.path = filepath.Join(x.dir(), fmt.Sprintf("%s-%05d-of-%05d%s", x.splits[i], n, len(files), x.Ending))
			}
			all = append(all, f)
			r.Files = append(r.Files, File{Path: f.path, Split: f.split, Rows: f.rows})
		}
	}
	if len(all) == 0 {
		return &EmptyError{*r}
	}
	for _, f := range all {
		if err := f.close(ctx); err != nil {
			return full(f.path, err)
		}
	}
	for i, f := range all {
		if err := os.Rename(f.temp, f.path); err != nil {
			return err
		}
		if info, err := os.Stat(f.path); err == nil {
			r.Files[i].Bytes = info.Size()
		}
	}
	if x.Ending == "" {
		return nil
	}
	if err := x.clean(all); err != nil || x.Recipe == nil {
		return err
	}
	return x.Recipe.write(&x.Options, r, x.scratch)
}

// clean removes the files of a former export.
func (x *set) clean(kept []*file) error {
	entries, err := os.ReadDir(x.dir())
	for _, e := range entries {
		path := filepath.Join(x.dir(), e.Name())
		if err == nil && Owns(e.Name()) && !slices.ContainsFunc(kept, func(f *file) bool { return f.path == path }) {
			err = os.Remove(path)
		}
	}
	return err
}

// Owns reports whether a file in DataDir has the name of one that an export writes.
func Owns(name string) bool { return ownName.MatchString(name) }

var ownName = regexp.MustCompile(`^[A-Za-z0-9_]+-\d{5}-of-\d{5}\.(jsonl|jsonl\.gz|jsonl\.zst|parquet|csv)$`)

// discard removes what is not part of the export, and folders that were made for it and
// hold nothing.
func (x *set) discard() {
	for _, files := range x.files {
		for _, f := range files {
			f.discard()
		}
	}
	if x.scratch != "" {
		os.RemoveAll(x.scratch)
	}
	for _, dir := range slices.Backward(x.made) {
		os.Remove(dir) // where nothing is in it
	}
}

// full says what to do where there is no room for a file.
func full(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err // a path of the scratch folder, which nobody knows
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%s: %w: nothing was written; free some space, or choose another place with -o", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}
