// Package cluster has the tasks of a run's shards acted on by workers in other
// processes. An Owner stands before the queue of a shard and hands out what waits
// to workers that have room; a Worker is what Consume takes from over there. What
// a task is, which agents there are and who leads a run it does not know.
package cluster

import "context"

// Net carries frames between processes of a run. A frame may be lost, come twice, late,
// or behind one that was sent after it; it comes whole and unchanged, or not at all.
type Net interface {
	// Send sends a frame to those who receive at an address. It does not wait for them,
	// and an error says no more than that this frame is lost. The frame may be
	// changed once it has returned.
	Send(address string, frame []byte) error

	// Receive calls f for each frame that is sent to an address from now on, one at a
	// time, until stop has returned. f may change the frame, and keep it.
	Receive(address string, f func(frame []byte)) (stop func(), err error)

	// MaxFrame is how many bytes a frame may have.
	MaxFrame() int
}

// Requester asks another process of a run. A Net may be one too.
type Requester interface {
	// Request asks who answers at an address, again and again until there is an
	// answer or ctx ends. Neither question nor answer may be larger than a frame.
	Request(ctx context.Context, address string, body []byte) ([]byte, error)

	// Answer has f answer what is asked at an address, one question at a time, until
	// stop has returned. A question may come twice.
	Answer(address string, f func(body []byte) []byte) (stop func(), err error)
}
