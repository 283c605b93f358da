package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"matrix/internal/monitor"
	"matrix/internal/sim"
	"matrix/llm"
	"matrix/llm/openai"
)

// ScaleOptions say what Scale compares.
type ScaleOptions struct {
	Exe     string        `json:"-"` // the program matrix: it runs the simulator, the head and each worker, as processes of their own
	Dir     string        `json:"-"`
	Live    int           `json:"live"`    // dialogues under way at once, and calls that the service works on at once
	Workers int           `json:"workers"` // processes, beside one alone
	Slots   int           `json:"slots"`   // steps at once of one of them; 0 for Live/Workers
	Latency time.Duration `json:"latency"` // of a call, mean
	Sigma   float64       `json:"sigma"`   // spread of that, of a lognormal
	Reply   int           `json:"reply_bytes"`
	For     time.Duration `json:"for"` // how long each is measured
	Seed    int64         `json:"seed"`
}

// ScaleResult is what Scale measured.
type ScaleResult struct {
	ScaleOptions
	Batch ScaleRun `json:"batch"` // one orchestrator: all dialogues of a batch end a turn before the next begins
	One   ScaleRun `json:"one"`   // one worker process
	Many  ScaleRun `json:"many"`  // Workers of them
}

// ScaleRun is what a service did for somebody.
type ScaleRun struct {
	Workers   int     `json:"workers"`
	CallsPerS float64 `json:"calls_per_s"`
	TasksPerS float64 `json:"dialogues_per_s,omitempty"`
	InFlight  float64 `json:"in_flight"` // calls at the service, mean
	Live      int64   `json:"live"`      // dialogues under way at the end
	Seconds   float64 `json:"seconds"`   // measured
	HeadCPU   float64 `json:"head_cpu_us,omitempty"`
	WorkerCPU float64 `json:"worker_cpu_us,omitempty"` // a call, of all workers; of the orchestrator
	SimCPU    float64 `json:"sim_cpu_us"`
	HeadRSS   int64   `json:"head_rss_bytes,omitempty"`
	Verified  bool    `json:"verified,omitempty"` // nothing of the run is lost or doubled
}

// Scale runs dialogues of the shape of Coral against a simulated service that has a
// place for each of them: by one orchestrator in batches, by a run's head with one
// worker process, and with several.
func Scale(ctx context.Context, o ScaleOptions) (r ScaleResult, err error) {
	if o.Slots == 0 {
		o.Slots = max(1, o.Live/max(1, o.Workers))
	}
	r.ScaleOptions = o
	if o.Workers < 1 || o.Live < o.Workers || o.Slots < 1 || o.Latency <= 0 || o.For <= 0 {
		return r, errors.New("bench scale: want a worker or more, at least as many dialogues under way, and slots, latency and time of more than 0")
	}
	if r.One, err = o.run(ctx, 1); err != nil {
		return r, err
	}
	if r.Many, err = o.run(ctx, o.Workers); err != nil {
		return r, err
	}
	r.Batch, err = o.batches(ctx)
	return r, err
}

// simulate starts the service.
func (o *ScaleOptions) simulate(ctx context.Context) (url string, stop func(), err error) {
	m := ModelsOptions{
		Exe: o.Exe, Replicas: 1, Slots: o.Live, Latency: o.Latency, Sigma: o.Sigma, Seed: o.Seed,
		replies: fmt.Sprintf(`template:{{words %d}} The answer is ({{pick "A" "B" "C"}}).`, max(1, o.Reply/6)),
	}
	urls, stop, err := m.simulate(ctx)
	if err != nil {
		return "", nil, err
	}
	return urls[0], stop, nil
}

// scaleConfig is the debate of examples/coral, whose questions are its rows' names.
const scaleConfig = `name: scale
dataset: {path: rows.jsonl, id: id}
live: %d
seed: %d
grace: 0s
params: {says: 'answer is \(?([A-J])\)?'}
cluster: {serve: "127.0.0.1:0", no_work: true}
models: {m: {base_url: %q, http2: true, concurrency: "%d", max_tokens: 4096}}
roles:
  teacher: {chat: {model: m, system: "Discuss question {{ item.id }}.", sees: [teacher, student]}}
  student: {chat: {model: m, system: "Discuss question {{ item.id }}.", sees: [teacher, student]}}
  extract:
    compute:
      said: find(last.text, params.says)
      teacher: 'last.role == "teacher" && said != nil ? said : turn("extract").data.teacher'
      student: 'last.role == "student" && said != nil ? said : turn("extract").data.student'
  match:
    compute:
      agreed: last.data.teacher != nil && last.data.teacher == last.data.student
flow:
  open: [{role: student, text: "What is your answer?"}]
  start: teacher
  after:
    teacher: extract
    student: extract
    extract: match
    match:
      - {when: last.data.agreed || rounds("match") >= 20, finish: last.data.agreed}
      - {when: rounds("match") %% 2 == 1, to: student}
      - {to: teacher}
`

// settling is how many mean calls all are at it before anything is measured.
const settling = 1.5

// run measures a run with so many workers.
func (o *ScaleOptions) run(ctx context.Context, workers int) (r ScaleRun, err error) {
	r.Workers = workers
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return r, err
	}
	defer remove()
	url, stop, err := o.simulate(ctx)
	if err != nil {
		return r, err
	}
	defer stop()
	// A dialogue has two turns at least.
	calls := (o.For.Seconds()+60)/o.Latency.Seconds() + settling
	var rows bytes.Buffer
	for i := range o.Live * (2 + int(calls)/2) {
		fmt.Fprintf(&rows, "{\"id\":%q}\n", rowName(i))
	}
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), rows.Bytes(), 0o666); err != nil {
		return r, err
	}
	config := fmt.Sprintf(scaleConfig, o.Live, o.Seed, url, o.Live)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o666); err != nil {
		return r, err
	}
	out := filepath.Join(dir, "out")
	head := o.child(ctx, "run", dir, "-o", out, "display=none")
	if err := head.Start(); err != nil {
		return r, err
	}
	all := []*child{head}
	defer func() {
		for _, c := range all {
			c.kill()
		}
	}()
	var watch *monitor.Client
	for watch == nil || !exists(filepath.Join(out, "join")) {
		if watch == nil {
			watch, _ = monitor.Dial(out) // it is not there yet, or the head tells below why it is not
		}
		if err := head.pause(ctx, 50*time.Millisecond); err != nil {
			return r, err
		}
	}
	defer watch.Close()
	for i := range workers {
		w := o.child(ctx, "worker", "--join", out, "--slots", fmt.Sprint(o.Slots), "--name", fmt.Sprint("w", i), "--cache", filepath.Join(dir, "cache"))
		if err := w.Start(); err != nil {
			return r, err
		}
		all = append(all, w)
	}
	want := min(o.Live, workers*o.Slots) * 19 / 20
	for began := time.Now(); ; {
		s, err := sim.Fetch(ctx, url)
		if err != nil {
			return r, err
		}
		if sum := s.Sum(); sum.Running+sum.Waiting >= want || time.Since(began) > time.Minute {
			break // what is measured says how many there are
		}
		for _, c := range all {
			if err := c.pause(ctx, 100*time.Millisecond/time.Duration(len(all))); err != nil {
				return r, err
			}
		}
	}
	if err := head.pause(ctx, time.Duration(settling*float64(o.Latency))); err != nil {
		return r, err
	}
	status, err := watch.Status(ctx)
	if err != nil {
		return r, err
	}
	was, err := sim.Fetch(ctx, url)
	if err != nil {
		return r, err
	}
	if err := head.pause(ctx, o.For); err != nil {
		return r, err
	}
	is, err := sim.Fetch(ctx, url)
	if err != nil {
		return r, err
	}
	now, err := watch.Status(ctx)
	if err != nil {
		return r, err
	}
	if status.Snapshot == nil || now.Snapshot == nil {
		return r, errors.New("bench scale: the run ended before it was measured: want more time for a call, or less to measure")
	}
	o.judge(&r, was, is)
	r.TasksPerS = float64(now.Done-status.Done) / r.Seconds
	r.Live = now.Live
	for _, c := range all {
		c.stop()
	}
	s, err := sim.Fetch(ctx, url)
	if err != nil {
		return r, err
	}
	n := float64(max(1, s.Sum().Done))
	r.HeadCPU = float64(head.cpu().Microseconds()) / n
	for _, w := range all[1:] {
		r.WorkerCPU += float64(w.cpu().Microseconds()) / n
	}
	if u, ok := head.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.HeadRSS = peak(u)
	}
	if b, err := exec.CommandContext(ctx, o.Exe, "verify", out).CombinedOutput(); err != nil {
		return r, fmt.Errorf("bench scale: matrix verify: %w: %s", err, bytes.TrimSpace(b))
	}
	r.Verified = true
	return r, nil
}

// judge says what a service did between two times.
func (o *ScaleOptions) judge(r *ScaleRun, was, is sim.Stats) {
	r.Seconds = is.Seconds - was.Seconds
	n := float64(is.Sum().Done - was.Sum().Done)
	r.CallsPerS = n / r.Seconds
	r.InFlight = is.Used(was.Seconds, is.Seconds) * float64(o.Live)
	r.SimCPU = (is.CPU - was.CPU) * 1e6 / max(1, n)
}

// batches has one orchestrator hold the dialogues, as many in a batch as the service
// has places: each dialogue says something, and once all have been answered each says
// the next. Whole turns are measured, of the first batch: at least as long as a run is.
func (o *ScaleOptions) batches(ctx context.Context) (r ScaleRun, err error) {
	url, stop, err := o.simulate(ctx)
	if err != nil {
		return r, err
	}
	defer stop()
	m, err := llm.New("m", llm.Service{Concurrency: llm.Concurrency(o.Live)}, llm.Endpoints{{URL: url}}, openai.Config{HTTP2: true}.Open)
	if err != nil {
		return r, err
	}
	defer m.Close()
	texts := make([][]string, o.Live)
	left := make([]int, o.Live)
	for i := range left {
		left[i] = i
	}
	was, err := sim.Fetch(ctx, url)
	if err != nil {
		return r, err
	}
	before := measure()
	done := 0
	for turn := 0; len(left) > 0 && (turn == 0 || time.Since(before.at) < o.For); turn++ {
		r.Live = int64(len(left))
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		agreed := make([]bool, len(left))
		for at, i := range left {
			wg.Go(func() {
				ask := []llm.Message{{Role: "system", Content: "Discuss question " + rowName(i) + "."}, {Role: "user", Content: "What is your answer?"}}
				for k, text := range texts[i] {
					role := "user"
					if (len(texts[i])-k)%2 == 0 {
						role = "assistant"
					}
					ask = append(ask, llm.Message{Role: role, Content: text})
				}
				reply, err := m.Do(ctx, &llm.Request{Messages: ask, Key: fmt.Sprint(rowName(i), " turn ", turn)})
				if err != nil {
					failed.Store(&err)
					return
				}
				texts[i] = append(texts[i], reply.Choices[0].Text)
				agreed[at] = turn > 0 && answerOf(texts[i][turn-1]) == answerOf(texts[i][turn])
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return r, *err
		}
		var rest []int
		for at, i := range left {
			if agreed[at] || turn == 19 {
				texts[i] = nil
				done++
				continue
			}
			rest = append(rest, i)
		}
		left = rest
	}
	after := measure()
	is, err := sim.Fetch(ctx, url)
	if err != nil {
		return r, err
	}
	o.judge(&r, was, is)
	r.TasksPerS = float64(done) / r.Seconds
	r.WorkerCPU = float64((after.cpu - before.cpu).Microseconds()) / max(1, float64(is.Sum().Done))
	return r, nil
}

// answerOf is the letter that a text states.
func answerOf(text string) string {
	_, after, _ := strings.Cut(text, "answer is (")
	return after[:min(1, len(after))]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// child is a command of the program in a process of its own.
type child struct {
	*exec.Cmd
	name string
	said bytes.Buffer
	over chan struct{}
}

func (o *ScaleOptions) child(ctx context.Context, args ...string) *child {
	c := &child{Cmd: exec.CommandContext(ctx, o.Exe, args...), name: args[0], over: make(chan struct{})}
	c.Cancel = func() error { return c.Process.Kill() }
	c.WaitDelay = time.Second
	c.Stderr = &c.said
	return c
}

// Start starts it, and waits for its end beside.
func (c *child) Start() error {
	if err := c.Cmd.Start(); err != nil {
		close(c.over)
		return err
	}
	go func() {
		defer close(c.over)
		_ = c.Wait() // its state tells
	}()
	return nil
}

// pause waits; that the process ends meanwhile is an error.
func (c *child) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.over:
		return fmt.Errorf("bench scale: the %s has ended: %v: %s", c.name, c.ProcessState, bytes.TrimSpace(c.said.Bytes()))
	case <-time.After(d):
		return nil
	}
}

// stop has it end by itself, soon.
func (c *child) stop() {
	_ = c.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.over:
	case <-time.After(15 * time.Second):
		c.kill()
	}
}

func (c *child) kill() {
	if c.Process != nil {
		_ = c.Process.Kill()
	}
	<-c.over
}

func (c *child) cpu() time.Duration { return c.ProcessState.UserTime() + c.ProcessState.SystemTime() }
