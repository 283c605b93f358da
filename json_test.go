package matrix

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
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
		got, ok := decodeFast(raw)
		want, err := decodeSlowly(raw)
		if ok && (err != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%q: got %#v, want %#v, %v", raw, got, want, err)
		}
		if !ok && err == nil {
			t.Errorf("%q: not parsed, want %#v", raw, want)
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
