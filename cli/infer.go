package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"matrix"
	"matrix/agent"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/spec"
)

// inference is what `matrix infer` is asked for.
type inference struct {
	inputs              []string
	out, name, id       string
	prompt, raw, system string
	field               string
	n, tokens, limit    int
	temperature         float64
	warm, bounded       bool // temperature, max-tokens are given
	rewrite, resaid     bool // resaid: rewrite is given
	fresh, accept       bool
	retry               retryOptions
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
			x.warm, x.bounded, x.resaid = given("temperature"), given("max-tokens"), given("rewrite")
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
	f.BoolVar(&x.rewrite, "rewrite", false, "leave out what the assistant says last, and ask for it anew")
	f.IntVarP(&x.n, "number", "n", 1, "replies to each row")
	f.IntVar(&x.tokens, "max-tokens", 0, "most tokens of a reply (default: the service's)")
	f.Float64Var(&x.temperature, "temperature", 0, "sampling temperature (default: the service's)")
	f.IntVar(&x.limit, "limit", 0, "at most so many rows; 0 for all")
	f.BoolVar(&x.fresh, "fresh", false, "delete what the folder's run has made, and start over")
	f.BoolVar(&x.accept, "accept-changes", false, "go on although config or dataset have changed; tasks already done stay as they are")
	x.retry.flags(cmd)
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
		case isOverride(a) && !isFile(a):
			overrides = append(overrides, a)
		default:
			x.inputs = append(x.inputs, a)
		}
	}
	if len(x.inputs) == 0 {
		return cobraErrorf("%s needs a MODEL and an INPUT", cmd.CommandPath())
	}
	if err := x.check(); err != nil {
		return err
	}
	from, section, err := p.oneModel(args[0], x.name)
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
	j := job{Program: p, cmd: cmd, words: x.words(cmd, args)}
	j.again = strings.Join(j.words, " ")
	if j.config, err = inferConfig(text, from, section, overrides); err != nil {
		return err
	}
	if isURL(args[0]) {
		if err := j.noteUnnamed(); err != nil {
			return err
		}
	}
	return j.do(x.out, x.fresh, x.accept, x.retry)
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
	case x.resaid && (x.raw != "" || x.prompt != ""):
		return cobraErrorf("--rewrite is for rows that hold messages")
	case x.n < 1:
		return cobraErrorf("-n is %d: want 1 or more", x.n)
	case x.limit < 0:
		return cobraErrorf("--limit is %d: want 0 or more", x.limit)
	}
	return checkSampling(x.bounded, x.tokens, x.temperature)
}

// checkSampling checks --max-tokens, where it is given, and --temperature.
func checkSampling(bounded bool, tokens int, temperature float64) error {
	if bounded && tokens < 1 {
		return cobraErrorf("--max-tokens is %d: want 1 or more, or leave it out", tokens)
	}
	if !(temperature >= 0) || math.IsInf(temperature, 0) {
		return cobraErrorf("--temperature is %v: want 0 or more", temperature)
	}
	return nil
}

// inferName is what the config is called that infer writes for itself.
const inferName = "matrix infer"

// inferConfig joins the text of a config and a model of another one.
func inferConfig(text string, from *config.Tree, model *config.Section, overrides []string) (*spec.Config, error) {
	models, err := config.LoadText(spec.Run{}, inferName, "{}", map[string]*config.Section{"model": model}, nil)
	if err != nil {
		return nil, spec.Wrong(inferName, err)
	}
	parts := map[string]*config.Section{"models": models.Root()}
	if params := from.Root().Get("params"); params != nil {
		parts["params"] = params
	}
	served, err := servedAt(from, model)
	if err != nil {
		return nil, err
	}
	c, err := spec.LoadText(inferName, text, parts, append(served, overrides...))
	if err != nil {
		return nil, err
	}
	if c.Tree.Root().Get("name") == nil {
		c.Run.Name = "infer"
	}
	return c, nil
}

// servedAt are the overrides by which a model is found that another config has
// servers for: they are known by the name of that config.
func servedAt(from *config.Tree, model *config.Section) ([]string, error) {
	if s := model.Get("serve"); s == nil || s.Kind() == config.Null {
		return nil, nil
	}
	list := []string{"~models.model.serve"}
	for _, key := range []string{"base_url", "endpoints"} {
		if s := model.Get(key); s != nil && s.Kind() != config.Null {
			return list, nil
		}
	}
	state, err := launch.StateOf(from.File())
	if err != nil {
		return nil, err
	}
	file, err := json.Marshal(config.Literal(state.Endpoints(strings.TrimPrefix(model.Path(), "models."))))
	return append(list, "++models.model.endpoints=[{file: "+string(file)+", every: 1s}]"), err
}

// words is the command as a person would type it again.
func (x *inference) words(cmd *cobra.Command, args []string) []string {
	words := []string{self(), cmd.Name()}
	for _, a := range args {
		words = append(words, shellWord(config.Hide(a)))
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
	if x.resaid {
		words = append(words, fmt.Sprintf("--rewrite=%v", x.rewrite))
	}
	return words
}

// firstRow reads a row, to see what rows are like.
func (x *inference) firstRow(ctx context.Context) (map[string]any, error) {
	const most = 100 // rows that cannot be read, before it is given up
	src, err := dataset.Open(dataset.Options{Paths: x.inputs})
	if err != nil {
		return nil, &spec.UsageError{Err: err}
	}
	enough := errors.New("enough")
	var row map[string]any
	var bad []error
	err = src.Rows(ctx, matrix.Position{}, func(r matrix.Row) error {
		if r.Err == nil {
			row, _ = r.Item.Any().(map[string]any)
			return enough
		}
		if bad = append(bad, fmt.Errorf("%s: %w", r.Address, r.Err)); len(bad) == most {
			return enough
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, enough):
		return nil, err
	case row != nil:
		return row, nil
	case len(bad) > 0:
		return nil, spec.Usagef("no row can be read; the first is %w", bad[0])
	}
	return nil, spec.Usagef("the dataset has no rows: %s", strings.Join(x.inputs, ", "))
}

// config writes the config that a person would have: one role, which asks the
// model once for each row.
func (x *inference) config(row map[string]any) (string, error) {
	kind, settings, err := x.agent(row)
	if err != nil {
		return "", err
	}
	settings["model"] = "model"
	if x.system != "" {
		settings["system"] = config.Literal(x.system)
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
	data := map[string]any{"path": literals(x.inputs)}
	if id := x.rowID(row); id != "" {
		data["id"] = config.Literal(id)
	}
	if x.limit > 0 {
		data["limit"] = x.limit
	}
	b, err := json.MarshalIndent(map[string]any{ // JSON is YAML, and quotes every text
		"name":    "infer-" + stem(x.inputs[0]),
		"dataset": data,
		"roles":   map[string]any{"reply": map[string]any{kind: settings}},
		"flow":    []string{"reply"},
	}, "", "  ")
	return string(b), err
}

func literals(texts []string) []string {
	out := make([]string, len(texts))
	for i, s := range texts {
		out[i] = config.Literal(s)
	}
	return out
}

// stem is what to call a run over a file: its name without what stands behind
// the first dot, or its folder's where that is a pattern alone.
func stem(path string) string {
	path, err := filepath.Abs(path)
	for err == nil && path != filepath.Dir(path) {
		name, _, _ := strings.Cut(strings.TrimLeft(filepath.Base(path), "."), ".")
		if name = strings.Trim(notInNames.ReplaceAllString(name, ""), "-_"); name != "" {
			return name
		}
		path = filepath.Dir(path)
	}
	return "rows"
}

var notInNames = regexp.MustCompile(`[^\pL\pN_-]+`)

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
	switch {
	case x.prompt != "":
		return "chat", map[string]any{"prompt": config.Literal(x.prompt)}, nil
	case x.raw != "":
		return "complete", map[string]any{"prompt": config.Literal(x.raw)}, nil
	case x.field != "":
		return x.sender(row, x.field)
	}
	if url, _ := row["url"].(string); row["body"] != nil || row["method"] != nil {
		if err := agent.CheckURL(url); err != nil {
			return "", nil, &spec.UsageError{Err: err}
		}
	}
	if body, ok := row["body"].(map[string]any); ok && row["custom_id"] != nil {
		if body["messages"] == nil {
			return "", nil, spec.Usagef("the body of the first row has no messages")
		}
		return x.request("body", "body", body["messages"])
	}
	for _, field := range []string{"messages", "conversations", "prompt"} {
		if row[field] != nil {
			return x.sender(row, field)
		}
	}
	return "", nil, spec.Usagef("say what to send of a row: by --prompt, as --prompt \"{{ item.FIELD }}\", or by --field FIELD; the first row has %s", fieldsOf(row))
}

// sender is an agent that sends a field: messages, or the text of one.
func (x *inference) sender(row map[string]any, field string) (kind string, settings map[string]any, err error) {
	if messages, ok := agent.Messages(row[field]); ok {
		return x.request("messages", field, messages)
	}
	switch v := row[field].(type) {
	case string:
		if pythonMessages.MatchString(v) {
			return "", nil, spec.Usagef("%s of the first row is a list of messages as Python prints it: write it as JSON (json.dumps)", field)
		}
		if x.resaid {
			return "", nil, spec.Usagef("--rewrite is for rows that hold messages, and %s is a text", field)
		}
		return "chat", map[string]any{"prompt": "{{ " + itemAt(field) + " }}"}, nil
	case nil:
		return "", nil, spec.Usagef("the first row has no field %q; it has %s", field, fieldsOf(row))
	}
	return "", nil, spec.Usagef("the field %q of the first row is neither a text nor a list of messages", field)
}

// pythonMessages is how the text of a list of messages begins that str() made.
var pythonMessages = regexp.MustCompile(`^\s*\[\{'(?:role|from|content|value)':`)

// request is an agent that sends a field under one of its keys, messages or
// body. messages are those of the first row.
func (x *inference) request(key, field string, messages any) (kind string, settings map[string]any, err error) {
	if agent.EndsInReply(messages) && !x.resaid {
		return "", nil, spec.Usagef("%s of the first row ends with the assistant's reply: --rewrite leaves it out and asks for it anew, --rewrite=false sends it as it is", field)
	}
	settings = map[string]any{key: itemAt(field)}
	if key == "body" {
		settings["url"] = "item?.url" // of each row, as of the first
	}
	if x.resaid { // else rows that end so fail, each alone
		settings["rewrite"] = x.rewrite
	}
	return "request", settings, nil
}

// itemAt is an expression for a field of the row.
func itemAt(field string) string { return config.Literal("item[" + strconv.Quote(field) + "]") }

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func fieldsOf(row map[string]any) string {
	keys := make([]string, 0, len(row))
	for k := range row {
		keys = append(keys, oneLine(k))
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}
