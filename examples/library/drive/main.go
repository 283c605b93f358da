// Command drive does what `matrix run` does, with a display of its own: it runs a
// config, says every second how far it is, stops on Ctrl-C, and reads and proves
// what came of it. Run it again, and it goes on.
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
	"time"

	"matrix"
	"matrix/registry"
	"matrix/session"
	"matrix/spec"
)

// drive runs a config in dir until it is finished, or stop ends.
func drive(stop context.Context, config, dir string, out io.Writer) (err error) {
	c, err := spec.Load(config, nil)
	if err != nil {
		return err
	}
	s, err := session.Open(context.Background(), registry.New(), c, session.Options{Dir: dir})
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
			show(out, s.Snapshot())
			return err
		}
		show(out, s.Snapshot())
	}
}

func show(out io.Writer, v *session.Snapshot) {
	fmt.Fprintf(out, "%s: %d done, %d failed, %d owed, %.1f a second\n", v.Name, v.Done, v.Failed, v.Owed, v.Rate)
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
		fmt.Fprintf(out, "%s: %s\n", r.Task.ID, r.Task.Last().Text)
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
