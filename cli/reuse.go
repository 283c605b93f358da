package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"matrix/internal/human"
	"matrix/run"
)

// reuseFlag adds the flag that names earlier runs.
func reuseFlag(cmd *cobra.Command, dirs *[]string) {
	cmd.Flags().StringArrayVar(dirs, "reuse", nil, "folder `DIR` of an earlier run: calls that it has made already, word for word, are answered from there at no cost; may be given several times")
}

// fromFlag adds the flag that names tasks of an earlier run.
func fromFlag(cmd *cobra.Command, from *string) {
	cmd.Flags().StringVar(from, "from", "", "`DIR:ROLE`: tasks of the run in DIR go on at ROLE, with the turns before it, in the place of the dataset's rows")
}

// fromOverrides are the overrides that --from stands for.
func fromOverrides(cmd *cobra.Command, from string) ([]string, error) {
	if !cmd.Flags().Changed("from") {
		return nil, nil
	}
	i := strings.LastIndexByte(from, ':')
	if i < 1 || i == len(from)-1 {
		return nil, flagErrorf("--from is %q: want DIR:ROLE, the folder of a run and the role at which its tasks go on", from)
	}
	dir, err := json.Marshal(from[:i])
	return []string{"from.run=" + string(dir), "from.role=" + from[i+1:]}, err
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
