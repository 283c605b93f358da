package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/internal/printable"
	"matrix/llm"
	"matrix/spec"
)

// probeTimeout is how long all endpoints have to answer.
const probeTimeout = 10 * time.Second

// ModelStatus is how a model does.
type ModelStatus struct {
	Name      string           `json:"model"`
	Kind      string           `json:"kind"`
	OK        bool             `json:"ok"`      // can be asked
	Service   bool             `json:"service"` // it has one
	Limits    string           `json:"limits,omitempty"`
	Endpoints []EndpointStatus `json:"endpoints"`
	Problem   string           `json:"problem,omitempty"`
	NotUp     bool             `json:"-"`              // the servers that its serve says how to start are not up
	Note      string           `json:"note,omitempty"` // what is wrong with where its endpoints are learnt from
}

// EndpointStatus is how an endpoint does.
type EndpointStatus struct {
	URL    string        `json:"url"`
	OK     bool          `json:"ok"`
	TookMS float64       `json:"took_ms"`
	Serves []ServedModel `json:"serves"` // nil where it does not say
	Error  string        `json:"error,omitempty"`
	Hint   string        `json:"hint,omitempty"`
}

// ServedModel is a model that an endpoint has.
type ServedModel struct {
	Name    string `json:"name"`
	Owner   string `json:"owner,omitempty"`
	Context int    `json:"context,omitempty"` // tokens
}

// Probe asks the endpoints of all models of a config whether they are there and what
// they serve. Nothing is generated, and nothing paid. What is wrong with the config is
// a spec.UsageError.
func (r *Registry) Probe(ctx context.Context, c *spec.Config) ([]ModelStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(c.Run.Models))
	if len(names) == 0 {
		return nil, spec.Usagef("%s has no models", c.Path)
	}
	all := make([]ModelStatus, len(names))
	var open []llm.Model
	var errs config.Errors
	for _, name := range names {
		m, err := r.OpenModel(c.Tree, name, c.Run.Models[name])
		var some config.Errors
		if errors.As(err, &some) {
			errs = append(errs, some...)
		} else if err != nil {
			return nil, err
		}
		open = append(open, m)
	}
	var closing []error
	if len(errs) == 0 {
		var wg sync.WaitGroup
		for i, name := range names {
			wg.Go(func() { all[i] = probe(ctx, c, name, open[i]) })
		}
		wg.Wait()
	}
	for _, m := range open {
		if m != nil {
			closing = append(closing, m.Close())
		}
	}
	if len(errs) > 0 {
		return nil, spec.Wrong(c.Path, errs.Sorted())
	}
	return all, errors.Join(closing...)
}

func probe(ctx context.Context, c *spec.Config, name string, m llm.Model) ModelStatus {
	s := c.Run.Models[name]
	r := ModelStatus{Name: name, Kind: cmp.Or(s.Text("kind"), defaultModel), Endpoints: []EndpointStatus{}}
	pr, ok := m.(llm.Prober)
	if !ok {
		r.OK = true
		return r
	}
	r.Service, r.Limits = true, limitsOf(s)
	for _, e := range pr.Probe(ctx) {
		st := EndpointStatus{URL: e.URL, TookMS: float64(e.Took.Microseconds()) / 1000}
		var f *llm.Failure
		var names []string
		for _, v := range e.Served {
			names = append(names, v.Name)
			st.Serves = append(st.Serves, ServedModel(v))
		}
		want := s.Text("model")
		switch {
		case errors.As(e.Err, &f):
			st.Error, st.Hint = f.Msg, f.Hint
			if f.Status != 0 {
				st.Error = fmt.Sprintf("%d: %s", f.Status, f.Msg)
			}
		case ctx.Err() != nil && e.Err != nil:
			st.Error = fmt.Sprintf("no answer within %v", probeTimeout)
		case e.Err != nil:
			st.Error = e.Err.Error()
		case want != "" && len(names) > 0 && !slices.Contains(names, want):
			st.Error = fmt.Sprintf("does not serve %q", want)
			st.Hint = "it serves " + strings.Join(names, ", ") + ": set model to one of them"
		default:
			st.OK, r.OK = true, true
		}
		r.Endpoints = append(r.Endpoints, st)
	}
	stats := m.Stats()
	r.Note = printable.Line(stats.Note.String())
	ours := s.Get("serve") != nil && s.Text("base_url")+s.Text("endpoints") == ""
	if ours && !r.OK && !keptUp(c, name) {
		r.Endpoints = []EndpointStatus{} // of servers that are gone
	}
	if len(r.Endpoints) == 0 {
		r.Note = ""
		r.Problem = "has no endpoints now"
		if why := stats.Paused; why != nil {
			r.Problem += ": " + printable.Line(why.String())
		}
		if ours {
			r.Problem, r.NotUp = "its servers are not up", true
		}
	}
	return r
}

// keptUp reports whether a process keeps the servers of a model up.
func keptUp(c *spec.Config, name string) bool {
	state, err := launch.StateOf(c.Tree.File())
	if err != nil {
		return false
	}
	_, up := state.Owner(name)
	return up
}

// limitsOf says how much the config lets a model have.
func limitsOf(s *config.Section) string {
	concurrency := cmp.Or(s.Text("concurrency"), "auto")
	limits := []string{concurrency + " at once"}
	for _, k := range []string{"rpm", "tpm"} {
		if v := s.Text(k); v != "" && v != "0" {
			limits = append(limits, v+" "+k)
		}
	}
	return strings.Join(limits, ", ")
}
