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

// TestSecretsQuoted: a secret is found however often the text that holds it has
// been put into JSON, and however its characters were escaped there.
func TestSecretsQuoted(t *testing.T) {
	for _, secret := range []string{"sk-secret-1/+2", `quote"and\back`, "-----BEGIN\nKEY-----", "tab\tand é<&>"} {
		var s Secrets
		s.Add(secret)
		text := secret
		for depth := range 4 {
			for _, text := range []string{text, strings.ReplaceAll(text, "-", strings.Repeat(`\`, 1<<max(0, depth-1))+"u002D")} {
				if depth == 0 && text != secret {
					continue
				}
				if got := s.Hide("bad key: " + text + "!"); got != "bad key: ***!" {
					t.Errorf("%q, quoted %d times: got %s of %s", secret, depth, got, text)
				}
			}
			b, err := json.Marshal(text)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b[1 : len(b)-1])
		}
	}
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

// Arguments that are not an object stand in one as a text.
func TestArgumentsThatAreNone(t *testing.T) {
	for _, c := range []struct{ arguments, want string }{
		{"", `{}`}, {`{"a": 1}`, `{"a": 1}`}, {`[1]`, `{"arguments":"[1]"}`}, {`{"a`, `{"arguments":"{\"a"}`}, {" \n", `{}`}, {" {} ", `{}`}, {`null`, `{"arguments":"null"}`},
	} {
		if got := string((&ToolCall{Arguments: c.arguments}).Object()); got != c.want {
			t.Errorf("%q: got %s, want %s", c.arguments, got, c.want)
		}
	}
}
