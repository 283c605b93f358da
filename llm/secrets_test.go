package llm

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSecretsHide(t *testing.T) {
	const key = `sk-a/b"c\d<e>12345`
	s := Secrets{{Text: key, Shown: "${env:KEY}"}, {Text: "short", Shown: "***"}}
	quoted, _ := json.Marshal(key)
	for _, c := range []struct{ in, want string }{
		{"key " + key + ".", "key ${env:KEY}."},
		{`{"message":` + string(quoted) + `}`, `{"message":"${env:KEY}"}`},
		{`{"message":"sk-a\/b\"c\\d\u003ce\u003E12345"}`, `{"message":"${env:KEY}"}`},
		{`sk-a\/b\"c\\d<e>1234`, `sk-a\/b\"c\\d<e>1234`}, // not all of it
		{"a short word", "a short word"},
		{`\`, `\`}, {`\u00`, `\u00`}, {"", ""},
	} {
		if got := s.Hide(c.in); got != c.want {
			t.Errorf("Hide(%s): got %s, want %s", c.in, got, c.want)
		}
	}
	// What is hidden before it is cut leaves nothing of the secret.
	long := strings.Repeat("x", 95) + key
	if got := Shorten(s.Hide(long), 100); strings.Contains(got, "sk-a") {
		t.Errorf("got %s: the beginning of the secret is there", got)
	}
}

func TestSecretsHideJSON(t *testing.T) {
	s := Secrets{{"vendor-secret", "${env:V}", "vendor_key"}, {"prod", "${env:TIER}", "tier"}, {"1234567890", "${env:N}", "account"}, {"a<b>c\"d e", "***", "x"}}
	for in, want := range map[string]string{
		`{"n":1,"temperature":0.10,"seed":123456}`:       `{"n":1,"temperature":0.10,"seed":123456}`,
		`{"n":2,"vendor_key":"vendor-secret"}`:           `{"n":2,"vendor_key":"${env:V}"}`,
		`{"tier":"prod","of":"prod","prod":1}`:           `{"of":"prod","prod":1,"tier":"${env:TIER}"}`,
		`{"account":1234567890,"n":[{"tier":["prod"]}]}`: `{"account":"${env:N}","n":[{"tier":["${env:TIER}"]}]}`,
		`{"x":"is a\u003cb\u003ec\"d e"}`:                `{"x":"is ***"}`,
		`{"x":"a<b>c\"d e"}`:                             `{"x":"***"}`,
		``:                                               ``,
	} {
		if got := string(s.HideJSON(json.RawMessage(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
