package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
)

// A document is read whole where it is JSON, and its texts are what
// encoding/json makes of them.
func FuzzReader(f *testing.F) {
	for _, s := range []string{
		`null`, ` true `, `[1, -2.5e3, "a\u00e9\n\ud83d\ude00", {"a": {"a": []}}]`, `{"a":1,"a":2}`, `-0`, `01`, `1.`, `.5`, `1e`, `1e+5`, `nul`, `falsee`,
		"\"\xff\\n\xc3\"", "\"\x01\"", `"\ud800\ud83d\ude00"`, `"\ud800\n"`, `"\ud800\u"`, `"a`, `"a\`, `{"a"}`, `[1,]`, `{"a":1,}`, `1 2`, "\ufeff1", `"\/\b\f\r\t\"\\"`, `"\x"`, `-`, ``, "\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := New(s)
		raw := r.Raw()
		if valid := json.Valid([]byte(s)); r.OK() != valid || (r.End() == nil) != valid {
			t.Fatalf("%q: got OK %v, End %v, want %v", s, r.OK(), r.End(), valid)
		}
		if want := strings.Trim(s, " \t\r\n"); r.OK() && raw != want {
			t.Errorf("got raw %q, want %q", raw, want)
		}
		var want string
		if raw == "" || raw[0] != '"' || json.Unmarshal([]byte(raw), &want) != nil {
			return
		}
		r = New(s)
		if got := r.Text(); r.OK() && got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	})
}

// visit reads {"n": int, "f": float, "b": bool, "t": text, "l": [int]}.
func visit(s string) (n int, f float64, b bool, t string, l []int, err error) {
	r := New(s)
	for key := range r.Object {
		switch key {
		case "n":
			n = r.Int()
		case "f":
			f = r.Float(32)
		case "b":
			b = r.Bool()
		case "t":
			if !r.Null() {
				t = r.Text()
			}
		case "l":
			for range r.List {
				l = append(l, r.Int())
			}
		default:
			r.Skip()
		}
	}
	return n, f, b, t, l, r.End()
}

func TestReader(t *testing.T) {
	n, f, b, text, l, err := visit(` {"x":[{"n":"no"},[]], "\u006e" : -7,"f":2.5E0,"b":true,"t":"a\nb","l":[1 , 2]} `)
	if n != -7 || f != 2.5 || !b || text != "a\nb" || len(l) != 2 || l[1] != 2 || err != nil {
		t.Errorf("got %v %v %v %q %v, %v", n, f, b, text, l, err)
	}
	for s, want := range map[string]string{
		`{"t":null}`:                   "",
		`[]`:                           "it is not an object",
		`{"n":1.0}`:                    `"n" is not a whole number`,
		`{"n":1e2}`:                    `"n" is not a whole number`,
		`{"n":9223372036854775808}`:    `"n" is not a whole number`,
		`{"n":"1"}`:                    `"n" is not a number`,
		`{"f":1e39}`:                   `"f" is not a number`,
		`{"b":null}`:                   `"b" is not true or false`,
		`{"t":5,"n":1}`:                `"t" is not a text`,
		`{"l":{}}`:                     `"l" is not a list`,
		`{"l":[1,[]]}`:                 `"l" is not a number`,
		`{"n":1} x`:                    "invalid character 'x' after top-level value",
		`{"n":1`:                       "unexpected end of JSON input",
		`{"x":[1}`:                     "invalid character '}' after array element",
		``:                             "unexpected end of JSON input",
		"{\"t\":\"a\nb\"}":             `invalid character '\n' in string literal`,
		strings.Repeat("[", 100000):    "exceeded max depth",
		`{"n":1,"x":{"n":2},"t":"a}`:   "unexpected end of JSON input",
		`{"t":"\ud8zz"}`:               `invalid character 'z' in \u hexadecimal character escape`,
		`{"x":` + deep(10000-1) + `}`:  "",
		`{"x":` + deep(10000) + `}`:    "exceeded max depth",
		`{"x":[],"x":{},"l":[],"n":0}`: "",
	} {
		_, _, _, _, _, err := visit(s)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.40s: got %v, want %q", s, err, want)
		}
	}
}

func deep(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// A reader that has stopped stays so, whatever it is asked.
func TestReaderStops(t *testing.T) {
	r := New(`[1, "a", {"b": 2}]`)
	r.List(func() bool {
		r.Text()
		if r.Next() != 0 || r.Text() != "" || r.Int() != 0 || r.Raw() != "" || r.Null() || r.Bool() {
			t.Error("reads on")
		}
		for range r.Object {
			t.Error("an object")
		}
		return true
	})
	if err := r.End(); err == nil || err.Error() != "it is not a text" {
		t.Errorf("got %v", err)
	}
	r = New(`{"vector": "AAA="}`)
	for range r.Object {
		r.Text()
		r.Refuse("a vector")
	}
	if err := r.End(); err == nil || err.Error() != `"vector" is not a vector` {
		t.Errorf("got %v", err)
	}
}
