package jsontext

import (
	"math"
	"strconv"
	"testing"
)

func TestAppendFloat(t *testing.T) {
	for _, c := range []struct {
		f    float64
		bits int
		want string
	}{
		{1, 64, "1.0"}, {-3, 64, "-3.0"}, {0, 64, "0.0"}, {math.Copysign(0, -1), 64, "-0.0"}, {2.5, 64, "2.5"}, {1e6, 64, "1000000.0"},
		{1 << 53, 64, "9007199254740992.0"}, {1e20, 64, "100000000000000000000.0"}, {1e21, 64, "1e+21"}, {1e-7, 64, "1e-07"}, {5e-324, 64, "5e-324"},
		{float64(float32(0.1)), 32, "0.1"}, {16777216, 32, "16777216.0"}, {float64(float32(1e6)), 32, "1000000.0"},
		{math.NaN(), 64, "null"}, {math.Inf(-1), 64, "null"},
	} {
		if got := string(AppendFloat(nil, c.f, c.bits)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.f, got, c.want)
		}
	}
}

// What is written is a float to who reads it, and the same one.
func FuzzAppendFloat(f *testing.F) {
	for _, x := range []float64{0, 1, -1e21, 1e-7, math.MaxFloat64, 0.1} {
		f.Add(math.Float64bits(x))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		x := math.Float64frombits(bits)
		text := string(AppendFloat([]byte("x"), x, 64))[1:]
		if text == "null" {
			return
		}
		r := New(text)
		_, whole := r.Number()
		got, err := strconv.ParseFloat(text, 64)
		if whole || r.End() != nil || err != nil || math.Float64bits(got) != bits {
			t.Errorf("%x: got %s (whole %v, %v), want the float %v", bits, text, whole, err, x)
		}
	})
}
