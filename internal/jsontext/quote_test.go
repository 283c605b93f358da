package jsontext

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// A string is written as encoding/json reads it back.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "a \"b\" \\ \n\t\r\x7f <&>", "é 珊瑚 long enough for words", "\xff", "\u2028", "\x00", "🐎", "\xf0\x9f\x90"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			t.Fatal(err)
		}
		var g, w string
		got := AppendString(nil, s)
		if err := json.Unmarshal(got, &g); err != nil {
			t.Fatalf("got %q: %v", got, err)
		}
		if err := json.Unmarshal(want.Bytes(), &w); err != nil || g != w {
			t.Errorf("got %q, want %q", got, want.Bytes())
		}
	})
}

func BenchmarkAppendString(b *testing.B) {
	for name, s := range map[string]string{
		"lines":   strings.Repeat("line\n", 400),
		"plain":   strings.Repeat("word ", 400),
		"chinese": strings.Repeat("珊瑚", 333),
		"french":  strings.Repeat("élève à l'école ", 100),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			var buf []byte
			for b.Loop() {
				buf = AppendString(buf[:0], s)
			}
		})
	}
}
