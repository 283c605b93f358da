package llm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what a try that failed means, and with it the fate of the call. It is
// decided by status and code fields and by the types of Go's errors, never by
// the wording of a message.
type Kind uint8

// After a failure of one of these kinds a Client tries again: its caller never
// sees them.
const (
	Capacity    Kind = iota // the service is there and full: 429, 503, 529
	Unreachable             // no connection: refused, no route, no address
	Transport               // a connection that brought nothing, or half: reset, cut off, 502
	Timeout                 // no reply in time, or none of its next tokens
	Fault                   // an answer that is none: 500, not JSON, no choices, a reply that the server broke off
)

// A failure of one of these kinds ends the call.
const (
	// Refused: the service will not answer this request, now or later (a
	// parameter it does not know, refused content, a reply beyond all bounds).
	// The request is at fault, others may go on.
	Refused Kind = iota + 16
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

// final says that a failure of this kind ends the call.
func (k Kind) final() bool { return k >= Refused }

func kindNames() map[Kind]string {
	return map[Kind]string{
		Capacity: "capacity", Unreachable: "unreachable", Transport: "transport", Timeout: "timeout", Fault: "fault",
		Refused: "refused", Context: "context", Fatal: "fatal", Transient: "transient",
	}
}

func (k Kind) String() string {
	if s, ok := kindNames()[k]; ok {
		return s
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// MarshalText writes the name of a kind.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (k *Kind) UnmarshalText(text []byte) error {
	for kind, name := range kindNames() {
		if name == string(text) {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("there is no kind of failure %q", text)
}

// Failure is a try that brought no reply.
type Failure struct {
	Kind     Kind
	Endpoint string // base URL, without credentials
	Status   int    // HTTP status; 0 where there was none
	Code     string // the service's own code, where it gave one
	Msg      string // one line, without secrets
	Hint     string // what to do about it

	After      time.Duration   // Retry-After; 0 where the service did not say
	EmptyReply bool            // the service answered with success, and without a reply
	Sent       bool            // the service may have worked on it, and may charge for it
	Usage      *Usage          // what it cost, where the service said so
	Params     json.RawMessage // as in a Reply
	Quota      []Quota
}

func (f *Failure) Error() string {
	if f.Status != 0 {
		return fmt.Sprintf("%s: %d: %s", f.Endpoint, f.Status, f.Msg)
	}
	return f.Endpoint + ": " + f.Msg
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
	Err      error  // of this machine, such as a full disk, that made it, where one did; Msg says it

	// How the call went, as in a Reply.
	Params  json.RawMessage // sampling parameters as sent; nil where nothing was sent
	Usage   *Usage          // what the one that decided cost, where the service said so, and a call that was made again to judge it
	Retries int             // tries before the one that decided
	Wait    time.Duration   // for a free slot
	Retry   time.Duration   // all other time: tries, backoff and outages
}

func (e *Error) Unwrap() error { return e.Err }

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

// AsError gives err the model's name and, where it has none, a fate.
func AsError(name string, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Kind: Refused, Model: name, Msg: err.Error()}
	}
	if e.Model != "" {
		return err
	}
	named := *e
	named.Model = name
	return &named
}
