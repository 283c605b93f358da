package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"matrix/llm"
)

// Each call has a line that says how it ended, over HTTP and in process.
func TestLog(t *testing.T) {
	const prompt = "row 7, and more than there is room for in the log"
	slots := func(faults ...Fault) Config {
		c := Config{Preset: "slots", Slots: 1, Latency: Latency{Mean: 20 * time.Millisecond}, Faults: faults}
		for i := range c.Faults {
			c.Faults[i].Share = 1
		}
		return c
	}
	slow := slots(Fault{Kind: Down, From: 50 * time.Millisecond})
	slow.Latency.Mean = time.Minute
	for _, c := range []struct {
		name   string
		config Config
		gone   time.Duration // when the client leaves
		want   Entry
		worked bool
	}{
		{"done", slots(), time.Minute, Entry{End: EndDone}, true},
		{"of a batching engine", Config{Replies: Replies{Kind: "echo"}}, time.Minute, Entry{End: EndDone}, true},
		{"stall", slots(Fault{Kind: Stall}), 200 * time.Millisecond, Entry{End: EndDone, Fault: Stall}, true},
		{"truncate", slots(Fault{Kind: Truncate}), time.Minute, Entry{End: EndDone, Fault: Truncate}, true},
		{"error", slots(Fault{Kind: Error, Status: 503}), time.Minute, Entry{End: EndRefused, Status: 503, Fault: Error}, false},
		{"reset", slots(Fault{Kind: Reset}), time.Minute, Entry{End: EndReset, Fault: Reset}, false},
		{"given up", Config{Preset: "slots", Latency: Latency{Mean: time.Minute}}, 50 * time.Millisecond, Entry{End: EndGivenUp}, true},
		{"cut", slow, time.Minute, Entry{End: EndCut}, true},
		{"wrong", Config{Engine: Costs{Context: 17}}, time.Minute, Entry{End: EndRefused, Status: 400}, false},
	} {
		c.want.Nth, c.want.Key, c.want.Prompt = 1, "k", prompt[:promptBytes]
		check := func(how string, log []byte, after time.Duration) {
			var got Entry
			if err := json.Unmarshal(log, &got); err != nil {
				t.Errorf("%s, %s: %v in %q", c.name, how, err, log)
				return
			}
			if d := cmp.Diff(c.want, got, cmpopts.IgnoreFields(Entry{}, "At", "Waited", "Worked", "Took")); d != "" {
				t.Errorf("%s, %s: %s", c.name, how, d)
			}
			if got.Worked > 0 != c.worked || got.At <= 0 || got.Took < got.Worked || got.At+got.Took > after.Seconds() {
				t.Errorf("%s, %s: got %+v, want work: %v, over after %v", c.name, how, got, c.worked, after)
			}
			if c.name == "stall" && got.Took < 0.15 {
				t.Errorf("%s, %s: took %v s, want until the client left", c.name, how, got.Took)
			}
		}
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			c.config.Log = &log
			s := start(t, c.config)
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), c.gone)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URLs()[0]+"/chat/completions", strings.NewReader(`{"messages":[{"role":"user","content":"`+prompt+`"}]}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Idempotency-Key", "k")
			if resp, err := client(t, false).Do(req); err == nil {
				resp.Body.Close()
			}
			s.Close()
			check("HTTP", log.Bytes(), time.Since(began)+time.Second)

			log.Reset()
			began = time.Now()
			e := engines(t, c.config)[0]
			ctx, cancel = context.WithTimeout(t.Context(), c.gone)
			defer cancel()
			_, _ = NewDriver(e).Send(ctx, &llm.Request{Messages: []llm.Message{{Role: "user", Content: prompt}}, Key: "k"})
			check("in process", log.Bytes(), time.Since(began))
		})
	}
}

// A call that waits for another says for how long.
func TestLogOfAWait(t *testing.T) {
	var log bytes.Buffer
	c := Config{Preset: "slots", Slots: 1, Latency: Latency{Mean: 50 * time.Millisecond}, Log: &log}
	e := engines(t, c)[0]
	done := make(chan error, 2)
	for range cap(done) {
		go func() {
			_, err := NewDriver(e).Send(t.Context(), &llm.Request{Prompt: "p"})
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	var first, second Entry
	d := json.NewDecoder(&log)
	if err := d.Decode(&first); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&second); err != nil {
		t.Fatal(err)
	}
	if first.Waited > 0.04 || second.Waited <= 0.02 || !about(second.Worked, 0.05, 0.1) {
		t.Errorf("got %+v and %+v, want the second to wait for the first", first, second)
	}
}
