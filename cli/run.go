package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix/config"
	"matrix/internal/human"
	"matrix/registry"
	"matrix/run"
	"matrix/rundir"
	"matrix/spend"
)

func newRunCmd(p Program) *cobra.Command {
	var out string
	var fresh, accept, up bool
	var retry retryOptions
	cmd := &cobra.Command{
		Use:   "run CONFIG [key=value ...]",
		Short: "Run a config; on the same folder again, go on where it was",
		Long: `Run generates what CONFIG says: a YAML file, or a folder that holds config.yaml.
It writes to a folder, runs/NAME unless told otherwise:

  data/part-00000.jsonl     finished tasks
  failed/part-00000.jsonl   failed tasks, with cause and the turns they had
  formats/                  schemas that calls asked for, once each
  summary.json              how far the run is, replaced every few seconds
  config.yaml               the config as it was resolved, without secrets
  state/                    queue and ledger

The same command on the same folder resumes. Ctrl-C stops feeding and lets calls
under way land for the grace period, a second one stops now; nothing is lost.

Exit codes: 0 finished, 1 error, 2 usage or config, 4 stopped with tasks owed.`,
		Example: `  matrix run examples/coral
  matrix run examples/coral live=50 dataset.limit=100 -o runs/try
  matrix run examples/coral --fresh
  matrix run examples/coral --retry-failed
  matrix run examples/coral --retry-failed --where 'cause contains "timed out"'`,
		Args: configArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := errors.Join(checkOut(cmd, out), retry.check(cmd, fresh))
			if err != nil {
				return err
			}
			j := job{Program: p, cmd: cmd}
			j.typed(args, out)
			if j.plan, err = p.loadConfig(args[0], args[1:]); err != nil {
				return err
			}
			return j.served(up, func() error { return j.do(out, fresh, accept, retry) })
		},
	}
	cmd.Flags().BoolVar(&up, "up", false, "start the servers of the models that have serve before the run, and end them after it")
	cmd.Flags().StringVarP(&out, "out", "o", "", "folder to write to (default runs/NAME)")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "delete what the folder's run has made, and start over")
	retry.flags(cmd)
	cmd.Flags().BoolVar(&accept, "accept-changes", false, "go on although config or dataset have changed; tasks already done stay as they are")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

// job is one `matrix run`.
type job struct {
	Program
	cmd     *cobra.Command
	words   []string // the command as a person would type it
	again   string   // the same, as a line
	plan    *plan
	folder  *rundir.Claim
	run     *run.Run
	purse   *spend.Tracker
	broke   string // why nothing more can be paid; empty while something can
	meter   meter
	display display
	spoken  chan string // by agents, on stderr
	shown   atomic.Bool // the display is on: whoever has something to say gives it to spoken
}

// typed notes the command as a person would type it again.
func (j *job) typed(args []string, out string) {
	j.words = []string{self(), j.cmd.Name()}
	for _, a := range args {
		j.words = append(j.words, shellWord(config.Hide(a)))
	}
	if out != "" {
		j.words = append(j.words, "-o", shellWord(out))
	}
	j.again = strings.Join(j.words, " ")
}

// do runs the plan.
func (j *job) do(out string, fresh, accept bool, retry retryOptions) (err error) {
	dir := out
	if dir == "" {
		if dir, err = rundir.For(j.plan.Config); err != nil {
			return err
		}
	}
	// Locked before agents and models are made: a second process must not touch
	// what they write, such as recordings.
	if j.folder, err = rundir.NewClaim(dir, fresh, accept); err != nil {
		return advisedIn(dir, err)
	}
	defer func() { err = closed(err, j.folder.Close()) }()
	j.spoken = make(chan string, 1000)
	if j.plan.kinds.Log == nil {
		j.plan.kinds.Log = func(line string) {
			select {
			case j.spoken <- line:
			default: // faster than anybody can read
			}
		}
	}
	if err = j.plan.build(registry.ToRun); err != nil {
		return err
	}
	j.plan.warn(j.Err)
	defer func() { err = closed(err, j.plan.Close()) }()
	if _, err = j.plan.Source.Fingerprint(); err != nil { // before --fresh deletes anything
		return err
	}
	if err = j.folder.Open(j.cmd.Context(), j.plan.Config, j.plan.kinds.Parts()); err != nil {
		return advisedIn(dir, err)
	}
	if j.folder.Again && !accept {
		if err = j.checkServed(j.cmd.Context()); err != nil {
			return err
		}
	}
	engine := j.engine()
	if engine.Retry, err = j.retry(retry); err != nil {
		return err
	}
	if j.run, err = run.New(j.cmd.Context(), engine); err != nil {
		return advisedIn(dir, err)
	}
	if err = j.folder.Note(); err != nil {
		return advisedIn(dir, err)
	}
	j.display = newDisplay(j.plan.Run.Display, j.Err, j.every)
	p := j.run.Progress()
	if j.purse, err = spend.Open(j.cmd.Context(), j.folder.Store, j.plan.Run.Budget, j.plan.Bills, p); err != nil {
		return advisedIn(dir, err)
	}
	if p.Finished {
		return j.wasFinished(p)
	}
	if j.broke = j.purse.Exhausted(accept); j.broke != "" {
		j.count(&p)
		if err := summarize(j.plan.Run.Name, p, j.purse.Spending(p)).write(j.folder); err != nil {
			return advisedIn(dir, err)
		}
		if retry.begin {
			j.words = append(j.words, "--retry-failed")
		}
		return j.outOfBudget(p)
	}
	if j.folder.Again {
		j.display.say(fmt.Sprintf("Going on with %s: %s done, %s failed so far.", j.folder.Path, human.Commas(p.Done), human.Commas(p.Failed)))
		if p.Past > 0 {
			j.display.say(human.Plural(p.Past, "finished task") + " that a killed process had written and not committed: written again.")
		}
	} else {
		j.display.say(fmt.Sprintf("Running %s in %s", oneLine(j.plan.Run.Name), j.folder.Path))
	}
	return j.ended(j.watch())
}

// closed is what came of a command whose end is a Close: the fault that made it
// end, if any, has made the Close fail too.
func closed(err, closing error) error {
	var stopped *stoppedError
	if closing != nil && (err == nil || errors.As(err, &stopped)) {
		return closing
	}
	return err
}

// engine puts the parts of the plan into the config of a run.
func (j *job) engine() run.Config {
	c := engine(j.plan)
	j.folder.Into(&c, j.plan.Run.Output)
	c.RoundsUnset = j.plan.Tree.Root().Get("limits.rounds") == nil
	return c
}

// engine is a plan as an engine wants it, less where it runs.
func engine(p *plan) run.Config {
	return run.Config{
		Source: p.Source, Router: p.Router, Roles: p.Roles, Limits: p.Limits, Metrics: p.Metrics,
		Live: p.Run.Live, Trials: p.Run.Trials, Seed: p.Run.Seed, MaxFailed: float64(p.Run.MaxFailed),
		Grace: max(p.Run.Grace, 1), // 0 is the engine's default
	}
}

const summaryEvery = 2 * time.Second

// oneKey is how soon after a signal another one is the same: some programs
// (timeout, for one) send it to the process and to its group.
const oneKey = 20 * time.Millisecond

// deafFor is how long after the second signal a run may take to end by itself.
const deafFor = 3 * time.Second

// watch drives the run to its end, shows it, and lets a person stop it.
func (j *job) watch() error {
	ctx, cancel := context.WithCancel(j.cmd.Context())
	defer cancel()
	interrupts := j.interrupts
	if interrupts == nil {
		interrupts = make(chan os.Signal, 4)
		signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(interrupts)
	}
	_ = j.purse.Tick(0) // from now on the account of the session before is not exact any more
	over := make(chan error, 1)
	go func() { over <- j.run.Run(ctx) }()

	j.shown.Store(true)
	defer j.shown.Store(false)
	frames := time.NewTicker(j.display.every())
	defer frames.Stop()
	plain, _ := j.display.(*plainDisplay)
	var changes <-chan time.Time
	if plain != nil && plain.tick > changesEvery {
		t := time.NewTicker(changesEvery)
		defer t.Stop()
		changes = t.C
	}
	summaries := time.NewTicker(summaryEvery)
	defer summaries.Stop()
	var wall <-chan time.Time
	if left, ok := j.purse.Left(); ok {
		t := time.NewTimer(left)
		defer t.Stop()
		wall = t.C
	}
	_ = j.summary().write(j.folder) // what hinders it hinders the last one, which says so
	j.view("")
	stopping, landing, first := "", "", time.Time{}
	var deaf <-chan time.Time // after the second signal
	for {
		select {
		case <-deaf: // a step that computes hears nothing; what it was at stays owed, as after a kill
			j.display.end(j.view(""))
			j.display.say("Stopped while a step was computing; the same command goes on.")
			os.Exit(exitStopped)
		case err := <-over:
			j.display.end(j.view(""))
			return err
		case <-frames.C:
			j.display.show(j.view(cmp.Or(stopping, landing)))
		case <-changes:
			plain.printChanges(j.run.Progress().Elapsed, j.models())
		case line := <-j.spoken:
			j.display.say(clean(line))
		case <-wall:
			j.purse.Spent <- fmt.Sprintf("the budget of %v of work is spent", j.plan.Run.Budget.Wall)
		case why := <-j.purse.Spent:
			if j.broke != "" {
				continue
			}
			j.broke = why
			landing = "Stopping: " + why + ". Calls under way land first; Ctrl-C shortens that."
			j.run.Land()
			if _, live := j.display.(*liveDisplay); !live {
				j.display.say(landing)
			}
		case <-summaries.C:
			_ = j.purse.Tick(j.run.Progress().Elapsed) // a state that cannot be written ends the run by itself
			_ = j.summary().write(j.folder)
		case <-interrupts:
			if stopping == "" {
				first = time.Now()
				stopping = fmt.Sprintf("Stopping; nothing is lost. Steps under way may take up to %s more, Ctrl-C again stops now.", j.plan.Run.Grace)
				j.run.Stop()
			} else if j.interrupts != nil || time.Since(first) > oneKey {
				stopping = "Stopping now."
				cancel()
				deaf = time.After(deafFor)
				signal.Stop(interrupts)
				signal.Reset(syscall.SIGINT, syscall.SIGTERM) // a third one kills
			}
			if _, live := j.display.(*liveDisplay); live {
				j.display.show(j.view(stopping))
			} else {
				j.display.say(stopping)
			}
		}
	}
}

func (j *job) summary() summary {
	p := j.run.Progress()
	return summarize(j.plan.Run.Name, p, j.purse.Spending(p))
}

// view gathers what a display shows.
func (j *job) view(stopping string) *view {
	v := &view{Progress: j.run.Progress(), Name: j.plan.Run.Name, Stopping: stopping}
	for _, name := range j.plan.roleOrder() {
		r := v.Progress.Roles[name]
		if r.Inline && r.Hops == 0 && r.Waiting == 0 {
			v.Inline = append(v.Inline, name)
		} else {
			v.Roles = append(v.Roles, roleView{Name: name, RoleProgress: r})
		}
	}
	v.Models = j.models()
	v.Spending = j.purse.Spending(v.Progress)
	j.meter.observe(time.Now(), v)
	return v
}

// models are the models as they do now, without rates.
func (j *job) models() []modelView {
	var all []modelView
	for _, name := range slices.Sorted(maps.Keys(j.plan.Models)) {
		all = append(all, modelView{Name: name, Stats: j.plan.Models[name].Stats()})
	}
	return all
}

// roleOrder lists the roles as the flow comes upon them.
func (p *plan) roleOrder() []string {
	place := map[string]int{}
	for i, n := range p.Flow.Nodes {
		place[n.Role] = i - len(p.Flow.Nodes)
	}
	names := slices.Sorted(maps.Keys(p.Roles))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(place[a], place[b]) })
	return names
}

// wasFinished answers a run that has nothing left to do.
func (j *job) wasFinished(p run.Progress) error {
	// The process before may have been killed before its last word.
	if err := summarize(j.plan.Run.Name, p, j.purse.Spending(p)).write(j.folder); err != nil {
		return advised(err)
	}
	if j.plan.Run.Display == "none" {
		return nil
	}
	w := j.cmd.OutOrStdout()
	fmt.Fprintf(w, "%s is finished: %s done, %s failed. --fresh starts over.\n", j.folder.Path, human.Commas(p.Done), human.Commas(p.Failed))
	next(w, j.folder.Path, p)
	return nil
}

// ended reports how the run went, and returns what the command exits with.
func (j *job) ended(fault error) error {
	p := j.run.Progress()
	j.count(&p)
	err := j.purse.Close(p.Elapsed)
	if e := summarize(j.plan.Run.Name, p, j.purse.Spending(p)).write(j.folder); err == nil {
		err = e
	}
	if err != nil && fault == nil || errors.Is(fault, run.ErrStopped) {
		fault = cmp.Or(err, fault)
	}
	owed := fmt.Sprintf("%s owed; the same command goes on:\n  %s", owedTasks(p), j.again)
	var many *run.TooManyFailed
	errors.As(fault, &many)
	if j.plan.Run.Display != "none" {
		w := j.cmd.OutOrStdout()
		table(w, p)
		retried(w, p.Retried)
		if s := spentLine(j.purse.Spending(p)); s != "" {
			fmt.Fprintf(w, "\n%s\n", s)
		}
		if fault == nil || many != nil && many.Ended {
			next(w, j.folder.Path, p)
		}
	}
	switch {
	case fault == nil:
		return nil
	case fault == run.ErrStopped && j.broke != "":
		return j.outOfBudget(p)
	case fault == run.ErrStopped:
		return &stoppedError{"Stopped. " + owed}
	case many != nil && many.Ended:
		return fmt.Errorf("%w\nMend it, then this tries the failed ones again (with --accept-changes where the config is another one now; max_failed=none for exit code 0):\n  %s --retry-failed",
			fault, j.again)
	case many != nil:
		return fmt.Errorf("%w\nStopped, so that no more rows are lost to it; max_failed=none goes on regardless. %s owed.\n"+
			"Mend it, then this goes on and tries the failed ones again (with --accept-changes where the config is another one now):\n  %s --retry-failed",
			fault, owedTasks(p), j.again)
	}
	return fmt.Errorf("%w\n%s", advisedIn(j.folder.Path, fault), owed)
}

// outOfBudget says what was spent and how to go on.
func (j *job) outOfBudget(p run.Progress) error {
	more := j.again
	if s := j.purse.Raised(); s != "" {
		key, _, _ := strings.Cut(s, "=")
		words := slices.DeleteFunc(slices.Clone(j.words), func(w string) bool { return strings.HasPrefix(strings.TrimLeft(w, "+"), key+"=") })
		more = strings.Join(append(words, s), " ")
	}
	return &stoppedError{fmt.Sprintf("Stopped: %s.\n%s owed; a larger budget goes on:\n  %s", j.broke, owedTasks(p), more)}
}

// count finds out how many tasks there are, where a run was stopped before it
// knew. A dataset that takes long to count is left uncounted.
func (j *job) count(p *run.Progress) {
	if p.Total >= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(j.cmd.Context(), 2*time.Second)
	defer cancel()
	if n, err := j.plan.Source.Count(ctx); err == nil {
		p.Total = n * int64(max(1, j.plan.Run.Trials))
		p.Owed = max(0, p.Total-p.Done-p.Failed)
	}
}

func owedTasks(p run.Progress) string {
	if p.Owed < 0 {
		return "Tasks are"
	}
	return human.Plural(p.Owed, "task") + human.Is(p.Owed)
}

// advisedError says already what to do.
type advisedError struct{ error }

func (e *advisedError) Unwrap() error { return e.error }

// advisedIn adds what to do about an error of the run in dir.
func advisedIn(dir string, err error) error { return advised(rundir.Damage(dir, err)) }

// advised adds what to do about an error that a person can do something about.
func advised(err error) error {
	var told *advisedError
	if errors.As(err, &told) {
		return err
	}
	var damaged *rundir.DamagedError
	switch {
	case errors.As(err, &damaged):
		return &advisedError{fmt.Errorf("%w\nGive back the files as they were; or 'matrix repair %s' makes a state out of all that is still good, and says what is not; or --fresh starts over.", err, shellWord(damaged.Dir))}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &advisedError{fmt.Errorf("%w\nToo many files are open: raise the limit (ulimit -n 65536) and give the same command again, or have fewer calls at once.", err)}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &advisedError{fmt.Errorf("%w\nThe disk is full: make room on it first.", err)}
	case errors.Is(err, syscall.EROFS):
		return &advisedError{fmt.Errorf("%w\nThe disk cannot be written to: choose another folder with out=DIR, or make it writable first.", err)}
	}
	var changed *run.DatasetChanged
	switch {
	case !errors.As(err, &changed):
		return err
	case changed.Grew:
		return &advisedError{fmt.Errorf("%w\nRows were appended, and the others are as they were: --accept-changes runs those that are new. Or give back the dataset as it was; or --fresh starts over.", err)}
	}
	return &advisedError{fmt.Errorf("%w\nGive back the dataset as it was; or --fresh starts over. --accept-changes goes on behind the rows that were read: that is right where rows were added at the end alone. Rows put in before them are never run, and what is done stays as it is.", err)}
}
