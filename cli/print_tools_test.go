package cli

import (
	"bytes"
	"strings"
	"testing"

	"matrix"
	"matrix/internal/rundir"
	"matrix/run"
)

// tooled is a task with tools, and with what a terminal must not see.
func tooled() *matrix.Task {
	args := func(s string) matrix.Value { return matrix.RawValue([]byte(s)) }
	return &matrix.Task{
		ID: "t", Row: "t", Item: args(`{"q":1}`),
		Turns: []matrix.Turn{
			{Role: "solve", Hop: 1, Reasoning: "First\nI add\x1b[2J. " + strings.Repeat("So it is. ", 20), Text: "Let me see.",
				ToolCalls: []matrix.ToolCall{{ID: "1", Name: "add", Arguments: args(`{"a":1,"b":2}`)}, {ID: "2", Name: "now", Arguments: args(`{}`)},
					{ID: "3", Name: "bad\x07", Arguments: args(`"{\"a"`)}},
				Samples: []matrix.Sample{{Text: "Let me see."}, {ToolCalls: []matrix.ToolCall{{ID: "4", Name: "now", Arguments: args(`{}`)}}}},
				Calls:   []matrix.Call{{Kind: matrix.KindModel, Name: "m", Tokens: matrix.Tokens{PromptTokens: 10, CompletionTokens: 5, CachedTokens: 8}, FirstMS: 120, Finish: "tool_calls"}}},
			{Role: "tools", Hop: 2, ToolResults: []matrix.ToolResult{
				{ID: "1", Name: "add", Content: "3"}, {ID: "2", Name: "now", Content: "a\nb"}, {ID: "3", Content: "no\x1b JSON", IsError: true}, {ID: "9"}},
				Calls: []matrix.Call{{Kind: matrix.KindTool, Name: "sums", TookMS: 3, Trace: &matrix.Trace{ID: "1", Tool: "add", Lease: "mx-1", Generation: 2, Restored: "replay", CPUMS: 2, PeakBytes: 3 << 20}},
					{Kind: matrix.KindSandbox, Name: "shell", Trace: &matrix.Trace{Code: 1, Cut: 2048, TimedOut: true, Lease: "mx-2", Generation: 1, Restored: "live"}}}},
		},
		Outcome: &matrix.Outcome{Status: matrix.Done, Value: args("true")},
	}
}

// What caches and reasoning took is told where there is any.
func TestUsage(t *testing.T) {
	var b bytes.Buffer
	table(&b, run.Progress{Totals: run.Totals{Usage: map[string]run.Usage{
		"a": {Calls: 2, Tokens: matrix.Tokens{PromptTokens: 3000, CompletionTokens: 7, CachedTokens: 1500, CacheWriteTokens: 1200}}, "b": {Calls: 1, Tokens: matrix.Tokens{PromptTokens: 5}},
	}}})
	want := `
model  calls  retries  prompt tokens  completion tokens  cached  cache writes
a          2        0          3,000                  7   1,500         1,200
b          1        0              5                  0       0             0
`
	if got := b.String(); !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", got, want)
	}
	if got, want := cost(&matrix.Turn{Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Tokens: matrix.Tokens{PromptTokens: 7, CompletionTokens: 3}, Estimated: true}}}), "about 7+3 tokens"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
	if got, want := cost(&matrix.Turn{Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Tokens: matrix.Tokens{CachedTokens: 8, CacheWriteTokens: 3}}}}), "8 cached · 3 written to the cache"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q at its end", got, want)
	}
}

func TestPrintTools(t *testing.T) {
	got := printed(t, tooled(), printOptions{Width: 60})
	want := `
solve  0 ms · 10+5 tokens · m · 8 cached · first token afte…
  thinks: First I add␛[2J. So it is. So it is. So it is. So…
  Let me see.
  calls add {"a":1,"b":2}
  calls now
  calls bad␇ {"a
  sample 1 of 2: Let me see.
  sample 2 of 2: calls now

tools  0 ms · shell · 2 calls
  add gives 3
  now gives a b
  call 3 fails: no␛ JSON
  call 9 gives nothing
`
	if !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", got, want)
	}
	full := printed(t, tooled(), printOptions{Full: true})
	for _, want := range []string{"  thinks: First\n  I add", "  now gives\n  a\n  b\n", "  sample 2 of 2\n  calls now\n", strings.Repeat("So it is. ", 10)} {
		if !strings.Contains(full, want) {
			t.Errorf("--full has no %q:\n%s", want, full)
		}
	}
	if strings.Contains(full+got, "\x1b") {
		t.Error("a control character got through")
	}
}

func TestExplainTools(t *testing.T) {
	var b bytes.Buffer
	if err := explain(&b, &rundir.Record{Task: tooled()}, color{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"calls add, now, bad␇\n", "answers 4 calls, 1 with an error\n",
		"add · CPU 2 ms · 3.0 MiB of memory · lease mx-1, generation 2, made again by its past\n", "exit code 1 · timed out · 2.0 KiB of output left out · lease mx-2\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got no %q in\n%s", want, &b)
		}
	}
}
