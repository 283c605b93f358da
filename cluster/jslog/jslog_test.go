package jslog_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"matrix/cluster/jslog"
	"matrix/local"
	"matrix/matrixtest"
)

// streamName makes a name of a stream of any name.
func streamName(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("/\\ .*>", r) {
			return '_'
		}
		return r
	}, name)
}

// opener opens logs over servers.
type opener struct {
	*servers
	replicas int
	patience time.Duration
}

// open opens a log for one more process, with a connection of its own.
func (o *opener) open(t testing.TB, name string, between func(nc *nats.Conn, m *nats.Msg) error) *jslog.Log {
	t.Helper()
	nc := o.connect(t, 0)
	var l *jslog.Log
	if between != nil {
		l = o.openOver(t, nc, name, between)
	} else {
		l = o.openOver(t, nc, name)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// openOver opens a log over a connection.
func (o *opener) openOver(t testing.TB, nc *nats.Conn, name string, between ...func(nc *nats.Conn, m *nats.Msg) error) *jslog.Log {
	t.Helper()
	publish := nc.PublishMsg
	for _, f := range between {
		publish = func(m *nats.Msg) error { return f(nc, m) }
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := jslog.OpenWith(ctx, nc, jslog.Options{Stream: streamName(name), Subject: "log." + streamName(name), Replicas: o.replicas}, o.patience, publish)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// faulty loses what a script says, of the groups alone or of the claims as well.
func faulty(claims bool, fault func(n int) matrixtest.LogFault) func(nc *nats.Conn, m *nats.Msg) error {
	if fault == nil {
		return nil
	}
	var requests atomic.Int64
	return func(nc *nats.Conn, m *nats.Msg) error {
		if len(m.Data) == 0 && !claims {
			return nc.PublishMsg(m)
		}
		switch fault(int(requests.Add(1) - 1)) {
		case matrixtest.RequestLost:
			return nil
		case matrixtest.AnswerLost:
			m.Reply += "x" // where nobody listens
		case matrixtest.Late:
			time.AfterFunc(3*time.Millisecond, func() { _ = nc.PublishMsg(m) })
			return nil
		}
		return nc.PublishMsg(m)
	}
}

func (o *opener) suite(t *testing.T) {
	matrixtest.Log(t, func(t testing.TB, name string, fault func(n int) matrixtest.LogFault) local.Log {
		return o.open(t, name, faulty(false, fault))
	})
}

func TestLog(t *testing.T) {
	t.Parallel()
	(&opener{start(t, 1, 64<<10), 1, quick}).suite(t)
}

func TestLogReplicated(t *testing.T) {
	t.Parallel()
	(&opener{startWith(t, 3, 64<<10, full()), 3, 15 * time.Millisecond}).suite(t)
}
