package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"matrix"
	"matrix/dataset"
	"matrix/internal/sim"
	"matrix/llm"
	"matrix/llm/openai"
)

// ModelsOptions say what a run of Models is.
type ModelsOptions struct {
	Exe string `json:"-"` // the program matrix: it runs the simulator and the run, each as a process of its own
	Dir string `json:"-"`
	Log string `json:"-"` // keeps the simulator's log, a line of JSON for every call; empty for not

	Rows      int           `json:"rows"`
	Rounds    int           `json:"rounds"` // of a row, at most
	Least     int           `json:"least_rounds"`
	Live      int           `json:"live"`
	Prompt    int           `json:"prompt_bytes"`
	Reply     int           `json:"reply_bytes"`
	Slots     int           `json:"slots"`
	Latency   time.Duration `json:"latency"`
	Sigma     float64       `json:"sigma"`
	Replicas  int           `json:"replicas"`
	Preset    string        `json:"preset,omitempty"` // slots where it is empty
	Steps     []string      `json:"steps,omitempty"`
	Storm     string        `json:"storm,omitempty"`
	Faults    []string      `json:"faults,omitempty"`
	Timeout   time.Duration `json:"timeout,omitempty"`
	HTTP2     bool          `json:"http2,omitempty"`
	Stream    bool          `json:"stream,omitempty"`
	Scattered bool          `json:"scattered,omitempty"` // calls of a task go to any endpoint
	Change    time.Duration `json:"change,omitempty"`    // when the last step or fault is over, from the first call on: Recover counts from there
	Kill      time.Duration `json:"kill,omitempty"`      // kill -9 after so long, and the same command again
	Workers   int           `json:"workers,omitempty"`   // processes beside the run's own that act for it, one joining after the other
	Joining   time.Duration `json:"joining,omitempty"`   // between two of them
	Batch     bool          `json:"batch,omitempty"`     // instead of the run: rows in batches of as many as there are slots, one after the other
	Seed      int64         `json:"seed"`

	replies string // as matrix sim takes them; empty for those that check reads
}

// ModelsResult is what a run of Models found.
type ModelsResult struct {
	ModelsOptions
	Calls       int64   `json:"calls"`   // that the service finished
	Done        int     `json:"done"`    // rows
	Wrong       int     `json:"wrong"`   // replies that are not the service's to that prompt
	Missing     int     `json:"missing"` // rows that are not done
	Retries     int64   `json:"retries"`
	Twice       int     `json:"paid_twice"`
	InFlight    int     `json:"in_flight_at_kill,omitempty"`
	Seconds     float64 `json:"seconds"`          // from the first call to the end of the last
	Possible    float64 `json:"at_least_seconds"` // that the same tries take where nothing but the service and its faults takes time
	Busy        float64 `json:"busy_seconds"`     // that the service needs for what it did, all slots full
	Share       float64 `json:"share"`            // of the capacity used, from the first to the last tenth of the completions
	Recover     float64 `json:"recover_s"`        // from the last change to full use; -1 never, 0 where nothing changes
	CPUPerCall  float64 `json:"cpu_us"`           // of the run's process, all of it
	CPUPerToken float64 `json:"cpu_token_us"`     // the same, by tokens of replies
	Tokens      int64   `json:"tokens"`           // of replies
	SimCPU      float64 `json:"sim_cpu_us"`       // of the simulator's
	RSS         int64   `json:"rss"`
	Cached      int64   `json:"cached_tokens"`
	Computed    int64   `json:"computed_tokens"` // of prompts
	Uneven      float64 `json:"uneven"`          // the most that a replica did, against the mean
}

// Models runs rows through a simulated service, each with its rounds of calls,
// and says how well the service was used and what that cost.
func Models(ctx context.Context, o ModelsOptions) (r ModelsResult, err error) {
	r.ModelsOptions = o
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return r, err
	}
	defer remove()
	o.Log = cmp.Or(o.Log, filepath.Join(dir, "calls.jsonl"))
	urls, stop, err := o.simulate(ctx)
	if err != nil {
		return r, err
	}
	defer stop()
	if err := o.write(dir, urls); err != nil {
		return r, err
	}
	if o.Batch {
		err = o.batches(ctx, urls, &r)
	} else {
		err = o.run(ctx, dir, urls, &r)
	}
	if err != nil {
		return r, err
	}
	s, err := sim.Fetch(ctx, urls[0])
	if err != nil {
		return r, err
	}
	stop() // and the log is whole
	calls, err := readCalls(o.Log)
	if err != nil {
		return r, err
	}
	return r, o.judge(s, calls, &r)
}

// simulate starts the simulator.
func (o *ModelsOptions) simulate(ctx context.Context) (urls []string, stop func(), err error) {
	preset := cmp.Or(o.Preset, "slots")
	replies := cmp.Or(o.replies, fmt.Sprintf("template:{{slice .Prompt 0 %d}} {{words %d}}", nameBytes, max(1, (o.Reply-nameBytes)/4)))
	args := []string{"sim", "--port", "0", "--preset", preset, "--slots", fmt.Sprint(o.Slots),
		"--replicas", fmt.Sprint(o.Replicas), "--seed", fmt.Sprint(o.Seed), "--quiet", "--reply", replies}
	if o.Log != "" {
		args = append(args, "--log", o.Log)
	}
	if preset == "slots" {
		args = append(args, "--latency", o.Latency.String(), "--sigma", fmt.Sprint(o.Sigma))
	}
	for _, s := range o.Steps {
		args = append(args, "--step", s)
	}
	if o.Storm != "" {
		args = append(args, "--storm", o.Storm)
	}
	for _, f := range o.Faults {
		args = append(args, "--fault", f)
	}
	cmd := exec.CommandContext(ctx, o.Exe, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for len(urls) < max(1, o.Replicas) && lines.Scan() {
		urls = append(urls, lines.Text())
	}
	if len(urls) < max(1, o.Replicas) {
		stop()
		why, _, _ := strings.Cut(strings.TrimPrefix(said.String(), "Error: "), "\n")
		return nil, nil, fmt.Errorf("the simulator did not start: %s", why)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
	return urls, stop, nil
}

// nameBytes is how long the beginning of a prompt is that names it: the reply
// repeats it.
const nameBytes = 20

func nameOf(row, round int) string { return fmt.Sprintf("%s round %02d ", rowName(row), round) }

func rowName(row int) string { return fmt.Sprintf("row %06d", row) }

// rounds draws how many rounds a row has.
func (o *ModelsOptions) rounds(draw *rand.Rand) int {
	least := max(1, o.Least)
	return least + draw.IntN(max(1, o.Rounds-least+1))
}

// write writes the dataset and the config of the run.
func (o *ModelsOptions) write(dir string, urls []string) error {
	draw := rand.New(rand.NewPCG(uint64(o.Seed), 1))
	var rows bytes.Buffer
	filler := strings.Repeat("Corals build reefs in shallow water. ", o.Prompt/37+1)[:max(0, o.Prompt-nameBytes)]
	for i := range o.Rows {
		fmt.Fprintf(&rows, "{\"id\":%q,\"n\":%d,\"rounds\":%d,\"text\":%q}\n", rowName(i), i, o.rounds(draw), filler)
	}
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), rows.Bytes(), 0o666); err != nil {
		return err
	}
	more := ""
	if o.Timeout > 0 {
		more += fmt.Sprintf(", timeout: %v", o.Timeout)
	}
	if o.HTTP2 {
		more += ", http2: true"
	}
	if o.Stream {
		more += ", stream: true"
	}
	if o.Scattered {
		more += ", scatter: true"
	}
	list, err := json.Marshal(urls)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`name: bench
dataset: {path: rows.jsonl, id: id}
live: %d
models: {m: {endpoints: %s, max_tokens: 4096%s}}
roles:
  ask:
    chat:
      model: m
      sees: [ask]
      system: "{{ item.id }} {{ item.text }}"
      prompt: "{{ item.id }} round {{ '%%02d' %% rounds('ask') }} ."
flow:
  start: ask
  after:
    ask: [{when: rounds("ask") >= item.rounds, finish: true}, {to: ask}]
`, o.Live, list, more)
	return os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o666)
}

// run runs the config as a person would, killed in between where that is asked
// for.
func (o *ModelsOptions) run(ctx context.Context, dir string, urls []string, r *ModelsResult) error {
	out := filepath.Join(dir, "out")
	var cpu time.Duration
	kill := o.Kill
	for {
		args := []string{"run", dir, "-o", out, "display=none"}
		if o.Workers > 0 {
			args = append(args, "--serve", "127.0.0.1:0")
		}
		cmd := exec.CommandContext(ctx, o.Exe, args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = time.Second // nobody wants its output
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			return err
		}
		if kill > 0 {
			t := time.AfterFunc(kill, func() {
				if s, err := sim.Fetch(ctx, urls[0]); err == nil {
					sum := s.Sum()
					r.InFlight = int(sum.Running) + int(sum.Waiting)
				}
				_ = cmd.Process.Kill()
			})
			err := cmd.Wait()
			t.Stop()
			if err == nil {
				return fmt.Errorf("the run ended before it was killed, after %v: want less, or more rows", o.Kill)
			}
			cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			kill = 0
			continue
		}
		joined, end := context.WithCancel(ctx)
		var workers sync.WaitGroup
		var used atomic.Int64
		for i := range o.Workers {
			workers.Go(func() { o.work(joined, filepath.Join(out, "join"), time.Duration(i)*o.Joining, &used) })
		}
		err := cmd.Wait()
		end()
		workers.Wait()
		cpu += time.Duration(used.Load())
		if err != nil {
			return fmt.Errorf("the run: %w: %s", err, strings.TrimSpace(said.String()))
		}
		state := cmd.ProcessState
		cpu += state.UserTime() + state.SystemTime()
		if u, ok := state.SysUsage().(*syscall.Rusage); ok {
			r.RSS = peak(u)
		}
		break
	}
	if err := o.check(out, r); err != nil {
		return err
	}
	r.CPUPerCall = cpu.Seconds() * 1e6 / float64(max(1, r.Calls))
	r.CPUPerToken = cpu.Seconds() * 1e6 / float64(max(1, r.Tokens))
	return nil
}

// work is a worker's process, which joins after a while by the line in a file, until
// the run has ended or ctx ends. What it used of the CPU is added.
func (o *ModelsOptions) work(ctx context.Context, line string, after time.Duration, used *atomic.Int64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		if _, err := os.Stat(line); err == nil && time.Since(began) >= after {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	cmd := exec.CommandContext(ctx, o.Exe, "worker", "--join", line)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	_ = cmd.Run() // the run says whether all was done
	if s := cmd.ProcessState; s != nil {
		used.Add(int64(s.UserTime() + s.SystemTime()))
	}
}

// check reads the output: each row once, each reply the service's to its prompt.
func (o *ModelsOptions) check(out string, r *ModelsResult) error {
	seen := make([]bool, o.Rows)
	err := dataset.ReadParts(filepath.Join(out, "data"), dataset.Shard{}, func(_, _ int, raw []byte) error {
		var t matrix.Task
		if err := json.Unmarshal(raw, &t); err != nil {
			return err
		}
		var item struct{ N, Rounds int }
		if err := json.Unmarshal(t.Item.Raw(), &item); err != nil {
			return err
		}
		if item.N >= o.Rows || seen[item.N] || len(t.Turns) != item.Rounds {
			r.Wrong++
			return nil
		}
		seen[item.N] = true
		r.Done++
		for i, turn := range t.Turns {
			r.Calls++
			for k := range turn.Calls {
				r.Retries += int64(turn.Calls[k].Retries)
				r.Tokens += int64(turn.Calls[k].CompletionTokens)
			}
			if !strings.HasPrefix(turn.Text, nameOf(item.N, i)) || turn.Error != "" {
				r.Wrong++
			}
		}
		return nil
	})
	r.Missing = o.Rows - r.Done
	return err
}

// judge reads the simulator's books, and its log.
func (o *ModelsOptions) judge(s sim.Stats, calls []sim.Entry, r *ModelsResult) (err error) {
	sum := s.Sum()
	r.Twice = s.Twice
	r.Share = s.Share(0.1, 0.9)
	r.SimCPU = s.CPU * 1e6 / float64(max(1, sum.Done))
	r.Cached, r.Computed = sum.Cached, sum.Computed
	var most int64
	for _, x := range s.Replicas {
		most = max(most, x.Done)
	}
	r.Uneven = float64(most) * float64(len(s.Replicas)) / float64(max(1, sum.Done))
	first, last := s.Span()
	busy, slots := 0.0, float64(max(1, o.Slots*max(1, o.Replicas)))
	for _, x := range s.Replicas {
		for _, b := range x.Timeline.Busy {
			busy += b
		}
	}
	r.Seconds, r.Busy = last-first, busy/slots
	r.Possible = r.Busy
	if o.Change > 0 {
		r.Recover = recovery(s, first+o.Change.Seconds(), last)
	}
	if o.Preset == "" || o.Preset == "slots" { // others take longer the more calls they have
		r.Possible, err = o.possible(calls)
	}
	return err
}

// recovery is how long after a change the service was full again for two
// seconds; -1 where it never was before the end.
func recovery(s sim.Stats, change, last float64) float64 {
	const step, window, full = 0.1, 2.0, 0.95
	for t := change; t+window <= last; t += step {
		if s.Used(t, t+window) >= full {
			return t - change
		}
	}
	return -1
}

// batches asks in batches of as many rows as the service has slots, each round
// of a batch when all of the one before have ended: how a synchronous pipeline
// uses the same service.
func (o *ModelsOptions) batches(ctx context.Context, urls []string, r *ModelsResult) error {
	var at llm.Endpoints
	for _, u := range urls {
		at = append(at, llm.Endpoint{URL: u})
	}
	size := o.Slots * max(1, o.Replicas)
	m, err := llm.New("m", llm.Service{Concurrency: llm.Concurrency(size), Timeout: o.Timeout}, at, openai.Config{HTTP2: o.HTTP2}.Open)
	if err != nil {
		return err
	}
	defer m.Close()
	draw := rand.New(rand.NewPCG(uint64(o.Seed), 1))
	rounds := make([]int, o.Rows)
	for i := range rounds {
		rounds[i] = o.rounds(draw)
	}
	filler := strings.Repeat("x", max(0, o.Prompt-nameBytes))
	before := measure()
	var wrong, calls atomic.Int64
	for from := 0; from < o.Rows && ctx.Err() == nil; from += size {
		for round := 0; round < max(1, o.Rounds); round++ {
			var wg sync.WaitGroup
			for i := from; i < min(o.Rows, from+size); i++ {
				if round >= rounds[i] {
					continue
				}
				wg.Go(func() {
					name := nameOf(i, round)
					rep, err := m.Do(ctx, &llm.Request{Messages: []llm.Message{{Role: "user", Content: name + filler}}, Key: name})
					if calls.Add(1); err != nil || !strings.HasPrefix(rep.Choices[0].Text, name) {
						wrong.Add(1)
					}
				})
			}
			wg.Wait()
		}
	}
	after := measure()
	r.Calls, r.Wrong, r.Done = calls.Load(), int(wrong.Load()), o.Rows
	r.CPUPerCall = (after.cpu - before.cpu).Seconds() * 1e6 / float64(max(1, r.Calls))
	return ctx.Err()
}
