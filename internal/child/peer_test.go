package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer starts a Python program that has say(object) and questions().
func peer(t *testing.T, program string) *Peer {
	t.Helper()
	const head = `
import json, sys, os
def say(**what): print(json.dumps(what), flush=True)
def questions():
    for line in sys.stdin: yield json.loads(line)
`
	s := new(Spawner)
	t.Cleanup(s.Close)
	p, err := s.Start(exec.Command("python3", "-c", head+program), Options{
		Hide: func(text string) string { return strings.ReplaceAll(text, "secret", "***") },
	})
	if err != nil {
		t.Fatal(err)
	}
	c := NewPeer(p)
	t.Cleanup(c.Close)
	return c
}

// Answers find their questions whatever their order.
func TestPeerAnswersInAnyOrder(t *testing.T) {
	c := peer(t, `
held = []
for q in questions():
    held.append(q)
    if len(held) == 50:
        for q in reversed(held): say(seq=q["seq"], twice=2 * q["n"])
        held = []
`)
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() {
			raw, err := c.Ask(t.Context(), fmt.Appendf(nil, `{"n":%d}`, n))
			var out struct{ Twice int }
			if err == nil {
				err = json.Unmarshal(raw, &out)
			}
			if err != nil || out.Twice != 2*n {
				t.Errorf("asked %d, got %s, %v, want twice as much", n, raw, err)
			}
		})
	}
	wg.Wait()
}

// Who does not wait any longer takes nobody else's answer, and the child goes on.
func TestPeerOutlivesWhoAsks(t *testing.T) {
	c := peer(t, `
first = None
for q in questions():
    if first is None: first = q; continue
    say(seq=first["seq"], of="first"); say(seq=q["seq"], of="second"); first = q
`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if raw, err := c.Ask(ctx, []byte(`{}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %s, %v, want the end of the wait", raw, err)
	}
	raw, err := c.Ask(t.Context(), []byte(` {} `))
	if err != nil || !strings.Contains(string(raw), "second") {
		t.Fatalf("got %s, %v, want the second answer", raw, err)
	}
}

func TestPeerEnds(t *testing.T) {
	for _, test := range []struct{ name, program, want string }{
		{"by itself", `
next(questions())
print("the secret is out", file=sys.stderr, flush=True); sys.exit(3)`,
			"ended without an answer: exit status 3; its stderr ends with: the *** is out"},
		{"prints", `
next(questions())
print("a secret text", flush=True); sys.stdin.read()`,
			`printed "a *** text", which is no JSON object with seq; print diagnostics to stderr`},
		{"prints a number", `
next(questions())
print("7", flush=True); sys.stdin.read()`,
			`printed "7", which is no JSON object with seq; print diagnostics to stderr`},
		{"another seq", `
next(questions())
say(seq=9); sys.stdin.read()`,
			"answered with seq 9, which nobody asked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := peer(t, test.program)
			for range 2 { // and goes on to say so
				raw, err := c.Ask(t.Context(), []byte(`{"op":"x"}`))
				var end *EndedError
				if !errors.As(err, &end) || err.Error() != test.want {
					t.Fatalf("got %s, %v, want an EndedError: %s", raw, err, test.want)
				}
			}
		})
	}
}
