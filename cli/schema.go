package cli

import (
	"github.com/spf13/cobra"

	"matrix/internal/config"
	"matrix/spec"
)

func newSchemaCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of configs, for editors",
		Long: `Print the JSON Schema of configs. An editor that speaks to the YAML language
server (VS Code with the YAML extension, Neovim, Helix, Emacs, ...) completes
keys, shows what they mean and marks mistakes in a config that begins with

  # yaml-language-server: $schema=matrix.schema.json`,
		Example: `  matrix schema > matrix.schema.json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema(spec.Run{}, p.Registry.Parts()...))
			return err
		},
	}
}
