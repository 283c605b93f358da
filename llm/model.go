package llm

import (
	"context"
	"encoding/json"
	"time"
)

// Model answers chat requests. All its methods may be called concurrently.
type Model interface {
	// Chat returns the reply to r. It blocks as long as that takes: waiting
	// for a free slot, for the service to come back, for retries. An error is
	// an *Error, or wraps what ended ctx.
	Chat(ctx context.Context, r *Request) (*Reply, error)

	// Stats counts what the model has done so far. It is cheap.
	Stats() Stats

	// Close frees what the model holds. No Chat may be under way.
	Close() error
}

// Message is one entry of a conversation.
type Message struct {
	Role    string // system, user or assistant
	Content string
}

// WithPatience returns a ctx for Chat whose waiting ends with patience: a call
// that waits for a slot, for the service to come back, or for its next try then
// returns the error of patience. A call that is at the server goes on until ctx
// ends. patience must end when ctx does.
func WithPatience(ctx, patience context.Context) context.Context {
	return context.WithValue(ctx, patienceKey{}, patience)
}

type patienceKey struct{}

// patience is how long a call with ctx waits.
func patience(ctx context.Context) context.Context {
	if p, ok := ctx.Value(patienceKey{}).(context.Context); ok {
		return p
	}
	return ctx
}

// Request is one chat call. It must not be changed while Chat runs.
type Request struct {
	Messages []Message
	Sampling Sampling // what is set here wins over the model's own
	Key      string   // names this call among all others, the same in every retry; empty: no such header is sent
	Ask      Ask
}

// Ask says who asks. A service never sees it; scripted and replayed models
// answer by it, and Record writes it down.
type Ask struct {
	ID    string // the row's id
	Role  string // who speaks
	Trial int    // which trial of the row, from 0
	Nth   int    // replies that this role got from a model in this task before, from 0; a turn written by the flow itself does not count
	Reask int    // asked again so often because the reply did not parse
	Item  any    // the decoded row
}

// Choice is one reply text.
type Choice struct {
	Text   string
	Finish string // finish_reason: stop, length, ... as the server says it
}

// Usage counts tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
}

// Reply is what a call brought. Texts are passed on as they came, also when
// they are empty or were cut at the length limit: the caller judges that.
type Reply struct {
	Choices  []Choice // at least one
	Usage    Usage
	Model    string          // as the server reports it
	Endpoint string          // base URL without credentials; empty where there is none
	Params   json.RawMessage // sampling parameters as sent, a JSON object

	Retries int           // tries before the one that succeeded
	Wait    time.Duration // for a free slot
	Retry   time.Duration // lost to failed tries, to backoff, and to outages
	Took    time.Duration // the try that succeeded
}

// Stats counts since the model was made.
type Stats struct {
	InFlight         int   // calls at the service now
	Calls            int64 // calls that brought a reply
	Retries          int64 // failed tries that were repeated
	PromptTokens     int64
	CompletionTokens int64
	Paused           string // why and since when the model is waited for; empty while it answers
}

// FieldError is a config value that cannot be used.
type FieldError struct {
	Field string // the key, as in YAML
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }
