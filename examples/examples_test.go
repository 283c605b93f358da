package examples_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"matrix/cli"
	"matrix/examples"
)

// summary is what these tests look at in a summary.json.
type summary struct {
	Tasks, Done, Dropped, Failed, Owed int64
	Finished                           bool
	Metrics                            map[string]struct{ Count, Sum float64 }
}

// command runs the command line and returns what it printed.
func command(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := (cli.Program{In: strings.NewReader(""), Out: &out, Err: &errs}).Main(args); code != 0 {
		t.Fatalf("matrix %s: got exit code %d, want 0\n%s%s", strings.Join(args, " "), code, &out, &errs)
	}
	return out.String()
}

// play runs a config to its end in a folder of its own, checks that the output
// is complete, and returns the summary.
func play(t *testing.T, config string, overrides ...string) summary {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	command(t, append([]string{"run", config, "out=" + dir}, overrides...)...)
	command(t, "verify", dir, "--complete")
	b, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s summary
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("summary.json: %v\n%s", err, b)
	}
	if s.Owed != 0 || !s.Finished {
		t.Errorf("%s: got %d tasks pending and finished %v, want 0 and true", config, s.Owed, s.Finished)
	}
	return s
}

// check compares the sums of metrics, and how many tasks ended how.
func (s summary) check(t *testing.T, done, failed int64, sums map[string]float64) {
	t.Helper()
	if s.Done != done || s.Failed != failed || s.Tasks-s.Dropped != done+failed {
		t.Errorf("got %d tasks that were not dropped, %d done and %d failed, want %d, %d and %d", s.Tasks-s.Dropped, s.Done, s.Failed, done+failed, done, failed)
	}
	for name, want := range sums {
		if got := s.Metrics[name].Sum; got != want {
			t.Errorf("sum of %s: got %v, want %v", name, got, want)
		}
	}
}

func TestCoral(t *testing.T) {
	play(t, "coral").check(t, 20, 0, map[string]float64{
		"agreement": 18, "agreement_correct": 16,
		"teacher_answered": 20, "student_answered": 20, "teacher_correct": 18, "student_correct": 16,
	})
}

func TestCoralReplay(t *testing.T) {
	play(t, "coral/replay.yaml", "rounds=2", "trials=2").check(t, 40, 0, map[string]float64{
		"agreement": 2 * 6, "agreement_correct": 2 * 5,
	})
}

// The real recordings are not part of the project.
func TestCoralRealData(t *testing.T) {
	data := filepath.Join("..", "..", "shared", "data", "mmlu_pro")
	if _, err := os.Stat(data); err != nil {
		t.Skipf("the MMLU-Pro recordings are not here: %v", err)
	}
	play(t, "coral/replay.yaml", "rounds=2",
		"dataset.path="+filepath.Join(data, "questions.jsonl"),
		"models.teacher.path="+filepath.Join(data, "replies_llama-3.1-70b-instruct.jsonl"),
		"models.student.path="+filepath.Join(data, "replies_llama-3.1-8b-instruct.jsonl"),
	).check(t, 700, 0, map[string]float64{
		"agreement": 334, "agreement_correct": 265,
		"teacher_answered": 685, "student_answered": 649, "teacher_correct": 448, "student_correct": 317,
	})
}

// serve is an OpenAI-compatible endpoint that replies by what it is asked.
func serve(t *testing.T, reply func(system, prompt string) string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Model    string
			Messages []struct{ Role, Content string }
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Messages) < 2 || r.URL.Path != "/v1/chat/completions" {
			http.Error(w, "want a chat of two messages or more at /v1/chat/completions", http.StatusBadRequest)
			return
		}
		text := reply(q.Messages[0].Content, q.Messages[len(q.Messages)-1].Content)
		json.NewEncoder(w).Encode(map[string]any{
			"model":   q.Model,
			"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": text}}},
			"usage":   map[string]any{"prompt_tokens": 10, "completion_tokens": 5},
		})
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1"
}

func TestCoralLive(t *testing.T) {
	always := func(letter string) func(string, string) string {
		return func(string, string) string { return "I am sure. The answer is (" + letter + ")." }
	}
	t.Setenv("TEACHER_URL", serve(t, always("B")))
	t.Setenv("STUDENT_URL", serve(t, always("C")))
	t.Setenv("MATRIX_BASE_URL", serve(t, always("B")))
	t.Run("mmlu_pro", func(t *testing.T) { // they never agree
		s := play(t, "coral/mmlu_pro.yaml", "rounds=5")
		s.check(t, 20, 0, map[string]float64{"agreement": 0, "teacher_answered": 20, "student_answered": 20})
	})
	t.Run("own_model", func(t *testing.T) { // it agrees with itself
		play(t, "coral/own_model.yaml").check(t, 20, 0, map[string]float64{"agreement": 20})
	})
}

// Set MATRIX_TEST_BASE_URL to let a real model debate two questions.
func TestCoralRealModel(t *testing.T) {
	url := os.Getenv("MATRIX_TEST_BASE_URL")
	if url == "" {
		t.Skip("MATRIX_TEST_BASE_URL names no OpenAI-compatible server")
	}
	t.Setenv("MATRIX_BASE_URL", url)
	s := play(t, "coral/own_model.yaml", "dataset.limit=2", "rounds=2", "models.teacher.max_tokens=60")
	if s.Done != 2 {
		t.Errorf("got %d tasks done, want 2", s.Done)
	}
}

func TestCuration(t *testing.T) {
	s := play(t, "curation")
	s.check(t, 6, 0, map[string]float64{"score": 30})
	if s.Dropped != 6 {
		t.Errorf("got %d documents dropped, want 6", s.Dropped)
	}
}

func TestDocuments(t *testing.T) {
	s := play(t, "documents")
	s.check(t, 3+8+8, 0, map[string]float64{"pairs": 8})
	if s.Dropped != 8 {
		t.Errorf("got %d pairs dropped, want 8", s.Dropped)
	}
}

func TestDocumentsLive(t *testing.T) {
	t.Setenv("WRITER_URL", serve(t, func(system, user string) string {
		if strings.Contains(system, "questions") {
			return `{"pairs": [{"question": "What is there?", "answer": "The"}, {"question": "And?", "answer": "a dragon"}]}`
		}
		if !strings.Contains(user, "- What is there? The") {
			return ""
		}
		return "It tells of many things."
	}))
	play(t, "documents", "models=live", "dataset.limit=1").check(t, 1+3+3, 0, map[string]float64{"pairs": 3})
}

func TestCurationLive(t *testing.T) {
	url := serve(t, func(system, _ string) string {
		if strings.Contains(system, "rate") {
			return "```json\n{\"score\": 5, \"reason\": \"clear\"}\n```"
		}
		return `{"question": "Why is that so?", "answer": "Because."}`
	})
	t.Setenv("JUDGE_URL", url)
	t.Setenv("WRITER_URL", url)
	play(t, "curation", "models=live", "min_score=4").check(t, 7, 0, map[string]float64{"score": 35})
}

func TestCommand(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3")
	}
	play(t, "command").check(t, 5, 1, map[string]float64{"word_count": 19 + 21 + 23 + 20 + 22})
}

func TestTools(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3")
	}
	play(t, "tools").check(t, 5, 0, map[string]float64{"correct": 5, "calls": 1 + 3 + 2 + 0 + 1})
}

// A server that calls the tool once for each question, and then says what it was
// told.
func TestToolsLive(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Messages []struct {
				Role       string
				Content    any
				ToolCallID string           `json:"tool_call_id"`
				ToolCalls  []map[string]any `json:"tool_calls"`
			}
			Tools []struct{ Function struct{ Name string } }
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Tools) != 1 || q.Tools[0].Function.Name != "calculate" {
			http.Error(w, "want a chat with one tool", http.StatusBadRequest)
			return
		}
		message, finish := map[string]any{"role": "assistant"}, "tool_calls"
		switch last := q.Messages[len(q.Messages)-1]; {
		case last.Role == "user":
			message["content"] = nil
			message["tool_calls"] = []any{map[string]any{"id": "c1", "type": "function",
				"function": map[string]any{"name": "calculate", "arguments": `{"expression": "6 * 7"}`}}}
		case last.Role == "tool" && last.ToolCallID == "c1" && len(q.Messages[len(q.Messages)-2].ToolCalls) == 1:
			message["content"], finish = fmt.Sprintf("ANSWER: %v", last.Content), "stop"
		default:
			http.Error(w, fmt.Sprintf("got a last message %+v", last), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"model": "m", "usage": map[string]any{"prompt_tokens": 10, "completion_tokens": 5},
			"choices": []any{map[string]any{"index": 0, "finish_reason": finish, "message": message}}})
	}))
	t.Cleanup(s.Close)
	t.Setenv("SOLVER_URL", s.URL)
	play(t, "tools", "models=live").check(t, 5, 0, map[string]float64{"correct": 0, "calls": 5})
}

// Each example that travels in the binary is complete.
func TestFS(t *testing.T) {
	dirs, err := fs.ReadDir(examples.FS, ".")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("got %d examples and error %v", len(dirs), err)
	}
	for _, d := range dirs {
		for _, name := range []string{"config.yaml", "README.md"} {
			if _, err := fs.Stat(examples.FS, d.Name()+"/"+name); err != nil {
				t.Error(err)
			}
		}
	}
}

// exported reads the lines of a file of a training set.
func exported[T any](t *testing.T, path ...string) (rows []T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var row T
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// chat is a row of messages.
type chat struct {
	ID       string
	Messages []struct{ Role, Content string }
}

func TestPersona(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	command(t, "run", "persona", "out="+dir)
	command(t, "verify", dir, "--complete")
	chats := append(exported[chat](t, dir, "export", "data", "train-00000-of-00001.jsonl"), exported[chat](t, dir, "export", "data", "test-00000-of-00001.jsonl")...)
	if len(chats) != 8 { // of ten one asked nothing, and one was answered nothing
		t.Errorf("got %d chats, want 8", len(chats))
	}
	for _, c := range chats {
		for i, m := range c.Messages {
			if want := []string{"user", "assistant"}[(i+1)%2]; i > 0 && m.Role != want || i == 0 && m.Role != "system" {
				t.Errorf("%s: message %d is of %s", c.ID, i, m.Role)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "export", "README.md")); err != nil {
		t.Error(err)
	}
}

func TestPersonaLive(t *testing.T) {
	t.Setenv("BASE_URL", serve(t, func(system, _ string) string {
		if strings.HasPrefix(system, "You are a helpful") {
			return "That takes some words to say."
		}
		return "And what then?"
	}))
	play(t, "persona", "models=live").check(t, 10, 0, map[string]float64{"answers": 30})
}

func TestPreferences(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	command(t, "run", "preferences", "out="+dir, "output.export.as=jsonl")
	pairs := exported[struct {
		ID               string
		Prompt           []struct{ Role, Content string }
		Chosen, Rejected []struct{ Content string }
		Margin           float64
	}](t, dir, "export", "data", "train-00000-of-00001.jsonl")
	got := map[string]string{}
	for _, p := range pairs {
		got[p.ID] = fmt.Sprint(p.Chosen[0].Content, " / ", p.Rejected[0].Content, " / ", p.Margin)
	}
	if len(got) != 4 || got["moon"] != "We see more or less of its lit half. / Clouds. / 7" {
		t.Errorf("got %d pairs, that of moon is %q", len(got), got["moon"])
	}
	best := filepath.Join(t.TempDir(), "best.jsonl")
	command(t, "export", dir, "-o", best, "--assistant", "write", "--score", `turn("judge").data.scores[index]`)
	if rows := exported[chat](t, best); len(rows) != 6 || len(rows[0].Messages) != 3 {
		t.Errorf("got %d best answers, want 6", len(rows))
	}
	play(t, "preferences").check(t, 6, 0, map[string]float64{"best": 48}) // in Parquet
}

func TestLabels(t *testing.T) {
	dir, rows := filepath.Join(t.TempDir(), "out"), filepath.Join("labels", "data", "reviews.jsonl")
	command(t, "run", "labels", "out="+dir)
	for _, ending := range []string{".parquet", ".jsonl"} {
		command(t, "export", dir, "-o", dir+ending, "--join", rows, "--column", "label=value.label", "--column", "sure=value.sure")
	}
	type review struct {
		ID, Text, Sold string
		Stars          int
		Label          *string
	}
	before, after := exported[review](t, rows), exported[review](t, dir+".jsonl")
	if len(after) != len(before) {
		t.Fatalf("got %d rows, want %d", len(after), len(before))
	}
	for i, row := range after {
		label := row.Label
		if row.Label = nil; row != before[i] {
			t.Errorf("row %d is %+v, want %+v", i, row, before[i])
		}
		if (label == nil) != (row.Text == "") {
			t.Errorf("%s has the label %v", row.ID, label)
		}
	}
}

// Exactly so many are kept, and more of them on the same folder.
func TestSelfInstruct(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, kept := range []int{200, 220} {
		command(t, "run", "self-instruct", "out="+out, fmt.Sprint("until.kept=", kept), "until.most=100") // how many are under way at the goal depends on the machine
		command(t, "verify", out)
		b, err := os.ReadFile(filepath.Join(out, "summary.json"))
		if err != nil {
			t.Fatal(err)
		}
		var s summary
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		if s.Done != int64(kept) || s.Failed != 0 || s.Dropped < 30 || !s.Finished {
			t.Errorf("got %+v, want %d kept", s, kept)
		}
	}
}

// reasons are those for which a run dropped tasks, as its summary counts them.
func reasons(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Reasons []struct {
			Cause string
			Count int64
		}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	n := map[string]int64{}
	for _, r := range s.Reasons {
		n[r.Cause] = r.Count
	}
	return n
}

// question is a row of the training set of naturalreasoning.
type question struct {
	Question, Category, Response string
	Answer                       string `json:"reference_answer"`
}

func TestNaturalReasoning(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	command(t, "run", "naturalreasoning", "live=1", "out="+dir)
	command(t, "verify", dir, "--complete")
	want := map[string]int64{
		"filter_by_en": 1, "filter_by_length": 1, "filter_by_classifier": 1, "filter_by_score": 1, "filter_by_score_wo_json": 1,
		"filter_by_no_boxed_answer": 1, `# words in common with "..."`: 1, `near-duplicate of "..." (#.#)`: 1,
	}
	if got := reasons(t, dir); !maps.Equal(got, want) {
		t.Errorf("dropped for %v, want %v", got, want)
	}
	answers := map[string]string{}
	for _, q := range exported[question](t, dir, "export", "data", "train-00000-of-00001.jsonl") {
		answers[q.Category] = q.Answer
		if !strings.HasSuffix(q.Response, `Therefore, the final answer is: \boxed{`+q.Answer+"}.") {
			t.Errorf("%s: the response does not end in the answer: %s", q.Question, q.Response)
		}
	}
	if want := map[string]string{"chemistry": "4.67", "mathematics": "57"}; !maps.Equal(answers, want) {
		t.Errorf("got the reference answers %v, want %v", answers, want)
	}
}

// The reasons that no recorded reply is for.
func TestNaturalReasoningLive(t *testing.T) {
	const duplicate = `near-duplicate of "..." (#.#)`
	good := `{"criteria_1": 1, "criteria_2": 1, "criteria_3": 1, "criteria_4": 1}`
	for reason, reply := range map[string]string{
		"filter_by_question_wo_json": "I can think of none.",
		"filter_by_no_question":      `{"exam_question": "", "question_category": "other"}`,
		"filter_by_no_answer":        `{"exam_question": "Why?", "question_category": "other", "extracted_answer": "42", "independent_answer": []}`,
		"filter_by_no_boxed_answer":  `{"exam_question": "Why?", "independent_answer": ["\\boxed{42}", "So it is 42."]}`,
		duplicate:                    `{"exam_question": "Why?", "independent_answer": ["It is \\boxed{42}."]}`,
	} {
		t.Run(reason, func(t *testing.T) {
			t.Setenv("FILTER_URL", serve(t, func(system, _ string) string {
				switch {
				case strings.Contains(system, "Yes or No"):
					return "Yes"
				case strings.Contains(system, "criteria_1"):
					return "Points:\n```json\n" + good + "\n```"
				}
				return reply
			}))
			dir := filepath.Join(t.TempDir(), "out")
			command(t, "run", "naturalreasoning", "models=live", "out="+dir)
			want := map[string]int64{"filter_by_en": 1, "filter_by_length": 1, reason: 8}
			if reason == duplicate { // of the other eight, the first is kept
				want[reason] = 7
			}
			if got := reasons(t, dir); !maps.Equal(got, want) {
				t.Errorf("dropped for %v, want %v", got, want)
			}
		})
	}
}

func TestEvolInstruct(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	command(t, "run", "evol-instruct", "live=1", "out="+dir)
	command(t, "verify", dir, "--complete")
	seeds := map[string]bool{}
	for _, s := range exported[struct{ Instruction string }](t, "evol-instruct", "data", "seeds.jsonl") {
		seeds[s.Instruction] = true
	}
	rows := exported[struct {
		From     string
		Messages []struct{ Role, Content string }
	}](t, dir, "export", "data", "train-00000-of-00001.jsonl")
	made, again := map[string]bool{}, 0
	for _, r := range rows {
		text := r.Messages[0].Content
		if made[text] || seeds[text] || !strings.HasPrefix(text, r.From) {
			t.Errorf("%q, made of %q, is there already, or not made of it", text, r.From)
		}
		if made[text] = true; !seeds[r.From] {
			again++
		}
	}
	if len(rows) < 6 || again == 0 {
		t.Errorf("got %d instructions, %d of them evolved more than once", len(rows), again)
	}
}

func TestQA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	command(t, "run", "qa", "out="+dir)
	command(t, "verify", dir, "--complete")
	asked := map[string]bool{}
	rows := exported[struct{ Question, Answer, Context string }](t, dir, "export", "data", "train-00000-of-00001.jsonl")
	for _, r := range rows {
		if !strings.Contains(r.Context, r.Answer) || asked[r.Question] {
			t.Errorf("%q with %q was asked before, or is not what %q says", r.Question, r.Answer, r.Context)
		}
		asked[r.Question] = true
	}
	if len(rows) != 9 {
		t.Errorf("got %d pairs, want 9", len(rows))
	}
	s := play(t, "qa")
	if s.Done != 9 || s.Dropped != 5+1 || s.Tasks != 3+5+15 {
		t.Errorf("got %d done and %d dropped of %d, want 9 and 6 of 23", s.Done, s.Dropped, s.Tasks)
	}
}

func TestPII(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3")
	}
	dir := filepath.Join(t.TempDir(), "out")
	command(t, "run", "pii", "out="+dir)
	command(t, "verify", dir, "--complete")
	for _, r := range exported[struct{ Letter string }](t, dir, "export", "data", "train-00000-of-00001.jsonl") {
		for _, secret := range []string{"5550", "@", "Roe", "4111", "3704", "192.0"} {
			if strings.Contains(r.Letter, secret) {
				t.Errorf("%s stands in %q", secret, r.Letter)
			}
		}
	}
	parts, err := filepath.Glob(filepath.Join(dir, "dropped", "part-*.jsonl"))
	if err != nil || len(parts) != 1 {
		t.Fatalf("got the parts %v and error %v", parts, err)
	}
	if b, err := os.ReadFile(parts[0]); err != nil || bytes.Contains(b, []byte("horse")) {
		t.Errorf("the dropped letter is there: %v %s", err, b)
	}
	t.Setenv("WRITER_URL", serve(t, func(_, letter string) string {
		if strings.Contains(letter, "4111") {
			return ""
		}
		return "A letter."
	}))
	play(t, "pii", "models=live").check(t, 4, 0, map[string]float64{"redacted": 6})
}

// The sandboxes of the example are bubblewrap's.
func TestCode(t *testing.T) {
	if err := exec.Command("bwrap", "--unshare-user", "--ro-bind", "/", "/", "true").Run(); err != nil {
		t.Skipf("bubblewrap makes no sandbox here: %v", err)
	}
	play(t, "code").check(t, 2, 0, map[string]float64{"attempts": 3})
}
