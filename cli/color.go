package cli

import (
	"hash/fnv"
	"io"
	"os"

	"matrix"
)

// color colors text for a terminal. The zero color leaves it plain.
type color struct {
	on    bool
	roles *roleColors
}

// colorFor returns the color of what is written to w: on for a terminal, unless
// plain or the environment (NO_COLOR, TERM=dumb) says otherwise.
func colorFor(w io.Writer, plain bool) color {
	if plain || os.Getenv("NO_COLOR") != "" || !terminalOf(w).live() {
		return color{}
	}
	return newColor()
}

func newColor() color { return color{on: true, roles: &roleColors{of: map[string]int{}}} }

func (col color) paint(code, s string) string {
	if !col.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (col color) bold(s string) string  { return col.paint("1", s) }
func (col color) dim(s string) string   { return col.paint("2", s) }
func (col color) red(s string) string   { return col.paint("31", s) }
func (col color) green(s string) string { return col.paint("32", s) }

// role returns a role's name in its own color.
func (col color) role(name string) string {
	if !col.on {
		return oneLine(name)
	}
	return col.paint("1;"+col.roles.code(name), oneLine(name))
}

// outcome says how the task stands: `done true`.
func (col color) outcome(t *matrix.Task) string {
	o := t.Outcome
	switch {
	case o == nil:
		return col.paint("33", "under way")
	case o.Status == matrix.Failed:
		return col.red("failed")
	case o.Status == matrix.Dropped:
		return col.paint("33", "dropped")
	case o.Value.IsZero() || string(o.Value.Raw()) == "true":
		return col.green(string(o.Status))
	}
	return col.green(string(o.Status)) + " " + fold(o.Value)
}

// roleColors gives each role a color that depends on its name alone, as long as
// no other role on the page has it. Red is left for errors.
type roleColors struct {
	of    map[string]int
	taken [len(roleCodes)]bool
}

// Cyan, yellow, magenta, green, blue, orange, lavender: hues that stand apart.
var roleCodes = [...]string{"36", "33", "35", "32", "38;5;75", "38;5;208", "38;5;141"}

func (c *roleColors) code(role string) string {
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
