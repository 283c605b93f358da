package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"matrix/internal/human"
	"matrix/registry"
	"matrix/spec"
)

func newModelsCmd(p Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "models CONFIG|MODEL [key=value ...]",
		Short: "List models and their endpoints; start and end their servers",
		Long: `Models lists the models of a config: where they are, whether they answer, what
they serve. Nothing is generated, and nothing paid. An endpoint is ready where it
serves the model, unknown where it does not say what it serves, and else down.

In the place of a config, MODEL is the address of a server, http://HOST:PORT/v1,
or KIND:NAME, as for 'matrix chat'; of a server all models are listed.

Exit codes: 0 every model has an endpoint that answers, 1 one has none, 2 usage
or config.`,
		Example: `  matrix models examples/coral/own_model.yaml
  matrix models http://127.0.0.1:8000/v1
  matrix models up coral.yaml
  matrix models down coral.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && registry.IsModel(args[0]) {
				return overrideArgs(args[1:])
			}
			return configArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			load := spec.Load
			if registry.IsModel(args[0]) {
				load = p.Registry.ModelConfig
			}
			l, err := load(args[0], args[1:])
			if err != nil {
				return err
			}
			found, err := p.Registry.Probe(cmd.Context(), l)
			if err != nil {
				return err
			}
			for i := range found {
				if found[i].NotUp {
					found[i].Problem += fmt.Sprintf(": %s models up %s", self(), shellWord(l.Path))
				}
			}
			w := cmd.OutOrStdout()
			if asJSON {
				if err := printJSON(w, found); err != nil {
					return err
				}
			} else {
				listModels(w, found, registry.IsURL(args[0]), colorFor(w, false))
			}
			if slices.ContainsFunc(found, func(m registry.ModelStatus) bool { return !m.OK }) {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(newUpCmd(p), newDownCmd(p), newSuperviseCmd())
	return cmd
}

// listModels prints a table of endpoints, then what is wrong. whole lists all that
// an endpoint serves, each on a line.
func listModels(w io.Writer, all []registry.ModelStatus, whole bool, col color) {
	rows := [][]string{{"model", "endpoint", "state", "took", "serves", "context", "limits"}}
	var problems []string
	for _, m := range all {
		first := m.Name
		switch {
		case !m.Service:
			rows = append(rows, []string{first, m.Kind + ", no service", "ready"})
		case len(m.Endpoints) == 0:
			rows = append(rows, []string{first, "none", "down", "", "", "", m.Limits})
			problems = append(problems, m.Name+": "+m.Problem)
		}
		if m.Note != "" {
			problems = append(problems, m.Name+": "+m.Note)
		}
		for i, e := range m.Endpoints {
			state, took := "ready", fmt.Sprintf("%.0f ms", e.TookMS)
			if e.Serves == nil {
				state = "unknown"
			}
			if !e.OK {
				state = "down"
				text := oneLine(m.Name) + " at " + e.URL + ": " + oneLine(e.Error)
				if e.Hint != "" {
					text += " (" + oneLine(e.Hint) + ")"
				}
				problems = append(problems, text)
			}
			var serves, context []string
			for _, v := range e.Serves {
				name := v.Name
				if !whole {
					name = shortName(name)
				}
				if v.Owner != "" {
					name += " (" + v.Owner + ")"
				}
				serves = append(serves, oneLine(name))
				if c := window(v); c != "" {
					context = append(context, c)
				}
			}
			if n := len(serves); n > 3 && !whole {
				serves, context = append(serves[:3], fmt.Sprintf("and %d more", n-3)), nil
			}
			limits := m.Limits
			if i > 0 {
				first, limits = "", ""
			}
			if !whole || len(serves) < 2 {
				rows = append(rows, []string{first, e.URL, state, took, strings.Join(serves, ", "), strings.Join(context, ", "), limits})
				continue
			}
			for j, name := range serves {
				if j == 0 {
					rows = append(rows, []string{first, e.URL, state, took, name, window(e.Serves[j]), limits})
				} else {
					rows = append(rows, []string{"", "", "", "", name, window(e.Serves[j])})
				}
			}
		}
	}
	for _, line := range col.head(columns(rows, false, left)) {
		fmt.Fprintln(w, line)
	}
	if len(problems) > 0 {
		fmt.Fprintln(w)
	}
	for _, t := range problems {
		fmt.Fprintln(w, col.red(t))
	}
}

// window is the context of a model as text; empty where it is not known.
func window(v registry.ServedModel) string {
	if v.Context > 0 {
		return human.Commas(v.Context)
	}
	return ""
}
