package export

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"matrix"
	"matrix/agent"
)

// story is how a task went, from the side of one role: what that role was asked before
// its first turn, and then its turns and those that it sees, in order.
type story struct {
	asked []message
	tools []tool
	turns []*matrix.Turn
}

// story is a leftOut where the role said nothing.
func (m *maker) story(ctx context.Context, t *matrix.Task) (*story, error) {
	first := slices.IndexFunc(t.Turns, func(turn matrix.Turn) bool { return turn.Role == m.Role && turn.Hop > 0 })
	if first < 0 {
		return nil, leftOut("in which " + m.Role + " said nothing")
	}
	d, err := m.conversation(ctx, t, first)
	if err != nil {
		return nil, err
	}
	if d.prompt != "" {
		return nil, fmt.Errorf("%s continues a text, and has no conversation", m.Role)
	}
	s := &story{asked: d.messages, tools: d.tools}
	var sees []string
	if who, ok := m.Asker.(agent.Mentioner); ok {
		for _, one := range who.Mentions() {
			if one.Key == "sees" {
				sees = one.Roles
			}
		}
	}
	for i := first; i < len(t.Turns); i++ {
		turn := &t.Turns[i]
		if turn.Role == m.Role || slices.Contains(sees, turn.Role) && turn.Error == "" {
			s.turns = append(s.turns, turn)
		}
	}
	return s, nil
}

// acted reports whether a turn is of a tool or a sandbox rather than of somebody who speaks.
func acted(t *matrix.Turn) bool {
	return len(t.ToolResults) > 0 || slices.ContainsFunc(t.Calls, func(c matrix.Call) bool { return c.Kind != matrix.KindModel })
}

// model is what a task's role was answered by: the name that the service tells, or that of
// the config.
func (s *story) model(role string) string {
	for i := len(s.turns) - 1; i >= 0; i-- {
		if c := s.turns[i].Call(); s.turns[i].Role == role && c != nil && c.Kind == matrix.KindModel {
			return cmp.Or(c.Model, c.Name)
		}
	}
	return ""
}

// ended is what a flow may say at its end for these formats, as fields of the value with
// which it finishes.
type ended struct {
	InstanceID string `json:"instance_id"` // of the row
	ExitStatus string `json:"exit_status"`
	Submission string `json:"submission"`
	Patch      string `json:"model_patch"`
}

func endOf(t *matrix.Task) ended {
	var e ended
	_ = json.Unmarshal(t.Item.Raw(), &e) // what is not there, or of another type, is empty
	id := cmp.Or(e.InstanceID, t.Row)
	e = ended{}
	if t.Outcome != nil {
		_ = json.Unmarshal(t.Outcome.Value.Raw(), &e)
		e.ExitStatus = cmp.Or(e.ExitStatus, t.Outcome.Stopped, "Submitted")
	}
	e.InstanceID = id
	e.Patch = cmp.Or(e.Patch, e.Submission)
	return e
}

// The Agent Trajectory Interchange Format of Harbor, version 1.8
// (harborframework.com/docs/trajectory-format).

type atif struct {
	SchemaVersion string      `json:"schema_version"`
	SessionID     string      `json:"session_id"`
	TrajectoryID  string      `json:"trajectory_id"`
	Agent         atifAgent   `json:"agent"`
	Steps         []*atifStep `json:"steps"`
	FinalMetrics  atifSums    `json:"final_metrics"`
	Extra         any         `json:"extra,omitempty"`
}

type atifAgent struct {
	Name            string `json:"name"`
	Version         string `json:"version"`
	ModelName       string `json:"model_name,omitempty"`
	ToolDefinitions []tool `json:"tool_definitions,omitempty"`
}

type atifStep struct {
	StepID           int              `json:"step_id"`
	Timestamp        string           `json:"timestamp,omitempty"`
	Source           string           `json:"source"` // system, user or agent
	ModelName        string           `json:"model_name,omitempty"`
	Message          string           `json:"message"`
	ReasoningContent string           `json:"reasoning_content,omitempty"`
	ToolCalls        []atifCall       `json:"tool_calls,omitempty"`
	Observation      *atifObservation `json:"observation,omitempty"`
	Metrics          *atifMetrics     `json:"metrics,omitempty"`
	LLMCallCount     *int             `json:"llm_call_count,omitempty"`
	Extra            map[string]any   `json:"extra,omitempty"`
}

type atifCall struct {
	ID        string         `json:"tool_call_id"`
	Name      string         `json:"function_name"`
	Arguments map[string]any `json:"arguments"`
	Extra     map[string]any `json:"extra,omitempty"`
}

type atifObservation struct {
	Results []atifResult `json:"results"`
}

type atifResult struct {
	SourceCallID string         `json:"source_call_id,omitempty"`
	Content      string         `json:"content"`
	Extra        map[string]any `json:"extra,omitempty"`
}

type atifMetrics struct {
	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	CachedTokens     int     `json:"cached_tokens"`
	CostUSD          float64 `json:"cost_usd"`
}

type atifSums struct {
	PromptTokens     int            `json:"total_prompt_tokens"`
	CompletionTokens int            `json:"total_completion_tokens"`
	CachedTokens     int            `json:"total_cached_tokens"`
	CostUSD          float64        `json:"total_cost_usd"`
	Steps            int            `json:"total_steps"`
	Extra            map[string]any `json:"extra,omitempty"`
}

// atif is a trajectory of the role: its turns are steps of the agent, and what tools and
// sandboxes answered are observations of the step that asked.
func (m *maker) atif(t *matrix.Task, s *story) any {
	x := &atif{SchemaVersion: "ATIF-v1.8", SessionID: t.ID, TrajectoryID: t.ID,
		Agent: atifAgent{Name: m.Role, Version: cmp.Or(m.Version, "unknown"), ModelName: s.model(m.Role), ToolDefinitions: s.tools}}
	step := func(source, message string) *atifStep {
		st := &atifStep{StepID: len(x.Steps) + 1, Source: source, Message: message}
		x.Steps = append(x.Steps, st)
		return st
	}
	asked := map[string]*atifStep{} // by the id of a call
	for i := range s.asked {
		one := &s.asked[i]
		switch one.Role {
		case "assistant":
			st := step("agent", one.Content)
			for _, c := range one.ToolCalls {
				st.call(c.ID, c.Function.Name, arguments(c.Function.Arguments))
				asked[c.ID] = st
			}
		case "tool":
			if st := asked[one.ToolCallID]; st != nil {
				st.observe(atifResult{SourceCallID: one.ToolCallID, Content: one.Content})
			}
		case "system":
			step("system", one.Content)
		default:
			step("user", one.Content)
		}
	}
	var last *atifStep // of the agent
	for _, turn := range s.turns {
		switch {
		case turn.Role == m.Role:
			last = step("agent", turn.Text)
			last.Timestamp, last.ReasoningContent = stamp(turn), turn.Reasoning
			for i := range turn.ToolCalls {
				c := &turn.ToolCalls[i]
				last.call(c.ID, c.Name, c.Arguments.Any())
				asked[c.ID] = last
			}
			last.account(turn)
			if turn.Error != "" {
				last.Extra = map[string]any{"error": turn.Error}
			}
		case acted(turn) && last != nil:
			for i := range turn.ToolResults {
				r := &turn.ToolResults[i]
				if st := asked[r.ID]; st != nil {
					st.observe(atifResult{SourceCallID: r.ID, Content: r.Content, Extra: traced(turn, r)})
				}
			}
			if len(turn.ToolResults) == 0 {
				last.observe(atifResult{Content: turn.Text, Extra: traced(turn, nil)})
			}
		case strings.TrimSpace(turn.Text) != "":
			step("user", turn.Text).Timestamp = stamp(turn)
		}
	}
	sum := &x.FinalMetrics
	for _, st := range x.Steps {
		if a := st.Metrics; a != nil {
			sum.PromptTokens += a.PromptTokens
			sum.CompletionTokens += a.CompletionTokens
			sum.CachedTokens += a.CachedTokens
			sum.CostUSD += a.CostUSD
		}
	}
	sum.Steps = len(x.Steps)
	if len(t.Metrics) > 0 {
		sum.Extra = map[string]any{}
		for name, v := range t.Metrics {
			sum.Extra[name] = v
		}
	}
	if t.Outcome != nil && !t.Outcome.Value.IsZero() {
		x.Extra = map[string]any{"value": t.Outcome.Value}
	}
	return x
}

func (s *atifStep) call(id, name string, arguments any) {
	c := atifCall{ID: id, Name: name}
	var ok bool
	if c.Arguments, ok = arguments.(map[string]any); !ok { // the format has objects alone
		c.Arguments, c.Extra = map[string]any{}, map[string]any{"arguments": arguments}
	}
	s.ToolCalls = append(s.ToolCalls, c)
}

func (s *atifStep) observe(r atifResult) {
	if s.Observation == nil {
		s.Observation = &atifObservation{}
	}
	s.Observation.Results = append(s.Observation.Results, r)
}

// account is what the model calls of a turn cost.
func (s *atifStep) account(t *matrix.Turn) {
	var n int
	var a atifMetrics
	for i := range t.Calls {
		if c := &t.Calls[i]; c.Kind == matrix.KindModel {
			n++
			a.PromptTokens += c.PromptTokens
			a.CompletionTokens += c.CompletionTokens
			a.CachedTokens += c.CachedTokens
			a.CostUSD += c.USD
			s.ModelName = cmp.Or(c.Model, c.Name)
		}
	}
	if s.LLMCallCount = &n; n > 0 {
		s.Metrics = &a
		return
	}
	s.ReasoningContent = "" // which a step without a model has none
}

// arguments are those of a call as an object, where they are one.
func arguments(v any) any {
	var raw []byte
	switch v := v.(type) {
	case string:
		raw = []byte(v)
	case json.RawMessage:
		raw = v
	}
	parsed, err := matrix.ParseValue(raw)
	if err != nil {
		return string(raw)
	}
	return parsed.Any()
}

// traced is the trace of the call that brought a result, and of a turn without results
// that of its last call.
func traced(t *matrix.Turn, r *matrix.ToolResult) map[string]any {
	extra := map[string]any{}
	for i := range t.Calls {
		if tr := t.Calls[i].Trace; tr != nil && (r == nil || tr.ID == r.ID) {
			extra["trace"] = tr
		}
	}
	if r != nil && r.IsError {
		extra["is_error"] = true
	}
	if len(extra) == 0 {
		return nil
	}
	return extra
}

func stamp(t *matrix.Turn) string {
	if t.Timing.At.IsZero() {
		return ""
	}
	return t.Timing.At.UTC().Format(time.RFC3339Nano)
}

// A trajectory of mini-swe-agent, trajectory_format mini-swe-agent-1.1.

type miniSWE struct {
	InstanceID string        `json:"instance_id"`
	Info       miniInfo      `json:"info"`
	Messages   []miniMessage `json:"messages"`
	Format     string        `json:"trajectory_format"`
}

type miniInfo struct {
	ModelStats struct {
		InstanceCost float64 `json:"instance_cost"`
		APICalls     int     `json:"api_calls"`
	} `json:"model_stats"`
	Config struct {
		Model struct {
			ModelName string `json:"model_name"`
		} `json:"model"`
	} `json:"config"`
	MiniVersion string `json:"mini_version"` // of what made it
	ExitStatus  string `json:"exit_status"`
	Submission  string `json:"submission"`
}

type miniMessage struct {
	message
	Extra map[string]any `json:"extra,omitempty"`
}

// miniSWE is the conversation of the role as the OpenAI API has it, and what its commands
// came to beside it.
func (m *maker) miniSWE(t *matrix.Task, s *story) any {
	end := endOf(t)
	x := &miniSWE{InstanceID: end.InstanceID, Format: "mini-swe-agent-1.1"}
	for _, one := range s.asked {
		x.Messages = append(x.Messages, miniMessage{message: textual(one)})
	}
	x.Info.Config.Model.ModelName = s.model(m.Role)
	x.Info.MiniVersion, x.Info.ExitStatus, x.Info.Submission = "matrix "+cmp.Or(m.Version, "unknown"), end.ExitStatus, end.Submission
	for _, turn := range s.turns {
		at := float64(turn.Timing.At.UnixMicro()) / 1e6
		switch {
		case turn.Role == m.Role:
			var cost float64
			for i := range turn.Calls {
				if c := &turn.Calls[i]; c.Kind == matrix.KindModel {
					cost += c.USD
					x.Info.ModelStats.APICalls++
				}
			}
			x.Info.ModelStats.InstanceCost += cost
			x.Messages = append(x.Messages, miniMessage{textual(m.reply(turn.Text, turn.ToolCalls)), map[string]any{"actions": actions(turn), "cost": decimal(cost), "timestamp": at}})
		case len(turn.ToolResults) > 0:
			for i := range turn.ToolResults {
				r := &turn.ToolResults[i]
				x.Messages = append(x.Messages, miniMessage{message{Role: "tool", Content: r.Content, ToolCallID: r.ID, Name: r.Name}, came(turn, r, at)})
			}
		case strings.TrimSpace(turn.Text) != "":
			x.Messages = append(x.Messages, miniMessage{message{Role: "user", Content: turn.Text}, came(turn, nil, at)})
		}
	}
	x.Messages = append(x.Messages, miniMessage{message{Role: "exit", Content: cmp.Or(end.Submission, end.ExitStatus)}, map[string]any{"exit_status": end.ExitStatus, "submission": end.Submission}})
	return x
}

// textual is a message whose arguments are text, as the API itself has them.
func textual(one message) message {
	one.ToolCalls = slices.Clone(one.ToolCalls)
	for i := range one.ToolCalls {
		f := &one.ToolCalls[i].Function
		if raw, ok := f.Arguments.(json.RawMessage); ok {
			f.Arguments = string(raw)
		}
	}
	return one
}

// actions are the commands that a turn asks for: of its calls, or what was parsed from its
// text.
func actions(t *matrix.Turn) []map[string]any {
	all := []map[string]any{}
	for i := range t.ToolCalls {
		c := &t.ToolCalls[i]
		a := map[string]any{"tool_call_id": c.ID}
		if args, ok := c.Arguments.Any().(map[string]any); ok {
			a["command"] = args["command"]
		}
		all = append(all, a)
	}
	data, _ := t.Data.Any().(map[string]any)
	switch answer := data["answer"].(type) {
	case string:
		all = append(all, map[string]any{"command": answer})
	case []any:
		for _, one := range answer {
			all = append(all, map[string]any{"command": one})
		}
	}
	return all
}

// came is what a command came to: its exit code, and its output as it was.
func came(t *matrix.Turn, r *matrix.ToolResult, at float64) map[string]any {
	extra := map[string]any{"timestamp": at}
	for i := range t.Calls {
		if tr := t.Calls[i].Trace; tr != nil && (r == nil || tr.ID == r.ID) {
			extra["returncode"] = tr.Code
		}
	}
	data, _ := t.Data.Any().(map[string]any)
	if out, ok := data["out"].(string); ok && r == nil {
		extra["raw_output"] = out
	} else if r != nil {
		extra["raw_output"] = r.Content
	}
	return extra
}

// prediction is what the graders of SWE-bench read, an object of them by instance_id.
type prediction struct {
	Model      string `json:"model_name_or_path"`
	InstanceID string `json:"instance_id"`
	Patch      string `json:"model_patch"`
}

// predictions writes one object of predictions by instance.
type predictions struct {
	b    *bufio.Writer
	seen map[string]bool
}

func (w *predictions) write(id string, row []byte) error {
	var p prediction
	if err := json.Unmarshal(row, &p); err != nil {
		return err
	}
	if w.seen[p.InstanceID] {
		return &TaskError{id, fmt.Errorf("instance %s has a prediction already: choose one, such as by where: trial == 0", p.InstanceID)}
	}
	w.seen[p.InstanceID] = true
	head := "{\n"
	if len(w.seen) > 1 {
		head = ",\n"
	}
	_, err := w.b.Write(slices.Concat([]byte(head+asText(p.InstanceID)+": "), row))
	return err
}

func (w *predictions) close(context.Context) error {
	if len(w.seen) == 0 {
		_, _ = w.b.WriteString("{")
	}
	_, _ = w.b.WriteString("\n}\n")
	return w.b.Flush()
}

func (w *predictions) discard() {}
