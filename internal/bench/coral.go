package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"matrix"
	"matrix/dataset"
	"matrix/local"
	"matrix/run"
)

// CoralOptions say how much of the Coral shape to run.
type CoralOptions struct {
	Tasks   int
	Live    int    // tasks under way at once
	Workers int    // steps of one role at once; 0 for as many as are live
	Memory  bool   // the queue in memory; the output is on disk all the same
	Dir     string // folder for state and output; "" for the system's temporary one
}

// CoralResult is what was measured. A message is a delivery to an agent or to
// the sink, so that figures compare with systems that send one for each.
type CoralResult struct {
	TasksPerS  float64 `json:"tasks_per_s"`
	HopsPerS   float64 `json:"hops_per_s"`
	Messages   float64 `json:"messages_per_task"`
	CPUPerTask float64 `json:"cpu_us_per_task"`
	RSS        int64   `json:"rss_bytes"`
	Tasks      int     `json:"tasks"`
	Live       int     `json:"live"`
	Durable    bool    `json:"durable"`
	FirstRowMS float64 `json:"first_row_ms"`
}

// Coral runs dialogues of the shape of Coral through the whole engine: feeder,
// durable queue, agents, router, ledger and sink. Teacher and student take
// turns; after each an extractor reads the answer and a matcher compares the
// last two. Every agent pays a hop of its own. Models answer at once, with 1,024
// characters give or take a fifth, and the matcher agrees at 10% of the first
// two rated turns and at 90% from the third on.
func Coral(ctx context.Context, o CoralOptions) (*CoralResult, error) {
	if o.Tasks < 1 || o.Live < 1 || o.Workers < 0 {
		return nil, fmt.Errorf("bench coral: tasks and live must be at least 1, got %d and %d", o.Tasks, o.Live)
	}
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	q, err := local.Open(filepath.Join(dir, "state"), local.Options{Memory: o.Memory})
	if err != nil {
		return nil, err
	}
	defer q.Close()
	role := func(a matrix.AgentFunc) matrix.Role { return matrix.Role{Agent: a, Concurrency: o.Workers} }
	var out counter
	sink := func(name string) run.OpenSink {
		return func(checkpoint []byte) (matrix.Sink, error) {
			s, err := dataset.OpenSink(dataset.OS{}, filepath.Join(dir, name), dataset.SinkOptions{}, checkpoint)
			if err != nil {
				return nil, err
			}
			return &counted{Sink: s, c: &out}, nil
		}
	}
	r, err := run.New(ctx, run.Config{
		Source: questions(o.Tasks), Live: o.Live, Seed: 42,
		Shards: []run.Shard{{Store: q, Outputs: map[matrix.Status]run.OpenSink{matrix.Done: sink("data"), matrix.Failed: sink("failed")}}},
		Router: coralRouter{},
		Roles: map[string]matrix.Role{
			"teacher": role(speak), "student": role(speak), "extract": role(extract), "match": role(match),
		},
	})
	if err != nil {
		return nil, err
	}
	was := measure()
	if err := r.Run(ctx); err != nil {
		return nil, err
	}
	is := measure()
	p := r.Progress()
	if p.Done != int64(o.Tasks) {
		return nil, fmt.Errorf("bench coral: %d of %d tasks done; the last failure: %s", p.Done, o.Tasks, p.Failure)
	}
	n, seconds := float64(o.Tasks), is.at.Sub(was.at).Seconds()
	messages := float64(p.Hops)/n + 1 // and the sink's
	return &CoralResult{
		TasksPerS:  n / seconds,
		HopsPerS:   messages * n / seconds,
		Messages:   messages,
		CPUPerTask: float64((is.cpu - was.cpu).Microseconds()) / n,
		RSS:        PeakRSS(),
		Tasks:      o.Tasks,
		Live:       o.Live,
		Durable:    !o.Memory,
		FirstRowMS: float64(out.first.Sub(was.at).Microseconds()) / 1e3,
	}, nil
}

// counter notes when the first task was durable in the output.
type counter struct{ first time.Time }

type counted struct {
	matrix.Sink
	c *counter
}

func (s *counted) Write(ctx context.Context, tasks []*matrix.Task) ([]matrix.Place, []byte, error) {
	places, checkpoint, err := s.Sink.Write(ctx, tasks)
	if s.c.first.IsZero() {
		s.c.first = time.Now()
	}
	return places, checkpoint, err
}

// questions is a dataset of so many made-up questions.
type questions int64

func (n questions) Rows(_ context.Context, from matrix.Position, f func(matrix.Row) error) error {
	for i := from.Row; i < int64(n); i++ {
		item := fmt.Appendf(nil, `{"question_id":%d,"question":%q,"answer":"%c"}`, i, prose[:400], 'A'+i%10)
		next := matrix.Position{Row: i + 1, Line: i + 1}
		if err := f(matrix.Row{ID: fmt.Sprint(i), Address: fmt.Sprint("questions:", i+1), Number: i, Item: matrix.RawValue(item), Next: next}); err != nil {
			return err
		}
	}
	return nil
}

func (n questions) Count(context.Context) (int64, error) { return int64(n), nil }
func (n questions) Fingerprint() (string, error)         { return fmt.Sprint(int64(n), " questions"), nil }

var prose = strings.Repeat("Let us look at what each option claims and at what the question really asks before we choose one. ", 14)

func chance(t *matrix.Task) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(t.Seed), uint64(len(t.Turns))))
}

// speak is a model that answers at once.
func speak(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	r := chance(t)
	n := 1024*4/5 + r.IntN(1024*2/5)
	text := prose[:n-len("The answer is (A).")] + "The answer is (" + string(rune('A'+r.IntN(10))) + ")."
	return matrix.Turn{Text: text, Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "instant", Tokens: matrix.Tokens{PromptTokens: 256, CompletionTokens: n / 4}}}}, nil
}

// extract reads the answer from the last text.
func extract(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	_, after, ok := strings.Cut(t.Last().Text, "answer is (")
	if !ok || after == "" {
		return matrix.Turn{}, &matrix.FailError{Err: errors.New("no answer")}
	}
	return matrix.Turn{Data: matrix.RawValue([]byte(`{"answer":"` + after[:1] + `"}`))}, nil
}

// match agrees by chance, rarely before the third rated turn.
func match(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
	p := 0.1
	if t.Rounds("match") >= 2 {
		p = 0.9
	}
	if chance(t).Float64() < p {
		return matrix.Turn{Data: matrix.RawValue([]byte(`{"agreed":true}`))}, nil
	}
	return matrix.Turn{Data: matrix.RawValue([]byte(`{"agreed":false}`))}, nil
}

type coralRouter struct{}

func (coralRouter) Start(*matrix.Task) matrix.Decision { return matrix.To("teacher") }

func (coralRouter) Next(t *matrix.Task) matrix.Decision {
	last := t.Last()
	switch last.Role {
	case "teacher", "student":
		return matrix.To("extract")
	case "extract":
		return matrix.To("match")
	}
	if string(last.Data.Raw()) == `{"agreed":true}` {
		return matrix.Finish(matrix.Value{})
	}
	if t.Rounds("match")%2 == 1 {
		return matrix.To("student")
	}
	return matrix.To("teacher")
}
