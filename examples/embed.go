// Package examples carries the examples inside the binary, for `matrix init`.
// Each is a folder with a config.yaml and a README.md. The library example is
// Go code that needs a clone of this repository, and tau2 what scripts/tau2-env
// installs there, so they do not travel.
package examples

import "embed"

// FS holds one folder per example, by name.
//
//go:embed code command coral curation documents evol-instruct labels naturalreasoning persona pii preferences qa self-instruct tools
var FS embed.FS
