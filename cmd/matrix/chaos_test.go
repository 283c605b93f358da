package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"matrix/cluster/natsnet"
	"matrix/internal/monitor"
	"matrix/internal/sim"
	"matrix/session"
)

// chaosConfig is a conversation between a model and a program, of one to three rounds.
// What each is asked tells all that was said before: the model, which repeats what it
// is told, the answer before; the program hashes the log.
const chaosConfig = `
name: chaos
seed: 11
live: 300
grace: 5s
dataset: {path: rows.jsonl, id: id}
output: {rows_per_part: 300, export: {format: messages, columns: {id: id}}}
models:
  a: {base_url: "%s", max_tokens: 60, concurrency: 16, price: {input: 10, output: 10}}
roles:
  ask: {chat: {model: a, prompt: "{{ item.id }} {{ rounds('judge') }} {{ last.data.nonce | default('begins') }}"}, concurrency: 16}
  work: {command: {run: [chaos-agent], workers: 4}}
  judge: {inline: false, compute: {nonce: last.data.nonce, round: rounds("work")}}
flow:
  start: ask
  after:
    ask: work
    work: judge
    judge:
      - {when: "item.n %% 97 == 5", fail: "row {{ item.n }} fails"}
      - {when: "last.data.round > item.n %% 3", finish: "last.data.round"}
      - {to: ask}
metrics: {rounds: last.data.round}
`

// chaosPath are the roles that must act on a row, in turn.
func chaosPath(n int) []string {
	round := []string{"ask", "work", "judge"}
	if n%97 == 5 {
		return round
	}
	return slices.Repeat(round, n%3+1)
}

const (
	chaosWorkers = 4
	chaosSlots   = 12     // calls at once of a worker
	chaosHead    = 16 + 4 // and of the head: of the model's and of the program's
	chaosRows    = 200    // for each fault
	chaosUSD     = 1e-5   // of a token
)

// TestMain is the program of role work as well, where TestChaos begins it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("MATRIX_CHAOS_HISTORY"); dir != "" && filepath.Base(os.Args[0]) == "chaos-agent" {
		if err := chaosAgent(dir, os.Getenv("MATRIX_CHAOS_PROCESS")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var err error
	if binaries, err = os.MkdirTemp("", "matrix-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(binaries)
	os.Exit(code)
}

// binaries is the folder of the program that is tested.
var binaries string

// chaosCall is a line of a history: a call of the program, written before it answers.
type chaosCall struct {
	At    time.Time `json:"at"`
	By    string    `json:"by"` // the process of matrix that asked
	ID    string    `json:"id"`
	Turns int       `json:"turns"` // that the task had
	Log   string    `json:"log"`   // their hash
	Nonce string    `json:"nonce"`
}

// chaosAgent answers questions with a nonce and the hash of the log before it, each of
// which it first writes to a history of its own.
func chaosAgent(dir, by string) error {
	history, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s.%d.jsonl", by, os.Getpid())), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	defer history.Close()
	to := json.NewEncoder(os.Stdout)
	in := json.NewDecoder(bufio.NewReaderSize(os.Stdin, 1<<16))
	in.UseNumber()
	for in.More() {
		var q struct {
			Seq   int64       `json:"seq"`
			ID    string      `json:"id"`
			Turns []chaosTurn `json:"turns"`
		}
		if err := in.Decode(&q); err != nil {
			return err
		}
		c := chaosCall{At: time.Now(), By: by, ID: q.ID, Turns: len(q.Turns), Log: chaosHash(q.Turns), Nonce: rand.Text()[:16]}
		line, err := json.Marshal(&c)
		if err != nil {
			return err
		}
		if _, err := history.Write(append(line, '\n')); err != nil {
			return err
		}
		time.Sleep(50*time.Millisecond + mrand.N(150*time.Millisecond)) // what it does
		if err := to.Encode(map[string]any{"seq": q.Seq, "data": map[string]string{"nonce": c.Nonce, "log": c.Log}}); err != nil {
			return err
		}
	}
	return nil
}

// chaosTurn is of a turn what is hashed.
type chaosTurn struct {
	Role string         `json:"role"`
	Text string         `json:"text"`
	Data map[string]any `json:"data"`
	Hop  int            `json:"hop"`
}

func chaosHash(turns []chaosTurn) string {
	h := sha256.New()
	for _, t := range turns {
		b, _ := json.Marshal(&t) // of JSON
		h.Write(append(b, '\n'))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// TestChaos lets a run over a head and workers meet with what machines and networks do,
// at random moments, and then proves from dataset, output, ledger and what the services
// saw that nothing was lost, doubled, made up, or paid for more often than the faults
// explain. MATRIX_CHAOS_FAULTS says how many faults there are, MATRIX_CHAOS_HEADS how many heads;
// MATRIX_CHAOS_SEED repeats what is drawn.
func TestChaos(t *testing.T) {
	if os.Getenv("MATRIX_CHAOS_FAULTS") == "" {
		t.Skip("MATRIX_CHAOS_FAULTS is not set: make chaos")
	}
	number := func(name, otherwise string) uint64 {
		n, err := strconv.ParseUint(cmp.Or(os.Getenv(name), otherwise), 10, 63)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	faults, heads := int(number("MATRIX_CHAOS_FAULTS", "")), int(number("MATRIX_CHAOS_HEADS", "1"))
	seed := number("MATRIX_CHAOS_SEED", strconv.FormatInt(time.Now().UnixNano(), 10))
	t.Logf("MATRIX_CHAOS_SEED=%d", seed)
	bin := buildMatrix(t)
	rng := mrand.New(mrand.NewPCG(seed, 0))
	for begun := time.Now(); faults > 0; { // a run that is finished before all of them is followed by another
		c := newChaos(t, bin, rng, faults, heads)
		c.play()
		c.check()
		faults -= len(c.log)
		t.Logf("%d rows, %d faults, %v since the beginning", c.rows, len(c.log), time.Since(begun).Round(time.Second))
	}
}

// chaos is a run that is disturbed.
type chaos struct {
	*crashBed
	rows, faults int
	disk         string // where the run's folder is, if it is one that can be made small; else empty
	history      string // folder of histories
	calls        string // log of the service
	service      *process
	url          string  // of the service
	limit        float64 // USD that the run may spend, for now
	began        time.Time

	heads     []*headSeat
	seats     []*seat
	begun     int            // heads
	workers   int            // that were begun
	done      int            // tasks that have been seen done
	there     map[int]string // states of heads that were seen last, by process
	paused    paused         // while nobody leads
	finishing bool
	calmed    time.Time // when the last fault was over, or the last budget was raised

	kinds, deck []*chaosKind
	log         []chaosFault
	heals       []heal
}

// seat is a place of a worker: its way to the head, and who sits there now.
type seat struct {
	*process
	name      string
	began     time.Time
	ending    bool // it is to end, with exits
	exits     int
	disturbed bool
	links     links
	line      string // file with the join line
}

// heal ends a disturbance.
type heal struct {
	at time.Time
	do func()
}

// chaosFault is a disturbance that was made.
type chaosFault struct {
	at    time.Duration // since the beginning
	who   string
	loses int      // calls of who that may be made again because of it
	with  []string // workers who may lose what they have in hand, too
}

// chaosKind is a way to disturb the head, or a worker, which nothing else disturbs.
// loses is how many calls are made again at most because of it.
type chaosKind struct {
	name  string
	loses int
	head  func(h *headSeat)
	leads bool // it is for the head that leads
	mute  bool // a head falls silent, and workers that are connected to it take longer to find another one than what they hold is theirs
	seat  func(s *seat)
}

func newChaos(t *testing.T, bin string, rng *mrand.Rand, faults, heads int) *chaos {
	dir := t.TempDir()
	c := &chaos{crashBed: &crashBed{T: t, bin: bin, rng: rng, dir: dir, out: filepath.Join(dir, "out"), shards: 2}, rows: chaosRows * faults, faults: faults}
	c.history = filepath.Join(dir, "history")
	c.calls = filepath.Join(dir, "calls")
	path := filepath.Join(dir, "path")
	self, err := os.Executable()
	for _, err := range []error{err, os.Mkdir(c.history, 0o777), os.Mkdir(path, 0o777), os.Symlink(self, filepath.Join(path, "chaos-agent"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", path+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("MATRIX_CHAOS_HISTORY", c.history)
	c.kinds = []*chaosKind{
		{name: "a worker is killed", loses: chaosSlots, seat: c.killWorker},
		{name: "a worker is drained", loses: 0, seat: c.drainWorker},
		{name: "a worker is paused", loses: chaosSlots, seat: c.pauseWorker},
		{name: "its connections are reset", loses: chaosSlots, seat: c.reset},
		{name: "its network is cut", loses: chaosSlots, seat: c.cut},
		{name: "nothing comes through, either way", loses: chaosSlots, seat: c.hole(true, true)},
		{name: "nothing comes through to the head", loses: chaosSlots, seat: c.hole(true, false)},
		{name: "nothing comes through to the worker", loses: chaosSlots, seat: c.hole(false, true)},
		{name: "its network is slow", loses: chaosSlots, seat: c.slow},
	}
	host := "127.0.0.1" // of the service
	if heads == 1 {
		c.loneHead()
	} else {
		host = c.severalHeads(heads)
	}
	var b bytes.Buffer
	for n := range c.rows {
		fmt.Fprintf(&b, `{"id":"q%d","n":%d,"text":%q}`+"\n", n, n, strings.Repeat("word ", n%60))
	}
	c.service = c.begin("sim", "sim", "--preset", "slots", "--slots", "100", "--latency", "150ms", "--sigma", "0.5",
		"--host", host, "--port", "0", "--reply", "echo", "--log", c.calls, "--quiet")
	c.url = c.awaitURL()
	c.limit = float64(c.rows) * 25 * chaosUSD // about two thirds of what it takes
	if heads > 1 && faults < 10 {             // all that it takes, where there is no time to begin all of them anew
		c.limit *= 4
	}
	for name, content := range map[string]string{"rows.jsonl": b.String(), "config.yaml": fmt.Sprintf(chaosConfig, c.url)} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// awaitURL waits until the service says where it is.
func (c *chaos) awaitURL() string {
	c.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if url, _, ok := strings.Cut(c.service.said(), "\n"); ok {
			return strings.TrimSpace(url)
		}
	}
	c.Fatalf("the service does not begin: %s", c.service.said())
	return ""
}

// beginWorker has a new worker sit down.
func (c *chaos) beginWorker(s *seat) {
	c.workers++
	s.name, s.began, s.ending, s.disturbed = fmt.Sprint("w", c.workers), time.Now(), false, false
	c.Setenv("MATRIX_CHAOS_PROCESS", s.name)
	s.process = c.begin(s.name, "worker", "--join", s.line, "--name", s.name, "--slots", fmt.Sprint(chaosSlots))
}

// play begins a run, disturbs it until all faults were made, and sees it end.
func (c *chaos) play() {
	for _, h := range c.heads {
		c.beginHead(h)
	}
	c.status("the head", func(*session.Snapshot) bool { return true })
	b, err := os.ReadFile(filepath.Join(c.out, "join"))
	if err != nil {
		c.Fatal(err)
	}
	join, err := natsnet.ParseJoin(string(b))
	if err != nil {
		c.Fatal(err)
	}
	for i := range chaosWorkers {
		s := &seat{line: filepath.Join(c.dir, fmt.Sprint("join", i))}
		by := join
		by.Addresses = nil
		for _, address := range join.Addresses {
			l := newLink(c.T, address)
			s.links, by.Addresses = append(s.links, l), append(by.Addresses, l.address())
		}
		if err := os.WriteFile(s.line, []byte(by.String()+"\n"), 0o600); err != nil {
			c.Fatal(err)
		}
		c.seats = append(c.seats, s)
		c.beginWorker(s)
	}
	c.began = time.Now()
	next := c.began.Add(c.between(time.Second, 3*time.Second))
	looked := c.began
	var deadline time.Time // of the run
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !c.finished() {
		now := <-tick.C
		c.heal(now)
		if now.Sub(looked) > time.Second {
			looked = now
			c.paused.saw(now, c.look())
			c.spent()
		}
		switch {
		case len(c.log) < c.faults && !c.finishing && now.After(next):
			next = now.Add(c.between(500*time.Millisecond, 5*time.Second))
			c.fault()
		case len(c.log) == c.faults && c.calmed.IsZero() && c.calm():
			c.calmed = now
			// What is left takes as long as it took until now for what is done, and no more.
			floor := time.Duration(float64(now.Sub(c.began)) * float64(c.rows-c.done) / float64(max(1, c.done)))
			deadline = now.Add(floor + 30*time.Second)
			c.Logf("%5.1fs the last fault is over, %d rows of %d are done: the run must end in 30 s and %v", now.Sub(c.began).Seconds(), c.done, c.rows, floor.Round(time.Second))
		case !c.calmed.IsZero() && now.After(deadline):
			c.give("the run does not end, %v after its last fault: %d rows of %d are done", now.Sub(c.calmed), c.done, c.rows)
		}
	}
	c.Logf("%5.1fs the run has ended, for %.4f USD of %.4f; %s", time.Since(c.began).Seconds(), c.spent(), c.limit, c.paused)
	c.disperse()
}

// finished reports whether the run has ended. It sees to processes that have ended as
// they should, and begins others for them.
func (c *chaos) finished() bool {
	for _, s := range c.seats {
		switch {
		case s.process == nil || !s.isOver():
		case s.ending:
			s.ends(s.exits)
			s.process = nil
			c.later(500*time.Millisecond, 4*time.Second, func() { c.beginWorker(s) })
		case s.cmd.ProcessState.ExitCode() == 0: // told that the run is finished
			c.finishing = true
		default:
			c.give("worker %s has ended:\n%s", s.name, s.said())
		}
	}
	all := true
	for _, h := range c.heads {
		all = c.headFinished(h) && all
	}
	return all
}

// calm reports whether nothing disturbs anybody.
func (c *chaos) calm() bool {
	return len(c.heals) == 0 && !slices.ContainsFunc(c.heads, func(h *headSeat) bool { return h.process == nil || h.disturbed }) &&
		!slices.ContainsFunc(c.seats, func(s *seat) bool { return s.process == nil || s.disturbed })
}

// disperse waits for the workers of a run that has ended. One that did not hear of it
// waits for its head.
func (c *chaos) disperse() {
	unaware := map[*seat]bool{}
	for _, s := range c.seats {
		unaware[s] = s.disturbed || time.Since(s.began) < 10*time.Second
	}
	c.finishing = true
	for len(c.heals) > 0 {
		c.heal(c.heals[0].at)
	}
	for _, s := range c.seats {
		if s.process == nil {
			continue
		}
		if unaware[s] {
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
		}
		if want := 0; s.ending {
			s.ends(s.exits)
		} else {
			s.ends(want)
		}
	}
	_ = c.service.cmd.Process.Signal(syscall.SIGTERM)
	c.service.ends(0)
}

// spent is what the service was paid, in USD, which is never more than the run may spend.
func (c *chaos) spent() float64 {
	c.Helper()
	resp, err := http.Get(strings.TrimSuffix(c.url, "/v1") + "/sim/stats")
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	var stats sim.Stats
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
		c.Fatal(err)
	}
	paid := float64(stats.Replicas[0].Prompt+stats.Replicas[0].Generated) * chaosUSD
	if paid > c.limit {
		c.give("the service was paid %.5f USD, and the budget is %.5f", paid, c.limit)
	}
	return paid
}

// look asks the head how the run stands, and reports whether it answers.
func (c *chaos) look() bool {
	ctx, cancel := context.WithTimeout(c.Context(), 300*time.Millisecond)
	defer cancel()
	client, err := monitor.Dial(c.out)
	if err != nil {
		return false
	}
	defer client.Close()
	v, err := client.Status(ctx)
	if err != nil || v.Snapshot == nil {
		return false
	}
	c.done = max(c.done, int(v.Done+v.Failed))
	c.there = map[int]string{}
	for _, h := range v.Heads {
		if h.Away == "" {
			c.there[h.PID] = h.State
		}
	}
	return true
}

// give gives up, and tells what all who are there have said last.
func (c *chaos) give(format string, args ...any) {
	c.Helper()
	for _, s := range c.seats {
		c.Logf("%s: %s", s.name, tail(filepath.Join(c.dir, s.name+".log")))
	}
	for _, h := range c.heads {
		c.Logf("%s: %s", h.name, tail(filepath.Join(c.dir, h.name+".log")))
	}
	c.Fatalf(format, args...)
}

// tail is the end of a file.
func tail(path string) string {
	b, _ := os.ReadFile(path)
	return string(b[max(0, len(b)-3000):])
}

// between draws a time.
func (c *chaos) between(from, to time.Duration) time.Duration {
	return from + time.Duration(c.rng.Int64N(int64(to-from)+1))
}

// later has something done after a while.
func (c *chaos) later(from, to time.Duration, do func()) {
	c.heals = append(c.heals, heal{time.Now().Add(c.between(from, to)), do})
	slices.SortStableFunc(c.heals, func(a, b heal) int { return a.at.Compare(b.at) })
}

// heal does what is due.
func (c *chaos) heal(now time.Time) {
	for len(c.heals) > 0 && !c.heals[0].at.After(now) {
		h := c.heals[0]
		c.heals = c.heals[1:]
		h.do()
	}
}

// fault disturbs somebody whom nothing disturbs, in a way that was not drawn for the
// longest time.
func (c *chaos) fault() {
	if len(c.deck) == 0 {
		for _, i := range c.rng.Perm(len(c.kinds)) {
			c.deck = append(c.deck, c.kinds[i])
		}
	}
	first := len(c.heads) > 1 && len(c.log) == 0 // however few there are, the lead changes
	for i, k := range c.deck {
		if first && !k.leads {
			continue
		}
		if k.head != nil {
			h := c.undisturbed(k.leads)
			if h == nil {
				continue
			}
			c.deck = slices.Delete(c.deck, i, i+1)
			c.note(k, "head")
			h.disturbed = true
			k.head(h)
			return
		}
		free := slices.DeleteFunc(slices.Clone(c.seats), func(s *seat) bool { return s.process == nil || s.disturbed })
		if len(free) == 0 {
			continue
		}
		s := free[c.rng.IntN(len(free))]
		c.deck = slices.Delete(c.deck, i, i+1)
		c.note(k, s.name)
		s.disturbed = true
		k.seat(s)
		return
	}
}

// note notes a fault.
func (c *chaos) note(k *chaosKind, who string) {
	f := chaosFault{at: time.Since(c.began), who: who, loses: k.loses}
	if k.mute {
		for _, s := range c.seats {
			f.with = append(f.with, s.name)
		}
	}
	c.log = append(c.log, f)
	c.Logf("%5.1fs %s: %s", f.at.Seconds(), who, k.name)
}

// pause stops a process for a while.
func (c *chaos) pause(p *process, least time.Duration, then func()) {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	c.later(least, 8*time.Second, func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		then()
	})
}

func (c *chaos) killWorker(s *seat) {
	s.ending, s.exits = true, -1
	_ = s.cmd.Process.Kill()
}

func (c *chaos) drainWorker(s *seat) {
	s.ending, s.exits = true, 0
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
}

func (c *chaos) pauseWorker(s *seat) {
	c.pause(s.process, 5*time.Second, func() { s.disturbed = false })
}

func (c *chaos) reset(s *seat) {
	s.links.reset()
	s.disturbed = false
}

func (c *chaos) cut(s *seat) {
	s.links.refuse(true)
	s.links.reset()
	c.later(time.Second, 8*time.Second, func() {
		s.links.refuse(false)
		s.disturbed = false
	})
}

// hole lets nothing through; what was said comes through later, or the connection
// breaks.
func (c *chaos) hole(up, down bool) func(s *seat) {
	return func(s *seat) {
		s.links.hold(up, down)
		c.later(time.Second, 8*time.Second, func() {
			if c.rng.IntN(2) == 0 {
				s.links.reset()
			}
			s.links.hold(false, false)
			s.disturbed = false
		})
	}
}

func (c *chaos) slow(s *seat) {
	s.links.delay(c.between(50*time.Millisecond, 800*time.Millisecond))
	c.later(2*time.Second, 8*time.Second, func() {
		s.links.delay(0)
		s.disturbed = false
	})
}

// isOver reports whether a process has ended.
func (p *process) isOver() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}
