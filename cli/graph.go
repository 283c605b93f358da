package cli

import (
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"matrix/registry"
	"matrix/route"
)

// drawings are the forms that a flow can be drawn in, the default first.
var drawings = []struct {
	name string
	draw func(route.Flow) string
}{
	{"text", route.Flow.Text},
	{"mermaid", route.Flow.Mermaid},
	{"dot", route.Flow.DOT},
}

func newGraphCmd(p Program) *cobra.Command {
	var format string
	var names []string
	for _, d := range drawings {
		names = append(names, d.name)
	}
	cmd := &cobra.Command{
		Use:   "graph CONFIG [key=value ...]",
		Short: "Draw who acts after whom",
		Example: `  matrix graph coral
  matrix graph coral --format mermaid                     # for Markdown
  matrix graph coral --format dot | dot -Tsvg > flow.svg  # with Graphviz`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, d := range drawings {
				if d.name != format {
					continue
				}
				plan, err := p.loadPlan(args[0], args[1:], registry.ToCheck)
				if err != nil {
					return err
				}
				defer plan.Close()
				if len(plan.Flow.Nodes) == 0 {
					return errors.New("the flow of this config does not describe itself, so it cannot be drawn")
				}
				_, err = io.WriteString(cmd.OutOrStdout(), d.draw(plan.Flow))
				return err
			}
			return unknown("format", format, names)
		},
	}
	cmd.Flags().StringVar(&format, "format", names[0], strings.Join(names, ", "))
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
