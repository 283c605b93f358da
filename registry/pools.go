package registry

import (
	"context"
	"errors"
	"maps"
	"slices"

	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
)

// pools makes the pools that roles use, those first that others may draw on.
func (b *builder) pools() {
	known := slices.Sorted(maps.Keys(b.Registry.pools))
	names := slices.Sorted(maps.Keys(b.run.Pools))
	kinds := map[string]string{}
	for _, name := range names {
		s := b.run.Pools[name]
		var kind string
		k := s.Get("kind")
		switch {
		case !isName(name):
			b.at(b.root, config.Join("pools", name), 0, 0, quote(name)+" is not a name for a pool: use letters, digits, _ and -, a letter first", "")
		case k == nil || k.Kind() == config.Null:
			b.at(s, "", 0, 0, "a pool needs a kind: one of "+list(known, "or"), "")
		case k.Decode(&kind) != nil:
			b.add(s, "", k.Decode(&kind))
		case b.Registry.pools[kind].make == nil:
			b.unknown(s, "kind", "kind of pool", kind, known)
		default:
			kinds[name] = kind
			continue
		}
		b.build.Pools[name] = absentPool{} // so that a role that names it is not wrong too
	}
	for _, after := range []bool{false, true} {
		for _, name := range names {
			if k := b.Registry.pools[kinds[name]]; k.make != nil && k.after == after {
				b.poolOf(name, k)
			}
		}
	}
}

func (b *builder) poolOf(name string, k kind[makePool]) {
	s := b.run.Pools[name]
	build := b.build
	build.Name, build.user, build.Pools, build.reads = name, config.Join("pools", name), maps.Clone(b.build.Pools), b.reads.in(s)
	err := b.lacking(s)
	var p agent.Pool
	if err == nil {
		p, err = k.make(build, s)
	}
	switch {
	case err != nil && b.use == ToWork:
		lack := problems{root: b.root}
		lack.add(s, "", err)
		b.build.notes.lacking["pools."+name] = lack.errs
		return
	case err != nil:
		b.add(s, "", err)
		b.build.Pools[name] = absentPool{}
		return
	}
	if m, ok := p.(agent.Mentioner); ok {
		for _, mention := range m.Mentions() {
			b.speakers(s, mention.Key, mention.Roles)
			b.reads.add(s, mention.Key, mention.Source.Fields())
			b.seen = append(b.seen, source{section: s, field: mention.Key, source: mention.Source, row: true})
		}
	}
	b.build.Pools[name], b.plan.Pools[name] = p, p
}

// PoolNamed is the pool that stands at a key of what is built. The error is one of that
// key.
func (b *Build) PoolNamed(key, name string) (agent.Pool, error) {
	if p, ok := b.Pools[name]; ok {
		if uses := b.notes.uses[b.user]; !slices.Contains(uses, name) {
			b.notes.uses[b.user] = append(uses, name)
		}
		return p, nil
	}
	if err := b.notes.lacking["pools."+name]; err != nil {
		return nil, err
	}
	return nil, &lang.FieldError{Field: key, Err: unknown("pool", name, slices.Sorted(maps.Keys(b.Pools)))}
}

// absentPool stands for a pool that could not be made.
type absentPool struct{}

func (absentPool) Check(context.Context) error           { return errors.New("the pool could not be made") }
func (absentPool) Release(context.Context, string) error { return nil }
func (absentPool) Close() error                          { return nil }

// PoolsFor are the pools that roles use for which serves is true, and those that these
// are in: each behind those that it uses, and else by name.
func (p *Plan) PoolsFor(serves func(role string) bool) []string {
	var all []string
	var add func(user string)
	add = func(user string) {
		for _, name := range slices.Sorted(slices.Values(p.uses[user])) {
			if add(config.Join("pools", name)); p.Pools[name] != nil && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(p.Roles)) {
		if serves(role) {
			add(role)
		}
	}
	return all
}

// UsersOf are the roles that cannot act without one of these pools.
func (p *Plan) UsersOf(pools map[string]error) map[string][]error {
	users := map[string][]error{}
	for role := range p.Roles {
		for _, name := range p.PoolsFor(func(r string) bool { return r == role }) {
			if err := pools[name]; err != nil {
				users[role] = append(users[role], err)
			}
		}
	}
	return users
}

// idlePools warns of pools that no role uses.
func (b *builder) idlePools() {
	used := b.plan.PoolsFor(func(string) bool { return true })
	for _, name := range slices.Sorted(maps.Keys(b.plan.Pools)) {
		if !slices.Contains(used, name) {
			b.warn(b.root, config.Join("pools", name), 0, 0, "is used by no role", "")
		}
	}
}
