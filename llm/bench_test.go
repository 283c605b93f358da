package llm

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// canned answers each HTTP request on a connection with the same bytes, as
// cheaply as a server can, so that what is measured is the client.
func canned(b *testing.B, body string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					length := 0
					for {
						line, err := r.ReadSlice('\n')
						if err != nil {
							return
						}
						if len(line) <= 2 {
							break
						}
						if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
							length, _ = strconv.Atoi(string(bytes.TrimSpace(n)))
						}
					}
					if _, err := r.Discard(length); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1000
}

// BenchmarkChat measures CPU per call, 2 KiB in and 400 B out, over HTTP/1.1
// on loopback. The CPU of the server, a minimal one, is included.
func BenchmarkChat(b *testing.B) {
	body := fmt.Sprintf(`{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600}}`, strings.Repeat("word ", 80))
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			temp := 0.7
			m, err := NewOpenAI("m", OpenAI{BaseURL: canned(b, body) + "/v1", Model: "m", APIKey: "sk-12345678", Sampling: Sampling{Temperature: &temp, MaxTokens: 256}})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { m.Close() })
			r := &Request{Messages: []Message{{"system", strings.Repeat("word ", 100)}, {"user", strings.Repeat("line\n", 310)}}, Key: "q1/0/3"}
			b.ReportAllocs()
			start := cpu()
			var calls sync.WaitGroup
			work := make(chan struct{}, callers)
			for range callers {
				calls.Go(func() {
					for range work {
						if _, err := m.Chat(b.Context(), r); err != nil {
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
