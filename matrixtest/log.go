package matrixtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"matrix/local"
)

// LogFault is what becomes of one request of a process to append a group.
type LogFault int

const (
	Answered    LogFault = iota
	Late                 // it comes when its answer, or a later one, is waited for
	RequestLost          // it never comes, and is made again
	AnswerLost           // the group is in the log; the process hears nothing, and asks again
	Cut                  // it never comes, and the process never reaches the log again
	CutAfter             // the group is in the log; the process never hears of it, nor reaches the log again
)

// OpenLog opens the log of that name for one more process. fault, unless it is nil,
// says what becomes of the n-th request, from 0, that this process makes to append:
// whoever holds a log over a network against the suite puts something between that
// loses what it says; Cut and CutAfter are not asked for.
type OpenLog func(t testing.TB, name string, fault func(n int) LogFault) local.Log

// Log checks that an implementation keeps the promises of local.Log.
func Log(t *testing.T, open OpenLog) {
	for _, c := range []struct {
		name string
		f    func(t *testing.T, l *logSuite)
	}{
		{"an empty log", logEmpty},
		{"groups come back in order", logOrder},
		{"positions grow", logPositions},
		{"a group of any size up to the largest", logSizes},
		{"the next writer fences the one before", logFence},
		{"what is under way when the next writer comes", logUnderWay},
		{"writers in turn", logWriters},
		{"a replay goes on while the log grows", logReplayGrows},
		{"a log is trimmed", logTrim},
		{"a replay while the log is trimmed", logReplayTrimmed},
		{"who was fenced trims", logFencedTrim},
		{"an error ends a replay", logReplayError},
		{"lost requests and lost answers", logLoses},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, &logSuite{T: t, open: open, name: strings.ReplaceAll(t.Name(), "/", "-")}) })
	}
}

type logSuite struct {
	*testing.T
	open OpenLog
	name string
}

// process opens the log for a process that is not its writer yet.
func (s *logSuite) process(fault func(n int) LogFault) local.Log {
	s.Helper()
	return s.open(s.T, s.name, fault)
}

// read replays the log, and returns what is in it.
func (s *logSuite) read(l local.Log) []string {
	s.Helper()
	var groups []string
	if err := l.Replay(func(group []byte) error {
		if group == nil {
			groups = nil
		} else {
			groups = append(groups, string(group))
		}
		return nil
	}); err != nil {
		s.Fatalf("replay: %v", err)
	}
	return groups
}

// writer opens the log for its next writer.
func (s *logSuite) writer() local.Log {
	s.Helper()
	l := s.process(nil)
	s.read(l)
	return l
}

// append appends groups and waits for them.
func (s *logSuite) append(l local.Log, groups ...string) {
	s.Helper()
	for _, g := range groups {
		if err := l.Append([]byte(g))(); err != nil {
			s.Fatalf("append %.20q: %v", g, err)
		}
	}
}

// holds checks what the log holds, as its next writer reads it.
func (s *logSuite) holds(want ...string) {
	s.Helper()
	if got := s.read(s.process(nil)); !slices.Equal(got, want) {
		s.Errorf("the log has %.300q, want %.300q", got, want)
	}
}

// names are n different groups.
func names(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return all
}

func logEmpty(t *testing.T, s *logSuite) {
	s.holds()
	s.holds()
	s.append(s.writer(), "x")
	s.holds("x")
}

func logOrder(t *testing.T, s *logSuite) {
	all := names("group ", 300)
	l := s.writer()
	var last func() error
	for _, g := range all[:200] { // only the last is waited for
		last = l.Append([]byte(g))
	}
	if err := last(); err != nil {
		t.Fatal(err)
	}
	s.append(l, all[200:]...)
	s.holds(all...)
}

func logPositions(t *testing.T, s *logSuite) {
	last := uint64(0)
	for range 3 {
		l := s.writer()
		for range 5 {
			if n := l.Next(); n <= last {
				t.Errorf("next: got %d after %d", n, last)
			} else {
				last = n
			}
			if again := l.Next(); again != last {
				t.Errorf("next: got %d and then %d, with nothing between", last, again)
			}
			s.append(l, "x")
		}
	}
}

func logSizes(t *testing.T, s *logSuite) {
	l := s.writer()
	most := l.MaxGroup()
	if most < 1<<10 {
		t.Fatalf("the largest group has %d bytes, want 1024 or more", most)
	}
	b := make([]byte, most)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	all := []string{"1", string(b[:100]), string(b[:most/2]), string(b[:most-1]), string(b)}
	s.append(l, all...)
	if err := l.Append(append(b, 0))(); err == nil || errors.Is(err, local.ErrFenced) {
		t.Errorf("a group that is too large: got %v", err)
	}
	s.holds(all...)
}

func logFence(t *testing.T, s *logSuite) {
	a := s.writer()
	s.append(a, "a1", "a2")
	b := s.process(nil)
	if got := s.read(b); !slices.Equal(got, []string{"a1", "a2"}) {
		t.Errorf("the second writer read %q", got)
	}
	for range 3 { // for good
		if err := a.Append([]byte("a3"))(); !errors.Is(err, local.ErrFenced) {
			t.Errorf("append of the first writer: got %v, want %v", err, local.ErrFenced)
		}
	}
	s.append(b, "b1")
	if err := a.Append([]byte("a4"))(); !errors.Is(err, local.ErrFenced) {
		t.Errorf("append of the first writer: got %v, want %v", err, local.ErrFenced)
	}
	s.holds("a1", "a2", "b1")
}

// Of what is under way when another becomes the writer the beginning may be in the
// log: what the first was told is, and nobody was told of what is not.
func logUnderWay(t *testing.T, s *logSuite) {
	for _, fault := range []LogFault{Answered, Late} {
		s := &logSuite{T: t, open: s.open, name: fmt.Sprint(s.name, fault)}
		a := s.process(func(n int) LogFault { return fault })
		s.read(a)
		all := names("a", 20)
		waits := make([]func() error, len(all))
		for i, g := range all {
			waits[i] = a.Append([]byte(g))
		}
		if err := waits[4](); err != nil {
			t.Fatal(err)
		}
		got := s.read(s.process(nil))
		if len(got) < 5 || len(got) > len(all) || !slices.Equal(got, all[:len(got)]) {
			t.Errorf("the second writer read %q of %q, want 5 at least", got, all)
		}
		for i, wait := range waits[5:] {
			if err := wait(); err == nil && i+5 >= len(got) || err != nil && !errors.Is(err, local.ErrFenced) {
				t.Errorf("group %d: got %v, and the second writer read %d groups", i+5, err, len(got))
			}
		}
		s.holds(got...)
	}
}

// logWriters: processes become the writer one after the other and at once, and each
// appends until it is fenced.
func logWriters(t *testing.T, s *logSuite) {
	const processes = 8
	var mu sync.Mutex
	told := map[string]bool{} // that it is durable
	var wg sync.WaitGroup
	for p := range processes {
		l := s.process(nil)
		wg.Go(func() {
			if err := l.Replay(func([]byte) error { return nil }); err != nil {
				t.Errorf("replay: %v", err)
				return
			}
			for i := range 40 {
				g := fmt.Sprintf("%d/%d", p, i)
				err := l.Append([]byte(g))()
				if err != nil {
					if !errors.Is(err, local.ErrFenced) {
						t.Errorf("append: %v", err)
					}
					return
				}
				mu.Lock()
				told[g] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	var writers []string // in the order in which they wrote
	next := 0
	all := s.read(s.process(nil))
	for _, g := range all {
		var p, i int
		if _, err := fmt.Sscanf(g, "%d/%d", &p, &i); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			writers, next = append(writers, fmt.Sprint(p)), 0
		}
		if len(writers) == 0 || writers[len(writers)-1] != fmt.Sprint(p) || i != next {
			t.Errorf("%s does not belong where it stands in %q", g, all)
		}
		next++
		delete(told, g)
	}
	if len(told) > 0 {
		t.Errorf("durable and gone: %v", told)
	}
	slices.Sort(writers)
	if len(slices.Compact(writers)) < len(writers) {
		t.Errorf("somebody wrote again after another: %q", all)
	}
}

func logReplayGrows(t *testing.T, s *logSuite) {
	a := s.writer()
	s.append(a, names("a", 10)...)
	var got []string
	b := s.process(nil)
	if err := b.Replay(func(group []byte) error {
		if got = append(got, string(group)); len(got) <= 10 {
			s.append(a, fmt.Sprint("more ", len(got)))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := append(names("a", 10), names("more ", 11)[1:]...)
	if !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	s.append(b, "b")
	s.holds(append(want, "b")...)
}

// suffix checks that got is the end of all, from the group at from on at least.
func (s *logSuite) suffix(got, all []string, from int) {
	s.Helper()
	if len(got) < len(all)-from || len(got) > len(all) || !slices.Equal(got, all[len(all)-len(got):]) {
		s.Errorf("the log has %.300q, want the end of %.300q, from %q on at least", got, all, all[from])
	}
}

// A trim may come to nothing: so there are many.
func logTrim(t *testing.T, s *logSuite) {
	all := names("old ", 10)
	l := s.writer()
	s.append(l, all...)
	for i := 0; ; i++ {
		before, from := l.Next(), len(all)
		all = append(all, fmt.Sprint("new ", i))
		s.append(l, all[from])
		l.Trim(before)
		l = s.process(nil)
		got := s.read(l)
		s.suffix(got, all, from)
		if len(got) < from {
			return
		}
		if t.Failed() || i == 1000 {
			t.Fatalf("the log was trimmed %d times and still has %d groups of %d", i, len(got), len(all))
		}
	}
}

func logReplayTrimmed(t *testing.T, s *logSuite) {
	for _, when := range []int{1, 5, 10, 19, 20} { // after so many groups were read
		s := &logSuite{T: t, open: s.open, name: fmt.Sprint(s.name, when)}
		all := names("a", 20)
		a := s.writer()
		s.append(a, all[:10]...)
		before := a.Next()
		s.append(a, all[10:]...)
		var got []string
		n := 0
		if err := s.process(nil).Replay(func(group []byte) error {
			if group == nil {
				got = nil
				return nil
			}
			if n++; n == when {
				a.Trim(before)
				s.append(a, "more")
			}
			got = append(got, string(group))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		all = append(all, "more")
		s.suffix(got, all, 10)
		s.suffix(s.read(s.process(nil)), all, 10)
	}
}

func logFencedTrim(t *testing.T, s *logSuite) {
	all := names("a", 20)
	a := s.writer()
	s.append(a, all[:10]...)
	before := a.Next()
	s.append(a, all[10:]...)
	b := s.writer()
	s.append(b, "b1")
	a.Trim(before)
	s.append(b, "b2")
	s.suffix(s.read(s.process(nil)), append(all, "b1", "b2"), 10)
}

func logReplayError(t *testing.T, s *logSuite) {
	s.append(s.writer(), "1", "2", "3")
	fault := errors.New("no room")
	n := 0
	err := s.process(nil).Replay(func(group []byte) error {
		if n++; n == 2 {
			return fault
		}
		return nil
	})
	if !errors.Is(err, fault) || n != 2 {
		t.Errorf("replay: got %v after %d groups, want %v after 2", err, n, fault)
	}
	s.holds("1", "2", "3")
}

func logLoses(t *testing.T, s *logSuite) {
	for name, fault := range map[string]func(n int) LogFault{
		"requests":  func(n int) LogFault { return []LogFault{Answered, RequestLost}[n%2] },
		"answers":   func(n int) LogFault { return []LogFault{AnswerLost, Answered, Answered}[n%3] },
		"both":      func(n int) LogFault { return []LogFault{Answered, Late, RequestLost, AnswerLost}[rand.IntN(4)] },
		"the first": func(n int) LogFault { return []LogFault{AnswerLost, Answered}[min(n, 1)] },
	} {
		s := &logSuite{T: t, open: s.open, name: s.name + name}
		all := names("a", 60)
		l := s.process(fault)
		s.read(l)
		var waits []func() error
		for _, g := range all {
			if waits = append(waits, l.Append([]byte(g))); len(waits) == 4 {
				for _, wait := range waits {
					if err := wait(); err != nil {
						t.Errorf("append with lost %s: %v", name, err)
					}
				}
				waits = nil
			}
		}
		s.holds(all...)
	}
	// Whoever asks for what became of a group when its successor has trimmed it is told that it is fenced, or that it is durable.
	a := s.process(func(n int) LogFault { return []LogFault{AnswerLost, Answered}[min(n, 1)] })
	s.read(a)
	wait := a.Append([]byte("a"))
	b := s.writer()
	s.append(b, "b1")
	before := b.Next()
	s.append(b, "b2")
	b.Trim(before)
	if err := wait(); err != nil && !errors.Is(err, local.ErrFenced) {
		t.Errorf("append: got %v, want %v or none", err, local.ErrFenced)
	}
}
