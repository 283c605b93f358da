package llm

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Kind is the one fate of an Error.
type Kind int

// The fates of a call that brought no reply.
const (
	// Refused: the service will not answer this request, now or later (a
	// parameter it does not know, refused content, a reply beyond all bounds).
	// The request is at fault, others may go on.
	Refused Kind = iota
	// Context: as Refused, because the conversation is too long for the model.
	Context
	// Fatal: no request will be answered until a person changes something (a
	// wrong key or model, no quota, a wrong address).
	Fatal
	// Transient: this request failed again and again while the service
	// answered others, so waiting for the service is not the cure. A later try
	// may work.
	Transient
)

func (k Kind) String() string {
	switch k {
	case Refused:
		return "refused"
	case Context:
		return "context"
	case Fatal:
		return "fatal"
	case Transient:
		return "transient"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Error is a call that brought no reply.
type Error struct {
	Kind     Kind
	Model    string // the model's name in the config
	Endpoint string // base URL without credentials; empty where there is none
	Status   int    // HTTP status; 0 where there was none
	Code     string // the service's own code, where it gave one
	Msg      string // what went wrong, in the service's words where it had some
	Hint     string // what to do about it

	// How the call went, as in a Reply.
	Params  json.RawMessage // sampling parameters as sent; nil where nothing was sent
	Retries int             // tries before the one that decided
	Wait    time.Duration   // for a free slot
	Retry   time.Duration   // all other time: tries, backoff and outages
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "model %q", e.Model)
	if e.Endpoint != "" {
		b.WriteString(" at " + e.Endpoint)
	}
	b.WriteString(": ")
	if e.Status != 0 {
		fmt.Fprintf(&b, "%d", e.Status)
		if e.Code != "" {
			b.WriteString(" " + e.Code)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}
