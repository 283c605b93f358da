package cli

import (
	"path"
	"regexp"
	"strings"
)

// hubCopy is where Hugging Face's cache keeps a model: its author and name.
var hubCopy = regexp.MustCompile(`(?:^|/)models--([^/]+)--([^/]+)/snapshots/[^/]+/?$`)

// shortName is the name of a model as it stands in a column: of one that is a
// path, as servers call what they loaded from a file, what a person would say.
func shortName(model string) string {
	p := strings.ReplaceAll(model, `\`, "/")
	if m := hubCopy.FindStringSubmatch(p); m != nil {
		return m[1] + "/" + m[2]
	}
	drive := len(p) > 2 && p[1] == ':' && p[2] == '/'
	if !drive && !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "./") && !strings.HasPrefix(p, "../") && !strings.HasPrefix(p, "~/") {
		return model
	}
	return path.Base(p)
}
