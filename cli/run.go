package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/cluster/natsnet"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/internal/human"
	"matrix/internal/monitor"
	"matrix/internal/rundir"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
)

func newRunCmd(p Program) *cobra.Command {
	var out, metrics string
	var fresh, accept, up, multi bool
	var retry retryOptions
	var serve serveOptions
	var reuse []string
	var from, seat string
	var submit submitOptions
	once := func(cmd *cobra.Command, args []string, after *session.LeadLost) (err error) {
		j := job{Program: p, cmd: cmd, after: after}
		j.typed(args, out)
		overrides, err := fromOverrides(cmd, from)
		if err != nil {
			return err
		}
		if from != "" {
			j.words = append(j.words, "--from", shellWord(from))
		}
		if j.config, err = spec.Load(args[0], append(args[1:], overrides...)); err != nil {
			return err
		}
		j.words = append(j.words, serve.apply(cmd, &j.config.Run.Cluster)...)
		j.reuse(reuse)
		j.again = strings.Join(j.words, " ")
		if j.labels, err = serve.machine(&j.config.Run.Cluster); err != nil {
			return err
		}
		if submit.cluster != "" {
			return j.submit(submit, fresh, accept, retry)
		}
		if seat != "" {
			if err := j.sit(seat); err != nil {
				return err
			}
		}
		return j.monitored(metrics, func() error {
			return j.served(up, func() error { return j.do(out, fresh, accept, retry) })
		})
	}
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
'matrix attach' shows the run in another terminal, 'matrix stop' stops it from there.

Exit codes: 0 finished, 1 error, 2 usage or config, 4 stopped with tasks pending.`,
		Example: `  matrix run examples/coral
  matrix run examples/coral live=50 dataset.limit=100 -o runs/try
  matrix run examples/coral --fresh
  matrix run examples/coral --retry-failed
  matrix run examples/coral --retry-failed --where 'cause contains "timed out"'
  matrix run examples/coral --reuse runs/try     # what was asked there word for word is not paid again
  matrix run examples/coral --from runs/try:judge   # its tasks, from the judge on
  matrix run examples/coral -m rounds=2,4 seed=1,2,3   # six runs, in runs/coral-sweep/0 to 5, and a table of them
  matrix run examples/coral --serve :7070
  matrix run coral.yaml --cluster lab --weight 2 --priority urgent    # at a standing head: closing this terminal stops nothing
  matrix run coral.yaml -o /shared/coral --serve :7070 --peers a,b,c --store /var/lib/matrix    # on a, on b and on c`,
		Args: func(cmd *cobra.Command, args []string) error {
			args, _ = serve.split(args)
			return configArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			args, serve.address = serve.split(args)
			err := errors.Join(checkOut(cmd, out), retry.check(cmd, fresh), submit.check(cmd))
			if err != nil {
				return err
			}
			if multi {
				if cmd.Flags().Changed("peers") || cmd.Flags().Changed("nats") {
					return flagErrorf("--multirun runs one run after the other, and several heads are for one run: leave out --peers and --nats")
				}
				points, err := sweep(args, out)
				if err != nil {
					return err
				}
				return sweeps(cmd.OutOrStdout(), p.Err, points, func(x point) error {
					out = x.dir
					return once(cmd, x.args, nil)
				})
			}
			var lost *session.LeadLost
			defer func() { _ = lost.Leave() }() // of one that was not opened again
			for {
				if err := once(cmd, args, lost); !errors.As(err, &lost) {
					return err
				}
				fmt.Fprintln(p.Err, "Another head of the run leads now: what was under way here and had not been committed is done again there. Standing by.")
			}
		},
	}
	cmd.Flags().BoolVar(&up, "up", false, "start the servers of the models that have serve before the run, and end them after it")
	cmd.Flags().StringVarP(&out, "out", "o", "", "folder to write to (default runs/NAME)")
	cmd.Flags().BoolVarP(&multi, "multirun", "m", false, "a sweep: a run for each combination of overrides with several values, as temperature=0.2,0.7, one after the other")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "delete what the folder's run has made, and start over")
	retry.flags(cmd)
	serve.flags(cmd)
	submit.flags(cmd)
	cmd.Flags().StringVar(&seat, "seat", "", "of the process of a run that a standing head begins")
	_ = cmd.Flags().MarkHidden("seat")
	reuseFlag(cmd, &reuse)
	fromFlag(cmd, &from)
	metricsFlag(cmd, &metrics)
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
	config  *spec.Config
	labels  map[string]string // of this machine; nil for those that it has without being told
	seat    *natsnet.Seat     // at a standing head, which has begun this process; nil of any other
	after   *session.LeadLost // as which this process has been a head before
	session *session.Session
	display display
	monitor *monitor.Server
	landing chan string     // why nothing more can be paid
	asked   chan bool       // to stop, by another process; true: now
	down    <-chan struct{} // closed where no server that --up started is left
	spoken  chan string     // by agents, on stderr
	printed bytes.Buffer    // at the end, for who is attached
	shown   atomic.Bool     // the display is on: whoever has something to say gives it to spoken
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

// do runs the config.
func (j *job) do(out string, fresh, accept bool, retry retryOptions) (err error) {
	j.spoken, j.landing, j.asked = make(chan string, 1000), make(chan string, 1), make(chan bool, 1)
	speak := func(line string) {
		select {
		case j.spoken <- line:
		default: // faster than anybody can read
		}
	}
	j.display = newDisplay(j.config.Run.Display, j.Err, j.every)
	s, err := j.open(session.Options{
		Dir: out, Fresh: fresh, Accept: accept, Retry: retry.begin, Where: retry.where,
		Stdin: j.In, Warn: func(err error) { warn(j.Err, err) },
		Log: speak, Tell: speak, Version: j.version(), Labels: j.labels,
		OnSpent: func(why string) { j.landing <- why },
		Stand:   func(line string) { j.say(clean(line)) }, OnStop: j.ask, After: j.after, Seat: j.seat,
	})
	if ended := (*session.RunEnded)(nil); errors.As(err, &ended) {
		return j.endedElsewhere(ended, out)
	}
	if err != nil {
		return err
	}
	defer func() { err = closed(err, s.Close()) }()
	j.session = s
	j.publish()
	defer func() {
		code, says := exitOf(j.cmd, err)
		s.Last(code, says)
		j.tellEnd(code, says)
	}()
	p := s.Progress()
	switch {
	case p.Finished:
		return j.wasFinished(s.Run(j.cmd.Context()))
	case s.Spent() != "":
		if retry.begin {
			j.words = append(j.words, "--retry-failed")
		}
		return j.exitError(s.Run(j.cmd.Context()))
	case s.Folder.Again:
		j.say(fmt.Sprintf("Going on with %s: %s so far.", s.Folder.Path, strings.Join(ended(p.Totals), ", ")))
		if p.Tail > 0 {
			j.say(human.Plural(p.Tail, "finished task") + " that had been written and not committed, as a kill or a full disk leaves them: written again.")
		}
	default:
		j.say(fmt.Sprintf("Running %s in %s", oneLine(j.config.Run.Name), s.Folder.Path))
	}
	for _, x := range s.Older() {
		j.say(fmt.Sprintf("Done with another prompt of %s than it has now: %s. To see them: %s show %s --where 'turn(%q).call.prompt == %q'",
			x.Role, human.Plural(x.Tasks, "task"), self(), shellWord(s.Folder.Path), x.Role, x.Prompt))
	}
	for _, r := range s.Reusing() {
		j.say(fmt.Sprintf("Reusing %s: %s that need not be paid again where the same is asked.", r.Run, replies(r.Replies)))
	}
	if file := s.JoinFile(); file != "" && j.seat == nil {
		j.say(fmt.Sprintf("Workers join at %s: %s worker --join %s", strings.Join(s.Addresses(), ", "), self(), shellWord(file)))
	}
	return j.ended(j.watch())
}

// open opens the session. Of a run that has several heads it may stand by for long, until
// a person ends that.
func (j *job) open(o session.Options) (*session.Session, error) {
	ctx := j.cmd.Context()
	if !j.config.Run.Cluster.Heads() {
		return session.Open(ctx, j.Registry, j.config, o)
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	interrupts := j.interrupts
	if interrupts == nil {
		interrupts = make(chan os.Signal, 1)
		signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(interrupts)
	}
	go func() {
		select {
		case <-interrupts:
			leave()
		case <-ctx.Done():
		}
	}()
	s, err := session.Open(ctx, j.Registry, j.config, o)
	if err != nil && ctx.Err() != nil && j.cmd.Context().Err() == nil {
		return nil, &stoppedError{fmt.Sprintf("Stopped standing by; the run goes on where another head leads it. The same command stands by again:\n  %s", j.again)}
	}
	return s, err
}

// endedElsewhere is what this command comes to where another head has led the run to its end.
func (j *job) endedElsewhere(e *session.RunEnded, out string) error {
	if e.Code != exitOK {
		return &endedError{e.Code, e.Says}
	}
	dir := out
	if dir == "" {
		var err error
		if dir, err = rundir.For(j.config); err != nil {
			return err
		}
	}
	return notRunning(j.cmd, dir)
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
	over := make(chan error, 1)
	go func() { over <- j.session.Run(ctx) }()

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
	j.session.Snapshot() // rates count from here
	stopping, landing, first := "", "", time.Time{}
	var deaf <-chan time.Time // after the second signal
	stop := func(all bool) {
		first = time.Now()
		text := fmt.Sprintf("Stopping; nothing is lost. Steps under way may take up to %s more", j.config.Run.Grace)
		stopping = text + ", Ctrl-C again stops now."
		j.monitor.Stopping(text + ".")
		if all {
			j.session.StopAll()
		} else {
			j.session.Stop()
		}
	}
	stopNow := func() {
		stopping = "Stopping now."
		j.monitor.Stopping(stopping)
		cancel()
		deaf = time.After(deafFor)
		signal.Stop(interrupts)
		signal.Reset(syscall.SIGINT, syscall.SIGTERM) // a third one kills
	}
	tell := func() {
		if _, live := j.display.(*liveDisplay); live {
			j.display.show(j.session.Snapshot(), stopping)
		} else {
			j.display.say(stopping)
		}
	}
	waits := false
	tellWait := func() {
		if inbox := j.session.Waiting(); inbox != "" && !waits && stopping == "" {
			waits = true
			j.say(fmt.Sprintf("Waiting for rows in %s; 'touch %s' ends the run.", inbox, shellWord(inbox+dataset.EndSuffix)))
		}
	}
	down := j.down
	for {
		select {
		case <-deaf: // a step that computes hears nothing; what it was at stays pending, as after a kill
			j.display.end(j.session.Snapshot())
			const text = "Stopped while a step was computing; the same command goes on."
			j.display.say(text)
			j.tellEnd(exitStopped, text)
			os.Exit(exitStopped)
		case err := <-over:
			j.display.end(j.session.Snapshot())
			return err
		case <-frames.C:
			tellWait()
			j.display.show(j.session.Snapshot(), cmp.Or(stopping, landing))
		case <-changes:
			tellWait()
			plain.printChanges(j.session.Snapshot())
		case line := <-j.spoken:
			j.say(clean(line))
		case why := <-j.landing:
			text := "Stopping: " + why + ". Calls under way land first"
			landing = text + "; Ctrl-C shortens that."
			j.monitor.Stopping(text + ".")
			if _, live := j.display.(*liveDisplay); !live {
				j.display.say(landing)
			}
		case <-down: // as Ctrl-C
			if down = nil; stopping == "" {
				stop(false)
				tell()
			}
		case now := <-j.asked:
			if stopping == "" {
				stop(true)
			}
			if now {
				stopNow()
			}
			tell()
		case <-interrupts:
			switch {
			case stopping == "":
				stop(false) // another head goes on
			case j.interrupts == nil && time.Since(first) <= oneKey:
				continue
			default:
				stopNow()
			}
			tell()
		}
	}
}

// wasFinished answers a run that had nothing left to do.
func (j *job) wasFinished(fault error) error {
	if fault != nil {
		return j.exitError(fault)
	}
	if j.config.Run.Display == "none" {
		return nil
	}
	w, p, dir := j.cmd.OutOrStdout(), j.session.Progress(), j.session.Folder.Path
	more := ""
	if p.Retryable() > 0 {
		more = " --retry-failed tries the failed tasks again;"
	}
	if g, grows := j.session.Plan.Source.(matrix.Grower); grows {
		if n, err := g.Count(j.cmd.Context()); err == nil && n < 0 {
			more += " --accept-changes waits for more rows;"
		}
	}
	fmt.Fprintf(w, "%s is finished: %s.%s --fresh starts over.\n", dir, strings.Join(ended(p.Totals), ", "), more)
	exportedLine(w, j.session)
	next(w, dir, p, j.again)
	return nil
}

// ended reports how the run went, and returns what the command exits with.
func (j *job) ended(fault error) error {
	if errors.As(fault, new(*session.LeadLost)) { // how far the run is others know
		return fault
	}
	v := j.session.Snapshot()
	if j.config.Run.Display != "none" {
		j.report(j.cmd.OutOrStdout(), v, fault)
	}
	j.report(&j.printed, v, fault)
	return j.exitError(fault)
}

// report prints how the run went.
func (j *job) report(w io.Writer, v *session.Snapshot, fault error) {
	table(w, v.Progress)
	retried(w, v.Retried)
	if s := spentLine(v.Spending); s != "" {
		fmt.Fprintf(w, "\n%s\n", s)
	}
	exportedLine(w, j.session)
	for i := range v.Roles {
		if r := &v.Roles[i]; r.Unserved && r.Waiting > 0 {
			fmt.Fprintf(w, "\n%s\n", unservedLine(r))
		}
	}
	var many *run.TooManyFailed
	if fault == nil || errors.As(fault, new(*run.GoalMissed)) {
		next(w, j.session.Folder.Path, v.Progress, j.again)
	} else if errors.As(fault, &many) && many.Ended { // the message says how to go on
		next(w, j.session.Folder.Path, v.Progress, "")
	}
}

// exitError is fault with how to go on: what the command exits with.
func (j *job) exitError(fault error) error {
	pending := j.pending()
	goesOn := fmt.Sprintf("%s; the same command goes on:\n  %s", pending, j.again)
	var many *run.TooManyFailed
	var spent *session.OutOfBudget
	var unmade *session.ExportError
	var missed *run.GoalMissed
	errors.As(fault, &many)
	switch {
	case fault == nil:
		return nil
	case errors.Is(fault, rundir.ErrRemoved):
		return fmt.Errorf("%w\nThe same command begins the run anew:\n  %s", fault, j.again)
	case errors.As(fault, new(*rundir.DamagedError)): // what is pending is not known, and the same command does not go on
		return advised(fault)
	case errors.As(fault, &missed):
		advice := fmt.Sprintf("Rows that are appended to the dataset go on:\n  %s --accept-changes", j.again)
		if missed.Again {
			advice = "A larger until.most goes on:\n  " + j.with(fmt.Sprintf("until.most=%d", 2*j.config.Run.Until.Most))
		}
		return &stoppedError{fmt.Sprintf("The goal was missed. %v.\n%s", missed, advice)}
	case errors.As(fault, &spent) && j.session.Progress().Goal > 0:
		p := j.session.Progress()
		return &stoppedError{fmt.Sprintf("Stopped before the goal: %s. Kept are %s of %s; a larger budget goes on:\n  %s", spent.Why, human.Commas(p.Done), human.Commas(p.Goal), j.with(spent.Raise))}
	case errors.As(fault, &spent):
		return &stoppedError{fmt.Sprintf("Stopped: %s.\n%s; a larger budget goes on:\n  %s", spent.Why, pending, j.with(spent.Raise))}
	case errors.As(fault, new(*session.LeadLost)):
		return fault
	case errors.Is(fault, run.ErrStopped) && len(j.session.GoesOn()) > 0:
		return &stoppedError{fmt.Sprintf("Stopped. The run goes on at %s, which stood by; the same command stands by here:\n  %s\n'matrix stop %s' stops all heads.",
			strings.Join(j.session.GoesOn(), " or "), j.again, shellWord(j.session.Folder.Path))}
	case errors.Is(fault, run.ErrStopped):
		return &stoppedError{"Stopped. " + goesOn}
	case errors.As(fault, &unmade):
		return fmt.Errorf("%w\n  %s", advised(fault), j.again)
	case many != nil && many.Fault == matrix.FaultRow:
		rest := ""
		if !many.Ended {
			rest = fmt.Sprintf("Stopped, so that no more rows are lost to it; max_failed=none goes on regardless. %s.\n", pending)
		}
		return fmt.Errorf("%w\n%sFix the dataset, then this starts over with it. Or append the fixed rows to it: --accept-changes in the place of --fresh runs those that are new.\n  %s --fresh",
			fault, rest, j.again)
	case many != nil && many.Ended:
		return fmt.Errorf("%w\nFix it, then this tries the failed ones again (with --accept-changes where the config is another one now; max_failed=none for exit code 0):\n  %s --retry-failed",
			fault, j.again)
	case many != nil:
		return fmt.Errorf("%w\nStopped, so that no more rows are lost to it; max_failed=none goes on regardless. %s.\n"+
			"Fix it, then this goes on and tries the failed ones again (with --accept-changes where the config is another one now):\n  %s --retry-failed",
			fault, pending, j.again)
	case j.session.Waiting() != "": // for what the fault has taken away
		return fmt.Errorf("%w\n%s; once that is put right, the same command goes on:\n  %s", advised(fault), pending, j.again)
	}
	return fmt.Errorf("%w\n%s", advised(fault), goesOn)
}

// with is the command to type again with an override in the place of the one that
// it has of the same key.
func (j *job) with(override string) string {
	if override == "" {
		return j.again
	}
	key, _, _ := strings.Cut(override, "=")
	words := slices.DeleteFunc(slices.Clone(j.words), func(w string) bool { return strings.HasPrefix(strings.TrimLeft(w, "+"), key+"=") })
	return strings.Join(append(words, override), " ")
}

// pending says what is left to be done.
func (j *job) pending() string {
	p, inbox := j.session.Progress(), j.session.Waiting()
	switch {
	case inbox != "":
		return "It was waiting for rows in " + inbox
	case p.Pending >= 0:
		return human.Plural(p.Pending, "task") + human.Is(p.Pending) + " pending"
	case p.Live > 0:
		return "Tasks are pending"
	}
	return "Tasks may be pending"
}
