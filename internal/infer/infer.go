// Package infer is batch inference without a config to write: it makes the config
// of a run that sends each row of a dataset to a model.
package infer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/dataset"
	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/internal/printable"
	"matrix/spec"
)

// Options say what is sent of a row, and how.
type Options struct {
	Inputs      []string // files of the dataset, or patterns of them
	ID          string   // field that names a row; empty: id, custom_id, or its file and line
	Prompt      string   // template of the user message
	Complete    string   // template of a text to be continued
	System      string   // template of the system message
	Field       string   // field that holds the messages, or the text of the user message
	Rewrite     *bool    // what the assistant says last is left out and asked for anew; nil: an error where it is there
	N           int      // replies to each row; 0 for 1
	MaxTokens   int      // of a reply; 0 for the service's
	Temperature *float64 // nil for the service's
	Limit       int      // at most so many rows; 0 for all
	Name        string   // of the config that is made, where a message says what is wrong with it
}

// Error says why the first row does not tell what to send. It is a spec.UsageError.
type Error struct {
	Cause Cause
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Cause is why a row does not tell what to send of it.
type Cause string

// The causes.
const (
	NothingToSend Cause = "nothing to send" // neither Options nor its fields say what
	NoMessages    Cause = "no messages"     // Rewrite is set, and it has a text
	EndsInReply   Cause = "ends in a reply" // and Rewrite does not say what becomes of it
)

func errorf(cause Cause, format string, args ...any) error {
	return &spec.UsageError{Err: &Error{cause, fmt.Errorf(format, args...)}}
}

// Config makes the config of a run that asks a model, a section of from, once for
// each row. It reads a row, to see what rows are like; overrides set any other key.
// What is wrong with all this is a spec.UsageError.
func (o *Options) Config(ctx context.Context, from *config.Tree, model *config.Section, overrides []string) (*spec.Config, error) {
	row, err := o.firstRow(ctx)
	if err != nil {
		return nil, err
	}
	text, err := o.text(row)
	if err != nil {
		return nil, err
	}
	models, err := config.LoadText(spec.Run{}, o.Name, "{}", map[string]*config.Section{"model": model}, nil)
	if err != nil {
		return nil, spec.Wrong(o.Name, err)
	}
	parts := map[string]*config.Section{"models": models.Root()}
	if params := from.Root().Get("params"); params != nil {
		parts["params"] = params
	}
	served, err := servedAt(from, model)
	if err != nil {
		return nil, err
	}
	c, err := spec.LoadText(o.Name, text, parts, append(served, overrides...))
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

// firstRow reads a row, to see what rows are like.
func (o *Options) firstRow(ctx context.Context) (map[string]any, error) {
	const most = 100 // rows that cannot be read, before it is given up
	src, err := dataset.Open(dataset.Options{Paths: o.Inputs})
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
	return nil, spec.Usagef("the dataset has no rows: %s", strings.Join(o.Inputs, ", "))
}

// text is the config that a person would have written: one role, which asks the
// model once for each row.
func (o *Options) text(row map[string]any) (string, error) {
	kind, settings, err := o.agent(row)
	if err != nil {
		return "", err
	}
	settings["model"] = "model"
	if o.System != "" {
		settings["system"] = config.Literal(o.System)
	}
	if o.N > 1 {
		settings["n"] = o.N
	}
	if o.MaxTokens > 0 {
		settings["max_tokens"] = o.MaxTokens
	}
	if o.Temperature != nil {
		settings["temperature"] = *o.Temperature
	}
	data := map[string]any{"path": literals(o.Inputs)}
	if id := o.rowID(row); id != "" {
		data["id"] = config.Literal(id)
	}
	if o.Limit > 0 {
		data["limit"] = o.Limit
	}
	b, err := json.MarshalIndent(map[string]any{ // JSON is YAML, and quotes every text
		"name":    "infer-" + stem(o.Inputs[0]),
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
func (o *Options) rowID(row map[string]any) string {
	if o.ID != "" {
		return o.ID
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
func (o *Options) agent(row map[string]any) (kind string, settings map[string]any, err error) {
	switch {
	case o.Prompt != "":
		return "chat", map[string]any{"prompt": config.Literal(o.Prompt)}, nil
	case o.Complete != "":
		return "complete", map[string]any{"prompt": config.Literal(o.Complete)}, nil
	case o.Field != "":
		return o.sender(row, o.Field)
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
		return o.request("body", "body", body["messages"])
	}
	for _, field := range []string{"messages", "conversations", "prompt"} {
		if row[field] != nil {
			return o.sender(row, field)
		}
	}
	return "", nil, errorf(NothingToSend, "nothing says what to send of a row; the first row has %s", fieldsOf(row))
}

// sender is an agent that sends a field: messages, or the text of one.
func (o *Options) sender(row map[string]any, field string) (kind string, settings map[string]any, err error) {
	if messages, ok := agent.Messages(row[field]); ok {
		return o.request("messages", field, messages)
	}
	switch v := row[field].(type) {
	case string:
		if pythonMessages.MatchString(v) {
			return "", nil, spec.Usagef("%s of the first row is a list of messages as Python prints it: write it as JSON (json.dumps)", field)
		}
		if o.Rewrite != nil {
			return "", nil, errorf(NoMessages, "%s of the first row is a text, in which there is no reply to ask for anew", field)
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
func (o *Options) request(key, field string, messages any) (kind string, settings map[string]any, err error) {
	if agent.EndsInReply(messages) && o.Rewrite == nil {
		return "", nil, errorf(EndsInReply, "%s of the first row ends with the assistant's reply", field)
	}
	settings = map[string]any{key: itemAt(field)}
	if key == "body" {
		settings["url"] = "item?.url" // of each row, as of the first
	}
	if o.Rewrite != nil { // else rows that end so fail, each alone
		settings["rewrite"] = *o.Rewrite
	}
	return "request", settings, nil
}

// itemAt is an expression for a field of the row.
func itemAt(field string) string { return config.Literal("item[" + strconv.Quote(field) + "]") }

func fieldsOf(row map[string]any) string {
	keys := make([]string, 0, len(row))
	for k := range row {
		keys = append(keys, printable.Line(k))
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}
