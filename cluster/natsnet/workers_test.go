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
	matrixtest.Workers(t, open, func(t *testing.T) func(worker string) cluster.Net {
		head := serve(t, natsnet.ServerOptions{})
		taken := map[string]bool{"": true}
		return func(worker string) cluster.Net {
			if taken[worker] { // an id has one process: a second one of that name goes the head's way
				return struct{ cluster.Net }{head.Net()}
			}
			taken[worker] = true
			n, _ := dial(t, head.Join(), worker)
			return n
		}
	})
}
