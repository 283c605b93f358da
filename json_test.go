package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// What is parsed in one pass is what encoding/json makes of it, and nothing is
// taken that it refuses.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`null`, ` true `, `[1, -2.5e3, "a\u00e9\n\ud83d\ude00", {"a": {"a": []}}]`, `{"a":1,"a":2}`, `12345678901234567890`, `-0`, `01`, `1.`, `.5`, `1e`,
		"\"\xff\"", "\"\x01\"", `"\ud800"`, `"a`, `{"a"}`, `[1,]`, `{"a":1,}`, `1 2`, `nul`, "\ufeff1", `"\/"`, `1e999`, `-`, ``, `["\\"]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, ok, _ := decodeFast(raw)
		want, err := decodeSlowly(raw)
		if ok && (err != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%q: got %#v, want %#v, %v", raw, got, want, err)
		}
		if !ok && err == nil {
			t.Errorf("%q: not parsed, want %#v", raw, want)
		}
	})
}

// strict says what a strict reader has against a document.
func strict(raw []byte) error {
	if !json.Valid(raw) || !utf8.Valid(raw) {
		return errors.New("not JSON in UTF-8")
	}
	for i := 0; i < len(raw); i++ { // a backslash stands in strings alone
		if raw[i] != '\\' {
			continue
		}
		i++
		if raw[i] != 'u' {
			continue
		}
		n, err := strconv.ParseUint(string(raw[i+1:i+5]), 16, 16)
		i += 4
		switch {
		case err != nil:
			return err
		case n>>10 == 0xdc00>>10:
			return fmt.Errorf("the second half of a pair alone: %x", n)
		case n>>10 == 0xd800>>10:
			low := uint64(0)
			if bytes.HasPrefix(raw[i+1:], []byte(`\u`)) {
				low, _ = strconv.ParseUint(string(raw[i+3:i+7]), 16, 16)
			}
			if low>>10 != 0xdc00>>10 {
				return fmt.Errorf("the first half of a pair alone: %x", n)
			}
			i += 6
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := strictValue(d); err != nil {
		return err
	}
	if t, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more follows: %v", t)
	}
	return nil
}

func strictValue(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		keys := map[any]bool{}
		for d.More() {
			key, err := d.Token()
			switch {
			case err != nil:
				return err
			case keys[key]:
				return fmt.Errorf("the key %q twice", key)
			}
			keys[key] = true
			if err := strictValue(d); err != nil {
				return err
			}
		}
		_, err = d.Token()
	case json.Delim('['):
		for d.More() {
			if err := strictValue(d); err != nil {
				return err
			}
		}
		_, err = d.Token()
	}
	if n, ok := t.(json.Number); ok {
		_, err = n.Float64()
	}
	return err
}

// What a Value is made of in any way is what strict readers take, and means
// what it meant. What is strict already is kept to the letter.
func FuzzStrict(f *testing.F) {
	for _, s := range []string{
		`null`, ` {"b": "\ud83d", "a" : [1.50, "\ud83d\ude00\u00e9<"]} `, `{"a":1,"b":2,"\u0061":{"c":[],"c":{}}}`, `1e400`, `-1e309`, `1e-400`, `[{"x":1E+999}]`,
		"{\"\xff\":1,\"\xfe\":2,\"n\":12345678901234567890}", "\"\xed\xa0\xbd\\n\"", `{"\ud800":1,"\udfff":[1,2]}`, `"\ude00\ud83d"`, `"\ud83d\ud83d\ude00"`, `{"a":1e999,"a":1}`,
		strings.Repeat("9", 308), strings.Repeat("9", 309), `{"a":1`, `"\\ud83d"`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		want, invalid := decodeSlowly(raw)
		strictly := strict(raw)
		made := ForeignValue(bytes.Clone(raw))
		if err := strict(made.Raw()); err != nil && len(raw) > 0 {
			t.Errorf("%q: a foreign value is %s: %v", raw, made, err)
		}
		v, err := ParseValue(bytes.Clone(raw))
		var x Value
		if e := x.UnmarshalJSON(raw); invalid == nil && (e == nil) != (err == nil) {
			t.Errorf("%q: unmarshalled with %v, parsed with %v", raw, e, err)
		}
		if err != nil {
			if strictly == nil || invalid == nil && !errors.Is(strictly, strconv.ErrRange) && !strings.Contains(err.Error(), "64-bit floats") {
				t.Errorf("%q: got %v", raw, err)
			}
			return
		}
		if invalid != nil {
			t.Fatalf("%q: parsed, and is invalid: %v", raw, invalid)
		}
		if strictly == nil && (!bytes.Equal(v.Raw(), raw) || !bytes.Equal(made.Raw(), raw) || !bytes.Equal(x.Raw(), raw)) {
			t.Errorf("%q: got %s, %s and %s, and it was strict", raw, v, made, x)
		}
		for _, v := range []Value{v, made, x} {
			if err := strict(v.Raw()); err != nil {
				t.Errorf("%q: got %q: %v", raw, v, err)
			}
			if got := v.Any(); !reflect.DeepEqual(got, want) {
				t.Errorf("%q: got %#v, want %#v", raw, got, want)
			}
			if got, err := decodeSlowly(v.Raw()); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%q: the text means %#v, %v, want %#v", raw, got, err, want)
			}
		}
	})
}

func TestDecodeDepth(t *testing.T) {
	for n, fine := range map[int]bool{1000: true, 10000: true, 10001: false} {
		raw := []byte(strings.Repeat("[", n) + strings.Repeat("]", n))
		if _, err := decode(raw); (err == nil) != fine {
			t.Errorf("%d lists inside one another: got %v", n, err)
		}
	}
}

func BenchmarkParseValue(b *testing.B) {
	text := strings.Repeat("Corals build reefs. ", 92)
	for name, raw := range map[string][]byte{
		"plain":     fmt.Appendf(nil, `{"id":"row 1","n":17,"scores":[0.5,1,2],"tags":{"a":"b","c":"d"},"text":%q}`, text),
		"escaped":   fmt.Appendf(nil, `{"id":"row 1","n":17,"scores":[0.5,1,2],"tags":{"a":"b","c":"d"},"text":%q}`, strings.ReplaceAll(text, ". ", ".\né")),
		"key twice": fmt.Appendf(nil, `{"id":"row 1","n":17,"scores":[0.5,1,2],"tags":{"a":"b","a":"d"},"text":%q}`, text),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseValue(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("foreign, "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ForeignValue(raw)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	raw := fmt.Appendf(nil, `{"id":"row 1","n":17,"scores":[0.5,1,2],"text":%q}`, strings.Repeat("Corals build reefs. ", 100))
	for name, f := range map[string]func([]byte) (any, error){"one pass": decode, "encoding/json": decodeSlowly} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
