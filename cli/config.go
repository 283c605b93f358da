package cli

import (
	"github.com/spf13/cobra"

	"matrix/registry"
)

func newConfigCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use:   "config CONFIG [key=value ...]",
		Short: "Print a config with everything resolved, and check it",
		Long: `Config prints what a run would get: files composed, overrides applied, references
resolved, secrets hidden. The config is checked as before a run.`,
		Example: `  matrix config examples/coral
  matrix config examples/coral live=50 dataset.limit=100`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := p.loadPlan(args[0], args[1:], registry.ToCheck)
			if err != nil {
				return err
			}
			defer plan.Close()
			_, err = cmd.OutOrStdout().Write(plan.Tree.YAML(true))
			return err
		},
	}
}
