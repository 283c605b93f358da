package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
)

func TestFaultText(t *testing.T) {
	for _, c := range []struct {
		text string
		want Fault
	}{
		{"reset", Fault{Kind: Reset, Share: 1}},
		{"reject:0.6@0s-20s,retry_after=1s", Fault{Kind: Reject, Share: 0.6, Until: 20 * time.Second, RetryAfter: time.Second}},
		{"error:0.03@5s,status=503", Fault{Kind: Error, Share: 0.03, From: 5 * time.Second, Status: 503}},
		{"slow@1m-2m, factor=10, replica=0+2", Fault{Kind: Slow, Share: 1, From: time.Minute, Until: 2 * time.Minute, Factor: 10, Replicas: []int{0, 2}}},
	} {
		var got Fault
		if err := got.UnmarshalText([]byte(c.text)); err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.text, d)
		}
	}
	for text, want := range map[string]string{
		"reject:x": "not a number", "reject@x": "not a duration", "reject@1s-x": "not a duration", "reject,retry_aftr=1s": "did you mean", "slow,factor=a": "cannot be read",
	} {
		if err := new(Fault).UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestReadFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "faults.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("- reject:0.5@1s-2s\n- {kind: slow, factor: 3, from: 5s, replicas: [1]}\n- kind: error\n  status: 502\n  share: 0.1\n")
	got, err := ReadFaults(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []Fault{
		{Kind: Reject, Share: 0.5, From: time.Second, Until: 2 * time.Second},
		{Kind: Slow, Share: 1, Factor: 3, From: 5 * time.Second, Replicas: []int{1}},
		{Kind: Error, Share: 0.1, Status: 502},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for text, want := range map[string]string{"- {kind: slow, speed: 3}": "speed", "- reject:x": "not a number", "kind: slow": "list"} {
		write(text)
		if _, err := ReadFaults(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// Each fault, as a plain client sees it.
func TestFaults(t *testing.T) {
	broken := func(err error) bool {
		return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || err != nil && strings.Contains(err.Error(), "stream error")
	}
	type seen struct {
		status int
		header http.Header
		body   []byte
		err    error // of the exchange, or of the body
	}
	for _, c := range []struct {
		fault string
		http1 bool // HTTP/1.1 alone
		ok    func(s seen, stream bool) bool
	}{
		{"reject,retry_after=1500ms", false, func(s seen, _ bool) bool {
			return s.status == 429 && s.header.Get("Retry-After") == "2" && s.header.Get("Retry-After-Ms") == "1500" && bytes.Contains(s.body, []byte("rate_limit_exceeded"))
		}},
		{"error", false, func(s seen, _ bool) bool { return s.status == 500 && json.Valid(s.body) }},
		{"error,status=503", false, func(s seen, _ bool) bool { return s.status == 503 }},
		{"error,status=529", false, func(s seen, _ bool) bool { return s.status == 529 && bytes.Contains(s.body, []byte("overloaded")) }},
		{"reset", true, func(s seen, _ bool) bool { return errors.Is(s.err, syscall.ECONNRESET) && s.status == 0 }},
		{"reset", false, func(s seen, _ bool) bool { return broken(s.err) && s.status == 0 }},
		{"truncate", false, func(s seen, stream bool) bool {
			return s.status == 200 && broken(s.err) && len(s.body) > 20 && !bytes.Contains(s.body, []byte("[DONE]")) && (stream || !json.Valid(s.body))
		}},
		{"garbage", false, func(s seen, stream bool) bool {
			return s.status == 200 && s.err == nil && !json.Valid(s.body) && bytes.Contains(s.body, []byte("garbage"))
		}},
		{"stall", false, func(s seen, stream bool) bool {
			return errors.Is(s.err, context.DeadlineExceeded) && (s.status == 200) == stream && (len(s.body) > 0) == stream
		}},
	} {
		for _, h2c := range []bool{false, true} {
			for _, stream := range []bool{false, true} {
				if h2c && c.http1 {
					continue
				}
				var f Fault
				if err := f.UnmarshalText([]byte(c.fault)); err != nil {
					t.Fatal(err)
				}
				cfg := quick
				cfg.Latency.Mean = 120 * time.Millisecond
				cfg.Faults = []Fault{f}
				sv := start(t, cfg)
				ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
				body := `{"messages":[{"role":"user","content":"x"}],"ignore_eos":true,"max_tokens":50`
				if stream {
					body += `,"stream":true`
				}
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, sv.URLs()[0]+"/chat/completions", strings.NewReader(body+"}"))
				var s seen
				resp, err := client(t, h2c).Do(req)
				if s.err = err; err == nil {
					s.status, s.header = resp.StatusCode, resp.Header
					s.body, s.err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				cancel()
				if !c.ok(s, stream) {
					t.Errorf("%s, h2c %v, stream %v: got %d %q and error %v", c.fault, h2c, stream, s.status, s.body, s.err)
				}
				if n := sv.Stats().Sum().Faults[f.Kind]; n != 1 {
					t.Errorf("%s: got %d faults counted, want 1", c.fault, n)
				}
			}
		}
	}
}

// A server that goes down cuts what is connected, refuses, and is back on the
// same port with an empty cache.
func TestDown(t *testing.T) {
	cfg := quick
	cfg.Replicas = 2
	cfg.Latency.Mean = 150 * time.Millisecond
	cfg.Faults = []Fault{{Kind: Down, Share: 1, From: 100 * time.Millisecond, Until: 400 * time.Millisecond, Replicas: []int{0}}}
	s := start(t, cfg)
	for _, h2c := range []bool{false, true} {
		s.Reset()
		c := client(t, h2c)
		ask := func(i int) error {
			resp, err := c.Post(s.URLs()[i]+"/chat/completions", "", strings.NewReader(`{`+hello+`}`))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			return err
		}
		if err := ask(0); err == nil {
			t.Error("a call that was under way when the server went down: got a reply")
		}
		if err := ask(0); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("while it is down: got %v, want connection refused", err)
		}
		if err := ask(1); err != nil {
			t.Errorf("the other one: %v", err)
		}
		until(t, func() bool { return ask(0) == nil })
		if st := s.Stats().Sum(); st.Cut != 1 || st.GivenUp != 0 {
			t.Errorf("h2c %v: got %d calls cut and %d given up by the client, want 1 and 0", h2c, st.Cut, st.GivenUp)
		}
	}
}

func TestSlow(t *testing.T) {
	for _, c := range []struct {
		preset string
		share  float64
	}{{"slots", 1}, {"8b", 1}, {"slots", 0.9999}} {
		synctest.Test(t, func(t *testing.T) {
			cfg := Config{Preset: c.preset, Faults: []Fault{{Kind: Slow, Share: c.share, Factor: 5, From: 10 * time.Second, Until: 100 * time.Second}}}
			w := NewDriver(engines(t, cfg)[0])
			took := func() time.Duration {
				begin := time.Now()
				if _, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "x"}}}); err != nil {
					t.Fatal(err)
				}
				return time.Since(begin)
			}
			before := took()
			time.Sleep(20 * time.Second)
			if got := took(); !about(float64(got), 5*float64(before), 0.1) {
				t.Errorf("%s, share %v: got %v, want 5 times %v", c.preset, c.share, got, before)
			}
			time.Sleep(100 * time.Second)
			if got := took(); !about(float64(got), float64(before), 0.1) {
				t.Errorf("%s, share %v, after it: got %v, want %v", c.preset, c.share, got, before)
			}
		})
	}
}

// The share of the calls that a fault hits, and which ones, are as they were
// drawn.
func TestShareOfFaults(t *testing.T) {
	hits := func(seed int64) []bool {
		e := engines(t, Config{Seed: seed, Faults: []Fault{{Kind: Reject, Share: 0.6}, {Kind: Error, Share: 0.5}}})[0]
		out := make([]bool, 10_000)
		for i := range out {
			f, _ := e.arrive()
			out[i] = f != nil && f.Kind == Reject
		}
		st := e.Stats().Sum().Faults
		if !about(float64(st[Reject]), 6000, 0.03) || !about(float64(st[Error]), 2000, 0.05) {
			t.Errorf("got %v, want 6000 and, of the rest, half", st)
		}
		return out
	}
	a, b, other := hits(1), hits(1), hits(2)
	if !cmp.Equal(a, b) || cmp.Equal(a, other) {
		t.Error("want the same calls hit by the same seed, and others by another")
	}
}

func TestStorms(t *testing.T) {
	for storm, n := range map[string]int{"429": 1, "outage": 2, "mixed": 3, "minute": 1, "half": 1, "429@0s": 1, "": 0} {
		c, err := Config{Storm: storm, Replicas: 4}.complete()
		if err != nil || len(c.Faults) != n {
			t.Errorf("%s: got %d faults and %v, want %d", storm, len(c.Faults), err, n)
		}
		if storm == "half" && !cmp.Equal(c.Faults[0].Replicas, []int{2, 3}) {
			t.Errorf("half of 4: got %v, want the last two", c.Faults[0].Replicas)
		}
	}
}
