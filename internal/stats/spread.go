package stats

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// maxSample is how many values are kept, of which quantiles are taken. Of more values
// what is said to be the median lies between their 49th and 51st percentile, 19 times
// out of 20, and other quantiles are nearer.
const maxSample = 10_000

// Spread says how the values of something are spread. Count, Mean, SD, Min and Max are
// of all values; quantiles are so of up to 10,000, and of more they are those of
// a random sample of 10,000, the same one each time.
type Spread struct {
	Count  int64   `json:"count"`
	Mean   float64 `json:"mean"`
	SD     float64 `json:"sd"` // of the sample: over Count-1; 0 of one value
	Min    float64 `json:"min"`
	Q1     float64 `json:"p25"`
	Median float64 `json:"median"`
	Q3     float64 `json:"p75"`
	P95    float64 `json:"p95"`
	Max    float64 `json:"max"`
	Sum    float64 `json:"sum"`
}

// spread gathers values. The zero spread is of none.
type spread struct {
	n        int64
	mean, m2 float64 // B. P. Welford, 1962: m2 is the sum of squared distances from the mean
	sum      float64
	min, max float64
	sample   []float64 // J. S. Vitter's algorithm R, 1985
	random   *rand.Rand
}

// add adds a value; one that is no number counts as none.
func (s *spread) add(v float64) {
	if math.IsNaN(v) {
		return
	}
	v = max(-math.MaxFloat64, min(math.MaxFloat64, v))
	if s.n == 0 {
		s.min, s.max = v, v
	}
	s.n++
	s.min, s.max, s.sum = min(s.min, v), max(s.max, v), s.sum+v
	d := v - s.mean
	s.mean += d / float64(s.n)
	s.m2 += d * (v - s.mean)
	if len(s.sample) < maxSample {
		s.sample = append(s.sample, v)
		return
	}
	if s.random == nil {
		s.random = rand.New(rand.NewPCG(1, 2))
	}
	if i := s.random.Int64N(s.n); i < maxSample {
		s.sample[i] = v
	}
}

func (s *spread) report() *Spread {
	if s.n == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(s.sample))
	r := &Spread{
		Count: s.n, Mean: finite(s.mean), Min: s.min, Max: s.max, Sum: finite(s.sum),
		Q1: quantile(sorted, 0.25), Median: quantile(sorted, 0.5), Q3: quantile(sorted, 0.75), P95: quantile(sorted, 0.95),
	}
	if s.n > 1 {
		r.SD = finite(math.Sqrt(s.m2 / float64(s.n-1)))
	}
	return r
}

// finite is x, which JSON can hold.
func finite(x float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	return max(-math.MaxFloat64, min(math.MaxFloat64, x))
}

// quantile is that of sorted values, linear between the two that are nearest:
// definition 7 of R. J. Hyndman and Y. Fan, 1996, as NumPy has it.
func quantile(sorted []float64, p float64) float64 {
	at := p * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	part := at - float64(i)
	return sorted[i]*(1-part) + sorted[i+1]*part
}

// Bin is how many values lie from From up to, and without, To. To is 0 in the last
// one where it has no end.
type Bin struct {
	From  int64 `json:"from"`
	To    int64 `json:"to"`
	Count int64 `json:"count"` // an estimate where there are more than 10,000 values
}

// maxBins is how many bins a histogram has at most.
const maxBins = 12

// histogram counts whole numbers in bins of one width, 1, 2 or 5 times a power of ten.
// The last one holds all that are above the 99th percentile by a bin or more.
func (s *spread) histogram() []Bin {
	bins := []Bin{}
	if s.n == 0 {
		return bins
	}
	sorted := slices.Sorted(slices.Values(s.sample))
	low, high := int64(sorted[0]), int64(quantile(sorted, 0.99))
	width := int64(1)
	for i := 1; high/width-low/width+2 > maxBins; i++ {
		width = []int64{1, 2, 5}[i%3] * int64(math.Pow10(i/3))
	}
	for from := low / width * width; from <= high; from += width {
		bins = append(bins, Bin{From: from, To: from + width})
	}
	last := int64(sorted[len(sorted)-1])
	if end := bins[len(bins)-1].To; last >= end+width {
		bins = append(bins, Bin{From: end})
	} else if last >= end {
		bins = append(bins, Bin{From: end, To: end + width})
	}
	counts := make([]float64, len(bins))
	for _, v := range sorted {
		i, _ := slices.BinarySearchFunc(bins, int64(v), func(b Bin, v int64) int { return cmp.Compare(b.From, v+1) })
		counts[i-1]++
	}
	for i, n := range counts {
		bins[i].Count = int64(math.Round(n / float64(len(sorted)) * float64(s.n)))
	}
	return bins
}
