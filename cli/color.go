package cli

import (
	"hash/fnv"
	"io"
	"os"

	"matrix"
)

// ink colours text for a terminal. The zero ink leaves it plain.
type ink struct {
	on    bool
	roles *roleColours
}

// inkFor is the ink for what is written to w: colour for a terminal, unless
// plain or the environment (NO_COLOR, TERM=dumb) says otherwise.
func inkFor(w io.Writer, plain bool) ink {
	if plain || os.Getenv("NO_COLOR") != "" || !terminalOf(w).live() {
		return ink{}
	}
	return colour()
}

func colour() ink { return ink{on: true, roles: &roleColours{of: map[string]int{}}} }

func (k ink) paint(code, s string) string {
	if !k.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (k ink) bold(s string) string  { return k.paint("1", s) }
func (k ink) dim(s string) string   { return k.paint("2", s) }
func (k ink) red(s string) string   { return k.paint("31", s) }
func (k ink) green(s string) string { return k.paint("32", s) }

// role is a role's name in its own colour.
func (k ink) role(name string) string {
	if !k.on {
		return oneLine(name)
	}
	return k.paint("1;"+k.roles.code(name), oneLine(name))
}

// outcome says how the task stands: `done true`.
func (k ink) outcome(t *matrix.Task) string {
	o := t.Outcome
	switch {
	case o == nil:
		return k.paint("33", "under way")
	case o.Status == matrix.Failed:
		return k.red("failed")
	case o.Value.IsZero() || string(o.Value.Raw()) == "true":
		return k.green(string(o.Status))
	}
	return k.green(string(o.Status)) + " " + fold(o.Value)
}

// roleColours gives each role a colour that hangs on its name alone, as long as
// no other role on the page has it. Red is left for errors.
type roleColours struct {
	of    map[string]int
	taken [len(roleCodes)]bool
}

// Cyan, yellow, magenta, green, blue, orange, lavender: hues that stand apart.
var roleCodes = [...]string{"36", "33", "35", "32", "38;5;75", "38;5;208", "38;5;141"}

func (c *roleColours) code(role string) string {
	i, ok := c.of[role]
	if !ok {
		h := fnv.New32a()
		h.Write([]byte(role))
		first := int(h.Sum32() % uint32(len(roleCodes)))
		for i = first; c.taken[i]; {
			if i = (i + 1) % len(roleCodes); i == first {
				break
			}
		}
		c.taken[i] = true
		c.of[role] = i
	}
	return roleCodes[i]
}
