package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"matrix/internal/sim"
	"matrix/llm"
	"matrix/llm/openai"
)

// CurationOptions say what Curation runs.
type CurationOptions struct {
	Exe       string  `json:"-"` // the program matrix: it runs the simulator and the runs, each as a process of its own
	Dir       string  `json:"-"`
	Rows      int     `json:"rows"`           // documents that a model sees
	Live      int     `json:"live"`           // documents under way at once, and in a batch
	Slots     int     `json:"slots"`          // calls that the service works on at once
	Preset    string  `json:"preset"`         // of the simulator: 8b or 70b
	Bytes     int     `json:"document_bytes"` // mean; lognormal
	Score     float64 `json:"score_tokens"`   // of a reply, mean; lognormal
	Question  float64 `json:"question_tokens"`
	Sigma     float64 `json:"sigma"`       // spread of all lengths
	Pass      float64 `json:"pass_filter"` // share of documents
	Good      float64 `json:"pass_score"`  // share of those
	Documents int     `json:"documents"`   // through the filters that ask no model; 0 for not
	Seed      int64   `json:"seed"`
}

// CurationResult is what Curation measured.
type CurationResult struct {
	CurationOptions
	Row     CurationRun `json:"row_by_row"`
	Batch   CurationRun `json:"batches"`
	Filters *FiltersRun `json:"filters,omitempty"`
	Quarter *FiltersRun `json:"filters_quarter,omitempty"` // the same with a quarter of the documents
}

// CurationRun is how a service was used.
type CurationRun struct {
	Seconds       float64 `json:"seconds"`      // from the first call to the end of the last
	Tokens        int64   `json:"tokens"`       // of replies
	TokensPerS    float64 `json:"tokens_per_s"` // of replies
	DocumentsPerS float64 `json:"documents_per_s"`
	Share         float64 `json:"share"` // of the service's places that were used
	Calls         int64   `json:"calls"`
}

// FiltersRun is how fast documents went through filters that ask no model.
type FiltersRun struct {
	Documents     int     `json:"documents"`
	Seconds       float64 `json:"seconds"` // of the whole process
	DocumentsPerS float64 `json:"documents_per_s"`
	CPU           float64 `json:"cpu_us"` // a document
	RSS           int64   `json:"rss_bytes"`
}

// Curation has documents filtered, scored and asked about by a simulated service:
// row by row, and in batches that end a stage before the next begins. The work is
// the same, call by call and token by token.
func Curation(ctx context.Context, o CurationOptions) (r CurationResult, err error) {
	r.CurationOptions = o
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return r, err
	}
	defer remove()
	if o.Documents > 0 {
		for _, x := range []struct {
			n  int
			to **FiltersRun
		}{{max(1, o.Documents/4), &r.Quarter}, {o.Documents, &r.Filters}} {
			if *x.to, err = o.filters(ctx, filepath.Join(dir, fmt.Sprint("filters", x.n)), x.n); err != nil {
				return r, err
			}
		}
	}
	work := o.draw()
	replies := filepath.Join(dir, "replies.jsonl")
	if err := o.write(dir, work); err != nil {
		return r, err
	}
	m := ModelsOptions{Exe: o.Exe, Replicas: 1, Slots: o.Slots, Preset: o.Preset, Seed: o.Seed, replies: "file:" + replies}
	for _, x := range []struct {
		run func(url string) error
		to  *CurationRun
	}{
		{func(url string) error { return o.rows(ctx, dir, url, work) }, &r.Row},
		{func(url string) error { return o.batches(ctx, url, work) }, &r.Batch},
	} {
		urls, stop, err := m.simulate(ctx)
		if err != nil {
			return r, err
		}
		err = x.run(urls[0])
		if err == nil {
			err = x.to.judge(ctx, urls[0], o.Rows)
		}
		stop()
		if err != nil {
			return r, err
		}
	}
	if r.Row.Calls != r.Batch.Calls || r.Row.Tokens != r.Batch.Tokens {
		return r, fmt.Errorf("bench curation: %d calls and %d tokens row by row, %d and %d in batches: want the same", r.Row.Calls, r.Row.Tokens, r.Batch.Calls, r.Batch.Tokens)
	}
	return r, nil
}

// stages are the roles that ask the model.
var stages = [...]string{"filter", "score", "question"}

// page is a document and what is replied to it, stage by stage.
type page struct {
	text    string
	replies []string // of as many stages as it comes to
}

func (p *page) prompt(stage int) string { return stages[stage] + " " + p.text }

// draw makes the documents.
func (o *CurationOptions) draw() []page {
	rnd := rand.New(rand.NewPCG(uint64(o.Seed), 3))
	all := make([]page, o.Rows)
	for i := range all {
		p := &all[i]
		p.text = rowName(i) + " " + writing(rnd, english(), o.length(rnd, float64(o.Bytes)))
		switch passes, good := rnd.Float64() < o.Pass, rnd.Float64() < o.Good; {
		case !passes:
			p.replies = []string{"No"}
		case !good:
			p.replies = []string{"Yes", "bad " + writing(rnd, english(), 4*o.length(rnd, o.Score))}
		default:
			p.replies = []string{"Yes", "good " + writing(rnd, english(), 4*o.length(rnd, o.Score)), writing(rnd, english(), 4*o.length(rnd, o.Question))}
		}
	}
	return all
}

// length draws one of a lognormal with a mean.
func (o *CurationOptions) length(rnd *rand.Rand, mean float64) int {
	return max(1, int(mean*math.Exp(o.Sigma*rnd.NormFloat64()-o.Sigma*o.Sigma/2)))
}

const curationConfig = `name: curation
dataset: {path: rows.jsonl, id: id}
live: %d
models: {m: {base_url: %q, max_tokens: 20480}}
roles:
  filter: {chat: {model: m, prompt: "filter {{ item.text }}"}}
  score: {chat: {model: m, prompt: "score {{ item.text }}"}}
  question: {chat: {model: m, prompt: "question {{ item.text }}"}}
flow:
  - {role: filter, stop: 'last.text != "Yes"', drop: filter_by_classifier}
  - {role: score, stop: 'not hasPrefix(last.text, "good")', drop: filter_by_score}
  - {role: question, finish: true}
`

// write writes the dataset, and what the simulator replies to each prompt.
func (o *CurationOptions) write(dir string, work []page) error {
	var rows, replies bytes.Buffer
	for i, p := range work {
		if err := errors.Join(
			json.NewEncoder(&rows).Encode(map[string]string{"id": rowName(i), "text": p.text}),
			func() (err error) {
				for s, reply := range p.replies {
					err = errors.Join(err, json.NewEncoder(&replies).Encode(map[string]string{"prompt": p.prompt(s), "reply": reply}))
				}
				return err
			}(),
		); err != nil {
			return err
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "rows.jsonl"), rows.Bytes(), 0o666), os.WriteFile(filepath.Join(dir, "replies.jsonl"), replies.Bytes(), 0o666))
}

// rows has a run do the work, as a person would, and checks what it kept.
func (o *CurationOptions) rows(ctx context.Context, dir, url string, work []page) error {
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), fmt.Appendf(nil, curationConfig, o.Live, url), 0o666); err != nil {
		return err
	}
	out := filepath.Join(dir, "out")
	if _, err := o.matrix(ctx, "run", dir, "-o", out, "display=none"); err != nil {
		return err
	}
	if _, err := o.matrix(ctx, "verify", out, "--complete"); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(out, "summary.json"))
	if err != nil {
		return err
	}
	var s struct{ Done, Failed int }
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	want := 0
	for _, p := range work {
		if len(p.replies) == len(stages) {
			want++
		}
	}
	if s.Done != want || s.Failed > 0 {
		return fmt.Errorf("bench curation: %d documents kept and %d failed, want %d and 0", s.Done, s.Failed, want)
	}
	return nil
}

// matrix runs a command of the program to its end.
func (o *CurationOptions) matrix(ctx context.Context, args ...string) (*child, error) {
	c := (&ScaleOptions{Exe: o.Exe}).child(ctx, args...)
	if err := c.Start(); err != nil {
		return nil, err
	}
	<-c.over
	if !c.ProcessState.Success() {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("bench curation: matrix %s: %v: %s", args[0], c.ProcessState, bytes.TrimSpace(c.said.Bytes())))
	}
	return c, nil
}

// batches has one orchestrator do the work with the same client: of a batch of
// documents all are filtered, then all that are left are scored, then asked about.
func (o *CurationOptions) batches(ctx context.Context, url string, work []page) error {
	m, err := llm.New("m", llm.Service{Concurrency: llm.Concurrency(o.Live)}, llm.Endpoints{{URL: url}}, openai.Config{}.Open)
	if err != nil {
		return err
	}
	defer m.Close()
	for from := 0; from < len(work); from += o.Live {
		for stage := range stages {
			var wg sync.WaitGroup
			var failed atomic.Pointer[error]
			for i, p := range work[from:min(len(work), from+o.Live)] {
				if stage >= len(p.replies) {
					continue
				}
				wg.Go(func() {
					rep, err := m.Do(ctx, &llm.Request{Messages: []llm.Message{{Role: "user", Content: p.prompt(stage)}}, Key: fmt.Sprint(from+i, " ", stage)})
					if err == nil && rep.Choices[0].Text != p.replies[stage] {
						err = fmt.Errorf("bench curation: the %s of %s is another one", stages[stage], rowName(from+i))
					}
					if err != nil {
						failed.Store(&err)
					}
				})
			}
			wg.Wait()
			if err := failed.Load(); err != nil {
				return *err
			}
		}
	}
	return nil
}

// judge reads the simulator's books.
func (r *CurationRun) judge(ctx context.Context, url string, rows int) error {
	s, err := sim.Fetch(ctx, url)
	if err != nil {
		return err
	}
	first, last := s.Span()
	r.Seconds, r.Calls, r.Tokens = last-first, s.Sum().Done, s.Replicas[0].Completed
	r.TokensPerS = float64(r.Tokens) / r.Seconds
	r.DocumentsPerS = float64(rows) / r.Seconds
	r.Share = s.Used(first, last)
	return nil
}

const filtersConfig = `name: filters
dataset: {path: rows.jsonl, id: id}
live: %d
roles:
  check: {compute: {english: lang(item.text) == "en", words: len(words(item.text))}}
flow:
  start: check
  after:
    check:
      - {when: not last.data.english, drop: filter_by_en}
      - {when: last.data.words < 200, drop: filter_by_length}
      - {finish: last.data.words}
`

// filters has a run of n documents go through the filters that ask no model.
func (o *CurationOptions) filters(ctx context.Context, dir string, n int) (*FiltersRun, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := o.crawl(filepath.Join(dir, "rows.jsonl"), n); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), fmt.Appendf(nil, filtersConfig, o.Live), 0o666); err != nil {
		return nil, err
	}
	began := time.Now()
	c, err := o.matrix(ctx, "run", dir, "-o", filepath.Join(dir, "out"), "display=none")
	if err != nil {
		return nil, err
	}
	r := &FiltersRun{Documents: n, Seconds: time.Since(began).Seconds(), CPU: float64(c.cpu().Microseconds()) / float64(n)}
	r.DocumentsPerS = float64(n) / r.Seconds
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.RSS = peak(u)
	}
	return r, nil
}

// crawl writes n documents, two of five in English.
func (o *CurationOptions) crawl(path string, n int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	rnd := rand.New(rand.NewPCG(uint64(o.Seed), 4))
	out := json.NewEncoder(w)
	for i := range n {
		of := german()
		if rnd.Float64() < 0.4 {
			of = english()
		}
		if err := out.Encode(map[string]string{"id": rowName(i), "text": writing(rnd, of, o.length(rnd, float64(o.Bytes)))}); err != nil {
			return err
		}
	}
	return w.Flush()
}

// writing is a text of so many bytes.
func writing(rnd *rand.Rand, of []string, size int) string {
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(of[rnd.IntN(len(of))])
		b.WriteByte(' ')
	}
	return strings.TrimSpace(strings.ToValidUTF8(b.String()[:size], ""))
}

// english and german are sentences of those languages.
func english() []string {
	return []string{
		"The water in the harbour rises twice a day.", "Most of those who were there said that it could not have been seen from the road.", "It is not known when the first of them was built.",
		"What they had found was sold for less than it had cost.", "A list of all names is at the end of this page.", "If you want to know more about it, write to us.",
	}
}

func german() []string {
	return []string{
		"Das Wasser im Hafen steigt zweimal am Tag.", "Die meisten von denen, die dort waren, sagten, dass man es nicht sehen konnte.", "Es ist nicht bekannt, wann das erste gebaut wurde.",
		"Was sie gefunden hatten, wurde für weniger verkauft, als es gekostet hatte.", "Eine Liste aller Namen steht am Ende dieser Seite.", "Wer mehr darüber wissen will, schreibt uns.",
	}
}
