package compare

import (
	"iter"
	"math"
	"math/rand/v2"
	"testing"

	"matrix"
)

func task(id, text string, status matrix.Status, score *float64) *matrix.Task {
	return &matrix.Task{ID: id, Outcome: &matrix.Outcome{Status: status}, Metrics: map[string]*float64{"score": score},
		Turns: []matrix.Turn{{Text: text, Calls: []matrix.Call{{USD: 0.5, Tokens: matrix.Tokens{PromptTokens: 2, CompletionTokens: 1}}}}, {}}}
}

func run(all ...*matrix.Task) iter.Seq2[*matrix.Task, error] {
	return func(yield func(*matrix.Task, error) bool) {
		for _, t := range all {
			if !yield(t, nil) {
				return
			}
		}
	}
}

func TestCompare(t *testing.T) {
	f := func(x float64) *float64 { return &x }
	a := run(task("1", "x", matrix.Done, f(1)), task("2", "y", matrix.Done, f(2)), task("3", "z", matrix.Done, f(3)), task("4", "w", matrix.Failed, nil), task("5", "v", matrix.Done, nil), task("6", "u", matrix.Done, f(9)))
	b := run(task("3", "Z", matrix.Done, f(9)), task("1", "x", matrix.Done, f(0)), task("2", "y", matrix.Done, f(2)), task("4", "w", matrix.Done, f(1)), task("5", "v", matrix.Done, f(1)), task("7", "t", matrix.Done, f(1)))
	r, err := Compare(a, b, Options{Most: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r.A.Tasks != 6 || r.A.Alone != 1 || r.B.Alone != 1 || r.Both != 5 || r.Done != 4 || r.Same != 3 || r.A.USD != 3 || r.A.Tokens != 18 || r.A.Calls != 6 || r.A.Ends[matrix.Failed] != 1 {
		t.Errorf("got %+v", r)
	}
	m := r.Metrics[0]
	if len(r.Metrics) != 1 || m.Count != 3 || m.A != 2 || m.B != 11.0/3 || math.Abs(m.Diff-5.0/3) > 1e-9 || m.Larger != 1 || m.Less != 1 || m.Ties != 1 || m.Low > m.Diff || m.High < m.Diff {
		t.Errorf("got %+v", m)
	}
	if r.By != "score" || len(r.Apart) != 1 || r.Apart[0].ID != "3" || *r.Apart[0].A != 3 || *r.Apart[0].B != 9 {
		t.Errorf("apart: got %+v", r.Apart)
	}
	if r, err := Compare(a, b, Options{By: "none", Most: 3}); err != nil || len(r.Apart) != 0 {
		t.Errorf("of a metric that there is not: got %+v, %v", r.Apart, err)
	}
}

// The intervals hold what they promise: of many experiments about one in twenty misses, with
// the bootstrap and without.
func TestInterval(t *testing.T) {
	for _, n := range []int{60, maxSampled + 1} {
		experiments := 400
		if n > maxSampled {
			experiments = 200
		}
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		missed := 0
		for range experiments {
			diffs := make([]float64, n)
			for i := range diffs {
				diffs[i] = 0.3 + rng.NormFloat64()
			}
			if low, high := interval(diffs); 0.3 < low || high < 0.3 {
				missed++
			}
		}
		if share := float64(missed) / float64(experiments); share < 0.01 || share > 0.11 {
			t.Errorf("%d values: %.3f of the intervals miss, want about 0.05", n, share)
		}
	}
	if low, high := interval([]float64{2, 2, 2}); low != 2 || high != 2 {
		t.Errorf("no spread: got %g to %g", low, high)
	}
}
