package registry

import (
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

const simRoles = `
roles: {a: {chat: {model: m, prompt: hi}}}
flow: [a]
`

func TestSim(t *testing.T) {
	plan, _, err := build(t, head+`models:
  m: {kind: sim, preset: slots, slots: 5, latency: 10ms, replicas: 2, reply: echo, max_tokens: 2, faults: ["error:0.5@0s-50ms,status=503", {kind: slow, factor: 2}]}
`+simRoles)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	m := plan.Models["m"]
	begin := time.Now()
	rep, err := m.Do(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "what is said comes back"}}, Sampling: llm.Sampling{MaxTokens: 2}})
	if err != nil || rep.Choices[0].Text != "what is " || rep.Choices[0].Finish != "length" || time.Since(begin) < 20*time.Millisecond {
		t.Errorf("got %+v after %v, error %v; want the first 2 tokens after 20ms or more", rep, time.Since(begin), err)
	}
}

func TestSimErrors(t *testing.T) {
	for _, c := range []struct{ keys, want string }{
		{"preset: 9b", "models.m.preset"},
		{"slots: -1", "models.m.slots: got -1"},
		{"faults: [regect]", `did you mean "reject"`},
		{"faults: [{kind: reject, shar: 1}]", `did you mean "share"`},
		{"storm: hail", "models.m.storm: there is no storm"},
		{"engine: {kv: 5}", "models.m.engine.kv: unknown key"},
		{"reply: file, replies: nowhere.jsonl", "models.m.replies"},
		{"timeout: -1s", "models.m.timeout"},
	} {
		_, _, err := build(t, head+"models: {m: {kind: sim, "+c.keys+"}}"+simRoles)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.keys, err, c.want)
		}
	}
}
