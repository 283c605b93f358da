package llm

import (
	"context"
	"errors"
	"fmt"

	"matrix/internal/stopping"
)

// Past has replies that were paid for before. It is used concurrently.
type Past interface {
	// Reply hands out a reply to what has the hash (Request.Hash): one that was drawn
	// with this seed, else any. It hands out each one once; the same call (its
	// Request.Key) has the same one whenever it asks again. It returns nil where there
	// is none. The caller may change what it gets.
	Reply(ctx context.Context, call, hash string, seed *int64) (*Reply, error)
}

// Reused says where a reply comes from that was not made again.
type Reused struct {
	Run  string
	Task string // whose turn has it there
	Seed *int64 // that it was drawn with; nil: none was sent
}

// Reuse returns a model that answers from past what it can, at no cost, and has m,
// which is called name in the config, answer the rest. Closing it closes m.
func Reuse(name string, m Model, past Past) Model { return &reuser{m, name, past} }

type reuser struct {
	Model
	name string
	past Past
}

// Unwrap is the model that answers what was not asked before.
func (m *reuser) Unwrap() Model { return m.Model }

// Do implements Model.
func (m *reuser) Do(ctx context.Context, r *Request) (*Reply, error) {
	service, _ := ServiceOf(m.Model)
	full := *r
	full.Sampling = Merge(service.Sampling, r.Sampling)
	seed := full.Sampling.Seed
	if n, ok := whole(full.Sampling.Extra["seed"]); ok { // it wins
		seed = &n
	}
	waiting, free := stopping.Wait(ctx)
	defer free()
	rep, err := m.past.Reply(waiting, r.Key, full.Hash(m.served(ctx, &service)), seed)
	switch {
	case rep == nil && waiting.Err() != nil:
		return nil, fmt.Errorf("model %q: %w", m.name, context.Cause(waiting))
	case errors.As(err, new(*Error)):
		return nil, AsError(m.name, err)
	case err != nil:
		return nil, fmt.Errorf("model %q: %w", m.name, err)
	case rep == nil:
		return m.Model.Do(ctx, r)
	}
	scopeOf(ctx).free()
	if r.Input == nil {
		rep.Asked.N = full.Sampling.Draws()
		_, most := drawn(&full.Sampling)
		rep.Asked.MaxTokens = int(most)
	}
	for i := range rep.Choices {
		if c := &rep.Choices[i]; r.OnDelta != nil && !r.OnDelta(Delta{Choice: i, Text: c.Text, Reasoning: c.Reasoning}) {
			break
		}
	}
	return rep, nil
}

// served is the name that hashes of requests to the model have in them.
func (m *reuser) served(ctx context.Context, s *Service) string {
	if s.Named != "" {
		return s.Named
	}
	if c, ok := Find[interface {
		served(context.Context) []string
	}](m.Model); ok {
		if names := c.served(ctx); len(names) == 1 {
			return names[0]
		}
	}
	return m.name
}

// Find is m as a T, or the first of the models that it stands before (by their method
// Unwrap) that is one.
func Find[T any](m Model) (found T, ok bool) {
	for m != nil {
		if found, ok = m.(T); ok {
			return found, true
		}
		w, stands := m.(interface{ Unwrap() Model })
		if !stands {
			break
		}
		m = w.Unwrap()
	}
	return found, false
}

// ServiceOf is what the config of a model says of its service; false where it has none.
func ServiceOf(m Model) (Service, bool) {
	c, ok := Find[interface{ Service() Service }](m)
	if !ok {
		return Service{}, false
	}
	return c.Service(), true
}
