package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"matrix"
	"matrix/internal/human"
	"matrix/internal/jsontext"
	"matrix/internal/printable"
	"matrix/llm"
)

// printOptions say how a task is printed.
type printOptions struct {
	Color color
	Width int  // of the terminal; 0 for no wrapping
	Full  bool // unfold data, samples and the row
}

// printOn are the options for what is written to w. plain is without colour in
// a terminal too.
func printOn(w io.Writer, plain, full bool) printOptions {
	return printOptions{Color: colorFor(w, plain), Width: widthOf(w), Full: full}
}

// widthOf is how many columns w has; 0 where it is not a terminal.
func widthOf(w io.Writer) int {
	t := terminalOf(w)
	if t.file == nil {
		return 0
	}
	width, _ := t.size()
	return width
}

// How much of a folded value is shown.
const (
	foldedWidth = 100 // of a line of data, where the terminal does not say
	memberWidth = 48  // of one text in it
)

// printTask prints a dialogue as a person would read it: how it ended, then
// who said what.
func printTask(w io.Writer, t *matrix.Task, o printOptions) error {
	p := taskPrinter{o: o, w: w}
	p.head(t)
	p.item(t)
	for i := range t.Turns {
		if isFlat(&t.Turns[i]) {
			p.roles = max(p.roles, ansi.StringWidth(t.Turns[i].Role))
		}
	}
	for i := range t.Turns {
		p.turn(&t.Turns[i])
	}
	return p.err
}

// isFlat reports whether nothing was said in a turn: one line shows it.
func isFlat(t *matrix.Turn) bool {
	return t.Text == "" && t.Error == "" && len(t.Samples) == 0 && len(t.Calls) == 0 && len(t.ToolCalls)+len(t.ToolResults) == 0
}

type taskPrinter struct {
	o     printOptions
	w     io.Writer
	roles int  // how wide the names of those are who only compute
	flat  bool // the line before was a turn on one line
	err   error
}

func (p *taskPrinter) line(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, strings.TrimRight(text, " ")+"\n")
	}
}

// head is one line of how the task stands, under it the cause of a failure. What
// is too long in it is cut, the value first.
func (p *taskPrinter) head(t *matrix.Task) {
	col := p.o.Color
	var parts []string
	if t.Priority != matrix.Normal {
		parts = append(parts, t.Priority.String())
	}
	for _, name := range slices.Sorted(maps.Keys(t.Metrics)) {
		if v := t.Metrics[name]; v != nil {
			parts = append(parts, oneLine(name)+" "+strconv.FormatFloat(*v, 'g', 6, 64))
		}
	}
	parts = append(parts, human.Plural(int64(len(t.Turns)), "turn"))
	if t.Expanded > 0 {
		parts = append(parts, children(t.Expanded))
	}
	c := costOf(t)
	if c.prompt+c.completion > 0 {
		parts = append(parts, tokens(c.prompt, c.completion)+" tokens")
	}
	if c.usd > 0 {
		parts = append(parts, llm.ShowUSD(c.usd)+" USD")
	}
	if c.ms > 0 {
		parts = append(parts, human.Duration(c.ms))
	}
	rest := col.dim(" · ") + strings.Join(parts, col.dim(" · "))
	width := cmp.Or(min(p.o.Width, proseWidth), proseWidth+ansi.StringWidth(rest)) // without a terminal the value alone is cut
	line := col.bold(oneLine(t.ID)) + "  "
	line += ansi.Truncate(col.outcome(t), max(width-ansi.StringWidth(line+rest), 12), "…") + rest
	if p.o.Width > 0 {
		line = ansi.Truncate(line, width, "…")
	}
	p.line(line)
	if o := t.Outcome; o != nil && o.Cause != "" {
		p.text(o.Cause, col.red)
	}
	p.line(col.dim(strings.Repeat("─", min(cmp.Or(p.o.Width, 72), proseWidth))))
}

// children is how many there are, in words.
func children(n int) string {
	if n == 1 {
		return "1 child"
	}
	return human.Commas(n) + " children"
}

func (p *taskPrinter) item(t *matrix.Task) {
	if t.Item.IsZero() {
		return
	}
	if p.o.Full {
		p.line(p.o.Color.dim("row"))
		p.block(t.Item)
		return
	}
	p.line(p.o.Color.dim(p.fit("row  " + fold(t.Item))))
}

// turn prints a turn: what was only computed on one line, what was said as a
// paragraph under its speaker.
func (p *taskPrinter) turn(turn *matrix.Turn) {
	col := p.o.Color
	role := col.role(turn.Role)
	if !p.o.Full && isFlat(turn) {
		if !p.flat {
			p.line("")
		}
		pad := strings.Repeat(" ", max(0, p.roles-ansi.StringWidth(turn.Role))+2)
		p.line(role + pad + col.dim(p.fitAfter(p.roles+2, fold(turn.Data))))
		p.flat = true
		return
	}
	p.line("")
	p.flat = false
	head := role
	if about := cost(turn); about != "" {
		head += "  " + col.dim(about)
	}
	p.line(p.fit(head))
	if p.o.Full {
		for i := range turn.Calls {
			if c := &turn.Calls[i]; !c.Params.IsZero() {
				head := "  params"
				if len(turn.Calls) > 1 {
					head = fmt.Sprintf("  params of call %d", i+1)
				}
				p.line(col.dim(head))
				p.block(c.Params)
			}
		}
	}
	p.thought(turn.Reasoning)
	if turn.Text != "" {
		p.text(turn.Text, nil)
	}
	p.tools(turn.ToolCalls, turn.ToolResults)
	if turn.Error != "" {
		p.text("error: "+turn.Error, col.red)
	}
	p.data(turn.Data)
	for n, s := range turn.Samples {
		name := fmt.Sprintf("sample %d of %d", n+1, len(turn.Samples))
		if !p.o.Full {
			p.line(col.dim(p.fit("  " + name + ": " + sampleLine(&s))))
			continue
		}
		p.line("  " + col.dim(name))
		p.thought(s.Reasoning)
		if s.Text != "" || len(s.ToolCalls) == 0 {
			p.text(s.Text, nil)
		}
		p.tools(s.ToolCalls, nil)
		p.data(s.Data)
	}
}

func (p *taskPrinter) data(v matrix.Value) {
	switch {
	case v.IsZero():
	case p.o.Full:
		p.block(v)
	default:
		p.line(p.o.Color.dim(p.fit("  → " + fold(v))))
	}
}

// text prints lines, wrapped and indented.
func (p *taskPrinter) text(s string, paint func(string) string) {
	for _, l := range p.wrap(strings.Trim(clean(s), "\n"), 2) {
		if paint != nil && l != "" {
			l = paint(l)
		}
		p.line("  " + l)
	}
}

// block prints a value unfolded.
func (p *taskPrinter) block(v matrix.Value) {
	for _, l := range p.wrap(unfold(v), 2) {
		p.line("  " + p.o.Color.dim(l))
	}
}

// wrap breaks text into lines that leave room for an indent.
func (p *taskPrinter) wrap(text string, indent int) []string {
	if p.o.Width > 0 {
		text = ansi.Wrap(text, max(min(p.o.Width, proseWidth)-indent, 20), "")
	}
	return strings.Split(text, "\n")
}

// proseWidth is how wide text may run: longer lines are hard to read.
const proseWidth = 110

// fit cuts a line to the width of the terminal.
func (p *taskPrinter) fit(line string) string { return p.fitAfter(0, line) }

// fitAfter is fit for what follows on the same line after so many columns.
func (p *taskPrinter) fitAfter(columns int, rest string) string {
	return ansi.Truncate(rest, max(cmp.Or(p.o.Width, foldedWidth)-columns, 20), "…")
}

// fold shows a value on one line: `agreed: true · answer: B`.
func fold(v matrix.Value) string {
	switch x := v.Any().(type) {
	case map[string]any:
		var parts []string
		for _, k := range keysInOrder(v) {
			parts = append(parts, oneLine(k)+": "+foldMember(x[k]))
		}
		if len(parts) == 0 {
			return "{}"
		}
		return strings.Join(parts, " · ")
	case string:
		return oneLine(x)
	}
	return oneLine(string(v.Raw()))
}

func foldMember(x any) string {
	switch x := x.(type) {
	case nil:
		return "null"
	case string:
		if x == "" {
			return `""`
		}
		return ansi.Truncate(oneLine(x), memberWidth, "…")
	case float64:
		if math.Abs(x) >= 1e-3 && math.Abs(x) < 1e6 {
			return strconv.FormatFloat(x, 'g', 6, 64)
		}
	}
	v, err := matrix.NewValue(x)
	if err != nil {
		return "?"
	}
	return ansi.Truncate(oneLine(string(v.Raw())), memberWidth, "…")
}

// cost says what a turn's call cost: `1.2 s · 120+45 tokens · llama-70b`.
func cost(t *matrix.Turn) string {
	c := t.Call()
	if c == nil {
		if t.Timing.TookMS >= 1 {
			return human.Duration(t.Timing.TookMS)
		}
		return ""
	}
	parts := []string{human.Duration(t.Timing.TookMS)}
	if c.Kind == matrix.KindModel || c.PromptTokens+c.CompletionTokens > 0 {
		count := tokens(c.PromptTokens, c.CompletionTokens) + " tokens"
		if c.Estimated {
			count = "about " + count
		}
		parts = append(parts, count)
	}
	parts = append(parts, oneLine(c.Name))
	if n := len(t.Calls); n > 1 {
		parts = append(parts, human.Plural(int64(n), "call"))
	}
	if c.Retries > 0 {
		parts = append(parts, retries(c.Retries))
	}
	if c.CachedTokens > 0 {
		parts = append(parts, human.Commas(c.CachedTokens)+" cached")
	}
	if c.CacheWriteTokens > 0 {
		parts = append(parts, human.Commas(c.CacheWriteTokens)+" written to the cache")
	}
	if c.FirstMS > 0 {
		parts = append(parts, "first token after "+human.Duration(c.FirstMS))
	}
	if c.Finish != "" && c.Finish != "stop" && c.Finish != "tool_calls" {
		parts = append(parts, "ended by "+oneLine(c.Finish))
	}
	return strings.Join(parts, " · ")
}

// total is what a task has cost.
type total struct {
	prompt, completion, calls, retries int
	ms                                 float64 // in agents
	usd                                float64
}

func costOf(t *matrix.Task) total {
	var sum total
	for i := range t.Turns {
		sum.ms += t.Turns[i].Timing.TookMS
	}
	for c := range t.Calls() {
		sum.prompt += c.PromptTokens
		sum.completion += c.CompletionTokens
		sum.calls++
		sum.retries += c.Retries
		sum.usd += c.USD
	}
	return sum
}

// Texts.

// clean makes text from outside safe for a terminal.
func clean(s string) string { return printable.Text(s) }

// oneLine puts text on one line; names and ids are always shown so.
func oneLine(s string) string { return printable.Line(s) }

// tokens is `1,234+567`: those of the prompt and those of the reply.
func tokens(prompt, completion int) string {
	return human.Commas(prompt) + "+" + human.Commas(completion)
}

func retries(n int) string {
	if n == 1 {
		return "1 retry"
	}
	return human.Commas(n) + " retries"
}

// keysInOrder are the keys of an object as they were written.
func keysInOrder(v matrix.Value) []string {
	var keys []string
	r := jsontext.New(string(v.Raw()))
	for k := range r.Object {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
		r.Skip()
	}
	return keys
}

// unfold is a value over several lines.
func unfold(v matrix.Value) string {
	var b bytes.Buffer
	if json.Indent(&b, v.Raw(), "", "  ") != nil {
		return oneLine(string(v.Raw()))
	}
	return clean(b.String())
}
