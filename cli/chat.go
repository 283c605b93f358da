package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"matrix/llm"
	"matrix/registry"
	"matrix/spec"
)

func newChatCmd(p Program) *cobra.Command {
	var name, system string
	var tokens int
	var temperature float64
	cmd := &cobra.Command{
		Use:   "chat MODEL",
		Short: "Talk to a model from the terminal",
		Long: `Chat talks to a model, and shows its replies as they come.

` + modelHelp + `

In a terminal each line is a message. /system TEXT sets the system message,
/reset begins anew, /exit or Ctrl-D leaves, Ctrl-C ends a reply. Elsewhere all of
the input is one message, and the reply is all of the output.`,
		Example: `  matrix chat http://127.0.0.1:8000/v1
  matrix chat examples/coral/own_model.yaml --model teacher
  echo "Name three corals." | matrix chat sim:8b`,
		Args: argsBetween(1, 1, "a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkSampling(cmd.Flags().Changed("max-tokens"), tokens, temperature); err != nil {
				return err
			}
			tree, section, err := p.Registry.FindModel(args[0], name)
			if err != nil {
				return err
			}
			m, err := p.Registry.OpenModel(tree, strings.TrimPrefix(section.Path(), "models."), section)
			if err != nil {
				return spec.Wrong(args[0], err)
			}
			t := &chatSession{model: m, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), color: colorFor(cmd.ErrOrStderr(), false)}
			t.live = terminalOf(t.out).live()
			t.sampling = llm.Sampling{MaxTokens: tokens, N: 1}
			if cmd.Flags().Changed("temperature") {
				t.sampling.Temperature = &temperature
			}
			if err := t.sampling.Check(); err != nil {
				return &spec.UsageError{Err: errors.Join(err, m.Close())}
			}
			t.system(system)
			if registry.IsURL(args[0]) {
				if note := unnamed(cmd.Context(), section, m); note != "" {
					fmt.Fprintln(t.err, t.color.dim(note))
				}
			}
			return errors.Join(t.run(cmd.Context(), p.In), m.Close())
		},
	}
	cmd.Flags().StringVar(&name, "model", "", "which model: a name in the config, or at the server")
	cmd.Flags().StringVar(&system, "system", "", "system message")
	cmd.Flags().IntVar(&tokens, "max-tokens", 0, "most tokens of a reply (default: the service's)")
	cmd.Flags().Float64Var(&temperature, "temperature", 0, "sampling temperature (default: the service's)")
	return cmd
}

// chatSession is a conversation with a model.
type chatSession struct {
	model    llm.Model
	sampling llm.Sampling
	messages []llm.Message
	first    int // messages that /reset leaves
	out, err io.Writer
	color    color // of err
	once     bool  // nobody is there to wait for a service that is out
	live     bool  // out is a terminal: replies are shown as they come, without control characters
}

// system begins anew with a system message; empty for none.
func (t *chatSession) system(text string) {
	t.messages = nil
	if text != "" {
		t.messages = []llm.Message{{Role: "system", Content: text}}
	}
	t.first = len(t.messages)
}

// run talks until the input ends.
func (t *chatSession) run(ctx context.Context, in io.Reader) error {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return t.lines(ctx, in)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(text)) == "" {
		return &spec.UsageError{Err: errors.New("there is nothing to say: the input is empty")}
	}
	t.once = true
	note, err := t.say(ctx, string(text))
	if err == nil {
		fmt.Fprintln(t.err, t.color.dim(note))
	}
	return err
}

// lines talks in a terminal.
func (t *chatSession) lines(ctx context.Context, in io.Reader) error {
	fmt.Fprintln(t.err, t.color.dim("/system TEXT, /reset, /exit; Ctrl-C ends a reply"))
	input := bufio.NewScanner(in)
	input.Buffer(nil, 1<<20)
	for {
		fmt.Fprint(t.err, "> ")
		if !input.Scan() {
			fmt.Fprintln(t.err)
			return input.Err()
		}
		line := strings.TrimSpace(input.Text())
		command, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			continue
		case command == "/exit", command == "/quit":
			return nil
		case command == "/reset":
			t.messages = t.messages[:t.first]
			continue
		case command == "/system":
			t.system(strings.TrimSpace(rest))
			continue
		case aCommand.MatchString(line):
			fmt.Fprintf(t.err, "there is no %s; /system TEXT, /reset, /exit\n", line)
			continue
		}
		switch note, err := t.say(ctx, line); {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, context.Canceled):
			fmt.Fprintln(t.err, t.color.dim("ended; the message is forgotten"))
		case err != nil:
			fmt.Fprintln(t.err, clean(err.Error()))
		default:
			fmt.Fprintln(t.err, t.color.dim(note))
		}
	}
}

var aCommand = regexp.MustCompile(`^/[a-z]+$`)

// say sends a message and prints the reply: in a terminal as it comes. note says
// what it took. A message that brought no reply is forgotten.
func (t *chatSession) say(ctx context.Context, text string) (note string, err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	before := len(t.messages)
	t.messages = append(t.messages, llm.Message{Role: "user", Content: strings.TrimSpace(text)})
	start := time.Now()
	stopWaiting := t.waiting(ctx, giveUp)
	defer stopWaiting()
	var shown strings.Builder
	r := &llm.Request{Messages: t.messages, Sampling: t.sampling, Ask: llm.Ask{Role: "chat"}, Session: "chat"}
	if t.live {
		thinking := false
		r.OnDelta = func(d llm.Delta) bool {
			if d.Choice != 0 {
				return true
			}
			stopWaiting()
			if d.Reasoning != "" {
				thinking = true
				fmt.Fprint(t.err, t.color.dim(clean(d.Reasoning)))
			}
			if d.Text == "" {
				return true
			}
			if thinking {
				thinking = false
				fmt.Fprint(t.err, "\n\n")
			}
			shown.WriteString(d.Text)
			fmt.Fprint(t.out, clean(d.Text))
			return true
		}
	}
	reply, err := t.model.Do(ctx, r)
	stopWaiting()
	if err != nil {
		t.messages = t.messages[:before]
		if shown.Len() > 0 {
			fmt.Fprintln(t.out)
		}
		if out := (*outError)(nil); errors.As(context.Cause(ctx), &out) {
			err = out
		}
		return "", err
	}
	c := reply.Choices[0]
	if strings.TrimSpace(c.Text) == "" && len(c.ToolCalls) > 0 {
		t.messages = t.messages[:before]
		return "", fmt.Errorf("the model calls the tool %s, and says nothing: it was given no tools, and chat has none", oneLine(c.ToolCalls[0].Name))
	}
	switch {
	case !t.live:
		fmt.Fprintln(t.out, c.Text)
	case shown.Len() == 0:
		fmt.Fprintln(t.out, clean(c.Text))
	case shown.String() != c.Text: // a try was cut off and made again
		fmt.Fprintf(t.out, "\n\n%s\n", clean(c.Text))
	default:
		fmt.Fprintln(t.out)
	}
	t.messages = append(t.messages, llm.Message{Role: "assistant", Content: c.Text})
	return remark(reply, time.Since(start)), nil
}

// remark says in a line what a reply took.
func remark(reply *llm.Reply, took time.Duration) string {
	s := fmt.Sprintf("%s · %d + %d tokens · %.1f s", oneLine(shortName(reply.Model)), reply.Usage.PromptTokens, reply.Usage.CompletionTokens, took.Seconds())
	if reply.First > 0 {
		s += fmt.Sprintf(" · first after %.2f s", reply.First.Seconds())
		if rest := reply.Took - reply.First; rest > 0 && reply.Usage.CompletionTokens > 1 {
			s += fmt.Sprintf(" · %.0f tokens/s", float64(reply.Usage.CompletionTokens-1)/rest.Seconds())
		}
	}
	if end := reply.Choices[0].Finish; end != "" && end != "stop" {
		s += " · ended by " + oneLine(end)
	}
	return s
}

// outPatience is how long a message that nobody types waits for a service that
// is out.
const outPatience = 20 * time.Second

// outError says that the service was out for outPatience, and why.
type outError struct{ why string }

func (e *outError) Error() string {
	return fmt.Sprintf("no answer for %.0f s: %s", outPatience.Seconds(), oneLine(e.why))
}

// waiting says why nothing comes, where the model is paused for more than a
// moment, and gives up where nobody is there to wait. It stops when the function
// that it returns is called.
func (t *chatSession) waiting(ctx context.Context, giveUp context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(over)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		said, well := false, began
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			stats := t.model.Stats()
			why := stats.Paused
			switch {
			case why == nil && time.Since(began) > outPatience/2: // before, it may have failed and not be known to be out
				well = time.Now()
			case (why != nil || stats.Note != nil) && !said:
				said = true
				fmt.Fprintln(t.err, t.color.dim("waiting: "+clean(cmp.Or(why, stats.Note).String())))
			}
			if t.once && why != nil && time.Since(well) >= outPatience {
				giveUp(&outError{why.Msg})
				return
			}
		}
	}()
	return func() { cancel(); <-over }
}
