package dedup

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// texts are n texts of 40 to 120 words, of which most have been made of an earlier one by
// replacing some of its words.
func texts(n int) []string {
	rng := rand.New(rand.NewPCG(1, 2))
	word := func() string { return fmt.Sprint("w", rng.IntN(50_000)) }
	all := make([][]string, 0, n)
	for len(all) < n {
		if len(all) > 0 && rng.IntN(4) > 0 {
			t := append([]string(nil), all[rng.IntN(len(all))]...)
			for range rng.IntN(8) {
				t[rng.IntN(len(t))] = word()
			}
			all = append(all, t)
			continue
		}
		t := make([]string, 40+rng.IntN(80))
		for i := range t {
			t[i] = word()
		}
		all = append(all, t)
	}
	joined := make([]string, n)
	for i, t := range all {
		joined[i] = strings.Join(t, " ")
	}
	return joined
}

// shingles is the set of a text, made of its words as they are.
func shingles(text string, n int) map[string]bool {
	all := map[string]bool{}
	w := strings.Fields(text)
	for i := 0; i+n <= len(w); i++ {
		all[strings.Join(w[i:i+n], " ")] = true
	}
	return all
}

// exactScores calls f with the Jaccard index of each two texts that have a shingle in common.
func exactScores(texts []string, n int, f func(i, j int, score float64)) {
	with, sizes, common := map[string][]int{}, make([]int, len(texts)), make([]int, len(texts))
	for j, text := range texts {
		var some []int
		set := shingles(text, n)
		sizes[j] = len(set)
		for s := range set {
			for _, i := range with[s] {
				if common[i]++; common[i] == 1 {
					some = append(some, i)
				}
			}
			with[s] = append(with[s], j)
		}
		for _, i := range some {
			f(i, j, float64(common[i])/float64(sizes[i]+sizes[j]-common[i]))
			common[i] = 0
		}
	}
}

// Of the pairs of 5,000 texts those are found that exact sets say are alike, at least
// 98 % where their index is 0.05 above the threshold, and no others; all that match does
// so by the index that exact sets give.
func TestMinHashAgainstExact(t *testing.T) {
	all := texts(5_000)
	for _, c := range []struct {
		threshold float64
		ngram     int
	}{{0.8, 5}, {0.55, 1}} {
		t.Run(fmt.Sprint(c.threshold, " of ", c.ngram), func(t *testing.T) {
			x := memory(t, Options{Method: MinHash, Threshold: c.threshold, NGram: c.ngram})
			s := x.Signer()
			bands, sets := make([][]byte, len(all)), make([][]byte, len(all))
			for i, text := range all {
				first, _, err := split(s.Text(text))
				if err != nil {
					t.Fatal(err)
				}
				bands[i], sets[i], _ = s.bands(first)
			}
			pairs, found := 0, 0
			exactScores(all, c.ngram, func(i, j int, score float64) {
				if got := jaccard(sets[i], sets[j]); math.Abs(got-score) > 1e-9 {
					t.Fatalf("texts %d and %d: got a Jaccard index of %v, want %v", i, j, got, score)
				}
				if score < c.threshold+0.05 {
					return
				}
				pairs++
				for k := 0; k < len(bands[i]); k += 8 {
					if string(bands[i][k:k+8]) == string(bands[j][k:k+8]) {
						found++
						break
					}
				}
			})
			if recall := float64(found) / float64(pairs); pairs < 1000 || recall < 0.98 {
				t.Errorf("found %d of %d pairs, %.4f; want 0.98 of 1,000 or more", found, pairs, recall)
			}
		})
	}
}

// What is kept has no twins but those that MinHash may miss, and what is not has one.
func TestKeepsFirstOfTwins(t *testing.T) {
	const threshold = 0.8
	all := texts(10_000)
	x := memory(t, Options{Method: MinHash, Threshold: threshold})
	kept, dropped := map[int]bool{}, map[int]Match{}
	for i, text := range all {
		sig := x.Signer().Text(text)
		m, found, err := x.Find(sig)
		if err != nil {
			t.Fatal(err)
		}
		if found {
			dropped[i] = m
			continue
		}
		kept[i] = true
		if err := x.Add(fmt.Sprint(i), sig); err != nil {
			t.Fatal(err)
		}
		if i%700 == 0 {
			if err := x.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	scores := map[[2]int]float64{}
	twins := 0
	exactScores(all, 5, func(i, j int, score float64) {
		scores[[2]int{i, j}] = score
		if kept[i] && kept[j] && score >= threshold+0.05 {
			twins++
		}
	})
	for i, m := range dropped {
		var twin int
		fmt.Sscan(m.Name, &twin)
		if score := scores[[2]int{twin, i}]; !kept[twin] || score < threshold || math.Abs(score-m.Score) > 1e-9 {
			t.Errorf("text %d is dropped for %+v: it is kept %v, and their index is %v", i, m, kept[twin], score)
		}
	}
	if len(dropped) < 1000 || len(kept) < 1000 || float64(twins) > 0.02*float64(len(dropped)) {
		t.Errorf("kept %d, dropped %d, kept %d pairs of twins", len(kept), len(dropped), twins)
	}
}

func memory(t testing.TB, o Options) *Index {
	t.Helper()
	x, err := OpenMemory(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

func TestAlike(t *testing.T) {
	long := "the quick brown fox jumps over the lazy dog and runs away from all the hounds of the old farm"
	for _, c := range []struct {
		name   string
		o      Options
		a, b   string
		alike  bool
		unlike string
	}{
		{"exact", Options{Method: Exact}, "Hello, world", "  Hello, world\n", true, "hello, world"},
		{"case and punctuation", Options{Method: MinHash, Threshold: 1}, long, strings.ToUpper(long) + "!", true, long + " today"},
		{"fewer words than an element has", Options{Method: MinHash, Threshold: 0.8}, "Yes, sir", "yes sir", true, "yes madam"},
		{"no words", Options{Method: MinHash, Threshold: 0.8}, "++", "++ ", true, "--"},
		{"Chinese", Options{Method: MinHash, Threshold: 0.5, NGram: 2}, "今天天气很好我们去公园", "今天天气很好我们去学校", true, "明天会下雨"},
		{"letters with marks", Options{Method: MinHash, Threshold: 0.9, NGram: 1}, "ÄRGER über Öl", "ärger Über öl", true, "arger uber ol"},
		{"single words", Options{Method: MinHash, Threshold: 0.6, NGram: 1}, "a b c d", "d c b a e", true, "a b x y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := memory(t, c.o)
			if err := x.Add("a", x.Signer().Text(c.a)); err != nil {
				t.Fatal(err)
			}
			for text, want := range map[string]bool{c.b: c.alike, c.unlike: false} {
				m, found, err := x.Find(x.Signer().Text(text))
				if err != nil || found != want || found && (m.Name != "a" || m.Method != c.o.Method) {
					t.Errorf("%q and %q: got %+v, %v, %v; want %v", c.a, text, m, found, err, want)
				}
			}
		})
	}
}

func TestVectors(t *testing.T) {
	const dim, n = 50, 7000
	rng := rand.New(rand.NewPCG(3, 4))
	x := memory(t, Options{Method: Embedding, Threshold: 0.9})
	var all [][]float32
	dropped := 0
	for i := range n {
		v := make([]float32, dim)
		near := i > 0 && rng.IntN(3) == 0
		for k := range v {
			v[k] = float32(rng.NormFloat64())
			if near {
				v[k] = all[len(all)/2][k] + 0.06*v[k] // a cosine of about 0.91
			}
		}
		sig, err := x.Signer().Vector("", v)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := split(sig)
		v = decodeVector(first)
		want, score := -1, 0.0
		for k, o := range all {
			if cos := cosine(v, o); cos >= 0.9 {
				want, score = k, cos
				break
			}
		}
		m, found, err := x.Find(sig)
		if err != nil || found != (want >= 0) || found && (m.Name != fmt.Sprint(want) || m.Score != score) {
			t.Fatalf("vector %d: got %+v, %v, %v; want %d, %v", i, m, found, err, want, score)
		}
		if found {
			dropped++
			continue
		}
		if err := x.Add(fmt.Sprint(len(all)), sig); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if dropped < 500 || len(all) < chunk/2 {
		t.Errorf("dropped %d, kept %d", dropped, len(all))
	}
	for _, v := range [][]float32{{0, 0}, {float32(math.NaN()), 1}, {float32(math.Inf(1))}} {
		if _, err := x.Signer().Vector("", v); err == nil {
			t.Errorf("%v has no direction, and got a signature", v)
		}
	}
	sig, _ := x.Signer().Vector("", []float32{1, 0})
	if _, _, err := x.Find(sig); err == nil {
		t.Error("a vector of 2 dimensions among those of 50: got no error")
	}
}

func TestAgainst(t *testing.T) {
	benchmark := []string{"What is the boiling point of water at sea level in degrees", "Name the capital of France and its river"}
	each := func(add func(name, text string) error) error {
		for i, text := range benchmark {
			if err := add(fmt.Sprint("b:", i+1), text); err != nil {
				return err
			}
		}
		return nil
	}
	contains := "Well, let me ask: what is the boiling point of water, please?"
	for _, c := range []struct {
		o                 Options
		same, some, other bool
	}{
		{Options{Method: Exact, Overlap: 6}, true, true, false},
		{Options{Method: Exact}, true, false, false},
		{Options{Method: MinHash, Threshold: 0.8, Overlap: 6}, true, true, false},
		{Options{Method: MinHash, Threshold: 0.8}, true, false, false},
	} {
		dir := filepath.Join(t.TempDir(), "index")
		for session := range 3 { // made, read again, and of another corpus
			x, err := Open(dir, c.o)
			if err != nil {
				t.Fatal(err)
			}
			there := session < 2
			if session == 2 {
				benchmark = []string{"something else altogether, which has nothing in common with the former"}
			}
			if err := x.Against(fmt.Sprint(there), each); err != nil {
				t.Fatal(err)
			}
			for text, want := range map[string]bool{
				"What is the boiling point of water at sea level in degrees": c.same && there, contains: c.some && there, "Is it late?": false,
			} {
				m, found, err := x.Find(x.Signer().Text(text))
				if err != nil || found != want || found && m.Name != "b:1" {
					t.Errorf("%+v, session %d: %q: got %+v, %v, %v; want %v", c.o, session, text, m, found, err, want)
				}
			}
			if x.Len() != 0 {
				t.Errorf("got %d texts that were added, want none", x.Len())
			}
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
		benchmark = []string{"What is the boiling point of water at sea level in degrees", "Name the capital of France and its river"}
	}
}

// A crash may take what was added last, and nothing between.
func TestCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := Options{Method: MinHash, Threshold: 0.8, NGram: 5}
	open := func(fs vfs.FS) *Index {
		x := &Index{signer: NewSigner(o)}
		if err := x.open("", fs); err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := open(fs)
	x.state = state{Version: version, Options: o}
	all := texts(300)
	for i, text := range all {
		if err := x.Add(fmt.Sprint(i), x.Signer().Text(text)); err != nil {
			t.Fatal(err)
		}
		if err := x.Commit(); err != nil {
			t.Fatal(err)
		}
		if i == 200 {
			if err := x.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	y := open(fs.CrashClone(vfs.CrashCloneCfg{}))
	if n := y.Len(); n < 200 || n > 300 || y.Last() != fmt.Sprint(n-1) {
		t.Errorf("after a crash: %d texts, the last %q", n, y.Last())
	}
	for i, text := range all {
		_, found, err := y.Find(y.Signer().Text(text))
		if err != nil || !found && int64(i) < y.Len() {
			t.Errorf("text %d of %d is not found: %v", i, y.Len(), err)
		}
	}
	for _, x := range []*Index{x, y} {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
}

// An index goes on in its folder; one of other options, a damaged one and one that was
// reset have nothing in them.
func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	o := Options{Method: Embedding, Threshold: 0.9}
	sig := func(x *Index, v ...float32) []byte {
		s, err := x.Signer().Vector("", v)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	expect := func(o Options, n int64, last string) *Index {
		t.Helper()
		x, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if x.Len() != n || x.Last() != last {
			t.Fatalf("got %d texts, the last %q; want %d, %q", x.Len(), x.Last(), n, last)
		}
		return x
	}
	shut := func(x *Index) {
		t.Helper()
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	x := expect(o, 0, "")
	if err := x.Add("a", sig(x, 1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := x.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := x.Add("never committed", sig(x, 0, 1)); err != nil {
		t.Fatal(err)
	}
	shut(x)
	x = expect(o, 1, "a")
	for v, want := range map[[2]float32]bool{{2, 0.1}: true, {0, 1}: false} {
		if m, found, err := x.Find(sig(x, v[:]...)); err != nil || found != want {
			t.Errorf("%v: got %+v, %v, %v; want %v", v, m, found, err, want)
		}
	}
	if err := x.Reset(); err != nil {
		t.Fatal(err)
	}
	if _, found, err := x.Find(sig(x, 1, 0)); found || err != nil {
		t.Errorf("after Reset: got %v, %v", found, err)
	}
	if err := x.Add("b", sig(x, 1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := x.Commit(); err != nil {
		t.Fatal(err)
	}
	shut(x)
	shut(expect(o, 1, "b"))
	shut(expect(Options{Method: Exact}, 0, ""))
	for _, o := range []Options{{}, {Method: "x"}, {Method: MinHash}, {Method: MinHash, Threshold: 1.1}, {Method: Exact, NGram: -1}, {Method: Exact, Overlap: 1 << 20}} {
		if _, err := Open(dir, o); err == nil {
			t.Errorf("%+v: got no error", o)
		}
	}
}

func FuzzWords(f *testing.F) {
	f.Add("Hello, Wörld 今天!", 2)
	f.Add("\xff\xfe a", 1)
	f.Fuzz(func(t *testing.T, text string, n int) {
		n = 1 + (n&0xff)%10
		s := set(text, n)
		if len(s) == 0 {
			t.Errorf("%q has no element", text)
		}
		for _, b := range [][]byte{[]byte(text)} {
			_, _, _ = split(b)
		}
	})
}

func BenchmarkSignature(b *testing.B) {
	all := texts(1000)
	for i := range all {
		all[i] = strings.Repeat(all[i]+" ", 1+2000/len(all[i]))[:2000]
	}
	for _, o := range []Options{{Method: Exact}, {Method: MinHash, Threshold: 0.8}, {Method: MinHash, Threshold: 0.8, Overlap: 13}} {
		b.Run(fmt.Sprint(o.Method, o.Overlap), func(b *testing.B) {
			s := NewSigner(o)
			i := 0
			for b.Loop() {
				s.Text(all[i%len(all)])
				i++
			}
		})
	}
}

// Each row is looked up and added: with -benchtime 1000000x, a million. Of the CPU of a row in all, what
// making its text takes, which is the benchmark's own, is left out.
func BenchmarkIndex(b *testing.B) {
	cpu := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // of this process there is one
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var making, signing time.Duration
	begun := cpu()
	x, err := Open(b.TempDir(), Options{Method: MinHash, Threshold: 0.8})
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	i := 0
	for b.Loop() {
		from := cpu()
		text.Reset()
		for text.Len() < 2000 {
			fmt.Fprintf(&text, "w%d ", rng.IntN(50_000))
		}
		made := cpu()
		sig := x.Signer().Text(text.String())
		making, signing = making+made-from, signing+cpu()-made
		if _, _, err := x.Find(sig); err != nil {
			b.Fatal(err)
		}
		if err := x.Add(fmt.Sprint("row-", i), sig); err != nil {
			b.Fatal(err)
		}
		if i++; i%256 == 0 {
			if err := x.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.StopTimer()
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
	us := func(d time.Duration, name string) {
		b.ReportMetric(float64(d.Nanoseconds())/1e3/float64(i), name)
	}
	us(signing, "signature-us/op")
	us(cpu()-begun-making, "cpu-us/op")
}

func BenchmarkVectors(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(dim int) []byte {
		v := make([]float32, dim)
		for k := range v {
			v[k] = float32(rng.NormFloat64())
		}
		n, _ := normal(v)
		return n
	}
	for _, dim := range []int{384, 1024} {
		b.Run(fmt.Sprint(dim), func(b *testing.B) {
			var v vectors
			for range 20_000 {
				_ = v.add(0, random(dim))
			}
			q := random(dim)
			for b.Loop() {
				if _, _, _, err := v.find(q, 0.9); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
