package spec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Budget is what a run may cost. Zero is no limit.
type Budget struct {
	USD      float64         `yaml:"usd" free:"true" doc:"US dollars; each model then needs a price. 0 for no limit." default:"0"`
	Tokens   Count           `yaml:"tokens" free:"true" doc:"Tokens of prompts and replies, as 500k or 20M. 0 for no limit." default:"0"`
	Wall     time.Duration   `yaml:"wall" free:"true" doc:"How long the run may work. 0s for no limit." default:"0s"`
	PerTask  Cost            `yaml:"per_task" doc:"What a single task may cost; one that has come to it ends as limits.then says."`
	PerModel map[string]Cost `yaml:"per_model" free:"true" doc:"What the calls of a model may cost, within the whole."`
}

// Cost is money and tokens. Zero is no limit.
type Cost struct {
	USD    float64 `yaml:"usd" doc:"US dollars. 0 for no limit." default:"0"`
	Tokens Count   `yaml:"tokens" doc:"Tokens of prompts and replies. 0 for no limit." default:"0"`
}

// Count is a large number, which may be written with k, M or G behind it.
type Count int64

// UnmarshalText reads 20000000, 2e7, 20M or 0.5G.
func (c *Count) UnmarshalText(text []byte) error {
	s := strings.ReplaceAll(string(text), "_", "")
	unit := 1.0
	for suffix, x := range map[string]float64{"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = n, x
		}
	}
	x, err := strconv.ParseFloat(s, 64)
	if x = math.Round(x * unit); err != nil || math.IsNaN(x) || math.Abs(x) > 1<<53 {
		return fmt.Errorf("got %q, want a number such as 20000, 500k or 20M", text)
	}
	*c = Count(x)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (c Count) MarshalText() ([]byte, error) {
	for _, u := range []struct {
		n      Count
		suffix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if c != 0 && c%u.n == 0 {
			return append(strconv.AppendInt(nil, int64(c/u.n), 10), u.suffix...), nil
		}
	}
	return strconv.AppendInt(nil, int64(c), 10), nil
}
