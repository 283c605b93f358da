package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"matrix/internal/hub/hubtest"
)

// A training set is pushed whole, from the folder of an export and from that of a run; the
// token is shown nowhere.
func TestPush(t *testing.T) {
	h := hubtest.New()
	defer h.Close()
	h.Multipart = 300
	t.Setenv("HF_TOKEN", h.Token)
	t.Setenv("HF_ENDPOINT", h.URL())
	push := func(code int, texts ...string) result {
		t.Helper()
		return matrixCmd("push", texts[0], texts[1]).want(t, code, append(texts[2:], "!"+h.Token)...)
	}
	dir := ran(t, echo, rows(300))
	set := filepath.Join(t.TempDir(), "set")
	matrixCmd("export", dir, "-o", set, "--as", "parquet", "--max-shard-size", "10KB").want(t, 0)
	push(0, set, "org/set", h.URL()+"/datasets/org/set", "files sent", "sent data/train-00000-of-0000")
	for path, content := range h.Files("org/set") {
		if path != ".gitattributes" && content != read(t, set, path) {
			t.Errorf("%s is another file at the hub", path)
		}
	}
	push(0, set, "org/set", "holds all that already")
	matrixCmd("export", dir, "-o", set, "--as", "parquet", "--force").want(t, 0)
	push(0, set, "org/set", "2 files sent", "of an earlier export removed")
	if got := h.Files("org/set"); len(got) != 3 || got["data/train-00000-of-00001.parquet"] == "" {
		t.Errorf("got %d files, want the attributes, the card and one of rows", len(got))
	}

	config := echo + "output: {export: {format: messages}}\n"
	run := ran(t, config, rows(5))
	push(0, run, "org/run", "2 files sent")
	if got := h.Files("org/run")["data/train-00000-of-00001.jsonl"]; strings.Count(got, "\n") != 5 {
		t.Errorf("got %q", got)
	}
	if wrong := h.Wrong(); len(wrong) > 0 {
		t.Errorf("the hub was asked what it does not know: %v", wrong)
	}

	// What is wrong is said, with what to do.
	push(2, dir, "org/set", "holds no training set", "matrix export")
	push(2, "nowhere", "org/set", "no such folder")
	sources := t.TempDir()
	if err := os.WriteFile(filepath.Join(sources, "README.md"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	push(2, sources, "org/set", "holds no training set")
	push(2, set, "set", "does not name a dataset of the hub")
	push(1, set, "others/set", "403 Forbidden", "needs the right to write to others")
	for status, want := range map[int]string{401: "HF_TOKEN is not a token", 404: "Check the name", 409: "Others write to the dataset", 413: "has no room for it", 402: "has no room for it"} {
		h.Refuse = func(r *http.Request) (int, string, string) {
			if strings.Contains(r.URL.Path, "/commit/") || strings.Contains(r.URL.Path, "/preupload/") {
				return status, "", "because of " + h.Token
			}
			return 0, "", ""
		}
		if err := os.WriteFile(filepath.Join(set, "NOTES.md"), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
		push(1, set, "org/set", want, "because of ***")
	}
	h.Refuse = nil
	if err := os.WriteFile(filepath.Join(run, "export", "part-00000.jsonl"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	push(2, run, "org/run", "is not made yet")
	t.Setenv("HF_ENDPOINT", "hub.example")
	push(2, set, "org/set", "HF_ENDPOINT")
	t.Setenv("HF_TOKEN", "")
	matrixCmd("push", set, "org/set").want(t, 2, "HF_TOKEN is not set")
}
