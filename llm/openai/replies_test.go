package openai

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

// reported is a reply of a service that somebody met, and what should come of it.
type reported struct {
	Case    string
	Content string
	Deltas  []string
	Events  []string
	Status  int
	Body    json.RawMessage
	Headers map[string]string

	Text, Reasoning string
	Calls           [][2]json.RawMessage
	Fate            string
}

func reports(t *testing.T) (all []reported) {
	f, err := os.Open("testdata/replies.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var c reported
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// What was reported of services has the fate that it should have, by way of a
// Client.
func TestReported(t *testing.T) {
	t.Parallel()
	for _, c := range reports(t) {
		if c.Content == "" && c.Deltas == nil && c.Events == nil && c.Body == nil || c.Status != 0 {
			continue // in other tests
		}
		t.Run(c.Case, func(t *testing.T) {
			calls := new(log)
			m := client(t, Config{Model: "m"}, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				n := calls.add("")
				switch {
				case n != 2 && c.Events != nil: // the service does tell why a stream ended
					write(w, say(0, "HELLO"), finish(0, "stop"), "[DONE]")
				case n != 2:
					reply(w, good)
				case c.Deltas != nil:
					for i := range c.Deltas {
						c.Deltas[i] = say(0, c.Deltas[i])
					}
					write(w, append(c.Deltas, finish(0, "stop"), "[DONE]")...)
				case c.Events != nil:
					write(w, c.Events...)
				case c.Body != nil:
					reply(w, string(c.Body))
				default:
					body, _ := json.Marshal(c.Content)
					reply(w, fmt.Sprintf(`{"choices":[{"message":{"content":%s},"finish_reason":"stop"}]}`, body))
				}
			})
			r := ask("x")
			if c.Deltas != nil || c.Events != nil {
				r = streaming("x")
			}
			if strings.HasPrefix(c.Case, "n: 2") {
				r.Sampling.N = 2
			}
			if _, err := m.Do(within(t, 10*time.Second), r); err != nil {
				t.Fatal(err)
			}
			rep, err := m.Do(within(t, 10*time.Second), r)
			if err != nil {
				t.Fatal(err)
			}
			if again := strings.HasPrefix(c.Fate, "retry"); again != (rep.Retries == 1) {
				t.Errorf("%d retries, want it tried again: %v", rep.Retries, again)
			}
			got := rep.Choices[0]
			if c.Text != "" && (got.Text != c.Text || got.Reasoning != c.Reasoning) {
				t.Errorf("got %q after %q, want %q after %q", got.Text, got.Reasoning, c.Text, c.Reasoning)
			}
			if len(got.ToolCalls) != len(c.Calls) {
				t.Fatalf("got %+v, want %s", got.ToolCalls, c.Calls)
			}
			for i, call := range got.ToolCalls {
				if name, _ := json.Marshal(call.Name); string(name) != string(c.Calls[i][0]) || call.Arguments != string(c.Calls[i][1]) || call.ID == "" {
					t.Errorf("got %+v, want %s", call, c.Calls[i])
				}
			}
		})
	}
}

// The other words of an outage, in a stream too; and half a stream from a service
// that has never said why one ended, which nothing tells from a whole one.
func TestOutagesTold(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"network_error", "insufficient_system_resource", "timeout", "cancelled", "engine_overloaded", "OTHER", "error", "a_word_of_its_own"} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprint(word, "/stream ", stream), func(t *testing.T) {
				t.Parallel()
				n := new(log)
				m := client(t, Config{Model: "m"}, func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					if n.add("") > 2 {
						reply(w, good)
					} else if stream {
						write(w, say(0, "hel"), finish(0, word), "[DONE]")
					} else {
						reply(w, fmt.Sprintf(`{"choices":[{"message":{"content":"hel"},"finish_reason":%q}]}`, word))
					}
				})
				r := ask("x")
				r.Sampling.Stream = &stream
				if rep, err := m.Do(within(t, 20*time.Second), r); err != nil || rep.Choices[0].Text != "hello" || rep.Retries != 2 {
					t.Errorf("%s, stream %v: got %+v, %v, want hello after two failed tries", word, stream, rep, err)
				}
			})
		}
	}
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { write(w, say(0, "hello"), "[DONE]") })
	if rep, err := w.Send(t.Context(), streaming("x")); err != nil || rep.Choices[0].Text != "hello" {
		t.Errorf("got %+v, %v", rep, err)
	}
}

// What comes is read by what it is, not by what its content type says or what was
// asked for.
func TestBodiesOfAnotherKind(t *testing.T) {
	events := "data: " + say(0, "hel") + "\n\ndata: " + say(0, "lo") + "\n\ndata: " + finish(0, "stop") + "\n\ndata: [DONE]\n\n"
	lines := say(0, "hel") + "\n" + say(0, "lo") + "\n\n" + finish(0, "stop") + "\n"
	var pretty strings.Builder
	enc := json.NewEncoder(&pretty)
	enc.SetIndent("", "  ")
	enc.Encode(json.RawMessage(good))
	for _, media := range []string{"application/json", "text/event-stream", "text/plain; charset=utf-8", "application/x-ndjson", "application/octet-stream"} {
		for name, body := range map[string]string{
			"json": good, "json over lines": pretty.String(), "json behind comments": ": keep-alive\n\n: keep-alive\r\n\n" + good, "json behind blanks": "\n\n \n" + good,
			"events": events, "events behind comments": ": hm\n\n" + events, "events, named": "event: chunk\n" + events,
			"lines": lines, "lines with a mark": lines + "[DONE]\n", "one line": `{"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":"stop"}]}`,
		} {
			for _, r := range []*llm.Request{ask("x"), streaming("x")} {
				w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", media)
					io.WriteString(w, body)
				})
				rep, err := w.Send(within(t, 10*time.Second), r)
				if err != nil || rep.Choices[0].Text != "hello" || rep.Choices[0].Finish != "stop" {
					t.Errorf("%s as %s, stream %v: got %+v, %v, want hello", name, media, r.Sampling.Stream != nil, rep, err)
				}
			}
		}
	}
	for name, body := range map[string]string{
		"half of the events": events[:len(events)/2], "half of the lines": lines[:len(lines)/2], "half a reply": good[:len(good)/2], "two replies": good + "\n" + good,
	} {
		for _, r := range []*llm.Request{ask("x"), streaming("x")} {
			w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				io.WriteString(w, body)
			})
			_, err := w.Send(within(t, 10*time.Second), r)
			if f := failure(t, err); f.Kind != llm.Fault && f.Kind != llm.Transport || !f.Sent {
				t.Errorf("%s, stream %v: got %+v, want a try that may help", name, r.Sampling.Stream != nil, f)
			}
		}
	}
}

// Tool calls are told apart by number, by id, or by a name behind whole arguments.
func TestToolCallsInPieces(t *testing.T) {
	tool := func(fields string) string {
		return `{"choices":[{"index":0,"delta":{"tool_calls":[{` + fields + `}]}}]}`
	}
	for name, c := range map[string]struct {
		events []string
		want   string
	}{
		"no ids, one number": {[]string{tool(`"index":0,"function":{"name":"f","arguments":"{\"a\":"}`), tool(`"index":0,"function":{"arguments":"1}"}`), tool(`"index":0,"function":{"name":"f","arguments":"{\"a\":2}"}`)}, `f{"a":1} f{"a":2}`},
		"nothing at all":     {[]string{tool(`"function":{"name":"f","arguments":"{\"a\":1}"}`), tool(`"function":{"name":"f","arguments":"{\"a\":"}`), tool(`"function":{"arguments":"2}"}`)}, `f{"a":1} f{"a":2}`},
		"other names":        {[]string{tool(`"index":0,"function":{"name":"f","arguments":""}`), tool(`"index":0,"function":{"name":"g","arguments":""}`), tool(`"index":0,"function":{"arguments":"{}"}`)}, `f g{}`},
		"the name each time": {[]string{tool(`"index":0,"id":"a","function":{"name":"f","arguments":"{\"a\""}`), tool(`"index":0,"id":"a","function":{"name":"f","arguments":":1}"}`), tool(`"index":0,"function":{"name":"f","arguments":""}`)}, `f{"a":1}`},
		"ids of one number":  {[]string{tool(`"index":0,"id":"a","function":{"name":"f","arguments":"{\"a\":"}`), tool(`"index":0,"function":{"arguments":"1}"}`), tool(`"index":0,"id":"b","function":{"name":"f","arguments":"{\"a\":"}`), tool(`"index":0,"function":{"arguments":"2}"}`)}, `f{"a":1} f{"a":2}`},
		"numbers from one":   {[]string{tool(`"index":1,"id":"a","function":{"name":"f","arguments":"{}"}`), tool(`"index":2,"id":"b","function":{"name":"g","arguments":"{}"}`), tool(`"index":1,"function":{"arguments":" "}`)}, `f{}  g{}`},
		"only ids":           {[]string{tool(`"id":"a","function":{"name":"f","arguments":"{}"}`), tool(`"id":"b","function":{"name":"f","arguments":"{}"}`)}, `f{} f{}`},
	} {
		w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			write(w, append(c.events, finish(0, "tool_calls"), "[DONE]")...)
		})
		rep, err := w.Send(t.Context(), streaming("x"))
		if err != nil {
			t.Fatal(name, err)
		}
		var got []string
		for _, call := range rep.Choices[0].ToolCalls {
			got = append(got, call.Name+call.Arguments)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: got %s, want %s", name, s, c.want)
		}
	}
}

// Of more choices than were asked for no more are kept.
func TestMoreChoicesThanAsked(t *testing.T) {
	many := strings.Repeat(`{"message":{"content":"x"},"finish_reason":"stop"},`, 1000)
	w := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if body := sent(t, r); body["stream"] == true {
			write(w, say(0, "a"), say(5, "b"), say(1, "c"), finish(0, "stop"), finish(1, "stop"), "[DONE]")
			return
		}
		reply(w, `{"choices":[`+strings.TrimSuffix(many, ",")+`]}`)
	})
	for _, r := range []*llm.Request{ask("x"), streaming("x")} {
		r.Sampling.N = 2
		if rep, err := w.Send(t.Context(), r); err != nil || len(rep.Choices) != 2 {
			t.Errorf("got %+v, %v, want 2 choices", rep, err)
		}
	}
	r := ask("x")
	r.Sampling.Extra = map[string]any{"n": 3}
	if rep, err := w.Send(t.Context(), r); err != nil || len(rep.Choices) != 3 {
		t.Errorf("got %+v, %v, want 3 choices", rep, err)
	}
}

// A reply that the filter took away tells what it cost.
func TestRefusedReplyTellsItsCost(t *testing.T) {
	const used = `"usage":{"prompt_tokens":500,"completion_tokens":300}`
	for name, body := range map[string]string{
		"filter":  `{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}],` + used + `}`,
		"refusal": `{"choices":[{"message":{"content":null,"refusal":"I will not."},"finish_reason":"stop"}],` + used + `}`,
	} {
		m := client(t, Config{Model: "m"}, func(w http.ResponseWriter, r *http.Request) { reply(w, body) })
		_, err := m.Do(t.Context(), ask("x"))
		var e *llm.Error
		if !errors.As(err, &e) || e.Kind != llm.Refused || e.Usage == nil || e.Usage.PromptTokens != 500 || e.Usage.CompletionTokens != 300 {
			t.Errorf("%s: got %+v, want 500 and 300 tokens", name, err)
		}
	}
}

// A stream has the same bound as a reply that is not streamed.
func TestEndlessStream(t *testing.T) {
	t.Parallel()
	left := make(chan struct{}, 8)
	for name, event := range map[string]string{
		"text": say(0, strings.Repeat("x", 8000)), "thoughts": `{"choices":[{"delta":{"reasoning_content":"` + strings.Repeat("x", 8000) + `"}}]}`,
		"arguments": `{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"` + strings.Repeat("x", 8000) + `"}}]}}]}`,
		"logprobs":  `{"choices":[{"delta":{"content":"x"},"logprobs":{"content":[{"token":"` + strings.Repeat("x", 8000) + `"}]}}]}`,
		"refusal":   `{"choices":[{"delta":{"refusal":"` + strings.Repeat("x", 8000) + `"}}]}`,
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { left <- struct{}{} }()
			io.Copy(io.Discard, r.Body)
			for r.Context().Err() == nil {
				if _, err := fmt.Fprintf(w, "data: %s\n\n", event); err != nil {
					return
				}
			}
		}))
		t.Cleanup(s.Close)
		w := open(t, Options{BaseURL: s.URL})
		_, err := w.Send(within(t, 60*time.Second), streaming("x"))
		if f := failure(t, err); f.Kind != llm.Refused || !strings.Contains(f.Msg, "larger than 67108864 bytes") || !f.Sent {
			t.Errorf("%s: got %+v, want a reply that is too large", name, f)
		}
		<-left
	}
}
