package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"matrix"
	"matrix/internal/spend"
	"matrix/llm"
	"matrix/run"
	"matrix/session"
	"matrix/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nasty is a name that must be escaped in the text format.
const nasty = "a \"b\" \\ c\nd {e=\"f\"}"

// halfway is a run in the middle, with workers.
func halfway() *session.Snapshot {
	return &session.Snapshot{
		Name: nasty,
		Progress: run.Progress{
			Totals: run.Totals{
				Done: 40, Failed: 2, Seconds: 12.5, Faults: map[matrix.Fault]int64{matrix.FaultLimit: 2},
				Metrics: map[string]run.MetricSum{"agreed": {Count: 40, Sum: 30, Mean: new(0.75)}, "silent": {}},
			},
			Total: 100, Fed: 50, Live: 8, Pending: 58,
		},
		Roles: []session.RoleSnapshot{
			{Name: "teacher", RoleProgress: run.RoleProgress{Waiting: 5, Acting: 3, Hops: 90, Failed: 2}},
			{Name: "judge", RoleProgress: run.RoleProgress{Waiting: 7}, Unserved: true},
		},
		Models: []session.ModelSnapshot{{Name: "llama", Stats: llm.Stats{
			InFlight: 3, Limit: 8, Waiting: 1, Calls: 90, Failed: 4, Seconds: 180, Retries: 6, PromptTokens: 1000, CompletionTokens: 500, CachedTokens: 100, USD: 0.25,
			Paused:    &llm.Trouble{Msg: "503"},
			Endpoints: []llm.EndpointStats{{URL: "http://h:1/v1", Calls: 90}, {URL: "http://h:1/v1"}, {URL: "http://\xff" + nasty, Fault: &llm.Trouble{Msg: "refused"}}},
		}}},
		Workers: []session.WorkerState{{ID: "w1", State: "working", Slots: 8}, {ID: "w2", State: "draining", Slots: 4}},
		Spending: &spend.Spending{
			USD: 1.5, Tokens: 1500, Limit: &llm.Cost{USD: 20, Tokens: 1e6},
		},
	}
}

// get asks a server.
func get(t *testing.T, method, url string) (code int, header http.Header, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// listen starts a server on loopback.
func listen(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	s := New(o)
	t.Cleanup(func() { _ = s.Close() })
	url, err := s.Listen("0")
	if err != nil {
		t.Fatal(err)
	}
	return s, url
}

// read parses metrics with Prometheus' own parser.
func read(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := new(expfmt.TextParser).TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// value is that of the metric with these labels, names and values by turns.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	f := families[name]
	if f == nil {
		t.Errorf("there is no %s", name)
		return -1
	}
next:
	for _, m := range f.Metric {
		for i := 0; i < len(labels); i += 2 {
			found := false
			for _, l := range m.Label {
				found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
			}
			if !found {
				continue next
			}
		}
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			return m.Counter.GetValue()
		case dto.MetricType_SUMMARY:
			return m.Summary.GetSampleSum() / float64(m.Summary.GetSampleCount())
		}
		return m.Gauge.GetValue()
	}
	t.Errorf("%s has no metric with %q", name, labels)
	return -1
}

func TestMetrics(t *testing.T) {
	s, url := listen(t, Options{Version: "v1"})
	s.Ready(halfway)
	code, header, text := get(t, "GET", url+"/metrics")
	if got := header.Get("Content-Type"); code != 200 || got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("got %d, %q", code, got)
	}
	all := read(t, text)
	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "matrix_build_info", []string{"version", "v1"}},
		{1, "matrix_ready", nil},
		{1, "matrix_run_info", []string{"run", nasty}},
		{40, "matrix_tasks", []string{"state", "done"}},
		{2, "matrix_tasks", []string{"state", "failed"}},
		{58, "matrix_tasks", []string{"state", "pending"}},
		{8, "matrix_tasks_live", nil},
		{2, "matrix_tasks_failed", []string{"fault", "limit"}},
		{0, "matrix_tasks_failed", []string{"fault", "step"}},
		{0, "matrix_run_finished", nil},
		{12.5, "matrix_run_seconds_total", nil},
		{0.75, "matrix_metric_mean", []string{"metric", "agreed"}},
		{0, "matrix_metric_tasks", []string{"metric", "silent"}},
		{1.5, "matrix_run_cost_dollars_total", nil},
		{1500, "matrix_run_tokens_total", nil},
		{20, "matrix_budget_dollars", nil},
		{1e6, "matrix_budget_tokens", nil},
		{1, "matrix_workers", []string{"state", "working"}},
		{1, "matrix_workers", []string{"state", "draining"}},
		{0, "matrix_workers", []string{"state", "joining"}},
		{12, "matrix_worker_slots", nil},
		{5, "matrix_role_tasks_waiting", []string{"role", "teacher"}},
		{3, "matrix_role_steps_acting", []string{"role", "teacher"}},
		{90, "matrix_role_hops_total", []string{"role", "teacher"}},
		{2, "matrix_role_failures_total", []string{"role", "teacher"}},
		{0, "matrix_role_unserved", []string{"role", "teacher"}},
		{1, "matrix_role_unserved", []string{"role", "judge"}},
		{90, "matrix_model_calls_total", []string{"model", "llama", "outcome", "reply"}},
		{4, "matrix_model_calls_total", []string{"model", "llama", "outcome", "failed"}},
		{6, "matrix_model_retries_total", []string{"model", "llama"}},
		{2, "matrix_model_reply_duration_seconds", []string{"model", "llama"}},
		{3, "matrix_model_calls_in_flight", []string{"model", "llama"}},
		{1, "matrix_model_calls_waiting", []string{"model", "llama"}},
		{8, "matrix_model_calls_limit", []string{"model", "llama"}},
		{1, "matrix_model_paused", []string{"model", "llama"}},
		{1000, "matrix_model_prompt_tokens_total", []string{"model", "llama"}},
		{100, "matrix_model_cached_tokens_total", []string{"model", "llama"}},
		{500, "matrix_model_completion_tokens_total", []string{"model", "llama"}},
		{0.25, "matrix_model_cost_dollars_total", []string{"model", "llama"}},
		{1, "matrix_endpoint_up", []string{"endpoint", "http://h:1/v1"}},
		{0, "matrix_endpoint_up", []string{"endpoint", "http://\uFFFD" + nasty}},
		{90, "matrix_endpoint_replies_total", []string{"endpoint", "http://h:1/v1"}},
	} {
		if got := value(t, all, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s %q: got %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
	if all["process_resident_memory_bytes"] == nil && all["go_goroutines"] == nil {
		t.Error("the metrics of the process are missing")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// What is not known is left out, and of a worker what is of the whole run.
func TestMetricsLeftOut(t *testing.T) {
	s, url := listen(t, Options{Version: "v1"})
	v := halfway()
	v.Pending, v.Total, v.Workers, v.Spending.Limit = -1, -1, nil, nil
	s.Ready(func() *session.Snapshot { return v })
	_, _, text := get(t, "GET", url+"/metrics")
	for _, none := range []string{`state="pending"`, "matrix_workers", "matrix_worker_slots", "matrix_budget"} {
		if strings.Contains(text, none) {
			t.Errorf("%s is there", none)
		}
	}
	w, url := listen(t, Options{Version: "v1", Worker: true})
	w.Ready(halfway)
	_, _, text = get(t, "GET", url+"/metrics")
	all := read(t, text)
	for name := range all {
		for _, none := range []string{"matrix_tasks", "matrix_run_cost", "matrix_budget", "matrix_workers", "matrix_role_tasks_waiting", "matrix_run_finished"} {
			if strings.HasPrefix(name, none) {
				t.Errorf("a worker tells of %s", name)
			}
		}
	}
	if got := value(t, all, "matrix_role_hops_total", "role", "teacher"); got != 90 {
		t.Errorf("hops: got %v, want 90", got)
	}
	if got := value(t, all, "matrix_worker_roles"); got != 1 {
		t.Errorf("roles served: got %v, want 1", got)
	}
}

func TestStates(t *testing.T) {
	s, url := listen(t, Options{})
	check := func(state string, code int, why string) {
		t.Helper()
		if got, _, body := get(t, "GET", url+"/readyz"); got != code || !strings.HasPrefix(body, state) || !strings.Contains(body, why) {
			t.Errorf("readyz: got %d %q, want %d, %s %s", got, body, code, state, why)
		}
		if got, _, body := get(t, "GET", url+"/healthz"); got != 200 || body != "ok\n" {
			t.Errorf("healthz: got %d %q", got, body)
		}
		var x Status
		_, _, body := get(t, "GET", url+"/status")
		if err := json.Unmarshal([]byte(body), &x); err != nil || x.State != state || x.Why != why || (x.Snapshot == nil) != (state == Starting) {
			t.Errorf("status: got %s, %v", body, err)
		}
		_, _, text := get(t, "GET", url+"/metrics")
		ready := 0.
		if code == 200 {
			ready = 1
		}
		if got := value(t, read(t, text), "matrix_ready"); got != ready {
			t.Errorf("matrix_ready: got %v, want %v", got, ready)
		}
	}
	check(Starting, 503, "")
	s.Ready(halfway)
	check(Running, 200, "")
	s.Stopping("Stopping; nothing is lost.")
	check(Stopping, 503, "Stopping; nothing is lost.")
}

func TestRequestsRefused(t *testing.T) {
	_, url := listen(t, Options{})
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"POST", "/metrics", 405}, {"DELETE", "/status", 405}, {"PUT", "/healthz", 405}, {"HEAD", "/healthz", 200}, {"HEAD", "/metrics", 200},
		{"GET", "/nosuch", 404}, {"GET", "/../status", 404}, {"POST", "/stop", 404}, {"GET", "/watch?every=1s", 404}, {"GET", "/", 200},
	} {
		if got, _, _ := get(t, tt.method, url+tt.path); got != tt.want && got != 307 && got != 301 {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, got, tt.want)
		}
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = io.WriteString(conn, "GET /status HTTP/1.1\r\nHost: h\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n")
	}()
	b := make([]byte, 12)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "HTTP/1.1 431" {
		t.Errorf("a header of 1 MiB: got %q, %v", b, err)
	}
}

func TestAddresses(t *testing.T) {
	s := New(Options{})
	defer s.Close()
	for _, address := range []string{"", "x", "70000", "127.0.0.1", "localhost:http", "1:2:3"} {
		if url, err := s.Listen(address); !errors.As(err, new(*spec.UsageError)) {
			t.Errorf("%q: got %s, %v, want a usage error", address, url, err)
		}
	}
	url, err := s.Listen("0")
	if err != nil || !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("a bare port: got %s, %v, want one of loopback", url, err)
	}
	if _, err := s.Listen(strings.TrimPrefix(url, "http://")); !errors.As(err, new(*net.OpError)) {
		t.Errorf("a port that is taken: got %v", err)
	}
}

// started is a server with a socket in dir.
func started(t *testing.T, dir string, stop func(now bool)) *Server {
	t.Helper()
	s := New(Options{})
	t.Cleanup(func() { _ = s.Close() })
	s.Ready(halfway)
	if err := s.ListenIn(dir, stop); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSocket(t *testing.T) {
	short := t.TempDir()
	deep := filepath.Join(short, strings.Repeat("d", 120))
	if err := os.Mkdir(deep, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"in the folder": short, "path too long": deep} {
		t.Run(name, func(t *testing.T) {
			if _, err := Dial(dir); !errors.Is(err, ErrNotRunning) {
				t.Fatalf("nobody there: got %v", err)
			}
			// One that was killed leaves its socket.
			killed, err := listenIn(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := killed.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(filepath.Join(dir, SocketFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := Dial(dir); !errors.Is(err, ErrNotRunning) {
				t.Fatalf("what a killed one left: got %v", err)
			}
			s := started(t, dir, nil)
			if info, err := os.Lstat(filepath.Join(dir, SocketFile)); err != nil || info.Mode().Perm() != 0o600 || info.Mode()&fs.ModeSocket == 0 {
				t.Errorf("got mode %v, %v, want a socket of 0600", info.Mode(), err)
			}
			c, err := Dial(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if x, err := c.Status(t.Context()); err != nil || x.State != Running || x.Done != 40 || len(x.Roles) != 2 {
				t.Errorf("status: got %+v, %v", x, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "control*")); left != nil {
				t.Errorf("left: %v", left)
			}
			if _, err := c.Status(t.Context()); !errors.Is(err, ErrGone) {
				t.Errorf("closed: got %v, want that it is gone", err)
			}
		})
	}
}

// The path of a run may be short where it began and long where it is looked at, and the
// other way round.
func TestSocketByTwoPaths(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	top := t.TempDir()
	deep := filepath.Join(top, strings.Repeat("d", 120))
	if err := os.Mkdir(deep, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ wd, run, viewer string }{{deep, ".", deep}, {deep, deep, "."}} {
		t.Chdir(tt.wd)
		s := started(t, tt.run, nil)
		c, err := Dial(tt.viewer)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := c.Status(t.Context()); err != nil || x.Done != 40 {
			t.Errorf("got %+v, %v", x, err)
		}
		c.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*")); left != nil {
		t.Errorf("left: %v", left)
	}
}

// A file of a person is left, and so is the socket of the run that has the folder
// after it was removed under this one.
func TestSocketOfOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SocketFile)
	if err := os.WriteFile(path, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	defer s.Close()
	if err := s.ListenIn(dir, nil); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	first := started(t, dir, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := started(t, dir, nil)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(dir)
	if err != nil {
		t.Fatalf("the second run cannot be reached: %v", err)
	}
	defer c.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// Viewers see how the run stands, what is said, and how it ends; one of them stops it.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	stops := make(chan bool, 2)
	s := started(t, dir, func(now bool) { stops <- now })
	type seen struct {
		lines []string
		end   *End
		err   error
	}
	results := make(chan seen, 3)
	var ready sync.WaitGroup
	for range 3 {
		ready.Add(1)
		go func() {
			c, err := Dial(dir)
			if err != nil {
				t.Error(err)
				ready.Done()
				results <- seen{}
				return
			}
			defer c.Close()
			var x seen
			first := true
			x.end, x.err = c.Watch(t.Context(), time.Hour, func(e Event) {
				if first {
					first = false
					if e.Status == nil || e.Status.Live != 8 {
						t.Errorf("the first event: got %+v, want how it stands", e)
					}
					ready.Done()
				}
				if e.Line != "" {
					x.lines = append(x.lines, e.Line)
				}
			})
			results <- x
		}()
	}
	ready.Wait()
	s.Say("something\nhappened")
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, now := range []bool{false, true} {
		if err := c.Stop(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if got := <-stops; got != now {
			t.Errorf("stop: got now %v, want %v", got, now)
		}
	}
	want := End{Code: 4, Out: "a table", Err: "Stopped."}
	s.End(want)
	s.End(End{Code: 1})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		x := <-results
		if x.err != nil || x.end == nil || *x.end != want || len(x.lines) != 1 || x.lines[0] != "something\nhappened" {
			t.Errorf("got %+v, want one line and %+v", x, want)
		}
	}
}

// A viewer whose run ends without a word knows that, and one that goes away is
// forgotten.
func TestWatchGone(t *testing.T) {
	dir := t.TempDir()
	s := started(t, dir, nil)
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	if end, err := c.Watch(ctx, time.Second, func(Event) { cancel() }); end != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v, want that it was cancelled", end, err)
	}
	var closing sync.WaitGroup
	end, err := c.Watch(t.Context(), time.Second, func(Event) {
		closing.Go(func() { _ = s.Close() })
	})
	closing.Wait()
	if end != nil || !errors.Is(err, ErrGone) {
		t.Errorf("got %v, %v, want that it is gone", end, err)
	}
	_ = s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.viewers) != 0 {
		t.Errorf("%d viewers are remembered", len(s.viewers))
	}
}

// BenchmarkMetrics is one scrape of a run of 10 roles and 10 models, over HTTP.
func BenchmarkMetrics(b *testing.B) {
	v := halfway()
	for len(v.Roles) < 10 {
		r := v.Roles[0]
		r.Name += strings.Repeat("x", len(v.Roles))
		v.Roles = append(v.Roles, r)
	}
	for len(v.Models) < 10 {
		m := v.Models[0]
		m.Name += strings.Repeat("x", len(v.Models))
		v.Models = append(v.Models, m)
	}
	s := New(Options{Version: "v1"})
	defer s.Close()
	url, err := s.Listen("0")
	if err != nil {
		b.Fatal(err)
	}
	s.Ready(func() *session.Snapshot { return v })
	var client http.Client
	defer client.CloseIdleConnections()
	for b.Loop() {
		resp, err := client.Get(url + "/metrics")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}
