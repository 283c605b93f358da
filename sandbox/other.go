//go:build !linux

package sandbox

import (
	"errors"
	"os"
)

var errLinux = &ImageError{"sandboxes", errors.New("they are of Linux: run this pool's roles on workers there")}

// NewBwrap returns an error: sandboxes are of Linux.
func NewBwrap(Bwrap, Options) (Pool, error) { return nil, errLinux }

// NewPlain returns an error: sandboxes are of Linux.
func NewPlain(Plain, Options) (Pool, error) { return nil, errLinux }

// NewPodman returns an error: sandboxes are of Linux.
func NewPodman(Podman, Options) (Pool, error) { return nil, errLinux }

// NewApptainer returns an error: sandboxes are of Linux.
func NewApptainer(Apptainer, Options) (Pool, error) { return nil, errLinux }

func lockFile(*os.File) error      { return errLinux }
func opaque(string) bool           { return false }
func setOpaque(string) error       { return errLinux }
func likeDir(string, string) error { return errLinux }
