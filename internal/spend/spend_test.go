package spend

import (
	"math"
	"testing"

	"matrix/llm"
	"matrix/spec"
)

// TestAccountAddsUp: what a killed process may have spent is noted in parts of
// its own for the run and for each model, and adds up all the same.
func TestAccountAddsUp(t *testing.T) {
	usd := func(run, a, b float64) account {
		return account{Run: llm.Cost{USD: run, Tokens: int64(1000 * run)}, Models: map[string]llm.Cost{
			"a": {USD: a, Tokens: int64(1000 * a)}, "b": {USD: b, Tokens: int64(1000 * b)},
		}}
	}
	for _, tt := range []struct {
		name    string
		noted   account
		limited string
		want    account
	}{
		{"as it is", usd(3, 2, 1), "", usd(3, 2, 1)},
		{"a model's is more than the whole", usd(22.32, 25.09, 0), "", usd(22.32, 22.32, 0)},
		{"the whole is more than the models'", usd(24, 20, 2), "", usd(22, 20, 2)},
		{"both are more, of which 2 of each are known", usd(10, 6, 10), "", usd(10, 4, 6)},
		{"one has a budget", usd(10, 6, 10), "b", usd(10, 2, 10)}, // which is taken as spent, and a has no less than is known
	} {
		x := &Tracker{now: tt.noted}
		x.limits.PerModel = map[string]spec.Cost{}
		if tt.limited != "" {
			x.limits.PerModel[tt.limited] = spec.Cost{USD: 100, Tokens: 1e6}
		}
		known := map[string]llm.Cost{"a": {USD: 2, Tokens: 2000}, "b": {USD: 2, Tokens: 2000}}
		if tt.name == "as it is" || tt.noted.Models["b"].USD == 0 {
			known = nil
		}
		x.addUp(known)
		for name, c := range tt.want.Models {
			if got := x.now.Models[name]; math.Abs(got.USD-c.USD) > 1e-6 || max(got.Tokens-c.Tokens, c.Tokens-got.Tokens) > 1 {
				t.Errorf("%s: %s: got %+v, want %+v", tt.name, name, got, c)
			}
		}
		if math.Abs(x.now.Run.USD-tt.want.Run.USD) > 1e-6 {
			t.Errorf("%s: the whole: got %+v, want %+v", tt.name, x.now.Run, tt.want.Run)
		}
	}
}
