package openai

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix/llm"
)

// events writes each text as the data of an event, and flushes.
func write(w http.ResponseWriter, texts ...string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	for _, s := range texts {
		fmt.Fprintf(w, "data: %s\n\n", s)
		http.NewResponseController(w).Flush()
	}
}

// say is a piece of a choice.
func say(choice int, text string) string {
	return fmt.Sprintf(`{"model":"m-1","system_fingerprint":"fp","choices":[{"index":%d,"delta":{"content":%q}}]}`, choice, text)
}

func finish(choice int, reason string) string {
	return fmt.Sprintf(`{"choices":[{"index":%d,"delta":{},"finish_reason":%q}]}`, choice, reason)
}

const counted = `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":1},"cost":0.25}}`

func streaming(text string) *llm.Request {
	r := ask(text)
	yes := true
	r.Sampling.Stream = &yes
	return r
}

func TestStream(t *testing.T) {
	ends := []string{finish(0, "stop"), counted, "[DONE]"}
	for _, c := range []struct {
		name   string
		events []string
		want   []llm.Choice
		usage  llm.Usage
	}{
		{"text", append([]string{`{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}`, say(0, "he"), say(0, "llo")}, ends...),
			[]llm.Choice{{Text: "hello", Finish: "stop"}}, llm.Usage{Tokens: llm.Tokens{PromptTokens: 5, CompletionTokens: 4, CachedTokens: 3, ReasoningTokens: 1}, USD: 0.25}},
		{"no usage", []string{say(0, "he"), say(0, "llo"), finish(0, "length"), "[DONE]"},
			[]llm.Choice{{Text: "hello", Finish: "length"}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 2}}},
		{"no mark at the end", []string{say(0, "a"), finish(0, "stop")}, []llm.Choice{{Text: "a", Finish: "stop"}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 1}}},
		{"choices that interleave", []string{say(1, "b"), say(0, "a"), say(1, "B"), finish(1, "stop"), say(0, "A"), finish(0, "length"), "[DONE]"},
			[]llm.Choice{{Text: "aA", Finish: "length"}, {Text: "bB", Finish: "stop"}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 4}}},
		{"reasoning", []string{`{"choices":[{"index":0,"delta":{"reasoning_content":"hm "}}]}`, `{"choices":[{"index":0,"delta":{"reasoning":"so"}}]}`, say(0, "42"), finish(0, "stop")},
			[]llm.Choice{{Text: "42", Reasoning: "hm so", Finish: "stop"}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 3}}},
		{"reasoning in the text", []string{say(0, "\n<th"), say(0, "ink>\nhm</thi"), say(0, "nk>"), say(0, "\n\n"), say(0, "4"), say(0, "2"), finish(0, "stop")},
			[]llm.Choice{{Text: "42", Reasoning: "hm", Finish: "stop"}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 6}}},
		{"completion", []string{`{"choices":[{"index":0,"text":"a"}]}`, `{"choices":[{"index":0,"text":"b","finish_reason":"stop"}]}`, "[DONE]"},
			[]llm.Choice{{Text: "ab", Finish: "stop"}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 2}}},
		{"logprobs", []string{`{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a"}]}}]}`, `{"choices":[{"index":0,"delta":{"content":"b"},"logprobs":{"content":[{"token":"b"}],"refusal":null}}]}`, finish(0, "stop")},
			[]llm.Choice{{Text: "ab", Finish: "stop", Logprobs: []byte(`{"content":[{"token":"a"},{"token":"b"}]}`)}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 2}}},
		{"tool calls", []string{
			`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"add","arguments":""}}]}}]}`,
			`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}}]}}]}`,
			`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"mul","arguments":"{}"}},{"index":0,"function":{"arguments":":1}"}}]}}]}`,
			finish(0, "tool_calls"), "[DONE]"},
			[]llm.Choice{{Finish: "tool_calls", ToolCalls: []llm.ToolCall{{ID: "a", Name: "add", Arguments: `{"x":1}`}, {ID: "b", Name: "mul", Arguments: "{}"}}}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 3}}},
		{"tool calls of one index", []string{
			`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"add","arguments":"{}"}}]}}]}`,
			`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"mul","arguments":"{}"}}]}}]}`,
			finish(0, "tool_calls")},
			[]llm.Choice{{Finish: "tool_calls", ToolCalls: []llm.ToolCall{{ID: "a", Name: "add", Arguments: "{}"}, {ID: "b", Name: "mul", Arguments: "{}"}}}}, llm.Usage{Estimated: true, Tokens: llm.Tokens{CompletionTokens: 2}}},
		{"empty", []string{finish(0, "stop"), "[DONE]"}, []llm.Choice{{Finish: "stop"}}, llm.Usage{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var body map[string]any
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { body = sent(t, r); write(w, c.events...) })
			r := streaming("x")
			r.Sampling.N = len(c.want)
			rep, err := w.Send(within(t, 5*time.Second), r)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, rep.Choices); d != "" {
				t.Errorf("choices (-want +got):\n%s", d)
			}
			if rep.Usage != c.usage {
				t.Errorf("usage: got %+v, want %+v", rep.Usage, c.usage)
			}
			if c.usage.CompletionTokens > 0 && rep.First <= 0 || len(c.want) == 1 && string(rep.Params) != "{}" {
				t.Errorf("got %+v", rep)
			}
			if body["stream"] != true || body["stream_options"].(map[string]any)["include_usage"] != true {
				t.Errorf("got %v", body)
			}
		})
	}
}

// A server that does not stream is fine too.
func TestNotStreamed(t *testing.T) {
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { reply(w, good) })
	if rep, err := w.Send(t.Context(), streaming("x")); err != nil || rep.Choices[0].Text != "hello" || rep.First != 0 {
		t.Errorf("got %+v, %v", rep, err)
	}
}

func TestStreamFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []string
		kind   llm.Kind
		want   string
	}{
		{"cut off", []string{say(0, "a"), counted}, llm.Transport, "cut off"},
		{"one of two cut off", []string{say(0, "a"), say(1, "b"), finish(0, "stop")}, llm.Transport, "cut off"},
		{"nothing", nil, llm.Transport, "cut off"},
		{"no choices", []string{"[DONE]"}, llm.Fault, "no choices"},
		{"garbage", []string{say(0, "a"), "garbage"}, llm.Fault, "garbage"},
		{"error", []string{say(0, "a"), `{"error":{"message":"lost","code":"context_length_exceeded"}}`}, llm.Context, "lost"},
		{"overloaded", []string{`{"error":{"message":"full","type":"overloaded_error"}}`}, llm.Capacity, "full"},
		{"error with a status", []string{say(0, "a"), `{"error":{"message":"gone","code":502}}`}, llm.Transport, "gone"},
		{"error of unknown kind", []string{`{"error":{"message":"oops"}}`}, llm.Fault, "oops"},
		{"error of a choice", []string{`{"choices":[{"index":0,"delta":{},"error":{"code":400,"message":"no"}}]}`}, llm.Refused, "no"},
		{"one of two without its end", []string{say(0, "a"), say(1, "b"), finish(0, "stop"), "[DONE]"}, llm.Transport, "before the reply did"},
		{"declined", []string{`{"choices":[{"index":0,"delta":{"refusal":"I will"}}]}`, `{"choices":[{"index":0,"delta":{"refusal":" not."}}]}`, finish(0, "stop")}, llm.Refused, "I will not."},
		{"filtered", []string{finish(0, "content_filter")}, llm.Refused, "filter"},
		{"an index beyond bounds", []string{say(1<<20, "a")}, llm.Fault, "index"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { write(w, c.events...) })
			r := streaming("x")
			r.Sampling.N = 2
			_, err := w.Send(within(t, 5*time.Second), r)
			f := failure(t, err)
			if f.Kind != c.kind || !strings.Contains(f.Msg, c.want) || !f.Sent || f.Params == nil {
				t.Errorf("got %+v, want %v", f, c.kind)
			}
			if c.name == "cut off" && (f.Usage == nil || f.Usage.PromptTokens != 5) {
				t.Errorf("usage: got %+v", f.Usage)
			}
		})
	}
}

// A stream that stops coming fails after stall_timeout; signs of life that are
// no pieces keep it.
func TestStall(t *testing.T) {
	t.Parallel()
	for _, alive := range []bool{false, true} {
		w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			write(w, say(0, "a"))
			for i := 0; r.Context().Err() == nil; i++ {
				if alive && i == 30 {
					write(w, say(0, "b"), finish(0, "stop"))
					return
				}
				if alive {
					fmt.Fprint(w, ": still here\n\n")
					http.NewResponseController(w).Flush()
				}
				select {
				case <-r.Context().Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		r := ask("x")
		r.Sampling.Stall = 300 * time.Millisecond
		rep, err := w.Send(within(t, 10*time.Second), r)
		if alive {
			if err != nil || rep.Choices[0].Text != "ab" {
				t.Errorf("alive: got %+v, %v", rep, err)
			}
			continue
		}
		if f := failure(t, err); f.Kind != llm.Timeout || !strings.Contains(f.Msg, "stalled") || !f.Sent {
			t.Errorf("got %+v", f)
		}
	}
}

// A stream that is read some pieces at a time comes whole, and its connection
// serves the next call as any other.
func TestStreamAtLeisure(t *testing.T) {
	t.Parallel()
	const pieces = 200
	var conns sync.Map
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		sent, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(sent), `"stream":true`) {
			reply(w, good)
			return
		}
		for range pieces {
			write(w, say(0, "x"))
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
		write(w, finish(0, "stop"), "[DONE]")
	})
	r := streaming("x")
	r.Sampling.Stall = 5 * time.Second
	rep, err := w.Send(within(t, 20*time.Second), r)
	if err != nil || rep.Choices[0].Text != strings.Repeat("x", pieces) {
		t.Fatalf("got %+v, %v", rep, err)
	}
	for range 3 {
		if _, err := w.Send(within(t, 5*time.Second), ask("y")); err != nil {
			t.Errorf("the call after it: %v", err)
		}
	}
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// The reply ends behind the match of until, or when OnDelta has enough, and the
// server is told so by the end of the connection.
func TestEarlyStop(t *testing.T) {
	for name, c := range map[string]struct {
		request *llm.Request
		want    string
	}{
		"until":        {&llm.Request{Sampling: llm.Sampling{Until: `Answer: \d+`}}, "so\nAnswer: 7"},
		"until a line": {&llm.Request{Sampling: llm.Sampling{Until: `(?m)^Answer`}}, "so\nAnswer"},
		"delta":        {&llm.Request{}, "so\nAns"},
	} {
		t.Run(name, func(t *testing.T) {
			left := make(chan bool, 1)
			var body map[string]any
			w := serve(t, Options{Server: "vllm"}, func(w http.ResponseWriter, r *http.Request) {
				body = sent(t, r)
				write(w, say(0, "so\n"), say(0, "Ans"), say(0, "wer: 7 is "))
				for r.Context().Err() == nil {
					write(w, say(0, "more"))
				}
				left <- true
			})
			var told strings.Builder
			r := c.request
			r.Messages = ask("x").Messages
			r.OnDelta = func(d llm.Delta) bool {
				told.WriteString(d.Text)
				return name != "delta" || told.String() != c.want
			}
			rep, err := w.Send(within(t, 5*time.Second), r)
			if err != nil {
				t.Fatal(err)
			}
			if ch := rep.Choices[0]; ch.Text != c.want || ch.Finish != "stop" || told.String() != c.want || rep.Usage.CompletionTokens == 0 {
				t.Errorf("got %+v, told %q, want %q", rep, told.String(), c.want)
			}
			if body["stream_options"].(map[string]any)["continuous_usage_stats"] != true {
				t.Errorf("got %v", body["stream_options"])
			}
			select {
			case <-left:
			case <-time.After(5 * time.Second):
				t.Error("the server still streams")
			}
		})
	}
}

// A whole stream leaves its connection for the next call.
func TestStreamReusesConnection(t *testing.T) {
	from := new(log)
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		from.add(r.RemoteAddr)
		write(w, say(0, "a"), finish(0, "stop"), "[DONE]")
	})
	for range 5 {
		if _, err := w.Send(t.Context(), streaming("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range from.all() {
		if a != from.all()[0] {
			t.Errorf("got connections %q, want one", from.all())
			break
		}
	}
}

func TestStreamContextEnds(t *testing.T) {
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		write(w, say(0, "a"))
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	r := ask("x")
	r.OnDelta = func(llm.Delta) bool { cancel(); return true }
	if _, err := w.Send(ctx, r); err != context.Canceled {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
