package openai

import (
	"errors"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// call is a request as it goes out.
type call struct {
	op     op
	r      *llm.Request
	stream bool
	params []byte // the object of all that is not the conversation and how it is sent
	body   []byte
	images int
}

// most is how many choices are read, or vectors: what was asked for, and of
// vectors one more, which is one too many.
func (c *call) most() int {
	if c.op == embedding {
		return len(c.r.Input) + 1
	}
	return min(c.r.Sampling.Draws(), api.MaxCalls)
}

// encode makes the call of r to a model; empty: of no name. A failure is one of llm.Unsupported.
func (w *Driver) encode(r *llm.Request, s api.Server, model string) (*call, *llm.Failure) {
	c := &call{op: chat, r: r, stream: llm.Streams(r)}
	switch {
	case r.Messages != nil:
	case r.Input != nil:
		c.op, c.stream = embedding, false
	default:
		c.op = completion
	}
	s.Newer = w.newer.Load()
	q := api.Request{Request: r, Model: model, Stream: c.stream, Usage: true}
	// So that a reply that is cut short is counted.
	q.Counts = (r.Sampling.Until != "" || r.OnDelta != nil) && (s.Name == api.VLLM || s.Name == api.SGLang)
	var err error
	if c.params, err = q.Params(s); err == nil {
		c.body, err = q.Append(nil, c.params)
	}
	if err != nil {
		msg := w.secrets.Hide(err.Error())
		if no := (*api.NoFormat)(nil); errors.As(err, &no) {
			return nil, llm.UnsupportedFormat(r, w.targets[0].base, msg, no.Hint())
		}
		return nil, llm.Unsupported(w.targets[0].base, msg, "")
	}
	for i := range r.Messages {
		c.images += len(r.Messages[i].Images)
	}
	return c, nil
}
