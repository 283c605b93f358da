package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"matrix"
	"matrix/internal/taskjson"
	"matrix/lang"
	"matrix/llm"
)

// Format is what a row holds.
type Format string

// The formats.
const (
	Messages         Format = "messages"          // messages of role and content, and tools, as the OpenAI API has them
	ShareGPT         Format = "sharegpt"          // conversations of from and value
	PromptCompletion Format = "prompt-completion" // what was asked, and the reply
	Alpaca           Format = "alpaca"            // instruction, input, output
	DPO              Format = "dpo"               // of several replies the best and the worst, by Options.Score
	KTO              Format = "kto"               // each reply, and whether it is good, by Options.Label
	Tasks            Format = "tasks"             // whole tasks
	Columns          Format = "columns"           // Options.Columns alone
	ATIF             Format = "atif"              // trajectories as Harbor has them
	MiniSWE          Format = "mini-swe"          // trajectories as mini-swe-agent has them
	Predictions      Format = "swebench-preds"    // one object: the patch of each instance, as SWE-bench's graders read it
)

// Formats are all of them.
var Formats = []Format{Messages, ShareGPT, PromptCompletion, Alpaca, DPO, KTO, Tasks, Columns, ATIF, MiniSWE, Predictions}

// ToolsAs is how tools and arguments of their calls, which have other fields from row to
// row, stand in rows.
type ToolsAs string

// The ways. Without one of them they are ToolsObject in JSON, and ToolsText in Parquet.
const (
	ToolsObject ToolsAs = "object" // objects; in Parquet groups of columns, null where a row has others
	ToolsText   ToolsAs = "text"   // JSON as text
	ToolsJSON   ToolsAs = "json"   // JSON as text of which Parquet says that it is JSON: newer readers make objects of it
)

// toolsAs is how they stand.
func (o *Options) toolsAs() ToolsAs {
	switch {
	case o.Tools != "":
		return o.Tools
	case o.ending() == ".parquet":
		return ToolsText
	}
	return ToolsObject
}

// checkTools checks how they are to stand.
func (o *Options) checkTools() error {
	calls := slices.Contains([]Format{Messages, PromptCompletion, DPO, KTO}, o.Format)
	switch {
	case o.Tools == "":
	case !slices.Contains([]ToolsAs{ToolsObject, ToolsText, ToolsJSON}, o.Tools):
		return usagef("tools are %q: want %s, %s or %s", o.Tools, ToolsObject, ToolsText, ToolsJSON)
	case !calls:
		return usagef("how tools stand is for messages, and %s has none", o.Format)
	case o.Tools == ToolsJSON && o.ending() != ".parquet":
		return usagef("%s is a type of Parquet: in %s choose %s or %s", ToolsJSON, o.ending(), ToolsObject, ToolsText)
	}
	return nil
}

// Asks reports whether rows of the format hold what a role asked and was replied.
func (f Format) Asks() bool { return f != Tasks && f != Columns }

// trajectory reports whether a row is the whole way of a task, from one role's side.
func (f Format) trajectory() bool { return f == ATIF || f == MiniSWE || f == Predictions }

// keys are those of the rows of a format, which no column may have.
func (f Format) keys() []string {
	switch f {
	case Messages:
		return []string{"messages", "tools"}
	case ShareGPT:
		return []string{"conversations", "tools"}
	case PromptCompletion:
		return []string{"prompt", "completion", "tools"}
	case Alpaca:
		return []string{"instruction", "input", "output", "system", "history"}
	case DPO:
		return []string{"prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin", "tools"}
	case KTO:
		return []string{"prompt", "completion", "label", "tools"}
	case ATIF:
		return []string{"schema_version", "session_id", "trajectory_id", "agent", "steps", "final_metrics", "extra", "notes"}
	case MiniSWE:
		return []string{"instance_id", "info", "messages", "trajectory_format"}
	case Tasks:
		return []string{"id", "row", "trial", "seed", "priority", "item", "unread", "turns", "outcome", "metrics"}
	}
	return nil
}

// message is one of a conversation, as the OpenAI API has it and trainers read it.
type message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
	Name       string     `json:"name,omitempty"` // of the tool that answers
}

type toolCall struct {
	ID       string   `json:"id,omitempty"`
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type function struct {
	Name      string `json:"name"`
	Arguments any    `json:"arguments"` // an object; text of it where columns have types
}

type tool struct {
	Type     string   `json:"type"`
	Function llm.Tool `json:"function"`
}

// said is a part of a ShareGPT conversation.
type said struct {
	From  string `json:"from"`
	Value string `json:"value"`
}

// maker makes the rows of tasks.
type maker struct {
	Options
	columns      []column
	score, label *lang.Expr
	text         bool // tools and arguments stand as text

	// Of the task that rows were made of last.
	stale bool // the config has other templates now
	mute  bool // it has text that the format cannot hold
}

type column struct {
	name  string
	expr  *lang.Expr
	shape *shape
}

func newMaker(o Options) (m *maker, err error) {
	m = &maker{Options: o}
	if !slices.Contains(Formats, o.Format) {
		return nil, usagef("there is no format %q", o.Format)
	}
	if o.Format.Asks() && o.Asker == nil {
		return nil, usagef("%s needs a role whose replies are learnt", o.Format)
	}
	if o.Format == Columns && len(o.Columns) == 0 {
		return nil, usagef("no columns are named")
	}
	for _, only := range []struct {
		what, src string
		of        []Format // the first one needs it
		to        **lang.Expr
	}{{"score", o.Score, []Format{DPO, Messages, ShareGPT, PromptCompletion, Alpaca}, &m.score}, {"label", o.Label, []Format{KTO}, &m.label}} {
		switch {
		case only.src == "" && o.Format == only.of[0]:
			return nil, usagef("%s needs a %s: an expression over sample, one of the replies, such as %s", o.Format, only.what, map[Format]string{DPO: "sample.data.score", KTO: "sample.data.answer == item.answer"}[o.Format])
		case only.src != "" && !slices.Contains(only.of, o.Format):
			return nil, usagef("a %s is for %s, not for %s", only.what, strings.Trim(fmt.Sprint(only.of), "[]"), o.Format)
		}
		if *only.to, err = compile(only.what, only.src, o.Params, "sample", "index"); err != nil {
			return nil, err
		}
	}
	if err := o.checkTools(); err != nil {
		return nil, err
	}
	if o.MinMargin != 0 && (o.Format != DPO || o.MinMargin < 0) {
		return nil, usagef("a least margin is for %s, and 0 or more", DPO)
	}
	taken := o.Format.keys()
	for _, c := range o.Columns {
		if c.Name == "" || slices.Contains(taken, c.Name) {
			return nil, usagef("column %q is there already: choose another name", c.Name)
		}
		taken = append(taken, c.Name)
		e, err := compile("column "+c.Name, c.Expr, o.Params)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, usagef("column %s has no expression", c.Name)
		}
		m.columns = append(m.columns, column{c.Name, e, &shape{}})
	}
	return m, nil
}

// rows are those of a task, as JSON. The error is a leftOut where it has none.
func (m *maker) rows(ctx context.Context, t *matrix.Task) ([][]byte, error) {
	m.stale, m.mute = false, false
	var rows [][]byte
	switch m.Format {
	case Tasks:
		rows = [][]byte{taskjson.AppendTask(nil, t)}
	case Columns:
		rows = [][]byte{[]byte("{}")}
	default:
		values, err := m.values(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(v); err != nil {
				return nil, err
			}
			rows = append(rows, bytes.TrimRight(b.Bytes(), "\n"))
		}
	}
	return rows, m.addColumns(t, rows)
}

// values are the rows of a task whose role was asked something.
func (m *maker) values(ctx context.Context, t *matrix.Task) ([]any, error) {
	if !m.Format.trajectory() {
		d, err := m.dialogue(ctx, t)
		if err != nil {
			return nil, err
		}
		return m.asked(t, d)
	}
	s, err := m.story(ctx, t)
	if err != nil {
		return nil, err
	}
	switch m.Format {
	case ATIF:
		return []any{m.atif(t, s)}, nil
	case MiniSWE:
		return []any{m.miniSWE(t, s)}, nil
	}
	end := endOf(t)
	return []any{prediction{s.model(m.Role), end.InstanceID, end.Patch}}, nil
}

// addColumns adds the columns to the rows of a task.
func (m *maker) addColumns(t *matrix.Task, rows [][]byte) error {
	if len(m.columns) == 0 {
		return nil
	}
	locals := lang.Finished(t)
	var cells []byte
	for _, c := range m.columns {
		x, err := c.expr.EvalLocals(t, locals)
		if err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
		if err := c.shape.add(c.name, x, t.ID); err != nil {
			return err
		}
		v, err := matrix.NewValue(x)
		if err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
		name, _ := json.Marshal(c.name)
		cells = append(append(append(append(cells, ','), name...), ':'), v.Raw()...)
	}
	for i, row := range rows {
		row = row[:len(row)-1]
		if len(row) == 1 {
			rows[i] = append(append(row, cells[1:]...), '}')
		} else {
			rows[i] = append(append(row, cells...), '}')
		}
	}
	return nil
}

// dialogue is what the role was asked for the last of its turns that can be used.
type dialogue struct {
	prompt   string // to be continued; empty of a conversation
	messages []message
	tools    []tool
	turn     *matrix.Turn
}

// dialogue asks the agent what it asked. It is a leftOut where the role said nothing.
func (m *maker) dialogue(ctx context.Context, t *matrix.Task) (*dialogue, error) {
	i := len(t.Turns) - 1
	for ; i >= 0; i-- {
		if turn := &t.Turns[i]; turn.Role == m.Role && turn.Error == "" && turn.Hop > 0 && (strings.TrimSpace(turn.Text) != "" || len(turn.ToolCalls) > 0) {
			break
		}
	}
	if i < 0 {
		return nil, leftOut("in which " + m.Role + " said nothing")
	}
	d, err := m.conversation(ctx, t, i)
	if err != nil {
		return nil, err
	}
	d.turn = &t.Turns[i]
	if c := d.turn.Call(); c != nil && c.Prompt != "" && c.Prompt != m.Asker.Revision() {
		m.stale = true
	}
	if m.UserFirst {
		d.messages = userFirst(d.messages)
	}
	return d, nil
}

// conversation is what the role was asked before the i-th turn.
func (m *maker) conversation(ctx context.Context, t *matrix.Task, i int) (*dialogue, error) {
	d := &dialogue{}
	before := *t
	before.Turns, before.Outcome, before.Metrics = t.Turns[:i:i], nil, nil
	if m.Leases != nil {
		var err error
		if before.Leases, err = m.Leases(ctx, t); err != nil {
			return nil, err
		}
	}
	q, err := m.Asker.Asked(ctx, &before)
	if err != nil {
		return nil, fmt.Errorf("what %s was asked cannot be made again: %w", m.Role, err)
	}
	d.prompt = q.Prompt
	for i := range q.Messages {
		in := &q.Messages[i]
		if len(in.Images) > 0 {
			return nil, fmt.Errorf("%s was shown images, which %s does not hold: choose columns of your own", m.Role, m.Format)
		}
		out := message{Role: in.Role, Content: in.Content, ToolCallID: in.ToolCallID, Name: in.ToolName}
		for _, c := range in.ToolCalls {
			out.ToolCalls = append(out.ToolCalls, m.toolCall(c.ID, c.Name, c.Arguments))
		}
		d.messages = append(d.messages, out)
	}
	for _, one := range q.Tools {
		d.tools = append(d.tools, tool{"function", one})
	}
	return d, nil
}

// userFirst leaves out what the assistant said before anybody else.
func userFirst(all []message) []message {
	user := slices.IndexFunc(all, func(one message) bool { return one.Role == "user" })
	if user < 0 {
		return all
	}
	return slices.Concat(slices.DeleteFunc(slices.Clone(all[:user]), func(one message) bool { return one.Role != "system" }), all[user:])
}

// toolCall is a call with its arguments as an object, since chat templates write them
// as JSON themselves: a text would be quoted twice. Where columns have types it is a
// text, since each function has arguments of its own. What a model wrote that is no JSON
// stays a text.
func (m *maker) toolCall(id, name, arguments string) toolCall {
	c := toolCall{ID: id, Type: "function", Function: function{Name: name, Arguments: arguments}}
	valid := json.Valid([]byte(arguments))
	switch {
	case !m.text && valid:
		c.Function.Arguments = json.RawMessage(arguments)
	case m.Tools == ToolsJSON && !valid:
		c.Function.Arguments = asText(arguments)
	}
	return c
}

// reply is what was said as a message.
func (m *maker) reply(text string, calls []matrix.ToolCall) message {
	r := message{Role: "assistant", Content: text}
	for i := range calls {
		c := &calls[i]
		arguments, ok := c.Arguments.Any().(string)
		if !ok {
			arguments = c.Arguments.String()
		}
		r.ToolCalls = append(r.ToolCalls, m.toolCall(c.ID, c.Name, arguments))
	}
	return r
}

// toolList are the tools as a list, or as its JSON.
func (m *maker) toolList(tools []tool) any {
	if len(tools) == 0 {
		return nil
	}
	if m.text {
		return asText(tools)
	}
	return tools
}

// asText is JSON as a text.
func asText(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "" // what it is made of was JSON
	}
	return strings.TrimRight(b.String(), "\n")
}

// sides are the prompt and replies to it: as conversations, or as texts where a text
// was continued.
func (m *maker) sides(d *dialogue, replies ...message) (prompt any, said []any) {
	for _, r := range replies {
		if d.prompt != "" {
			said = append(said, r.Content)
		} else {
			said = append(said, []message{r})
		}
	}
	if d.prompt != "" {
		return d.prompt, said
	}
	return d.messages, said
}

// asked are the rows of a dialogue.
func (m *maker) asked(t *matrix.Task, d *dialogue) ([]any, error) {
	switch m.Format {
	case DPO:
		return m.pair(t, d)
	case KTO:
		return m.labelled(t, d)
	}
	last := m.reply(d.turn.Text, d.turn.ToolCalls)
	if m.score != nil {
		s, err := m.scored(t, d)
		if err != nil {
			return nil, err
		}
		last = s.best
	}
	switch m.Format {
	case PromptCompletion:
		prompt, said := m.sides(d, last)
		return []any{struct {
			Prompt     any `json:"prompt"`
			Completion any `json:"completion"`
			Tools      any `json:"tools,omitempty"`
		}{prompt, said[0], m.toolList(d.tools)}}, nil
	}
	if d.prompt != "" {
		if m.Format == Alpaca {
			return alpaca([]message{{Role: "user", Content: d.prompt}, last})
		}
		return nil, fmt.Errorf("%s continues a text, and has no conversation: choose %s", m.Role, PromptCompletion)
	}
	all := append(d.messages, last)
	switch m.Format {
	case Alpaca:
		return alpaca(all)
	case ShareGPT:
		return m.shareGPT(all, d.tools), nil
	}
	return []any{struct {
		Messages []message `json:"messages"`
		Tools    any       `json:"tools,omitempty"`
	}{all, m.toolList(d.tools)}}, nil
}

// alpaca makes one row: what was said before the last question is its history.
func alpaca(all []message) ([]any, error) {
	row := struct {
		Instruction string      `json:"instruction"`
		Input       string      `json:"input"`
		Output      string      `json:"output"`
		System      string      `json:"system"`
		History     [][2]string `json:"history"`
	}{History: [][2]string{}}
	var asked []string
	for i, one := range all {
		switch {
		case one.Role == "tool" || len(one.ToolCalls) > 0:
			return nil, fmt.Errorf("%s holds no calls of tools: choose %s or %s", Alpaca, Messages, ShareGPT)
		case one.Role == "system":
			row.System = strings.TrimPrefix(row.System+"\n\n"+one.Content, "\n\n")
		case one.Role == "user":
			asked = append(asked, one.Content)
		case i < len(all)-1:
			row.History = append(row.History, [2]string{strings.Join(asked, "\n\n"), one.Content})
			asked = nil
		default:
			row.Instruction, row.Output = strings.Join(asked, "\n\n"), one.Content
		}
	}
	return []any{row}, nil
}

// shareGPT makes one row. Calls of tools take the place of what is said beside them,
// and the answers to several calls are one part: sides alternate.
func (m *maker) shareGPT(all []message, tools []tool) []any {
	row := struct {
		Conversations []said `json:"conversations"`
		Tools         string `json:"tools,omitempty"`
	}{}
	from := map[string]string{"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
	for i := 0; i < len(all); i++ {
		one := all[i]
		part := said{from[one.Role], one.Content}
		switch {
		case len(one.ToolCalls) > 0:
			m.mute = m.mute || strings.TrimSpace(one.Content) != ""
			calls := make([]function, len(one.ToolCalls))
			for k, c := range one.ToolCalls {
				calls[k] = c.Function
				if text, ok := c.Function.Arguments.(string); ok && json.Valid([]byte(text)) {
					calls[k].Arguments = json.RawMessage(text)
				}
			}
			part = said{"function_call", asText(calls)}
			if len(calls) == 1 {
				part.Value = asText(calls[0])
			}
		case one.Role == "tool":
			answers := []string{one.Content}
			for ; i+1 < len(all) && all[i+1].Role == "tool"; i++ {
				answers = append(answers, all[i+1].Content)
			}
			if len(answers) > 1 {
				part.Value = asText(answers)
			}
		}
		row.Conversations = append(row.Conversations, part)
	}
	if len(tools) > 0 {
		functions := make([]llm.Tool, len(tools))
		for i := range tools {
			functions[i] = tools[i].Function
		}
		row.Tools = asText(functions)
	}
	return []any{row}
}

// replies are all that were drawn for a turn.
func replies(t *matrix.Turn) []matrix.Sample {
	if len(t.Samples) > 0 {
		return t.Samples
	}
	return []matrix.Sample{{Text: t.Text, Data: t.Data, Reasoning: t.Reasoning, ToolCalls: t.ToolCalls, Logprobs: t.Logprobs}}
}

// judged calls f for each reply of a turn with what e says of it, where that is not
// nil.
func (m *maker) judged(t *matrix.Task, d *dialogue, what string, e *lang.Expr, f func(message, any) error) error {
	locals := lang.Finished(t)
	for i, s := range replies(d.turn) {
		if strings.TrimSpace(s.Text) == "" && len(s.ToolCalls) == 0 {
			continue
		}
		v, err := e.EvalLocals(t, append(slices.Clip(locals),
			map[string]any{"text": s.Text, "data": s.Data.Any(), "reasoning": s.Reasoning, "logprobs": s.Logprobs.Any()}, i))
		if err == nil && v != nil {
			err = f(m.reply(s.Text, s.ToolCalls), v)
		}
		if err != nil {
			return fmt.Errorf("%s of reply %d: %w", what, i, err)
		}
	}
	return nil
}

// scores are the best and the worst of the replies to a turn.
type scores struct {
	best, worst message
	high, low   float64
	n           int // replies that have a score
}

// scored looks for them: of equals the first is the best, and the last the worst.
func (m *maker) scored(t *matrix.Task, d *dialogue) (s scores, err error) {
	err = m.judged(t, d, "the score", m.score, func(r message, v any) error {
		score, ok := number(v)
		if !ok {
			return fmt.Errorf("want a number, got %s", typeOf(v))
		}
		if s.n == 0 || score > s.high {
			s.best, s.high = r, score
		}
		if s.n == 0 || score <= s.low {
			s.worst, s.low = r, score
		}
		s.n++
		return nil
	})
	if err == nil && s.n == 0 {
		err = leftOut("with no reply that has a score")
	}
	return s, err
}

// pair is the best and the worst of the replies.
func (m *maker) pair(t *matrix.Task, d *dialogue) ([]any, error) {
	s, err := m.scored(t, d)
	switch {
	case err != nil:
		return nil, err
	case s.n < 2:
		return nil, leftOut("with fewer than two replies that have a score")
	case s.high == s.low:
		return nil, leftOut("whose replies all have the same score")
	case s.high-s.low < m.MinMargin:
		return nil, leftOut(fmt.Sprintf("whose margin is less than %v", m.MinMargin))
	}
	prompt, said := m.sides(d, s.best, s.worst)
	return []any{struct {
		Prompt        any     `json:"prompt"`
		Chosen        any     `json:"chosen"`
		Rejected      any     `json:"rejected"`
		ScoreChosen   decimal `json:"score_chosen"`
		ScoreRejected decimal `json:"score_rejected"`
		Margin        decimal `json:"margin"`
		Tools         any     `json:"tools,omitempty"`
	}{prompt, said[0], said[1], decimal(s.high), decimal(s.low), decimal(s.high - s.low), m.toolList(d.tools)}}, nil
}

// labelled is a row for each reply.
func (m *maker) labelled(t *matrix.Task, d *dialogue) ([]any, error) {
	var rows []any
	err := m.judged(t, d, "the label", m.label, func(r message, v any) error {
		good, ok := v.(bool)
		if !ok {
			return fmt.Errorf("want true or false, got %s", typeOf(v))
		}
		prompt, said := m.sides(d, r)
		rows = append(rows, struct {
			Prompt     any  `json:"prompt"`
			Completion any  `json:"completion"`
			Label      bool `json:"label"`
			Tools      any  `json:"tools,omitempty"`
		}{prompt, said[0], good, m.toolList(d.tools)})
		return nil
	})
	if err == nil && len(rows) == 0 {
		err = leftOut("with no reply that has a label")
	}
	return rows, err
}

// decimal is a float that is written with its point, so that a column of it is of one
// type.
type decimal float64

// MarshalJSON implements json.Marshaler.
func (d decimal) MarshalJSON() ([]byte, error) {
	v, err := matrix.NewValue(float64(d))
	if err != nil {
		return nil, errors.New("it is not a number that JSON has")
	}
	return v.Raw(), nil
}
