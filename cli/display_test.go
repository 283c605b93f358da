package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"matrix/internal/spend"
	"matrix/llm"
	"matrix/run"
	"matrix/session"
)

// halfway is a run in the middle.
func halfway() *session.Snapshot {
	return &session.Snapshot{
		Name: "coral",
		Progress: run.Progress{
			Totals: run.Totals{Done: 4998, Failed: 2}, Total: 20000, Fed: 6000, Live: 1000, Pending: 15000,
			Failure: "q7: teacher: the reply\nhas no answer", Elapsed: 125 * time.Second,
		},
		Rate: 40,
		Roles: []session.RoleSnapshot{
			{Name: "teacher", RoleProgress: run.RoleProgress{Waiting: 300, Acting: 256, Hops: 9000}, Rate: 80.25},
			{Name: "student", RoleProgress: run.RoleProgress{Waiting: 4, Acting: 12}, Rate: 0},
			{Name: "extract", RoleProgress: run.RoleProgress{Inline: true}},
			{Name: "match", RoleProgress: run.RoleProgress{Inline: true}},
		},
		Models: []session.ModelSnapshot{{Name: "llama", Stats: llm.Stats{InFlight: 256, Retries: 3, Paused: &llm.Trouble{Since: time.Now().Add(-12 * time.Second), Kind: llm.Capacity, Msg: "503"}}, Rate: 12345}},
	}
}

func TestLiveDisplay(t *testing.T) {
	d := &liveDisplay{}
	got := strings.Join(d.lines(halfway(), "", 100), "\n")
	want := `coral ▕█████████████                                       ▏  5,000/20,000 (25%)  40.0/s  6:15 left
live 1,000 · pending 15,000 · failed 2 · 2:05

role     waiting  acting  hops/s    model  in flight  tokens/s  retries
teacher      300     256    80.2    llama        256    12,345        3
student        4      12       0
inline: extract, match
llama is paused: 503, 12 s
last failure: q7: teacher: the reply has no answer`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	for _, width := range []int{200, 80, 60, 40, 10, 1} {
		var b bytes.Buffer
		s := screen{w: &b, size: func() (int, int) { return width, 24 }}
		s.draw(d.lines(halfway(), "", width))
		for _, l := range strings.Split(ansi.Strip(b.String()), "\n") {
			if got := ansi.StringWidth(l); got > width {
				t.Errorf("width %d: got a line of %d columns: %q", width, got, l)
			}
		}
	}
}

func TestLiveDisplayUnknownTotal(t *testing.T) {
	v := halfway()
	v.Total, v.Pending, v.Rate = -1, -1, 0
	got := strings.Join((&liveDisplay{}).lines(v, "", 80)[:2], "\n")
	for _, want := range []string{"5,000/?", "pending ?", "-/s"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}

// The block is drawn over the one before, whose lines a terminal that has
// become narrower has broken.
func TestScreenMovesUp(t *testing.T) {
	var b bytes.Buffer
	width := 80
	s := screen{w: &b, size: func() (int, int) { return width, 5 }}
	s.draw([]string{strings.Repeat("x", 70), "y", "z", "cut", "by the height"})
	if got, want := strings.Count(b.String(), "\n"), 4; got != want {
		t.Errorf("lines drawn: got %d, want %d", got, want)
	}
	b.Reset()
	width = 40
	s.draw([]string{"a"})
	if want := "\x1b[5A"; !strings.Contains(b.String(), want) {
		t.Errorf("got %q, want %q in it", b.String(), want)
	}
	b.Reset()
	s.close()
	if got, want := b.String(), "\r\x1b[1A\x1b[J\x1b[?25h"; got != want {
		t.Errorf("close: got %q, want %q", got, want)
	}
}

func TestPlainLine(t *testing.T) {
	d := &plainDisplay{}
	v := halfway()
	got := d.line(v)
	want := "2:05  5,000/20,000 (25%) · 40.0/s · 6:15 left · live 1,000 · pending 15,000 · failed 2 · llama paused: 503, 12 s · last failure: q7: teacher: the reply has no answer"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	v.Spending = &spend.Spending{USD: 12.3, Projected: &llm.Cost{USD: 49.2}, Limit: &llm.Cost{USD: 50, Tokens: 2e7}, Tokens: 1234567}
	if got, want := d.line(v), "· failed 2 · spent 12.30 of 50.00 USD, 49.20 projected; 1.23M of 20.0M tokens, 0 projected · llama"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
	if got := strings.Join((&liveDisplay{}).lines(v, "", 80), "\n"); !strings.Contains(got, "\nspent 12.30 of 50.00 USD") {
		t.Errorf("the live display does not say what is spent:\n%s", got)
	}
	if got := d.line(v); strings.Contains(got, "last failure") {
		t.Errorf("the same failure is told twice: %q", got)
	}
}

// Before the first row has ended, a plain display says that calls are under way:
// soon, and in every line.
func TestPlainLife(t *testing.T) {
	var b bytes.Buffer
	d := &plainDisplay{w: &b, tick: 10 * time.Second}
	models := []session.ModelSnapshot{{Name: "m"}, {Name: "n"}}
	d.printChanges(&session.Snapshot{Progress: run.Progress{Elapsed: time.Second}, Models: models})
	models[0].InFlight = 3
	d.printChanges(&session.Snapshot{Progress: run.Progress{Elapsed: 2 * time.Second}, Models: models})
	models[1].Stats = llm.Stats{InFlight: 1, Calls: 1200, PromptTokens: 1000, CompletionTokens: 234}
	d.printChanges(&session.Snapshot{Progress: run.Progress{Elapsed: 3 * time.Second}, Models: models})
	if got, want := b.String(), "2s  3 calls in flight\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	v := halfway()
	v.Done, v.Failed, v.Models = 0, 0, models
	if got, want := d.line(v), "· 4 calls in flight, 1,200 answered, 1,234 tokens"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}

// A plain display tells at once what is wrong, and not again until it changes.
func TestPlainChanges(t *testing.T) {
	var b bytes.Buffer
	d := &plainDisplay{w: &b, tick: 10 * time.Second}
	since := func(seconds int, msg string) *llm.Trouble {
		return &llm.Trouble{Since: time.Now().Add(-time.Duration(seconds) * time.Second), Msg: msg}
	}
	for _, c := range []struct {
		paused, note *llm.Trouble
		want         string
	}{
		{nil, nil, ""},
		{&llm.Trouble{Msg: "list is not there yet"}, nil, "1s  m paused: list is not there yet\n"},
		{&llm.Trouble{Msg: "list is not there yet"}, nil, ""},
		{since(3, "http://h: 503: no"), nil, "1s  m paused: http://h: 503: no, 3 s\n"},
		{since(4, "http://h: 503: no"), nil, ""},
		{nil, nil, "1s  m is back\n"},
		{nil, &llm.Trouble{Msg: "list, line 2: no\nURL"}, "1s  m: list, line 2: no URL\n"},
		{nil, &llm.Trouble{Msg: "list, line 2: no\nURL"}, ""},
		{nil, nil, ""},
	} {
		b.Reset()
		d.printChanges(&session.Snapshot{Progress: run.Progress{Elapsed: time.Second}, Models: []session.ModelSnapshot{{Name: "m", Stats: llm.Stats{Paused: c.paused, Note: c.note}}}})
		if got := b.String(); got != c.want {
			t.Errorf("%v, %v: got %q, want %q", c.paused, c.note, got, c.want)
		}
	}
	v := halfway()
	v.Models[0].Paused, v.Models[0].Note = nil, &llm.Trouble{Msg: "list, line 2"}
	d.show(v, "")
	if want := " · llama: list, line 2"; !strings.Contains(b.String(), want) {
		t.Errorf("got %q, want %q in it", b.String(), want)
	}
	b.Reset()
	d.printChanges(&session.Snapshot{Progress: run.Progress{Elapsed: time.Second}, Models: v.Models})
	if b.Len() > 0 {
		t.Errorf("got %q, want nothing: the line has told it", b.String())
	}
	if got := strings.Join((&liveDisplay{}).lines(v, "", 80), "\n"); !strings.Contains(got, "\nllama: list, line 2") {
		t.Errorf("the live display does not tell it:\n%s", got)
	}
}

// The display says who is there, who is missing, and why.
func TestDisplayWorkers(t *testing.T) {
	v := halfway()
	v.Workers = []session.WorkerState{}
	if got := strings.Join((&liveDisplay{}).lines(v, "", 100), "\n"); !strings.Contains(got, " · no workers\n") {
		t.Errorf("nobody has joined:\n%s", got)
	}
	v.Workers = []session.WorkerState{
		{ID: "w1", Host: "h1", State: "working", Roles: []string{"teacher"}, Slots: 8},
		{ID: "w2", Host: "h2", State: "leaving", Slots: 8, Why: "OPENAI_API_KEY\nis not set"},
	}
	v.Roles[1].Unserved, v.Roles[1].Where = true, `gpu == "h100"`
	got := strings.Join((&liveDisplay{}).lines(v, "", 100), "\n")
	for _, want := range []string{
		" · 2 workers (1 leaving), 16 slots\n", "\nnobody serves student, which acts where gpu == \"h100\": 4 tasks wait\n", "\nworker w2 on h2: OPENAI_API_KEY is not set\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	d := &plainDisplay{}
	if got := d.line(v); !strings.Contains(got, " · 2 workers (1 leaving), 16 slots · nobody serves student, which acts where") {
		t.Errorf("the plain line: %s", got)
	}
	if got := (&plainDisplay{}).line(halfway()); strings.Contains(got, "worker") {
		t.Errorf("a run without workers: %s", got)
	}
}

// A plain display tells once who does not work, and which roles nobody serves.
func TestPlainWorkers(t *testing.T) {
	var b bytes.Buffer
	d := &plainDisplay{w: &b, tick: 10 * time.Second}
	workers := func(n int, state string) (all []session.WorkerState) {
		for i := range n {
			all = append(all, session.WorkerState{ID: fmt.Sprintf("w%d", i), State: state, Roles: []string{"teacher", "student"}, Slots: 2})
		}
		return all
	}
	why := workers(1, "leaving")
	why[0].Why = "no key"
	lacks := workers(1, "working")
	lacks[0].Why = "no key"
	for _, c := range []struct {
		workers  []session.WorkerState
		unserved bool
		want     string
	}{
		{[]session.WorkerState{}, true, "1s  nobody serves teacher\n"},
		{[]session.WorkerState{}, true, ""},
		{workers(1, "working"), false, "1s  teacher is served again\n"},
		{workers(1, "working"), false, ""},
		{workers(1, "draining"), false, "1s  worker w0 is draining\n"},
		{why, false, "1s  worker w0 is leaving: no key\n"},
		{[]session.WorkerState{}, true, "1s  nobody serves teacher\n"},
		{lacks, false, "1s  teacher is served again\n"}, // said as it joined
		{workers(1, "working"), false, ""},
		{lacks, false, "1s  worker w0: no key\n"},
		{workers(20, "working"), false, ""},
		{workers(20, "draining"), false, "1s  20 workers (20 draining), 40 slots\n"},
		{nil, false, ""},
	} {
		b.Reset()
		d.printChanges(&session.Snapshot{Progress: run.Progress{Elapsed: time.Second}, Workers: c.workers, Roles: []session.RoleSnapshot{{Name: "teacher", Unserved: c.unserved}}})
		if got := b.String(); got != c.want {
			t.Errorf("%d workers, unserved %v: got %q, want %q", len(c.workers), c.unserved, got, c.want)
		}
	}
}
