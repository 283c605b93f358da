package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"matrix/internal/sim"
	"matrix/llm"
	"matrix/registry"
)

// chatWith runs the command with an input.
func chatWith(in string, args ...string) result {
	var out, errs bytes.Buffer
	code := Program{In: strings.NewReader(in), Out: &out, Err: &errs}.Main(append([]string{"chat"}, args...))
	return result{code, out.String(), errs.String()}
}

func TestChatPiped(t *testing.T) {
	url, _ := simService(t, sim.Config{Replies: sim.Replies{Kind: "template", Template: "{{with .System}}{{.}}: {{end}}{{.Prompt}}"}})
	dir := files(t, map[string]string{"config.yaml": `
params: {word: so}
models:
  far: {base_url: "` + url + `", n: 3}
  near: {kind: scripted, reply: "{{ params.word }} {{ prompt }}\x1b[31m"}
`})
	for _, tt := range []struct {
		name, in string
		args     []string
		out, err string
	}{
		{"a server", "Hi\nthere\n", []string{url}, "Hi\nthere\n", "sim-slots · "},
		{"a system message", "Hi", []string{url, "--system", "S"}, "S: Hi\n", "tokens"},
		{"one of a config's", "Hi", []string{dir, "--model", "far"}, "Hi\n", "tokens"},
		{"with params of the config, bytes as they are", "Hi", []string{dir, "--model", "near"}, "so Hi\x1b[31m\n", "tokens"},
		{"a kind", "Hi", []string{"scripted:ok {{ prompt }} ${x}"}, "ok Hi ${x}\n", "tokens"},
		{"cut", "a b c d e f g h", []string{url, "--max-tokens", "2"}, "a b\n", "ended by length"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := chatWith(tt.in, tt.args...)
			if r.code != 0 || r.out != tt.out && tt.name != "cut" || !strings.Contains(r.err, tt.err) {
				t.Errorf("got %q and %v, want %q", r.out, r, tt.out)
			}
		})
	}
}

// A call of a tool that nobody gave is not a reply.
func TestChatToolCall(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"model":"m","choices":[{"finish_reason":"tool_calls","message":{"content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"look","arguments":"{}"}}]}}]}`)
	}))
	defer s.Close()
	if r := chatWith("Hi", s.URL); r.code != 1 || r.out != "" || !strings.Contains(r.err, "the model calls the tool look, and says nothing") {
		t.Errorf("got %v, want exit code 1 and that a tool is called", r)
	}
}

func TestChatErrors(t *testing.T) {
	url, s := simService(t, sim.Config{})
	for _, tt := range []struct {
		name, in string
		args     []string
		code     int
		want     string
	}{
		{"no model", "Hi", nil, 2, "needs a MODEL"},
		{"two models", "Hi", []string{"a", "b"}, 2, `takes a MODEL, and got "b" too`},
		{"nothing to say", " \n", []string{url}, 2, "the input is empty"},
		{"no such model at the server", "Hi", []string{url, "--model", "big"}, 1, "the server has sim-slots"},
		{"no such key", "Hi", []string{"sim:"}, 2, "models.model.preset"},
		{"no temperature", "Hi", []string{url, "--temperature", "NaN"}, 2, "--temperature is NaN: want 0 or more"},
		{"negative temperature", "Hi", []string{url, "--temperature", "-0.5"}, 2, "--temperature is -0.5: want 0 or more"},
		{"negative tokens", "Hi", []string{url, "--max-tokens", "-1"}, 2, "--max-tokens is -1: want 1 or more"},
		{"no tokens", "Hi", []string{url, "--max-tokens", "0"}, 2, "--max-tokens is 0: want 1 or more, or leave it out"},
		{"no address", "Hi", []string{"http://"}, 2, "names no host"},
		{"no port", "Hi", []string{"http://127.0.0.1:99999/v1"}, 2, "port 99999"},
		{"no scheme", "Hi", []string{"localhost:8000/v1"}, 2, "write http://localhost:8000/v1"},
		{"no scheme, an address", "Hi", []string{"10.0.0.1:8000"}, 2, "write http://10.0.0.1:8000"},
		{"no such kind", "Hi", []string{"nokind:big"}, 2, `no kind of model "nokind"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := chatWith(tt.in, tt.args...); r.code != tt.code || !strings.Contains(r.err, tt.want) || r.out != "" {
				t.Errorf("got %v, want exit code %d and %q", r, tt.code, tt.want)
			}
		})
	}
	if n := s.Stats().Sum().Done; n > 0 {
		t.Errorf("%d calls were answered", n)
	}
}

// parrot is a model that repeats in pieces what it is told. It fails where that
// is "fail", and begins again where it is "again".
type parrot struct {
	llm.Model
	heard        []*llm.Request
	paused, note *llm.Trouble
}

func (p *parrot) Do(_ context.Context, r *llm.Request) (*llm.Reply, error) {
	r2 := *r
	r2.Messages = slices.Clone(r.Messages)
	p.heard = append(p.heard, &r2)
	text := r.Messages[len(r.Messages)-1].Content
	tell := func(d llm.Delta) {
		if r.OnDelta != nil {
			r.OnDelta(d)
		}
	}
	switch text {
	case "fail":
		tell(llm.Delta{Text: "fa"})
		return nil, errors.New("the line is dead")
	case "stop":
		return nil, fmt.Errorf("model: %w", context.Canceled)
	case "again":
		tell(llm.Delta{Text: "aga"})
	case "think":
		tell(llm.Delta{Reasoning: "hm"})
	}
	tell(llm.Delta{Choice: 1, Text: "another"})
	for _, word := range strings.SplitAfter(text, " ") {
		tell(llm.Delta{Text: word})
	}
	return &llm.Reply{Model: "parrot", Choices: []llm.Choice{{Text: text, Finish: "stop"}}, Usage: llm.Usage{Tokens: llm.Tokens{CompletionTokens: 3}},
		First: time.Second, Took: 2 * time.Second}, nil
}

func (p *parrot) Stats() llm.Stats { return llm.Stats{Paused: p.paused, Note: p.note} }

// conversationOf is who says what in a request.
func conversationOf(r *llm.Request) string {
	var all []string
	for _, m := range r.Messages {
		all = append(all, m.Role[:1]+":"+m.Content)
	}
	return strings.Join(all, " ")
}

func TestChatLines(t *testing.T) {
	m := &parrot{}
	var screen bytes.Buffer
	c := &chatSession{model: m, out: &screen, err: &screen, live: true}
	c.system("S")
	in := "one\n\nfail\nstop\ntwo words\n/nonsense\n/reset\nthree\n/system T\nfour\n/system\n/etc/hosts is what?\n/exit\nnever\n"
	if err := c.lines(t.Context(), strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	want := []string{"s:S u:one", "s:S u:one a:one u:fail", "s:S u:one a:one u:stop", "s:S u:one a:one u:two words", "s:S u:three", "s:T u:four", "u:/etc/hosts is what?"}
	for i, r := range m.heard {
		if i >= len(want) || conversationOf(r) != want[i] {
			t.Errorf("request %d: got %s, want %q", i, conversationOf(r), want)
		}
	}
	if len(m.heard) != len(want) {
		t.Errorf("got %d requests, want %d", len(m.heard), len(want))
	}
	for _, text := range []string{"> one\nparrot · 0 + 3 tokens", "first after 1.00 s · 2 tokens/s\n", "> fa\nthe line is dead\n", "ended; the message is forgotten\n", "there is no /nonsense; /system TEXT"} {
		if !strings.Contains(screen.String(), text) {
			t.Errorf("the screen has no %q:\n%s", text, &screen)
		}
	}
	if strings.Contains(screen.String(), "another") {
		t.Errorf("a second choice is shown:\n%s", &screen)
	}
}

// pieces are what was written, each by itself.
type pieces struct{ all []string }

func (p *pieces) Write(b []byte) (int, error) {
	p.all = append(p.all, string(b))
	return len(b), nil
}

func TestChatStreams(t *testing.T) {
	for _, tt := range []struct {
		said string
		live bool
		want []string
	}{
		{"a b c", true, []string{"a ", "b ", "c", "\n"}},
		{"a b c", false, []string{"a b c\n"}},
		{"again", true, []string{"aga", "again", "\n\nagain\n"}},
		{"again", false, []string{"again\n"}},
		{"a\x1b[2J", true, []string{"a\u241b[2J", "\n"}},
		{"think", true, []string{"think", "\n"}},
	} {
		var out, errs pieces
		c := &chatSession{model: &parrot{}, out: &out, err: &errs, live: tt.live}
		if _, err := c.say(t.Context(), tt.said); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(out.all, tt.want) {
			t.Errorf("%q, live %v: got %q, want %q", tt.said, tt.live, out.all, tt.want)
		}
		if thought := strings.Join(errs.all, ""); tt.said == "think" && thought != "hm\n\n" {
			t.Errorf("got the thoughts %q", thought)
		}
	}
}

// A real server, streaming: what is shown is the reply, and it has begun before
// it is over.
func TestChatServer(t *testing.T) {
	url, _ := simService(t, sim.Config{Preset: "8b", Replies: sim.Replies{Kind: "text", Tokens: 40}})
	p := Program{Registry: registry.New()}
	tree, section, err := p.Registry.FindModel(url, "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := registry.New().OpenModel(tree, "model", section)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out pieces
	c := &chatSession{model: m, out: &out, err: io.Discard, live: true}
	note, err := c.say(t.Context(), "Hi")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(out.all, ""); len(out.all) < 2 || got != c.messages[1].Content+"\n" || !strings.Contains(note, "first after") {
		t.Errorf("got %q, note %q, and the message %q", out.all, note, c.messages[1].Content)
	}
}

// It says once why nothing comes.
func TestChatWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var errs pieces
		m := &parrot{}
		c := &chatSession{model: m, err: &errs}
		stop := c.waiting(t.Context(), nil)
		time.Sleep(5 * time.Second)
		if len(errs.all) > 0 {
			t.Errorf("got %q while the model works", errs.all)
		}
		stop()
		m.paused = &llm.Trouble{Msg: "no route"}
		stop = c.waiting(t.Context(), nil)
		time.Sleep(time.Minute)
		stop()
		if want := []string{"waiting: no route\n"}; !slices.Equal(errs.all, want) {
			t.Errorf("got %q, want %q", errs.all, want)
		}
		errs.all, m.paused, m.note = nil, nil, &llm.Trouble{Msg: "nothing but failures"}
		stop = c.waiting(t.Context(), nil)
		time.Sleep(time.Minute)
		stop()
		if want := []string{"waiting: nothing but failures\n"}; !slices.Equal(errs.all, want) {
			t.Errorf("got %q, want %q", errs.all, want)
		}
	})
}

// mute is a model that never answers.
type mute struct{ parrot }

func (m *mute) Do(ctx context.Context, _ *llm.Request) (*llm.Reply, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("model: %w", context.Cause(ctx))
}

// A message that is not typed is given up where the service is out, and waits
// where it is slow or a person waits with it.
func TestChatGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		paused *llm.Trouble
		once   bool
		within time.Duration
		want   string
	}{
		{"out", &llm.Trouble{Since: time.Now(), Msg: "http://h: connection refused (is the server up? check base_url)"}, true, 24 * time.Second, "no answer for 20 s: http://h: connection refused (is the server up? check base_url)"},
		{"slow", nil, true, time.Hour, "deadline exceeded"},
		{"a person", &llm.Trouble{Msg: "no route"}, false, time.Hour, "deadline exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &chatSession{model: &mute{parrot{paused: tt.paused}}, out: io.Discard, err: io.Discard, once: tt.once}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				_, err := c.say(ctx, "Hi")
				if err == nil || !strings.HasSuffix(err.Error(), tt.want) || time.Since(began) > tt.within {
					t.Errorf("got %v after %v, want %q within %v", err, time.Since(began), tt.want, tt.within)
				}
			})
		})
	}
}
