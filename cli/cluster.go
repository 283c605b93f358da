package cli

import "github.com/spf13/cobra"

func newClusterCmd(p Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Start, show and end what works for a run on many machines",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newClusterAddCmd(), newClusterStatusCmd(), newClusterListCmd(), newClusterDownCmd(), newClusterJoinCmd(), newClusterConnectCmd(p), newClusterKeepCmd())
	return cmd
}
