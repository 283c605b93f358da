package natsnet_test

import (
	"testing"

	"matrix/cluster"
	"matrix/cluster/natsnet"
	"matrix/local"
	"matrix/matrixtest"
)

// The queue of a shard keeps its promises where its tasks are acted on over NATS.
func TestWorkers(t *testing.T) {
	open := func(dir string) (matrixtest.Store, error) { return local.Open(dir, local.Options{}) }
	matrixtest.Workers(t, open, func(t *testing.T) func() cluster.Net {
		head := serve(t, natsnet.ServerOptions{})
		return func() cluster.Net { return head.Net() }
	})
}
