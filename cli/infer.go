package cli

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"matrix/internal/config"
	"matrix/internal/infer"
	"matrix/registry"
	"matrix/spec"
)

// inference is what `matrix infer` is asked for.
type inference struct {
	infer.Options
	out, name     string
	metrics       string
	temperature   float64
	bounded       bool // max-tokens is given
	rewrite       bool
	fresh, accept bool
	retry         retryOptions
}

func newInferCmd(p Program) *cobra.Command {
	x := inference{Options: infer.Options{Name: "matrix infer"}}
	cmd := &cobra.Command{
		Use:   "infer MODEL INPUT... [key=value ...]",
		Short: "Batch inference: send each row of a dataset to a model",
		Long: `Infer sends each row of a dataset to a model and writes the replies, with no config
to write. It is a run like any other: durable, resumed by the same command,
watched, verified, within a budget.

` + modelHelp + `

INPUT is any dataset: .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet, globs. What is
sent of a row is the first of these that is there; the first row decides:

  --prompt T      a template of the user message: "{{ item.question }}"
  --complete T    a template of a text to be continued, for base models
  --field F       a field that holds messages or the text of the user message
  body            where rows are lines of an OpenAI batch file: the whole request
  messages        a list of messages (or conversations, as ShareGPT has it)
  prompt          the text of the user message

Messages that end with the assistant's have their reply already: --rewrite leaves
it out and asks for it anew, --rewrite=false sends them as they are. Without
either it is an error where the first row ends so, and later rows fail alone.

Overrides set any other key of the config that this makes, whose model is called
model and whose role is reply: budget.usd=5, live=4000, models.model.rpm=500.`,
		Example: `  matrix infer http://127.0.0.1:8000/v1 questions.jsonl -o runs/answers --prompt "{{ item.question }}"
  matrix infer own_model.yaml --model teacher chats.jsonl -o runs/replies -n 4 --temperature 1
  matrix infer anthropic:claude-sonnet-4-5 batch.jsonl -o runs/batch budget.usd=20`,
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			if x.bounded = given("max-tokens"); given("temperature") {
				x.Temperature = &x.temperature
			}
			if given("rewrite") {
				x.Rewrite = &x.rewrite
			}
			return x.run(p, cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&x.out, "out", "o", "", "folder to write to (default runs/infer-INPUT)")
	f.StringVar(&x.name, "model", "", "which model: a name in the config, or at the server")
	f.StringVar(&x.Prompt, "prompt", "", "template of the user message")
	f.StringVar(&x.Complete, "complete", "", "template of a text to be continued")
	f.StringVar(&x.System, "system", "", "template of the system message")
	f.StringVar(&x.Field, "field", "", "field that holds the messages, or the text of the user message")
	f.StringVar(&x.ID, "id", "", "field that names a row (default: id, custom_id, or its file and line)")
	f.BoolVar(&x.rewrite, "rewrite", false, "leave out what the assistant says last, and ask for it anew")
	f.IntVarP(&x.N, "number", "n", 1, "replies to each row")
	f.IntVar(&x.MaxTokens, "max-tokens", 0, "most tokens of a reply (default: the service's)")
	f.Float64Var(&x.temperature, "temperature", 0, "sampling temperature (default: the service's)")
	f.IntVar(&x.Limit, "limit", 0, "at most so many rows; 0 for all")
	f.BoolVar(&x.fresh, "fresh", false, "delete what the folder's run has made, and start over")
	f.BoolVar(&x.accept, "accept-changes", false, "go on although config or dataset have changed; tasks already done stay as they are")
	x.retry.flags(cmd)
	metricsFlag(cmd, &x.metrics)
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

func (x *inference) run(p Program, cmd *cobra.Command, args []string) error {
	if err := errors.Join(checkOut(cmd, x.out), x.retry.check(cmd, x.fresh)); err != nil {
		return err
	}
	var overrides []string
	for i, a := range args {
		switch {
		case i == 0:
		case config.IsOverride(a) && !isFile(a):
			overrides = append(overrides, a)
		default:
			x.Inputs = append(x.Inputs, a)
		}
	}
	if len(x.Inputs) == 0 && len(args) > 0 && spec.IsDataset(args[0]) {
		return flagErrorf("%s is a dataset: the MODEL is missing, as in\n  %s", args[0], strings.Join(x.words(cmd, append([]string{"MODEL"}, args...)), " "))
	}
	if len(x.Inputs) == 0 {
		return flagErrorf("%s needs a MODEL and an INPUT", cmd.CommandPath())
	}
	if err := x.check(); err != nil {
		return err
	}
	from, section, err := p.Registry.FindModel(args[0], x.name)
	if err != nil {
		if right := x.swapped(p, args); right != nil {
			return flagErrorf("%s stands where the MODEL belongs, and %s is one: write\n  %s", args[0], right[0], strings.Join(x.words(cmd, right), " "))
		}
		return err
	}
	j := job{Program: p, cmd: cmd, words: x.words(cmd, args)}
	j.again = strings.Join(j.words, " ")
	if j.config, err = x.Config(cmd.Context(), from, section, overrides); err != nil {
		return err
	}
	if registry.IsURL(args[0]) {
		if err := j.noteUnnamed(); err != nil {
			return err
		}
	}
	return j.monitored(x.metrics, func() error { return j.do(x.out, x.fresh, x.accept, x.retry) })
}

// swapped is args with the model first, where it is among the inputs; nil where
// there is none.
func (x *inference) swapped(p Program, args []string) []string {
	for _, in := range x.Inputs {
		if _, _, err := p.Registry.FindModel(in, x.name); err == nil {
			i := slices.Index(args, in)
			return slices.Concat([]string{in}, args[:i], args[i+1:])
		}
	}
	return nil
}

// noteUnnamed says on the error output what unnamed does.
func (j *job) noteUnnamed() error {
	section := j.config.Run.Models["model"]
	if section == nil {
		return nil
	}
	m, err := j.Registry.OpenModel(j.config.Tree, "model", section)
	if err != nil {
		return nil //nolint:nilerr // building the plan says it, with all else that is wrong
	}
	if note := unnamed(j.cmd.Context(), section, m); note != "" {
		fmt.Fprintln(j.Err, note)
	}
	return m.Close()
}

// check says which flags do not go together.
func (x *inference) check() error {
	ways := 0
	for _, s := range []string{x.Prompt, x.Complete, x.Field} {
		if s != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return flagErrorf("--prompt, --complete and --field: give one of them")
	case x.Complete != "" && x.System != "":
		return flagErrorf("--complete takes no --system: a text that is continued has none")
	case x.Rewrite != nil && (x.Complete != "" || x.Prompt != ""):
		return flagErrorf("--rewrite is for rows that hold messages")
	case x.N < 1:
		return flagErrorf("-n is %d: want 1 or more", x.N)
	case x.Limit < 0:
		return flagErrorf("--limit is %d: want 0 or more", x.Limit)
	}
	return checkSampling(x.bounded, x.MaxTokens, x.temperature)
}

// checkSampling checks --max-tokens, where it is given, and --temperature.
func checkSampling(bounded bool, tokens int, temperature float64) error {
	if bounded && tokens < 1 {
		return flagErrorf("--max-tokens is %d: want 1 or more, or leave it out", tokens)
	}
	if !(temperature >= 0) || math.IsInf(temperature, 0) {
		return flagErrorf("--temperature is %v: want 0 or more", temperature)
	}
	return nil
}

// words is the command as a person would type it again.
func (x *inference) words(cmd *cobra.Command, args []string) []string {
	words := []string{self(), cmd.Name()}
	for _, a := range args {
		words = append(words, shellWord(config.Hide(a)))
	}
	for _, f := range []struct{ name, value string }{
		{"--model", x.name}, {"--prompt", x.Prompt}, {"--complete", x.Complete}, {"--system", x.System}, {"--field", x.Field}, {"--id", x.ID}, {"-o", x.out},
	} {
		if f.value != "" {
			words = append(words, f.name, shellWord(f.value))
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"-n", x.N}, {"--max-tokens", x.MaxTokens}, {"--limit", x.Limit}} {
		if f.value != 0 && !(f.name == "-n" && f.value == 1) {
			words = append(words, f.name, fmt.Sprint(f.value))
		}
	}
	if x.Temperature != nil {
		words = append(words, "--temperature", fmt.Sprint(x.temperature))
	}
	if x.Rewrite != nil {
		words = append(words, fmt.Sprintf("--rewrite=%v", x.rewrite))
	}
	return words
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
