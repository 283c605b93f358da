package spec_test

import (
	"testing"

	"matrix/internal/config"
	"matrix/spec"
)

func TestCount(t *testing.T) {
	for text, want := range map[string]spec.Count{
		"0": 0, "20": 20, "20000000": 2e7, "2e7": 2e7, "20M": 2e7, "500k": 5e5, "0.5G": 5e8, "1_000": 1000, "-3k": -3000,
	} {
		var c spec.Count
		if err := c.UnmarshalText([]byte(text)); err != nil || c != want {
			t.Errorf("%s: got %d, %v; want %d", text, c, err, want)
		}
		b, _ := c.MarshalText()
		var again spec.Count
		if err := again.UnmarshalText(b); err != nil || again != c {
			t.Errorf("%s: written as %s, which is read as %d, %v", text, b, again, err)
		}
	}
	for _, text := range []string{"", "M", "20 apples", "NaN", "1e300", "12T"} {
		if err := new(spec.Count).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestBudgetIsDecoded(t *testing.T) {
	var c struct {
		Budget spec.Budget `yaml:"budget"`
	}
	tree, err := config.LoadText(c, "c", "budget: {usd: 50, tokens: 20M, wall: 6h, per_task: {usd: 0.05, tokens: 3000}, per_model: {a: {tokens: 1000k}}}", nil, nil)
	if err == nil {
		err = tree.Decode(&c)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := c.Budget
	if b.USD != 50 || b.Tokens != 2e7 || b.Wall.Hours() != 6 || b.PerTask != (spec.Cost{USD: 0.05, Tokens: 3000}) || b.PerModel["a"] != (spec.Cost{Tokens: 1e6}) {
		t.Errorf("got %+v", b)
	}
}

func TestBudgetMayChange(t *testing.T) {
	tree, err := config.LoadText(spec.Run{}, "c", "{}", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{
		"budget.usd": true, "budget.tokens": true, "budget.wall": true, "budget.per_model.a.usd": true, "budget.per_task.usd": false,
	} {
		if got := tree.Free(key); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
}
