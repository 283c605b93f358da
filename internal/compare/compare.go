// Package compare sets two runs beside each other, row by row: what their metrics say of
// the same rows, with how sure that is, and what they cost. It knows tasks, and
// neither where they come from nor how they are shown.
package compare

import (
	"cmp"
	"encoding/binary"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/zeebo/xxh3"

	"matrix"
)

// Report is what two runs, A and B, come to.
type Report struct {
	A       Side     `json:"a"`
	B       Side     `json:"b"`
	Both    int64    `json:"both"`       // tasks that both have
	Done    int64    `json:"done"`       // of these, done in both
	Same    int64    `json:"same_text"`  // of these, that end with the same text
	Metrics []Metric `json:"metrics"`    // by name
	By      string   `json:"by"`         // the metric by which Apart is ordered; empty: by whether the texts differ
	Apart   []Pair   `json:"apart"`      // that differ most, the farthest first
	Level   float64  `json:"confidence"` // of intervals: 0.95
}

// Side is one of the runs.
type Side struct {
	Tasks  int64                   `json:"tasks"` // that have ended
	Alone  int64                   `json:"alone"` // that the other one does not have
	Ends   map[matrix.Status]int64 `json:"ends"`
	Calls  int64                   `json:"calls"`
	Tokens int64                   `json:"tokens"`
	USD    float64                 `json:"usd"`
}

// Metric is what a metric says of the tasks of which it says something in both runs.
type Metric struct {
	Name   string  `json:"name"`
	Count  int64   `json:"count"`
	A      float64 `json:"a"` // mean
	B      float64 `json:"b"`
	Diff   float64 `json:"difference"` // of B from A
	Low    float64 `json:"low"`        // Diff lies between these two with the confidence of the report
	High   float64 `json:"high"`
	Larger int64   `json:"larger"` // tasks of which B has the larger value
	Less   int64   `json:"smaller"`
	Ties   int64   `json:"equal"`
}

// Pair is a task that both runs have.
type Pair struct {
	ID string   `json:"id"`
	A  *float64 `json:"a"` // the metric; nil where there is none
	B  *float64 `json:"b"`
}

// Options of Compare.
type Options struct {
	By   string // metric by which tasks are apart; empty for the first that both have
	Most int    // how many of these
}

const (
	confidence = 0.95
	resamples  = 2000
	maxSampled = 20_000 // values that are resampled: of more the mean is as good as normal
)

// kept is what is held of a task of A while B is read.
type kept struct {
	metrics map[string]*float64
	text    uint64
	done    bool
	seen    bool // in B, too
}

// Compare reads both runs once. It holds of A some hundred bytes a task, and of each
// metric a number for each pair.
func Compare(a, b iter.Seq2[*matrix.Task, error], o Options) (*Report, error) {
	r := &Report{Level: confidence}
	held := map[string]*kept{}
	for t, err := range a {
		if err != nil {
			return nil, err
		}
		r.A.add(t)
		held[t.ID] = keep(t)
	}
	diffs, sums := map[string][]float64{}, map[string]*Metric{}
	apart := map[string][]Pair{}
	for t, err := range b {
		if err != nil {
			return nil, err
		}
		r.B.add(t)
		was := held[t.ID]
		if was == nil {
			r.B.Alone++
			continue
		}
		was.seen = true
		r.Both++
		is := keep(t)
		if !was.done || !is.done {
			continue
		}
		r.Done++
		if was.text == is.text {
			r.Same++
		} else {
			apart[""] = farthest(append(apart[""], Pair{ID: t.ID}), o.Most)
		}
		for name, y := range is.metrics {
			x := was.metrics[name]
			if x == nil || y == nil || math.IsNaN(*x) || math.IsNaN(*y) {
				continue
			}
			m := sums[name]
			if m == nil {
				m = &Metric{Name: name}
				sums[name] = m
			}
			m.add(*x, *y)
			diffs[name] = append(diffs[name], *y-*x)
			if *x != *y {
				apart[name] = farthest(append(apart[name], Pair{t.ID, x, y}), o.Most)
			}
		}
	}
	for _, k := range held {
		if !k.seen {
			r.A.Alone++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		m := sums[name]
		m.A, m.B = m.A/float64(m.Count), m.B/float64(m.Count)
		m.Diff = m.B - m.A
		m.Low, m.High = interval(diffs[name])
		r.Metrics = append(r.Metrics, *m)
	}
	if r.By = o.By; r.By == "" && len(r.Metrics) > 0 {
		r.By = r.Metrics[0].Name
	}
	r.Apart = apart[r.By]
	return r, nil
}

func (s *Side) add(t *matrix.Task) {
	s.Tasks++
	if s.Ends == nil {
		s.Ends = map[matrix.Status]int64{}
	}
	if t.Outcome != nil {
		s.Ends[t.Outcome.Status]++
	}
	for c := range t.Calls() {
		s.Calls++
		s.Tokens += int64(c.PromptTokens + c.CompletionTokens)
		s.USD += c.USD
	}
}

func keep(t *matrix.Task) *kept {
	k := &kept{metrics: t.Metrics, done: t.Outcome != nil && t.Outcome.Status == matrix.Done}
	if turn := Final(t); turn != nil {
		k.text = xxh3.HashString(turn.Text)
	}
	return k
}

// Final is the last turn of a task that has a text; nil where none has.
func Final(t *matrix.Task) *matrix.Turn {
	for i := len(t.Turns) - 1; i >= 0; i-- {
		if t.Turns[i].Text != "" {
			return &t.Turns[i]
		}
	}
	return nil
}

func (m *Metric) add(x, y float64) {
	m.Count++
	m.A += x
	m.B += y
	switch {
	case y > x:
		m.Larger++
	case y < x:
		m.Less++
	default:
		m.Ties++
	}
}

// farthest keeps the n pairs that are farthest apart, in order; those that are as far
// as they come.
func farthest(all []Pair, n int) []Pair {
	slices.SortStableFunc(all, func(a, b Pair) int { return cmp.Compare(b.distance(), a.distance()) })
	return all[:min(n, len(all))]
}

func (p Pair) distance() float64 {
	if p.A == nil || p.B == nil {
		return 0
	}
	return math.Abs(*p.B - *p.A)
}

// interval is where the mean of what diffs are drawn from lies: by the bootstrap, whose
// draws are the same each time, or where there are many by the normal distribution.
func interval(diffs []float64) (low, high float64) {
	n := len(diffs)
	if n > maxSampled {
		mean, sq := 0.0, 0.0
		for _, d := range diffs {
			mean += d / float64(n)
		}
		for _, d := range diffs {
			sq += (d - mean) * (d - mean)
		}
		e := 1.959964 * math.Sqrt(sq/float64(n-1)/float64(n))
		return mean - e, mean + e
	}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n))
	rng := rand.New(rand.NewChaCha8(seed))
	means := make([]float64, resamples)
	for i := range means {
		sum := 0.0
		for range n {
			sum += diffs[rng.IntN(n)]
		}
		means[i] = sum / float64(n)
	}
	slices.Sort(means)
	tail := int((1 - confidence) / 2 * resamples)
	return means[tail], means[resamples-1-tail]
}
