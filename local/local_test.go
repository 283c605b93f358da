package local_test

import (
	"testing"

	"go.uber.org/goleak"

	"matrix/local"
	"matrix/matrixtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQueue(t *testing.T) {
	for _, c := range []struct {
		name string
		o    local.Options
	}{
		{"durable", local.Options{}},
		{"durable, keeping nothing", local.Options{KeepBytes: 1}},
		{"memory", local.Options{Memory: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			matrixtest.Queue(t, !c.o.Memory, func(t testing.TB, dir string) matrixtest.Store {
				q, err := local.Open(dir, c.o)
				if err != nil {
					t.Fatal(err)
				}
				return q
			})
		})
	}
}
