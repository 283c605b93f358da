package openai

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"matrix/llm"
	"matrix/llm/openai/api"
)

// benchServer is the environment variable that makes the test binary a server:
// "h1" or "h2c", or "tokens", which streams without being told.
const benchServer = "MATRIX_OPENAI_BENCH_SERVER"

// serveBench holds all calls until it reads a line from its input, and answers
// them at once then. A second line, or the end of its input, ends it.
func serveBench(kind string) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var held atomic.Int64
	open := make(chan struct{})
	body := benchReply()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprint(w, held.Load())
			return
		}
		sent, _ := io.ReadAll(r.Body)
		stream := bytes.Contains(sent, []byte(`"stream":true`))
		if stream {
			write(w, say(0, "word "))
		}
		held.Add(1)
		if kind == "tokens" {
			for range benchTokens { // each stream at times of its own
				time.Sleep(benchToken)
				write(w, say(0, "word "))
			}
			write(w, finish(0, "stop"), counted, "[DONE]")
			return
		}
		select {
		case <-open:
		case <-r.Context().Done():
			return
		}
		if stream {
			write(w, say(0, "word "), finish(0, "stop"), counted, "[DONE]")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		io.WriteString(w, body)
	})
	s := &http.Server{Handler: h}
	if kind == "h2c" {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetUnencryptedHTTP2(true)
		s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 250}
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go s.Serve(l)
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err == nil {
		close(open)
		in.ReadString('\n')
	}
	s.Close()
}

func benchReply() string {
	return fmt.Sprintf(`{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600}}`, strings.Repeat("word ", 80))
}

// benchRequest has 2 KiB of text.
func benchRequest() *llm.Request {
	temp := 0.7
	return &llm.Request{
		Messages: []llm.Message{{Role: "system", Content: strings.Repeat("word ", 100)}, {Role: "user", Content: strings.Repeat("line\n", 310)}},
		Sampling: llm.Sampling{Temperature: &temp, MaxTokens: 256}, Key: "q1/0/3",
	}
}

// startServer starts the server in its own process.
func startServer(b testing.TB, kind string) (port int, answer func()) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchServer+"="+kind)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := fmt.Fscan(out, &port); err != nil {
		b.Fatal(err)
	}
	return port, sync.OnceFunc(func() { io.WriteString(in, "\n") })
}

// A reply of the server "tokens".
const (
	benchTokens = 250
	benchToken  = 20 * time.Millisecond
)

// BenchmarkStreamedToken reads 128 streams of a server in another process, each
// with a token every 20 ms, and shows the CPU that a token takes of this process:
// where somebody looks at each, and where nobody does.
func BenchmarkStreamedToken(b *testing.B) {
	const calls = 128
	for _, looks := range []bool{true, false} {
		b.Run(fmt.Sprintf("looks=%v", looks), func(b *testing.B) {
			port, _ := startServer(b, "tokens")
			w := open(b, Options{BaseURL: fmt.Sprintf("http://127.0.0.1:%d/v1", port)})
			var cpu, took time.Duration
			for b.Loop() {
				before := used(b)
				var wg sync.WaitGroup
				var late atomic.Int64
				for i := range calls {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * benchToken / calls)
						r := benchRequest()
						if looks {
							r.OnDelta = func(llm.Delta) bool { return true }
						} else {
							yes := true
							r.Sampling.Stream = &yes
						}
						began := time.Now()
						rep, err := w.Send(b.Context(), r)
						if err != nil || len(rep.Choices[0].Text) != len("word ")*(benchTokens+1) {
							b.Errorf("got %+v, %v", rep, err)
						}
						late.Add(int64(time.Since(began)))
					})
				}
				wg.Wait()
				cpu += used(b) - before
				took += time.Duration(late.Load() / calls)
			}
			b.ReportMetric(cpu.Seconds()*1e6/float64(b.N*calls*benchTokens), "us/token")
			b.ReportMetric(took.Seconds()/float64(b.N), "s/reply")
		})
	}
}

// used is the CPU that the process has taken.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is what the process uses: heap, stacks and what the runtime keeps for
// them.
func memory() (inUse uint64, resident int) {
	var m runtime.MemStats
	debug.FreeOSMemory()
	runtime.ReadMemStats(&m)
	text, _ := os.ReadFile("/proc/self/statm")
	var size, pages int
	fmt.Sscan(string(text), &size, &pages)
	return m.HeapInuse + m.StackInuse + m.MSpanInuse + m.MCacheInuse, pages * os.Getpagesize()
}

// BenchmarkInFlight holds many calls at a server in another process and shows
// what one of them takes of this process's memory.
func BenchmarkInFlight(b *testing.B) {
	for _, c := range []struct {
		kind   string
		calls  int
		stream bool
	}{{"h1", 8000, false}, {"h2c", 20000, false}, {"h1", 8000, true}, {"h2c", 20000, true}} {
		b.Run(fmt.Sprintf("%s/stream=%v/calls=%d", c.kind, c.stream, c.calls), func(b *testing.B) {
			for b.Loop() {
				inFlight(b, c.kind, c.calls, c.stream)
			}
		})
	}
}

func inFlight(b *testing.B, kind string, calls int, stream bool) {
	port, answer := startServer(b, kind)
	var drivers []*Driver
	for i := range 2 { // endpoints of a service
		w := open(b, Options{BaseURL: fmt.Sprintf("http://127.0.0.%d:%d/v1", i+1, port), Model: "m", H2C: kind == "h2c"})
		drivers = append(drivers, w)
	}
	before, rssBefore := memory()
	cpuBefore, start := cpu(), time.Now()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := benchRequest()
	r.Sampling.Stream = &stream
	for i := range calls {
		wg.Go(func() {
			if _, err := drivers[i%len(drivers)].Send(ctx, r); err != nil {
				failed.Store(&err)
			}
		})
	}
	for { // until the server has them all
		res, err := benchClient(kind).Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			b.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if n, _ := strconv.Atoi(string(text)); n >= calls || failed.Load() != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	held := time.Since(start)
	during, rssDuring := memory()
	files, _ := os.ReadDir("/proc/self/fd")
	answer()
	wg.Wait()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(float64(during-before)/float64(calls), "bytes/call")
	b.ReportMetric(float64(rssDuring-rssBefore)/float64(calls), "rss-bytes/call")
	b.ReportMetric((cpu()-cpuBefore)/float64(calls), "cpu-us/call")
	b.ReportMetric(held.Seconds(), "s-to-open")
	b.ReportMetric(float64(len(files)), "files")
	for _, w := range drivers {
		w.Close()
	}
}

func benchClient(kind string) *http.Client {
	return &http.Client{Transport: llm.NewTransport(llm.TransportOptions{H2C: kind == "h2c"})}
}

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1000
}

// BenchmarkSend measures the client's CPU per call, 2 KiB in and 400 B out, on
// loopback, with the server in another process.
func BenchmarkSend(b *testing.B) {
	for _, kind := range []string{"h1", "h2c"} {
		for _, callers := range []int{1, 64, 1024} {
			b.Run(fmt.Sprintf("%s/callers=%d", kind, callers), func(b *testing.B) {
				port, answer := startServer(b, kind)
				answer()
				w := open(b, Options{BaseURL: fmt.Sprintf("http://127.0.0.1:%d/v1", port), Model: "m", APIKey: "sk-12345678", H2C: kind == "h2c"})
				r := benchRequest()
				b.ReportAllocs()
				start := cpu()
				var calls sync.WaitGroup
				work := make(chan struct{}, callers)
				for range callers {
					calls.Go(func() {
						for range work {
							if _, err := w.Send(b.Context(), r); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for b.Loop() {
					work <- struct{}{}
				}
				close(work)
				calls.Wait()
				b.ReportMetric((cpu()-start)/float64(b.N), "cpu-us/op")
			})
		}
	}
}

// BenchmarkRead measures what a reply of 400 bytes of text costs once it is
// there.
func BenchmarkRead(b *testing.B) {
	w := open(b, Options{BaseURL: "http://127.0.0.1:1/v1", Model: "m"})
	h := &head{op: chat, status: http.StatusOK, media: "application/json"}
	for name, body := range map[string]string{
		"plain":   benchReply(),
		"escaped": strings.ReplaceAll(benchReply(), "word word ", `\"word\"\n`),
	} {
		b.Run(name, func(b *testing.B) {
			c, raw := &call{op: chat, r: benchRequest()}, []byte(body)
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, f := w.read(&w.targets[0], c, h, nil, raw); f != nil {
					b.Fatal(f)
				}
			}
		})
	}
}

// BenchmarkPiece measures what an event of a stream costs.
func BenchmarkPiece(b *testing.B) {
	w := open(b, Options{BaseURL: "http://127.0.0.1:1/v1", Model: "m"})
	r := benchRequest()
	event := []byte(`{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}`)
	_, s, err := llm.NewStream(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	p := &pieces{w: w, t: &w.targets[0], c: &call{op: chat, r: r}, h: &head{status: http.StatusOK}, s: s}
	b.ReportAllocs()
	for b.Loop() {
		if _, f := p.add(event); f != nil {
			b.Fatal(f)
		}
	}
}

// BenchmarkEncode measures what it costs to write a request of 2 KiB of text.
func BenchmarkEncode(b *testing.B) {
	w := open(b, Options{BaseURL: "http://127.0.0.1:1/v1", Model: "m"})
	for name, text := range map[string]string{
		"lines": strings.Repeat("line\n", 310),
		"prose": strings.Repeat("They said: \"Corals build reefs, and reefs keep the sea off the land.\"\n", 22),
	} {
		b.Run(name, func(b *testing.B) {
			r := benchRequest()
			r.Messages[1].Content = text
			b.ReportAllocs()
			for b.Loop() {
				if _, f := w.encode(r, api.Server{Name: api.OpenAI}, w.model); f != nil {
					b.Fatal(f)
				}
			}
		})
	}
}

// BenchmarkOpen measures what a call costs beside its body and the way to the
// server.
func BenchmarkOpen(b *testing.B) {
	header := http.Header{"Content-Type": {"application/json"}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Server": {"uvicorn"}}
	w := open(b, Options{BaseURL: "http://127.0.0.1:1/v1", Model: "m", APIKey: "sk-12345678", Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: header, Body: http.NoBody}, nil
	})})
	body := make([]byte, 2048)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, f := w.open(b.Context(), &w.targets[0], chat, w.targets[0].at[chat], "q1/0/3", body); f != nil {
			b.Fatal(f)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
