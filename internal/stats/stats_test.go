package stats

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"matrix"
)

// call is a call of a model that took so many milliseconds.
func call(name string, prompt, completion int, ms float64) matrix.Call {
	return matrix.Call{Kind: matrix.KindModel, Name: name, Tokens: matrix.Tokens{PromptTokens: prompt, CompletionTokens: completion}, USD: 0.25, TookMS: ms}
}

func done(id, text string, metrics map[string]*float64, calls ...matrix.Call) *matrix.Task {
	return &matrix.Task{ID: id, Turns: []matrix.Turn{{Role: "user", Text: "please"}, {Role: "say", Hop: 1, Text: text, Calls: calls}}, Metrics: metrics, Outcome: &matrix.Outcome{Status: matrix.Done}}
}

// Five tasks, and what they come to by hand.
func TestReport(t *testing.T) {
	s := New()
	s.Add(done("a", "four", map[string]*float64{"score": new(1.0), "odd": nil}, call("m", 10, 4, 100)))
	b := done("b", "êight ch", map[string]*float64{"score": new(2.0), "odd": nil}, call("m", 10, 8, 200), matrix.Call{Kind: matrix.KindTool, Trace: &matrix.Trace{IsError: true, Restored: "replay"}, Name: "search", TookMS: 7, Error: "down"})
	b.Outcome.Stopped = "say"
	s.Add(b)
	c := done("c", "four", map[string]*float64{"score": new(6.0), "odd": nil}, call("m", 20, 5, 400))
	c.Turns[1].Calls[0].ReasoningTokens = 3
	c.Turns[1].Calls[0].Retries = 2
	c.Turns = append(c.Turns, matrix.Turn{Role: "judge", Hop: 2, Data: matrix.RawValue([]byte(`{"good":true}`))})
	s.Add(c)
	s.Add(&matrix.Task{ID: "d", Outcome: &matrix.Outcome{Status: matrix.Done}, Metrics: map[string]*float64{"score": nil, "odd": nil}})
	s.Add(&matrix.Task{ID: "e", Turns: []matrix.Turn{{Role: "say", Hop: 1, Error: "no JSON", Text: "four", Calls: []matrix.Call{call("big", 1, 1, 50)}}}, Outcome: &matrix.Outcome{Status: matrix.Failed, Cause: "say: no JSON", Fault: matrix.FaultStep}})
	s.Add(&matrix.Task{ID: "live"})
	r := s.Report()

	if r.Done != 4 || r.Failed != 1 || r.Pending != nil {
		t.Errorf("got %d done, %d failed, pending %v, want 4, 1, not known", r.Done, r.Failed, r.Pending)
	}
	if want := map[string]int64{"say": 1}; !reflect.DeepEqual(r.Stopped, want) {
		t.Errorf("stopped: got %v, want %v", r.Stopped, want)
	}
	if want := map[matrix.Fault]int64{matrix.FaultStep: 1}; !reflect.DeepEqual(r.Faults, want) {
		t.Errorf("faults: got %v, want %v", r.Faults, want)
	}
	if len(r.Causes) != 1 || r.Causes[0].Cause != "say: no JSON" || r.Causes[0].Count != 1 || r.Causes[0].Example != "e" {
		t.Errorf("causes: got %+v", r.Causes)
	}
	// Turns 2, 2, 3, 0, 1; calls 1, 2, 1, 0, 1; tokens 14, 18, 25, 0, 2.
	near(t, "turns", r.Turns, Spread{Count: 5, Mean: 1.6, SD: math.Sqrt(1.3), Min: 0, Q1: 1, Median: 2, Q3: 2, P95: 2.8, Max: 3, Sum: 8})
	near(t, "calls", r.Calls, Spread{Count: 5, Mean: 1, SD: math.Sqrt(0.5), Min: 0, Q1: 1, Median: 1, Q3: 1, P95: 1.8, Max: 2, Sum: 5})
	near(t, "tokens", r.Tokens, Spread{Count: 5, Mean: 11.8, SD: math.Sqrt(113.2), Min: 0, Q1: 2, Median: 14, Q3: 18, P95: 23.6, Max: 25, Sum: 59})
	near(t, "usd", r.USD, Spread{Count: 5, Mean: 0.2, SD: math.Sqrt(0.0125), Min: 0, Q1: 0.25, Median: 0.25, Q3: 0.25, P95: 0.25, Max: 0.25, Sum: 1})
	near(t, "score", r.Metrics["score"].Spread, Spread{Count: 3, Mean: 3, SD: math.Sqrt(7), Min: 1, Q1: 1.5, Median: 2, Q3: 4, P95: 5.6, Max: 6, Sum: 9})
	if got := r.Metrics["score"].Missing; got != 1 {
		t.Errorf("score is missing in %d tasks, want 1", got)
	}
	if got := r.Metrics["odd"]; got.Missing != 4 || got.Spread != nil {
		t.Errorf("odd: got %+v, want 4 missing", got)
	}

	var by []string
	for _, c := range r.By {
		by = append(by, fmt.Sprintf("%s %s %s: %d calls, %d unused, %d errors, %d restored, %d retries, %d+%d tokens, %v USD, median %v", c.Role, c.Kind, c.Name, c.Calls, c.Unused, c.Errors, c.Restored, c.Retries, c.PromptTokens, c.CompletionTokens, c.USD, c.TookMS.Median))
	}
	if want := []string{
		"say model big: 1 calls, 0 unused, 0 errors, 0 restored, 0 retries, 1+1 tokens, 0.25 USD, median 50",
		"say model m: 3 calls, 0 unused, 0 errors, 0 restored, 2 retries, 40+17 tokens, 0.75 USD, median 200",
		"say tool search: 1 calls, 1 unused, 1 errors, 1 restored, 0 retries, 0+0 tokens, 0 USD, median 7",
	}; !slices.Equal(by, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(by, "\n"), strings.Join(want, "\n"))
	}

	// Texts of 4, 8 and 4 characters (not bytes), of 4, 8 and 5-3 tokens.
	x := r.Texts
	near(t, "characters", x.Characters, Spread{Count: 3, Mean: 16. / 3, SD: math.Sqrt(16. / 3), Min: 4, Q1: 4, Median: 4, Q3: 6, P95: 7.6, Max: 8, Sum: 16})
	near(t, "tokens of the text", x.Tokens, Spread{Count: 3, Mean: 14. / 3, SD: math.Sqrt(28. / 3), Min: 2, Q1: 3, Median: 4, Q3: 6, P95: 7.6, Max: 8, Sum: 14})
	if want := []Bin{{4, 5, 2}, {5, 6, 0}, {6, 7, 0}, {7, 8, 0}, {8, 9, 1}}; !slices.Equal(x.Histogram, want) {
		t.Errorf("histogram: got %v, want %v", x.Histogram, want)
	}
	if want := (Duplicates{Copies: 1, Repeated: 1, Most: 2, Example: []string{"a", "c"}, Sampled: 1}); !reflect.DeepEqual(x.Duplicates, want) || x.None != 1 {
		t.Errorf("got %+v and %d without a text, want %+v and 1", x.Duplicates, x.None, want)
	}
}

// near compares to nine digits.
func near(t *testing.T, what string, got *Spread, want Spread) {
	t.Helper()
	if got == nil {
		t.Errorf("%s: got nothing, want %+v", what, want)
		return
	}
	g, w := reflect.ValueOf(*got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if f := g.Field(i); f.CanFloat() && math.Abs(f.Float()-w.Field(i).Float()) > 1e-9 || f.CanInt() && f.Int() != w.Field(i).Int() {
			t.Errorf("%s: got %+v, want %+v", what, *got, want)
			return
		}
	}
}

// No task is no error, and lists are lists.
func TestReportOfNothing(t *testing.T) {
	b, err := json.Marshal(New().Report())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"done":0`, `"pending":null`, `"causes":[]`, `"by":[]`, `"metrics":{}`, `"turns":null`, `"histogram":[]`, `"example":[]`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("got %s, want %s in it", b, want)
		}
	}
}

// What no JSON number can hold is none in a report.
func TestReportOfExtremes(t *testing.T) {
	s := New()
	for i, x := range []float64{math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64, math.MaxFloat64} {
		s.Add(done(fmt.Sprint(i), "", map[string]*float64{"x": new(x)}))
	}
	r := s.Report()
	if _, err := json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if m := r.Metrics["x"]; m.Missing != 1 || m.Spread.Count != 4 || m.Spread.Max != math.MaxFloat64 || m.Spread.Min != -math.MaxFloat64 {
		t.Errorf("got %+v of %+v", m.Spread, m)
	}
}

// Of more values than are kept, quantiles are near, and all else is exact.
func TestManyValues(t *testing.T) {
	const n = 300_000
	var s spread
	for _, i := range rand.New(rand.NewPCG(3, 4)).Perm(n) {
		s.add(float64(i))
	}
	r := s.report()
	if r.Count != n || r.Min != 0 || r.Max != n-1 || math.Abs(r.Mean-(n-1)/2.) > 1e-6 || math.Abs(r.SD-math.Sqrt(n*(n+1.)/12)) > 1e-3 || r.Sum != n*(n-1.)/2 {
		t.Errorf("got %+v", *r)
	}
	for p, got := range map[float64]float64{0.25: r.Q1, 0.5: r.Median, 0.75: r.Q3, 0.95: r.P95} {
		if math.Abs(got/n-p) > 0.02 {
			t.Errorf("quantile %v is %v of all values", p, got/n)
		}
	}
	total := int64(0)
	for _, b := range s.histogram() {
		if total += b.Count; b.To != 0 && math.Abs(float64(b.Count)-50_000) > 5000 && b.From < 250_000 {
			t.Errorf("got %+v, want about 50,000 in each bin", b)
		}
	}
	if total < n-maxBins || total > n+maxBins {
		t.Errorf("bins hold %d, want about %d", total, n)
	}
	if len(s.sample) != maxSample {
		t.Errorf("%d values are kept, want %d", len(s.sample), maxSample)
	}
}

// Bins cover all values, whatever these are, and are few.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		var s spread
		scale := math.Pow(10, 7*random.Float64())
		for range 1 + random.IntN(50) {
			s.add(math.Trunc(scale * random.ExpFloat64()))
		}
		bins := s.histogram()
		total := int64(0)
		for i, b := range bins {
			total += b.Count
			if i > 0 && b.From != bins[i-1].To {
				t.Fatalf("a gap: %v", bins)
			}
		}
		if total != s.n || len(bins) > maxBins+1 || bins[0].From > int64(s.min) {
			t.Fatalf("%d bins hold %d of %d values from %v: %v", len(bins), total, s.n, s.min, bins)
		}
	}
	var s spread
	for i := range 200 {
		s.add(float64(i))
	}
	s.add(1e6)
	bins := s.histogram()
	if want := (Bin{From: 200, Count: 1}); bins[0] != (Bin{From: 0, To: 20, Count: 20}) || bins[len(bins)-1] != want {
		t.Errorf("got %v, want bins of 20, and %v at the end", bins, want)
	}
}

// More texts than fit are sampled: what is said of all is near.
func TestManyCopies(t *testing.T) {
	c := newCopies(1000)
	const different, each = 20_000, 3
	for k := range each {
		for i := range different {
			c.add(fmt.Sprint("text ", i), fmt.Sprintf("%d/%d", i, k))
		}
	}
	d := c.report()
	if len(c.seen) > 1000 || d.Sampled >= 0.1 || d.Sampled < 0.01 {
		t.Errorf("%d texts are kept, %v of all", len(c.seen), d.Sampled)
	}
	if near := float64(d.Repeated) / different; near < 0.8 || near > 1.2 || d.Copies != 2*d.Repeated {
		t.Errorf("got %+v, want about %d repeated and twice as many copies", d, different)
	}
	if d.Most != each || len(d.Example) != 2 || !strings.HasSuffix(d.Example[0], "/0") || strings.TrimSuffix(d.Example[0], "/0") != strings.TrimSuffix(d.Example[1], "/1") {
		t.Errorf("got %+v, want an example of a text that stands %d times", d, each)
	}
}

// Names that agents make up do not fill the memory.
func TestManyNames(t *testing.T) {
	s := New()
	for i := range 3 * maxNames {
		s.Add(done(fmt.Sprint(i), "x", map[string]*float64{fmt.Sprint("m", i): new(1.0)}, call(fmt.Sprint("model", i), 1, 1, 1)))
	}
	r := s.Report()
	calls := int64(0)
	for _, c := range r.By {
		calls += c.Calls
	}
	if len(r.By) != maxNames+1 || len(r.Metrics) != maxNames+1 || calls != 3*maxNames {
		t.Errorf("got %d callers with %d calls and %d metrics, want %d of each and all calls", len(r.By), calls, len(r.Metrics), maxNames+1)
	}
}
