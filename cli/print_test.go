package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"matrix"
)

func dialogue() *matrix.Task {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	return &matrix.Task{
		ID: "q-7", Row: "q-7",
		Item: matrix.RawValue([]byte(`{"question":"What is the smaller angle between the hands of a clock at 3:40?","answer":"B"}`)),
		Turns: []matrix.Turn{
			{Role: "student", Text: "Help me:\n\n    3:40\n\nthen?", Timing: matrix.Timing{At: at}},
			{
				Role: "teacher", Hop: 1, Text: strings.Repeat("Let me place both hands. ", 12) + "The answer is (B).",
				Data:   matrix.RawValue([]byte(`{"answer":"B"}`)),
				Calls:  []matrix.Call{{Kind: matrix.KindModel, Name: "big", Model: "llama-70b", Endpoint: "http://127.0.0.1:8000/v1", Retries: 2, Tokens: matrix.Tokens{PromptTokens: 1234, CompletionTokens: 56}, WaitMS: 300, RetryMS: 1500}},
				Timing: matrix.Timing{At: at.Add(20 * time.Millisecond), QueuedMS: 20, TookMS: 2900},
			},
			{Role: "extract", Hop: 1, Data: matrix.RawValue([]byte(`{"said":"B","teacher":"B","student":null}`)), Timing: matrix.Timing{At: at.Add(3 * time.Second), TookMS: 0.05}},
			{
				Role: "student", Hop: 2, Text: "\x1b[2JHm.\r\n", Error: "the reply is not JSON",
				Samples: []matrix.Sample{{Text: "\x1b[2JHm.\r\n"}, {Text: "Other", Data: matrix.RawValue([]byte(`{"answer":"C"}`))}},
				Timing:  matrix.Timing{At: at.Add(4 * time.Second), QueuedMS: 1, DelayMS: 900, TookMS: 5, Attempts: 2},
			},
		},
		Outcome: &matrix.Outcome{Status: matrix.Done, Value: matrix.RawValue([]byte("true"))},
		Metrics: map[string]*float64{"agreement": new(1.0), "b": new(0.25), "none": nil},
	}
}

func printed(t *testing.T, task *matrix.Task, o printOptions) string {
	t.Helper()
	var b bytes.Buffer
	if err := printTask(&b, task, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPrintTask(t *testing.T) {
	got := printed(t, dialogue(), printOptions{Width: 60})
	want := `q-7  done · agreement 1 · b 0.25 · 4 turns · 1,234+56 token…
────────────────────────────────────────────────────────────
row  question: What is the smaller angle between the hands …

student
  Help me:

      3:40

  then?

teacher  2.9 s · 1,234+56 tokens · big · 2 retries
  Let me place both hands. Let me place both hands. Let me
  place both hands. Let me place both hands. Let me place
  both hands. Let me place both hands. Let me place both
  hands. Let me place both hands. Let me place both hands.
  Let me place both hands. Let me place both hands. Let me
  place both hands. The answer is (B).
  → answer: B

extract  said: B · teacher: B · student: null

student  5 ms
  ␛[2JHm.
  error: the reply is not JSON
  sample 1 of 2: ␛[2JHm.
  sample 2 of 2: Other
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	full := printed(t, dialogue(), printOptions{Width: 60, Full: true})
	for _, want := range []string{"\nrow\n  {\n    \"question\"", "    \"said\": \"B\",\n", "\n  sample 2 of 2\n  Other\n"} {
		if !strings.Contains(full, want) {
			t.Errorf("--full has no %q:\n%s", want, full)
		}
	}
}

func TestPrintFitsTheTerminal(t *testing.T) {
	for width := 30; width < 140; width += 7 {
		for i, l := range strings.Split(printed(t, dialogue(), printOptions{Width: width, Color: newColor()}), "\n") {
			if n := ansi.StringWidth(l); n > width {
				t.Errorf("at width %d line %d is %d wide: %q", width, i+1, n, l)
			}
		}
	}
}

func TestPrintColours(t *testing.T) {
	col := newColor()
	out := printed(t, dialogue(), printOptions{Color: col})
	student, teacher := col.role("student"), col.role("teacher")
	if n := strings.Count(out, student); n != 2 || student == strings.ReplaceAll(teacher, "teacher", "student") {
		t.Errorf("student is in its colour %d times, want 2, and not that of teacher:\n%q", n, out)
	}
	if !strings.Contains(out, "\x1b[31merror: the reply is not JSON") {
		t.Errorf("the error is not red:\n%q", out)
	}
	if ansi.Strip(out) != printed(t, dialogue(), printOptions{}) {
		t.Error("colours change the text")
	}
	if other := newColor().role("student"); other != student {
		t.Errorf("the colour of student is %q and then %q", student, other)
	}
}

func TestFold(t *testing.T) {
	for raw, want := range map[string]string{
		`{"b":1,"a":0.8275862068965517,"c":1e300,"d":12345678}`: "b: 1 · a: 0.827586 · c: 1e+300 · d: 12345678",
		`{"t":"two\nlines","e":"","n":null,"l":[1,{"x":"y"}]}`:  `t: two lines · e: "" · n: null · l: [1,{"x":"y"}]`,
		`{}`: "{}", `[1,2]`: "[1,2]", `"a  b"`: "a b", `true`: "true", ``: "",
	} {
		if got := fold(matrix.RawValue([]byte(raw))); got != want {
			t.Errorf("fold(%s) is %q, want %q", raw, got, want)
		}
	}
}

func TestPrintFailed(t *testing.T) {
	task := &matrix.Task{ID: "x", Outcome: &matrix.Outcome{Status: matrix.Failed, Cause: "a.jsonl:3: not valid JSON"}}
	if got, want := printed(t, task, printOptions{}), "x  failed · 0 turns\n  a.jsonl:3: not valid JSON\n"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want it to begin with %q", got, want)
	}
}

// The headline is one line, however long the value is that the flow finished with.
func TestPrintHeadline(t *testing.T) {
	task := dialogue()
	task.ID = "q\n7"
	raw := `{"story":"` + strings.Repeat("Once upon a time. ", 50) + `","more":"` + strings.Repeat("And then. ", 50) + `"}`
	for _, value := range []string{raw, `"` + strings.Repeat("word\\n", 200) + `"`, `[` + strings.Repeat("1,", 500) + `1]`} {
		task.Outcome.Value = matrix.RawValue([]byte(value))
		for _, width := range []int{0, 40, 80, 200} {
			lines := strings.Split(printed(t, task, printOptions{Width: width, Color: newColor()}), "\n")
			head, rule := ansi.Strip(lines[0]), ansi.Strip(lines[1])
			if !strings.HasPrefix(head, "q 7  done ") || strings.Trim(rule, "─") != "" {
				t.Errorf("at width %d: got %q and %q, want one line and a rule", width, head, rule)
			}
			if width != 40 && !strings.HasSuffix(head, " · 4 turns · 1,234+56 tokens · 2.9 s") || len([]rune(head)) > 200 {
				t.Errorf("at width %d: got %q, want the value cut alone", width, head)
			}
		}
	}
}
