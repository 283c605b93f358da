package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"matrix"
	"matrix/config"
	"matrix/dataset"
)

// inference is what `matrix infer` is asked for.
type inference struct {
	inputs              []string
	out, name, id       string
	prompt, raw, system string
	field               string
	n, tokens, limit    int
	temperature         float64
	warm                bool // temperature is given
	fresh, accept       bool
}

func newInferCmd(p Program) *cobra.Command {
	var x inference
	cmd := &cobra.Command{
		Use:   "infer MODEL INPUT... [key=value ...]",
		Short: "Batch inference: send each row of a dataset to a model",
		Long: `Infer sends each row of a dataset to a model and writes the replies, with no config
to write. It is a run like any other: durable, resumed by the same command,
watched, verified, within a budget.

` + modelHelp + `

INPUT is any dataset: .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet, globs. What is
sent of a row is, in this order:

  --prompt T      a template of the user message: "{{ item.question }}"
  --complete T    a template of a text to be continued, for base models
  --field F       a field that holds messages or the text of the user message
  body            where rows are lines of an OpenAI batch file: the whole request
  messages        a list of messages (or conversations, as ShareGPT has it)
  prompt          the text of the user message

Overrides set any other key: models.model.max_tokens=512, budget.usd=5, live=4000.`,
		Example: `  matrix infer http://127.0.0.1:8000/v1 questions.jsonl -o runs/answers --prompt "{{ item.question }}"
  matrix infer own_model.yaml --model teacher chats.jsonl -o runs/replies -n 4 --temperature 1
  matrix infer anthropic:claude-sonnet-4-5 batch.jsonl -o runs/batch budget.usd=20`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := len(slices.DeleteFunc(slices.Clone(args), isOverride)); n < 2 {
				return cobraErrorf("%s needs a MODEL and an INPUT", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			x.warm = cmd.Flags().Changed("temperature")
			return x.run(p, cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&x.out, "out", "o", "", "folder to write to (default runs/infer-INPUT)")
	f.StringVar(&x.name, "model", "", "which model: a name in the config, or at the server")
	f.StringVar(&x.prompt, "prompt", "", "template of the user message")
	f.StringVar(&x.raw, "complete", "", "template of a text to be continued")
	f.StringVar(&x.system, "system", "", "template of the system message")
	f.StringVar(&x.field, "field", "", "field that holds the messages, or the text of the user message")
	f.StringVar(&x.id, "id", "", "field that names a row (default: id, custom_id, or its file and line)")
	f.IntVarP(&x.n, "number", "n", 1, "replies to each row")
	f.IntVar(&x.tokens, "max-tokens", 0, "most tokens of a reply (default: the service's)")
	f.Float64Var(&x.temperature, "temperature", 0, "sampling temperature (default: the service's)")
	f.IntVar(&x.limit, "limit", 0, "at most so many rows; 0 for all")
	f.BoolVar(&x.fresh, "fresh", false, "delete what the folder's run has made, and start over")
	f.BoolVar(&x.accept, "accept-changes", false, "go on although config or dataset have changed; tasks already done stay as they are")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

func (x *inference) run(p Program, cmd *cobra.Command, args []string) error {
	var overrides []string
	model := ""
	for _, a := range args {
		switch {
		case model != "" && isOverride(a) && !isFile(a):
			overrides = append(overrides, a)
		case model == "":
			model = a
		default:
			x.inputs = append(x.inputs, a)
		}
	}
	ways := 0
	for _, s := range []string{x.prompt, x.raw, x.field} {
		if s != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return cobraErrorf("--prompt, --complete and --field: give one of them")
	case x.raw != "" && x.system != "":
		return cobraErrorf("--complete takes no --system: a text that is continued has none")
	case x.n < 1:
		return cobraErrorf("-n is %d: want 1 or more", x.n)
	case x.limit < 0:
		return cobraErrorf("--limit is %d: want 0 or more", x.limit)
	}
	_, section, err := p.oneModel(model, x.name)
	if err != nil {
		return err
	}
	row, err := x.firstRow(cmd.Context())
	if err != nil {
		return err
	}
	text, err := x.config(row)
	if err != nil {
		return err
	}
	models, err := config.LoadText("matrix infer", "model: {}", map[string]*config.Section{"model": section}, nil)
	if err != nil {
		return configError("matrix infer", err)
	}
	l := &plan{path: "matrix infer", kinds: p.Registry}
	if l.tree, err = config.LoadText("matrix infer", text, map[string]*config.Section{"models": models.Root()}, overrides); err == nil {
		err = l.tree.Decode(&l.cfg)
	}
	if err != nil {
		return configError("matrix infer", err)
	}
	j := job{Program: p, cmd: cmd, plan: l}
	j.words = x.words(cmd, args)
	j.again = strings.Join(j.words, " ")
	return j.do(x.out, x.fresh, x.accept)
}

// words is the command as a person would type it again.
func (x *inference) words(cmd *cobra.Command, args []string) []string {
	words := []string{self(), cmd.Name()}
	for _, a := range args {
		words = append(words, shellWord(a))
	}
	for _, f := range []struct{ name, value string }{
		{"--model", x.name}, {"--prompt", x.prompt}, {"--complete", x.raw}, {"--system", x.system}, {"--field", x.field}, {"--id", x.id}, {"-o", x.out},
	} {
		if f.value != "" {
			words = append(words, f.name, shellWord(f.value))
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"-n", x.n}, {"--max-tokens", x.tokens}, {"--limit", x.limit}} {
		if f.value != 0 && !(f.name == "-n" && f.value == 1) {
			words = append(words, f.name, fmt.Sprint(f.value))
		}
	}
	if x.warm {
		words = append(words, "--temperature", fmt.Sprint(x.temperature))
	}
	return words
}

// firstRow reads a row, to see what rows are like.
func (x *inference) firstRow(ctx context.Context) (map[string]any, error) {
	src, err := dataset.Open(dataset.Options{Paths: x.inputs})
	if err != nil {
		return nil, &usageError{err}
	}
	found := errors.New("found")
	var row map[string]any
	n := 0
	err = src.Rows(ctx, matrix.Position{}, func(r matrix.Row) error {
		if r.Err == nil {
			row, _ = r.Item.Any().(map[string]any)
			return found
		}
		if n++; n == 100 {
			return found
		}
		return nil
	})
	switch {
	case err != nil && err != found:
		return nil, err
	case err == nil && n == 0:
		return nil, &usageError{fmt.Errorf("the dataset has no rows: %s", strings.Join(x.inputs, ", "))}
	case row == nil:
		return nil, &usageError{fmt.Errorf("%s: the first rows cannot be read as objects", strings.Join(x.inputs, ", "))}
	}
	return row, nil
}

// config writes the config that a person would have: one role, which asks the
// model once for each row.
func (x *inference) config(row map[string]any) (string, error) {
	agent, settings, err := x.agent(row)
	if err != nil {
		return "", err
	}
	settings["model"] = "model"
	if x.system != "" {
		settings["system"] = x.system
	}
	if x.n > 1 {
		settings["n"] = x.n
	}
	if x.tokens > 0 {
		settings["max_tokens"] = x.tokens
	}
	if x.warm {
		settings["temperature"] = x.temperature
	}
	stem := filepath.Base(x.inputs[0])
	stem, _, _ = strings.Cut(stem, ".")
	data := map[string]any{"path": x.inputs}
	if id := x.rowID(row); id != "" {
		data["id"] = id
	}
	if x.limit > 0 {
		data["limit"] = x.limit
	}
	b, err := yaml.Marshal(map[string]any{
		"name":    "infer-" + stem,
		"dataset": data,
		"roles":   map[string]any{"reply": map[string]any{agent: settings}},
		"flow":    []string{"reply"},
	})
	return string(b), err
}

// rowID is the field that names a row.
func (x *inference) rowID(row map[string]any) string {
	if x.id != "" {
		return x.id
	}
	for _, key := range []string{"id", "custom_id"} {
		switch row[key].(type) {
		case string, int:
			return key
		}
	}
	return ""
}

// agent is who sends a row, and what of it.
func (x *inference) agent(row map[string]any) (kind string, settings map[string]any, err error) {
	at := func(key string) string { // an expression for the field
		quoted, _ := json.Marshal(key)
		return "item[" + string(quoted) + "]"
	}
	send := func(key string) (string, map[string]any, error) {
		switch v := row[key].(type) {
		case []any:
			return "request", map[string]any{"messages": at(key)}, nil
		case string:
			return "chat", map[string]any{"prompt": "{{ " + at(key) + " }}"}, nil
		case nil:
			return "", nil, &usageError{fmt.Errorf("the first row has no field %q; it has %s", key, fieldsOf(row))}
		default:
			return "", nil, &usageError{fmt.Errorf("the field %q holds %T, want a text or a list of messages", key, v)}
		}
	}
	switch {
	case x.prompt != "":
		return "chat", map[string]any{"prompt": x.prompt}, nil
	case x.raw != "":
		return "complete", map[string]any{"prompt": x.raw}, nil
	case x.field != "":
		return send(x.field)
	}
	if body, ok := row["body"].(map[string]any); ok && row["custom_id"] != nil {
		if url, _ := row["url"].(string); url != "" && !strings.HasSuffix(url, "/chat/completions") {
			return "", nil, &usageError{fmt.Errorf("the batch file asks for %s, and only /v1/chat/completions can be sent", url)}
		}
		if body["messages"] == nil {
			return "", nil, &usageError{errors.New("the body of the first row has no messages")}
		}
		return "request", map[string]any{"body": "item.body"}, nil
	}
	for _, key := range []string{"messages", "conversations", "prompt"} {
		if row[key] != nil {
			return send(key)
		}
	}
	return "", nil, &usageError{fmt.Errorf("say what to send of a row: by --prompt, as --prompt \"{{ item.FIELD }}\", or by --field FIELD; the first row has %s", fieldsOf(row))}
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func fieldsOf(row map[string]any) string {
	keys := make([]string, 0, len(row))
	for k := range row {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}
