package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
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
			names, _ := exampleNames(examples.FS)
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			if list || len(args) == 0 {
				return listExamples(w, examples.FS)
			}
			name, dir := args[0], args[0]
			if len(args) == 2 {
				dir = args[1]
			}
			names, err := exampleNames(examples.FS)
			if err != nil {
				return err
			}
			if !slices.Contains(names, name) {
				return &spec.UsageError{Err: noExample(name, names)}
			}
			files, err := writeExample(examples.FS, name, dir, force)
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

func noExample(name string, names []string) error {
	msg := fmt.Sprintf("there is no example %q", name)
	if near := near.Name(name, names); near != "" {
		return fmt.Errorf("%s (did you mean %q?)", msg, near)
	}
	return fmt.Errorf("%s; there are %s", msg, strings.Join(names, ", "))
}

// exampleNames are the folders of fsys.
func exampleNames(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func listExamples(w io.Writer, fsys fs.FS) error {
	names, err := exampleNames(fsys)
	if err != nil {
		return err
	}
	width := 0
	for _, n := range names {
		width = max(width, len(n))
	}
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "%-*s  %s\n", width, n, exampleTitle(fsys, n))
	}
	fmt.Fprintf(&b, "\nWrite one, and run it:\n\n  %s init coral && %s run coral\n", self(), self())
	_, err = io.WriteString(w, b.String())
	return err
}

// exampleTitle is the heading of the example's README, less its name.
func exampleTitle(fsys fs.FS, name string) string {
	readme, err := fs.ReadFile(fsys, path.Join(name, "README.md"))
	if err != nil {
		return ""
	}
	head, _, _ := strings.Cut(string(readme), "\n")
	head = strings.TrimSpace(strings.TrimLeft(head, "# "))
	if _, title, ok := strings.Cut(head, ": "); ok {
		return title
	}
	return head
}

// writeExample writes the example's files into dir, and says how many. Nothing
// is written where one of them exists, unless force is set.
func writeExample(fsys fs.FS, name, dir string, force bool) (int, error) {
	sub, err := fs.Sub(fsys, name)
	if err != nil {
		return 0, err
	}
	files := map[string][]byte{}
	var taken []string
	err = fs.WalkDir(sub, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if files[p], err = fs.ReadFile(sub, p); err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(p))
		switch info, err := os.Lstat(to); {
		case err == nil && info.IsDir():
			return fmt.Errorf("%s is a folder, and the example has a file of that name: choose another DIR", to)
		case err == nil:
			taken = append(taken, to)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return 0, spec.Usagef("%s is a file: choose another DIR", dir)
	}
	if len(taken) > 0 && !force {
		slices.Sort(taken)
		return 0, spec.Usagef("%s: nothing was written; choose another DIR, or overwrite with --force", exists(taken))
	}
	for p, content := range files {
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(p)), content); err != nil {
			return 0, err
		}
	}
	return len(files), nil
}

func exists(files []string) string {
	switch {
	case len(files) == 1:
		return files[0] + " exists"
	case len(files) <= 3:
		return strings.Join(files, ", ") + " exist"
	}
	return fmt.Sprintf("%s and %d more files exist", strings.Join(files[:2], ", "), len(files)-2)
}

// writeFile writes a file of an example; a script may be run.
func writeFile(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mode := os.FileMode(0o666)
	if bytes.HasPrefix(content, []byte("#!")) {
		mode = 0o777
	}
	return os.WriteFile(name, content, mode)
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
