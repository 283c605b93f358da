// Command drive does what `matrix run` does, with a display and a rule of its own: it
// runs a config, says every second how far it is and at once which tasks fail, lets no
// agent give away an e-mail address, stops on Ctrl-C, and reads and proves what came of
// it. Run it again, and it goes on.
//
//	go run ./examples/library/drive examples/coral runs/coral
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"regexp"
	"time"

	"matrix"
	"matrix/registry"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
)

// drive runs a config in dir until it is finished, or stop ends.
func drive(stop context.Context, config, dir string, out io.Writer) (err error) {
	c, err := spec.Load(config, nil)
	if err != nil {
		return err
	}
	say := log.New(out, "", 0) // for several goroutines at a time
	s, err := session.Open(context.Background(), registry.New(), c, session.Options{
		Dir:        dir,
		Middleware: []run.Middleware{guard},
		On: func(e run.Event) {
			if e.Fate.Status == matrix.Failed {
				say.Printf("%s failed: %s", e.Task, e.Why)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	context.AfterFunc(stop, s.Stop) // calls under way may land
	over := make(chan error, 1)
	go func() { over <- s.Run(context.Background()) }()
	for {
		select {
		case <-time.After(time.Second):
		case err := <-over:
			show(say, s.Snapshot())
			return err
		}
		show(say, s.Snapshot())
	}
}

func show(say *log.Logger, v *session.Snapshot) {
	say.Printf("%s: %d done, %d failed, %d pending, %.1f a second", v.Name, v.Done, v.Failed, v.Pending, v.Rate)
}

var address = regexp.MustCompile(`\b[\w.+-]+@[\w-]+\.[\w.]+`)

// guard stands around the agents: a task in which one gives away an e-mail address
// fails, with what was said.
func guard(_ string, next matrix.Agent) matrix.Agent {
	return matrix.AgentFunc(func(ctx context.Context, t *matrix.Task) (matrix.Turn, error) {
		turn, err := next.Act(ctx, t)
		if err == nil && address.MatchString(turn.Text) {
			err = &matrix.FailError{Err: errors.New("the text has an e-mail address in it")}
		}
		return turn, err
	})
}

// read prints the rows that the run in dir has finished, and proves that none is
// lost and none doubled.
func read(ctx context.Context, dir string, out io.Writer) error {
	d, err := session.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for r, err := range d.Tasks(ctx, matrix.Done) {
		if err != nil {
			return err
		}
		said := ""
		if last := r.Task.Last(); last != nil {
			if said = last.Text; said == "" { // an agent that computes leaves data alone
				said = last.Data.String()
			}
		}
		fmt.Fprintf(out, "%s: %s\n", r.Task.ID, said)
	}
	audit, err := session.Verify(ctx, d)
	if err == nil && !audit.OK {
		err = fmt.Errorf("%d faults: %q", audit.Faults, audit.Culprits)
	}
	return err
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: drive CONFIG DIR")
	}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := drive(stop, os.Args[1], os.Args[2], os.Stderr); err != nil {
		log.Fatal(err)
	}
	if err := read(context.Background(), os.Args[2], os.Stdout); err != nil {
		log.Fatal(err)
	}
}
