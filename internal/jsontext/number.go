package jsontext

import (
	"bytes"
	"math"
	"strconv"
)

// AppendFloat appends f, a float of 32 or 64 bits, as a JSON number that tells
// that it is one: 1.0, not 1, so that who reads it again finds a float too. What
// JSON has no number for (NaN, an infinity) is null.
func AppendFloat(b []byte, f float64, bits int) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(b, f, 'e', -1, bits)
	}
	start := len(b)
	if b = strconv.AppendFloat(b, f, 'f', -1, bits); bytes.IndexByte(b[start:], '.') < 0 {
		b = append(b, ".0"...)
	}
	return b
}
