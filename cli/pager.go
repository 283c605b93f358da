package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// pageFlags adds the flags of a command that prints pages to read.
func pageFlags(cmd *cobra.Command, plain, noPager *bool) {
	cmd.Flags().BoolVar(plain, "no-color", false, "no colours, in a terminal too (as NO_COLOR in the environment)")
	cmd.Flags().BoolVar(noPager, "no-pager", false, "no pager ($PAGER, or less), in a terminal too")
}

// paged has print write to a pager, where the output is a terminal and a person may be
// there, and else to the output. A pager that is left before the end ends the printing.
func paged(cmd *cobra.Command, never bool, print func(w io.Writer) error) error {
	out := cmd.OutOrStdout()
	program := pagerFor(terminalOf(out), never)
	if program == "" {
		return print(out)
	}
	p := &pager{program: program, out: out}
	err := print(p)
	if errors.Is(err, syscall.EPIPE) || p.left {
		err = nil
	}
	return errors.Join(err, p.close())
}

// pagerFor is the command line of the pager for a terminal; empty for none.
func pagerFor(t terminal, never bool) string {
	program, set := os.LookupEnv("PAGER")
	if !set {
		program = "less"
	}
	if never || !t.live() || os.Getenv("CI") != "" || len(strings.Fields(program)) == 0 || program == "cat" {
		return ""
	}
	return program
}

// pager is a pager that begins with the first write, so that Ctrl-C ends what is done
// before. Where it cannot be started, what is written goes to the output.
type pager struct {
	program string
	out     io.Writer
	cmd     *exec.Cmd
	in      io.WriteCloser
	ignored chan os.Signal // Ctrl-C, which is the pager's while it runs
	left    bool           // it has ended before all was written
}

func (p *pager) Write(b []byte) (int, error) {
	if p.cmd == nil {
		p.start()
	}
	if p.in == nil {
		return p.out.Write(b)
	}
	n, err := p.in.Write(b)
	p.left = p.left || errors.Is(err, syscall.EPIPE)
	return n, err
}

func (p *pager) start() {
	p.cmd = exec.Command("sh", "-c", "exec "+p.program)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = p.out, os.Stderr, os.Environ()
	if _, set := os.LookupEnv("LESS"); !set {
		p.cmd.Env = append(p.cmd.Env, "LESS=FRX") // leave what fits on the screen; keep colours
	}
	if _, err := exec.LookPath(strings.Fields(p.program)[0]); err != nil {
		return
	}
	in, err := p.cmd.StdinPipe()
	if err != nil || p.cmd.Start() != nil {
		return
	}
	p.in, p.ignored = in, make(chan os.Signal, 1)
	signal.Notify(p.ignored, os.Interrupt)
}

// close waits until the pager is left.
func (p *pager) close() error {
	if p.in == nil {
		return nil
	}
	defer signal.Stop(p.ignored)
	_ = p.in.Close() // it has gone where that fails
	err := p.cmd.Wait()
	if errors.As(err, new(*exec.ExitError)) {
		return nil // how it was left
	}
	return err
}
