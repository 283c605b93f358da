package matrix

import (
	"encoding/json"
	"iter"
	"time"

	"matrix/internal/usage"
)

// Task is one journey: a row times a trial, or an element of a list that another task
// came to. It is pure data, it carries its whole state, and it is in one hand at a time.
type Task struct {
	ID      string              `json:"id"`     // names it in a run: the row's id, and "#trial" from the second trial on; of a child its parent's and "/index"
	Row     string              `json:"row"`    // the row's id, or its address "file:line" where it has none
	Trial   int                 `json:"trial"`  // 0 for the first
	Parent  string              `json:"parent"` // the id of the task that it is a child of; empty of one that a row began
	Seed    int64               `json:"seed"`   // the same in every run of the same config
	Item    Value               `json:"item"`   // the row, never changed
	Turns   []Turn              `json:"turns"`  // what the agents added, oldest first: the single source of truth
	Outcome *Outcome            `json:"outcome,omitempty"`
	Metrics map[string]*float64 `json:"metrics,omitempty"` // of a task that is done; nil says nothing

	Siblings int     `json:"siblings"` // of a child: how many there are, itself included
	Waited   bool    `json:"waited"`   // of a child: the parent goes on when it and its siblings have ended
	Expanded int     `json:"expanded"` // children that it has had
	Children []Child `json:"children"` // those of the newest expansion that it waited for, in order

	Leases map[string]any `json:"-"` // by pool, for who acts: what the task's state there says of itself

	Path      []int      `json:"-"` // from the task that the row began to this one: the index of each child
	Expansion *Expansion `json:"-"` // that is under way

	Priority Priority  `json:"priority"` // of its row, as that was fed
	Fed      time.Time `json:"-"`        // when the task entered the run
	Hop      int       `json:"-"`        // commits so far
}

// Rank orders the tasks that wait for a role, larger first: by class, and in a class
// those that are under way before new ones, so that rows finish early and few are
// half done.
func (t *Task) Rank() int {
	rank := 2 * int(t.Priority)
	if last := t.Last(); last != nil && last.Hop > 0 || t.Depth() > 0 {
		rank++
	}
	return rank
}

// Last returns the newest turn, or nil before the first.
func (t *Task) Last() *Turn {
	if len(t.Turns) == 0 {
		return nil
	}
	return &t.Turns[len(t.Turns)-1]
}

// Rounds counts the turns that role has taken.
func (t *Task) Rounds(role string) int {
	n := 0
	for i := range t.Turns {
		if t.Turns[i].Role == role {
			n++
		}
	}
	return n
}

// Calls goes over the calls of all turns, oldest first.
func (t *Task) Calls() iter.Seq[*Call] {
	return func(yield func(*Call) bool) {
		for i := range t.Turns {
			for k := range t.Turns[i].Calls {
				if !yield(&t.Turns[i].Calls[k]) {
					return
				}
			}
		}
	}
}

// Turn is what one agent added.
type Turn struct {
	Role    string   `json:"role"`
	Text    string   `json:"text,omitempty"`
	Data    Value    `json:"data,omitzero"`     // what was parsed from the text, or computed
	Samples []Sample `json:"samples,omitempty"` // all n replies, when more than one was asked for; the first is also Text and Data
	Error   string   `json:"error,omitempty"`   // why the agent could not do its step; the router judges it

	Reasoning   string       `json:"reasoning,omitempty"`    // what the model thought aloud, apart from its answer
	ToolCalls   []ToolCall   `json:"tool_calls,omitempty"`   // what the model asks for
	ToolResults []ToolResult `json:"tool_results,omitempty"` // what tools answered
	Logprobs    Value        `json:"logprobs,omitzero"`      // of the text's tokens, as the service gives them
	Opaque      Value        `json:"opaque,omitzero"`        // what the service wants back with the turn's tool calls, signed thoughts; not for people

	Calls  []Call `json:"calls,omitempty"` // that the agent made for the turn, in order
	Hop    int    `json:"hop"`             // the commit that holds the turn; 0 for turns the task was seeded with
	Timing Timing `json:"timing,omitzero"`
}

// Call is the turn's calls as one: tokens, money, retries and times are sums, and
// the rest is the last model call's, or of calls of other kinds alone the last
// one's. The time to the first token is the last one's, too. It is nil where there
// are none, and is not to be changed.
func (t *Turn) Call() *Call {
	if len(t.Calls) < 2 {
		if len(t.Calls) == 0 {
			return nil
		}
		return &t.Calls[0]
	}
	last := len(t.Calls) - 1
	for i := last; i >= 0; i-- {
		if t.Calls[i].Kind == KindModel {
			last = i
			break
		}
	}
	sum := t.Calls[last]
	for i := range t.Calls {
		if c := &t.Calls[i]; i != last {
			sum.Retries += c.Retries
			sum.Tokens.Add(c.Tokens, 1)
			sum.Estimated = sum.Estimated || c.Estimated
			sum.USD += c.USD
			sum.WaitMS += c.WaitMS
			sum.RetryMS += c.RetryMS
			sum.TookMS += c.TookMS
		}
	}
	return &sum
}

// Sample is one of several replies to the same prompt.
type Sample struct {
	Text      string     `json:"text"`
	Data      Value      `json:"data,omitzero"`
	Reasoning string     `json:"reasoning,omitempty"`
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
	Logprobs  Value      `json:"logprobs,omitzero"`
	Opaque    Value      `json:"opaque,omitzero"`  // as of a turn
	Finish    string     `json:"finish,omitempty"` // finish_reason
}

// ToolCall is a model asking for a function.
type ToolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments Value  `json:"arguments"` // the JSON that the model wrote; a string of it where it is none
}

// ToolResult is what a tool answered to a call. The model is told the content, and where
// the service has a word for it, that it is an error.
type ToolResult struct {
	ID      string `json:"id"` // of the call
	Name    string `json:"name,omitempty"`
	Content string `json:"content"`
	IsError bool   `json:"is_error,omitempty"` // the tool could not do it, and the content says why
}

// UnmarshalJSON also reads results of earlier versions, which had an error beside the content.
func (r *ToolResult) UnmarshalJSON(b []byte) error {
	type plain ToolResult
	var in struct {
		plain
		Error string `json:"error"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*r = ToolResult(in.plain)
	r.Fail(in.Error)
	return nil
}

// Fail makes r an error with a cause, which is told behind the content that r has. An
// empty cause changes nothing.
func (r *ToolResult) Fail(cause string) {
	if cause == "" {
		return
	}
	if r.IsError = true; r.Content != "" {
		r.Content += "\n"
	}
	r.Content += "error: " + cause
}

// Timing says when a turn was made and what the task waited for.
type Timing struct {
	At       time.Time `json:"at"`                 // when the agent began
	QueuedMS float64   `json:"queued_ms"`          // waiting for a free worker
	DelayMS  float64   `json:"delay_ms,omitempty"` // waiting for a retry to fall due
	TookMS   float64   `json:"took_ms"`            // in the agent, model included
	Attempts int       `json:"attempts,omitempty"` // attempts spent before this one
}

// CallKind is what was called.
type CallKind string

// The kinds of calls.
const (
	KindModel   CallKind = "model"
	KindTool    CallKind = "tool"
	KindSandbox CallKind = "sandbox"
)

// Call is one call that an agent made for a turn, of a model or of something
// else: what was called, what it brought and what it cost. Each call that was
// answered stands for itself, also one whose reply could not be used.
type Call struct {
	Kind     CallKind `json:"kind"`
	Name     string   `json:"name"`               // in the config: of the model, the tool, the sandbox
	Model    string   `json:"model,omitempty"`    // as the server reports it
	Revision string   `json:"revision,omitempty"` // of the model or the server, where it says so
	Endpoint string   `json:"endpoint,omitempty"` // base URL, without credentials
	Params   Value    `json:"params,omitzero"`    // parameters as sent, seed included
	Prompt   string   `json:"prompt,omitempty"`   // revision: a hash of the templates
	Request  string   `json:"request,omitempty"`  // a hash of what was asked: llm.Request.Hash
	Seed     *int64   `json:"seed,omitempty"`     // that the reply was drawn with; nil: none was sent
	Finish   string   `json:"finish,omitempty"`   // finish_reason
	Error    string   `json:"error,omitempty"`    // why what it brought could not be used
	Reused   *Reused  `json:"reused,omitempty"`   // the reply was paid for in another run; nil: the service gave it

	Retries int `json:"retries,omitempty"`
	Tokens
	Estimated bool    `json:"estimated,omitempty"` // some of the tokens are, because the service did not count them
	USD       float64 `json:"usd,omitempty"`
	WaitMS    float64 `json:"wait_ms,omitempty"`        // for a slot at the model
	RetryMS   float64 `json:"retry_ms,omitempty"`       // lost to failed tries and backoff
	FirstMS   float64 `json:"first_token_ms,omitempty"` // time to first token, where the reply was streamed
	TookMS    float64 `json:"took_ms,omitempty"`        // at the service

	Trace *Trace `json:"trace,omitempty"` // of a call of a tool or a sandbox; else nil
}

// Trace is how a call of a tool or a sandbox went. Params says what was asked. What was
// answered stands in the turn: in the result of the tool call ID, or where there was
// none, in its text and data.
type Trace struct {
	ID         string  `json:"id,omitempty"`         // of the tool call that it answers
	Tool       string  `json:"tool,omitempty"`       // the name under which the model called it
	IsError    bool    `json:"is_error,omitempty"`   // the tool could not do it
	Changed    bool    `json:"changed,omitempty"`    // the state may be another one since
	Lease      string  `json:"lease,omitempty"`      // the state that was asked: a sandbox, an environment
	Generation int     `json:"generation,omitempty"` // how often that state was made: 1 for the first time
	Restored   string  `json:"restored,omitempty"`   // how the state came to be that the call met: fresh, live, disk or replay
	Code       int     `json:"code,omitempty"`       // exit code of a command
	Signal     string  `json:"signal,omitempty"`     // that ended it, as SIGKILL
	Cut        int64   `json:"cut,omitempty"`        // bytes of its output that were left out
	TimedOut   bool    `json:"timed_out,omitempty"`  // it took longer than it may
	OOM        bool    `json:"oom,omitempty"`        // a process of it was killed for memory
	CPUMS      float64 `json:"cpu_ms,omitempty"`     // user and system
	PeakBytes  int64   `json:"peak_bytes,omitempty"` // of memory
}

// Failed reports whether the call came to no good end: the tool says so, or the command
// ended in another way than with exit code 0.
func (t *Trace) Failed() bool {
	return t.IsError || t.Code != 0 || t.Signal != "" || t.TimedOut || t.OOM
}

// Reused says where the reply to a call comes from that was not made again.
type Reused struct {
	Run  string `json:"run"`  // the folder of the run, as it was named
	Task string `json:"task"` // whose turn has the reply there
}

// Tokens counts the tokens of calls.
type Tokens = usage.Tokens

const maxSummed = 1 << 10 // a count read from a file makes no more calls

// SummedCalls is n calls of which only the sum is known: records of earlier
// versions have no more of a turn. The last one holds it.
func SummedCalls(sum Call, n int) []Call {
	if sum.Kind == "" {
		sum.Kind = KindModel
	}
	calls := make([]Call, min(max(1, n), maxSummed))
	for i := range calls {
		calls[i] = Call{Kind: sum.Kind, Name: sum.Name}
	}
	calls[len(calls)-1] = sum
	return calls
}

// Outcome is how a task ended. It is set once.
type Outcome struct {
	Status  Status `json:"status"`
	Value   Value  `json:"value,omitzero"`    // what the flow finished with; absent where it says nothing
	Cause   string `json:"cause,omitempty"`   // why it failed or was dropped
	Stopped string `json:"stopped,omitempty"` // what ended it before its flow did, though done or dropped: the role at which stop held, or a limit
	Fault   Fault  `json:"fault,omitempty"`   // what made it fail

	// Signature is what a done task is compared by with others. In an output stands
	// only one that cannot be made again of the task: a vector, float32, little-endian.
	Signature []byte `json:"signature,omitempty"`
}

// Fault is what made a task fail.
type Fault string

// The faults.
const (
	FaultFlow   Fault = "flow"   // none: the flow says that it has failed
	FaultStep   Fault = "step"   // the last turn has an error that the flow does not handle
	FaultRouter Fault = "router" // who acts next could not be decided
	FaultLimit  Fault = "limit"  // the task came to a limit
	FaultRow    Fault = "row"    // the row could not be made a task
)

// Status is the fate of a task.
type Status string

// The fates: every task is exactly one of them.
const (
	Pending  Status = "owed"     // not finished yet: still in a queue, or not fed
	Done     Status = "done"     // finished and kept: its row stands in the output
	Dropped  Status = "dropped"  // finished, and not wanted, with a reason
	Expanded Status = "expanded" // became other tasks, and waits for none of them
	Failed   Status = "failed"   // ended with a cause, and its turns stand in the failed output
)

// Ends are the fates of tasks that have ended. Each has an output of its own.
func Ends() []Status { return []Status{Done, Dropped, Expanded, Failed} }
