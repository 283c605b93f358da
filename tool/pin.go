package tool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Pin is a hash of definitions: the same where a model is told the same.
func Pin(all []Definition) string {
	raw, err := json.Marshal(all)
	if err != nil {
		raw = []byte(err.Error()) // of parameters that are no JSON
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
