package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"text/template"

	"matrix/internal/grammar"
	"matrix/internal/textfile"
	"matrix/llm"
)

// tool is a function that may be called.
type tool struct {
	name   string
	schema *schema
}

// format is what a reply has to look like. At most one field is set.
type format struct {
	json    bool
	schema  *schema
	regex   *pattern
	choice  []string
	grammar *grammar.Grammar
}

// ask is a request, as an engine takes it.
type ask struct {
	chat     bool
	messages []llm.Message // of a chat
	prompt   string        // of a completion
	tools    []tool
	about    string // tools as they came: a part of the prompt
	choose   string // auto, none, required, or a tool's name
	parallel bool
	format   format

	n        int
	max      int // most tokens of the reply; 0 for no limit
	least    int
	endless  bool // ignore_eos: the reply is as long as it may be
	stop     []string
	seed     *int64
	logprobs int // 0 none; else one more than the likeliest beside each token
	stream   bool
	key      string
}

// last is the text that is answered.
func (a *ask) last() string {
	if !a.chat {
		return a.prompt
	}
	if len(a.messages) == 0 {
		return ""
	}
	return a.messages[len(a.messages)-1].Content
}

// draft is one choice of a reply.
type draft struct {
	text   string
	tokens int
	calls  []llm.ToolCall
	finish string

	seed  uint64 // of a text that is not written yet
	full  int    // its tokens, before it is cut
	ready bool
}

// write writes the text, where that was put off.
func (d *draft) write() {
	if !d.ready {
		d.text = words(d.seed, d.full)
		d.text = d.text[:upTo(d.text, d.tokens)]
		d.ready = true
	}
}

// replier makes replies.
type replier struct {
	c    Replies
	seed uint64
	tmpl *template.Template

	byPrompt map[uint64][]string
	inOrder  []string
	next     atomic.Int64
}

func newReplier(c Replies, seed int64) (*replier, error) {
	r := &replier{c: c, seed: mix(uint64(seed))}
	switch c.Kind {
	case "template":
		t, err := template.New("template").Funcs(funcs(0)).Parse(c.Template)
		if err != nil {
			return nil, &llm.FieldError{Field: "template", Err: err}
		}
		r.tmpl = t
	case "file":
		if err := r.load(c.Path); err != nil {
			return nil, &llm.FieldError{Field: "replies", Err: err}
		}
	}
	return r, nil
}

// load reads recorded replies.
func (r *replier) load(path string) error {
	f, err := textfile.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r.byPrompt = map[uint64][]string{}
	in := bufio.NewReaderSize(f, textfile.HeadBytes)
	head, _ := in.Peek(textfile.HeadBytes) // an error stands behind what was read
	if err := textfile.Foreign(head); err != nil {
		return fmt.Errorf("%s %w", path, err)
	}
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var rec struct {
				Prompt *string `json:"prompt"`
				Reply  *string `json:"reply"`
			}
			if e := json.Unmarshal(line, &rec); e != nil {
				return fmt.Errorf("%s:%d: %w", path, n, e)
			}
			if rec.Reply == nil {
				return fmt.Errorf(`%s:%d: has no "reply"`, path, n)
			}
			if rec.Prompt != nil {
				h := hashOf(*rec.Prompt)
				r.byPrompt[h] = append(r.byPrompt[h], *rec.Reply)
			} else {
				r.inOrder = append(r.inOrder, *rec.Reply)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if len(r.byPrompt) == 0 && len(r.inOrder) == 0 {
		return fmt.Errorf("%s has no replies", path)
	}
	return nil
}

// drafts makes the choices of the reply to a, whose content has a hash. Each
// has at least one token.
func (r *replier) drafts(a *ask, content uint64) ([]draft, error) {
	seed := blend(r.seed, content)
	if a.seed != nil {
		seed = blend(seed, uint64(*a.seed))
	}
	ds := make([]draft, a.n)
	for i := range ds {
		s := seed
		if i > 0 {
			s = blend(seed, uint64(i))
		}
		if err := r.draft(&ds[i], a, i, s); err != nil {
			return nil, err
		}
		ds[i].cut(a)
	}
	return ds, nil
}

func (r *replier) draft(d *draft, a *ask, i int, seed uint64) error {
	rnd := random(seed)
	d.finish = "stop"
	d.ready = true
	switch f := &a.format; {
	case r.callsTool(a, &rnd):
		d.calls = chooseTools(a, &rnd)
		d.finish = "tool_calls"
		for _, c := range d.calls {
			d.tokens += 3 + tokensOf(c.Name) + tokensOf(c.Arguments)
		}
		return nil
	case f.json:
		d.text = string(appendJSON(nil, map[string]any{"answer": words(rnd.next(), 8), "value": rnd.below(100)}))
	case f.schema != nil:
		d.text = f.schema.write(&rnd)
	case f.regex != nil:
		d.text = f.regex.write(&rnd)
	case f.choice != nil:
		d.text = f.choice[rnd.below(len(f.choice))]
	case f.grammar != nil:
		d.text = f.grammar.Write(rnd.below)
	default:
		return r.free(d, a, i, &rnd)
	}
	d.tokens = max(1, tokensOf(d.text))
	return nil
}

// free drafts a text of no given form.
func (r *replier) free(d *draft, a *ask, i int, rnd *random) error {
	switch r.c.Kind {
	case "text":
		n := int(math.Round(rnd.lognormal(r.c.Tokens, r.c.Sigma)))
		n = max(1, a.least, min(n, 1<<20))
		if a.endless && a.max > 0 {
			n = a.max
		}
		d.seed, d.full, d.tokens, d.ready = rnd.next(), n, n, false
		return nil
	case "echo":
		d.text = a.last()
	case "template":
		text, err := r.render(a, i, rnd.next())
		if err != nil {
			return err
		}
		d.text = text
	case "file":
		list, ok := r.byPrompt[hashOf(a.last())]
		switch {
		case ok:
			d.text = list[i%len(list)]
		case len(r.inOrder) > 0:
			d.text = r.inOrder[int(r.next.Add(1)-1)%len(r.inOrder)]
		default:
			return fmt.Errorf("no reply is recorded for this prompt in %s", r.c.Path)
		}
	}
	d.tokens = max(1, tokensOf(d.text))
	return nil
}

// cut ends d where a says it must end.
func (d *draft) cut(a *ask) {
	if len(a.stop) > 0 && d.calls == nil {
		d.write()
		for _, s := range a.stop {
			if at := strings.Index(d.text, s); s != "" && at >= 0 {
				d.text = d.text[:at]
			}
		}
		d.tokens = max(1, tokensOf(d.text))
	}
	if a.max > 0 && d.tokens >= a.max && (d.tokens > a.max || a.endless) {
		d.tokens, d.finish = a.max, "length"
		if d.ready {
			d.text = d.text[:upTo(d.text, a.max)]
		}
		for i := range d.calls { // what a model writes is cut anywhere
			c := &d.calls[i]
			c.Arguments = c.Arguments[:min(len(c.Arguments), max(0, a.max*tokenBytes-len(c.Name)))]
		}
	}
}

// templateData is what a template sees.
type templateData struct {
	Prompt, System string
	Messages       []llm.Message
	Turn, N        int
}

func (r *replier) render(a *ask, i int, seed uint64) (string, error) {
	s := templateData{Prompt: a.last(), Messages: a.messages, N: i}
	for _, m := range a.messages {
		if m.Role == "system" && s.System == "" {
			s.System = m.Content
		}
		if m.Role == "assistant" {
			s.Turn++
		}
	}
	t, err := r.tmpl.Clone()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Funcs(funcs(seed)).Execute(&b, s); err != nil {
		return "", err
	}
	return b.String(), nil
}

// funcs are those of templates.
func funcs(seed uint64) template.FuncMap {
	r := random(seed)
	return template.FuncMap{
		"words":    func(n int) string { return words(r.next(), min(n, 1<<20)) },
		"contains": strings.Contains,
		"pick": func(of ...any) (any, error) {
			if len(of) == 0 {
				return nil, errors.New("pick wants something to draw from")
			}
			return of[r.below(len(of))], nil
		},
		"number": func(n int) (int, error) {
			if n < 1 {
				return 0, fmt.Errorf("number wants 1 or more, got %d", n)
			}
			return r.below(n), nil
		},
	}
}

// callsTool reports whether the reply asks for tools.
func (r *replier) callsTool(a *ask, rnd *random) bool {
	switch {
	case len(a.tools) == 0 || a.choose == "none":
		return false
	case a.choose != "auto":
		return true
	case len(a.messages) > 0 && a.messages[len(a.messages)-1].Role == "tool":
		return false // it has been answered
	}
	return rnd.float() >= r.c.NoTool
}

// chooseTools calls one tool, or two where that was asked for.
func chooseTools(a *ask, rnd *random) []llm.ToolCall {
	n := 1
	if a.parallel {
		n = 2
	}
	first := rnd.below(len(a.tools))
	calls := make([]llm.ToolCall, n)
	for i := range calls {
		t := &a.tools[(first+i)%len(a.tools)]
		for k := range a.tools {
			if a.tools[k].name == a.choose {
				t = &a.tools[k]
			}
		}
		calls[i] = llm.ToolCall{ID: fmt.Sprintf("call_%016x", rnd.next()), Name: t.name, Arguments: t.schema.write(rnd)}
	}
	return calls
}

func appendJSON(b []byte, v any) []byte {
	j, err := json.Marshal(v)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, j...)
}
