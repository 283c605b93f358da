package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// Share is a part of a whole, from 0 to 1. It is written as 50%, or as none.
type Share float64

// UnmarshalText reads 50% or none.
func (s *Share) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*s = 0
		return nil
	}
	digits, ok := strings.CutSuffix(string(text), "%")
	x, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if !ok || err != nil || !(x > 0 && x <= 100) {
		return fmt.Errorf("got %q, want a share such as 50%%, of more than 0 and at most 100, or none", text)
	}
	*s = Share(x / 100)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (s Share) MarshalText() ([]byte, error) {
	if s == 0 {
		return []byte("none"), nil
	}
	return append(strconv.AppendFloat(nil, float64(s)*100, 'g', -1, 64), '%'), nil
}
