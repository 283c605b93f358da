package sim

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engines makes the engines of c, which end with t.
func engines(t testing.TB, c Config) []*Engine {
	t.Helper()
	es, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(es[0].Close)
	return es
}

// within ends a test that hangs.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// about reports whether got is within a part of want.
func about(got, want, part float64) bool { return got >= want*(1-part) && got <= want*(1+part) }
