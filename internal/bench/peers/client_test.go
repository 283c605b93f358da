// Package peers compares the client of models with its peers. It is a module of
// its own, so that nobody else downloads them:
//
//	go test -C internal/bench/peers -mod=mod -run '^$' -bench .
package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"matrix/internal/sim"
	"matrix/llm"
	driver "matrix/llm/openai"
)

// beSimulator makes the test binary a simulated service, so that its CPU is not
// that of the clients.
const beSimulator = "MATRIX_BENCH_BE_SIMULATOR"

func TestMain(m *testing.M) {
	if os.Getenv(beSimulator) == "" {
		os.Exit(m.Run())
	}
	s, err := sim.Start(sim.Config{Preset: "slots", Slots: 256, Latency: sim.Latency{Mean: 20 * time.Millisecond}, Replies: sim.Replies{Tokens: 100}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.URLs()[0])
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // until the benchmark ends
	s.Close()
}

// simulator starts the service and returns its base URL.
func simulator(b *testing.B) string {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), beSimulator+"=1")
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
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const clientCallers = 128

// BenchmarkClient is the CPU that a call costs its client: 2 KiB in, 400 B out,
// HTTP/1.1, 128 calls at once, the server in a process of its own. The peers are
// the official SDKs of the same API, for Go and, where python3 (or
// MATRIX_PYTHON) has the package openai, for Python.
func BenchmarkClient(b *testing.B) {
	prompt := strings.Repeat("Corals build reefs in shallow water. ", 56)[:2048]
	url := simulator(b)
	calls := func(b *testing.B, call func(ctx context.Context) (string, error)) {
		var next atomic.Int64
		var wg sync.WaitGroup
		before := cpu()
		for range clientCallers {
			wg.Go(func() {
				for next.Add(1) <= int64(b.N) {
					if text, err := call(b.Context()); err != nil || text == "" {
						b.Errorf("got %q, %v", text, err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric((cpu()-before).Seconds()*1e6/float64(b.N), "cpu-us/call")
	}
	b.Run("matrix", func(b *testing.B) {
		m, err := llm.New("m", llm.Service{Concurrency: clientCallers}, llm.Endpoints{{URL: url}}, driver.Config{Model: "sim-slots"}.Open)
		if err != nil {
			b.Fatal(err)
		}
		defer m.Close()
		calls(b, func(ctx context.Context) (string, error) {
			rep, err := m.Do(ctx, &llm.Request{Messages: []llm.Message{{Role: "user", Content: prompt}}})
			if err != nil {
				return "", err
			}
			return rep.Choices[0].Text, nil
		})
	})
	b.Run("openai-go", func(b *testing.B) {
		t := llm.NewTransport(llm.TransportOptions{})
		c := openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("none"), option.WithMaxRetries(0), option.WithHTTPClient(&http.Client{Transport: t}))
		calls(b, func(ctx context.Context) (string, error) {
			rep, err := c.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
				Model: "sim-slots", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)},
			})
			if err != nil {
				return "", err
			}
			return rep.Choices[0].Message.Content, nil
		})
	})
	b.Run("openai-python", func(b *testing.B) {
		python := os.Getenv("MATRIX_PYTHON")
		if python == "" {
			python = "python3"
		}
		if exec.Command(python, "-c", "import openai").Run() != nil {
			b.Skipf("%s has no package openai", python)
		}
		cmd := exec.CommandContext(b.Context(), python, "-c", pythonClient, url, prompt, fmt.Sprint(b.N), fmt.Sprint(clientCallers))
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				b.Fatalf("%v: %s", err, exit.Stderr)
			}
			b.Fatal(err)
		}
		var cpu float64
		if err := json.Unmarshal(out, &cpu); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(cpu*1e6/float64(b.N), "cpu-us/call")
	})
}

// pythonClient makes calls and prints the CPU seconds that they took.
const pythonClient = `
import asyncio, resource, sys
from openai import AsyncOpenAI
url, prompt, n, callers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

async def main():
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    left = iter(range(n))
    async def caller():
        for _ in left:
            r = await client.chat.completions.create(model="sim-slots", messages=[{"role": "user", "content": prompt}])
            assert r.choices[0].message.content
    await asyncio.gather(*(caller() for _ in range(callers)))

def cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime

begin = cpu()
asyncio.run(main())
print(cpu() - begin)
`
