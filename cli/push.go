package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/export"
	"matrix/internal/hub"
	"matrix/internal/human"
	"matrix/internal/rundir"
)

func newPushCmd(p Program) *cobra.Command {
	var push hub.Push
	cmd := &cobra.Command{
		Use:   "push DIR ORG/NAME",
		Short: "Push a training set to the Hugging Face hub",
		Long: `Push a folder that matrix export wrote, or the training set that the run in DIR has
made (output.export), to the dataset ORG/NAME of the Hugging Face hub, by one
commit. The dataset is made where there is none. Only what has changed is sent;
where a push was interrupted, the same command goes on.

HF_TOKEN holds a token with the right to write; HF_ENDPOINT the address of
another hub.`,
		Example: `  matrix export runs/coral -o set --as parquet --license apache-2.0
  HF_TOKEN=... matrix push set my-org/debates --private`,
		Args: argsBetween(2, 2, "DIR, a folder that was exported, and ORG/NAME, a dataset of the hub"),
		RunE: func(cmd *cobra.Command, args []string) error {
			push.Repo = args[1]
			return pushSet(cmd, p, args[0], push)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&push.Private, "private", false, "make the dataset private, where it is made")
	f.StringVar(&push.Revision, "revision", "main", "branch to push to; it must be there")
	f.StringVarP(&push.Message, "message", "m", "", "of the commit")
	return cmd
}

// pushSet pushes the training set that is in a folder, or that of the run in it.
func pushSet(cmd *cobra.Command, p Program, dir string, push hub.Push) (err error) {
	if push.Dir, err = setIn(dir); err != nil {
		return err
	}
	if os.Getenv("HF_TOKEN") == "" {
		return flagErrorf("HF_TOKEN is not set: it holds a token of the hub with the right to write (%s/settings/tokens)", hub.Endpoint)
	}
	c, err := hub.New(hub.Options{Endpoint: os.Getenv("HF_ENDPOINT"), Token: os.Getenv("HF_TOKEN"), Agent: "matrix/" + p.version(), Again: func(err error, after time.Duration) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s; again in %v\n", clean(err.Error()), after)
	}})
	if err != nil {
		return flagErrorf("HF_TOKEN, HF_ENDPOINT: %w", err)
	}
	w := cmd.OutOrStdout()
	push.Tell = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), clean(line)) }
	push.Stale = func(path string) bool {
		dir, name := filepath.Split(path)
		return dir == export.DataDir+"/" && export.Owns(name)
	}
	if push.Message == "" {
		push.Message = "Upload with matrix " + p.version()
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	done, err := c.Push(ctx, push)
	if err != nil {
		return pushError(ctx, push.Repo, err)
	}
	for _, name := range done.Ignored {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was left out: the dataset's .gitignore says so\n", clean(name))
	}
	if done.Commit == "" {
		fmt.Fprintf(w, "%s  holds all that already\n", done.URL)
		return nil
	}
	what := []string{human.Plural(int64(done.Sent), "file") + " sent"}
	if done.Same > 0 {
		what = append(what, human.Commas(done.Same)+" unchanged")
	}
	if done.Removed > 0 {
		what = append(what, human.Commas(done.Removed)+" of an earlier export removed")
	}
	fmt.Fprintf(w, "%s  %s (%s bytes of large files)\n", done.URL, strings.Join(what, ", "), human.Commas(done.Bytes))
	return nil
}

// setIn is the folder with the training set: dir itself, or that of the run in it.
func setIn(dir string) (string, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", flagErrorf("%s: no such folder", dir)
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", flagErrorf("%s is a file: give the folder that holds the training set", dir)
	}
	set := dir
	if _, err := os.Stat(filepath.Join(dir, rundir.StateDir)); err == nil {
		set = filepath.Join(dir, rundir.ExportDir)
	}
	in := func(dir string, ok func(name string) bool) bool {
		entries, _ := os.ReadDir(dir) // where there is none, nothing is in it
		return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return ok(e.Name()) })
	}
	if in(set, func(name string) bool { return strings.HasPrefix(name, "part-") }) {
		return "", flagErrorf("the training set of %s is not made yet: it is when the run has finished", dir)
	}
	// Another folder is not to become public by mistake.
	if !in(set, func(name string) bool { return name == export.CardFile }) || !in(filepath.Join(set, export.DataDir), export.Owns) {
		return "", flagErrorf("%s holds no training set (%s, and files in %s/ as export names them): 'matrix export DIR -o FOLDER' makes one of a run", set, export.CardFile, export.DataDir)
	}
	return set, nil
}

// pushError is an error of a push with what to do about it.
func pushError(ctx context.Context, repo string, err error) error {
	const on = "The same command goes on: what was sent is there."
	var usage *hub.UsageError
	var refused *hub.Error
	var gone *hub.UnreachableError
	switch {
	case ctx.Err() != nil:
		return &stoppedError{"Interrupted: the dataset is as it was. " + on}
	case errors.As(err, &usage):
		return flagErrorf("%w", err)
	case errors.As(err, &gone):
		return &advisedError{fmt.Errorf("%w\n%s", err, on)}
	case !errors.As(err, &refused):
		return err
	}
	org, _, _ := strings.Cut(repo, "/")
	advice := on
	switch s := refused.Status; {
	case s == http.StatusUnauthorized:
		advice = "HF_TOKEN is not a token that this hub knows, or one that has ended: make another one with the right to write."
	case s == http.StatusForbidden:
		advice = fmt.Sprintf("The token may not do that: it needs the right to write to %s. Where the hub speaks of storage, its quota is used up: make room there first.", org)
	case s == http.StatusNotFound:
		advice = "Check the name, and --revision: a branch must be there; and that the token may see the dataset."
	case s == http.StatusConflict || s == http.StatusPreconditionFailed:
		advice = "Others write to the dataset. " + on
	case s == http.StatusRequestEntityTooLarge || s == http.StatusInsufficientStorage || s == http.StatusPaymentRequired:
		advice = "The hub has no room for it: a larger plan, or less data; --max-shard-size of export makes smaller files."
	case s == http.StatusTooManyRequests:
		advice = "The hub lets this token ask only so often: wait some minutes. " + on
	}
	return &advisedError{fmt.Errorf("%w\n%s", err, advice)}
}
