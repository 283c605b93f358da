package route

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// connected checks that every role is reached, that every role that is reached
// leads on, and that tasks can come to an end.
func (c *checker) connected(config GraphConfig) {
	reached := map[string]bool{}
	var visit func(rs Rules)
	visit = func(rs Rules) {
		for _, r := range rs {
			for _, role := range r.next() {
				if !reached[role] {
					reached[role] = true
					visit(config.After[role])
					visit(config.OnError[role])
				}
			}
		}
	}
	visit(config.Start)

	led := true
	for _, role := range slices.Sorted(maps.Keys(reached)) {
		if _, ok := config.After[role]; !ok {
			led = false
			c.at("after", fmt.Errorf("role %s leads nowhere: say who acts after it, or finish", role))
		}
	}
	c.unreached(reached)
	if led && !c.env.Limited {
		c.ends(config, reached)
	}
}

// unreached reports the roles that nobody leads to.
func (c *checker) unreached(reached map[string]bool) {
	for _, role := range slices.Sorted(maps.Keys(c.env.Roles)) {
		if !reached[role] {
			c.errs = append(c.errs, &RoleError{Role: role, Err: errors.New("nothing in the flow leads to this role: add it to the flow, or remove it")})
		}
	}
}

// ends reports whether a task may end by the rule, where the roles from which one can
// are known. One that becomes children does, unless it waits for them.
func (r Rule) ends(ending map[string]bool) bool {
	switch {
	case r.Expand != "":
		return r.Then == "" || ending[r.Then]
	case r.To != "":
		return ending[r.To]
	}
	return true
}

// ends reports the roles from which no rule leads to an end.
func (c *checker) ends(config GraphConfig, reached map[string]bool) {
	ending := map[string]bool{}
	canEnd := func(rs Rules) bool {
		return slices.ContainsFunc(rs, func(r Rule) bool { return r.ends(ending) })
	}
	for grown := true; grown; {
		grown = false
		for role := range reached {
			if !ending[role] && (canEnd(config.After[role]) || canEnd(config.OnError[role])) {
				ending[role], grown = true, true
			}
		}
	}
	if !canEnd(config.Start) {
		c.at("after", errors.New("no task can ever end: give a rule with finish, drop or fail, or set limits"))
		return
	}
	for _, role := range slices.Sorted(maps.Keys(reached)) {
		if !ending[role] {
			c.at("after."+role, errors.New("a task that comes here can never end: give a rule with finish, drop or fail, or set limits"))
		}
	}
}
