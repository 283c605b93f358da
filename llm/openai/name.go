package openai

import (
	"context"
	"net/http"
	"strings"

	"matrix/llm"
)

// name is what the model is called in calls; empty: they name none.
func (w *Driver) name() string {
	if only := w.only.Load(); only != nil {
		return *only
	}
	return w.model
}

// unnamed reports whether f may mean that the server wants the name of a model.
func unnamed(f *llm.Failure) bool {
	switch f.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusUnprocessableEntity:
		return f.Kind == llm.Refused && !strings.HasPrefix(f.Code, "unsupported_") || f.Kind == llm.Fatal
	}
	return false
}

// find looks for the name of the model after a call without one has failed. It
// is found where the server has one model only. Where it has several and has
// answered no call yet, the failure says which.
func (w *Driver) find(ctx context.Context, f *llm.Failure) (bool, *llm.Failure) {
	w.finding.Lock()
	defer w.finding.Unlock()
	if w.only.Load() != nil {
		return true, nil
	}
	if w.reached() { // it takes calls without a name
		return false, f
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	served, _, no := w.list(ctx)
	switch {
	case no != nil || len(served) == 0:
		return false, f
	case len(served) == 1 && served[0].Name != "":
		w.only.Store(&served[0].Name)
		return true, nil
	}
	names := make([]string, 0, 12)
	for _, s := range served[:min(len(served), 12)] {
		names = append(names, llm.Shorten(s.Name, 80))
	}
	g := *f
	g.Kind, g.Hint = llm.Fatal, "set model: the server has "+strings.Join(names, ", ")
	if len(served) > len(names) {
		g.Hint += ", ..."
	}
	return false, &g
}
