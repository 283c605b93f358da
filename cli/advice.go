package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"matrix/internal/infer"
	"matrix/internal/launch"
	"matrix/internal/rundir"
	"matrix/local"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
	"matrix/tool"
)

// advisedError says already what to do.
type advisedError struct{ error }

func (e *advisedError) Unwrap() error { return e.error }

// advised adds what to do about an error that a person can do something about.
// Packages below say what is wrong; the flags and commands that help are said here.
func advised(err error) error {
	if errors.As(err, new(*advisedError)) {
		return err
	}
	var where *session.WhereError
	if errors.As(err, &where) && errors.As(err, new(*spec.UsageError)) {
		return &advisedError{fmt.Errorf("--where %s: %w", where.Where, where.Err)}
	}
	if what := advice(err); what != "" {
		return &advisedError{fmt.Errorf("%w\n%s", err, what)}
	}
	return err
}

// advice is what to do about an error; empty where that is not known.
func advice(err error) string {
	var damaged *rundir.DamagedError
	var refused *rundir.RefusedError
	var changed *run.DatasetChanged
	var dataset *spec.DatasetError
	var model *registry.ModelError
	var row *infer.Error
	var up *launch.UpError
	var cache *session.CacheError
	var serve *session.ServeError
	var unmade *session.ExportError
	switch {
	case errors.As(err, new(*tool.ChangedError)):
		return "To go on: give it the tools that it had, or --accept-changes (tasks already done stay as they are). To start over: --fresh, or out=DIR for another folder."
	case errors.As(err, &unmade):
		return fmt.Sprintf("Nothing is lost: put it right, in output.export or where it says. Where it cannot read a file of the run, 'matrix repair %s' goes first. Then the same command makes it.", shellWord(unmade.Dir))
	case errors.As(err, &damaged) && damaged.Part:
		return fmt.Sprintf("'matrix verify %s' says all that is wrong.", shellWord(damaged.Dir))
	case errors.As(err, &damaged):
		return fmt.Sprintf("Restore the files; or 'matrix repair %s' makes a state out of all that is still good, and says what is not; or --fresh starts over.", shellWord(damaged.Dir))
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "Too many files are open: raise the limit (ulimit -n 65536) and run the same command again, or have fewer calls at once."
	case errors.As(err, &cache) && cache.Folder == "":
		return "Choose one: --cache DIR."
	case errors.As(err, &cache) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)):
		return "The disk is full: make room on it first, or choose another folder: --cache DIR."
	case errors.As(err, &cache):
		return "Choose another folder, in which this user may write: --cache DIR."
	case errors.As(err, &serve) && errors.Is(err, syscall.EADDRINUSE):
		return "Another program has that port: end it; or give --serve another one, and workers the new line to join by."
	case errors.As(err, &serve) && errors.Is(err, syscall.EADDRNOTAVAIL):
		return "This machine does not have that address: --serve :PORT listens on all that it has, and --advertise HOST is for what others call it."
	case errors.As(err, &serve) && errors.Is(err, fs.ErrPermission):
		return "Ports below 1024 are not for every user: give --serve another one."
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "The disk is full: make room on it first."
	case errors.Is(err, syscall.EROFS):
		return "The disk cannot be written to: choose another folder with out=DIR, or make it writable first."
	case errors.Is(err, fs.ErrPermission):
		return "This user may not do that: change the permissions there, or choose another place; that of a run is out=DIR."
	case errors.Is(err, syscall.ENOTDIR):
		return "A file stands where a folder is named: choose another place; that of a run is out=DIR."
	case errors.Is(err, local.ErrLocked):
		return "Wait until it has ended, or stop it first: nothing is lost by that, and its command goes on later."
	case errors.As(err, &refused):
		return refusalAdvice[refused.Cause]
	case errors.As(err, &dataset):
		return fmt.Sprintf("'matrix infer MODEL %s' needs no config.", shellWord(dataset.Path))
	case errors.As(err, &model):
		return modelAdvice[model.Cause]
	case errors.As(err, &row):
		return rowAdvice[row.Cause]
	case errors.As(err, &up):
		return "Use it as it is, or end it with 'matrix models down'."
	case !errors.As(err, &changed):
		return ""
	case changed.Stuck:
		return "Nothing was changed: fix or restore the dataset, and run the same command again. Or --fresh starts over; or choose another folder with out=DIR."
	case changed.Grew:
		return "Rows were appended, and the others are as they were: --accept-changes runs those that are new. Or restore the dataset; or --fresh starts over."
	}
	return "Restore the dataset; or --fresh starts over. --accept-changes goes on behind the rows that were read: that is right where rows were added at the end alone. Rows put in before them are never run, and what is done stays as it is."
}

// modelAdvice says what to do about words that name no model.
var modelAdvice = map[registry.ModelCause]string{
	registry.NoModel:       "\n" + modelHelp,
	registry.SeveralModels: "Choose one by --model.",
	registry.NamedTwice:    "Leave out --model.",
}

// rowAdvice says what to do about a first row of which it is not known what to send.
var rowAdvice = map[infer.Cause]string{
	infer.NothingToSend: "Say it by --prompt, as --prompt \"{{ item.FIELD }}\", or by --field FIELD.",
	infer.NoMessages:    "Leave out --rewrite: it is for rows that hold messages.",
	infer.EndsInReply:   "--rewrite leaves it out and asks for it anew, --rewrite=false sends it as it is.",
}

// refusalAdvice says what to do about a folder that was refused.
var refusalAdvice = map[rundir.Refusal]string{
	rundir.ConfigChanged:    "To go on: use the old values, or --accept-changes (tasks already done stay as they are). To start over: --fresh, or out=DIR for another folder",
	rundir.ConfigGone:       "--accept-changes goes on with the config given; --fresh starts over.",
	rundir.ConfigUnreadable: "--accept-changes goes on without comparing them; --fresh starts over.",
	rundir.ModelChanged:     "To go on: use the old address, or --accept-changes (tasks already done stay as they are). To start over: --fresh, or out=DIR for another folder",
	rundir.ShardsChanged:    "Use the old value, or start over with --fresh.",
	rundir.TrialsChanged:    "Use the old value, or start over with --fresh.",
	rundir.NotOfRun:         "--fresh deletes what a run has made, and nothing else: remove it yourself, or choose another folder with out=DIR.",
	rundir.OnHeads:          "Go on with the command that its heads had (--peers), on one of them or more. Where they are gone for good: remove heads.json from the folder, then `matrix repair DIR`.",
	rundir.HeadsGone:        "Give the --store folders that its heads had. Where those are lost: remove heads.json from the folder, then `matrix repair DIR` makes a state of what the outputs hold, for one machine.",
	rundir.RetryUnderWay:    "Let that end without --peers, on one machine; then go on with them.",
	rundir.HalfCleared:      "--fresh had begun that and was killed: run its command again.",
}
