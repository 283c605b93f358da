package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"matrix/internal/human"
	"matrix/internal/spend"
	"matrix/llm"
	"matrix/session"
)

// display shows a run that is under way. It is used by one goroutine.
type display interface {
	every() time.Duration
	show(v *session.Snapshot, stopping string)
	say(line string)         // something that happened
	end(v *session.Snapshot) // the last word
}

// newDisplay makes the display that the config asks for.
func newDisplay(kind string, w io.Writer, plainEvery time.Duration) display {
	t := terminalOf(w)
	if kind == "auto" {
		kind = "plain"
		if t.live() {
			kind = "live"
		}
	}
	switch kind {
	case "live":
		return &liveDisplay{screen: screen{w: w, size: t.size}, color: colorFor(w, false)}
	case "none":
		return noDisplay{}
	}
	return &plainDisplay{w: w, tick: cmp.Or(plainEvery, 10*time.Second)}
}

// noDisplay shows nothing.
type noDisplay struct{}

func (noDisplay) every() time.Duration           { return time.Hour }
func (noDisplay) show(*session.Snapshot, string) {}
func (noDisplay) say(string)                     {}
func (noDisplay) end(*session.Snapshot)          {}

// plainDisplay writes a line from time to time, for logs.
type plainDisplay struct {
	w       io.Writer
	tick    time.Duration
	failure string             // shown last
	trouble map[string]trouble // by model, as shown last
	alive   bool               // a sign of life has been shown
	roll    roll
}

// changesEvery is how soon a plain display tells that a model is paused.
const changesEvery = time.Second

// printChanges says which models are in trouble, and which are no more, and which
// workers there are, where that has changed since it was shown last; and once that
// calls are under way.
func (d *plainDisplay) printChanges(v *session.Snapshot) {
	elapsed, models := v.Elapsed, v.Models
	if s := signs(models); !d.alive && s != "" {
		d.alive = true
		fmt.Fprintf(d.w, "%s  %s\n", human.Clock(elapsed), s)
	}
	for i := range models {
		m := &models[i]
		was := d.trouble[m.Name]
		switch text := troubleLine(m); {
		case !d.changed(m):
		case text != "":
			fmt.Fprintf(d.w, "%s  %s\n", human.Clock(elapsed), text)
		case was.paused:
			fmt.Fprintf(d.w, "%s  %s is back\n", human.Clock(elapsed), m.Name)
		}
	}
	d.roll.print(d.w, human.Clock(elapsed), v)
}

// trouble is what is wrong with a model, without since when.
type trouble struct {
	paused bool
	msg    string
}

// changed notes the trouble of a model, and reports whether it is another than
// before.
func (d *plainDisplay) changed(m *session.ModelSnapshot) bool {
	var now trouble
	switch {
	case m.Paused != nil:
		now = trouble{true, m.Paused.Msg}
	case m.Note != nil:
		now.msg = m.Note.Msg
	}
	if d.trouble == nil {
		d.trouble = map[string]trouble{}
	}
	changed := d.trouble[m.Name] != now
	d.trouble[m.Name] = now
	return changed
}

// troubleLine is what a plain display says of a model that is paused, or whose
// endpoints are not all known; empty where there is nothing.
func troubleLine(m *session.ModelSnapshot) string {
	switch {
	case m.Paused != nil:
		return m.Name + " paused: " + oneLine(m.Paused.String())
	case m.Note != nil:
		return m.Name + ": " + oneLine(m.Note.String())
	}
	return ""
}

// signs say how the models are at work; empty before any call.
func signs(models []session.ModelSnapshot) string {
	var inFlight, calls, tokens int64
	for i := range models {
		inFlight += int64(models[i].InFlight)
		calls += models[i].Calls
		tokens += models[i].PromptTokens + models[i].CompletionTokens
	}
	if inFlight+calls == 0 {
		return ""
	}
	s := human.Plural(inFlight, "call") + " in flight"
	if calls > 0 {
		s += fmt.Sprintf(", %s answered, %s", human.Commas(calls), human.Plural(tokens, "token"))
	}
	return s
}

func (d *plainDisplay) every() time.Duration    { return d.tick }
func (d *plainDisplay) say(line string)         { fmt.Fprintln(d.w, line) }
func (d *plainDisplay) end(v *session.Snapshot) { d.show(v, "") }

func (d *plainDisplay) show(v *session.Snapshot, stopping string) {
	d.alive = true
	fmt.Fprintln(d.w, d.line(v))
}

func (d *plainDisplay) line(v *session.Snapshot) string {
	parts := []string{fmt.Sprintf("%s  %s", human.Clock(v.Elapsed), doneOf(v)), human.Pace(v.Rate)}
	if left, ok := v.Left(); ok {
		parts = append(parts, human.Clock(left)+" left")
	}
	parts = append(parts, alive(v), "pending "+pending(v))
	parts = append(append(parts, notKept(v)...), "failed "+human.Commas(v.Failed))
	if s := signs(v.Models); s != "" && v.Settled() == 0 {
		parts = append(parts, s) // nothing else moves before the first task has ended
	}
	if s := spentLine(v.Spending); s != "" {
		parts = append(parts, s)
	}
	if s := reusedLine(&v.Progress); s != "" {
		parts = append(parts, s)
	}
	if s := workersLine(v); s != "" {
		parts = append(parts, s)
	}
	for i := range v.Roles {
		if v.Roles[i].Unserved {
			parts = append(parts, unservedLine(&v.Roles[i]))
		}
	}
	for i := range v.Models {
		m := &v.Models[i]
		d.changed(m)
		if text := troubleLine(m); text != "" {
			parts = append(parts, text)
		}
	}
	if v.Failure != d.failure {
		d.failure = v.Failure
		parts = append(parts, "last failure: "+oneLine(v.Failure))
	}
	return strings.Join(parts, " · ")
}

// doneOf is "done/total (percent)"; done are all tasks that are settled.
func doneOf(v *session.Snapshot) string {
	settled := v.Settled()
	if v.Goal > 0 {
		return fmt.Sprintf("kept %s of %s, %s ended", human.Commas(v.Done), human.Commas(v.Goal), human.Commas(settled))
	}
	if v.Total < 0 {
		return human.Commas(settled) + "/?"
	}
	return fmt.Sprintf("%s/%s (%s)", human.Commas(settled), human.Commas(v.Total), human.Percent(settled, v.Total))
}

// alive says how many tasks are under way, and how many wait for their children.
func alive(v *session.Snapshot) string {
	s := "live " + human.Commas(max(0, v.Live-v.Parents))
	if v.Parents > 0 {
		s += " · waiting for children " + human.Commas(v.Parents)
	}
	return s
}

// notKept says how many tasks were dropped or became others, where any was, and how many
// were made so.
func notKept(v *session.Snapshot) (parts []string) {
	if v.Dropped > 0 {
		parts = append(parts, "dropped "+human.Commas(v.Dropped))
	}
	if v.Expanded > 0 {
		parts = append(parts, "expanded "+human.Commas(v.Expanded))
	}
	if v.Begun > 0 {
		parts = append(parts, "children "+human.Commas(v.Begun))
	}
	return parts
}

func pending(v *session.Snapshot) string {
	if v.Pending < 0 {
		return "?"
	}
	return human.Commas(v.Pending)
}

// liveDisplay is redrawn in place.
type liveDisplay struct {
	screen screen
	color  color
}

func (d *liveDisplay) every() time.Duration { return 200 * time.Millisecond }
func (d *liveDisplay) say(line string)      { d.screen.print(line) }

// end leaves the bar, and takes the rest away.
func (d *liveDisplay) end(v *session.Snapshot) {
	width, _ := d.screen.size()
	d.screen.print(ansi.Truncate(d.head(v, width), max(1, width-1), "…"))
	d.screen.close()
}

func (d *liveDisplay) show(v *session.Snapshot, stopping string) {
	width, _ := d.screen.size()
	d.screen.draw(d.lines(v, stopping, width))
}

// head is the line with the bar.
func (d *liveDisplay) head(v *session.Snapshot, width int) string {
	tail := "  " + doneOf(v) + "  " + human.Pace(v.Rate)
	if left, ok := v.Left(); ok {
		tail += "  " + human.Clock(left) + " left"
	}
	name := oneLine(v.Name) + " "
	if displayWidth(name) > width-displayWidth(tail)-14 {
		name = "" // a narrow terminal: the bar says more
	}
	line := d.color.bold(name)
	if size := min(60, width-1-displayWidth(name)-displayWidth(tail)-2); size >= 4 {
		if done, all := v.Settled(), v.Total; v.Goal > 0 {
			line += bar(d.color, v.Done, v.Goal, size)
		} else {
			line += bar(d.color, done, all, size)
		}
	}
	return line + tail
}

// lines are the frame for a terminal of a width.
func (d *liveDisplay) lines(v *session.Snapshot, stopping string, width int) []string {
	col := d.color
	lines := []string{d.head(v, width)}

	failed := "failed " + human.Commas(v.Failed)
	if v.Failed > 0 {
		failed = col.red(failed)
	}
	now := append([]string{alive(v), "pending " + pending(v)}, notKept(v)...)
	now = append(now, failed, human.Clock(v.Elapsed))
	if s := reusedLine(&v.Progress); s != "" {
		now = append(now, s)
	}
	if s := workersLine(v); s != "" {
		now = append(now, s)
	}
	lines = append(lines, strings.Join(now, col.dim(" · ")))
	if s := spentLine(v.Spending); s != "" {
		lines = append(lines, s)
	}

	rows := [][]string{{"role", "waiting", "acting", "hops/s"}}
	var inline []string // roles without hops of their own
	for _, r := range v.Roles {
		if r.Inline && r.Hops == 0 && r.Waiting == 0 {
			inline = append(inline, r.Name)
			continue
		}
		rows = append(rows, []string{r.Name, human.Commas(r.Waiting), human.Commas(r.Acting), human.Decimal(r.Rate)})
	}
	roles := align(rows)
	models, pauses := d.models(v)
	lines = append(lines, "")
	// Side by side where there is room, so that the block stays low.
	if w := widest(roles) + 4; len(models) > 0 && w+widest(models) < width {
		lines = append(lines, col.head(beside(roles, models, w))...)
	} else {
		lines = append(lines, col.head(roles)...)
		if len(models) > 0 {
			lines = append(lines, "")
			lines = append(lines, col.head(models)...)
		}
	}
	if len(inline) > 0 {
		lines = append(lines, col.dim("inline: "+strings.Join(inline, ", ")))
	}
	for _, p := range append(concerns(v), pauses...) {
		lines = append(lines, col.paint("33", p))
	}
	if v.Failure != "" {
		lines = append(lines, col.red("last failure: ")+oneLine(v.Failure))
	}
	if stopping != "" {
		lines = append(lines, col.paint("33", stopping))
	}
	return lines
}

func (d *liveDisplay) models(v *session.Snapshot) (table, pauses []string) {
	if len(v.Models) == 0 {
		return nil, nil
	}
	rows := [][]string{{"model", "in flight", "tokens/s", "retries"}}
	paid := v.Spending != nil && v.Spending.USD > 0
	if paid {
		rows[0] = append(rows[0], "USD")
	}
	for _, m := range v.Models {
		row := []string{m.Name, human.Commas(m.InFlight), human.Decimal(m.Rate), human.Commas(m.Retries)}
		if s := v.Spending; paid && s.Models[m.Name] != nil {
			row = append(row, llm.ShowUSD(s.Models[m.Name].USD))
		}
		rows = append(rows, row)
		if m.Paused != nil {
			pauses = append(pauses, fmt.Sprintf("%s is paused: %s", m.Name, oneLine(m.Paused.String())))
		}
		if m.Note != nil {
			pauses = append(pauses, m.Name+": "+oneLine(m.Note.String()))
		}
	}
	return align(rows), pauses
}

// beside puts lines beside others, from a column on.
func beside(left, right []string, at int) []string {
	for i, r := range right {
		if i == len(left) {
			left = append(left, "")
		}
		left[i] += strings.Repeat(" ", at-displayWidth(left[i])) + r
	}
	return left
}

func widest(lines []string) int {
	w := 0
	for _, l := range lines {
		w = max(w, displayWidth(l))
	}
	return w
}

// spentLine is spending for a display; empty where nothing is spent or limited.
func spentLine(s *spend.Spending) string {
	if s == nil || s.USD == 0 && s.Limit == nil {
		return ""
	}
	var parts []string
	if s.USD > 0 || s.Limit != nil && s.Limit.USD > 0 {
		text := llm.ShowUSD(s.USD)
		if s.Limit != nil && s.Limit.USD > 0 {
			text += " of " + llm.ShowUSD(s.Limit.USD)
		}
		text += " USD"
		if s.Projected != nil {
			text += ", " + llm.ShowUSD(s.Projected.USD) + " projected"
		}
		parts = append(parts, text)
	}
	if s.Limit != nil && s.Limit.Tokens > 0 {
		text := fmt.Sprintf("%s of %s tokens", human.Short(s.Tokens), human.Short(s.Limit.Tokens))
		if s.Projected != nil {
			text += ", " + human.Short(s.Projected.Tokens) + " projected"
		}
		parts = append(parts, text)
	}
	return "spent " + strings.Join(parts, "; ")
}
