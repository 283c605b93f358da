package standing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"matrix/cluster/natsnet"
	"matrix/internal/bundle"
	"matrix/internal/config"
	"matrix/spec"
)

// submission is one that a client asks after until it has come to something.
type submission struct {
	since time.Time
	done  bool
	says  string
	err   error
}

// fetching is how long a client may take to send what a run needs.
const fetching = 15 * time.Minute

// submitted answers who submits a run: the same key is the same submission.
func (h *Head) submitted(q *question, a *answer) error {
	if q.Submission == nil || q.Key == "" {
		return spec.Usagef("a submission of nothing")
	}
	if err := CheckName(q.Submission.Name); err != nil {
		return &spec.UsageError{Err: err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, s := range h.submissions {
		if s.done && time.Since(s.since) > fetching {
			delete(h.submissions, key)
		}
	}
	s := h.submissions[q.Key]
	if s == nil {
		s = &submission{since: time.Now()}
		h.submissions[q.Key] = s
		h.drives.Go(func() {
			says, err := h.receive(q)
			h.mu.Lock()
			defer h.mu.Unlock()
			s.done, s.says, s.err = true, says, err
		})
	}
	a.Again, a.Says = !s.done, s.says
	return s.err
}

// receive fetches what a client submits, and has it run.
func (h *Head) receive(q *question) (says string, err error) {
	ctx, cancel := context.WithTimeout(h.ctx, fetching)
	defer cancel()
	c, err := bundle.Open(ctx, asHead{h.server.Net(), "f." + q.Client}, h.own("cache"))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if len(c.Missing) > 0 {
		f := c.Missing[0]
		return "", spec.Usagef("%s: %s has %s, too large to be sent, and the same file is not at that path on the head's machine", f.Key, f.Path, bundle.MiB(f.Size))
	}
	if _, err := spec.Load(c.Dir, nil); err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.admit(q.Submission, c)
}

// admit has a run begin or go on with what was submitted, or says why it does not. h.mu is held.
func (h *Head) admit(s *Submission, c *bundle.Copy) (says string, err error) {
	r := h.runs[s.Name]
	known := r != nil
	switch {
	case !known:
		if r = h.newKept(s.Name); exists(r.folder) {
			return "", spec.Usagef("the head has a folder %s already, of a run that was not submitted: name=NAME, or move it away", r.folder)
		}
	case r.active && s.Fresh:
		return "", spec.Usagef("%s is running, and --fresh would delete what it does: 'matrix cancel %s' ends it", s.Name, s.Name)
	case r.Want == wantCancel && !s.Fresh:
		return "", spec.Usagef("%s was cancelled: --fresh begins it anew, name=NAME another one", s.Name)
	case r.active && r.Sum != c.Sum:
		keys, err := differing(r.path(r.Sum), c.Dir)
		if err != nil {
			return "", err
		}
		if len(keys) > 0 {
			return "", spec.Usagef("%s is running with another config. These differ:\n  %s\n'matrix stop %s' first, and what may change is taken over; name=NAME is another run", s.Name, strings.Join(keys, "\n  "), s.Name)
		}
	}
	weight, priority := r.Weight, r.Priority
	if s.Weight > 0 {
		weight = s.Weight
	}
	if s.Priority != nil {
		if err := priority.UnmarshalText([]byte(*s.Priority)); err != nil {
			return "", spec.Usagef("priority: %w", err)
		}
	}
	r.Weight, r.Priority = max(1, weight), priority
	if r.active {
		h.offer()
		says = fmt.Sprintf("%s is running already.", s.Name)
		if len(s.Flags) > 0 {
			says += " What " + strings.Join(s.Flags, ", ") + " asks for is for a run that does not go on: nothing was done of it."
		}
		return says, r.save()
	}
	if !known || s.Fresh {
		if known {
			h.server.Dismiss(r.Tenant.Run)
		}
		r.Tenant = natsnet.NewTenant() // workers take it for another one
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return "", err
	}
	if r.Sum != c.Sum {
		if err := os.RemoveAll(r.path(c.Sum)); err != nil {
			return "", err
		}
		if err := os.Rename(c.Dir, r.path(c.Sum)); err != nil {
			return "", err
		}
		if known && !s.Fresh {
			r.Before = r.Sum
		}
		r.Sum = c.Sum
	}
	r.Want, r.Submitted, r.Words, r.Flags = wantRun, time.Now().UTC(), s.Words, s.Flags
	if s.Fresh && known {
		r.Flags = append(r.Flags, "--fresh")
	}
	if err := r.save(); err != nil {
		return "", err
	}
	h.runs[r.Name] = r
	h.server.Admit(r.Tenant)
	h.begin(r)
	h.o.Tell(fmt.Sprintf("%s was submitted.", r.Name))
	if known {
		return fmt.Sprintf("%s goes on.", s.Name), nil
	}
	return fmt.Sprintf("Submitted as %s.", s.Name), nil
}

// differing are the keys and files in which two folders differ that were submitted.
func differing(before, now string) ([]string, error) {
	a, err := spec.Load(before, nil)
	if err != nil {
		return nil, err
	}
	b, err := spec.Load(now, nil)
	if err != nil {
		return nil, err
	}
	keys := config.Diff(a.Tree, b.Tree, a.Tree.Dir())
	files := map[string]bool{}
	for _, dir := range []string{before, now} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				path, err = filepath.Rel(dir, path)
				files[path] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	delete(files, bundle.ConfigFile)
	for name := range files {
		x, errX := os.ReadFile(filepath.Join(before, name))
		y, errY := os.ReadFile(filepath.Join(now, name))
		if errX != nil || errY != nil || !bytes.Equal(x, y) {
			keys = append(keys, "the file "+strings.TrimPrefix(filepath.ToSlash(name), "files"))
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
