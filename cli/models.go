package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"matrix/internal/config"
	"matrix/internal/human"
	"matrix/internal/launch"
	"matrix/llm"
	"matrix/spec"
)

const probeTimeout = 10 * time.Second

func newModelsCmd(p Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "models CONFIG|MODEL [key=value ...]",
		Short: "List models and their endpoints; start and end their servers",
		Long: `Models lists the models of a config: where they are, whether they answer, what
they serve. Nothing is generated, and nothing paid. An endpoint is ready where it
serves the model, unknown where it does not say what it serves, and else down.

In the place of a config, MODEL is the address of a server, http://HOST:PORT/v1,
or KIND:NAME, as for 'matrix chat'; of a server all models are listed.

Exit codes: 0 every model has an endpoint that answers, 1 one has none, 2 usage
or config.`,
		Example: `  matrix models examples/coral/own_model.yaml
  matrix models http://127.0.0.1:8000/v1
  matrix models up coral.yaml
  matrix models down coral.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && isModel(args[0]) {
				return overrideArgs(args[1:])
			}
			return configArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			load := spec.Load
			if isModel(args[0]) {
				load = p.modelConfig
			}
			l, err := load(args[0], args[1:])
			if err != nil {
				return err
			}
			found, err := p.models(cmd.Context(), l)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				if err := e.Encode(found); err != nil {
					return err
				}
			} else {
				listModels(w, found, isURL(args[0]), inkFor(w, false))
			}
			if slices.ContainsFunc(found, func(m modelStatus) bool { return !m.OK }) {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(newUpCmd(p), newDownCmd(p), newKeepCmd())
	return cmd
}

// modelStatus is how a model does.
type modelStatus struct {
	Name      string           `json:"model"`
	Kind      string           `json:"kind"`
	OK        bool             `json:"ok"`      // can be asked
	Service   bool             `json:"service"` // it has one
	Limits    string           `json:"limits,omitempty"`
	Endpoints []endpointStatus `json:"endpoints"`
	Problem   string           `json:"problem,omitempty"`
	Note      string           `json:"note,omitempty"` // what is wrong with where its endpoints are learnt from
}

// endpointStatus is how an endpoint does.
type endpointStatus struct {
	URL    string        `json:"url"`
	OK     bool          `json:"ok"`
	TookMS float64       `json:"took_ms"`
	Serves []servedModel `json:"serves"` // nil where it does not say
	Error  string        `json:"error,omitempty"`
	Hint   string        `json:"hint,omitempty"`
}

// servedModel is a model that an endpoint has.
type servedModel struct {
	Name    string `json:"name"`
	Owner   string `json:"owner,omitempty"`
	Context int    `json:"context,omitempty"` // tokens
}

// models asks the endpoints of all models of a config.
func (p Program) models(ctx context.Context, l *spec.Config) ([]modelStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(l.Run.Models))
	if len(names) == 0 {
		return nil, spec.Usagef("%s has no models", l.Path)
	}
	all := make([]modelStatus, len(names))
	var open []llm.Model
	var errs config.Errors
	for _, name := range names {
		m, err := p.Registry.OpenModel(l.Tree, name, l.Run.Models[name])
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
			wg.Go(func() { all[i] = probe(ctx, l, name, open[i]) })
		}
		wg.Wait()
	}
	for _, m := range open {
		if m != nil {
			closing = append(closing, m.Close())
		}
	}
	if len(errs) > 0 {
		return nil, spec.Wrong(l.Path, errs.Sorted())
	}
	return all, errors.Join(closing...)
}

func probe(ctx context.Context, l *spec.Config, name string, m llm.Model) modelStatus {
	s := l.Run.Models[name]
	r := modelStatus{Name: name, Kind: s.Text("kind"), Endpoints: []endpointStatus{}}
	if r.Kind == "" {
		r.Kind = "openai"
	}
	pr, ok := m.(llm.Prober)
	if !ok {
		r.OK = true
		return r
	}
	r.Service, r.Limits = true, limitsOf(s)
	for _, e := range pr.Probe(ctx) {
		st := endpointStatus{URL: e.URL, TookMS: float64(e.Took.Microseconds()) / 1000}
		var f *llm.Failure
		var names []string
		for _, v := range e.Served {
			names = append(names, v.Name)
			st.Serves = append(st.Serves, servedModel(v))
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
	r.Note = oneLine(stats.Note.String())
	ours := s.Get("serve") != nil && s.Text("base_url")+s.Text("endpoints") == ""
	if ours && !r.OK && !keptUp(l, name) {
		r.Endpoints = []endpointStatus{} // of servers that are gone
	}
	if len(r.Endpoints) == 0 {
		r.Note = ""
		r.Problem = "has no endpoints now"
		if why := stats.Paused; why != nil {
			r.Problem += ": " + oneLine(why.String())
		}
		if ours {
			r.Problem = fmt.Sprintf("its servers are not up: %s models up %s", self(), shellWord(l.Path))
		}
	}
	return r
}

// keptUp reports whether a process keeps the servers of a model up.
func keptUp(l *spec.Config, name string) bool {
	state, err := launch.StateOf(l.Tree.File())
	if err != nil {
		return false
	}
	_, up := state.Keeper(name)
	return up
}

// limitsOf says how much the config lets a model have.
func limitsOf(s *config.Section) string {
	concurrency := s.Text("concurrency")
	if concurrency == "" {
		concurrency = "auto"
	}
	limits := []string{concurrency + " at once"}
	for _, k := range []string{"rpm", "tpm"} {
		if v := s.Text(k); v != "" && v != "0" {
			limits = append(limits, v+" "+k)
		}
	}
	return strings.Join(limits, ", ")
}

// listModels prints a table of endpoints, then what is wrong. whole lists all that
// an endpoint serves, each on a line.
func listModels(w io.Writer, all []modelStatus, whole bool, k ink) {
	rows := [][]string{{"model", "endpoint", "state", "took", "serves", "context", "limits"}}
	var problems []string
	for _, m := range all {
		first := m.Name
		switch {
		case !m.Service:
			rows = append(rows, []string{first, m.Kind + ", no service", "ready"})
		case len(m.Endpoints) == 0:
			rows = append(rows, []string{first, "none", "down", "", "", "", m.Limits})
			problems = append(problems, m.Name+": "+m.Problem)
		}
		if m.Note != "" {
			problems = append(problems, m.Name+": "+m.Note)
		}
		for i, e := range m.Endpoints {
			state, took := "ready", fmt.Sprintf("%.0f ms", e.TookMS)
			if e.Serves == nil {
				state = "unknown"
			}
			if !e.OK {
				state = "down"
				text := oneLine(m.Name) + " at " + e.URL + ": " + oneLine(e.Error)
				if e.Hint != "" {
					text += " (" + oneLine(e.Hint) + ")"
				}
				problems = append(problems, text)
			}
			var serves, context []string
			for _, v := range e.Serves {
				name := v.Name
				if !whole {
					name = shortName(name)
				}
				if v.Owner != "" {
					name += " (" + v.Owner + ")"
				}
				serves = append(serves, oneLine(name))
				if c := window(v); c != "" {
					context = append(context, c)
				}
			}
			if n := len(serves); n > 3 && !whole {
				serves, context = append(serves[:3], fmt.Sprintf("and %d more", n-3)), nil
			}
			limits := m.Limits
			if i > 0 {
				first, limits = "", ""
			}
			if !whole || len(serves) < 2 {
				rows = append(rows, []string{first, e.URL, state, took, strings.Join(serves, ", "), strings.Join(context, ", "), limits})
				continue
			}
			for j, name := range serves {
				if j == 0 {
					rows = append(rows, []string{first, e.URL, state, took, name, window(e.Serves[j]), limits})
				} else {
					rows = append(rows, []string{"", "", "", "", name, window(e.Serves[j])})
				}
			}
		}
	}
	for i, line := range columns(rows) {
		if i == 0 {
			line = k.dim(line)
		}
		fmt.Fprintln(w, line)
	}
	if len(problems) > 0 {
		fmt.Fprintln(w)
	}
	for _, t := range problems {
		fmt.Fprintln(w, k.red(t))
	}
}

// window is the context of a model as text; empty where it is not known.
func window(v servedModel) string {
	if v.Context > 0 {
		return human.Commas(v.Context)
	}
	return ""
}

// columns sets rows in columns, all to the left, without those that are empty
// below their head.
func columns(rows [][]string) []string {
	width := make([]int, len(rows[0]))
	for i := range width {
		for _, r := range rows[1:] {
			if i < len(r) && r[i] != "" {
				width[i] = max(width[i], displayWidth(r[i]), displayWidth(rows[0][i]))
			}
		}
	}
	lines := make([]string, len(rows))
	for n, r := range rows {
		var b strings.Builder
		for i, c := range r {
			if width[i] > 0 {
				b.WriteString(c + strings.Repeat(" ", width[i]-displayWidth(c)) + "  ")
			}
		}
		lines[n] = strings.TrimRight(b.String(), " ")
	}
	return lines
}
