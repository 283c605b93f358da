package llm

import (
	"context"
	"errors"
	"testing"
)

// asked is a model that counts.
type asked struct {
	Model
	n int
}

func (m *asked) Do(context.Context, *Request) (*Reply, error) {
	m.n++
	return &Reply{Choices: []Choice{{Text: "new"}}}, nil
}

func (*asked) Service() Service {
	return Service{Named: "served", Sampling: Sampling{MaxTokens: 7, Extra: map[string]any{"seed": 5}}}
}

// kept is a Past of one reply.
type kept struct {
	hash string
	seed int64
	err  error
}

func (p *kept) Reply(_ context.Context, call, hash string, seed *int64) (*Reply, error) {
	if p.err != nil || hash != p.hash || seed == nil || *seed != p.seed || call != "key" {
		return nil, p.err
	}
	return &Reply{Choices: []Choice{{Text: "old"}, {Text: "older"}}, Reused: &Reused{Run: "r"}}, nil
}

func TestReuse(t *testing.T) {
	r := &Request{Messages: []Message{{Role: "user", Content: "hello"}}, Key: "key", Sampling: Sampling{Seed: new(int64(1)), N: 2}}
	full := *r
	full.Sampling = Merge((*asked)(nil).Service().Sampling, r.Sampling)
	past := &kept{hash: full.Hash("served"), seed: 5} // the seed that is sent
	inner := &asked{}
	m := Reuse("m", inner, past)
	var told []string
	r.OnDelta = func(d Delta) bool { told = append(told, d.Text); return true }
	rep, err := m.Do(t.Context(), r)
	if err != nil || rep.Choices[0].Text != "old" || rep.Asked != (Asked{N: 2, MaxTokens: 7}) || inner.n != 0 || len(told) != 2 {
		t.Errorf("got %+v, %v, asked %d times, told %q", rep, err, inner.n, told)
	}
	r.Messages[0].Content = "something else"
	if rep, err := m.Do(t.Context(), r); err != nil || rep.Choices[0].Text != "new" || inner.n != 1 {
		t.Errorf("got %+v, %v, asked %d times", rep, err, inner.n)
	}
	for _, cause := range []error{errors.New("away"), &Error{Kind: Fatal, Msg: "full"}} {
		past.err = cause
		if rep, err := m.Do(t.Context(), r); rep != nil || err == nil || inner.n != 1 {
			t.Errorf("got %+v, %v, asked %d times", rep, err, inner.n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	past.err = ctx.Err()
	if _, err := m.Do(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if s, ok := ServiceOf(m); !ok || s.Named != "served" {
		t.Errorf("the service behind it: got %+v, %v", s, ok)
	}
}
