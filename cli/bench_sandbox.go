package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"matrix/internal/bench"
)

func newBenchSandboxCmd() *cobra.Command {
	o := bench.SandboxOptions{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Sandboxes: a command in one, starting and holding many",
		Long: `Commands that do nothing run one after another in a sandbox with limits of
memory, processes and cores; then so many are started, two at a time, and held at
once. Memory is the proportional set size of their processes, and CPU that of all
processes, user and system.`,
		Example: `  matrix bench sandbox
  matrix bench sandbox --held 1500
  matrix bench sandbox --disk   # a layer of files for each command: restore: disk`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runtime.GOOS != "linux" {
				return flagErrorf("sandboxes are of Linux")
			}
			if o.Kind != "bwrap" && o.Kind != "plain" {
				return flagErrorf("kind is bwrap or plain, got %s", o.Kind)
			}
			if o.Execs < 1 || o.Held < 1 {
				return flagErrorf("execs and held must be more than 0")
			}
			r, err := bench.Sandbox(cmd.Context(), o)
			if err != nil {
				return err
			}
			return printFigures(cmd.OutOrStdout(), asJSON, r, [][2]string{
				{"exec p50", fmt.Sprintf("%.1f ms", r.ExecP50)},
				{"exec p99", fmt.Sprintf("%.1f ms", r.ExecP99)},
				{"CPU an exec", fmt.Sprintf("%.1f ms", r.ExecCPU)},
				{"start p50", fmt.Sprintf("%.1f ms", r.StartP50)},
				{"starts/s", fmt.Sprintf("%.0f", r.PerS)},
				{"CPU a start", fmt.Sprintf("%.1f ms", r.StartCPU)},
				{"held", fmt.Sprint(r.Held)},
				{"memory each", fmt.Sprintf("%.1f MB", r.EachMB)},
				{"processes each", fmt.Sprintf("%.1f", r.Processes)},
				{"release", fmt.Sprintf("%.1f ms", r.ReleaseMS)},
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Kind, "kind", "bwrap", "bwrap or plain")
	f.IntVar(&o.Execs, "execs", 1000, "commands, one after another")
	f.IntVar(&o.Held, "held", 200, "sandboxes held at once")
	f.BoolVar(&o.Disk, "disk", false, "keep their files, a layer for each command")
	benchFlags(cmd, &o.Dir, &asJSON)
	return cmd
}
