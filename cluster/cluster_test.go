package cluster_test

import (
	"testing"

	"go.uber.org/goleak"

	"matrix/local"
	"matrix/matrixtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWorkers(t *testing.T) {
	matrixtest.Workers(t, func(dir string) (matrixtest.Store, error) { return local.Open(dir, local.Options{}) }, nil)
}
