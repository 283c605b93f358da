package jsonschema

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// doubling is a schema in which each of n levels holds a value against the next
// one twice.
func doubling(n int, keyword, leaf string) string {
	var b strings.Builder
	b.WriteString(`{"type":"object","properties":{"a":{"$ref":"#/$defs/d0"}},"$defs":{`)
	for i := range n {
		fmt.Fprintf(&b, `"d%d":{"%s":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, keyword, i+1, i+1)
	}
	fmt.Fprintf(&b, `"d%d":%s}}`, n, leaf)
	return b.String()
}

// TestWork checks that a validation ends within seconds, whatever the schema.
func TestWork(t *testing.T) {
	many := make([]any, 100_000)
	for i := range many {
		many[i] = "x"
	}
	var enum strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&enum, `"w%d",`, i)
	}
	for name, tt := range map[string]struct {
		schema string
		value  any
	}{
		"allOf":     {doubling(40, "allOf", `{}`), map[string]any{"a": 1}},
		"anyOf":     {doubling(40, "anyOf", `{"type":"string"}`), map[string]any{"a": 1}},
		"oneOf":     {doubling(40, "oneOf", `{"type":"string"}`), map[string]any{"a": 1}},
		"not":       {strings.Replace(doubling(40, "anyOf", `{"type":"string"}`), `{"$ref":"#/$defs/d0"}`, `{"not":{"$ref":"#/$defs/d0"}}`, 1), map[string]any{"a": 1}},
		"a failure": {doubling(40, "allOf", `{"minimum":2}`), map[string]any{"a": 1}},
		"enum":      {`{"items":{"enum":[` + enum.String() + `1]}}`, many},
	} {
		c, err := Compile(tt.schema)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		start := time.Now()
		if err := c.Check(tt.value); !errors.Is(err, ErrWork) {
			t.Errorf("%s: got %.200v, want an error of its work", name, err)
		}
		if d := time.Since(start); d > time.Minute {
			t.Errorf("%s: took %v", name, d)
		}
	}
	c, err := Compile(doubling(10, "allOf", `{"type":"integer"}`))
	if err != nil {
		t.Fatal(err)
	}
	for range 300 { // the steps are those of one validation
		if err := c.Check(map[string]any{"a": 1}); err != nil {
			t.Fatal(err)
		}
	}
	var misfit *MisfitError
	if err := c.Check(map[string]any{"a": "x"}); !errors.As(err, &misfit) || !strings.Contains(err.Error(), "/a: got string, want integer") || !strings.Contains(err.Error(), "more") {
		t.Errorf("got %v", err)
	}
	if _, err := Compile(`{"type":"object","title":5}`); err == nil {
		t.Error("a title that is not a text was taken")
	}
	deep := strings.Repeat(`{"properties":{"a":`, 4000) + `{}` + strings.Repeat(`}}`, 4000)
	if _, err := Compile(deep); err != nil {
		t.Log(err) // an error will do
	}
}
