package replay

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"matrix/llm"
)

// Config is a model that answers with recorded replies.
type Config struct {
	Path  string        `yaml:"path" required:"true" path:"true" doc:"JSONL file of replies, also .jsonl.gz or .jsonl.zst."`
	Key   string        `yaml:"key" doc:"Field that ties a reply to a row: the row's field of that name. The default, id, means the row's id." default:"id"`
	Text  string        `yaml:"text" doc:"Field that holds the reply." default:"text"`
	Delay time.Duration `yaml:"delay" free:"true" doc:"How long each reply takes." default:"0s"`
}

type replay struct {
	name   string
	config Config
	index  *index
}

// New returns a model that answers from a file. The file is read once,
// to index it: each line then costs 32 bytes of memory, whatever its length.
//
// A reply is found by its key; numbers and texts are the same key when they
// read the same (7, 7.0 and "7"). Several replies to one key are given in the
// order of the file: the call Ask.Nth, and one further for each re-ask, takes
// the reply of that index, and a call for n replies takes n of them. Where
// lines also have the fields role, trial or n (and reask), as Record writes
// them, they must agree with the Ask, and of several lines with the same n the
// last one counts. There being none is an *Error of Kind Refused.
//
// A malformed line is a *FieldError that names file and line; a last line that
// was torn off by a crash is left out.
func New(name string, c Config) (llm.Model, error) {
	c.Key = cmp.Or(c.Key, "id")
	c.Text = cmp.Or(c.Text, "text")
	if c.Path == "" {
		return nil, &llm.FieldError{Field: "path", Err: errors.New("is empty; name a JSONL file of replies")}
	}
	if c.Delay < 0 {
		return nil, &llm.FieldError{Field: "delay", Err: fmt.Errorf("got %v, want 0 or more", c.Delay)}
	}
	ix, err := openIndex(c.Path, c.Key, c.Text)
	if err != nil {
		return nil, &llm.FieldError{Field: "path", Err: err}
	}
	m := &replay{name, c, ix}
	return &model{name: name, delay: c.Delay, reply: m.reply, close: ix.close}, nil
}

func (m *replay) reply(r *llm.Request, rep *llm.Reply) (usage *llm.Usage, err error) {
	key, err := m.key(&r.Ask)
	if err != nil {
		return nil, &llm.Error{Kind: llm.Refused, Model: m.name, Msg: err.Error()}
	}
	rows, have := m.index.find(key, &r.Ask, max(1, r.Sampling.N))
	if len(rows) == 0 {
		return nil, &llm.Error{Kind: llm.Refused, Model: m.name, Msg: m.missing(key, &r.Ask, have)}
	}
	for _, e := range rows {
		l, err := m.index.read(e)
		if err != nil { // the file was there before: no row can be read now
			return nil, &llm.Error{Kind: llm.Fatal, Model: m.name, Msg: err.Error(), Hint: "do not change the file during a run"}
		}
		if len(l.Samples) == 0 {
			l.Samples = []sample{l.sample}
		}
		for i := range l.Samples {
			rep.Choices = append(rep.Choices, ended(l.Samples[i].choice()))
		}
		if l.Model != "" {
			rep.Model = l.Model
		}
		rep.Revision, rep.Vectors, usage = l.Revision, l.Vectors, l.Usage
	}
	if r.Input != nil {
		if len(rep.Vectors) != len(r.Input) {
			return nil, &llm.Error{Kind: llm.Refused, Model: m.name,
				Msg: fmt.Sprintf("%s has %d vectors for %s %q, and %d texts are to be embedded", m.config.Path, len(rep.Vectors), m.config.Key, key, len(r.Input))}
		}
		rep.Choices = nil
	}
	if len(rows) != 1 {
		usage = nil
	}
	return usage, nil
}

// key is what the caller's row is looked up by.
func (m *replay) key(a *llm.Ask) (string, error) {
	if m.config.Key == "id" {
		return a.ID, nil
	}
	item, ok := a.Item.(map[string]any)
	if !ok {
		return "", fmt.Errorf("the row is not an object: it has no field %q to look replies up by", m.config.Key)
	}
	v, ok := item[m.config.Key]
	if !ok {
		return "", fmt.Errorf("the row has no field %q to look replies up by; check key", m.config.Key)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("field %q: %w", m.config.Key, err)
	}
	return canonical(m.config.Key, raw)
}

// canonical is the form in which keys are compared.
func canonical(field string, raw json.RawMessage) (string, error) {
	switch {
	case len(raw) > 0 && raw[0] == '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'):
		s := string(raw)
		if !strings.ContainsAny(s, ".eE") { // of any size
			return s, nil
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return s, nil // beyond float64: only the same text is the same
		}
		if f == float64(int64(f)) && f > -1e18 && f < 1e18 {
			return strconv.FormatInt(int64(f), 10), nil
		}
		return strconv.FormatFloat(f, 'g', -1, 64), nil
	}
	return "", fmt.Errorf("field %q is %s, want a number or a text", field, llm.Shorten(string(raw), 40))
}

// missing says what was looked for, and how many replies there are instead.
func (m *replay) missing(key string, a *llm.Ask, have int) string {
	where := ""
	if m.index.masks.has(hasRole) {
		where += fmt.Sprintf(", role %q", a.Role)
	}
	if m.index.masks.has(hasTrial) {
		where += fmt.Sprintf(", trial %d", a.Trial)
	}
	if have == 0 {
		return fmt.Sprintf("%s has no reply for %s %q%s (call %d)", m.config.Path, m.config.Key, key, where, a.Nth+a.Reask+1)
	}
	return fmt.Sprintf("%s has %d replies for %s %q%s, and call %d wants one more", m.config.Path, have, m.config.Key, key, where, a.Nth+a.Reask+1)
}
