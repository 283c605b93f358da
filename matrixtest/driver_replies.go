package matrixtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix/llm"
)

var (
	weather = llm.Tool{
		Name: "get_weather", Description: "Weather of a place.",
		Parameters: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}`),
	}
	clock = llm.Tool{Name: "clock", Parameters: json.RawMessage(`{"type":"object","properties":{}}`)}

	personSchema = json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false}`)

	// pixel is a PNG of one pixel.
	pixel = []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82")
)

func toolsArrive(s *driverSuite) {
	w := s.start(always(says("so")))
	r := chat("what is the weather")
	r.Tools = []llm.Tool{weather, clock}
	s.send(w, r)
	c := s.arrived()
	if len(c.Tools) != 2 {
		s.Fatalf("%d tools arrived, want 2", len(c.Tools))
	}
	for i, want := range r.Tools {
		same(s, "name", c.Tools[i].Name, want.Name)
		same(s, "description", c.Tools[i].Description, want.Description)
		sameJSON(s, "parameters", c.Tools[i].Parameters, want.Parameters)
	}
	if c.ToolChoice != "" && c.ToolChoice != "auto" {
		s.Errorf("tool choice %q arrived, want none or auto", c.ToolChoice)
	}
}

func toolChoices(s *driverSuite) {
	w := s.start(always(says("so")))
	for _, choice := range []string{"auto", "none", "required", "clock"} {
		r := chat("what is the weather")
		r.Tools, r.ToolChoice = []llm.Tool{weather, clock}, choice
		s.forget()
		s.send(w, r)
		c := s.arrived()
		if choice == "none" && len(c.Tools) == 0 || choice == "auto" && c.ToolChoice == "" {
			continue // says the same
		}
		same(s, "tool choice", c.ToolChoice, choice)
	}
}

// twoCalls is a choice that asks for two functions at once.
var twoCalls = llm.Choice{Finish: "tool_calls", ToolCalls: []llm.ToolCall{
	{ID: "call_a", Name: "get_weather", Arguments: `{"city":"Graz","days":[1,2]}`},
	{ID: "call_b", Name: "clock", Arguments: `{}`},
}}

// sameCalls compares tool calls, whose arguments may be written otherwise.
func (s *driverSuite) sameCalls(got, want []llm.ToolCall) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("got %d tool calls, want %d: %s", len(got), len(want), show(got))
	}
	ids := map[string]bool{}
	for i := range want {
		same(s, "name", got[i].Name, want[i].Name)
		sameJSON(s, "arguments", []byte(got[i].Arguments), []byte(want[i].Arguments))
		if got[i].ID == "" || ids[got[i].ID] {
			s.Errorf("id %q of a tool call is empty or used twice", got[i].ID)
		}
		ids[got[i].ID] = true
		if !s.lacks(CallIDs) {
			same(s, "id", got[i].ID, want[i].ID)
		}
	}
}

func (s *driverSuite) calling() (llm.Choice, *llm.Request) {
	c := twoCalls
	if s.lacks(ParallelCall) {
		c.ToolCalls = c.ToolCalls[:1]
	}
	r := chat("what is the weather")
	r.Tools = []llm.Tool{weather, clock}
	return c, r
}

func toolCalls(s *driverSuite) {
	c, r := s.calling()
	w := s.start(always(Answer{Reply: llm.Reply{Choices: []llm.Choice{c}}}))
	rep := s.send(w, r)
	same(s, "text", rep.Choices[0].Text, "")
	s.sameCalls(rep.Choices[0].ToolCalls, c.ToolCalls)
	same(s, "end", ending(rep.Choices[0].Finish), "whole")

	s.forget()
	c.Text = "Let me look."
	w = s.start(always(Answer{Reply: llm.Reply{Choices: []llm.Choice{c}}}))
	rep = s.send(w, r)
	same(s, "text beside calls", rep.Choices[0].Text, c.Text)
	s.sameCalls(rep.Choices[0].ToolCalls, c.ToolCalls)
}

func toolResults(s *driverSuite) {
	c, r := s.calling()
	w := s.start(always(says("sunny")))
	r.Messages = append(r.Messages, llm.Message{Role: "assistant", Content: "Let me look.", ToolCalls: c.ToolCalls})
	for i, call := range c.ToolCalls {
		r.Messages = append(r.Messages, llm.Message{Role: "tool", Content: fmt.Sprintf("result %d", i), ToolCallID: call.ID, ToolName: call.Name, IsError: i == 0})
	}
	r.Messages = append(r.Messages, llm.Message{Role: "user", Content: "and now?"})
	s.send(w, r)
	got := s.arrived().Messages
	if len(got) != len(r.Messages) {
		s.Fatalf("messages: got %s, want %s", show(got), show(r.Messages))
	}
	for i, want := range r.Messages {
		same(s, "role", got[i].Role, want.Role)
		if want.Role == "assistant" && len(want.ToolCalls) > 0 {
			same(s, "text beside calls", got[i].Content, want.Content)
			if s.lacks(CallIDs) {
				for k := range got[i].ToolCalls {
					got[i].ToolCalls[k].ID = want.ToolCalls[k].ID
				}
			}
			s.sameCalls(got[i].ToolCalls, want.ToolCalls)
			continue
		}
		same(s, "content", got[i].Content, want.Content)
		if want.Role == "tool" {
			same(s, "is an error", got[i].IsError, want.IsError && !s.lacks(ToolErrors))
		}
		if want.Role == "tool" && !s.lacks(CallIDs) {
			same(s, "id of the call", got[i].ToolCallID, want.ToolCallID)
		}
	}
}

// loop is what follows a reply that calls tools: it, and their results.
func loop(r *llm.Request, c llm.Choice) *llm.Request {
	next := *r
	next.Messages = append(slices.Clone(r.Messages), llm.Message{Role: "assistant", Content: c.Text, ToolCalls: c.ToolCalls, Opaque: c.Opaque})
	for _, call := range c.ToolCalls {
		next.Messages = append(next.Messages, llm.Message{Role: "tool", Content: "so", ToolCallID: call.ID, ToolName: call.Name})
	}
	return &next
}

func signedThoughts(s *driverSuite)   { s.thoughts(false) }
func streamedThoughts(s *driverSuite) { s.thoughts(true) }

// thoughts has a reply that is signed sent back.
func (s *driverSuite) thoughts(stream bool) {
	c, r := s.calling()
	r.Sampling.Stream = &stream
	c.Text, c.Reasoning, c.Opaque = "Let me look.", "the weather, and the time", json.RawMessage(`"c2lnbmVkLWJ5LXRoZS1zZXJ2aWNl"`)
	w := s.start(always(Answer{Reply: llm.Reply{Choices: []llm.Choice{c}}}))
	got := s.send(w, r).Choices[0]
	if got.Opaque == nil {
		s.Fatal("the reply has nothing that goes back")
	}
	if bytes.Contains(got.Opaque, []byte(c.Text)) || bytes.Contains(got.Opaque, []byte("Graz")) {
		s.Errorf("what goes back repeats the reply: %s", got.Opaque)
	}
	s.forget()
	s.send(w, loop(r, got))
	ms := s.arrived().Messages
	if len(ms) != 2+len(c.ToolCalls) {
		s.Fatalf("messages: got %s", show(ms))
	}
	same(s, "signature", string(ms[1].Opaque), string(c.Opaque))
	same(s, "text", ms[1].Content, c.Text)
	if !s.lacks(CallIDs) {
		s.sameCalls(ms[1].ToolCalls, c.ToolCalls)
	}

	s.forget() // what was changed since is sent all the same
	got.Text, got.ToolCalls = "I look.", got.ToolCalls[:1]
	s.send(w, loop(r, got))
	ms = s.arrived().Messages
	same(s, "text that was changed", ms[1].Content, "I look.")
	same(s, "calls", len(ms[1].ToolCalls), 1)
}

// othersThoughts sends what another service wanted back.
func othersThoughts(s *driverSuite) {
	c, r := s.calling()
	w := s.start(always(says("sunny")))
	c.Text = "Let me look."
	c.Opaque = json.RawMessage(`{"wire":"another","parts":[{"own":{"type":"thinking","thinking":"x","signature":"another's"}},{"text":12},{"call":true,"own":"another's"}]}`)
	s.send(w, loop(r, c))
	ms := s.arrived().Messages
	same(s, "text", ms[1].Content, c.Text)
	same(s, "calls", len(ms[1].ToolCalls), len(c.ToolCalls))
	same(s, "signature", string(ms[1].Opaque), "")
}

func images(s *driverSuite) {
	w := s.start(always(says("a dot")))
	r := chat("what is this?")
	r.Messages[0].Images = []llm.Image{{Data: pixel, Media: "image/png"}}
	if !s.lacks(ImageURLs) {
		r.Messages[0].Images = append(r.Messages[0].Images, llm.Image{URL: "https://example.com/a.jpg", Media: "image/jpeg"})
	}
	rep := s.send(w, r)
	same(s, "images in the usage", rep.Usage.Images, len(r.Messages[0].Images))
	got := s.arrived().Messages
	if len(got) != 1 || len(got[0].Images) != len(r.Messages[0].Images) {
		s.Fatalf("%d messages arrived, want one with %d images: %s", len(got), len(r.Messages[0].Images), show(got))
	}
	same(s, "text", got[0].Content, r.Messages[0].Content)
	same(s, "media", got[0].Images[0].Media, "image/png")
	if !bytes.Equal(got[0].Images[0].Data, pixel) {
		s.Errorf("the image arrived as %q", got[0].Images[0].Data)
	}
	if !s.lacks(ImageURLs) {
		same(s, "url", got[0].Images[1].URL, "https://example.com/a.jpg")
	}
}

func schemaArrives(s *driverSuite) {
	const person = `{"name": "Ada", "age": 36}`
	w := s.start(always(says(person)))
	r := chat("who?")
	r.Format = &llm.Format{Schema: personSchema, Name: "person"}
	rep := s.send(w, r)
	sameJSON(s, "text", []byte(rep.Choices[0].Text), []byte(person))
	same(s, "end", ending(rep.Choices[0].Finish), "whole")
	if len(rep.Choices[0].ToolCalls) > 0 {
		s.Errorf("got tool calls that nobody asked for: %s", show(rep.Choices[0].ToolCalls))
	}
	c := s.arrived()
	if c.Format == nil || c.Format.Schema == nil {
		s.Fatalf("no schema arrived: %s", show(c))
	}
	sameJSON(s, "schema", c.Format.Schema, personSchema)
	if s.lacks(Streaming) {
		return
	}
	s.forget()
	r.Sampling.Stream = ptr(true)
	rep = s.send(w, r)
	sameJSON(s, "text in a stream", []byte(rep.Choices[0].Text), []byte(person))
	if len(rep.Choices[0].ToolCalls) > 0 {
		s.Errorf("got tool calls that nobody asked for: %s", show(rep.Choices[0].ToolCalls))
	}
}

func formatsArrive(s *driverSuite) {
	w := s.start(always(says("{}")))
	for _, f := range []Feature{JSON, Regex, Choices, Grammar} {
		if s.lacks(f) {
			continue
		}
		s.forget()
		r := asks(f)
		s.send(w, r)
		got := s.arrived().Format
		if got == nil {
			s.Errorf("%s: no format arrived", f)
			continue
		}
		same(s, string(f), *got, *r.Format)
	}
}

func embeddings(s *driverSuite) {
	vectors := [][]float32{{0.25, -1, 3}, {0.5, 0, 1e-3}}
	w := s.start(always(Answer{Reply: llm.Reply{Vectors: vectors, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 4}}}}))
	rep := s.send(w, &llm.Request{Input: []string{"first", "second"}})
	same(s, "vectors", rep.Vectors, vectors)
	same(s, "input", s.arrived().Input, []string{"first", "second"})

	w = s.start(always(Answer{Reply: llm.Reply{Vectors: vectors[:1]}}))
	f := s.refuse(w, &llm.Request{Input: []string{"first", "second"}})
	same(s, "kind of one vector for two inputs", f.Kind, llm.Fault)
}

func completion(s *driverSuite) {
	w := s.start(always(says(" a time")))
	rep := s.send(w, &llm.Request{Prompt: "Once upon"})
	same(s, "text", rep.Choices[0].Text, " a time")
	same(s, "prompt", s.arrived().Prompt, "Once upon")
}

func several(s *driverSuite) {
	w := s.start(func(c Call) Answer {
		a := says("")
		a.Reply.Choices = nil
		for i := range c.Sampling.N {
			a.Reply.Choices = append(a.Reply.Choices, llm.Choice{Text: fmt.Sprintf("reply %d of some", i), Finish: "stop"})
		}
		return a
	})
	r := chat("draw")
	r.Sampling.N = 3
	check := func() {
		s.Helper()
		s.forget()
		rep := s.send(w, r)
		same(s, "n", s.arrived().Sampling.N, 3)
		if len(rep.Choices) != 3 {
			s.Fatalf("got %d choices, want 3", len(rep.Choices))
		}
		for i, c := range rep.Choices {
			same(s, "text", c.Text, fmt.Sprintf("reply %d of some", i))
		}
	}
	check()
	if !s.lacks(Streaming) {
		r.Sampling.Stream = ptr(true)
		check()
	}
}

func reasoning(s *driverSuite) {
	w := s.start(always(Answer{Reply: llm.Reply{Choices: []llm.Choice{{Text: "42", Reasoning: "six times seven", Finish: "stop"}}}}))
	rep := s.send(w, chat("how much?"))
	same(s, "text", rep.Choices[0].Text, "42")
	same(s, "reasoning", rep.Choices[0].Reasoning, "six times seven")
}

// spent is what a call used, as far as the service tells.
func (s *driverSuite) spent() llm.Usage {
	u := llm.Usage{Tokens: llm.Tokens{PromptTokens: 100, CompletionTokens: 20, CachedTokens: 40, ReasoningTokens: 5}}
	if s.lacks(Cached) {
		u.CachedTokens = 0
	}
	if !s.lacks(CacheWrites) {
		u.CacheWriteTokens = 30
	}
	if s.lacks(ReasoningTokens) {
		u.ReasoningTokens = 0
	}
	return u
}

func usage(s *driverSuite) {
	want := s.spent()
	a := says("one two three")
	a.Reply.Usage = want
	w := s.start(always(a))
	same(s, "usage", s.send(w, chat("count")).Usage, want)
	if s.lacks(Streaming) || s.lacks(StreamUsage) {
		return
	}
	r := chat("count")
	r.Sampling.Stream = ptr(true)
	same(s, "usage in a stream", s.send(w, r).Usage, want)
}

// ending is what a finish reason says, to agents and clients.
func ending(finish string) string {
	return map[llm.End]string{llm.Whole: "whole", llm.Cut: "cut", llm.Filtered: "filtered"}[llm.EndOf(finish)]
}

// client is a model of one driver. A call that fails is made again.
func (s *driverSuite) client(w llm.Driver) *llm.Client {
	s.Helper()
	c, err := llm.New("m", llm.Service{}, llm.Endpoints{{URL: "http://127.0.0.1"}}, func(string) (llm.Driver, error) { return open{w}, nil })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	return c
}

// open is a driver that another closes.
type open struct{ llm.Driver }

func (open) Close() error { return nil }

func ends(s *driverSuite) {
	all := maps.Clone(s.fake.Ends)
	if all == nil {
		all = map[string]string{}
	}
	all["stop"], all["length"] = "whole", "cut"
	for _, word := range slices.Sorted(maps.Keys(all)) {
		want := all[word]
		a := says("some words of a reply")
		a.Reply.Choices[0].Finish = word
		w := s.start(always(a))
		for _, stream := range []bool{false, true} {
			if stream && s.lacks(Streaming) {
				continue
			}
			r := chat("go")
			r.Sampling.Stream = &stream
			switch want {
			case "refused":
				f := s.refuse(w, r)
				same(s, "kind of "+word, f.Kind, llm.Refused)
				if f.Usage == nil || f.Usage.PromptTokens != a.Reply.Usage.PromptTokens || f.Usage.CompletionTokens != a.Reply.Usage.CompletionTokens {
					s.Errorf("usage of %s (stream %v): got %+v, want %+v", word, stream, f.Usage, a.Reply.Usage)
				}
			case "broken":
				s.brokenOff(word, r)
			default:
				c := s.send(w, r).Choices[0]
				if got := ending(c.Finish); got != want {
					s.Errorf("%s (stream %v): finish %q means %q, want %q", word, stream, c.Finish, got, want)
				}
				same(s, "text of "+word, c.Text, "some words of a reply")
			}
		}
	}
}

// brokenOff checks that a reply which the service ended itself, by a word of its
// own, is not a reply: a client asks again.
func (s *driverSuite) brokenOff(word string, r *llm.Request) {
	s.Helper()
	n := 0
	w := s.start(func(Call) Answer {
		a := says("some words")
		if n++; n == 1 {
			a.Reply.Choices[0].Finish = word
		}
		return a
	})
	rep, err := s.client(w).Do(s.within(), r)
	if err != nil || rep.Retries != 1 || rep.Choices[0].Text != "some words" {
		s.Errorf("%s: got %+v, %v, want a reply to the second try", word, rep, err)
	}
}

// thoughtsAloud checks that what a model thinks in its text does not pass for its
// answer, where the mark of its beginning is not there either.
func thoughtsAloud(s *driverSuite) {
	w := s.start(always(says("So 4, I think.\n</think>\n\nThe answer is 4.")))
	for _, stream := range []bool{false, true} {
		if stream && s.lacks(Streaming) {
			continue
		}
		r := chat("how much?")
		r.Sampling.Stream = &stream
		rep, err := s.client(w).Do(s.within(), r)
		if err != nil {
			s.Fatal(err)
		}
		same(s, "text", rep.Choices[0].Text, "The answer is 4.")
		same(s, "reasoning", rep.Choices[0].Reasoning, "So 4, I think.")
	}
}

func probes(s *driverSuite) {
	var asked int
	w := s.fake.Start(s.T, func(c Call) Answer {
		if !c.Probe {
			s.Errorf("a probe came as a call: %s", show(c))
		}
		asked++
		return Answer{Served: []string{s.fake.Model, "another"}}
	})
	s.Cleanup(func() { w.Close() })
	got, err := w.Probe(s.within())
	if err != nil {
		s.Fatalf("probe: %v", err)
	}
	if s.lacks(Listing) {
		return
	}
	if asked == 0 {
		s.Error("nothing arrived")
	}
	var names []string
	for _, m := range got {
		names = append(names, m.Name)
	}
	same(s, "models", names, []string{s.fake.Model, "another"})
}

func manyAtOnce(s *driverSuite) {
	w := s.start(func(c Call) Answer {
		a := says("echo of " + c.Messages[len(c.Messages)-1].Content)
		return a
	})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			r := chat(fmt.Sprintf("call number %d", i))
			stream := i%2 == 1 && !s.lacks(Streaming)
			r.Sampling.Stream = &stream
			rep, err := w.Send(s.Context(), r)
			if err != nil {
				s.Errorf("call %d: %v", i, err)
				return
			}
			same(s, "text", rep.Choices[0].Text, "echo of "+r.Messages[0].Content)
		})
	}
	wg.Wait()
}

// largeReplies checks that what a reply brings counts as being read until its step
// is over, whole and in pieces: nothing else is sent meanwhile.
func largeReplies(s *driverSuite) {
	piece := strings.Repeat("a", 300<<10)
	w := s.start(always(says(piece + " " + piece + " " + piece)))
	c := s.client(w)
	c.Share(llm.NewReplyMemory(512 << 10))
	for name, r := range map[string]*llm.Request{"whole": chat("much"), "in pieces": streaming("much")} {
		if name == "in pieces" && s.lacks(Streaming) {
			continue
		}
		s.forget()
		ctx, free := llm.WithReplies(s.within())
		if _, err := c.Do(ctx, r); err != nil {
			s.Fatalf("%s: %v", name, err)
		}
		short, cancel := context.WithTimeout(s.Context(), 20*time.Millisecond)
		if _, err := c.Do(short, r); !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("%s: got %v, want that nothing is sent while the reply before is held", name, err)
		}
		cancel()
		s.arrived()
		free()
		if _, err := c.Do(s.within(), r); err != nil {
			s.Errorf("%s: %v", name, err)
		}
	}
}
