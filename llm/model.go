package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"matrix/internal/fielderror"
	"matrix/internal/jsontext"
	"matrix/internal/usage"
)

// Model answers requests. All its methods may be called concurrently.
type Model interface {
	// Do returns the reply to r. It blocks as long as that takes: waiting for
	// room, for budget, for the service to come back, for retries. What waits gives
	// up when matrix.Stopping(ctx) ends; a call that is at the server goes on until
	// ctx does. An error is an *Error, or wraps what ended either.
	Do(ctx context.Context, r *Request) (*Reply, error)

	// Stats counts what the model has done so far. It is cheap.
	Stats() Stats

	// Close frees what the model holds. No Do may be under way.
	Close() error
}

// Request is one call. Exactly one of Messages, Prompt and Input is set: a chat,
// a text to be continued, texts to be embedded. A Request must not be changed
// while Do runs.
type Request struct {
	Messages []Message
	Prompt   string
	Input    []string

	Tools      []Tool
	ToolChoice string  // auto, none, required, or the name of a tool; empty leaves it to the service
	Format     *Format // what the reply must look like; nil for any text
	Sampling   Sampling

	Key     string // names this call among all others, the same in every retry; empty: no such header is sent
	Session string // calls of one session share beginnings of their prompts, and stay at one endpoint for its cache
	Ask     Ask

	// OnDelta is told of each piece of a reply as it comes, where the service
	// streams; false ends the reply there. It is called by one goroutine at a
	// time, and again from the beginning when a try is repeated. Setting it
	// makes the call stream.
	OnDelta func(Delta) bool

	unmarked *unmarked // of the Client that sends it
}

// Message is one entry of a conversation.
type Message struct {
	Role    string // system, user, assistant or tool
	Content string
	Images  []Image // behind the content; of a user

	ToolCalls  []ToolCall // that an assistant made
	ToolCallID string     // of the call that a message of role tool answers
	ToolName   string     // of the tool that did; some services want it
	IsError    bool       // the tool could not do it; a service with the OpenAI API has no word for that

	Opaque json.RawMessage // that of the assistant's Choice, where the message is one; may be left out

	// Extra are fields of a message of the OpenAI API that a service with that
	// API is sent as they are; they win over the ones above. Others are not.
	Extra map[string]any
}

// Image is a picture that is part of a message: where it is, or what it is.
type Image struct {
	URL    string // http or https: the service fetches it
	Data   []byte // the file itself
	Media  string // of Data: image/png, image/jpeg, image/webp or image/gif
	Detail string // low, high or auto, where the service knows it
}

// Tool is a function that a model may ask for.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"` // JSON Schema of an object
	Strict      bool            `json:"strict,omitempty"`     // the service is to hold the model to the schema
}

// ToolCall is a model asking for a function.
type ToolCall struct {
	ID        string // made up where the service gives none
	Name      string
	Arguments string // JSON as the model wrote it, which may be none
}

// Object is Arguments as an object, for services that want one: what is none goes
// into one.
func (c *ToolCall) Object() json.RawMessage {
	b := []byte(strings.TrimSpace(c.Arguments))
	switch {
	case len(b) == 0:
		return json.RawMessage("{}")
	case b[0] == '{' && json.Valid(b):
		return b
	}
	return append(jsontext.AppendString([]byte(`{"arguments":`), c.Arguments), '}')
}

// Format is what a reply must look like: one of its fields is set. A driver sends
// it in the service's own way, or fails with kind Refused and a hint where the
// service has none. Whoever asks checks the reply all the same.
type Format struct {
	JSON    bool            // any JSON object
	Schema  json.RawMessage // JSON Schema
	Name    string          // of the schema, where the service wants one; may be empty
	Regex   string          // the whole reply matches it
	Choice  []string        // the reply is one of them
	Grammar string          // EBNF, in the service's dialect
}

// Delta is a piece of a reply that is being streamed.
type Delta struct {
	Choice    int // of n
	Text      string
	Reasoning string
}

// Ask says who asks. A service never sees it; scripted and replayed models
// answer by it, Record writes it down, and a Client is fair between roles.
type Ask struct {
	ID    string // the row's id
	Role  string // who speaks
	Trial int    // which trial of the row, from 0
	Nth   int    // replies that this role got from a model in this task before, from 0; a turn written by the flow itself does not count
	Reask int    // asked again so often because the reply did not parse
	Item  any    // the decoded row

	Priority int // of those who wait for a slot at the model, larger goes first
}

// Reply is what a call brought. Texts are passed on as they came, also when
// they are empty or were cut at the length limit: the caller judges that.
type Reply struct {
	Choices  []Choice    // at least one, but of an embedding
	Vectors  [][]float32 // of an embedding, one for each input
	Usage    Usage
	Model    string          // as the server reports it
	Revision string          // of the model or the server, where it says so (system_fingerprint)
	Endpoint string          // base URL without credentials; empty where there is none
	Params   json.RawMessage // parameters as sent, without the conversation: a JSON object
	Quota    []Quota         // what the service said of its limits; for the Client
	Reused   *Reused         // where the reply was paid for; nil: here. See Reuse

	// A driver sets First, and of Asked what it sends unasked; a Client the others.
	Asked   Asked
	Retries int           // tries before the one that succeeded
	Wait    time.Duration // for a slot at the service
	Retry   time.Duration // lost to failed tries, to backoff, and to outages
	First   time.Duration // from sending to the first token; 0 where the reply was not streamed
	Took    time.Duration // the try that succeeded
}

// Asked is what a call asked for, 0 where that is unknown.
type Asked struct {
	N         int // choices
	MaxTokens int // most tokens of each
}

// Choice is one reply text.
type Choice struct {
	Text      string
	Reasoning string // what the model thought aloud; a Client takes it apart from the text where the service did not
	ToolCalls []ToolCall
	Finish    string          // finish_reason: stop, length, tool_calls, ... as the server says it: see EndOf
	Logprobs  json.RawMessage // as the server gives them; nil where not asked for

	// Opaque is what the service wants back with this reply, as it is: signed
	// thoughts. Only a driver of the same kind reads it. nil: nothing.
	Opaque json.RawMessage
}

// Usage counts tokens, and money once the model has a price.
type Usage struct {
	Tokens
	Images    int     `json:"images,omitempty"`    // sent
	Estimated bool    `json:"estimated,omitempty"` // some of the tokens are, because the service did not count them
	USD       float64 `json:"usd,omitempty"`       // as the service reports it; else by the model's price
}

// Tokens counts the tokens of calls.
type Tokens = usage.Tokens

// add sums what two calls took.
func (u *Usage) add(x Usage) {
	u.Tokens.Add(x.Tokens, 1)
	u.Images += x.Images
	u.Estimated = u.Estimated || x.Estimated
	u.USD += x.USD
}

// Quota is what a service says of one of its limits.
type Quota struct {
	Tokens bool          // it counts tokens, not requests
	Limit  int           // a minute; 0 unknown
	Left   int           // now
	Reset  time.Duration // until it is whole again; 0 unknown
}

// Stats counts since the model was made.
type Stats struct {
	InFlight         int             `json:"in_flight"` // calls at the service now
	Limit            int             `json:"limit"`     // calls at the service at once, as found or set; 0 for no limit
	Waiting          int             `json:"waiting"`   // calls that wait for a slot
	Calls            int64           `json:"calls"`     // calls that brought a reply
	Failed           int64           `json:"failed"`    // calls that brought none, and were not ended from outside
	Seconds          float64         `json:"seconds"`   // that the replies took, in all, by the tries that brought them
	Retries          int64           `json:"retries"`   // failed tries that were repeated
	PromptTokens     int64           `json:"prompt_tokens"`
	CompletionTokens int64           `json:"completion_tokens"`
	CachedTokens     int64           `json:"cached_tokens"`
	USD              float64         `json:"usd"`
	Paused           *Trouble        `json:"paused,omitempty"` // why the model is waited for; nil while it answers
	Note             *Trouble        `json:"note,omitempty"`   // what is wrong while it is not paused: tries that all fail, a list of endpoints that cannot be read; nil: nothing
	Endpoints        []EndpointStats `json:"endpoints,omitempty"`
}

// EndpointStats is how one endpoint of a model does.
type EndpointStats struct {
	URL      string   `json:"url"`
	InFlight int      `json:"in_flight"`
	Limit    int      `json:"limit"`
	Calls    int64    `json:"calls"`
	Fault    *Trouble `json:"fault,omitempty"` // why it gets no calls now; nil while it does
}

// Trouble is what keeps a model or an endpoint from answering.
type Trouble struct {
	Since time.Time `json:"since,omitzero"` // when it began; zero where that is not known
	Kind  Kind      `json:"kind"`           // of the newest failure; Unreachable where there is no address to try
	Msg   string    `json:"message"`        // what is wrong
}

// String is the message and for how long that has been so: "http://h: 503, 12 s".
// That of nil is empty.
func (t *Trouble) String() string {
	switch {
	case t == nil:
		return ""
	case t.Since.IsZero():
		return t.Msg
	}
	return fmt.Sprintf("%s, %d s", t.Msg, int(time.Since(t.Since).Seconds()))
}

// Driver carries calls to one address of a service, one try at a time. It is used
// concurrently, and it neither waits nor retries: a Client does. The rules:
//
//   - Sampling of r is complete: a Client has laid the caller's over the model's.
//   - Reply.Params is set, Choices are not empty, First is set where r streams.
//   - An error is a *Failure, or ctx.Err() where ctx ended.
//   - A reply that the service declares broken is a Failure, or has a Finish that
//     says so (EndOf); a Client makes a Failure of that.
type Driver interface {
	Send(ctx context.Context, r *Request) (*Reply, error)

	// Probe asks whether the service is there, at no cost, and which models it
	// serves. It returns nil and no error where the service cannot tell.
	Probe(ctx context.Context) ([]Served, error)

	// Close ends idle connections. No Send may be under way.
	Close() error
}

// Prober is a model with endpoints that can be asked whether they are there and
// what they serve, at no cost: a Client.
type Prober interface {
	Probe(ctx context.Context) []ProbeResult
}

// Served is a model that an endpoint has.
type Served struct {
	Name    string
	Owner   string // vllm, sglang, ...: what serves it
	Context int    // longest prompt and reply together, in tokens; 0 unknown
}

// FieldError is a config value that cannot be used.
type FieldError = fielderror.Error
