package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A schema that a request brings along reads no file of this machine.
func TestSchemaReadsNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.json")
	if err := os.WriteFile(path, []byte(`{"type":"string"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newSchema([]byte(`{"type":"integer","not":{"$ref":"file://` + path + `"}}`)); err == nil {
		t.Errorf("a schema in %s was read", path)
	}
}

// A schema whose parts refer to each other over and over is refused soon.
func TestSchemaTakesBoundedWork(t *testing.T) {
	for name, form := range map[string]string{ // of each of 40 levels: the next one twice
		"object": `{"type":"object","properties":{"a":%[1]s,"b":%[1]s},"required":["a","b"]}`,
		"list":   `{"prefixItems":[%[1]s,%[1]s],"type":"array"}`,
		"allOf":  `{"allOf":[%[1]s,%[1]s]}`,
		"not":    `{"type":"string","not":{"anyOf":[%[1]s,%[1]s]}}`,
		"itself": `{"allOf":[{"$ref":"#/$defs/d40"},%[1]s]}`,
	} {
		var b strings.Builder
		for i := range 40 {
			fmt.Fprintf(&b, `"d%d":`+form+`,`, i, fmt.Sprintf(`{"$ref":"#/$defs/d%d"}`, i+1))
		}
		end := `{"type":"integer"}`
		if name == "itself" {
			end = `{"$ref":"#/$defs/d40"}`
		}
		start := time.Now()
		_, err := newSchema([]byte(`{"$ref":"#/$defs/d0","$defs":{` + b.String() + `"d40":` + end + `}}`))
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s: took %v", name, took)
		}
		if name != "allOf" && err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}
