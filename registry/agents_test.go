package registry

import (
	"encoding/base64"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"matrix"
)

func TestFolderOf(t *testing.T) {
	for _, tt := range []struct {
		paths []string
		want  string
	}{
		{[]string{"/a/rows.jsonl"}, "/a"},
		{[]string{"/a/x.jsonl", "/a/*.parquet"}, "/a"},
		{[]string{"/a/x.jsonl", "/b/y.jsonl"}, ""},
		{[]string{"/a/*/x.jsonl"}, ""},
		{nil, ""},
	} {
		if got := folderOf(tt.paths); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.paths, got, tt.want)
		}
	}
}

// act lets a role of a config act on a task with the item {"id":"a"}.
func act(t *testing.T, plan *Plan, role string) (matrix.Turn, error) {
	t.Helper()
	item, err := matrix.ParseValue([]byte(`{"id":"a","question":"1+1?"}`))
	if err != nil {
		t.Fatal(err)
	}
	return plan.Roles[role].Agent.Act(t.Context(), &matrix.Task{ID: "a", Row: "a", Item: item})
}

func TestAgentKinds(t *testing.T) {
	_, _, err := build(t, `
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "{{ prompt }} is 2"}
  lists: {kind: scripted, replies: {look: [{text: "a dot", tool_calls: [{name: f}]}], go: "ok"}}
roles:
  go: {complete: {model: m, prompt: "{{ item.question }}", parse: {regex: '\d$'}, stop: ["\n"], on_length: accept}}
  vec: {embed: {model: m, text: "{{ item.question }}"}}
  vecs: {embed: {model: lists, texts: '[item.question, "x"]'}}
  look: {chat: {model: lists, prompt: p, images: ["dot.png"], image_max_side: 0, tools: [{name: f}], on_refused: turn}}
flow: [go, vec, vecs, look]
`)
	if err == nil || !strings.Contains(err.Error(), `config.yaml:10:51: roles.look.chat.images.0: an entry is an expression, such as item.image; a fixed path is a text in it: '"dot.png"'`) {
		t.Fatalf("got %v, want an error: an image is an expression where it is not a template", err)
	}
	plan, dir, err := build(t, `
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "{{ prompt }} is 2"}
  lists: {kind: scripted, replies: {look: [{text: "a dot", tool_calls: [{name: f}]}], go: "ok"}}
roles:
  go: {complete: {model: m, prompt: "{{ item.question }}", parse: {regex: '\d$'}, stop: ["\n"], on_length: accept}}
  vec: {embed: {model: m, text: "{{ item.question }}"}}
  vecs: {embed: {model: lists, texts: '[item.question, "x"]'}}
  look: {chat: {model: lists, prompt: p, images: ["'dot.png'"], tools: [{name: f}], on_refused: turn}}
flow: [go, vec, vecs, look]
`)
	if err != nil {
		t.Fatal(err)
	}
	if turn, err := act(t, plan, "go"); err != nil || turn.Text != "1+1? is 2" || turn.Data.String() != `{"answer":"2"}` {
		t.Errorf("complete: got %+v, %v", turn, err)
	}
	turn, err := act(t, plan, "vec")
	data, _ := turn.Data.Any().(map[string]any)
	if vector, _ := data["vector"].([]any); err != nil || len(vector) != 16 {
		t.Errorf("embed: got %+v, %v", turn, err)
	}
	turn, err = act(t, plan, "vecs")
	data, _ = turn.Data.Any().(map[string]any)
	if vectors, _ := data["vectors"].([]any); err != nil || len(vectors) != 2 {
		t.Errorf("embed: got %+v, %v", turn, err)
	}
	if _, err := act(t, plan, "look"); err == nil || !strings.Contains(err.Error(), dir+"/dot.png: no such file") {
		t.Errorf("chat: got %v, want the image looked for beside the dataset", err)
	}
	write(t, dir, "dot.png", string(pixel(t)))
	if turn, err := act(t, plan, "look"); err != nil || turn.Text != "a dot" || len(turn.ToolCalls) != 1 || turn.ToolCalls[0].ID == "" {
		t.Errorf("chat: got %+v, %v", turn, err)
	}
}

// TestImagesOfParquet checks the form in which Hugging Face datasets keeps
// images, from the file to the request.
func TestImagesOfParquet(t *testing.T) {
	type image struct {
		Bytes []byte `parquet:"bytes,optional"`
		Path  string `parquet:"path,optional"`
	}
	type row struct {
		ID    string `parquet:"id"`
		Image image  `parquet:"image,optional"`
	}
	dot := pixel(t)
	path := filepath.Join(t.TempDir(), "rows.parquet")
	write(t, filepath.Dir(path), "dot.png", string(dot))
	if err := parquet.WriteFile(path, []row{{"bytes", image{dot, "gone.png"}}, {"path", image{nil, "dot.png"}}, {"none", image{nil, "gone.png"}}}); err != nil {
		t.Fatal(err)
	}
	plan, _, err := build(t, `
dataset: {path: `+path+`, id: id}
models: {m: {kind: scripted, reply: "a dot"}}
roles: {look: {chat: {model: m, prompt: "What is it?", images: [item.image]}}}
flow: [look]
`)
	if err != nil {
		t.Fatal(err)
	}
	fates := map[string]string{}
	err = plan.Source.Rows(t.Context(), matrix.Position{}, func(r matrix.Row) error {
		turn, err := plan.Roles["look"].Agent.Act(t.Context(), &matrix.Task{ID: r.ID, Row: r.ID, Item: r.Item})
		fates[r.ID] = turn.Text
		if err != nil {
			fates[r.ID] = err.Error()
		}
		return nil
	})
	want := map[string]string{"bytes": "a dot", "path": "a dot",
		"none": "image 1 of row none: stat " + filepath.Join(filepath.Dir(path), "gone.png") + ": no such file or directory"}
	if err != nil || !reflect.DeepEqual(fates, want) {
		t.Errorf("got %v, %v, want %v", fates, err, want)
	}
}

// pixel is a PNG of one pixel.
func pixel(t *testing.T) []byte {
	t.Helper()
	dot, err := base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
	if err != nil {
		t.Fatal(err)
	}
	return dot
}
