package registry

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"matrix"
	"matrix/dataset"
	"matrix/lang"
	"matrix/spec"
)

// from has the rows of a config be the tasks of an earlier run. An error is a
// *lang.FieldError.
func (d *described) from(c *spec.Run) error {
	wrong := func(key, format string, args ...any) error {
		return &lang.FieldError{Field: "from." + key, Err: fmt.Errorf(format, args...)}
	}
	dir, role := c.From.Run, c.From.Role
	switch _, known := c.Roles[role]; {
	case dir == "":
		return wrong("run", "is missing: name the folder of the run whose tasks go on")
	case role == "":
		return wrong("role", "is missing: name the role at which they go on: %s", list(slices.Sorted(maps.Keys(c.Roles)), "or"))
	case !known:
		return &lang.FieldError{Field: "from.role", Err: unknown("role", role, slices.Sorted(maps.Keys(c.Roles)))}
	case c.Dataset.Follow:
		return &lang.FieldError{Field: "dataset.follow", Err: errors.New("tasks of an earlier run go on (from), and no rows come: leave it out")}
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return wrong("run", "%s: there is no such folder; give that of a run, such as runs/NAME", spec.Shorten(dir))
	}
	d.Begun = &dataset.Begun{Run: spec.Shorten(dir), Role: role, Formats: filepath.Join(dir, dataset.FormatsDir)}
	ends := []matrix.Status{matrix.Done, matrix.Expanded, matrix.Failed}
	if old, err := spec.Load(dir, nil); err == nil {
		_, had := old.Run.Roles[role]
		if d.Begun.New = !had; !had {
			ends = ends[:1]
		} else if old.Run.Output.Dropped == "full" { // else their rows are gone
			ends = append(ends, matrix.Dropped)
		}
		if old.Run.Trials > 1 && c.Trials > 1 {
			return &lang.FieldError{Field: "trials", Err: fmt.Errorf("got %d, and the tasks of %s are trials already: leave it out", c.Trials, spec.Shorten(dir))}
		}
	}
	paths, err := dataset.OutputFiles(dir, ends...)
	if err == nil && len(paths) == 0 {
		err = errors.New("has no task that has ended: it is not the folder of a run, or none has come so far")
	}
	if err != nil {
		return wrong("run", "%s: %w", spec.Shorten(dir), err)
	}
	d.Paths, d.Rename, d.IDField, d.id, d.ID = paths, nil, "", nil, nil
	return nil
}

// spoke are roles of the run whose tasks go on: they have turns.
func spoke(c *spec.Run) []string {
	if c.From.Run == "" {
		return nil
	}
	old, err := spec.Load(c.From.Run, nil)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(old.Run.Roles))
}
