package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"matrix/internal/human"
	"matrix/run"
)

// reuseFlag adds the flag that names earlier runs.
func reuseFlag(cmd *cobra.Command, dirs *[]string) {
	cmd.Flags().StringArrayVar(dirs, "reuse", nil, "folder `DIR` of an earlier run: calls that it has made already, word for word, are answered from there at no cost; may be given several times")
}

// reuse adds to the runs that the config reuses those of flags.
func (j *job) reuse(dirs []string) {
	for _, dir := range dirs {
		j.config.Run.Reuse = append(j.config.Run.Reuse, dir)
		j.words = append(j.words, "--reuse", shellWord(dir))
	}
}

func replies(n int64) string {
	if n == 1 {
		return "1 reply"
	}
	return human.Commas(n) + " replies"
}

// reusedLine says how many calls of settled tasks were answered from other runs; empty
// for none.
func reusedLine(p *run.Progress) string {
	reused, calls := p.Reused()
	if reused == 0 {
		return ""
	}
	return fmt.Sprintf("reused %s of %s calls", human.Commas(reused), human.Commas(calls))
}
