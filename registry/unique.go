package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/dataset"
	"matrix/internal/dedup"
	"matrix/lang"
)

// Unique makes what tasks are compared by.
type Unique struct {
	Options dedup.Options

	on       *lang.Expr
	embedder matrix.Agent // of dedup.Embedding
	signer   *dedup.Signer
	against  *dataset.Source // nil for none
	fields   []string        // of it, that hold texts; nil for all
}

// text is what a task is compared by; none is compared with nothing.
func (u *Unique) text(t *matrix.Task) (text string, ok bool, err error) {
	v, err := u.on.EvalLocals(t, lang.Done(t))
	switch v := v.(type) {
	case string:
		return v, err == nil, err
	case nil:
		return "", false, err
	default:
		return "", false, errors.Join(err, fmt.Errorf("want a text, got %T", v))
	}
}

// Sign makes the signature of a task that is done. See run.WorkerConfig.
func (u *Unique) Sign(ctx context.Context, t *matrix.Task) (signature []byte, calls []matrix.Call, err error) {
	text, ok, err := u.text(t)
	switch {
	case err != nil:
		return nil, nil, &matrix.FailError{Err: fmt.Errorf("unique.on: %w", err)}
	case !ok:
		return nil, nil, nil
	case u.embedder == nil:
		return u.signer.Text(text), nil, nil
	case strings.TrimSpace(text) == "":
		return nil, nil, nil
	}
	asked := *t // about this text alone
	if asked.Item, err = matrix.NewValue(map[string]any{"text": text}); err != nil {
		return nil, nil, fmt.Errorf("unique: %w", err)
	}
	turn, err := u.embedder.Act(ctx, &asked)
	if err != nil {
		return nil, turn.Calls, fmt.Errorf("unique: %w", err)
	}
	var data struct {
		Vectors [][]float32 `json:"vectors"`
	}
	if err := json.Unmarshal(turn.Data.Raw(), &data); err != nil || len(data.Vectors) != 1 {
		return nil, turn.Calls, fmt.Errorf("unique: got %d vectors of a text: %w", len(data.Vectors), err)
	}
	signature, err = u.signer.Vector(text, data.Vectors[0])
	if err != nil {
		err = &matrix.FailError{Err: fmt.Errorf("unique: %w", err)}
	}
	return signature, turn.Calls, err
}

// Restore makes the signature of a task out of what the output has of it.
func (u *Unique) Restore(t *matrix.Task) ([]byte, error) {
	text, ok, err := u.text(t)
	if err != nil || !ok {
		return nil, err
	}
	var kept []byte
	if t.Outcome != nil {
		kept = t.Outcome.Signature
	}
	if u.Options.Method == dedup.Embedding && len(kept) == 0 {
		if strings.TrimSpace(text) == "" {
			return nil, nil
		}
		return nil, errors.New("it has no vector: a run that began without unique.method: embedding cannot go on with it")
	}
	return u.signer.Restore(text, kept), nil
}

// Compare has an index compare with the texts of other files, too.
func (u *Unique) Compare(ctx context.Context, x *dedup.Index) error {
	if u.against == nil {
		return x.Against("", func(func(name, text string) error) error { return nil })
	}
	print, err := u.against.Fingerprint()
	if err != nil {
		return fmt.Errorf("unique.against: %w", err)
	}
	texts := 0
	err = x.Against(fmt.Sprintf("%s\nfields %q", print, u.fields), func(add func(name, text string) error) error {
		err := u.against.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
			if row.Err != nil {
				return fmt.Errorf("%s: %w", row.Address, row.Err)
			}
			return textsOf(row.Item.Any(), u.fields, func(text string) error {
				texts++
				return add(row.Address, text)
			})
		})
		if err == nil && texts == 0 {
			err = fmt.Errorf("there is no text in any row; fields that hold one are named by unique.against_fields, which has %q", u.fields)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("unique.against: %w", err)
	}
	return nil
}

// textsOf calls f for each text of a row: of these fields, or of all where there are none.
func textsOf(v any, fields []string, f func(text string) error) error {
	switch v := v.(type) {
	case string:
		if strings.TrimSpace(v) != "" {
			return f(v)
		}
	case []any:
		for _, x := range v {
			if err := textsOf(x, nil, f); err != nil {
				return err
			}
		}
	case map[string]any:
		if len(fields) == 0 {
			fields = slices.Sorted(maps.Keys(v))
		}
		for _, name := range fields {
			if err := textsOf(v[name], nil, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// unique makes what tasks are compared by, where they are.
func (b *builder) unique() {
	c := b.run.Unique
	if c == nil {
		return
	}
	u := &Unique{Options: dedup.Options{Method: dedup.Method(c.Method), Threshold: c.Threshold, NGram: c.NGram, Overlap: c.Overlap}}
	before := len(b.errs)
	wrong := func(key, msg string) { b.at(b.root, "unique."+key, 0, 0, msg, "") }
	if key, err := u.Options.Check(); err != nil {
		wrong(key, err.Error())
	}
	if b.run.Shards > 1 {
		wrong("on", fmt.Sprintf("needs one shard, and shards is %d: tasks are compared in the order in which they end", b.run.Shards))
	}
	embeds := u.Options.Method == dedup.Embedding
	switch {
	case embeds && c.Model == "":
		wrong("model", "is missing: method embedding needs the name of a model that embeds")
	case !embeds && c.Model != "":
		wrong("model", "is of method embedding, and method is "+c.Method)
	case c.Overlap > 0 && len(c.Against) == 0:
		wrong("against", "is missing: overlap is words in common with its files")
	case embeds && len(c.Against) > 0 && c.Overlap == 0:
		wrong("overlap", "is missing: with method embedding, the files of against are compared by words in common alone")
	}
	if u.on = b.expr("unique.on", c.On, lang.DoneLocals()...); u.on != nil {
		b.reads.add(b.root, "unique.on", u.on.Fields())
		b.seen = append(b.seen, source{section: b.root, field: "unique.on", source: u.on, ends: true})
	}
	if len(c.Against) > 0 && !b.use.away() {
		var err error
		if u.against, err = dataset.Open(dataset.Options{Paths: c.Against}); err != nil {
			b.add(b.root, "", &lang.FieldError{Field: "unique.against", Err: err})
		}
		u.fields = c.Fields
	}
	if len(b.errs) > before {
		return
	}
	u.signer = dedup.NewSigner(u.Options)
	if embeds {
		if err := b.embedder(u, c.Model); err != nil && b.use == ToWork { // whoever ends a task needs it
			for name := range b.plan.Roles {
				b.plan.lacks[name] = append(b.plan.lacks[name], b.sentences(b.root, err)...)
			}
		} else {
			b.add(b.root, "", err)
		}
	}
	b.plan.Unique = u
}

func (b *builder) embedder(u *Unique, model string) (err error) {
	m, ok := b.build.Models[model]
	if !ok {
		if err = b.build.notes.lacking[model]; err == nil {
			err = unknown("model", model, slices.Sorted(maps.Keys(b.build.Models)))
		}
		return &lang.FieldError{Field: "unique.model", Err: err}
	}
	u.embedder, err = agent.NewEmbed("unique", agent.Embed{Model: model, Texts: "[item.text]", OnRefused: "fail"}, m, b.build.Params)
	return err
}
