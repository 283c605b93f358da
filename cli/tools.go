package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"matrix/agent"
	"matrix/internal/near"
	"matrix/registry"
	"matrix/tool"
)

func newToolsCmd(p Program) *cobra.Command {
	var call string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tools CONFIG [NAME] [key=value ...]",
		Short: "List the tools of a config's pools, or try one",
		Long: `Tools starts the pools of a config that have tools, and lists what a model is told
of each: name, description, parameters. With NAME it shows that tool alone, or with
--call makes a call of it and prints the answer.

Exit codes: 0 it went well, 1 a pool does not work, or the tool answered with an
error, 2 usage or config.`,
		Example: `  matrix tools config.yaml
  matrix tools config.yaml calculate
  matrix tools config.yaml calculate --call '{"expression": "2+2"}'`,
		Args: configArgsNamed,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, overrides := "", args[1:]
			if len(overrides) > 0 && overrideArgs(overrides[:1]) != nil {
				name, overrides = overrides[0], overrides[1:]
			}
			if call != "" && name == "" {
				return flagErrorf("--call needs NAME, the tool that is called")
			}
			if call != "" && !json.Valid([]byte(call)) {
				return flagErrorf("--call %q is not JSON: want an object, such as '{\"a\": 1}'", call)
			}
			return p.tools(cmd, args[0], overrides, name, call, asJSON)
		},
	}
	cmd.Flags().StringVar(&call, "call", "", "arguments as JSON: make a call of NAME")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// configArgsNamed wants a config, a name or none, then overrides.
func configArgsNamed(cmd *cobra.Command, args []string) error {
	if len(args) > 1 && overrideArgs(args[1:2]) != nil {
		return configArgs(cmd, slices.Delete(slices.Clone(args), 1, 2))
	}
	return configArgs(cmd, args)
}

// poolTool is a tool and the pool that it is of.
type poolTool struct {
	Pool string `json:"pool"`
	tool.Definition
}

func (p Program) tools(cmd *cobra.Command, config string, overrides []string, name, call string, asJSON bool) (err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	plan, err := p.loadPlan(config, overrides, registry.ToCheck)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "matrix-tools-")
	if err != nil {
		return errors.Join(err, plan.Close())
	}
	defer func() { err = errors.Join(err, plan.Close(), os.RemoveAll(dir)) }() // a pool may write until it is closed
	t := tool.Task{ID: "try", Row: json.RawMessage(`{}`)}
	var all []poolTool
	var names []string
	for _, pool := range slices.Sorted(maps.Keys(plan.Pools)) {
		found, err := toolsOf(ctx, plan.Pools[pool], t, filepath.Join(dir, pool))
		if err != nil {
			return fmt.Errorf("pools.%s: %w", pool, err)
		}
		for _, d := range found {
			all, names = append(all, poolTool{pool, d}), append(names, d.Name)
		}
	}
	if len(all) == 0 {
		return errors.New("no pool of the config has tools: docs/tools.md says how to give a chat some")
	}
	if name != "" {
		all = slices.DeleteFunc(all, func(x poolTool) bool { return x.Name != name })
		if len(all) == 0 {
			msg := fmt.Sprintf("there is no tool %q", name)
			if like := near.Name(name, names); like != "" {
				return fmt.Errorf("%s (did you mean %q?)", msg, like)
			}
			return fmt.Errorf("%s; there are %s", msg, strings.Join(names, ", "))
		}
	}
	w := cmd.OutOrStdout()
	if call == "" {
		if asJSON {
			return printJSON(w, all)
		}
		for i, x := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			printTool(w, x)
		}
		return nil
	}
	r, err := plan.Pools[all[0].Pool].(tool.Pool).Call(ctx, t, tool.Request{Key: "1/0", Name: name, Arguments: json.RawMessage(call)})
	if err != nil {
		return err
	}
	fmt.Fprintln(w, clean(r.Content))
	for i := range r.Images {
		fmt.Fprintf(w, "(image %d: %d bytes as a data: URL)\n", i+1, len(r.Images[i]))
	}
	if r.IsError {
		fmt.Fprintln(cmd.ErrOrStderr(), "This is an error, which a model is told.")
		return errSilent
	}
	return nil
}

// toolsOf starts a pool and returns its tools; none where it is of sandboxes.
func toolsOf(ctx context.Context, p agent.Pool, t tool.Task, dir string) ([]tool.Definition, error) {
	has, ok := p.(tool.Pool)
	if !ok {
		return nil, nil
	}
	if o, ok := p.(agent.Opener); ok {
		if err := o.Open(ctx, "tools", dir); err != nil {
			return nil, err
		}
	}
	if err := p.Check(ctx); err != nil {
		return nil, err
	}
	return has.Tools(ctx, t)
}

func printTool(w io.Writer, x poolTool) {
	fmt.Fprintf(w, "%s  (pool %s)\n", clean(x.Name), clean(x.Pool))
	if x.Description != "" {
		fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(clean(x.Description), "\n", "\n  "))
	}
	if len(x.Parameters) > 0 {
		fmt.Fprintf(w, "  %s\n", clean(string(x.Parameters)))
	}
}
