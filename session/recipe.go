package session

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"matrix/internal/export"
	"matrix/internal/rundir"
	"matrix/spec"
)

// Recipe is how the run in a folder, with this config, made its rows, as far as the folder
// tells: for the card of a dataset that version of this program makes of it.
func Recipe(dir string, c *spec.Config, version, license string) *export.Recipe {
	r := &export.Recipe{Name: c.Run.Name, Version: version, License: license, Seed: c.Run.Seed}
	if b, err := os.ReadFile(filepath.Join(dir, rundir.ConfigFile)); err == nil {
		r.Config = withoutComments(b)
	}
	r.Hide = func(text string) string { // what is written holds none: a second look
		for _, s := range c.Tree.Secrets() {
			if len(s.Text) >= 6 {
				text = strings.ReplaceAll(text, s.Text, s.Shown)
			}
		}
		return text
	}
	var s summary
	if b, err := os.ReadFile(filepath.Join(dir, rundir.SummaryFile)); err == nil && json.Unmarshal(b, &s) == nil {
		pending := int64(0)
		if s.Pending != nil {
			pending = *s.Pending
		}
		for _, c := range []export.Count{{What: "done", N: s.Done}, {What: "dropped", N: s.Dropped}, {What: "expanded", N: s.Expanded}, {What: "failed", N: s.Failed}, {What: "pending", N: pending}} {
			if c.N > 0 || c.What == "done" {
				r.Ends = append(r.Ends, c)
			}
		}
		for _, c := range s.Reasons { // what made tasks fail may quote services, and is not told
			r.Reasons = append(r.Reasons, export.Count{What: cmp.Or(c.Cause, "other reasons"), N: c.Count})
		}
		if s.Spending != nil {
			r.USD = s.Spending.USD
		}
	}
	return r
}

// withoutComments is a config as a run writes it without what that says of this machine.
func withoutComments(yaml []byte) []byte {
	lines := bytes.SplitAfter(yaml, []byte("\n"))
	for len(lines) > 0 && bytes.HasPrefix(lines[0], []byte("#")) {
		lines = lines[1:]
	}
	for len(lines) > 0 && (len(lines[len(lines)-1]) == 0 || bytes.HasPrefix(lines[len(lines)-1], []byte("# from the environment: "))) {
		lines = lines[:len(lines)-1]
	}
	return bytes.Join(lines, nil)
}
