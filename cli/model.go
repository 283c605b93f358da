package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"matrix/internal/config"
	"matrix/llm"
)

// unnamedPatience is how long a server has to say which models it has.
const unnamedPatience = 3 * time.Second

// unnamed says which models the server of m has, where they are several and none
// is named: then the server chooses, or refuses. Else it is empty.
func unnamed(ctx context.Context, section *config.Section, m llm.Model) string {
	pr, ok := m.(llm.Prober)
	if !ok || section.Text("model") != "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, unnamedPatience)
	defer cancel()
	var names []string
	for _, e := range pr.Probe(ctx) {
		for _, s := range e.Served {
			if !slices.Contains(names, s.Name) {
				names = append(names, s.Name)
			}
		}
	}
	if len(names) < 2 {
		return ""
	}
	const most = 12
	list := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		list += ", ..."
	}
	return fmt.Sprintf("The server has the models %s, and none is named, so that it chooses one or refuses: name one by --model.", oneLine(list))
}
