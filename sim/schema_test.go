package sim

import (
	"os"
	"path/filepath"
	"testing"
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
