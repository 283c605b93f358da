package sim

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"matrix/llm"
)

// dialogue is the messages of a conversation of so many turns, where one side's
// replies are what w gives.
func dialogue(t *testing.T, w llm.Driver, id, turns int) (prompt, cached int) {
	t.Helper()
	ms := []llm.Message{{Role: "system", Content: fmt.Sprintf("Dialogue %d. ", id) + words(uint64(id), 100)}}
	for n := range turns {
		ms = append(ms, llm.Message{Role: "user", Content: fmt.Sprintf("Turn %d: %s", n, words(uint64(id*100+n), 50))})
		rep, err := w.Send(t.Context(), &llm.Request{Messages: ms})
		if err != nil {
			t.Fatal(err)
		}
		prompt += rep.Usage.PromptTokens
		cached += rep.Usage.CachedTokens
		ms = append(ms, llm.Message{Role: "assistant", Content: rep.Choices[0].Text})
	}
	return prompt, cached
}

// A dialogue that stays at one engine computes each turn once, but for the
// block that it ends in; one that goes to and fro between two computes most of
// it twice.
func TestPrefixCache(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		lo, hi float64 // share of the prompts that is cached
	}{
		{"cached", Config{}, 0.7, 0.95},
		{"off", Config{Engine: Costs{NoPrefix: true}}, 0, 0},
		{"too small", Config{Engine: Costs{KV: 2400}}, 0, 0.5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.config.Replies.Tokens = 60
				e := engines(t, c.config)[0]
				var prompt, cached int
				if c.name == "too small" { // another dialogue takes the place of each
					for range 3 {
						for id := range 3 {
							p, k := dialogue(t, NewDriver(e), id, 1)
							prompt, cached = prompt+p, cached+k
							dialogue(t, NewDriver(e), 10+id, 8)
						}
					}
				} else {
					prompt, cached = dialogue(t, NewDriver(e), 1, 10)
				}
				if got := float64(cached) / float64(prompt); got < c.lo || got > c.hi {
					t.Errorf("got %d of %d tokens cached, %.2f; want %v to %v", cached, prompt, got, c.lo, c.hi)
				}
				g := e.work.gauges()
				if c.name == "cached" && (g.Cached != int64(cached) || g.Computed != int64(prompt-cached)) {
					t.Errorf("got %d cached and %d computed, want %d and %d", g.Cached, g.Computed, cached, prompt-cached)
				}
			})
		})
	}
}

func TestPrefixOfDialogue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engines(t, Config{Replies: Replies{Kind: "echo"}})[0]
		w := NewDriver(e)
		text := strings.Repeat("0123456789abcdef", 20) // 80 tokens
		ms := []llm.Message{{Role: "user", Content: text}}
		send := func(ms []llm.Message) llm.Usage {
			rep, err := w.Send(t.Context(), &llm.Request{Messages: ms})
			if err != nil {
				t.Fatal(err)
			}
			return rep.Usage
		}
		// 3 tokens before a message, 1 behind it, 3 before the reply
		if got := send(ms); got.PromptTokens != 87 || got.CompletionTokens != 80 || got.CachedTokens != 0 {
			t.Errorf("first: got %+v, want 87, 80 and 0", got)
		}
		if got := send(ms); got.CachedTokens != 80 {
			t.Errorf("again: got %d cached, want 80: all full blocks", got.CachedTokens)
		}
		ms = append(ms, llm.Message{Role: "assistant", Content: text}, llm.Message{Role: "user", Content: "On."})
		// 87 + 80 + 1 are those of before
		if got := send(ms); got.CachedTokens != 160 {
			t.Errorf("next turn: got %d cached of %d, want 160: the reply's blocks too", got.CachedTokens, got.PromptTokens)
		}
		ms[0].Content = "x" + text
		if got := send(ms); got.CachedTokens != 0 {
			t.Errorf("another beginning: got %d cached, want 0", got.CachedTokens)
		}
	})
}
