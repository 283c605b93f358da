package jslog_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/cluster/jslog"
	"matrix/local"
	"matrix/matrixtest"
)

// shard is a queue over a log, which it closes.
type shard struct {
	*local.Queue
	log *jslog.Log
	nc  *nats.Conn
}

func (s shard) Close() error {
	err := errors.Join(s.Queue.Close(), s.log.Close())
	s.nc.Close()
	return err
}

// queue opens a queue over the log of its folder.
func (o *opener) queue(t testing.TB, dir string, q local.Options) (shard, error) {
	nc := o.connect(t, 0)
	l := o.openOver(t, nc, dir, nc.PublishMsg)
	q.Log = l
	queue, err := local.Open(dir, q)
	if err != nil {
		l.Close()
		nc.Close()
		return shard{}, err
	}
	return shard{queue, l, nc}, nil
}

// A queue over a stream keeps all promises of one over the disk, whatever the size of
// a message, and however often its log is swept.
func TestQueue(t *testing.T) {
	for _, c := range []struct {
		name    string
		servers int
		payload int32
		o       local.Options
	}{
		{"one server", 1, 1 << 20, local.Options{Memory: true}},
		{"one server, swept all the time, in pieces, on disk", 1, 8 << 10, local.Options{LogSlack: 1}},
		{"three servers", 3, 1 << 20, local.Options{Memory: true, LogSlack: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.servers > 1 && os.Getenv("MATRIX_CLUSTER") != "full" {
				t.Skip("MATRIX_CLUSTER=full runs it: some minutes")
			}
			o := &opener{start(t, c.servers, c.payload), c.servers, 200 * time.Millisecond}
			matrixtest.Queue(t, true, func(dir string) (matrixtest.Store, error) { return o.queue(t, dir, c.o) })
		})
	}
}
