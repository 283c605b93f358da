package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"matrix/internal/standing"
	"matrix/session"
	"matrix/spec"
)

func newHeadCmd(p Program) *cobra.Command {
	var serve, dir string
	var advertise []string
	cmd := &cobra.Command{
		Use:   "head [--serve ADDR] [--dir DIR]",
		Short: "Stand for several runs, which clients submit and workers share",
		Long: `Head serves runs that 'matrix run CONFIG --cluster NAME' submits from this machine or
others. Each is a process of its own, in DIR/NAME, so that none can harm another;
workers join the head once, and act for all runs. The line by which they join stands
in DIR/join, that of clients in DIR/clients ('matrix cluster connect'). Both are
secret: who has one may have commands run here or at workers.

Ctrl-C ends the head and no run: they wait for it. Killed or ended, the same command
has the same address and lines, and begins again what was killed meanwhile.`,
		Example: `  matrix head                    # for this machine alone, in runs/
  matrix head --serve :7070 --dir /data/runs`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, port, err := session.ServeAddress(serve)
			if err != nil {
				return flagErrorf("--serve: %v", err)
			}
			return p.head(standing.Options{Dir: dir, Host: host, Port: port, Advertise: advertise, Version: p.version()})
		},
	}
	f := cmd.Flags()
	f.StringVar(&serve, "serve", anyPort, "where workers and clients connect: HOST:PORT, :PORT for all addresses of this machine, or PORT for itself alone; 0 is a free one, which the head keeps")
	f.StringVar(&dir, "dir", "runs", "the folder of the runs")
	f.StringSliceVar(&advertise, "advertise", nil, "HOST or HOST:PORT under which it is reached, where that is not what this machine finds itself")
	_ = cobra.MarkFlagDirname(f, "dir")
	return cmd
}

// head stands until a person ends it.
func (p Program) head(o standing.Options) error {
	signal.Ignore(syscall.SIGPIPE) // who read what it says may be gone
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	o.Program = []string{exe}
	o.Tell = func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(p.Err, clean(line))
	}
	interrupts := p.interrupts
	if interrupts == nil {
		interrupts = make(chan os.Signal, 1)
		signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(interrupts)
	}
	h, err := standing.Open(o)
	switch {
	case errors.As(err, new(*net.OpError)):
		return spec.Usagef("--serve: %w", err)
	case errors.As(err, new(*standing.LockedError)):
		return &spec.UsageError{Err: err}
	case err != nil:
		return err
	}
	defer h.Close()
	o.Tell(fmt.Sprintf("Runs in %s, at %s.", o.Dir, strings.Join(h.Addresses(), ", ")))
	o.Tell(fmt.Sprintf("Workers join: %s worker --join %s", self(), shellWord(filepath.Join(o.Dir, standing.JoinFile))))
	o.Tell(fmt.Sprintf("Clients: %s cluster connect NAME %s", self(), shellWord(filepath.Join(o.Dir, standing.ClientsFile))))
	<-interrupts
	if names := h.Active(); len(names) > 0 {
		o.Tell(fmt.Sprintf("Ended. These runs wait for a head, which the same command begins: %s.", strings.Join(names, ", ")))
	}
	return nil
}
