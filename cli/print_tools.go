package cli

import (
	"cmp"
	"fmt"
	"strings"

	"matrix"
	"matrix/internal/human"
)

// thought prints what a model thought aloud: one line of it, unless all is asked
// for.
func (p *taskPrinter) thought(reasoning string) {
	if strings.TrimSpace(reasoning) == "" {
		return
	}
	col := p.o.Color
	if !p.o.Full {
		p.line(col.dim(p.fit("  thinks: " + oneLine(reasoning))))
		return
	}
	p.text("thinks: "+strings.TrimSpace(reasoning), col.dim)
}

// tools prints which tools a turn calls, and what they answered in it.
func (p *taskPrinter) tools(calls []matrix.ToolCall, results []matrix.ToolResult) {
	col := p.o.Color
	for i := range calls {
		c := &calls[i]
		args := string(c.Arguments.Raw())
		if s, ok := c.Arguments.Any().(string); ok { // it is not JSON
			args = s
		} else if args == "{}" {
			args = ""
		}
		head := "  calls " + oneLine(c.Name)
		if !p.o.Full || len(args) < foldedWidth {
			p.line(p.fit(strings.TrimRight(head+" "+oneLine(args), " ")))
			continue
		}
		p.line(head)
		p.block(c.Arguments)
	}
	for i := range results {
		r := &results[i]
		name := cmp.Or(oneLine(r.Name), "call "+oneLine(r.ID))
		if r.IsError {
			p.result("  "+name+" fails:", r.Content, col.red)
		} else {
			p.result("  "+name+" gives", r.Content, nil)
		}
	}
}

// result prints one line, or all lines where that is asked for.
func (p *taskPrinter) result(head, text string, paint func(string) string) {
	text = strings.TrimSpace(text)
	line := head + " " + oneLine(text)
	switch {
	case text == "":
		line = head + " nothing"
	case p.o.Full && strings.Contains(text, "\n"):
		p.line(head)
		p.text(text, paint)
		return
	case p.o.Full:
		p.text(strings.TrimSpace(line), paint)
		return
	}
	line = p.fit(line)
	if paint != nil {
		line = paint(line)
	}
	p.line(line)
}

// sampleLine is a sample on one line.
func sampleLine(s *matrix.Sample) string {
	if strings.TrimSpace(s.Text) != "" || len(s.ToolCalls) == 0 {
		return oneLine(s.Text)
	}
	return "calls " + callNames(s.ToolCalls)
}

// callNames are the names of what is called: add, add, now.
func callNames(calls []matrix.ToolCall) string {
	var names []string
	for i := range calls {
		names = append(names, oneLine(calls[i].Name))
	}
	return strings.Join(names, ", ")
}

// toolNote says in one line which tools a turn calls or answers; nothing where
// it does neither.
func toolNote(t *matrix.Turn) string {
	var parts []string
	if len(t.ToolCalls) > 0 {
		parts = append(parts, "calls "+callNames(t.ToolCalls))
	}
	if n := len(t.ToolResults); n > 0 {
		failed := 0
		for i := range t.ToolResults {
			if t.ToolResults[i].IsError {
				failed++
			}
		}
		s := "answers " + human.Plural(int64(n), "call")
		if failed > 0 {
			s += fmt.Sprintf(", %d with an error", failed)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

// traceNote says in one line how a call of a tool or a sandbox went; nothing of others.
func traceNote(t *matrix.Trace) string {
	if t == nil {
		return ""
	}
	var parts []string
	add := func(there bool, format string, args ...any) {
		if there {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(t.Tool != "", "%s", oneLine(t.Tool))
	add(t.IsError, "an error")
	add(t.Code != 0 && t.Signal == "", "exit code %d", t.Code)
	add(t.Signal != "", "ended by %s", oneLine(t.Signal))
	add(t.TimedOut, "timed out")
	add(t.OOM, "out of memory")
	add(t.Cut > 0, "%s of output left out", bytesOf(t.Cut))
	add(t.CPUMS > 0, "CPU %s", human.Duration(t.CPUMS))
	add(t.PeakBytes > 0, "%s of memory", bytesOf(t.PeakBytes))
	if t.Lease != "" {
		state := "lease " + oneLine(t.Lease)
		if t.Generation > 1 {
			state += fmt.Sprintf(", generation %d", t.Generation)
		}
		if how, ok := map[string]string{"fresh": "made new", "disk": "brought back from the disk", "replay": "made again by its past"}[t.Restored]; ok {
			state += ", " + how
		}
		parts = append(parts, state)
	}
	return strings.Join(parts, " · ")
}

// bytesOf is a size for people.
func bytesOf(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return mib(uint64(max(0, n)))
}
