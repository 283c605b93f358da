package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"matrix/examples"
	"matrix/internal/human"
	"matrix/internal/near"
	"matrix/spec"
)

func newInitCmd() *cobra.Command {
	var list, force bool
	cmd := &cobra.Command{
		Use:   "init [EXAMPLE] [DIR]",
		Short: "Write an example to start from",
		Long: `Write an example to start from. The examples travel inside this program.

DIR is where it goes: a folder named as the example unless told otherwise.
Without EXAMPLE the examples are listed. A file that exists is never
overwritten, unless --force says so.`,
		Example: `  matrix init                    # what there is
  matrix init coral              # into ./coral
  matrix init curation my-data   # into ./my-data`,
		Args: argsBetween(0, 2, "EXAMPLE and DIR"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			names, _ := examples.Names()
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			if list || len(args) == 0 {
				return listExamples(w)
			}
			name, dir := args[0], args[0]
			if len(args) == 2 {
				dir = args[1]
			}
			names, err := examples.Names()
			if err != nil {
				return err
			}
			if !slices.Contains(names, name) {
				return unknown("example", name, names)
			}
			files, err := examples.Write(name, dir, force)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(w, "Wrote the example %s to %s (%s). Next:\n\n  %s run %s\n\nWhat it shows: %s\n",
				name, dir, human.Plural(int64(files), "file"), self(), shellWord(dir), filepath.Join(dir, "README.md"))
			return err
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list the examples")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite files that exist")
	return cmd
}

// unknown is the error for a name of what, which is none of names.
func unknown(what, name string, names []string) error {
	if near := near.Name(name, names); near != "" {
		return spec.Usagef("there is no %s %q (did you mean %q?)", what, name, near)
	}
	return spec.Usagef("there is no %s %q; there are %s", what, name, strings.Join(names, ", "))
}

func listExamples(w io.Writer) error {
	names, err := examples.Names()
	if err != nil {
		return err
	}
	var rows [][]string
	for _, n := range names {
		rows = append(rows, []string{n, examples.Title(n)})
	}
	var b strings.Builder
	b.WriteString(strings.Join(columns(rows, true, left), "\n") + "\n")
	fmt.Fprintf(&b, "\nWrite one, and run it:\n\n  %s init coral && %s run coral\n", self(), self())
	_, err = io.WriteString(w, b.String())
	return err
}

// shellWord is s as a person types it.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+:@%=,~", r) && r < 0x80
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
