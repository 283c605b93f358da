package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/internal/near"
	"matrix/internal/printable"
)

const (
	sampleRows = 100    // rows that are looked at for their fields
	sampleScan = 10_000 // rows that are read for that, at most
)

// reads gathers which fields of the item the sources of a config surely read.
type reads struct {
	uses []use
}

// use is one source: the key at field of a section.
type use struct {
	section *config.Section
	field   string
	names   []string
}

func (r *reads) add(s *config.Section, field string, names []string) {
	if len(names) > 0 {
		r.uses = append(r.uses, use{s, field, names})
	}
}

// in is add for a section.
func (r *reads) in(s *config.Section) func(field string, names []string) {
	return func(field string, names []string) { r.add(s, field, names) }
}

// fields counts rows and gathers the names of their fields.
type fields struct {
	rows  int
	names map[string]bool
}

func (f *fields) add(item *matrix.Value) {
	row, ok := item.Any().(map[string]any)
	if !ok || f.rows == sampleRows {
		return
	}
	f.rows++
	for name := range row {
		f.names[name] = true
	}
}

// check reports the uses that no row can serve.
func (f *fields) check(p *problems, uses []use) {
	for _, u := range uses {
		for _, name := range u.names {
			if err := f.missing(name); err != nil {
				p.add(u.section, u.field, err)
			}
		}
	}
}

// missing says that no row has the field; nil where one has. Without rows nothing
// can be said.
func (f *fields) missing(name string) error {
	if f.rows == 0 || f.names[name] {
		return nil
	}
	known := slices.Sorted(maps.Keys(f.names))
	which := "no row"
	if f.rows == sampleRows {
		which = fmt.Sprintf("none of the first %d rows", sampleRows)
	}
	e := &unknownName{msg: fmt.Sprintf("%s has the field %q", which, name), hint: near.Name(name, known)}
	if e.hint == "" && len(known) > 0 && len(known) <= 20 {
		e.msg += "; there are " + printable.Line(strings.Join(known, ", "))
	}
	return e
}

var errEnough = errors.New("enough rows seen")

// sampled are the fields of the first rows of a dataset.
type sampled struct {
	read  fields // as the files have them
	asked fields // as where is asked about them
	fed   fields // of the rows that become tasks

	where, priority func() error // what they said of the first row, if they failed for all
}

// watched is f, and what it said of the first row if it failed for all; f may be nil.
func watched[T any](f func(*matrix.Task) (T, error)) (g func(*matrix.Task) (T, error), wrong func() error) {
	if f == nil {
		return nil, func() error { return nil }
	}
	var first error
	failed := true // for all so far
	return func(t *matrix.Task) (T, error) {
			x, err := f(t)
			if failed = failed && err != nil; first == nil {
				first = err
			}
			return x, err
		}, func() error {
			if failed {
				return first
			}
			return nil
		}
}

// sample reads the first rows of a dataset. Rows that cannot be read are left
// out, and so is everything behind a place where the dataset cannot be read:
// the run meets it.
func sample(o dataset.Options) (s sampled) {
	for _, f := range []*fields{&s.read, &s.asked, &s.fed} {
		f.names = map[string]bool{}
	}
	o.IDField, o.ID = "", nil // a row whose id is wrong still has fields
	o.Sample, o.Shuffle = 0, false
	if len(o.Rename) > 0 {
		s.read.gather(context.Background(), dataset.Options{Paths: o.Paths})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.PriorityOf, s.priority = watched(o.PriorityOf)
	where, wrong := watched(o.Where)
	if s.where = wrong; where != nil {
		n := 0
		o.Where = func(t *matrix.Task) (bool, error) {
			s.asked.add(&t.Item)
			if n++; n >= sampleScan {
				cancel()
			}
			return where(t)
		}
	}
	s.fed.gather(ctx, o)
	return s
}

// gather adds the first rows of a dataset.
func (f *fields) gather(ctx context.Context, o dataset.Options) {
	src, err := dataset.Open(o)
	if err != nil {
		return
	}
	n := 0
	_ = src.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		f.add(&row.Item)
		if n++; f.rows == sampleRows || n == sampleScan {
			return errEnough
		}
		return nil
	})
}
