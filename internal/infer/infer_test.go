package infer

import "testing"

func TestStem(t *testing.T) {
	for path, want := range map[string]string{
		"/a/rows.jsonl.gz": "rows", "/a/part-*.jsonl": "part", "/a/questions/*.jsonl": "questions", "/a/.b.jsonl": "b",
		"/a/x y.csv": "xy", "/*": "rows", "/a/fragen_ü-1.parquet": "fragen_ü-1",
	} {
		if got := stem(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}
