package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

func newChat(t testing.TB, c Chat, m llm.Model) matrix.Agent {
	t.Helper()
	a, err := NewChat("teacher", c, m, lang.Params{"style": "short"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestChatMessages(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Chat
		want []llm.Message
	}{
		{"view", Chat{System: "Be {{ params.style }}.", Sees: []string{"teacher", "student"}}, []llm.Message{
			msg("system", "Be short."), msg("user", "I say (A)."), msg("assistant", "I say (B)."), msg("user", "Now (B).")}},
		{"merged", Chat{Sees: []string{"teacher", "student", "judge"}}, []llm.Message{
			msg("user", "I say (A)."), msg("assistant", "I say (B)."), msg("user", "Now (B).\n\nGo on.")}},
		{"last", Chat{Sees: []string{"teacher", "student"}, Last: 2}, []llm.Message{
			msg("assistant", "I say (B)."), msg("user", "Now (B).")}},
		{"prompt alone", Chat{Prompt: "{{ item.question }}"}, []llm.Message{msg("user", "2+2?")}},
		{"prompt after view", Chat{Sees: []string{"student"}, Last: 1, Prompt: "And you?"}, []llm.Message{msg("user", "Now (B).\n\nAnd you?")}},
		{"empty system", Chat{System: "{% if false %}x{% endif %}", Prompt: "p"}, []llm.Message{msg("user", "p")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := says("fine")
			turn, err := newChat(t, tt.c, m).Act(t.Context(), task(t))
			if err != nil || turn.Text != "fine" || turn.Error != "" {
				t.Fatalf("got %+v, %v", turn, err)
			}
			if got := m.requests[0].Messages; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestChatFailsRow(t *testing.T) {
	for _, tt := range []struct {
		c    Chat
		want string
	}{
		{Chat{Prompt: "{{ item.qestion }}"}, `prompt: item has no field "qestion", did you mean "question"?`},
		{Chat{System: "{{ item.x }}", Prompt: "p"}, `system: item has no field "x"`},
		{Chat{Sees: []string{"nobody"}}, `there is nothing to reply to: no turn by nobody yet; give the role a prompt, or the flow an opening turn (open)`},
		{Chat{Prompt: " "}, `there is nothing to reply to: the prompt is empty`},
	} {
		_, err := newChat(t, tt.c, says("x")).Act(t.Context(), task(t))
		var fail *matrix.FailError
		if !errors.As(err, &fail) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("got %v, want a FailError: %s", err, tt.want)
		}
	}
}

// What can alter a reply alters the key of the call, and nothing else does.
func TestKey(t *testing.T) {
	temperature, top, streams := 0.5, 0.5, true
	base := func() (*modelCaller, *llm.Request) {
		return &modelCaller{name: "m", role: "judge"}, &llm.Request{
			Messages: []llm.Message{{Role: "user", Content: "p", Images: []llm.Image{{URL: "http://x/y.png"}}}}, Tools: []llm.Tool{{Name: "f"}},
			Sampling: llm.Sampling{Temperature: &temperature, Extra: map[string]any{"a": 1, "b": map[string]any{"c": 2}}},
		}
	}
	a, r := base()
	a.sign(task(t), r, 0)
	want := r.Key
	seen := map[string]string{want: "the first"}
	for name, change := range map[string]func(*modelCaller, *llm.Request){
		"model":        func(a *modelCaller, _ *llm.Request) { a.name = "n" },
		"temperature":  func(_ *modelCaller, r *llm.Request) { r.Sampling.Temperature = nil },
		"top_p":        func(_ *modelCaller, r *llm.Request) { r.Sampling.TopP = &top },
		"max_tokens":   func(_ *modelCaller, r *llm.Request) { r.Sampling.MaxTokens = 9 },
		"extra":        func(_ *modelCaller, r *llm.Request) { r.Sampling.Extra["b"] = map[string]any{"c": 3} },
		"tool":         func(_ *modelCaller, r *llm.Request) { r.Tools[0].Name = "g" },
		"description":  func(_ *modelCaller, r *llm.Request) { r.Tools[0].Description = "d" },
		"parameters":   func(_ *modelCaller, r *llm.Request) { r.Tools[0].Parameters = json.RawMessage(`{}`) },
		"no tools":     func(_ *modelCaller, r *llm.Request) { r.Tools = nil },
		"tool_choice":  func(_ *modelCaller, r *llm.Request) { r.ToolChoice = "required" },
		"regex":        func(_ *modelCaller, r *llm.Request) { r.Format = &llm.Format{Regex: "a"} },
		"grammar":      func(_ *modelCaller, r *llm.Request) { r.Format = &llm.Format{Grammar: "a"} },
		"schema":       func(_ *modelCaller, r *llm.Request) { r.Format = &llm.Format{Schema: json.RawMessage(`{}`)} },
		"the message":  func(_ *modelCaller, r *llm.Request) { r.Messages[0].Content = "q" },
		"call id":      func(_ *modelCaller, r *llm.Request) { r.Messages[0].ToolCallID = "1" },
		"detail":       func(_ *modelCaller, r *llm.Request) { r.Messages[0].Images[0].Detail = "low" },
		"another role": func(a *modelCaller, _ *llm.Request) { a.role = "teacher" },
	} {
		a, r := base()
		change(a, r)
		a.sign(task(t), r, 0)
		key := r.Key
		if was, ok := seen[key]; ok {
			t.Errorf("%s: the key is that of %s", name, was)
		}
		seen[key] = name
	}
	for range 20 {
		a, r := base()
		r.Sampling.Stream, r.Sampling.Stall = &streams, time.Second
		if a.sign(task(t), r, 0); r.Key != want {
			t.Fatalf("the same call: got %s, want %s", r.Key, want)
		}
	}
}

func TestChatCall(t *testing.T) {
	m := &fake{replies: []llm.Reply{
		{Choices: []llm.Choice{choice("no", "stop")}, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 10, CompletionTokens: 2}}, Retries: 1, Wait: time.Millisecond, Retry: 2 * time.Millisecond},
		{Choices: []llm.Choice{choice("B", "stop")}, Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 20, CompletionTokens: 3}}, Model: "m-1", Endpoint: "http://x/v1",
			Params: json.RawMessage(`{"seed":1}`), Retries: 2, Wait: 3 * time.Millisecond, Retry: 4 * time.Millisecond,
			Revision: "fp", First: 5 * time.Millisecond, Took: 6 * time.Millisecond},
	}}
	m.replies[0].Took, m.replies[0].First = time.Millisecond, time.Millisecond
	for i := range m.replies {
		u := &m.replies[i].Usage
		u.CachedTokens, u.CacheWriteTokens, u.ReasoningTokens, u.USD = 4, 3, 1, 0.25
	}
	temperature := 0.5
	c := Chat{Model: "big", Prompt: "p", Reask: 1, Parse: Parse{Choice: []string{"A", "B"}}, Sampling: llm.Sampling{Temperature: &temperature}}
	turn, err := newChat(t, c, m).Act(t.Context(), task(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(turn.Calls); n != 2 || turn.Calls[0].Error != "the reply names none of A, B" || turn.Calls[0].Finish != "stop" || turn.Calls[0].PromptTokens != 10 ||
		turn.Calls[1].Error != "" || turn.Calls[1].PromptTokens != 20 || *turn.Calls[0].Seed == *turn.Calls[1].Seed {
		t.Errorf("got the calls %+v, want each as it was", turn.Calls)
	}
	call := *turn.Call()
	if len(call.Prompt) != 12 {
		t.Errorf("prompt: got %q, want 12 digits", call.Prompt)
	}
	if len(call.Request) != 64 || call.Seed == nil {
		t.Errorf("got the request %q and the seed %v, want 64 digits, and the one that was sent", call.Request, call.Seed)
	}
	call.Prompt, call.Request, call.Seed = "", "", nil
	want := matrix.Call{Kind: matrix.KindModel, Name: "big", Model: "m-1", Endpoint: "http://x/v1", Params: matrix.RawValue([]byte(`{"seed":1}`)), Finish: "stop",
		Retries: 3, Tokens: matrix.Tokens{PromptTokens: 30, CompletionTokens: 5, CachedTokens: 8, CacheWriteTokens: 6, ReasoningTokens: 2}, WaitMS: 4, RetryMS: 6,
		Revision: "fp", USD: 0.5, FirstMS: 5, TookMS: 7}
	if !reflect.DeepEqual(call, want) {
		t.Errorf("got %+v, want %+v", call, want)
	}
	if turn.Data.String() != `{"choice":"B"}` {
		t.Errorf("data: got %s", turn.Data)
	}
	first, second := m.requests[0], m.requests[1]
	if got := (llm.Ask{ID: "q7", Role: "teacher", Trial: 1, Nth: 1, Reask: 1, Item: second.Ask.Item}); !reflect.DeepEqual(second.Ask, got) {
		t.Errorf("got %+v, want %+v", second.Ask, got)
	}
	if *first.Sampling.Temperature != 0.5 || *first.Sampling.Seed == *second.Sampling.Seed || *first.Sampling.Seed < 0 {
		t.Errorf("sampling: got %+v and %+v", first.Sampling, second.Sampling)
	}
	if first.Session != "q7#1" || second.Session != first.Session {
		t.Errorf("sessions: got %q and %q, want the task's id", first.Session, second.Session)
	}
	if first.Key == second.Key || len(first.Key) != 32 {
		t.Errorf("keys: got %q and %q", first.Key, second.Key)
	}
	wantAgain := []llm.Message{msg("user", "p"), msg("assistant", "no"),
		msg("user", "That reply cannot be used: the reply names none of A, B. Reply again, in the form that was asked for.")}
	if !reflect.DeepEqual(second.Messages, wantAgain) {
		t.Errorf("got %+v, want %+v", second.Messages, wantAgain)
	}
}

func TestChatSeeds(t *testing.T) {
	fixed := int64(7)
	seed := func(c Chat, tk *matrix.Task) *int64 {
		c.Prompt = "p"
		m := says("x")
		if _, err := newChat(t, c, m).Act(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		return m.requests[0].Sampling.Seed
	}
	other := task(t)
	other.Seed = 43
	a, b, c := seed(Chat{}, task(t)), seed(Chat{}, task(t)), seed(Chat{}, other)
	if *a != *b || *a == *c {
		t.Errorf("got %d, %d and %d, want the same twice and another", *a, *b, *c)
	}
	if got := seed(Chat{Sampling: llm.Sampling{Seed: &fixed}}, task(t)); *got != 7 {
		t.Errorf("got %d, want the seed of the config", *got)
	}
	if got := seed(Chat{Unseeded: true}, task(t)); got != nil {
		t.Errorf("got %d, want none", *got)
	}
}

func TestChatUnusable(t *testing.T) {
	reply := func(text, finish string) *fake {
		return &fake{replies: []llm.Reply{{Choices: []llm.Choice{choice(text, finish)}}, {Choices: []llm.Choice{choice(text, finish)}}}}
	}
	for _, tt := range []struct {
		name   string
		m      *fake
		c      Chat
		err    string
		calls  int
		data   string
		finish string
	}{
		{"empty", reply(" \n", "stop"), Chat{Reask: 1}, "the reply is empty", 2, "", "stop"},
		{"cut", reply("The answ", "length"), Chat{Reask: 1}, "the reply was cut off at max_tokens; raise it, or take such replies as they are: roles.teacher.chat.on_length=accept", 1, "", "length"},
		{"cut, more", reply("The answ", "length"), Chat{Reask: 1, OnLength: "more", Sampling: llm.Sampling{MaxTokens: 5}}, "the reply was cut off at max_tokens; raise it, or reask", 2, "", "length"},
		{"cut, more of what nobody knows", reply("The answ", "length"), Chat{Reask: 1, OnLength: "more"}, "the reply was cut off at max_tokens; raise it, or reask", 1, "", "length"},
		{"cut, accepted", reply("The answ", "length"), Chat{Reask: 1, OnLength: "accept"}, "", 1, "", "length"},
		{"empty and cut at once", reply("", "length"), Chat{}, "the reply is empty: max_tokens were used up before it began; raise it", 1, "", "length"},
		{"empty and cut", reply("", "length"), Chat{OnLength: "accept"}, "the reply is empty: max_tokens were used up before it began", 1, "", "length"},
		{"filtered", reply("The ans", "content_filter"), Chat{Reask: 1, OnLength: "accept"}, `the service's content filter stopped the reply (finish_reason "content_filter")`, 2, "", "content_filter"},
		{"filtered, optional", reply("B", "SAFETY"), Chat{Parse: Parse{JSON: true, Optional: true}}, `the service's content filter stopped the reply (finish_reason "SAFETY")`, 1, "", "SAFETY"},
		{"unknown finish", reply("The ans", "wobble"), Chat{}, `the reply ended with finish_reason "wobble", which does not say that it is whole`, 1, "", "wobble"},
		{"another stop", reply("B", "end_turn"), Chat{}, "", 1, "", "end_turn"},
		{"another cut", reply("The ans", "MAX_TOKENS"), Chat{}, "the reply was cut off at max_tokens; raise it, or take such replies as they are: roles.teacher.chat.on_length=accept", 1, "", "MAX_TOKENS"},
		{"no re-ask", reply("x", "stop"), Chat{Parse: Parse{JSON: true}}, "the reply holds no valid JSON", 1, "", "stop"},
		{"optional", reply("x", "stop"), Chat{Parse: Parse{JSON: true, Optional: true}}, "", 1, "", "stop"},
		{"no match", reply("x", "stop"), Chat{Parse: Parse{Regex: "y"}}, "the reply does not match the regular expression y", 1, "", "stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Prompt = "p"
			turn, err := newChat(t, tt.c, tt.m).Act(t.Context(), task(t))
			if err != nil || turn.Error != tt.err || turn.Data.String() != tt.data || turn.Call().Finish != tt.finish {
				t.Errorf("got %+v, %v", turn, err)
			}
			if got := len(tt.m.requests); got != tt.calls || len(turn.Calls) != tt.calls {
				t.Errorf("got %d calls, want %d", got, tt.calls)
			}
		})
	}
	m := reply("", "stop")
	if _, err := newChat(t, Chat{Prompt: "p", Reask: 1, ReaskWith: "Say {{ item.answer }}: {{ error }}"}, m).Act(t.Context(), task(t)); err != nil {
		t.Fatal(err)
	}
	if got := m.requests[1].Messages; !reflect.DeepEqual(got, []llm.Message{msg("user", "p\n\nSay B: the reply is empty")}) {
		t.Errorf("got %+v", got)
	}
}

// TestChatMore checks that a reply that was cut is asked for again with more
// room, and with nothing else changed.
func TestChatMore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		asked int
		c     llm.Sampling
		usage int
		want  []string // what each request says of room
	}{
		{"as configured", 0, llm.Sampling{MaxTokens: 5}, 5, []string{"5 map[]", "10 map[]", "20 map[]"}},
		{"as the model has it", 7, llm.Sampling{}, 7, []string{"0 map[]", "14 map[]", "14 map[]"}},
		{"as it had", 0, llm.Sampling{}, 8, []string{"0 map[]", "16 map[]", "32 map[]"}},
		{"another name", 9, llm.Sampling{Extra: map[string]any{"max_completion_tokens": 9}}, 9,
			[]string{"0 map[max_completion_tokens:9]", "18 map[max_completion_tokens:18]", "18 map[max_completion_tokens:18]"}},
		{"in extra_body", 3, llm.Sampling{Extra: map[string]any{"max_tokens": 3}}, 3,
			[]string{"0 map[max_tokens:3]", "6 map[max_tokens:6]", "6 map[max_tokens:6]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cut := llm.Reply{Choices: []llm.Choice{choice("The", "length")}, Asked: llm.Asked{MaxTokens: tt.asked}, Usage: llm.Usage{Tokens: llm.Tokens{CompletionTokens: tt.usage}}}
			m := &fake{replies: []llm.Reply{cut, cut, {Choices: []llm.Choice{choice("The end.", "stop")}}}}
			if tt.name == "as it had" {
				m.replies[1].Usage.CompletionTokens *= 2
			}
			turn, err := newChat(t, Chat{Prompt: "p", OnLength: "more", Reask: 2, Sampling: tt.c}, m).Act(t.Context(), task(t))
			if err != nil || turn.Text != "The end." || len(turn.Calls) != 3 {
				t.Fatalf("got %+v, %v", turn, err)
			}
			var got []string
			for _, r := range m.requests {
				got = append(got, fmt.Sprint(r.Sampling.MaxTokens, " ", r.Sampling.Extra))
				if !reflect.DeepEqual(r.Messages, []llm.Message{msg("user", "p")}) {
					t.Errorf("got %+v", r.Messages)
				}
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestChatSamples(t *testing.T) {
	m := &fake{replies: []llm.Reply{{Choices: []llm.Choice{choice("hm", "stop"), choice("A", "stop"), choice("", "length"), choice("B", "stop")}}}}
	turn, err := newChat(t, Chat{Prompt: "p", Parse: Parse{Choice: []string{"A", "B"}}, Reask: 1, Sampling: llm.Sampling{N: 4}}, m).Act(t.Context(), task(t))
	if err != nil || turn.Error != "" || turn.Text != "A" || turn.Data.String() != `{"choice":"A"}` {
		t.Fatalf("got %+v, %v", turn, err)
	}
	var got []string
	for _, s := range turn.Samples {
		got = append(got, s.Text+s.Data.String())
	}
	if want := []string{`A{"choice":"A"}`, `B{"choice":"B"}`, "hm", ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestChatMissingSamples(t *testing.T) {
	reply := func(n int, texts ...string) llm.Reply {
		r := llm.Reply{}
		for _, s := range texts {
			r.Choices = append(r.Choices, choice(s, "stop"))
		}
		if n > 0 {
			r.Asked.N = n
		}
		return r
	}
	seed := int64(7)
	for _, tt := range []struct {
		name     string
		replies  []llm.Reply
		c        Chat
		samples  string
		err      string
		asked    []int // n of each request
		messages int   // of the last request
	}{
		{"filled up", []llm.Reply{reply(0, "a"), reply(0, "b", "c")}, Chat{Reask: 1, Sampling: llm.Sampling{N: 3}}, "a b c", "", []int{3, 2}, 1},
		{"fixed seed", []llm.Reply{reply(0, "a"), reply(0, "b")}, Chat{Reask: 1, Sampling: llm.Sampling{N: 2, Seed: &seed}}, "a b", "", []int{2, 1}, 1},
		{"one at a time", []llm.Reply{reply(0, "a"), reply(0, "b"), reply(0, "c")}, Chat{Sampling: llm.Sampling{N: 3}}, "a b c", "", []int{3, 2, 1}, 1},
		{"n of the model", []llm.Reply{reply(2, "a"), reply(0, "b")}, Chat{Reask: 1}, "a b", "", []int{0, 1}, 1},
		{"n in extra_body", []llm.Reply{reply(2, "a"), reply(0, "b")}, Chat{Reask: 1, Sampling: llm.Sampling{Extra: map[string]any{"n": 2}}}, "a b", "", []int{0, 1}, 1},
		{"too many", []llm.Reply{reply(0, "a"), reply(0, "b", "c", "d")}, Chat{Reask: 1, Sampling: llm.Sampling{N: 2}}, "a b", "", []int{2, 1}, 1},
		{"none can be used", []llm.Reply{reply(0, "", ""), reply(0, "b", "c")}, Chat{Reask: 1, Sampling: llm.Sampling{N: 2}}, "b c", "", []int{2, 2}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &fake{replies: tt.replies}
			tt.c.Prompt = "p"
			turn, err := newChat(t, tt.c, m).Act(t.Context(), task(t))
			if err != nil || !strings.HasPrefix(turn.Error, tt.err) || tt.err == "" && turn.Error != "" {
				t.Fatalf("got %+v, %v, want error %q", turn, err, tt.err)
			}
			texts := []string{turn.Text}
			for i, s := range turn.Samples {
				texts = append(texts[:i], s.Text)
			}
			if got := strings.Join(texts, " "); got != tt.samples {
				t.Errorf("samples: got %s, want %s", got, tt.samples)
			}
			seeds := map[int64]bool{}
			for i, r := range m.requests {
				if r.Sampling.N != tt.asked[i] {
					t.Errorf("request %d: got n = %d, want %d", i, r.Sampling.N, tt.asked[i])
				}
				seeds[*r.Sampling.Seed] = true
			}
			if len(seeds) != len(tt.asked) || len(m.requests) != len(tt.asked) {
				t.Errorf("got %d requests with %d seeds, want %d", len(m.requests), len(seeds), len(tt.asked))
			}
			if got := len(m.requests[len(m.requests)-1].Messages); got != tt.messages {
				t.Errorf("got %d messages, want %d", got, tt.messages)
			}
		})
	}
}

// TestChatFailedCall checks that a task that a call fails keeps what was sent.
func TestChatFailedCall(t *testing.T) {
	refused := &llm.Error{Kind: llm.Refused, Model: "m", Endpoint: "http://x/v1", Status: 400, Msg: "no",
		Params: json.RawMessage(`{"seed":1}`), Retries: 2, Wait: time.Millisecond, Retry: 3 * time.Millisecond}
	m := &fake{err: refused, replies: []llm.Reply{{Choices: []llm.Choice{choice("", "stop")}, Model: "m-1", Usage: llm.Usage{Tokens: llm.Tokens{PromptTokens: 10, CompletionTokens: 2}}, Retries: 1}}}
	turn, err := newChat(t, Chat{Model: "big", Prompt: "p", Reask: 1}, m).Act(t.Context(), task(t))
	var fail *matrix.FailError
	if !errors.As(err, &fail) || len(turn.Calls) != 2 {
		t.Fatalf("got %+v, %v, want a turn with its call and a FailError", turn, err)
	}
	call := *turn.Call()
	if len(call.Request) != 64 || call.Seed == nil {
		t.Errorf("got the request %q and the seed %v, want 64 digits, and the one that was sent", call.Request, call.Seed)
	}
	call.Prompt, call.Request, call.Seed = "", "", nil
	want := matrix.Call{Kind: matrix.KindModel, Name: "big", Model: "m-1", Endpoint: "http://x/v1", Params: matrix.RawValue([]byte(`{"seed":1}`)),
		Error: `model "m" at http://x/v1: 400: no`, Retries: 3, Tokens: matrix.Tokens{PromptTokens: 10, CompletionTokens: 2}, WaitMS: 1, RetryMS: 3}
	if !reflect.DeepEqual(call, want) {
		t.Errorf("got %+v, want %+v", call, want)
	}
}

func TestChatFates(t *testing.T) {
	for _, tt := range []struct {
		kind llm.Kind
		want any
	}{
		{llm.Refused, new(*matrix.FailError)}, {llm.Context, new(*matrix.FailError)}, {llm.Fatal, new(*matrix.StopError)}, {llm.Transient, nil},
	} {
		m := &fake{err: &llm.Error{Kind: tt.kind, Model: "m", Status: 400, Msg: "no"}}
		_, err := newChat(t, Chat{Prompt: "p"}, m).Act(t.Context(), task(t))
		var fail *matrix.FailError
		var stop *matrix.StopError
		if tt.want != nil && !errors.As(err, tt.want) || tt.want == nil && (errors.As(err, &fail) || errors.As(err, &stop)) {
			t.Errorf("%v: got %T %v", tt.kind, err, err)
		}
		if !strings.Contains(err.Error(), `model "m": 400: no`) {
			t.Errorf("%v: got %v, want the model, the status and the message", tt.kind, err)
		}
	}
	for _, kind := range []llm.Kind{llm.Refused, llm.Context} {
		m := &fake{err: &llm.Error{Kind: kind, Model: "m", Status: 400, Msg: "no", Params: json.RawMessage(`{"n":1}`)}}
		turn, err := newChat(t, Chat{Prompt: "p", OnRefused: "turn"}, m).Act(t.Context(), task(t))
		if err != nil || turn.Error != `model "m": 400: no` || len(turn.Calls) != 1 || turn.Calls[0].Error != turn.Error || turn.Calls[0].Params.String() != `{"n":1}` {
			t.Errorf("%v: got %+v, %v, want a turn with an error", kind, turn, err)
		}
	}
	m := &fake{err: context.Canceled}
	if _, err := newChat(t, Chat{Prompt: "p"}, m).Act(t.Context(), task(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestChatConfigErrors(t *testing.T) {
	for _, tt := range []struct {
		c    Chat
		want string
	}{
		{Chat{}, ""},
		{Chat{Prompt: "{{ foo }}", System: "{% if %}"}, "system prompt"},
		{Chat{Prompt: "p", ReaskWith: "{{ errro }}"}, "reask_prompt"},
		{Chat{Prompt: "p", Reask: -1, Last: -1}, "reask last"},
		{Chat{Prompt: "p", Last: 1}, "last"},
		{Chat{Prompt: "p", Parse: Parse{Count: 1, JSON: true}}, "parse.count"},
		{Chat{Prompt: "p", Parse: Parse{Regex: "a", Count: 2, Enforce: true}}, "parse.count"},
		{Chat{Prompt: "p", Parse: Parse{Regex: "(", Choice: []string{"a", "A"}}}, "parse.regex parse.choice parse"},
		{Chat{Prompt: "p", Parse: Parse{Schema: map[string]any{"type": 3}}}, "parse.schema"},
		{Chat{Prompt: "p", Parse: Parse{Schema: "{"}}, "parse.schema"},
		{Chat{Prompt: "p", Parse: Parse{Schema: map[string]any{"$ref": "file:///etc/passwd"}}}, "parse.schema"},
		{Chat{Prompt: "p", Parse: Parse{Field: "x"}}, "parse.field"},
		{Chat{Prompt: "p", Sampling: llm.Sampling{MaxTokens: -1}}, "max_tokens"},
		{Chat{Prompt: "p", OnLength: "cut", OnRefused: "x"}, "on_length on_refused"},
		{Chat{Prompt: "p", OnLength: "more"}, "on_length"},
		{Chat{Prompt: "p", Parse: Parse{Enforce: true}}, "parse.enforce"},
		{Chat{Prompt: "p", Parse: Parse{Enforce: true, Schema: true}}, "parse.enforce"},
		{Chat{Prompt: "p", Parse: Parse{Grammar: `root ::= "x"`, JSON: true}}, "parse"},
		{Chat{Prompt: "p", Parse: Parse{Enforce: true, JSON: true}, Sampling: llm.Sampling{ResponseFormat: map[string]any{}}}, "response_format"},
		{Chat{Prompt: "p", ToolChoice: "auto"}, "tool_choice"},
		{Chat{Prompt: "p", Tools: []any{map[string]any{"name": "f"}}, ToolChoice: "g"}, "tool_choice"},
		{Chat{Prompt: "p", Tools: "itm.tools"}, "tools"},
		{Chat{Prompt: "p", Tools: map[string]any{"name": "f"}}, "tools"},
		{Chat{Prompt: "p", Images: []string{"itm", "{{ x }}", " "}}, "images.0 images.1 images.2"},
		{Chat{Prompt: "p", Images: []string{"img/red.png", "https://x.example/a?b=c"}}, "images.0 images.1"},
		{Chat{Prompt: "p", ImageSide: 5, ImageDetail: "high"}, "image_detail image_max_side"},
		{Chat{Prompt: "p", Images: []string{"item.a"}, ImageSide: -5, ImageDetail: "x"}, "image_detail image_max_side"},
	} {
		_, err := NewChat("r", tt.c, says(), nil)
		if err == nil || fields(err) != tt.want {
			t.Errorf("%+v: got %v at %q, want an error at %q", tt.c, err, fields(err), tt.want)
		}
	}
	if _, err := NewChat("r", Chat{Prompt: "p", Images: []string{"img/red.png"}}, says(), nil); !strings.Contains(fmt.Sprint(err), `'"img/red.png"'`) {
		t.Errorf("got %v, want how a fixed path is written", err)
	}
	if _, err := NewChat("r", Chat{Prompt: "p", Model: "x"}, nil, nil); fields(err) != "model" {
		t.Errorf("got %v, want an error at model", err)
	}
}

func TestChatMentions(t *testing.T) {
	a := newChat(t, Chat{System: "{{ item.a }}{{ turn('judge').text }}", Prompt: "{{ item.b }}", Sees: []string{"x"}}, says())
	if got, want := mentioned(a), "prompt [b] [] system [a] [judge] sees [] [x]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// mentioned is what an agent mentions: keys, fields of the item, roles.
func mentioned(a matrix.Agent) string {
	var out []string
	for _, m := range a.(Mentioner).Mentions() {
		var fields []string
		if m.Source != nil {
			fields = m.Source.Fields()
		}
		out = append(out, fmt.Sprint(m.Key, " ", fields, " ", m.Roles))
	}
	return strings.Join(out, " ")
}

// What agents know of their turns before a run.
func TestMakes(t *testing.T) {
	schema := map[string]any{"type": "object", "properties": map[string]any{
		"score": map[string]any{"enum": []any{"low", "high"}}, "why": map[string]any{"type": "string"},
		"tags": map[string]any{"type": "array", "items": map[string]any{"properties": map[string]any{"name": true}, "additionalProperties": false}},
	}}
	for _, tt := range []struct {
		parse Parse
		want  string
	}{
		{Parse{}, "{}!"},
		{Parse{JSON: true}, "any"},
		{Parse{Regex: `(\d+)`}, "{answer: any}!"},
		{Parse{Regex: `(?P<a>\d+) (?P<b>\d+)`, Field: ""}, "{a: any, b: any}!"},
		{Parse{Regex: `(\d+)`, Field: "n"}, "{n: any}!"},
		{Parse{Choice: []string{"yes", "no"}}, "{choice: [yes no]}!"},
		{Parse{Choice: []string{"yes", "no"}, Field: "f"}, "{f: [yes no]}!"},
		{Parse{Grammar: `root ::= "x"`}, "{answer: any}!"},
		{Parse{Schema: schema}, "{score: [low high], tags: {#: {name: any}!}, why: any}"},
		{Parse{Schema: `{"$ref": "#/$defs/x", "$defs": {"x": {}}}`}, "any"},
		{Parse{Schema: `{"properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}`}, "{x: any}"},
	} {
		got, _ := tt.parse.shape()
		if got.text() != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.parse, got.text(), tt.want)
		}
	}
	for _, tt := range []struct {
		c    Chat
		same bool
	}{
		{Chat{Prompt: "Tell a joke."}, true}, {Chat{Prompt: "{% set x = 1 %}{{ x }}", System: "{{ params.a }}"}, true},
		{Chat{Prompt: "{{ item.a }}"}, false}, {Chat{Prompt: "p", Sees: []string{"r"}}, false}, {Chat{Prompt: "p", System: "{{ trial }}"}, false},
		{Chat{Prompt: "p", Images: []string{"item.a"}}, false}, {Chat{Prompt: "p", Tools: "item.tools"}, false}, {Chat{Prompt: "{{ rounds('r') }}"}, false},
	} {
		a, err := NewChat("r", tt.c, says(), lang.Params{"a": 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := a.(TurnDescriber).TurnInfo(); got.Same != tt.same || !got.Text {
			t.Errorf("%+v: got %+v, want Same %v", tt.c, got, tt.same)
		}
	}
}

func (s *Shape) text() string {
	switch {
	case s == nil:
		return "any"
	case s.Values != nil:
		return fmt.Sprint(s.Values)
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.Fields)) {
		parts = append(parts, name+": "+s.Fields[name].text())
	}
	out := "{" + strings.Join(parts, ", ") + "}"
	if s.Closed {
		out += "!"
	}
	return out
}
