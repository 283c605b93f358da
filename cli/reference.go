package cli

import (
	"github.com/spf13/cobra"

	"matrix/internal/config"
	"matrix/registry"
	"matrix/spec"
)

// newReferenceCmd prints docs/config.md:
//
//	go run ./cmd/matrix reference > docs/config.md
func newReferenceCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use:    "reference",
		Short:  "Print the reference of configs in Markdown",
		Args:   noArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(reference(p.Registry))
			return err
		},
	}
}

// reference is docs/config.md: the keys of a config, from the tags of the types
// that they are decoded into.
func reference(kinds *registry.Registry) []byte {
	return append([]byte(referenceHead), config.Reference(spec.Run{}, kinds.ReferenceParts()...)...)
}

const referenceHead = `<!-- Made from the code by: go run ./cmd/matrix reference > docs/config.md -->

# Config reference

A config is one YAML file, or several that its ` + "`defaults`" + ` list puts together. ` + "`matrix config CONFIG`" + ` prints
what comes of it, ` + "`matrix schema`" + ` the same keys as a JSON Schema for editors. A key that is not listed here is an
error, and so is a value of another type.

- **Paths** are relative to the file that they are written in; on the command line, to the working folder.
- **Durations** are texts such as ` + "`500ms`, `60s`, `1h30m`" + `.
- **References** ` + "`${key.path}`, `${param}` and `${env:NAME,default}`" + ` may stand anywhere in a value.
- ` + "`!file PATH`" + ` puts the content of a text file in the place of a value.

## The whole

`
