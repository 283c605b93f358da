package jslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/internal/pause"
)

// apiError is what a server says of a request that it does not fulfil.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return e.Description }

// Is compares what went wrong, and not what is said of it.
func (e *apiError) Is(target error) bool {
	t, ok := target.(*apiError)
	return ok && e.ErrCode == t.ErrCode
}

var (
	errWrongLast   = &apiError{ErrCode: 10071, Description: "another message stands there"}
	errTooLarge    = &apiError{ErrCode: 10054, Description: "the message is too large for the stream"}
	errNoMessage   = &apiError{ErrCode: 10037, Description: "no message"}
	errNoStream    = &apiError{ErrCode: 10059, Description: "no stream"}
	errStreamTaken = &apiError{ErrCode: 10058, Description: "there is a stream of that name with another configuration"}
	errOneServer   = &apiError{ErrCode: 10074, Description: "one server has no replicas"}
	errNoPeers     = &apiError{ErrCode: 10005, Description: "no suitable peers"}
)

// readAck reads the answer to a message: the sequence at which it stands, or the
// stream's last one with errWrongLast.
func readAck(m *nats.Msg) (sequence, last uint64, err error) {
	if len(m.Data) == 0 {
		return 0, 0, nats.ErrNoResponders // the only answer without a body
	}
	var a struct {
		Seq   uint64    `json:"seq"`
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return 0, 0, err
	}
	if a.Error == nil {
		return a.Seq, 0, nil
	}
	if a.Error.Is(errWrongLast) {
		// "wrong last sequence: N", which has no field of its own
		if last, err = strconv.ParseUint(a.Error.Description[strings.LastIndexByte(a.Error.Description, ' ')+1:], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("the last sequence in %q: %w", a.Error.Description, err)
		}
	}
	return 0, last, a.Error
}

// ask makes one request of the JetStream API, and reads the answer into v.
func (l *Log) ask(ctx context.Context, what string, request, v any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxAsk)
	defer cancel()
	m, err := l.nc.RequestWithContext(ctx, "$JS.API."+what+"."+l.o.Stream, body)
	if err != nil {
		return err
	}
	var e struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return err
	}
	if e.Error != nil {
		return e.Error
	}
	return json.Unmarshal(m.Data, v)
}

// streamConfig is what a stream is made with.
type streamConfig struct {
	Name        string        `json:"name"`
	Subjects    []string      `json:"subjects"`
	Retention   string        `json:"retention"`
	Storage     string        `json:"storage"`
	Discard     string        `json:"discard"`
	Replicas    int           `json:"num_replicas"`
	MaxMsgs     int64         `json:"max_msgs"`
	MaxBytes    int64         `json:"max_bytes"`
	MaxAge      time.Duration `json:"max_age"`
	MaxMsgSize  int           `json:"max_msg_size"`
	AllowDirect bool          `json:"allow_direct"`
	DenyDelete  bool          `json:"deny_delete"`
}

type streamState struct {
	First uint64 `json:"first_seq"`
	Last  uint64 `json:"last_seq"`
}

type streamInfo struct {
	Config streamConfig `json:"config"`
	State  streamState  `json:"state"`
}

// makeStream makes the stream, or sees that the one that is there is what a log needs.
func (l *Log) makeStream(ctx context.Context) error {
	want := streamConfig{
		Name: l.o.Stream, Subjects: []string{l.o.Subject}, Replicas: l.o.Replicas,
		Retention: "limits", Storage: "file", Discard: "new", // what is full refuses what comes, and forgets nothing
		MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1,
		AllowDirect: true, DenyDelete: true,
	}
	for {
		var got streamInfo
		err := l.ask(ctx, "STREAM.INFO", struct{}{}, &got)
		if errors.Is(err, errNoStream) {
			err = l.ask(ctx, "STREAM.CREATE", want, &got)
		}
		var refused *apiError
		switch {
		case err == nil:
			return want.differs(&got.Config)
		case errors.Is(err, errNoPeers), errors.Is(err, errStreamTaken): // not yet enough servers; somebody else was first
		case errors.As(err, &refused) && refused.Code < 500, errors.Is(err, errOneServer), errors.Is(err, nats.ErrConnectionClosed):
			return err
		case errors.Is(err, nats.ErrNoResponders):
			err = fmt.Errorf("no server with JetStream is there: %w", err)
		}
		if pause.For(ctx, l.patience/soon) != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// differs says what of a stream that is there would not do.
func (want *streamConfig) differs(got *streamConfig) error {
	for _, c := range []struct {
		key       string
		got, want any
		same      bool
	}{
		{"subjects", got.Subjects, want.Subjects, slices.Equal(got.Subjects, want.Subjects)},
		{"num_replicas", got.Replicas, want.Replicas, got.Replicas == want.Replicas},
		{"storage", got.Storage, want.Storage, got.Storage == want.Storage},
		{"retention", got.Retention, want.Retention, got.Retention == want.Retention},
		{"max_msgs", got.MaxMsgs, want.MaxMsgs, got.MaxMsgs <= 0},
		{"max_bytes", got.MaxBytes, want.MaxBytes, got.MaxBytes <= 0},
		{"max_age", got.MaxAge, want.MaxAge, got.MaxAge == 0},
		{"max_msg_size", got.MaxMsgSize, want.MaxMsgSize, got.MaxMsgSize <= 0},
		{"allow_direct", got.AllowDirect, want.AllowDirect, got.AllowDirect},
	} {
		if !c.same {
			return fmt.Errorf("it has %s: %v, and a log needs %v", c.key, c.got, c.want)
		}
	}
	return nil
}

// info asks the leader for the first and the last sequence.
func (l *Log) info() (streamState, error) {
	var v streamInfo
	err := l.ask(l.ctx, "STREAM.INFO", struct{}{}, &v)
	return v.State, err
}

// message is one of the stream.
type message struct {
	sequence uint64
	group    string // EPOCH/N
	sum      string
	data     []byte
}

// get asks the leader for a message. No other replica would do: it may lack what is durable.
func (l *Log) get(sequence uint64) (message, error) {
	var v struct {
		Message struct {
			Seq     uint64 `json:"seq"`
			Headers []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	err := l.ask(l.ctx, "STREAM.MSG.GET", map[string]uint64{"seq": sequence}, &v)
	if err != nil {
		return message{}, err
	}
	h, err := nats.DecodeHeadersMsg(v.Message.Headers)
	if err != nil && len(v.Message.Headers) > 0 {
		return message{}, err
	}
	return message{v.Message.Seq, h.Get(headerGroup), h.Get(headerSum), v.Message.Data}, nil
}

// purgeBefore removes what stands before a sequence, which is more than 1: with 0 it would be all.
func (l *Log) purgeBefore(sequence uint64) error {
	return l.ask(l.ctx, "STREAM.PURGE", map[string]uint64{"seq": sequence}, &struct{}{})
}
