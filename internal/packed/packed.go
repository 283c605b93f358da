// Package packed is JSON, compressed, as processes of a cluster send it to each other: a
// snapshot with a thousand workers fits a frame.
package packed

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
)

// most is how many bytes of JSON are read.
const most = 64 << 20

// Write packs a value; nil where it is none that JSON has.
func Write(v any) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		return nil
	}
	_ = z.Close() // a Buffer takes all
	return b.Bytes()
}

// Read reads what was packed into v.
func Read(b []byte, v any) error {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(z, most)).Decode(v)
}
