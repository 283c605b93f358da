package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"matrix/llm"
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
			tree, section, err := p.oneModel(args[0], name)
			if err != nil {
				return err
			}
			m, err := p.Registry.OpenModel(tree, "model", section)
			if err != nil {
				return configError(args[0], err)
			}
			t := &talk{model: m, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), ink: inkFor(cmd.ErrOrStderr(), false)}
			t.sampling.MaxTokens = tokens
			if cmd.Flags().Changed("temperature") {
				t.sampling.Temperature = &temperature
			}
			if err := t.sampling.Check(); err != nil {
				return &usageError{errors.Join(err, m.Close())}
			}
			t.system(system)
			return errors.Join(t.run(cmd.Context(), p.In), m.Close())
		},
	}
	cmd.Flags().StringVar(&name, "model", "", "which model: a name in the config, or at the server")
	cmd.Flags().StringVar(&system, "system", "", "system message")
	cmd.Flags().IntVar(&tokens, "max-tokens", 0, "most tokens of a reply (default: the service's)")
	cmd.Flags().Float64Var(&temperature, "temperature", 0, "sampling temperature (default: the service's)")
	return cmd
}

// talk is a conversation with a model.
type talk struct {
	model    llm.Model
	sampling llm.Sampling
	messages []llm.Message
	out, err io.Writer
	ink      ink // of err
}

// system begins anew with a system message; empty for none.
func (t *talk) system(text string) {
	t.messages = nil
	if text != "" {
		t.messages = []llm.Message{{Role: "system", Content: text}}
	}
}

// run talks until the input ends.
func (t *talk) run(ctx context.Context, in io.Reader) error {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return t.lines(ctx, in)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(text)) == "" {
		return &usageError{errors.New("there is nothing to say: the input is empty")}
	}
	_, err = t.say(ctx, string(text))
	return err
}

// lines talks in a terminal.
func (t *talk) lines(ctx context.Context, in io.Reader) error {
	fmt.Fprintln(t.err, t.ink.dim("/system TEXT, /reset, /exit; Ctrl-C ends a reply"))
	first := len(t.messages)
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
		switch command {
		case "":
			continue
		case "/exit", "/quit":
			return nil
		case "/reset":
			t.messages = t.messages[:first]
			continue
		case "/system":
			t.system(strings.TrimSpace(rest))
			first = len(t.messages)
			continue
		}
		note, err := t.say(ctx, line)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			fmt.Fprintln(t.err, err)
			continue
		}
		fmt.Fprintln(t.err, t.ink.dim(note))
	}
}

// say sends a message and prints the reply as it comes. note says what it took.
// A message that brought no reply is forgotten.
func (t *talk) say(ctx context.Context, text string) (note string, err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	before := len(t.messages)
	t.messages = append(t.messages, llm.Message{Role: "user", Content: strings.TrimSpace(text)})
	start := time.Now()
	shown, thinking := 0, false
	stopWaiting := t.waiting(ctx)
	defer stopWaiting()
	reply, err := t.model.Do(ctx, &llm.Request{Messages: t.messages, Sampling: t.sampling, Ask: llm.Ask{Role: "chat"}, Session: "chat",
		OnDelta: func(d llm.Delta) bool {
			stopWaiting()
			if d.Reasoning != "" {
				thinking = true
				fmt.Fprint(t.err, t.ink.dim(clean(d.Reasoning)))
			}
			if d.Text != "" && thinking {
				thinking = false
				fmt.Fprint(t.err, "\n\n")
			}
			shown += len(d.Text)
			fmt.Fprint(t.out, t.safe(d.Text))
			return true
		}})
	stopWaiting()
	if err != nil {
		t.messages = t.messages[:before]
		if shown > 0 {
			fmt.Fprintln(t.out)
		}
		return "", err
	}
	c := reply.Choices[0]
	if shown == 0 {
		fmt.Fprint(t.out, t.safe(c.Text))
	}
	fmt.Fprintln(t.out)
	t.messages = append(t.messages, llm.Message{Role: "assistant", Content: c.Text})
	took := time.Since(start)
	note = fmt.Sprintf("%s · %d + %d tokens · %.1f s", clean(reply.Model), reply.Usage.PromptTokens, reply.Usage.CompletionTokens, took.Seconds())
	if reply.First > 0 {
		note += fmt.Sprintf(" · first after %.2f s", reply.First.Seconds())
		if rest := reply.Took - reply.First; rest > 0 && reply.Usage.CompletionTokens > 1 {
			note += fmt.Sprintf(" · %.0f tokens/s", float64(reply.Usage.CompletionTokens-1)/rest.Seconds())
		}
	}
	if c.Finish != "" && c.Finish != "stop" {
		note += " · ended by " + clean(c.Finish)
	}
	return note, nil
}

// safe makes text fit for where it goes: a terminal gets no control characters.
func (t *talk) safe(text string) string {
	if terminalOf(t.out).live() {
		return clean(text)
	}
	return text
}

// waiting says why nothing comes, where the model is paused for more than a
// moment. It stops when the function that it returns is called.
func (t *talk) waiting(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if why := t.model.Stats().Paused; why != "" {
					fmt.Fprintln(t.err, t.ink.dim("waiting: "+clean(why)))
				}
			}
		}
	}()
	return func() { cancel(); <-over }
}
