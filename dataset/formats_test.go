package dataset_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix"
	"matrix/dataset"
)

// A schema stands once in a run, however many calls sent it, and comes back to
// who reads a line through RestoreFormats.
func TestFormatsStandOnce(t *testing.T) {
	const schema = `{"type":"object","properties":{"score":{"type":"integer"}},"required":["score"]}`
	params := []string{
		`{"temperature":0.5,"seed":1,"response_format":{"type":"json_schema","json_schema":{"name":"reply","schema":` + schema + `}}}`,
		`{"temperature":0.5,"seed":2,"response_format":{"type":"json_schema", "json_schema":{"name":"reply","schema":` + schema + `}}}`,
		`{"generationConfig":{"temperature":1,"responseJsonSchema":` + schema + `}}`,
		`{"seed":3,"structured_outputs":{"choice":["A","B"]}}`,
		`{"seed":4,"grammar":"root ::= \"a\""}`,
		`{"seed":5,"stop":["tools"],"response_format":null}`,
		`{}`, ``,
	}
	dir := t.TempDir()
	formats := filepath.Join(dir, "formats")
	write := func(folder string) {
		s, err := dataset.OpenSink(dataset.OS{}, filepath.Join(dir, folder), dataset.SinkOptions{Formats: dataset.NewFormats(dataset.OS{}, formats)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		task := &matrix.Task{ID: "a", Item: matrix.RawValue([]byte(`{}`))}
		for _, p := range params {
			task.Turns = append(task.Turns, matrix.Turn{Role: "r", Calls: []matrix.Call{{Kind: matrix.KindModel, Name: "m", Params: matrix.RawValue([]byte(p))}}})
		}
		if _, _, err := s.Write(t.Context(), []*matrix.Task{task}); err != nil {
			t.Fatal(err)
		}
		if got := string(task.Turns[0].Calls[0].Params.Raw()); got != params[0] {
			t.Errorf("the task itself was changed: %s", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write("data")
	files, _ := filepath.Glob(filepath.Join(formats, "*.json"))
	if len(files) != 4 {
		t.Errorf("got %d formats, want 4: %q", len(files), files)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		sum := sha256.Sum256(b)
		if err != nil || filepath.Base(name) != hex.EncodeToString(sum[:])+".json" || !json.Valid(b) {
			t.Errorf("%s: %v, holds %s", name, err, b)
		}
	}
	if err := os.Truncate(files[0], 3); err != nil { // as a crash may leave it
		t.Fatal(err)
	}
	write("failed")
	raw, err := os.ReadFile(filepath.Join(dir, "failed", "part-00000.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "required") || strings.Count(string(raw), `"sha256:`) != 5 {
		t.Errorf("got %s", raw)
	}
	task, err := dataset.ParseTask(raw)
	if err != nil {
		t.Fatal(err)
	}
	dataset.RestoreFormats(formats, task)
	for i, p := range params {
		if got := string(task.Turns[i].Calls[0].Params.Raw()); got != strings.ReplaceAll(strings.ReplaceAll(p, ", ", ","), "{}", "") {
			t.Errorf("%d: got %s back, want %s", i, got, p)
		}
	}
}
