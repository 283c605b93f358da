// Package cli is the command line: commands, their flags, and what they print.
// What they do is in packages that know nothing of both.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"matrix/internal/config"
	"matrix/registry"
	"matrix/spec"
)

// Exit codes of every command.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2 // the command line or the config is wrong; nothing was done
	exitStopped = 4 // stopped before the end, with tasks pending
)

// Program is the command matrix, with what it stands in.
type Program struct {
	Version  string // empty: what the build says
	In       io.Reader
	Out, Err io.Writer

	// Registry holds the kinds that configs may name; nil for the built-in ones.
	// A program with kinds of its own is this Program with its registry.
	Registry *registry.Registry

	// For tests.
	interrupts chan os.Signal // in the place of the signals that stop a run
	every      time.Duration  // between plain lines of progress; 0 for 10 s
}

// Main runs the command and returns its exit code. args are those after the
// name of the program.
func (p Program) Main(args []string) int {
	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	code, says := exitOf(cmd, err)
	if says != "" {
		fmt.Fprintln(p.Err, clean(says)) // errors quote services and rows
	}
	return code
}

// exitOf is what a command that came to err exits with, and what it says.
func exitOf(cmd *cobra.Command, err error) (code int, says string) {
	var usage *spec.UsageError
	var stopped *stoppedError
	var elsewhere *endedError
	switch {
	case err == nil:
		return exitOK, ""
	case errors.As(err, &elsewhere):
		return elsewhere.code, elsewhere.msg
	case errors.As(err, &stopped):
		return exitStopped, stopped.Error()
	case errors.Is(err, errSilent):
		return exitError, ""
	case errors.As(err, &usage):
		return exitUsage, "Error: " + advised(err).Error()
	case errors.As(err, new(*flagError)):
		return exitUsage, fmt.Sprintf("Error: %v\nSee '%s --help'.", err, cmd.CommandPath())
	}
	return exitError, "Error: " + advised(err).Error()
}

// flagError is a fault in the words of a command line.
type flagError struct{ spec.UsageError }

// stoppedError is a run that was stopped with tasks pending: exit code 4.
type stoppedError struct{ msg string }

func (e *stoppedError) Error() string { return e.msg }

// endedError is how another process ended that was looked at: with its exit code, and
// in its words.
type endedError struct {
	code int
	msg  string
}

func (e *endedError) Error() string { return e.msg }

// errSilent is an error that has been reported already: exit code 1.
var errSilent = errors.New("reported")

func (p Program) root() *cobra.Command {
	if p.Registry == nil {
		p.Registry = registry.New()
	}
	root := &cobra.Command{
		Use:   "matrix",
		Short: "Generate synthetic data with many cooperating LLM agents",
		Long: `Matrix generates synthetic data with many cooperating LLM agents.

A config in YAML says which rows there are, which agents act on them, and who
acts after whom. A run is durable: stopped or killed at any moment, the same
command goes on where it was.`,
		Example: `  matrix init coral              write an example to start from
  matrix run coral               run it; typed again, it resumes
  matrix show runs/coral         read the dialogues
  matrix verify runs/coral       prove that nothing is lost and nothing doubled`,
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if strings.Contains(c.Use, "[key=value ...]") && errors.As(err, new(*pflag.NotExistError)) {
			err = fmt.Errorf("%w; keys of the config stand without dashes, such as dataset.limit=10", err)
		}
		if strings.HasSuffix(strings.Trim(c.Use, "[]"), "ID") && errors.As(err, new(*pflag.NotExistError)) {
			err = fmt.Errorf("%w; an ID that begins with a dash stands behind --", err)
		}
		return &flagError{spec.UsageError{Err: err}}
	})
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(
		newRunCmd(p),
		newWorkerCmd(p),
		newClusterCmd(p),
		newHeadCmd(p),
		newRunsCmd(p),
		newTopCmd(p),
		newAttachCmd(p),
		newStopCmd(p),
		newCancelCmd(p),
		newLogsCmd(p),
		newModelsCmd(p),
		newVerifyCmd(),
		newRepairCmd(),
		newPreviewCmd(p),
		newPlanCmd(p),
		newConfigCmd(p),
		newShowCmd(),
		newStatsCmd(),
		newCompareCmd(),
		newExplainCmd(),
		newExportCmd(p),
		newPushCmd(p),
		newGraphCmd(p),
		newInitCmd(),
		newSchemaCmd(p),
		newReferenceCmd(p),
		newChatCmd(p),
		newInferCmd(p),
		newBenchCmd(p),
		newSimCmd(p),
		newMCPCmd(p),
		newToolsCmd(p),
		newVersionCmd(p),
	)
	strict(root)
	return root
}

// strict makes the commands that cobra adds by itself as strict as the others.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Run = nil
			c.RunE = func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return noArgs(root, args)
				}
				return about.Help()
			}
		case "completion":
			c.Args = noArgs
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
			for _, shell := range c.Commands() {
				shell.Args = noArgs
			}
		}
	}
}

// Checks of the number of arguments, with messages that say what is missing.

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		msg := fmt.Sprintf("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
		if _, err := strconv.ParseUint(args[0], 10, 16); err == nil && cmd.Flags().Lookup("port") != nil {
			msg += fmt.Sprintf(" (did you mean --port %s?)", args[0])
		}
		return flagErrorf("%s", msg)
	}
	msg := fmt.Sprintf("there is no command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += fmt.Sprintf(" (did you mean %q?)", near[0])
	}
	return flagErrorf("%s", msg)
}

// argsBetween wants at least so many arguments and at most so many; -1 is no
// limit. names say what they are.
func argsBetween(least, most int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return flagErrorf("%s needs %s", cmd.CommandPath(), names)
		case most >= 0 && len(args) > most:
			return flagErrorf("%s takes %s, and got %q too", cmd.CommandPath(), names, args[most])
		}
		return nil
	}
}

// configArgs wants a config, then overrides.
func configArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return flagErrorf("%s needs CONFIG: a YAML file, or a folder that holds config.yaml", cmd.CommandPath())
	}
	if _, err := os.Stat(args[0]); err != nil && config.IsOverride(args[0]) {
		return flagErrorf("the first argument is CONFIG, then come overrides; got %q first", args[0])
	}
	return overrideArgs(args[1:])
}

func overrideArgs(args []string) error {
	for _, a := range args {
		if !config.IsOverride(a) {
			return flagErrorf("%q is not an override: want key=value, +key=value, ~key or group=option", a)
		}
	}
	return nil
}

func flagErrorf(format string, args ...any) error {
	return &flagError{spec.UsageError{Err: fmt.Errorf(format, args...)}}
}

// checkOut refuses -o "", which a variable that is not set may have made.
func checkOut(cmd *cobra.Command, out string) error {
	if cmd.Flags().Changed("out") && out == "" {
		return flagErrorf("-o is empty: name a folder, or leave it out")
	}
	return nil
}

func newVersionCmd(p Program) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "matrix %s (%s, %s/%s)\n", p.version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

func (p Program) version() string {
	if p.Version != "" {
		return p.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// self is what a person types to run this program again.
func self() string {
	exe, err := os.Executable()
	if err != nil {
		return "matrix"
	}
	if dir := filepath.ToSlash(filepath.Dir(exe)); strings.Contains(dir, "/go-build") && strings.HasSuffix(dir, "/exe") {
		return "go run ./cmd/matrix"
	}
	return "matrix"
}
