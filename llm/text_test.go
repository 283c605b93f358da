package llm

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestShorten(t *testing.T) {
	if got := Shorten("a\n  b\xff", 100); got != "a b\uFFFD" {
		t.Errorf("got %q", got)
	}
	if got := Shorten(strings.Repeat("é", 100), 11); !utf8.ValidString(got) || got != "ééééé... (200 bytes)" {
		t.Errorf("got %q", got)
	}
}

func TestSecrets(t *testing.T) {
	var s Secrets
	s.Add("sk-secret-1")
	s.Add("short")
	s.Add("")
	if got := s.Hide("sk-secret-1, short, and sk-secret-12"); got != "***, short, and ***2" {
		t.Errorf("got %q", got)
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("a \"b\" \\ \n\t\r\x00\x7f \u2028 <&> \xff\xc3 é 🙂")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		b := AppendString([]byte("x"), s)
		if err := json.Unmarshal(b[1:], &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if want := strings.Map(func(r rune) rune { return r }, s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestMerge(t *testing.T) {
	a, b := 0.1, 0.2
	base := Sampling{Temperature: &a, TopP: &a, MaxTokens: 5, N: 3, Stop: []string{"x"}, Extra: map[string]any{"k": 1, "l": 1}}
	got := Merge(base, Sampling{Temperature: &b, Stop: []string{}, Extra: map[string]any{"k": 2}})
	if *got.Temperature != 0.2 || *got.TopP != 0.1 || got.MaxTokens != 5 || got.N != 3 || len(got.Stop) != 0 || got.Extra["k"] != 2 || got.Extra["l"] != 1 {
		t.Errorf("got %+v", got)
	}
	if base.Extra["k"] != 1 {
		t.Error("the base was changed")
	}
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
