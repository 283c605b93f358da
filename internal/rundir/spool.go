package rundir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"matrix/dataset"
	"matrix/spec"
)

// Spool writes what comes in to a file of the folder, durably and to its end, and returns its
// path. In the folder of a run that had it before, the file stays, and nothing is read: a run
// that goes on has the rows with which it began.
func (o *Claim) Spool(ctx context.Context, in io.Reader) (path string, err error) {
	path = o.path(StdinFile)
	if o.is == aRun && !o.fresh {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	if o.lead != nil {
		return "", spec.Usagef("dataset.path is -, and each of several heads has a standard input of its own: write the rows to a file that they share")
	}
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			in = nil // a terminal
		}
	}
	if in == nil {
		return "", spec.Usagef("dataset.path is -, and nothing comes in by the standard input: pipe the rows into matrix run")
	}
	o.spooled = true
	if err := (dataset.OS{}).Mkdir(o.Path); err != nil {
		return "", fmt.Errorf("out: %w", err)
	}
	part := path + ".part"
	f, err := os.Create(part)
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	err = copyWhile(ctx, f, in)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("standard input, as it is written to %s: %w", part, err), os.Remove(part))
	}
	return path, dataset.OS{}.SyncDir(o.Path)
}

// copyWhile copies in to w until it ends, or ctx does. Nothing can end a read of the standard input:
// what comes in later goes to nobody.
func copyWhile(ctx context.Context, w io.Writer, in io.Reader) error {
	read := make(chan []byte)
	over := make(chan error, 1)
	go func() {
		for {
			b := make([]byte, 64<<10)
			n, err := in.Read(b)
			if n > 0 {
				select {
				case read <- b[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				over <- err
				return
			}
		}
	}()
	for {
		select {
		case b := <-read:
			if _, err := w.Write(b); err != nil {
				return err
			}
		case err := <-over:
			if err == io.EOF {
				return ctx.Err()
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
