package registry

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync/atomic"

	"matrix"
	"matrix/agent"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/lang"
)

// Pool is what compute roles draw from: rows of files, and values of tasks that were
// kept. It is in the process that settles tasks.
type Pool struct {
	kept  *lang.Expr
	most  int
	seeds []any
	draw  byHash // of what was kept

	fresh bool // something was added since the last Publish
	now   atomic.Pointer[map[string]any]
}

// Now implements agent.Draw.
func (p *Pool) Now() map[string]any { return *p.now.Load() }

// Keep adds a task that is kept, where the pool has room for it or it takes another
// one's: which ones are there does not depend on their order. One of which the
// expression is null, or fails, is left out.
func (p *Pool) Keep(t *matrix.Task) {
	if !p.draw.wants(t.ID, p.most) {
		return
	}
	if v, err := p.kept.EvalLocals(t, lang.Done(t)); err == nil && v != nil {
		p.draw.add(t.ID, v, p.most)
		p.fresh = true
	}
}

// Publish has what was added be drawn.
func (p *Pool) Publish() {
	if p.fresh || p.now.Load() == nil {
		now := map[string]any{"seeds": p.seeds, "kept": p.draw.values()}
		p.now.Store(&now)
		p.fresh = false
	}
}

// byHash are the values whose names have the smallest hashes, in order.
type byHash []drawable

type drawable struct {
	hash  uint64
	value any
}

func hashOf(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd // names that differ little have hashes that are near
	return x ^ x>>33
}

func (s byHash) wants(name string, most int) bool {
	return len(s) < most || hashOf(name) < s[len(s)-1].hash
}

func (s *byHash) add(name string, value any, most int) {
	x := drawable{hashOf(name), value}
	at, found := slices.BinarySearchFunc(*s, x.hash, func(d drawable, hash uint64) int {
		switch {
		case d.hash < hash:
			return -1
		case d.hash > hash:
			return 1
		}
		return 0
	})
	if found { // again, or as good as never
		return
	}
	if *s = slices.Insert(*s, at, x); len(*s) > most {
		*s = (*s)[:most]
	}
}

func (s byHash) values() []any {
	all := make([]any, len(s))
	for i, d := range s {
		all[i] = d.value
	}
	return all
}

// errPool is what a worker lacks for a role that draws.
var errPool = errors.New("it draws from the pool, which the head of the run has")

// pool makes what compute roles draw from.
func (b *builder) pool() {
	c := b.run.Pool
	if c == nil {
		return
	}
	p := &Pool{most: c.Most}
	if b.run.Shards > 1 {
		b.at(b.root, "pool", 0, 0, fmt.Sprintf("needs one shard, and shards is %d: what is kept is known where it is settled", b.run.Shards), "")
	}
	if c.Most < 1 {
		b.at(b.root, "pool.most", 0, 0, fmt.Sprintf("got %d, want 1 or more", c.Most), "")
	}
	if !b.use.away() {
		if err := p.read(c.Seeds); err != nil {
			b.add(b.root, "", &lang.FieldError{Field: "pool.seeds", Err: err})
		}
	}
	p.Publish()
	b.plan.Pool, b.build.pool = p, p
}

// fillPool compiles what is kept in the pool, once all roles are known.
func (b *builder) fillPool() {
	p := b.plan.Pool
	if p == nil {
		return
	}
	if p.kept = b.expr("pool.kept", b.run.Pool.Kept, lang.DoneLocals()...); p.kept != nil {
		b.reads.add(b.root, "pool.kept", p.kept.Fields())
		b.seen = append(b.seen, source{section: b.root, field: "pool.kept", source: p.kept, ends: true})
	}
}

// read reads the seeds.
func (p *Pool) read(paths []string) error {
	src, err := dataset.Open(dataset.Options{Paths: paths})
	if err != nil {
		return err
	}
	var seeds byHash
	err = src.Rows(context.Background(), matrix.Position{}, func(row matrix.Row) error {
		if row.Err != nil {
			return fmt.Errorf("%s: %w", row.Address, row.Err)
		}
		if seeds.wants(row.Address, p.most) {
			seeds.add(row.Address, row.Item.Any(), p.most)
		}
		return nil
	})
	p.seeds = seeds.values()
	if err == nil && len(p.seeds) == 0 {
		err = fmt.Errorf("%s: there is no row to draw", strings.Join(paths, ", "))
	}
	return err
}

// draws reports whether the compute agent of a section draws from the pool. What is
// wrong with it is found where it is made.
func (b *builder) draws(s *config.Section) bool {
	if b.build.pool == nil || s.Kind() != config.Map {
		return false
	}
	names := []string{agent.DrawName}
	for _, name := range s.Keys() {
		var src string
		if s.Child(name).Decode(&src) != nil {
			continue
		}
		if e, err := lang.CompileExpr(src, b.build.Params, names...); err == nil && slices.Contains(e.Locals(), agent.DrawName) {
			return true
		}
		if isName(name) && !lang.Reserved(name) {
			names = append(names, name)
		}
	}
	return false
}

// drawing is whether a role that draws is inline: it is not, so that what was drawn is
// committed before anybody is asked about it.
func (b *builder) drawing(role string) (inline bool) {
	field := config.Join("roles", role)
	if own := b.run.Roles[role].Inline; own != nil && *own {
		b.at(b.root, field+".inline", 0, 0, "a role that draws from the pool has a hop of its own, so that what was drawn is committed: leave inline out", "")
	}
	if c := b.run.Cluster; c.Serve != "" && c.NoWork {
		b.at(b.root, field, 0, 0, "draws from the pool, which this process has, and cluster.no_work leaves all steps to workers: leave no_work out", "")
	}
	return false
}
